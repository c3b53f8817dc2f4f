//! The ports of a pod: what is spoken there, and what its sidecar takes there
//! from other sidecars.

use std::collections::{BTreeMap, HashMap};

use remora_proto::ports::PortRange;
use remora_proto::v1;

use super::index::{Index, Seat, selects};
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

/// Named ports by their names; of one name the first.
pub fn by_name(ports: &[(Name, u16)]) -> HashMap<&str, u16> {
    let last_first = ports.iter().rev();
    last_first
        .map(|(name, number)| (&**name, *number))
        .collect()
}

/// What the pod's sidecar takes from others on one port of the pod, all of
/// whose ports are `ports`: nothing where it relays bytes, or does not stand in
/// between at all.
pub fn mesh_protocols(ports: &BTreeMap<u16, v1::Protocol>, pod: &Pod, port: u16) -> Vec<String> {
    let relayed = || {
        let known = ports.get(&port).copied();
        known == Some(v1::Protocol::Tcp) || in_ranges(&pod.opaque_ports, port)
    };
    if in_ranges(&pod.excluded_ports, port) || relayed() {
        return Vec::new();
    }
    taken(pod)
}

/// What it takes on every port that [`pod_ports`] does not name as TCP: nothing
/// where there are others on which it takes nothing.
pub fn mesh_protocols_of_every(pod: &Pod) -> Vec<String> {
    let unnamed = |range: &PortRange| range.last() - range.first() >= MAX_NAMED_RANGE;
    if !pod.excluded_ports.is_empty() || pod.opaque_ports.iter().any(unnamed) {
        return Vec::new();
    }
    taken(pod)
}

fn taken(pod: &Pod) -> Vec<String> {
    let protocols = pod.mesh_protocols.iter().filter(|_| pod.sidecar);
    protocols.map(|name| (*name).to_owned()).collect()
}
