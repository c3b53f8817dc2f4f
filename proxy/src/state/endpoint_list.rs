//! The endpoints behind one port of a service, with what the balancer wants made
//! ready: nothing of it is made on the data path.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::snapshot::Endpoint;
use crate::balance::{Ring, Turns};
use crate::clock::Timestamp;
use crate::policy::config::LoadBalancing;
use crate::policy::config::balancing::Algorithm;

/// The endpoints behind one port of a service.
#[derive(Clone, Debug)]
pub struct EndpointList {
    /// In an order that does not depend on when they came.
    pub endpoints: Arc<[Endpoint]>,
    /// Whether all weights are the same.
    pub is_even: bool,
    /// By which algorithm one is chosen.
    pub plan: Plan,
    /// Whose turn it is, of all workers; the same before and after a change.
    pub position: Arc<AtomicU64>,
    /// Until then some have not their whole share.
    pub starting_until: Timestamp,
    /// Those that topology hints reserve for other zones; none: there are none.
    elsewhere: Option<Arc<[bool]>>,
}

/// An algorithm, with what it needs of a list.
#[derive(Clone, Debug, Default)]
pub enum Plan {
    /// Of two by chance the one with less latency and fewer requests.
    #[default]
    PeakEwma,
    /// Of two by chance the one with fewer requests.
    LeastRequest,
    /// By chance.
    Random,
    /// In turn.
    Turns(Arc<Turns>),
    /// Who calls alike is served alike.
    Ring(Arc<Ring>),
}

impl std::ops::Deref for EndpointList {
    type Target = [Endpoint];

    fn deref(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

impl EndpointList {
    /// Of these endpoints, in the place of `previous`, for a sidecar in `zone`;
    /// empty: nobody knows where.
    pub fn new(
        endpoints: Arc<[Endpoint]>,
        policy: &LoadBalancing,
        zone: &str,
        previous: Option<&Self>,
    ) -> Self {
        let is_even = endpoints
            .windows(2)
            .all(|pair| pair[0].config.weight == pair[1].config.weight);
        let is_elsewhere = |endpoint: &Endpoint| {
            let hints = &endpoint.config.hint_zones;
            !hints.is_empty() && !hints.iter().any(|hint| hint == zone)
        };
        let looks_at_zones = !zone.is_empty() && !policy.ignore_zones;
        let elsewhere = looks_at_zones && endpoints.iter().any(is_elsewhere);
        let starts = endpoints
            .iter()
            .map(|it| it.runtime.ripe_at(policy.slow_start));
        Self {
            is_even,
            plan: plan(&endpoints, policy),
            position: previous
                .map(|it| Arc::clone(&it.position))
                .unwrap_or_default(),
            starting_until: starts.max().unwrap_or_default(),
            elsewhere: elsewhere.then(|| endpoints.iter().map(is_elsewhere).collect()),
            endpoints,
        }
    }

    /// Whether topology hints reserve it for other zones.
    pub fn is_elsewhere(&self, index: usize) -> bool {
        match &self.elsewhere {
            None => false,
            Some(elsewhere) => elsewhere[index],
        }
    }
}

fn plan(endpoints: &[Endpoint], policy: &LoadBalancing) -> Plan {
    match &policy.algorithm {
        Algorithm::PeakEwma => Plan::PeakEwma,
        Algorithm::LeastRequest => Plan::LeastRequest,
        Algorithm::Random => Plan::Random,
        Algorithm::RoundRobin => {
            let weights: Vec<u32> = endpoints.iter().map(|it| it.config.weight).collect();
            Plan::Turns(Arc::new(Turns::new(&weights)))
        }
        Algorithm::ConsistentHash(hash) => {
            let names: Vec<(String, u32)> = endpoints
                .iter()
                .map(|it| (it.config.member(), it.config.weight))
                .collect();
            let members = names.iter().map(|(name, weight)| (name.as_str(), *weight));
            Plan::Ring(Arc::new(Ring::new(members, hash.load_bound_percent)))
        }
    }
}
