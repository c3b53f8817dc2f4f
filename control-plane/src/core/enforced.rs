//! What a pod's own sidecar enforces and probes, port by port: the rate limits of
//! every Service that covers the port, or else of the Namespace.
//!
//! Each policy is within its bounds; what several have together on one pod may
//! not be. Then the oldest policies keep theirs, and of the others none is in
//! force on that pod: a part of a policy's limits would be a policy that nobody
//! wrote. [`mark`] says so in their conditions.

use std::collections::BTreeMap;

use prost::Message;
use remora_proto::bounds::{MAX_PORT_POLICIES, MAX_RATE_LIMITS, MAX_WORKLOAD_RATE_LIMIT_BYTES};
use remora_proto::v1;

use super::index::Index;
use super::objects::{Id, Name, Pod, Target};
use super::policies::{Condition, Reason};
use super::ports::covered_ports;
use super::resolve;
use super::settings::{Admission, HealthCheck};

/// What one sidecar enforces.
#[derive(Debug, Default)]
pub struct Enforced {
    /// Of each port that something is known of.
    pub by_port: BTreeMap<u16, Vec<v1::RateLimit>>,
    /// On every other port.
    pub elsewhere: Vec<v1::RateLimit>,
    /// Of each port what is taken at a time.
    pub admissions: BTreeMap<u16, Vec<v1::Admission>>,
    /// The same on every other port.
    pub admission_elsewhere: Option<v1::Admission>,
    /// Of each port how it is probed.
    pub health_checks: BTreeMap<u16, Vec<v1::HealthCheck>>,
    /// Whose limits these are.
    pub policies: Vec<v1::PolicyReference>,
    /// Whose limits are not in force here.
    pub left_out: Vec<LeftOut>,
}

/// Limits that are not in force on a pod, for want of room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The policy.
    pub policy: Id,
    /// Through which of its targets the limits would be in force.
    pub target: Target,
}

/// What one Service, or the Namespace (`None`), has a pod enforce.
struct Share {
    service: Option<Name>,
    ports: Vec<u16>,
    limits: Vec<v1::RateLimit>,
    admission: Option<v1::Admission>,
    health_check: Option<v1::HealthCheck>,
    /// Whose doing it is, most specific first.
    from: Vec<v1::PolicyReference>,
}

impl Share {
    fn new(index: &Index, namespace: &Name, service: Option<&Name>, ports: Vec<u16>) -> Self {
        let effective = resolve::effective(&index.policies, namespace, service);
        let settings = &effective.settings;
        let limits = resolve::target_rate_limits(settings);
        let limits_from = effective.rate_limits_from.filter(|_| !limits.is_empty());
        let is_service = service.is_some();
        let others = resolve::levels(&index.policies, namespace, service).filter(|policy| {
            let probes = is_service && policy.settings.health_check.is_some();
            policy.settings.admission.is_some() || probes
        });
        let mut from: Vec<v1::PolicyReference> = Vec::new();
        let others = others.map(|policy| resolve::reference(&policy.id, policy.generation));
        add(&mut from, limits_from.into_iter().chain(others));
        let probed = settings.health_check.as_ref().filter(|_| is_service);
        Self {
            service: service.cloned(),
            ports,
            limits,
            admission: settings.admission.as_ref().and_then(Admission::proto),
            health_check: probed.map(HealthCheck::proto),
            from,
        }
    }

    /// In bytes, with what each part costs beside its content at most.
    fn size(&self) -> usize {
        let limits = self.limits.iter().map(Message::encoded_len);
        let admission = self.admission.iter().map(Message::encoded_len);
        let checks = self.health_check.iter().map(Message::encoded_len);
        limits
            .chain(admission)
            .chain(checks)
            .map(|len| len + 8)
            .sum()
    }
}

/// What the sidecar of a pod enforces on these ports of it, and on all others.
pub fn enforced(index: &Index, pod: &Pod, known: impl Iterator<Item = u16>) -> Enforced {
    let namespace = &pod.id.namespace;
    let mut by_port: BTreeMap<u16, Vec<v1::RateLimit>> = BTreeMap::new();
    let mut shares = Vec::new();
    for service in index.services_that_cover(pod) {
        let covered = covered_ports(index, service, pod);
        let ports: Vec<u16> = covered.into_keys().collect();
        by_port.extend(ports.iter().map(|port| (*port, Vec::new())));
        shares.push(Share::new(index, namespace, Some(&service.id.name), ports));
    }
    let uncovered = known.filter(|port| !by_port.contains_key(port)).collect();
    shares.push(Share::new(index, namespace, None, uncovered));

    let fits = admitted(index, namespace, &shares);
    let mut result = Enforced::default();
    for (share, fits) in shares.into_iter().zip(fits) {
        if !fits {
            let left = share.from.iter();
            let left = left.map(|from| left_out(index, namespace, share.service.clone(), from));
            result.left_out.extend(left);
            continue;
        }
        for port in share.ports {
            let limits = share.limits.iter().cloned();
            add(by_port.entry(port).or_default(), limits);
            let admissions = result.admissions.entry(port).or_default();
            add(admissions, share.admission.clone());
            let checks = result.health_checks.entry(port).or_default();
            add(checks, share.health_check.clone());
        }
        if share.service.is_none() {
            result.elsewhere = share.limits;
            result.admission_elsewhere = share.admission;
        }
        add(&mut result.policies, share.from);
    }
    result.by_port = by_port;
    result
}

/// Two Services may both have what is the Namespace's: it counts once.
fn add<T: PartialEq>(parts: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for part in more {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
}

/// Of each share whether it has room.
fn admitted(index: &Index, namespace: &Name, shares: &[Share]) -> Vec<bool> {
    // The Namespace's limits stand once more, for all ports that are not known.
    let places = |share: &Share| share.ports.len() + usize::from(share.service.is_none());
    let bytes = |share: &Share| -> usize { share.size().saturating_mul(places(share)) };
    let count: usize = shares.iter().map(|share| share.limits.len()).sum();
    let total = shares.iter().map(bytes).fold(0, usize::saturating_add);
    let mut fits = vec![true; shares.len()];
    // As many as there would be on one port if no two were the same.
    let few = count <= MAX_RATE_LIMITS && shares.len() <= MAX_PORT_POLICIES;
    if few && total <= MAX_WORKLOAD_RATE_LIMIT_BYTES {
        return fits;
    }
    let age = |share: &Share| {
        let from = share.from.first()?;
        index.policies.age(&Id::new(namespace, &from.name))
    };
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_cached_key(|at| age(&shares[*at]));
    let mut held: BTreeMap<u16, Held<'_>> = BTreeMap::new();
    let mut room = MAX_WORKLOAD_RATE_LIMIT_BYTES;
    for at in order {
        let share = &shares[at];
        let with = |port: &u16| {
            let mut with = held.get(port).cloned().unwrap_or_default();
            with.add(share);
            (*port, with)
        };
        let with: Vec<_> = share.ports.iter().map(with).collect();
        let size = bytes(share);
        fits[at] = size <= room && with.iter().all(|(_, with)| with.has_room());
        if fits[at] {
            room -= size;
            held.extend(with);
        }
    }
    fits
}

/// What there is on one port, each once.
#[derive(Clone, Default)]
struct Held<'a> {
    limits: Vec<&'a v1::RateLimit>,
    admissions: Vec<&'a v1::Admission>,
    health_checks: Vec<&'a v1::HealthCheck>,
}

impl<'a> Held<'a> {
    fn add(&mut self, share: &'a Share) {
        add(&mut self.limits, &share.limits);
        add(&mut self.admissions, &share.admission);
        add(&mut self.health_checks, &share.health_check);
    }

    fn has_room(&self) -> bool {
        let policies = self.admissions.len().max(self.health_checks.len());
        self.limits.len() <= MAX_RATE_LIMITS && policies <= MAX_PORT_POLICIES
    }
}

fn left_out(
    index: &Index,
    namespace: &Name,
    service: Option<Name>,
    from: &v1::PolicyReference,
) -> LeftOut {
    let own = service.map(Target::Service).filter(|target| {
        let policy = index.policies.in_force(namespace, target.clone());
        policy.is_some_and(|policy| *policy.id.name == *from.name)
    });
    LeftOut {
        policy: Id::new(namespace, &from.name),
        target: own.unwrap_or(Target::Namespace),
    }
}

/// Says of the policies whose limits are left out on some pod that they are.
pub fn mark(left_out: &BTreeMap<Id, Vec<LeftOut>>, conditions: &mut [Condition]) {
    for (pod, left_out) in left_out {
        for LeftOut { policy, target } in left_out {
            let concerned = conditions.iter_mut().find(|condition| {
                condition.accepted && condition.policy == *policy && condition.target == *target
            });
            if let Some(condition) = concerned {
                condition.accepted = false;
                condition.reason = Reason::Invalid;
                condition.message = format!(
                    "rateLimits, admission and healthCheck are not in force on Pod {pod}, and \
                     maybe on others: with those of the older policies of the Services that cover \
                     it they are more than {MAX_RATE_LIMITS} limits or {MAX_PORT_POLICIES} \
                     policies on one port, or than {MAX_WORKLOAD_RATE_LIMIT_BYTES} bytes on all; \
                     take some out. The rest of the policy is in force"
                );
            }
        }
    }
}
