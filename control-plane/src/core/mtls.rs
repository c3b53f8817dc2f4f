//! What the ports of a pod take from callers without the mesh's TLS: of all
//! that say something about a port (each Service that covers it, each policy
//! that selects the pod, the Namespace) the strictest. Where nobody says
//! anything it is Permissive.

use std::collections::{BTreeMap, BTreeSet};

use remora_proto::v1::{MtlsMode, PolicyReference};

use super::index::Index;
use super::objects::{Pod, Target, TrafficPolicy};
use super::ports::covered_ports;
use super::resolve::reference;
use super::settings::Mtls;

/// The modes of one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Modes {
    /// Of ports that are not in `by_port`.
    pub general: MtlsMode,
    /// Of the ports that somebody says something about.
    pub by_port: BTreeMap<u16, MtlsMode>,
    /// Whose doing it is.
    pub policies: Vec<PolicyReference>,
}

impl Modes {
    /// Nobody says anything.
    fn silent() -> Self {
        Self {
            general: MtlsMode::Permissive,
            by_port: BTreeMap::new(),
            policies: Vec::new(),
        }
    }

    /// Of one port.
    pub fn at(&self, port: u16) -> MtlsMode {
        self.by_port.get(&port).copied().unwrap_or(self.general)
    }

    /// The strictest of all ports.
    pub fn strictest(&self) -> MtlsMode {
        let all = self.by_port.values().copied();
        all.fold(self.general, stricter)
    }
}

/// The stricter of two.
pub fn stricter(one: MtlsMode, other: MtlsMode) -> MtlsMode {
    let strictness = |mode: MtlsMode| match mode {
        MtlsMode::Disabled => 0,
        MtlsMode::Permissive => 1,
        MtlsMode::Strict => 2,
    };
    if strictness(one) >= strictness(other) {
        one
    } else {
        other
    }
}

/// The modes of a pod's ports.
pub fn modes(index: &Index, pod: &Pod) -> Modes {
    let namespace = &pod.id.namespace;
    // In most namespaces nobody does.
    if !index.policies.say_mtls(namespace) {
        return Modes::silent();
    }
    let in_force = |target: Target| says(index.policies.in_force(namespace, target)?);
    // What is said of every port of the pod.
    let selecting = index.policies.selecting(pod).filter_map(says);
    let of_all: Vec<Said<'_>> = in_force(Target::Namespace)
        .into_iter()
        .chain(selecting)
        .collect();
    let mut policies = Vec::new();
    let mut by_service: Vec<(&Mtls, BTreeSet<u16>)> = Vec::new();
    for service in index.services_that_cover(pod) {
        if let Some((policy, said)) = in_force(Target::Service(service.id.name.clone())) {
            let covered = covered_ports(index, service, pod);
            by_service.push((said, covered.into_keys().collect()));
            add(&mut policies, policy);
        }
    }
    for (policy, _) in &of_all {
        add(&mut policies, policy);
    }
    let named = by_service
        .iter()
        .flat_map(|(said, covered)| said.ports.keys().chain(covered));
    let named = named.chain(of_all.iter().flat_map(|(_, said)| said.ports.keys()));
    let named: BTreeSet<u16> = named.copied().collect();
    let at = |port: u16| {
        // What a Service's policy says by number counts for its pods even where
        // the Service itself does not cover the port.
        let of_services = by_service.iter().filter_map(|(said, covered)| {
            let whole = said.mode.filter(|_| covered.contains(&port));
            said.ports.get(&port).copied().or(whole)
        });
        let of_all = of_all.iter().filter_map(|(_, said)| said.at(port));
        strictest(of_services.chain(of_all))
    };
    Modes {
        general: strictest(of_all.iter().filter_map(|(_, said)| said.mode)),
        by_port: named.into_iter().map(|port| (port, at(port))).collect(),
        policies,
    }
}

/// A policy with what it says.
type Said<'a> = (&'a TrafficPolicy, &'a Mtls);

fn says(policy: &TrafficPolicy) -> Option<Said<'_>> {
    Some((policy, policy.settings.mtls.as_ref()?))
}

/// Of all that is said; Permissive where nothing is.
fn strictest(modes: impl Iterator<Item = MtlsMode>) -> MtlsMode {
    modes.reduce(stricter).unwrap_or(MtlsMode::Permissive)
}

fn add(policies: &mut Vec<PolicyReference>, policy: &TrafficPolicy) {
    let reference = reference(&policy.id, policy.generation);
    if !policies.contains(&reference) {
        policies.push(reference);
    }
}
