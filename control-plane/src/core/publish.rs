//! Objects to resources. Each function makes one resource anew from the index;
//! the store sees to it that what comes out as before wakes nobody.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use remora_proto::{bounds, v1, well_known};

use super::authorizations;
use super::enforced::{LeftOut, enforced};
use super::index::{Dirty, Index, Seat};
use super::mtls::{Modes, modes};
use super::objects::{EndpointSlice, Id, Name, Pod, Reach, Service, SliceEndpoint};
use super::ports::{
    by_name, identity, identity_at, identity_at_every, mesh_protocols, mesh_protocols_of_every,
    pod_ports,
};
use super::resolve;
use super::routes::RouteId;
use super::routes::attach::attach;
use super::routes::judged::{Judged, Verdicts};
use super::routes::references;
use super::routes::rule::all_policies;
use super::store::{Resource, ResourceType, Store};

/// Publishes into a store.
pub struct Publisher {
    store: Arc<Store>,
    /// The Endpoint resources of each seat, so that those which went can be removed.
    seats: HashMap<(Id, Seat), Vec<Name>>,
    /// As every Workload says it; empty where nobody is known to lead.
    reports_address: String,
    /// As many as there are pods whose policies have too many limits together.
    left_out: BTreeMap<Id, Vec<LeftOut>>,
    left_out_changed: bool,
    /// What is said of routes.
    judged: Judged,
}

impl Publisher {
    /// Into `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            seats: HashMap::new(),
            reports_address: String::new(),
            left_out: BTreeMap::new(),
            left_out_changed: false,
            judged: Judged::default(),
        }
    }

    /// Where sidecars' reports go from now on; whether that is another place
    /// than before.
    pub fn set_reports_address(&mut self, address: Option<SocketAddr>) -> bool {
        // What a sidecar would refuse is as none: then they report where the stream is.
        let reachable = address.filter(bounds::is_reachable);
        let said = reachable.map(|address| address.to_string());
        let said = said.unwrap_or_default();
        std::mem::replace(&mut self.reports_address, said.clone()) != said
    }

    /// Makes anew what is dirty.
    pub fn publish(&mut self, index: &Index, dirty: Dirty) {
        for seat in dirty.seats {
            self.endpoints(index, seat);
        }
        let mut judged = dirty.routes;
        for id in dirty.services {
            judged.extend(self.service(index, &id));
        }
        self.judged.judge(&index.routes, judged);
        for id in dirty.pods {
            self.pod(index, &id);
        }
    }

    /// What is said of every route.
    pub fn route_verdicts(&self) -> Arc<Verdicts> {
        self.judged.verdicts()
    }

    /// Of each pod the limits for which there is no room there.
    pub fn left_out(&self) -> &BTreeMap<Id, Vec<LeftOut>> {
        &self.left_out
    }

    /// Whether [`Self::left_out`] is another than when this was last asked.
    pub fn take_left_out_change(&mut self) -> bool {
        std::mem::take(&mut self.left_out_changed)
    }

    fn note_left_out(&mut self, pod: &Id, left_out: Vec<LeftOut>) {
        let before = if left_out.is_empty() {
            self.left_out.remove(pod)
        } else {
            self.left_out.insert(pod.clone(), left_out.clone())
        };
        self.left_out_changed |= before.unwrap_or_default() != left_out;
    }

    /// Makes a Service anew, with its routes; of which routes something may be
    /// said anew.
    fn service(&mut self, index: &Index, id: &Id) -> BTreeSet<RouteId> {
        let name = well_known::resource_name(&id.namespace, &id.name);
        let effective = resolve::effective(&index.policies, &id.namespace, Some(&id.name));
        let attached = attach(index, id, &effective);
        let judged = self.judged.take(id, attached.verdicts);
        let Some((service, kind, addresses)) = index.services.get(id).and_then(reach) else {
            self.store.remove(ResourceType::Service, &name);
            return judged;
        };
        let cannot = references::cannot(index, Some(id));
        let mut message = v1::Service {
            namespace: id.namespace.to_string(),
            name: id.name.to_string(),
            kind: kind.into(),
            addresses: addresses.iter().copied().map(octets).collect(),
            ports: service.ports.iter().map(service_port).collect(),
            policy: resolve::service_policy_where(&effective.settings, cannot),
            policies: effective.policies,
            session_affinity_seconds: service.session_affinity_seconds,
            internal_traffic_local: service.internal_traffic_local,
            pod: None,
            routes: attached.producers,
        };
        let name = Name::from(name);
        let resource = |message: &v1::Service| {
            let aliases = aliases(addresses);
            Resource::new(ResourceType::Service, name.clone(), aliases, None, message)
                .with_policies(&all_policies(message))
        };
        let general = resource(&message);
        let mut variants = BTreeMap::new();
        for (namespace, routes) in attached.consumers {
            message.routes = routes;
            variants.insert(namespace, resource(&message));
        }
        self.store
            .set_variants(ResourceType::Service, general, variants);
        judged
    }

    fn endpoints(&mut self, index: &Index, at: (Id, Seat)) {
        let made = endpoints(index, &at.0, &at.1);
        let names: HashSet<Name> = made.iter().map(|(name, _)| name.clone()).collect();
        for (name, endpoint) in made {
            let resource = Resource::new(ResourceType::Endpoint, name, Vec::new(), None, &endpoint);
            self.store.set(ResourceType::Endpoint, resource);
        }
        for name in self.seats.remove(&at).into_iter().flatten() {
            if !names.contains(&name) {
                self.store.remove(ResourceType::Endpoint, &name);
            }
        }
        if !names.is_empty() {
            self.seats.insert(at, names.into_iter().collect());
        }
    }

    fn pod(&mut self, index: &Index, id: &Id) {
        let direct = well_known::pod_resource_name(&id.namespace, &id.name);
        let workload_name = well_known::resource_name(&id.namespace, &id.name);
        let Some(pod) = index.pods.get(id) else {
            self.store.remove(ResourceType::Service, &direct);
            self.store.remove(ResourceType::Workload, &workload_name);
            self.note_left_out(id, Vec::new());
            return;
        };
        let (ports, modes) = (pod_ports(index, pod), modes(index, pod));
        if pod.addresses.is_empty() {
            self.store.remove(ResourceType::Service, &direct);
        } else {
            let message = pod_service(index, pod, &ports, &modes);
            let aliases = aliases(&pod.addresses);
            let resource = Resource::new(
                ResourceType::Service,
                direct.into(),
                aliases,
                None,
                &message,
            )
            .with_policies(&message.policies);
            self.store.set(ResourceType::Service, resource);
        }
        if pod.ended {
            // Nothing of it runs that could ask, and who has its token is not it.
            self.store.remove(ResourceType::Workload, &workload_name);
            self.note_left_out(id, Vec::new());
            return;
        }
        let node = well_known::node_id(&id.namespace, &id.name, &pod.uid);
        let (mut message, left_out) = workload(index, pod, ports, &modes, &self.reports_address);
        self.note_left_out(id, left_out);
        let policies = message.policies.clone();
        let authorizations = authorizations::add(index, pod, &mut message);
        message.policies.truncate(bounds::MAX_POLICIES);
        let resource = Resource::new(
            ResourceType::Workload,
            workload_name.into(),
            Vec::new(),
            Some(node.into()),
            &message,
        )
        .from_addresses(&pod.addresses)
        .with_policies(&policies)
        .with_authorizations(&authorizations);
        self.store.set(ResourceType::Workload, resource);
    }
}

fn reach(service: &Service) -> Option<(&Service, v1::service::Kind, &[IpAddr])> {
    match &service.reach {
        Reach::ClusterIp(addresses) => Some((service, v1::service::Kind::ClusterIp, addresses)),
        Reach::Headless => Some((service, v1::service::Kind::Headless, &[])),
        Reach::ExternalName => None,
    }
}

fn service_port(port: &super::objects::ServicePort) -> v1::ServicePort {
    v1::ServicePort {
        port: port.port.into(),
        name: port.name.to_string(),
        protocol: port.protocol.into(),
    }
}

fn octets(address: IpAddr) -> Bytes {
    match address.to_canonical() {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

fn aliases(addresses: &[IpAddr]) -> Vec<Name> {
    addresses
        .iter()
        .map(|address| well_known::address_alias(*address).into())
        .collect()
}

/// The Endpoint resources of one seat: one for each of the Service's ports.
fn endpoints(index: &Index, id: &Id, seat: &Seat) -> Vec<(Name, v1::Endpoint)> {
    let Some((service, ..)) = index.services.get(id).and_then(reach) else {
        return Vec::new();
    };
    let entries: Vec<_> = index
        .entries(id, seat)
        .into_iter()
        .map(|(slice, endpoint)| (slice, endpoint, by_name(&slice.ports)))
        .collect();
    let known = KnownPorts::default();
    let mut made = Vec::new();
    for port in &service.ports {
        let served = entries.iter().filter_map(|(slice, endpoint, numbers)| {
            Some((*slice, *endpoint, *numbers.get(&*port.name)?))
        });
        // In two slices at once (a move, or two families): the family of the
        // Service's first address, then what is ready, then the slice's name.
        let best = served.min_by_key(|(slice, endpoint, _)| {
            (
                !primary_family(service, endpoint),
                !endpoint.ready,
                slice.id.name.clone(),
            )
        });
        if let Some((slice, endpoint, target_port)) = best {
            made.push(one_endpoint(
                index,
                service,
                port.port,
                (slice, endpoint, target_port),
                &known,
            ));
        }
    }
    made
}

/// What is known of a seat's pod, found once for all ports of the Service.
#[derive(Default)]
struct KnownPorts {
    protocols: OnceCell<BTreeMap<u16, v1::Protocol>>,
    modes: OnceCell<Modes>,
}

impl KnownPorts {
    fn protocols(&self, index: &Index, pod: &Pod) -> &BTreeMap<u16, v1::Protocol> {
        self.protocols.get_or_init(|| pod_ports(index, pod))
    }

    fn modes(&self, index: &Index, pod: &Pod) -> &Modes {
        self.modes.get_or_init(|| modes(index, pod))
    }
}

fn primary_family(service: &Service, endpoint: &SliceEndpoint) -> bool {
    match &service.reach {
        Reach::ClusterIp(addresses) => addresses
            .first()
            .is_none_or(|first| first.is_ipv4() == endpoint.address.is_ipv4()),
        Reach::Headless | Reach::ExternalName => endpoint.address.is_ipv4(),
    }
}

fn one_endpoint(
    index: &Index,
    service: &Service,
    port: u16,
    (slice, endpoint, target_port): (&EndpointSlice, &SliceEndpoint, u16),
    known: &KnownPorts,
) -> (Name, v1::Endpoint) {
    let pod = endpoint.pod.as_ref().and_then(|name| {
        index.pods.get(&Id {
            namespace: slice.id.namespace.clone(),
            name: name.clone(),
        })
    });
    let uid = endpoint
        .pod_uid
        .clone()
        .or_else(|| pod.map(|pod| pod.uid.clone()));
    let uid = uid.filter(|uid| !uid.is_empty());
    let address = endpoint.address.to_canonical().to_string();
    // A pod of the same name but another uid is another pod (a StatefulSet's next).
    let pod = pod.filter(|pod| {
        uid.as_ref()
            .is_none_or(|uid| pod.uid.is_empty() || pod.uid == *uid)
    });
    let draining = endpoint.terminating || pod.is_some_and(|pod| pod.draining);
    // Slices are written by a controller that sees the pod when we do, and takes
    // its time. In a roll-out the old pod is gone the sooner, and the last of a
    // service would leave none.
    let ready = endpoint.ready || pod.is_some_and(|pod| pod.says_ready);
    let member = uid.as_deref().unwrap_or(&address);
    let id = &service.id;
    let name = well_known::endpoint_name(&id.namespace, &id.name, port, member);
    let node = endpoint
        .node
        .clone()
        .or_else(|| pod.map(|pod| pod.node.clone()));
    let message = v1::Endpoint {
        namespace: id.namespace.to_string(),
        service: id.name.to_string(),
        port: port.into(),
        address: octets(endpoint.address),
        target_port: target_port.into(),
        pod: endpoint.pod.as_deref().unwrap_or_default().to_owned(),
        pod_uid: uid.as_deref().unwrap_or_default().to_owned(),
        node: node.as_deref().unwrap_or_default().to_owned(),
        zone: endpoint.zone.as_deref().unwrap_or_default().to_owned(),
        weight: pod.map_or(1, |pod| pod.weight.counts()),
        ready: ready && !draining,
        draining,
        serving: endpoint.serving || (!draining && pod.is_some_and(|pod| pod.lost)),
        hint_zones: endpoint.hint_zones.clone(),
        sidecar: pod.is_some_and(|pod| pod.sidecar),
        mesh_protocols: pod
            .map(|pod| mesh_protocols(known.protocols(index, pod), pod, target_port))
            .unwrap_or_default(),
        identity: pod
            .map(|pod| identity_at(pod, target_port))
            .unwrap_or_default(),
        mtls: pod
            .map_or(v1::MtlsMode::Permissive, |pod| {
                known.modes(index, pod).at(target_port)
            })
            .into(),
        health: pod
            .map_or(v1::Health::Unknown, |pod| index.health(pod, target_port))
            .into(),
    };
    (name.into(), message)
}

/// The Service by which a pod is reached at its own address.
fn pod_service(
    index: &Index,
    pod: &Pod,
    ports: &BTreeMap<u16, v1::Protocol>,
    modes: &Modes,
) -> v1::Service {
    let headless = index.services_that_list(&pod.id).into_iter();
    let headless = headless.filter(|service| service.reach == Reach::Headless);
    let headless: Vec<&Service> = headless.collect();
    let oldest = headless.first().map(|service| &service.id);
    let policy_of = oldest.map(|id| &id.name);
    let effective = resolve::effective(&index.policies, &pod.id.namespace, policy_of);
    let cannot = references::cannot(index, oldest);
    v1::Service {
        namespace: pod.id.namespace.to_string(),
        name: policy_of.unwrap_or(&pod.id.name).to_string(),
        kind: v1::service::Kind::Pod.into(),
        addresses: pod.addresses.iter().copied().map(octets).collect(),
        ports: ports
            .iter()
            .map(|(port, protocol)| v1::ServicePort {
                port: (*port).into(),
                name: String::new(),
                protocol: (*protocol).into(),
            })
            .collect(),
        policy: resolve::service_policy_where(&effective.settings, cannot),
        policies: effective.policies,
        session_affinity_seconds: None,
        internal_traffic_local: false,
        pod: Some(v1::Endpoint {
            namespace: pod.id.namespace.to_string(),
            service: policy_of.unwrap_or(&pod.id.name).to_string(),
            address: pod
                .addresses
                .first()
                .copied()
                .map(octets)
                .unwrap_or_default(),
            pod: pod.id.name.to_string(),
            pod_uid: pod.uid.to_string(),
            node: pod.node.to_string(),
            zone: zone(index, pod),
            weight: pod.weight.counts(),
            ready: pod.ready && !pod.draining,
            draining: pod.draining,
            serving: pod.ready || (pod.lost && !pod.draining),
            sidecar: pod.sidecar,
            mesh_protocols: mesh_protocols_of_every(pod),
            identity: identity_at_every(pod),
            mtls: modes.strictest().into(),
            ..v1::Endpoint::default()
        }),
        // Routes are for calls to a cluster IP.
        routes: Vec::new(),
    }
}

/// The zone that a slice gives for the pod.
fn zone(index: &Index, pod: &Pod) -> String {
    let services = index.services_that_list(&pod.id);
    let seat = Seat::Pod(pod.id.name.clone());
    let mut zones = services
        .iter()
        .flat_map(|service| index.entries(&service.id, &seat));
    zones
        .find_map(|(_, endpoint)| endpoint.zone.clone())
        .as_deref()
        .unwrap_or_default()
        .to_owned()
}

/// With the limits for which there is no room.
fn workload(
    index: &Index,
    pod: &Pod,
    mut ports: BTreeMap<u16, v1::Protocol>,
    modes: &Modes,
    reports_address: &str,
) -> (v1::Workload, Vec<LeftOut>) {
    let namespace = &pod.id.namespace;
    for port in modes.by_port.keys() {
        ports.entry(*port).or_insert(v1::Protocol::Detect);
    }
    let mut enforced = enforced(index, pod, ports.keys().copied());
    let mut policies = enforced.policies;
    // What they say counts, however many they are; a sidecar takes so many names.
    for policy in &modes.policies {
        if policies.len() < bounds::MAX_POLICIES && !policies.contains(policy) {
            policies.push(policy.clone());
        }
    }
    let inbound = ports.into_iter().map(|(port, protocol)| v1::InboundPort {
        port: port.into(),
        protocol: protocol.into(),
        rate_limits: enforced.by_port.remove(&port).unwrap_or_default(),
        mtls: modes.at(port).into(),
        admissions: enforced.admissions.remove(&port).unwrap_or_default(),
        health_checks: enforced.health_checks.remove(&port).unwrap_or_default(),
    });
    let inbound = inbound.collect();
    let workload = v1::Workload {
        namespace: namespace.to_string(),
        pod: pod.id.name.to_string(),
        pod_uid: pod.uid.to_string(),
        service_account: pod.service_account.to_string(),
        node: pod.node.to_string(),
        zone: zone(index, pod),
        addresses: pod.addresses.iter().copied().map(octets).collect(),
        draining: pod.draining,
        ports: inbound,
        policies,
        rate_limits: enforced.elsewhere,
        reports_address: reports_address.to_owned(),
        identity: identity(pod),
        mtls: modes.general.into(),
        admission: enforced.admission_elsewhere,
        ..v1::Workload::default()
    };
    (workload, enforced.left_out)
}
