//! What a report says. Pure: what was acknowledged is not told again, what
//! was not is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use remora_proto::v1::{
    AppliedResource, Health, MeshUsage, PortHealth, PortUsage, RefusedResource, ServiceUsage,
    SidecarIdentity, SidecarReport,
};

use super::ReportSource;
use crate::clock::Timestamp;
use crate::policy::rate_limit::shares::Usage;
use crate::state::controller::Identity;
use crate::state::ledger::{Changes, Ledger};

/// Resources in one report; more go into the next one.
pub const MAX_RESOURCES: usize = 2000;
/// Changes of breakers in one report; more go into the next one.
pub const MAX_BREAKER_CHANGES: usize = 256;
/// Services with usage in one report; more go into the next one.
pub const MAX_USAGE: usize = 2000;

/// The ledger no longer knows all that changed: a new stream tells everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MustBeginAnew;

/// How far the control plane has been told.
#[derive(Clone, Debug, Default)]
struct Told {
    ledger: u64,
    breakers: u64,
    usage: HashMap<String, ServiceUsage>,
    health: BTreeMap<u32, PortHealth>,
    ports: HashMap<u32, PortUsage>,
    mesh: HashMap<LimitName, (Usage, Timestamp)>,
}

/// `namespace/policy` and the limit's name.
type LimitName = (Arc<str>, Arc<str>);

/// What limits of the mesh want of the next report, the least urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MeshNews {
    /// Nothing.
    None,
    /// There is demand.
    Demand,
    /// A limit has not been told of on this stream, or has another share.
    Share,
}

/// Makes the reports of one stream after another.
#[derive(Debug)]
pub(super) struct Composer {
    identity: Identity,
    sequence: u64,
    stream_start: u64,
    told: Told,
    under_way: Option<(u64, Told)>,
}

impl Composer {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            identity,
            sequence: 0,
            stream_start: 0,
            told: Told::default(),
            under_way: None,
        }
    }

    /// A new stream: all resources are told again, and what breakers did as far
    /// as their journal goes back, for its other end may know none that is
    /// open. Usage goes on where it was acknowledged: it is counted up there.
    pub(super) fn begin(&mut self, ledger: &Ledger) {
        self.sequence = 0;
        self.stream_start = ledger.sequence();
        self.told.ledger = 0;
        self.told.breakers = 0;
        self.told.health.clear();
        // Their totals go on; that they are told at once is by the share that is none.
        for (told, _) in self.told.mesh.values_mut() {
            told.grant = u64::MAX;
        }
        self.under_way = None;
    }

    /// Whether a report waits for its acknowledgement.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether something should be told before the longest interval is over.
    /// Usage alone waits.
    pub(super) fn has_news(&self, ledger_sequence: u64, source: &dyn ReportSource) -> bool {
        ledger_sequence > self.told.ledger
            || !source.breaker_changes_since(self.told.breakers).is_empty()
            || !health_since(&self.told.health, &source.health()).is_empty()
    }

    /// How urgent limits of the mesh are.
    pub(super) fn mesh_news(&self, limits: &[Usage]) -> MeshNews {
        // No more are told of.
        let news = limits.iter().take(MAX_USAGE).map(|usage| {
            let name = (Arc::clone(&usage.policy), Arc::clone(&usage.name));
            match self.told.mesh.get(&name) {
                Some((told, _)) if (told.share, told.grant) != (usage.share, usage.grant) => {
                    MeshNews::Share
                }
                Some((told, _)) if told.asked != usage.asked => MeshNews::Demand,
                Some(_) => MeshNews::None,
                None => MeshNews::Share,
            }
        });
        news.max().unwrap_or(MeshNews::None)
    }

    /// The next report.
    pub(super) fn compose(
        &mut self,
        ledger: &Ledger,
        source: &dyn ReportSource,
        now: Timestamp,
    ) -> Result<SidecarReport, MustBeginAnew> {
        let changes = ledger
            .changes_since(self.told.ledger, self.stream_start, MAX_RESOURCES)
            .ok_or(MustBeginAnew)?;
        let mut told = Told {
            ledger: changes.sequence,
            ..self.told.clone()
        };
        let mut breaker_changes = source.breaker_changes_since(self.told.breakers);
        breaker_changes.truncate(MAX_BREAKER_CHANGES);
        if let Some(last) = breaker_changes.last() {
            told.breakers = last.sequence;
        }
        let usage = usage_since(&mut told.usage, source.usage());
        let health = source.health();
        let changed_health = health_since(&told.health, &health);
        told.health = health.into_iter().map(|one| (one.port, one)).collect();
        let ports = ports_since(&mut told.ports, source.ports());
        let mesh_limits = mesh_since(&mut told.mesh, source.shares().usage(), now);
        self.sequence += 1;
        self.under_way = Some((self.sequence, told));
        let first = self.sequence == 1;
        Ok(SidecarReport {
            sequence: self.sequence,
            sidecar: first.then(|| SidecarIdentity {
                namespace: self.identity.namespace.clone(),
                pod: self.identity.pod.clone(),
                pod_uid: self.identity.pod_uid.clone(),
                version: self.identity.version.clone(),
            }),
            breaker_changes: breaker_changes
                .into_iter()
                .map(|numbered| numbered.change)
                .collect(),
            usage,
            health: changed_health,
            mesh_limits,
            ports,
            ..resources(changes)
        })
    }

    /// The control plane has a report, and so all before it.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        if let Some((_, told)) = self
            .under_way
            .take_if(|(under_way, _)| *under_way <= sequence)
        {
            self.told = told;
        }
    }
}

fn resources(changes: Changes) -> SidecarReport {
    let applied = changes.applied.into_iter().map(|applied| AppliedResource {
        type_url: applied.kind.type_url().to_owned(),
        name: applied.name,
        version: applied.version,
    });
    let dropped = changes
        .dropped
        .into_iter()
        .map(|(kind, name)| AppliedResource {
            type_url: kind.type_url().to_owned(),
            name,
            version: String::new(),
        });
    let refused = changes.refused.into_iter().map(|refused| RefusedResource {
        type_url: refused.kind.type_url().to_owned(),
        name: refused.name,
        version: refused.version,
        reason: refused.reason,
    });
    SidecarReport {
        applied: applied.collect(),
        dropped: dropped.collect(),
        refused: refused.collect(),
        ..SidecarReport::default()
    }
}

/// What was used since `told`, which becomes what has been told then.
fn usage_since(
    told: &mut HashMap<String, ServiceUsage>,
    totals: Vec<ServiceUsage>,
) -> Vec<ServiceUsage> {
    let mut previous = std::mem::take(told);
    let mut usage = Vec::new();
    for total in totals {
        let before = previous.remove(&total.service);
        let since = difference(&total, before.as_ref());
        let used = since.requests
            + since.failures
            + since.retries
            + since.rate_limited
            + since.hedges
            + since.fallbacks
            + since.faults
            + since.budget_exhausted
            + since.overloaded
            > 0;
        if !used || usage.len() < MAX_USAGE {
            told.insert(total.service.clone(), total);
        } else if let Some(before) = before {
            told.insert(before.service.clone(), before);
        }
        if used && usage.len() < MAX_USAGE {
            usage.push(since);
        }
    }
    usage
}

/// Totals that fell began anew: the service was dropped and came back.
fn difference(total: &ServiceUsage, before: Option<&ServiceUsage>) -> ServiceUsage {
    let since = |total: u64, before: Option<u64>| match before {
        Some(before) if before <= total => total - before,
        _ => total,
    };
    ServiceUsage {
        service: total.service.clone(),
        requests: since(total.requests, before.map(|before| before.requests)),
        failures: since(total.failures, before.map(|before| before.failures)),
        retries: since(total.retries, before.map(|before| before.retries)),
        rate_limited: since(total.rate_limited, before.map(|before| before.rate_limited)),
        hedges: since(total.hedges, before.map(|before| before.hedges)),
        fallbacks: since(total.fallbacks, before.map(|before| before.fallbacks)),
        faults: since(total.faults, before.map(|before| before.faults)),
        budget_exhausted: since(
            total.budget_exhausted,
            before.map(|before| before.budget_exhausted),
        ),
        overloaded: since(total.overloaded, before.map(|before| before.overloaded)),
    }
}

/// Verdicts that are others than those `told`; of a port that is not probed any
/// more that nothing is known. Words alone are no news.
fn health_since(told: &BTreeMap<u32, PortHealth>, now: &[PortHealth]) -> Vec<PortHealth> {
    let known = |one: &PortHealth| told.get(&one.port);
    let changed = now
        .iter()
        .filter(|one| known(one).is_none_or(|told| told.health != one.health))
        .cloned();
    let gone = told
        .values()
        .filter(|told| now.iter().all(|one| one.port != told.port))
        .map(|told| PortHealth {
            port: told.port,
            health: Health::Unknown.into(),
            detail: String::new(),
        });
    changed.chain(gone).collect()
}

/// Of the ports that were called since `told`, which becomes what has been told.
fn ports_since(told: &mut HashMap<u32, PortUsage>, totals: Vec<PortUsage>) -> Vec<PortUsage> {
    let mut usage = Vec::new();
    for total in totals {
        let before = told.insert(total.port, total).unwrap_or_default();
        let since = PortUsage {
            port: total.port,
            requests: total.requests.saturating_sub(before.requests),
            rate_limited: total.rate_limited.saturating_sub(before.rate_limited),
            shed_critical: total.shed_critical.saturating_sub(before.shed_critical),
            shed_default: total.shed_default.saturating_sub(before.shed_default),
            shed_sheddable: total.shed_sheddable.saturating_sub(before.shed_sheddable),
        };
        let unused = PortUsage {
            port: total.port,
            ..PortUsage::default()
        };
        if since != unused {
            usage.push(since);
        }
    }
    usage
}

/// Of every limit of the mesh, what was asked of it since `told`.
fn mesh_since(
    told: &mut HashMap<LimitName, (Usage, Timestamp)>,
    limits: Vec<Usage>,
    now: Timestamp,
) -> Vec<MeshUsage> {
    let before = std::mem::take(told);
    let mut all = Vec::new();
    for usage in limits.into_iter().take(MAX_USAGE) {
        let name = (Arc::clone(&usage.policy), Arc::clone(&usage.name));
        let (asked, admitted, over) = match before.get(&name) {
            Some((held, at)) => (held.asked, held.admitted, now.since(*at)),
            None => (0, 0, Duration::ZERO),
        };
        all.push(MeshUsage {
            policy: usage.policy.to_string(),
            name: usage.name.to_string(),
            parts_per_million: usage.share.parts_per_million,
            burst: usage.share.burst,
            grant: usage.grant,
            asked: usage.asked.saturating_sub(asked),
            admitted: usage.admitted.saturating_sub(admitted),
            over_ms: u64::try_from(over.as_millis()).unwrap_or(u64::MAX),
        });
        told.insert(name, (usage, now));
    }
    all
}
