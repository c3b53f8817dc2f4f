//! What the workers read: one immutable picture of all that is known,
//! replaced whole.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::endpoint_list::EndpointList;
use super::resource::{EndpointConfig, ServiceConfig, WorkloadConfig};
use crate::clock::Timestamp;
use crate::policy::config::Scope;
use crate::routes::runtime::{PortRouting, Routing};
use crate::runtime::{EndpointRuntime, ServiceRuntime};

/// Uses closer together than this are one: workers do not fight for the cache line.
const USAGE_RESOLUTION: Duration = Duration::from_secs(1);

/// When something was last used; what is not used for long is no longer subscribed to.
#[derive(Debug)]
pub struct Usage(AtomicU64);

impl Usage {
    /// First used at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.as_nanos()))
    }

    /// Used at `now`.
    pub fn touch(&self, now: Timestamp) {
        if now.since(self.last()) >= USAGE_RESOLUTION {
            self.0.fetch_max(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// The last use, to a second.
    pub fn last(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// One endpoint and what all workers share about it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What the stream says of it.
    pub config: Arc<EndpointConfig>,
    /// Its breaker, limits and load; the same before and after a change of `config`.
    pub runtime: Arc<EndpointRuntime>,
}

/// A service, its endpoints, and what all workers share about it.
///
/// A connection that lives long holds it only for one request and asks
/// [`Snapshot::service`] again for the next: endpoints and policy change.
#[derive(Debug)]
pub struct Service {
    /// Its canonical name: `namespace/name`, or `pod/namespace/pod`.
    pub name: Arc<str>,
    /// What the stream says of it.
    pub config: Arc<ServiceConfig>,
    /// Limits, breakers, budget, counters; the same before and after a change of `config`.
    pub runtime: Arc<ServiceRuntime>,
    /// For each service port its endpoints, by rising port; within a port in an
    /// order that does not depend on when they came.
    pub endpoints_by_port: Vec<(u16, EndpointList)>,
    /// A pod reached by its own address: the pod, its port zero.
    pub pod: Option<Endpoint>,
    /// Where requests on its ports go, where it has routes.
    pub routing: Option<Arc<Routing>>,
    pub(super) usage: Arc<Usage>,
}

impl Service {
    /// The endpoints behind a port of the service; none when it has none or no such port.
    pub fn endpoints(&self, port: u16) -> Option<&EndpointList> {
        self.endpoints_by_port
            .binary_search_by_key(&port, |(port, _)| *port)
            .ok()
            .map(|at| &self.endpoints_by_port[at].1)
    }

    /// The routes of one of its ports.
    pub fn routes(&self, port: u16) -> Option<&PortRouting> {
        self.routing.as_ref()?.at(port)
    }

    /// The endpoints of every port, and the pod that is reached directly.
    pub fn all_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let listed = self
            .endpoints_by_port
            .iter()
            .flat_map(|(_, list)| list.endpoints.iter());
        listed.chain(self.pod.iter())
    }

    /// Whether it is a pod reached by its own address, which has no other endpoint.
    pub fn is_direct(&self) -> bool {
        self.pod.is_some()
    }

    /// Whether the breaker is the service's and not each endpoint's.
    pub fn has_service_breaker(&self) -> bool {
        let breaker = self.config.policy.circuit_breaker.as_ref();
        breaker.is_some_and(|breaker| breaker.trip.scope == Scope::Service)
    }

    /// Notes that it is in use, so that it stays subscribed to.
    pub fn touch(&self, now: Timestamp) {
        self.usage.touch(now);
    }
}

/// What the sidecar enforces for its own pod.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What the stream says of it.
    pub config: Arc<WorkloadConfig>,
}

/// What is known of an address or a name.
#[derive(Clone, Debug)]
pub enum Known {
    /// It belongs to this service.
    Service(Arc<Service>),
    /// It belongs to nothing in the mesh.
    Unknown(Arc<Usage>),
    /// It belongs to something whose configuration cannot be taken.
    Refused(Arc<Usage>),
}

/// The picture.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) services: HashMap<Arc<str>, Arc<Service>>,
    pub(super) addresses: HashMap<IpAddr, Known>,
    pub(super) names: HashMap<Arc<str>, Known>,
    pub(super) workload: Option<Workload>,
}

impl Snapshot {
    /// What is known of `address`; `None`: it was never asked for, or the answer is under way.
    pub fn address(&self, address: IpAddr) -> Option<&Known> {
        self.addresses.get(&address.to_canonical())
    }

    /// What is known of a service called `namespace/name`, if it was asked for by name.
    pub fn name(&self, name: &str) -> Option<&Known> {
        self.names.get(name)
    }

    /// The service with this canonical name as it is now.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// All services that are subscribed to.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The sidecar's own pod, once it has arrived.
    pub fn workload(&self) -> Option<&Workload> {
        self.workload.as_ref()
    }
}
