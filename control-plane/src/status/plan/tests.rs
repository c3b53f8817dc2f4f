use super::*;
use crate::policy::check::FieldError;

const THEN: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-01-02T00:00:00Z";

fn seen(generation: i64) -> PolicySeen {
    PolicySeen {
        kind: crate::core::objects::Kind::TrafficPolicy,
        id: Id::new("shop", "catalog"),
        uid: "u".into(),
        generation,
        given: Some(generation),
        invalid: None,
        targets: vec![Target::Service("catalog".into()), Target::Namespace],
        status: 0,
    }
}

fn condition(generation: i64, target: Target, reason: Reason) -> Condition {
    Condition {
        policy: Id::new("shop", "catalog"),
        generation,
        target,
        target_index: 0,
        accepted: reason == Reason::Accepted,
        reason,
        message: format!("{reason:?} there"),
        references: None,
        effective: Vec::new(),
    }
}

fn both(generation: i64, first: Reason, second: Reason) -> Vec<Condition> {
    vec![
        condition(generation, Target::Service("catalog".into()), first),
        condition(generation, Target::Namespace, second),
    ]
}

fn status(
    conditions: &[Condition],
    present: Option<&TrafficPolicyStatus>,
    now: &str,
) -> TrafficPolicyStatus {
    let generation = conditions[0].generation;
    desired(&seen(generation), conditions, Counts::NotYet, present, now).unwrap()
}

#[test]
fn every_target_is_an_ancestor_and_the_summary_is_the_worst_of_them() {
    use Reason::{Accepted, Conflicted, TargetNotFound};
    let status = status(&both(3, Accepted, Conflicted), None, NOW);
    assert_eq!(status.observed_generation, Some(3));
    let [service, namespace] = &status.ancestors[..] else {
        panic!("{status:?}");
    };
    assert_eq!(service.ancestor_ref.namespace.as_deref(), Some("shop"));
    assert_eq!(service.controller_name, "remora.io/control-plane");
    assert_eq!(service.conditions[0].status, "True");
    let namespace_ref = &namespace.ancestor_ref;
    assert_eq!(
        (namespace_ref.kind.as_str(), namespace_ref.name.as_str()),
        ("Namespace", "shop")
    );
    let summary = reason(&status).unwrap();
    assert_eq!(
        (summary.status.as_str(), summary.reason.as_str()),
        ("False", "Conflicted")
    );
    assert!(
        summary.message.starts_with("in force on 1 of 2 targets"),
        "{}",
        summary.message
    );
    for (first, second, worst) in [
        (Accepted, Accepted, "Accepted"),
        (TargetNotFound, Accepted, "TargetNotFound"),
        (TargetNotFound, Conflicted, "Conflicted"),
    ] {
        let status = super::tests::status(&both(1, first, second), None, NOW);
        assert_eq!(reason(&status).unwrap().reason, worst);
    }
}

#[test]
fn the_time_of_a_transition_stays_until_the_status_word_changes() {
    use Reason::{Accepted, Conflicted, TargetNotFound};
    let first = status(&both(1, Conflicted, Accepted), None, THEN);
    let other_reason = status(&both(2, TargetNotFound, Accepted), Some(&first), NOW);
    assert_eq!(reason(&other_reason).unwrap().last_transition_time, THEN);
    let accepted = status(&both(2, Accepted, Accepted), Some(&other_reason), NOW);
    assert_eq!(reason(&accepted).unwrap().last_transition_time, NOW);
    let [service, namespace] = &accepted.ancestors[..] else {
        panic!("{accepted:?}");
    };
    assert_eq!(service.conditions[0].last_transition_time, NOW);
    assert_eq!(namespace.conditions[0].last_transition_time, THEN);
}

#[test]
fn the_same_again_is_equal_so_that_nothing_is_written() {
    let conditions = both(1, Reason::Accepted, Reason::Conflicted);
    let tally = Tally {
        total: 3,
        applied: 2,
        refused: 1,
        open: 1,
        ..Tally::default()
    };
    let first = desired(&seen(1), &conditions, Counts::Known(&tally), None, THEN).unwrap();
    let again = desired(
        &seen(1),
        &conditions,
        Counts::Known(&tally),
        Some(&first),
        NOW,
    );
    assert_eq!(again.as_ref(), Some(&first));
    // As the API server gives it back.
    let json = serde_json::to_string(&first).unwrap();
    let read: TrafficPolicyStatus = serde_json::from_str(&json).unwrap();
    assert_eq!(read, first);
}

#[test]
fn until_sidecars_have_reported_the_counts_that_are_there_stay() {
    let conditions = both(1, Reason::Accepted, Reason::Accepted);
    let tally = Tally {
        total: 7,
        ..Tally::default()
    };
    let known = desired(&seen(1), &conditions, Counts::Known(&tally), None, NOW).unwrap();
    let kept = desired(&seen(1), &conditions, Counts::NotYet, Some(&known), NOW).unwrap();
    assert_eq!(kept.sidecars.map(|counts| counts.total), Some(7));
    let none = Tally::default();
    let gone = desired(
        &seen(1),
        &conditions,
        Counts::Known(&none),
        Some(&known),
        NOW,
    )
    .unwrap();
    assert_eq!(gone.sidecars.map(|counts| counts.total), Some(0));
}

#[test]
fn nothing_is_said_of_a_generation_that_the_core_has_not_judged() {
    let conditions = both(1, Reason::Accepted, Reason::Accepted);
    assert_eq!(
        desired(&seen(2), &conditions, Counts::NotYet, None, NOW),
        None
    );
}

#[test]
fn an_invalid_one_says_what_is_wrong_and_what_stays_in_force() {
    let faults: Vec<FieldError> = (0..500)
        .map(|number| FieldError {
            field: format!("spec.rateLimits[{number}].name"),
            message: "is there twice".to_owned(),
        })
        .collect();
    let seen = PolicySeen {
        generation: 5,
        given: Some(4),
        invalid: Some(faults[..1].to_vec()),
        ..seen(5)
    };
    // The core still judges the last good one.
    let conditions = both(4, Reason::Accepted, Reason::Accepted);
    let status = desired(&seen, &conditions, Counts::NotYet, None, NOW).unwrap();
    let summary = reason(&status).unwrap();
    assert_eq!(
        (summary.status.as_str(), summary.reason.as_str()),
        ("False", "Invalid")
    );
    assert_eq!(
        summary.message,
        "spec.rateLimits[0].name: is there twice (generation 4 stays in force)"
    );
    assert!(
        status
            .ancestors
            .iter()
            .all(|one| one.conditions[0].reason == "Invalid")
    );
    let seen = PolicySeen {
        invalid: Some(faults),
        ..seen
    };
    let status = desired(&seen, &[], Counts::NotYet, None, NOW).unwrap();
    assert!(reason(&status).unwrap().message.len() <= MAX_MESSAGE_BYTES + 4);
}
