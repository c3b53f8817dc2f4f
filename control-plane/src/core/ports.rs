//! The ports of a pod: what is spoken there, and what its sidecar takes there
//! from other sidecars.

use std::collections::{BTreeMap, HashMap};

use remora_proto::ports::PortRange;
use remora_proto::spiffe::SpiffeId;
use remora_proto::v1;
use remora_proto::well_known::mesh;

use super::index::{Index, Seat};
use super::objects::{Name, Pod, PortReference, Service, in_ranges};

/// Ranges of opaque ports up to this length name ports of a pod.
const MAX_NAMED_RANGE: u16 = 256;

/// A pod's ports that some Service covers or an annotation names, with what is
/// known of the protocol: what says opaque wins, what disagrees is detected.
pub fn pod_ports(index: &Index, pod: &Pod) -> BTreeMap<u16, v1::Protocol> {
    let mut ports = BTreeMap::new();
    for service in index.services_that_cover(pod) {
        for (number, protocol) in covered_ports(index, service, pod) {
            ports
                .entry(number)
                .and_modify(|known| *known = agree(*known, protocol))
                .or_insert(protocol);
        }
    }
    for (_, number) in &pod.ports {
        ports.entry(*number).or_insert(v1::Protocol::Detect);
    }
    for range in &pod.opaque_ports {
        // A long range names no ports, it only marks those that are known.
        if range.last() - range.first() < MAX_NAMED_RANGE {
            for number in range.first()..=range.last() {
                ports.entry(number).or_insert(v1::Protocol::Tcp);
            }
        }
    }
    for (number, protocol) in &mut ports {
        if in_ranges(&pod.opaque_ports, *number) {
            *protocol = v1::Protocol::Tcp;
        }
    }
    ports
}

fn agree(one: v1::Protocol, other: v1::Protocol) -> v1::Protocol {
    match (one, other) {
        (one, other) if one == other => one,
        (v1::Protocol::Tcp, _) | (_, v1::Protocol::Tcp) => v1::Protocol::Tcp,
        _ => v1::Protocol::Detect,
    }
}

/// The pod's ports that one Service covers, as its slices say and as its
/// selector does, with what it says of their protocol.
///
/// Services of many ports are somebody's right: this is asked for each of their
/// pods, and costs what the ports are, not their square.
pub fn covered_ports(index: &Index, service: &Service, pod: &Pod) -> BTreeMap<u16, v1::Protocol> {
    let mut covered = BTreeMap::new();
    let mut cover = |number, protocol| {
        covered
            .entry(number)
            .and_modify(|known| *known = agree(*known, protocol))
            .or_insert(protocol);
    };
    let entries = index.entries(&service.id, &Seat::Pod(pod.id.name.clone()));
    let mut listed: HashMap<&str, Vec<u16>> = HashMap::new();
    for (name, number) in entries.iter().flat_map(|(slice, _)| &slice.ports) {
        listed.entry(name).or_default().push(*number);
    }
    let named = by_name(&pod.ports);
    let is_selected = selects(service, pod);
    for port in &service.ports {
        for number in listed.get(&*port.name).into_iter().flatten() {
            cover(*number, port.protocol);
        }
        let number = match &port.target {
            PortReference::Number(number) => Some(*number),
            PortReference::Name(name) => named.get(&**name).copied(),
        };
        if let Some(number) = number.filter(|_| is_selected) {
            cover(number, port.protocol);
        }
    }
    covered
}

/// The SPIFFE id that the pod's sidecar proves; empty where it has none.
pub fn identity(pod: &Pod) -> String {
    let trust_domain = pod.trust_domain.as_ref().filter(|_| pod.sidecar);
    let id = trust_domain.and_then(|trust_domain| {
        SpiffeId::new(trust_domain, &pod.id.namespace, &pod.service_account).ok()
    });
    id.map(|id| id.to_string()).unwrap_or_default()
}

/// The id that it proves on one port: none where it does not stand in between.
pub fn identity_at(pod: &Pod, port: u16) -> String {
    if in_ranges(&pod.excluded_ports, port) {
        return String::new();
    }
    identity(pod)
}

/// The id that it proves on every port: none where there are some on which it
/// does not stand in between.
pub fn identity_at_every(pod: &Pod) -> String {
    if pod.excluded_ports.is_empty() {
        identity(pod)
    } else {
        String::new()
    }
}

/// Named ports by their names; of one name the first.
pub fn by_name(ports: &[(Name, u16)]) -> HashMap<&str, u16> {
    let last_first = ports.iter().rev();
    last_first
        .map(|(name, number)| (&**name, *number))
        .collect()
}

/// What the pod's sidecar takes from others on one port of the pod, all of
/// whose ports are `ports`: nothing where it does not stand in between at all,
/// and where it relays bytes only those, encrypted.
pub fn mesh_protocols(ports: &BTreeMap<u16, v1::Protocol>, pod: &Pod, port: u16) -> Vec<String> {
    let relayed = || {
        let known = ports.get(&port).copied();
        known == Some(v1::Protocol::Tcp) || in_ranges(&pod.opaque_ports, port)
    };
    if in_ranges(&pod.excluded_ports, port) {
        return Vec::new();
    }
    let relayed = relayed();
    taken(pod, |name| !relayed || name == mesh::TCP)
}

/// What it takes on every port that [`pod_ports`] does not name as TCP: nothing
/// where there are others on which it takes nothing, and only bytes where it
/// relays those on some.
pub fn mesh_protocols_of_every(pod: &Pod) -> Vec<String> {
    let unnamed = |range: &PortRange| range.last() - range.first() >= MAX_NAMED_RANGE;
    if !pod.excluded_ports.is_empty() {
        return Vec::new();
    }
    let relayed = pod.opaque_ports.iter().any(unnamed);
    taken(pod, |name| !relayed || name == mesh::TCP)
}

/// Bytes have nothing to be marked by before they are encrypted.
fn taken(pod: &Pod, fits: impl Fn(&str) -> bool) -> Vec<String> {
    let is_encrypted = pod.trust_domain.is_some();
    let protocols = pod.mesh_protocols.iter().filter(|_| pod.sidecar);
    protocols
        .filter(|name| fits(name) && (is_encrypted || **name != mesh::TCP))
        .map(|name| (*name).to_owned())
        .collect()
}

/// Whether a Service selects a pod by its labels.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    !service.selector.is_empty()
        && service.id.namespace == pod.id.namespace
        && service
            .selector
            .iter()
            .all(|(label, value)| pod.labels.get(label) == Some(value))
}
