//! What the status of one policy should be. Pure: from what the core decided,
//! what the source read, and what the sidecars tell.

use remora_proto::well_known;

use crate::core::objects::{Id, Kind, Target};
use crate::core::policies::{Condition, Reason, References};
use crate::gateway::GROUP;
use crate::policy::status::{
    AncestorRef, BreakerCounts, EffectiveField, PolicyAncestorStatus, SidecarCounts,
    StatusCondition, TrafficPolicyStatus,
};
use crate::reports::tally::Tally;
use crate::source::kubernetes::PolicySeen;
use crate::text::cut;

/// Targets that a status names (GEP-713).
const MAX_ANCESTORS: usize = 16;
/// Bytes of a condition's message.
const MAX_MESSAGE_BYTES: usize = 2_048;
/// Whether it is in force.
pub(super) const ACCEPTED: &str = "Accepted";
/// Whether what it names can be taken, as Gateway API's policies of backends say it.
const RESOLVED_REFS: &str = "ResolvedRefs";

/// What the sidecars tell of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts<'a> {
    /// Not enough of them have reported to this replica yet: what stands in the
    /// status is left there.
    NotYet,
    /// This.
    Known(&'a Tally),
}

/// What became of one target.
struct Verdict<'a> {
    target: &'a Target,
    reason: Reason,
    message: String,
    references: Option<&'a References>,
    effective: &'a [EffectiveField],
}

/// The status that a policy should have. `conditions` are the core's for this
/// policy, `present` is the status that it has, `now` the present time in
/// RFC 3339. `None` where the core has not judged this generation yet.
pub fn desired(
    seen: &PolicySeen,
    conditions: &[Condition],
    counts: Counts<'_>,
    present: Option<&TrafficPolicyStatus>,
    now: &str,
) -> Option<TrafficPolicyStatus> {
    let verdicts = match &seen.invalid {
        Some(_) => seen.targets.iter().map(|t| invalid(seen, t)).collect(),
        None => judged(seen, conditions)?,
    };
    let (reason, message) = match &seen.invalid {
        Some(_) => (Reason::Invalid, invalid_message(seen)),
        None => summary(&verdicts),
    };
    let references = verdicts.iter().find_map(|verdict| verdict.references);
    let condition = |reason, message, before: &[StatusCondition]| {
        let accepted = accepted(seen.generation, reason, message, before, now);
        let references = references.map(|found| resolved(seen.generation, found, before, now));
        std::iter::once(accepted).chain(references).collect()
    };
    let ancestors = verdicts.iter().take(MAX_ANCESTORS).map(|verdict| {
        let ancestor_ref = reference(&seen.id, verdict.target);
        let before = present
            .into_iter()
            .flat_map(|status| &status.ancestors)
            .find(|before| before.ancestor_ref == ancestor_ref);
        let before = before.map_or(&[][..], |before| &before.conditions);
        PolicyAncestorStatus {
            ancestor_ref,
            controller_name: well_known::CONTROLLER_NAME.to_owned(),
            conditions: condition(verdict.reason, verdict.message.clone(), before),
            effective: verdict.effective.to_vec(),
        }
    });
    let (sidecars, breakers) = match counts {
        Counts::Known(tally) => {
            // Who may call breaks nothing off.
            let breakers = (seen.kind == Kind::TrafficPolicy).then(|| breakers(tally));
            (Some(sidecars(tally)), breakers)
        }
        Counts::NotYet => (
            present.and_then(|status| status.sidecars),
            present.and_then(|status| status.breakers),
        ),
    };
    Some(TrafficPolicyStatus {
        observed_generation: Some(seen.generation),
        ancestors: ancestors.collect(),
        conditions: condition(
            reason,
            message,
            present.map_or(&[][..], |status| &status.conditions),
        ),
        sidecars,
        breakers,
    })
}

/// The core's verdicts on this very generation.
fn judged<'a>(seen: &PolicySeen, conditions: &'a [Condition]) -> Option<Vec<Verdict<'a>>> {
    let current = |condition: &&Condition| condition.generation == seen.generation;
    let verdicts: Vec<Verdict<'a>> = conditions
        .iter()
        .filter(current)
        .map(|condition| Verdict {
            target: &condition.target,
            reason: condition.reason,
            message: condition.message.clone(),
            references: condition.references.as_ref(),
            effective: &condition.effective,
        })
        .collect();
    (!verdicts.is_empty()).then_some(verdicts)
}

fn invalid<'a>(seen: &PolicySeen, target: &'a Target) -> Verdict<'a> {
    Verdict {
        target,
        reason: Reason::Invalid,
        message: invalid_message(seen),
        references: None,
        effective: &[],
    }
}

fn invalid_message(seen: &PolicySeen) -> String {
    let faults = seen.invalid.iter().flatten().map(ToString::to_string);
    let faults: Vec<String> = faults.collect();
    let kept = match seen.given {
        Some(good) if good != seen.generation => {
            format!(" (generation {good} stays in force)")
        }
        _ => String::new(),
    };
    format!("{}{kept}", faults.join("; "))
}

/// Over all targets: the worst of the reasons, with its message.
fn summary(verdicts: &[Verdict<'_>]) -> (Reason, String) {
    let rank = |reason: Reason| match reason {
        Reason::Invalid => 0,
        Reason::Conflicted => 1,
        Reason::TargetNotFound => 2,
        Reason::Accepted => 3,
    };
    let accepted = verdicts.iter().filter(|one| one.reason == Reason::Accepted);
    let (accepted, all) = (accepted.count(), verdicts.len());
    let worst = verdicts.iter().min_by_key(|one| rank(one.reason));
    match worst {
        Some(worst) if worst.reason != Reason::Accepted && all > 1 => {
            let message = format!("in force on {accepted} of {all} targets: {}", worst.message);
            (worst.reason, message)
        }
        Some(only) if all == 1 => (only.reason, only.message.clone()),
        _ => (Reason::Accepted, format!("in force on all {all} targets")),
    }
}

fn accepted(
    generation: i64,
    reason: Reason,
    message: String,
    before: &[StatusCondition],
    now: &str,
) -> StatusCondition {
    let is_true = reason == Reason::Accepted;
    let said = (ACCEPTED, is_true, reason.as_str(), message);
    condition(generation, said, before, now)
}

fn resolved(
    generation: i64,
    found: &References,
    before: &[StatusCondition],
    now: &str,
) -> StatusCondition {
    let message = found.message.clone();
    let said = (RESOLVED_REFS, found.are_resolved, found.reason, message);
    condition(generation, said, before, now)
}

/// The time of the last change stays as long as the status word does.
fn condition(
    generation: i64,
    (kind, is_true, reason, mut message): (&str, bool, &str, String),
    before: &[StatusCondition],
    now: &str,
) -> StatusCondition {
    let status = if is_true { "True" } else { "False" };
    let since = before
        .iter()
        .find(|before| before.r#type == kind && before.status == status)
        .map(|before| before.last_transition_time.clone());
    shorten(&mut message);
    StatusCondition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since.unwrap_or_else(|| now.to_owned()),
        observed_generation: Some(generation),
    }
}

fn shorten(message: &mut String) {
    if message.len() > MAX_MESSAGE_BYTES {
        cut(message, MAX_MESSAGE_BYTES);
        message.push('…');
    }
}

fn reference(policy: &Id, target: &Target) -> AncestorRef {
    let (kind, namespace, name) = match target {
        Target::Service(name) => ("Service", Some(policy.namespace.to_string()), name),
        Target::Namespace => ("Namespace", None, &policy.namespace),
        Target::Route { kind, name, .. } => {
            let namespace = Some(policy.namespace.to_string());
            (kind.as_str(), namespace, name)
        }
    };
    let (group, section_name) = match target {
        Target::Route { rule, .. } => (GROUP, rule.as_ref().map(ToString::to_string)),
        // A Service and a Namespace have no parts.
        Target::Service(_) | Target::Namespace => ("", None),
    };
    AncestorRef {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace,
        name: name.to_string(),
        section_name,
    }
}

fn sidecars(tally: &Tally) -> SidecarCounts {
    SidecarCounts {
        total: tally.total,
        applied: tally.applied,
        refused: tally.refused,
    }
}

fn breakers(tally: &Tally) -> BreakerCounts {
    BreakerCounts {
        open: tally.open,
        half_open: tally.half_open,
    }
}

/// The reason in a status's summary; none where it has none.
pub fn reason(status: &TrafficPolicyStatus) -> Option<&StatusCondition> {
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.r#type == ACCEPTED)
}

#[cfg(test)]
mod tests;
