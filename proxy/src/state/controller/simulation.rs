//! The controller against a server that keeps to the protocol, under one
//! virtual clock, with everything in between at random: what changes, when it
//! arrives, when the stream breaks. In the end the sidecar must know what the
//! server knows, and at no time may a service seem to have no endpoints
//! before the server has said so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use tokio::sync::oneshot;

use super::*;
use crate::state::testing::{self, endpoint_resource, service_resource, workload_resource};

const SERVICES: u8 = 4;
const PODS: u8 = 3;

/// What is true: for each service its version, and its pods with theirs.
#[derive(Default)]
struct Truth {
    services: BTreeMap<u8, u64>,
    pods: BTreeMap<(u8, u8), u64>,
}

impl Truth {
    fn resources(&self, kind: Kind) -> Vec<Resource> {
        match kind {
            Kind::Workload => vec![workload_resource(&testing::workload(), "1")],
            Kind::TrustBundle => Vec::new(),
            Kind::Service => self
                .services
                .iter()
                .map(|(id, version)| {
                    let service = testing::service(&format!("s{id}"), *id);
                    service_resource(&service, &version.to_string())
                })
                .collect(),
            Kind::Endpoint => self
                .pods
                .iter()
                .filter(|((service, _), _)| self.services.contains_key(service))
                .map(|((service, pod), version)| {
                    let endpoint =
                        testing::endpoint(&format!("s{service}"), &format!("p{pod}"), *pod);
                    endpoint_resource(&endpoint, &version.to_string())
                })
                .collect(),
        }
    }
}

/// One type of one stream, as the server has it.
#[derive(Default)]
struct ServerType {
    wanted: BTreeSet<String>,
    /// Canonical name to version and names, as the client was told.
    told: BTreeMap<String, (String, Vec<String>)>,
    missing: BTreeSet<String>,
}

fn names_of(resource: &Resource) -> Vec<String> {
    let mut names = resource.aliases.clone();
    names.push(resource.name.clone());
    if let [namespace, service, ..] = resource.name.split('/').collect::<Vec<_>>()[..] {
        names.push(format!("{namespace}/{service}/*"));
    }
    names
}

impl ServerType {
    /// What the client must be told now; `asked` are the names that it asks for with this.
    fn difference(
        &mut self,
        kind: Kind,
        truth: &Truth,
        asked: &[String],
    ) -> Option<DeltaDiscoveryResponse> {
        let mut present = BTreeMap::new();
        for resource in truth.resources(kind) {
            let names = names_of(&resource);
            if names.iter().any(|name| self.wanted.contains(name)) {
                present.insert(resource.name.clone(), (resource, names));
            }
        }
        let mut removed = BTreeSet::new();
        self.told.retain(|name, (_, names)| {
            let stays = present.contains_key(name);
            if !stays {
                removed.insert(name.clone());
                removed.extend(names.iter().filter(|name| !name.ends_with('*')).cloned());
            }
            stays
        });
        let mut sent = Vec::new();
        for (name, (resource, names)) in &present {
            let known = self
                .told
                .get(name)
                .is_some_and(|(version, _)| *version == resource.version);
            if !known || names.iter().any(|name| asked.contains(name)) {
                let told = (resource.version.clone(), names.clone());
                self.told.insert(name.clone(), told);
                sent.push(resource.clone());
            }
        }
        for name in self.wanted.iter().filter(|name| !name.ends_with('*')) {
            let exists = present.values().any(|(_, names)| names.contains(name));
            if exists {
                self.missing.remove(name);
            } else if self.missing.insert(name.clone()) || asked.contains(name) {
                removed.insert(name.clone());
            }
        }
        let owes = asked.iter().any(|name| name.ends_with('*'));
        (owes || !sent.is_empty() || !removed.is_empty()).then(|| {
            let removed: Vec<&str> = removed.iter().map(String::as_str).collect();
            testing::response(kind, "n", sent, &removed)
        })
    }

    fn request(
        &mut self,
        kind: Kind,
        request: &DeltaDiscoveryRequest,
        truth: &Truth,
    ) -> Option<DeltaDiscoveryResponse> {
        for (name, version) in &request.initial_resource_versions {
            self.told
                .insert(name.clone(), (version.clone(), Vec::new()));
        }
        for name in &request.resource_names_unsubscribe {
            self.wanted.remove(name);
            self.missing.remove(name);
            let wanted = &self.wanted;
            self.told.retain(|name, (_, names)| {
                names.push(name.clone());
                names.iter().any(|name| wanted.contains(name))
            });
        }
        let asked = &request.resource_names_subscribe;
        self.wanted.extend(asked.iter().cloned());
        let first = !request.initial_resource_versions.is_empty();
        let asked_anew: &[String] = if first { &[] } else { asked };
        if asked.is_empty() {
            return None;
        }
        self.difference(kind, truth, asked_anew)
    }
}

/// The wires between the two: in order each way, at their own pace.
struct World {
    truth: Truth,
    version: u64,
    server: BTreeMap<&'static str, ServerType>,
    requests: VecDeque<DeltaDiscoveryRequest>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    controller: Controller,
    mesh: Arc<Mesh>,
    now: Timestamp,
    connected: bool,
}

#[derive(Clone, Debug)]
enum Step {
    PutService(u8),
    RemoveService(u8),
    PutPod(u8, u8),
    RemovePod(u8, u8),
    Ask(u8),
    DeliverRequest,
    DeliverResponse,
    Break,
    Connect,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (service, pod) = (0..SERVICES, 0..PODS);
    prop_oneof![
        2 => service.clone().prop_map(Step::PutService),
        1 => service.clone().prop_map(Step::RemoveService),
        3 => (service.clone(), pod.clone()).prop_map(|(service, pod)| Step::PutPod(service, pod)),
        1 => (service.clone(), pod).prop_map(|(service, pod)| Step::RemovePod(service, pod)),
        3 => service.prop_map(Step::Ask),
        6 => Just(Step::DeliverRequest),
        6 => Just(Step::DeliverResponse),
        1 => Just(Step::Break),
        2 => Just(Step::Connect),
        2 => (1_u64..400_000).prop_map(Step::Pass),
    ]
}

fn address(service: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, service))
}

impl World {
    fn new() -> Self {
        let (mesh, _questions) = Mesh::new();
        let identity = Identity {
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            ..Default::default()
        };
        Self {
            truth: Truth::default(),
            version: 0,
            server: BTreeMap::new(),
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            controller: Controller::new(&identity, mesh.clone()),
            mesh,
            now: Timestamp::from_millis(1000),
            connected: false,
        }
    }

    fn take(&mut self, step: &Step) {
        self.version += 1;
        match step {
            Step::PutService(service) => {
                self.truth.services.insert(*service, self.version);
            }
            Step::RemoveService(service) => {
                self.truth.services.remove(service);
            }
            Step::PutPod(service, pod) => {
                self.truth.pods.insert((*service, *pod), self.version);
            }
            Step::RemovePod(service, pod) => {
                self.truth.pods.remove(&(*service, *pod));
            }
            Step::Ask(service) => drop(self.ask(*service)),
            Step::DeliverRequest => self.deliver_request(),
            Step::DeliverResponse => drop(self.deliver_response()),
            Step::Break => self.disconnect(),
            Step::Connect => self.connect(),
            Step::Pass(span) => {
                // Nothing is on its way for so long.
                if self.connected && Duration::from_millis(*span) >= ANSWERED_SURELY {
                    self.settle();
                }
                self.now = self.now.after(Duration::from_millis(*span));
                self.controller.sweep(self.now);
                if self.connected {
                    self.controller.ask_again(self.now);
                }
            }
        }
        self.push();
        self.collect();
        if self.controller.is_ambiguous() {
            self.disconnect();
        }
    }

    fn ask(&mut self, service: u8) -> Option<oneshot::Receiver<Resolution>> {
        if self.mesh.lookup(address(service), self.now).is_some() {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        let target = Target::Address(address(service));
        self.controller.demand(
            Demand {
                target,
                is_called: true,
                reply,
            },
            self.now,
        );
        Some(answer)
    }

    /// What changed is pushed to those who subscribed.
    fn push(&mut self) {
        for kind in Kind::ALL {
            if let Some(state) = self.server.get_mut(kind.name()) {
                self.responses
                    .extend(state.difference(kind, &self.truth, &[]));
            }
        }
    }

    fn collect(&mut self) {
        while let Some(request) = self.controller.next_request() {
            self.requests.push_back(request);
        }
    }

    fn deliver_request(&mut self) {
        let Some(request) = self.requests.pop_front() else {
            return;
        };
        let kind = Kind::from_type_url(&request.type_url).expect("a type of ours");
        let state = self.server.entry(kind.name()).or_default();
        self.responses
            .extend(state.request(kind, &request, &self.truth));
    }

    fn deliver_response(&mut self) -> bool {
        let Some(response) = self.responses.pop_front() else {
            return false;
        };
        let refused = self.controller.receive(response, self.now);
        assert_eq!(refused, None);
        true
    }

    fn disconnect(&mut self) {
        self.controller.disconnected();
        self.connected = false;
        self.server.clear();
        self.requests.clear();
        self.responses.clear();
    }

    fn connect(&mut self) {
        if !self.connected {
            self.controller.connected(self.now);
            self.connected = true;
        }
    }

    /// Lets everything arrive.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if self.controller.is_ambiguous() {
                self.disconnect();
            }
            self.connect();
            self.collect();
            self.deliver_request();
            let idle = !self.deliver_response() && self.requests.is_empty();
            self.push();
            if idle && self.responses.is_empty() && !self.controller.ask_again(self.now) {
                return;
            }
            self.now = self.now.after(Duration::from_millis(10));
        }
        panic!("it never comes to rest");
    }

    fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        let applied = self.mesh.status().applied.into_iter();
        applied
            .filter(|applied| applied.kind == kind)
            .map(|applied| (applied.name, applied.version))
            .collect()
    }

    fn pods_of(&self, service: u8) -> Vec<String> {
        let pods = self.truth.pods.keys().filter(|(of, _)| *of == service);
        pods.map(|(_, pod)| format!("p{pod}")).collect()
    }

    fn check(&mut self) {
        for service in 0..SERVICES {
            let answer = self.ask(service);
            self.settle();
            let waited = answer.map(|mut answer| answer.try_recv().expect("answered"));
            let known = self.mesh.lookup(address(service), self.now).expect("known");
            for resolution in waited.into_iter().chain([known]) {
                match (self.truth.services.contains_key(&service), resolution) {
                    (false, Resolution::Unknown) => {}
                    (true, Resolution::Service(found)) => {
                        let listed = found
                            .endpoints(8080)
                            .map(|list| list.to_vec())
                            .unwrap_or_default();
                        let pods: Vec<String> =
                            listed.iter().map(|e| e.config.pod.clone()).collect();
                        assert_eq!(pods, self.pods_of(service), "of s{service}");
                    }
                    (exists, resolution) => panic!("s{service}: exists {exists}, {resolution:?}"),
                }
            }
        }
        for kind in [Kind::Service, Kind::Endpoint] {
            let truth = self.truth.resources(kind).into_iter();
            let truth: BTreeMap<_, _> = truth.map(|r| (r.name, r.version)).collect();
            assert_eq!(self.versions(kind), truth);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn the_sidecar_comes_to_know_what_the_server_knows(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
        world.check();
    }

    /// Pods are only ever added here, so an empty list would be a false one.
    #[test]
    fn no_service_seems_empty_before_its_endpoints_came(
        steps in prop::collection::vec(step(), 0..120)
    ) {
        let mut world = World::new();
        for service in 0..SERVICES {
            world.take(&Step::PutPod(service, 0));
        }
        for step in &steps {
            if matches!(step, Step::RemovePod(..) | Step::RemoveService(_)) {
                continue;
            }
            world.take(step);
            for service in 0..SERVICES {
                if let Some(Resolution::Service(found)) = world.mesh.lookup(address(service), world.now) {
                    prop_assert!(found.endpoints(8080).is_some_and(|list| !list.is_empty()), "s{service}");
                }
            }
        }
    }
}
