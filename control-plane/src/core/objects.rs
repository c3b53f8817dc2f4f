//! What events are about: of each Kubernetes kind only what Remora uses.

use remora_proto::ports::PortRange;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use remora_proto::v1::{Health, Protocol};

use super::authorizations::AuthorizationPolicy;
use super::routes::{Grant, Route, RouteId, RouteKind};
use super::scope::Scope;
use super::settings::Settings;

/// A name, shared wherever it stands.
pub type Name = Arc<str>;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The namespace; for a Namespace its own name.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

impl Id {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Namespace
    Namespace,
    /// v1 Service
    Service,
    /// discovery.k8s.io/v1 EndpointSlice
    EndpointSlice,
    /// v1 Pod
    Pod,
    /// remora.io/v1alpha1 TrafficPolicy
    TrafficPolicy,
    /// remora.io/v1alpha1 AuthorizationPolicy
    AuthorizationPolicy,
    /// gateway.networking.k8s.io/v1 HTTPRoute
    HttpRoute,
    /// gateway.networking.k8s.io/v1 GRPCRoute
    GrpcRoute,
    /// gateway.networking.k8s.io/v1 ReferenceGrant
    ReferenceGrant,
    /// apps/v1 Deployment: read and checked, of no meaning for the stream.
    Deployment,
}

impl Kind {
    /// Whether it is a policy, which has a status of ours.
    pub fn is_policy(self) -> bool {
        matches!(self, Self::TrafficPolicy | Self::AuthorizationPolicy)
    }

    /// Whether its objects have a status of which something is ours.
    pub fn has_status(self) -> bool {
        self.is_policy() || self.route().is_some()
    }

    /// Whether its definition may be installed later, or never.
    pub fn may_be_absent(self) -> bool {
        self.has_status() || self == Self::ReferenceGrant
    }

    /// The kind of route that it is, where it is one.
    pub fn route(self) -> Option<RouteKind> {
        match self {
            Self::HttpRoute => Some(RouteKind::Http),
            Self::GrpcRoute => Some(RouteKind::Grpc),
            _ => None,
        }
    }

    /// As it is written in YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Deployment => "Deployment",
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub id: Id,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)
    }
}

/// What a source tells the core.
#[derive(Clone, Debug)]
// Nearly all are objects, and few are under way at once: a box for each would
// cost more than it saves.
#[allow(clippy::large_enum_variant)]
pub enum Event {
    /// The object is there, new or changed.
    Apply(Object),
    /// The object is gone.
    Delete(Key),
    /// All that there was at the start has been told.
    Synced,
    /// What is known of a pod's health.
    Health(PodHealth),
    /// Where sidecars' reports go: the replica that leads; `None` where nobody
    /// is known to.
    ReportsAddress(Option<SocketAddr>),
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
    /// A TrafficPolicy.
    TrafficPolicy(Box<TrafficPolicy>),
    /// An AuthorizationPolicy.
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    /// An HTTPRoute or a GRPCRoute.
    Route(Box<Route>),
    /// A ReferenceGrant.
    ReferenceGrant(Box<Grant>),
    /// A Deployment (its name is enough).
    Deployment(Id),
}

impl Object {
    /// Which object this is.
    pub fn key(&self) -> Key {
        let (kind, id) = match self {
            Self::Namespace(namespace) => (Kind::Namespace, &namespace.id),
            Self::Service(service) => (Kind::Service, &service.id),
            Self::EndpointSlice(slice) => (Kind::EndpointSlice, &slice.id),
            Self::Pod(pod) => (Kind::Pod, &pod.id),
            Self::TrafficPolicy(policy) => (Kind::TrafficPolicy, &policy.id),
            Self::AuthorizationPolicy(policy) => (Kind::AuthorizationPolicy, &policy.id),
            Self::Route(route) => (route.id.kind.kind(), &route.id.id),
            Self::ReferenceGrant(grant) => (Kind::ReferenceGrant, &grant.id),
            Self::Deployment(id) => (Kind::Deployment, id),
        };
        Key {
            kind,
            id: id.clone(),
        }
    }
}

/// When an object was made, seconds since the Unix epoch where it says so.
pub type Created = Option<i64>;

/// A Namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// Its own name, twice.
    pub id: Id,
    /// Its label remora.io/inject asks for sidecars.
    pub inject: bool,
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name.
    pub id: Id,
    /// metadata.creationTimestamp
    pub created: Created,
    /// How it is reached.
    pub reach: Reach,
    /// TCP ports.
    pub ports: Vec<ServicePort>,
    /// spec.selector; empty selects nothing.
    pub selector: BTreeMap<String, String>,
    /// sessionAffinity ClientIP: its timeout.
    pub session_affinity_seconds: Option<u32>,
    /// internalTrafficPolicy Local.
    pub internal_traffic_local: bool,
}

/// How a Service is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Reach {
    /// By its cluster IPs, the first of the primary family; none where none was assigned.
    ClusterIp(Vec<IpAddr>),
    /// By the addresses of its pods.
    Headless,
    /// By a name outside; it has no address of its own.
    ExternalName,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Its name; may be empty.
    pub name: Name,
    /// Its number.
    pub port: u16,
    /// The pods' port, for pods that are matched by selector.
    pub target: PortReference,
    /// From appProtocol, the name's prefix, or the annotation.
    pub protocol: Protocol,
}

/// targetPort.
#[derive(Clone, Debug, PartialEq)]
pub enum PortReference {
    /// By number.
    Number(u16),
    /// By the name of a container's port.
    Name(Name),
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub id: Id,
    /// The Service, from the label kubernetes.io/service-name.
    pub service: Option<Name>,
    /// TCP ports: name and number.
    pub ports: Vec<(Name, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    /// The first of its addresses (they are interchangeable).
    pub address: IpAddr,
    /// targetRef of kind Pod: its name.
    pub pod: Option<Name>,
    /// targetRef's uid.
    pub pod_uid: Option<Name>,
    /// nodeName
    pub node: Option<Name>,
    /// zone
    pub zone: Option<Name>,
    /// conditions.ready; unknown is ready.
    pub ready: bool,
    /// conditions.serving; unknown is as ready.
    pub serving: bool,
    /// conditions.terminating
    pub terminating: bool,
    /// hints.forZones
    pub hint_zones: Vec<String>,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub id: Id,
    /// metadata.uid; empty where a file gives none.
    pub uid: Name,
    /// spec.serviceAccountName
    pub service_account: Name,
    /// spec.nodeName
    pub node: Name,
    /// metadata.labels
    pub labels: BTreeMap<String, String>,
    /// status.podIPs; none for a pod on its host's network, or one that has ended.
    pub addresses: Vec<IpAddr>,
    /// Has a deletion timestamp.
    pub draining: bool,
    /// The condition Ready; unknown is ready.
    pub ready: bool,
    /// The condition Ready is there and true: with a slice that lags behind it,
    /// the pod itself is believed.
    pub says_ready: bool,
    /// Its node is not heard of, so that it counts as not ready whatever it is.
    pub lost: bool,
    /// TCP ports of its containers: name and number.
    pub ports: Vec<(Name, u16)>,
    /// The annotation remora.io/opaque-ports.
    pub opaque_ports: Vec<PortRange>,
    /// The annotation remora.io/exclude-inbound-ports: its sidecar never sees these.
    pub excluded_ports: Vec<PortRange>,
    /// A sidecar of ours runs in it.
    pub sidecar: bool,
    /// Its phase is Running.
    pub running: bool,
    /// Its phase is Succeeded or Failed: nothing of it runs any more.
    pub ended: bool,
    /// It is to have no sidecar: it says so, or is on its host's network.
    pub declines_sidecar: bool,
    /// Why the injector left it alone, where it says so.
    pub not_injected: Option<Name>,
    /// What that sidecar takes from others, as the injector wrote: names of
    /// [`remora_proto::well_known::mesh`], each once and in their order.
    pub mesh_protocols: Vec<&'static str>,
    /// The trust domain in which its sidecar has an identity, as the injector
    /// wrote; `None`: it has none.
    pub trust_domain: Option<Name>,
    /// The annotation remora.io/weight.
    pub weight: Weight,
}

/// How much of its Services' traffic a pod wants beside the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    /// It does not say: 1.
    #[default]
    Unset,
    /// 1 to 1000.
    Of(u32),
    /// What it says is no weight: 1, and it is told.
    Wrong(Name),
}

impl Weight {
    /// The most that a pod may want.
    const MOST: u32 = 1_000;

    /// As the annotation has it.
    pub fn read(text: &str) -> Self {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_plain);
        match number.filter(|number| (1..=Self::MOST).contains(number)) {
            Some(number) => Self::Of(number),
            None => Self::Wrong(text.chars().take(64).collect::<String>().into()),
        }
    }

    /// What counts.
    pub fn counts(&self) -> u32 {
        match self {
            Self::Of(number) => *number,
            Self::Unset | Self::Wrong(_) => 1,
        }
    }
}

/// What the probes of a pod's own sidecar say of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHealth {
    /// The pod.
    pub id: Id,
    /// Its uid: another pod of the same name is another pod.
    pub uid: Name,
    /// Of each port that is probed; none: nothing is known.
    pub ports: BTreeMap<u16, Health>,
}

/// Whether any of the ranges holds the port.
pub fn in_ranges(ranges: &[PortRange], port: u16) -> bool {
    ranges.iter().any(|range| range.contains(port))
}

/// A TrafficPolicy, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicy {
    /// Namespace and name.
    pub id: Id,
    /// metadata.creationTimestamp
    pub created: Created,
    /// Rises with each change of the spec.
    pub generation: i64,
    /// Whom it is for.
    pub scope: Scope,
    /// What it says.
    pub settings: Settings,
}

/// One target of a policy, in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A Service by name.
    Service(Name),
    /// The namespace.
    Namespace,
    /// A route, or one rule of it.
    Route {
        /// Its kind.
        kind: RouteKind,
        /// Its name.
        name: Name,
        /// The name of the rule.
        rule: Option<Name>,
    },
}

impl Target {
    /// The route that is meant, for a policy of this namespace.
    pub fn route(&self, namespace: &Name) -> Option<RouteId> {
        let Self::Route { kind, name, .. } = self else {
            return None;
        };
        Some(RouteId {
            kind: *kind,
            id: Id {
                namespace: namespace.clone(),
                name: name.clone(),
            },
        })
    }

    /// In words, for a policy of this namespace.
    pub fn shown(&self, namespace: &str) -> String {
        match self {
            Self::Service(name) => format!("Service {namespace}/{name}"),
            Self::Namespace => format!("Namespace {namespace}"),
            Self::Route { kind, name, rule } => {
                let of = rule.as_ref().map(|rule| format!("rule {rule} of "));
                let of = of.unwrap_or_default();
                format!("{of}{} {namespace}/{name}", kind.as_str())
            }
        }
    }
}
