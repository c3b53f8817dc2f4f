//! What all workers of the sidecar share about a service and about each of its
//! endpoints, and what outlives a change of their configuration.

use crate::policy::config::ServicePolicy;

/// Shared state of one service: limits, breakers, budget, buckets, counters.
#[derive(Debug)]
pub struct ServiceRuntime {}

impl ServiceRuntime {
    /// State for a service that is seen for the first time. `name` is `namespace/name`.
    pub fn new(_name: &str, _policy: &ServicePolicy) -> Self {
        Self {}
    }

    /// Takes a changed policy over; what is counted stays.
    pub fn reconfigure(&self, _policy: &ServicePolicy) {}
}

/// Shared state of one endpoint: its breaker, limits and load.
#[derive(Debug)]
pub struct EndpointRuntime {}

impl EndpointRuntime {
    /// State for an endpoint that is seen for the first time; `name` is its pod, or its address.
    pub fn new(_service: &ServiceRuntime, _name: &str) -> Self {
        Self {}
    }
}
