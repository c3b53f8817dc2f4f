//! What all workers of the sidecar share about a service and about each of its
//! endpoints, and what outlives a change of their configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::balance::LoadMeter;
use crate::metrics::counters::Traffic;
use crate::policy::breaker::{BreakerSet, EndpointBreaker, Journal};
use crate::policy::budget::Budget;
use crate::policy::config::{self, ServicePolicy};
use crate::policy::limit::{Kind, Limits, Permit};
use crate::policy::rate_limit::RateLimiter;

/// Tells services and endpoints apart in the workers' pools.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// Shared state of one service: limits, breakers, budget, buckets, counters.
#[derive(Debug)]
pub struct ServiceRuntime {
    /// Unique in this process.
    pub id: u64,
    /// `namespace/name`.
    pub name: Arc<str>,
    /// `circuitBreaker`'s limits over the whole service.
    pub limits: Arc<Limits>,
    /// The breakers of its endpoints, or of the whole.
    pub breakers: Arc<BreakerSet>,
    /// How many retries it bears.
    pub budget: Budget,
    /// Rate limits with `enforcedAt: Caller`.
    pub rate_limiter: RateLimiter,
    /// What is counted.
    pub traffic: Traffic,
    /// A connection was closed while somebody waited for one.
    pub connection_freed: Notify,
}

impl ServiceRuntime {
    /// State for a service that is seen for the first time. `name` is
    /// `namespace/name`; `mark_only` for a pod that is reached by its own address.
    pub fn new(name: &str, policy: &ServicePolicy, mark_only: bool, journal: &Arc<Journal>) -> Self {
        let breaker = policy.circuit_breaker.as_ref();
        Self {
            id: next_id(),
            name: name.into(),
            limits: Limits::new(&breaker.map(|breaker| breaker.limits).unwrap_or_default()),
            breakers: BreakerSet::new(name, breaker.map(|breaker| &breaker.trip), mark_only, Arc::clone(journal)),
            budget: Budget::new(policy.retries.as_ref().map(|retries| retries.budget).unwrap_or_default()),
            rate_limiter: RateLimiter::new(&policy.rate_limits),
            traffic: Traffic::default(),
            connection_freed: Notify::new(),
        }
    }

    /// Takes a changed policy over; what is counted stays.
    pub fn reconfigure(&self, policy: &ServicePolicy) {
        let breaker = policy.circuit_breaker.as_ref();
        self.limits.reconfigure(&breaker.map(|breaker| breaker.limits).unwrap_or_default());
        self.breakers.reconfigure(breaker.map(|breaker| &breaker.trip));
        self.budget.reconfigure(policy.retries.as_ref().map(|retries| retries.budget).unwrap_or_default());
        self.rate_limiter.reconfigure(&policy.rate_limits);
    }

    /// Whether a request waits for a connection.
    pub fn somebody_waits(&self) -> bool {
        self.limits.in_use(Kind::Pending) > 0
    }
}

/// Shared state of one endpoint: its breaker, limits and load.
#[derive(Debug)]
pub struct EndpointRuntime {
    /// Unique in this process.
    pub id: u64,
    /// Its pod, or its address.
    pub name: Arc<str>,
    /// `circuitBreaker.perEndpoint`.
    pub limits: Arc<Limits>,
    /// Its breaker.
    pub breaker: Arc<EndpointBreaker>,
    /// How loaded it seems.
    pub load: LoadMeter,
    /// Attempts so far.
    pub attempts: AtomicU64,
    /// Attempts that failed, as the policy counts failures.
    pub failures: AtomicU64,
}

impl EndpointRuntime {
    /// State for an endpoint that is seen for the first time; `name` is its pod, or its address.
    pub fn new(service: &ServiceRuntime, name: &str, limits: &config::Limits) -> Self {
        Self {
            id: next_id(),
            name: name.into(),
            limits: Limits::new(limits),
            breaker: service.breakers.endpoint(name),
            load: LoadMeter::default(),
            attempts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }
}

/// What an open connection holds of its service's and its endpoint's limits.
#[derive(Debug)]
pub struct ConnectionPermits {
    /// Dropped before anyone is told.
    held: Option<(Permit, Permit)>,
    service: Arc<ServiceRuntime>,
}

impl ConnectionPermits {
    /// Takes both, or neither.
    pub fn try_acquire(service: &Arc<ServiceRuntime>, endpoint: &EndpointRuntime) -> Option<Self> {
        let of_service = service.limits.try_acquire(Kind::Connections)?;
        let of_endpoint = endpoint.limits.try_acquire(Kind::Connections)?;
        Some(Self { held: Some((of_service, of_endpoint)), service: Arc::clone(service) })
    }
}

impl Drop for ConnectionPermits {
    fn drop(&mut self) {
        self.held = None;
        if self.service.somebody_waits() {
            self.service.connection_freed.notify_one();
        }
    }
}
