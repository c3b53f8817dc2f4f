//! The control plane of a simulation: the real [`Controller`] is told of services and
//! endpoints as the stream would tell it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use remora_proto::{v1, well_known};
use tokio::sync::{mpsc, oneshot};

use super::SERVICES;
use super::settings::PREFIXES;
use crate::clock;
use crate::state::controller::{Controller, Identity};
use crate::state::mesh::Demand;
use crate::state::subscriptions::Target;
use crate::state::{Mesh, Service, testing};
use crate::stream::Kind;

/// Where the sidecar is.
pub const ZONE: &str = "a";
/// Each service's port, and its pods'.
pub const PORT: u16 = 8080;
/// Of the services.
pub const NAMES: [&str; SERVICES] = ["catalog", "cart", "pay"];

/// What the control plane says of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    pub ready: bool,
    pub serving: bool,
}

/// What is true, and who is told.
pub struct Control {
    controller: Controller,
    pub mesh: Arc<Mesh>,
    version: u64,
    pub policies: Vec<v1::ServicePolicy>,
    /// Of the first service.
    pub routes: Vec<Vec<(usize, u32)>>,
    pub pods: BTreeMap<(usize, u8), Pod>,
    /// `sessionAffinity: ClientIP`, of all services.
    pub has_affinity: bool,
    _questions: mpsc::Receiver<Demand>,
}

/// `shop/<name>` of a service.
pub fn name(service: usize) -> String {
    format!("shop/{}", NAMES[service])
}

/// The pod's own name.
pub fn pod_name(service: usize, pod: u8) -> String {
    format!("{}-{pod}", NAMES[service])
}

/// Where a pod listens.
pub fn address(service: usize, pod: u8) -> SocketAddr {
    let ip = Ipv4Addr::new(10, 1, service as u8, pod);
    SocketAddr::new(IpAddr::V4(ip), PORT)
}

/// Whether both are pods of one service.
pub fn is_of_one_service(one: SocketAddr, other: SocketAddr) -> bool {
    let service = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => Some(ip.octets()[2]),
        IpAddr::V6(_) => None,
    };
    service(one) == service(other)
}

impl Control {
    /// Of these services, with nothing behind them yet.
    pub fn new(policies: Vec<v1::ServicePolicy>) -> Self {
        let (mesh, questions) = Mesh::new();
        let identity = Identity {
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            ..Identity::default()
        };
        let mut controller = Controller::new(&identity, Arc::clone(&mesh));
        controller.connected(clock::now());
        let mut control = Self {
            controller,
            mesh,
            version: 0,
            policies,
            routes: Vec::new(),
            pods: BTreeMap::new(),
            has_affinity: false,
            _questions: questions,
        };
        let workload = v1::Workload {
            zone: ZONE.to_owned(),
            ..testing::workload()
        };
        let workload = testing::workload_resource(&workload, "1");
        control.send(Kind::Workload, vec![workload], &[]);
        for service in 0..SERVICES {
            let (reply, _nobody_waits) = oneshot::channel();
            let demand = Demand {
                target: Target::Name(name(service).into()),
                is_called: true,
                reply,
            };
            control.controller.demand(demand, clock::now());
            control.put_service(service);
        }
        control
    }

    /// The service as the sidecar knows it now.
    pub fn service(&self, service: usize) -> Option<Arc<Service>> {
        self.mesh.load().service(&name(service)).map(Arc::clone)
    }

    /// Tells the sidecar of a service, as it is now.
    pub fn put_service(&mut self, service: usize) {
        let mut resource = testing::service(NAMES[service], service as u8 + 1);
        resource.policy = Some(self.policies[service].clone());
        resource.session_affinity_seconds = self.has_affinity.then_some(10_800);
        if service == 0 && !self.routes.is_empty() {
            resource.routes = vec![self.port_routes()];
        }
        self.version += 1;
        let resource = testing::service_resource(&resource, &self.version.to_string());
        self.send(Kind::Service, vec![resource], &[]);
    }

    /// Tells the sidecar of a pod, as it is now, or that it has left.
    pub fn put_pod(&mut self, service: usize, pod: u8, told: Option<Pod>) {
        let Some(told) = told else {
            self.pods.remove(&(service, pod));
            let uid = format!("uid-{service}-{pod}");
            let name = well_known::endpoint_name("shop", NAMES[service], PORT, &uid);
            return self.send(Kind::Endpoint, Vec::new(), &[&name]);
        };
        self.pods.insert((service, pod), told);
        let IpAddr::V4(ip) = address(service, pod).ip() else {
            return;
        };
        let endpoint = v1::Endpoint {
            address: Bytes::copy_from_slice(&ip.octets()),
            pod_uid: format!("uid-{service}-{pod}"),
            ready: told.ready,
            serving: told.serving,
            hint_zones: match pod % 4 {
                0 => vec!["b".to_owned()],
                1 => vec![ZONE.to_owned(), "c".to_owned()],
                _ => Vec::new(),
            },
            ..testing::endpoint(NAMES[service], &pod_name(service, pod), 1)
        };
        self.version += 1;
        let resource = testing::endpoint_resource(&endpoint, &self.version.to_string());
        self.send(Kind::Endpoint, vec![resource], &[]);
    }

    /// What is done once a second.
    pub fn sweep(&mut self) {
        self.controller.sweep(clock::now());
        while self.controller.next_request().is_some() {}
    }

    fn send(
        &mut self,
        kind: Kind,
        resources: Vec<remora_proto::discovery::Resource>,
        gone: &[&str],
    ) {
        let response = testing::response(kind, &self.version.to_string(), resources, gone);
        let refused = self.controller.receive(response, clock::now());
        assert_eq!(refused, None);
        while self.controller.next_request().is_some() {}
    }

    fn port_routes(&self) -> v1::PortRoutes {
        let rules = self.routes.iter().enumerate().map(|(at, backends)| {
            let path = PREFIXES.get(at);
            let path = path.map(|prefix| v1::route_match::Path::PathPrefix((*prefix).to_owned()));
            let backends = backends.iter().map(|(service, weight)| v1::RouteBackend {
                backend: Some(v1::BackendReference {
                    namespace: "shop".to_owned(),
                    service: NAMES[*service].to_owned(),
                    port: PORT.into(),
                    ..v1::BackendReference::default()
                }),
                weight: *weight,
                ..v1::RouteBackend::default()
            });
            v1::RouteRule {
                route: Some(v1::RouteReference {
                    kind: "HTTPRoute".to_owned(),
                    namespace: "shop".to_owned(),
                    name: "split".to_owned(),
                    rule: at as u32,
                    ..v1::RouteReference::default()
                }),
                matches: path
                    .map(|path| v1::RouteMatch {
                        path: Some(path),
                        ..v1::RouteMatch::default()
                    })
                    .into_iter()
                    .collect(),
                backends: backends.collect(),
                ..v1::RouteRule::default()
            }
        });
        v1::PortRoutes {
            ports: vec![PORT.into()],
            rules: rules.collect(),
            ..v1::PortRoutes::default()
        }
    }
}
