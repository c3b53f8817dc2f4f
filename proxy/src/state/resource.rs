//! The stream's resources, parsed: what they say, checked once, in types that
//! need no checking again. [`super::decode`] makes them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use remora_proto::spiffe::SpiffeId;

use crate::policy::authorize::Rules;
use crate::policy::config::admission::Admission;
use crate::policy::config::{HealthCheck, RateLimit, ServicePolicy};
use crate::routes::config::PortRoutes;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Not declared: sniffed on each connection.
    #[default]
    Detect,
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
    /// gRPC
    Grpc,
    /// Opaque bytes.
    Tcp,
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceKind {
    /// By addresses of its own.
    #[default]
    ClusterIp,
    /// By the addresses of its pods.
    Headless,
    /// A pod by its own address: that endpoint is kept.
    Pod,
}

/// A policy object that took part in a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.generation`; from files a counter.
    pub generation: i64,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's port number.
    pub port: u16,
    /// Its name; may be empty.
    pub name: String,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A service as its callers see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceConfig {
    /// Its namespace.
    pub namespace: String,
    /// Its name; for a pod that no headless Service lists, the pod's name.
    pub name: String,
    /// How it is reached.
    pub kind: ServiceKind,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports, by rising number.
    pub ports: Vec<ServicePort>,
    /// How calls to it are treated.
    pub policy: ServicePolicy,
    /// Every policy that took part, most specific first.
    pub policies: Vec<PolicyReference>,
    /// `sessionAffinity: ClientIP` and how long it lasts.
    pub session_affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_traffic_local: bool,
    /// Kind [`ServiceKind::Pod`] only, and there always: the pod itself, its port zero.
    pub pod: Option<EndpointConfig>,
    /// Where requests on its ports go; each port at most once.
    pub routes: Vec<Arc<PortRoutes>>,
}

impl ServiceConfig {
    /// The port with this number, if the service has it.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|candidate| candidate.port == port)
    }
}

/// Where a call was going before the sidecar took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The original destination's address; `None` where a name was called.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// One pod and port behind one service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointConfig {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// The service's port number; 0 for a pod reached by its own address.
    pub port: u16,
    /// The pod's address and target port; port 0 for a pod reached by its own address.
    pub address: SocketAddr,
    /// The pod's name; may be empty.
    pub pod: String,
    /// The pod's uid; may be empty.
    pub pod_uid: String,
    /// The pod's node; may be empty.
    pub node: String,
    /// The pod's zone; may be empty.
    pub zone: String,
    /// At least 1.
    pub weight: u32,
    /// Ready to take requests.
    pub ready: bool,
    /// Terminating: no new requests while others serve.
    pub draining: bool,
    /// Still serves although it is terminating.
    pub serving: bool,
    /// Zones for which topology hints reserve it; empty: any.
    pub hint_zones: Vec<String>,
    /// Its pod has a sidecar, whose `x-remora-reason` is believed.
    pub sidecar: bool,
    /// What that sidecar takes from ours, beside what the application speaks.
    /// For a pod reached by its own address: on the ports that its Service
    /// does not say to be TCP.
    pub mesh: MeshProtocols,
    /// Where it is to be sent mutual TLS: who is there.
    pub secured: Option<Secured>,
    /// What the probes of its own sidecar say.
    pub health: Health,
}

/// What probes say of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It is not probed, or not yet: counts as healthy.
    #[default]
    Unknown,
    /// It is well.
    Healthy,
    /// It is taken only while no other serves.
    Unhealthy,
}

impl Health {
    /// Its word in JSON and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Who an endpoint's sidecar proves to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured {
    /// The id.
    pub id: SpiffeId,
    /// Tells connections to it from those to others, and from plaintext ones,
    /// for which it is 0.
    pub tag: u64,
}

impl Secured {
    /// By this id.
    pub fn new(id: SpiffeId) -> Self {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let tag = hasher.finish().max(1);
        Self { id, tag }
    }
}

/// What a port takes from callers without mutual TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Everything, as from callers without identity.
    #[default]
    Permissive,
    /// Nothing.
    Strict,
    /// Everything, and mutual TLS is not looked for.
    Disabled,
}

/// What an endpoint's sidecar takes from another sidecar
/// ([`remora_proto::well_known::mesh`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshProtocols {
    /// `remora-h2`: requests of every caller on connections of ours.
    pub h2: bool,
    /// `remora-h1`: HTTP/1 as the caller spoke it.
    pub h1: bool,
    /// `remora-tcp`: bytes. Only ever in TLS, which says that they are such.
    pub tcp: bool,
}

impl EndpointConfig {
    /// Where to connect to, for a call to `destination`.
    pub fn address_for(&self, destination: Destination) -> SocketAddr {
        match self.address.port() {
            // A pod reached by an address of its own: that one, and the caller's port.
            0 => {
                let address = destination.address.unwrap_or(self.address.ip());
                SocketAddr::new(address.to_canonical(), destination.port)
            }
            _ => self.address,
        }
    }

    /// What tells this endpoint from others of the same service and port: the
    /// pod's uid, or else its address.
    pub fn member(&self) -> String {
        if self.pod_uid.is_empty() {
            self.address.ip().to_string()
        } else {
            self.pod_uid.clone()
        }
    }

    /// What people call it: the pod, or else its address.
    pub fn display_name(&self) -> String {
        if self.pod.is_empty() {
            self.address.to_string()
        } else {
            self.pod.clone()
        }
    }
}

/// What the sidecar enforces for its own pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadConfig {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid; may be empty.
    pub pod_uid: String,
    /// Its service account; may be empty.
    pub service_account: String,
    /// Its node; may be empty.
    pub node: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It has a deletion timestamp: drain.
    pub draining: bool,
    /// Its ports that some Service covers.
    pub ports: BTreeMap<u16, InboundPort>,
    /// For ports that no Service covers.
    pub rate_limits: Vec<RateLimit>,
    /// For ports that no Service covers.
    pub admissions: Vec<Admission>,
    /// Every policy that took part.
    pub policies: Vec<PolicyReference>,
    /// Where reports go; `None`: to where the stream is.
    pub reports_address: Option<SocketAddr>,
    /// The id of the pod; `None` where the mesh has no identities.
    pub identity: Option<SpiffeId>,
    /// For ports that are not among `ports`.
    pub mtls: MtlsMode,
    /// Who may call.
    pub authorizations: Rules,
}

/// One port of the sidecar's own pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InboundPort {
    /// What is spoken there.
    pub protocol: Protocol,
    /// All apply.
    pub rate_limits: Vec<RateLimit>,
    /// What it takes without mutual TLS.
    pub mtls: MtlsMode,
    /// All apply, as one count.
    pub admissions: Vec<Admission>,
    /// It is unhealthy where one says so.
    pub health_checks: Vec<HealthCheck>,
}
