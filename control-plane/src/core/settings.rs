//! What one policy says, parsed: leaf fields with their units gone, each
//! unset where the policy is silent. Merging is leaf by leaf, defaults are
//! filled in only after it.
//!
//! # Layout
//! - here: the whole, and what was there first.
//! - [`balancing`], [`admission`], [`health`], [`trouble`]: a block or two each, with their
//!   merging, their defaults, and what sidecars get of them.

pub mod admission;
pub mod balancing;
pub mod health;
pub mod trouble;

use std::collections::BTreeMap;

use remora_proto::v1;

use super::mtls::stricter;
pub use admission::Admission;
pub use balancing::LoadBalancing;
pub use health::HealthCheck;
pub use trouble::{Fallback, Fault};

/// All that one policy says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `circuitBreaker`
    pub circuit_breaker: Option<CircuitBreaker>,
    /// `outbound`
    pub outbound: Option<Outbound>,
    /// `retries`
    pub retries: Option<Retries>,
    /// `timeouts`
    pub timeouts: Option<v1::Timeouts>,
    /// `rateLimits`, in the order written.
    pub rate_limits: Option<Vec<RateLimit>>,
    /// `mtls`
    pub mtls: Option<Mtls>,
    /// `admission`
    pub admission: Option<Admission>,
    /// `loadBalancing`
    pub load_balancing: Option<LoadBalancing>,
    /// `healthCheck`
    pub health_check: Option<HealthCheck>,
    /// `fallback`
    pub fallback: Option<Fallback>,
    /// `fault`
    pub fault: Option<Fault>,
}

/// `mtls`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mtls {
    /// `mode`
    pub mode: Option<v1::MtlsMode>,
    /// `ports`
    pub ports: BTreeMap<u16, v1::MtlsMode>,
}

/// `circuitBreaker`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CircuitBreaker {
    /// The service's limits.
    pub limits: v1::Limits,
    /// `perEndpoint`
    pub per_endpoint: Option<v1::Limits>,
    /// `scope`
    pub scope: Option<v1::trip::Scope>,
    /// `consecutiveFailures`
    pub consecutive_failures: Option<u32>,
    /// `failureRate`
    pub failure_rate: Option<Rate>,
    /// `slowCallRate`
    pub slow_call_rate: Option<SlowCallRate>,
    /// `failures`
    pub failures: Option<v1::Conditions>,
    /// `baseEjection`
    pub base_ejection_ms: Option<u64>,
    /// `maxEjection`
    pub max_ejection_ms: Option<u64>,
    /// `honorRetryAfter`
    pub honor_retry_after: Option<bool>,
    /// `probes`
    pub probes: Option<u32>,
    /// `successes`
    pub successes: Option<u32>,
    /// `maxEjectedPercent`
    pub max_ejected_percent: Option<u32>,
    /// `minEndpoints`
    pub min_endpoints: Option<u32>,
}

/// `circuitBreaker.failureRate`, and the same of `slowCallRate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// `threshold`
    pub threshold_percent: Option<u32>,
    /// `window`
    pub window_ms: Option<u64>,
    /// `minRequests`
    pub min_requests: Option<u32>,
}

/// `circuitBreaker.slowCallRate`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowCallRate {
    /// `duration`
    pub duration_ms: Option<u64>,
    /// The rest of it.
    pub rate: Rate,
}

/// `outbound`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outbound {
    /// `connectTimeout`
    pub connect_timeout_ms: Option<u64>,
    /// `idleTimeout`
    pub idle_timeout_ms: Option<u64>,
    /// `maxRequestsPerConnection`
    pub max_requests_per_connection: Option<u32>,
    /// `maxConnectionAge`
    pub max_connection_age_ms: Option<u64>,
}

/// `retries`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retries {
    /// `attempts`
    pub attempts: Option<u32>,
    /// `on`
    pub on: Option<v1::Conditions>,
    /// `backoff.base`
    pub backoff_base_ms: Option<u64>,
    /// `backoff.max`
    pub backoff_max_ms: Option<u64>,
    /// `maxRetryAfter`
    pub max_retry_after_ms: Option<u64>,
    /// `idempotencyHeader`, lower case.
    pub idempotency_header: Option<String>,
    /// `methods`
    pub methods: Option<Vec<String>>,
    /// `budget.percent`
    pub budget_percent: Option<u32>,
    /// `budget.minPerSecond`
    pub budget_min_per_second: Option<u32>,
    /// `budget.window`
    pub budget_window_ms: Option<u64>,
    /// `bufferBytes`
    pub buffer_bytes: Option<u64>,
    /// `hedge`
    pub hedge: Option<Hedge>,
}

/// `retries.hedge`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hedge {
    /// `after`
    pub after: Option<v1::hedge::After>,
    /// `max`
    pub max: Option<u32>,
}

/// One of `rateLimits`.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Whether the sidecar of each caller counts, instead of the target's.
    pub at_caller: bool,
    /// The limit itself, complete.
    pub limit: v1::RateLimit,
}

/// Defaults of SEMANTICS, by the name of the field.
pub mod defaults {
    /// `circuitBreaker.consecutiveFailures`
    pub const CONSECUTIVE_FAILURES: u32 = 5;
    /// `circuitBreaker.baseEjection`
    pub const BASE_EJECTION_MS: u64 = 10_000;
    /// `circuitBreaker.maxEjection`
    pub const MAX_EJECTION_MS: u64 = 300_000;
    /// `circuitBreaker.maxEjectedPercent`
    pub const MAX_EJECTED_PERCENT: u32 = 50;
    /// `circuitBreaker.minEndpoints`
    pub const MIN_ENDPOINTS: u32 = 1;
    /// `outbound.connectTimeout`
    pub const CONNECT_TIMEOUT_MS: u64 = 2_000;
    /// `outbound.idleTimeout`
    pub const IDLE_TIMEOUT_MS: u64 = 60_000;
    /// `retries.backoff.base`
    pub const BACKOFF_BASE_MS: u64 = 25;
    /// `retries.backoff.max`
    pub const BACKOFF_MAX_MS: u64 = 250;
    /// `retries.maxRetryAfter`
    pub const MAX_RETRY_AFTER_MS: u64 = 10_000;
    /// `retries.budget.percent`
    pub const BUDGET_PERCENT: u32 = 20;
    /// `retries.budget.minPerSecond`
    pub const BUDGET_MIN_PER_SECOND: u32 = 10;
    /// `retries.budget.window`
    pub const BUDGET_WINDOW_MS: u64 = 10_000;
    /// `retries.bufferBytes`
    pub const BUFFER_BYTES: u64 = 64 * 1024;
    /// `rateLimits[].maxKeys`
    pub const MAX_KEYS: u32 = 10_000;
    /// `circuitBreaker.failureRate` and `slowCallRate`
    pub const RATE: super::Rate = super::Rate {
        threshold_percent: Some(50),
        window_ms: Some(10_000),
        min_requests: Some(20),
    };
    /// `retries.hedge`
    pub const HEDGE: super::Hedge = super::Hedge {
        after: Some(remora_proto::v1::hedge::After::AfterPercentile(95)),
        max: Some(1),
    };
    pub use super::admission::{ADAPTIVE_MAX_REQUESTS, ADAPTIVE_MIN_REQUESTS};
    pub use super::health::{PROBE_INTERVAL_MS, PROBE_TIMEOUT_MS, UNHEALTHY_THRESHOLD};
}

impl Settings {
    /// Leaf by leaf what `self` says, and where it is silent what `general` says.
    pub fn over(self, general: &Self) -> Self {
        Self {
            circuit_breaker: both(
                self.circuit_breaker,
                &general.circuit_breaker,
                CircuitBreaker::over,
            ),
            outbound: both(self.outbound, &general.outbound, Outbound::over),
            retries: both(self.retries, &general.retries, Retries::over),
            timeouts: both(self.timeouts, &general.timeouts, timeouts_over),
            rate_limits: self.rate_limits.or_else(|| general.rate_limits.clone()),
            mtls: both(self.mtls, &general.mtls, Mtls::over),
            admission: both(self.admission, &general.admission, Admission::over),
            load_balancing: both(
                self.load_balancing,
                &general.load_balancing,
                LoadBalancing::over,
            ),
            health_check: both(self.health_check, &general.health_check, HealthCheck::over),
            fallback: both(self.fallback, &general.fallback, Fallback::over),
            fault: both(self.fault, &general.fault, Fault::over),
        }
    }
}

fn both<T: Clone>(specific: Option<T>, general: &Option<T>, over: fn(T, &T) -> T) -> Option<T> {
    match (specific, general) {
        (Some(specific), Some(general)) => Some(over(specific, general)),
        (Some(specific), None) => Some(specific),
        (None, general) => general.clone(),
    }
}

impl Mtls {
    /// What is said of a port.
    pub fn at(&self, port: u16) -> Option<v1::MtlsMode> {
        self.ports.get(&port).copied().or(self.mode)
    }

    /// Of each port the strictest of what both say.
    fn over(self, general: &Self) -> Self {
        let strictest =
            |one: Option<v1::MtlsMode>, other| one.into_iter().chain(other).reduce(stricter);
        let named = self.ports.keys().chain(general.ports.keys());
        let ports = named.filter_map(|port| {
            let mode = strictest(self.at(*port), general.at(*port))?;
            Some((*port, mode))
        });
        Self {
            ports: ports.collect(),
            mode: strictest(self.mode, general.mode),
        }
    }
}

impl CircuitBreaker {
    fn over(self, general: &Self) -> Self {
        Self {
            limits: limits_over(self.limits, &general.limits),
            per_endpoint: both(self.per_endpoint, &general.per_endpoint, limits_over),
            scope: self.scope.or(general.scope),
            consecutive_failures: self.consecutive_failures.or(general.consecutive_failures),
            failure_rate: both(self.failure_rate, &general.failure_rate, Rate::over),
            slow_call_rate: both(
                self.slow_call_rate,
                &general.slow_call_rate,
                SlowCallRate::over,
            ),
            failures: self.failures.or_else(|| general.failures.clone()),
            base_ejection_ms: self.base_ejection_ms.or(general.base_ejection_ms),
            max_ejection_ms: self.max_ejection_ms.or(general.max_ejection_ms),
            honor_retry_after: self.honor_retry_after.or(general.honor_retry_after),
            probes: self.probes.or(general.probes),
            successes: self.successes.or(general.successes),
            max_ejected_percent: self.max_ejected_percent.or(general.max_ejected_percent),
            min_endpoints: self.min_endpoints.or(general.min_endpoints),
        }
    }
}

impl Rate {
    pub(super) fn over(self, general: &Self) -> Self {
        Self {
            threshold_percent: self.threshold_percent.or(general.threshold_percent),
            window_ms: self.window_ms.or(general.window_ms),
            min_requests: self.min_requests.or(general.min_requests),
        }
    }
}

impl SlowCallRate {
    fn over(self, general: &Self) -> Self {
        Self {
            duration_ms: self.duration_ms.or(general.duration_ms),
            rate: self.rate.over(&general.rate),
        }
    }
}

impl Hedge {
    pub(super) fn over(self, general: &Self) -> Self {
        Self {
            after: self.after.or(general.after),
            max: self.max.or(general.max),
        }
    }
}

fn limits_over(specific: v1::Limits, general: &v1::Limits) -> v1::Limits {
    v1::Limits {
        max_connections: specific.max_connections.or(general.max_connections),
        max_pending_requests: specific
            .max_pending_requests
            .or(general.max_pending_requests),
        max_requests: specific.max_requests.or(general.max_requests),
        max_retries: specific.max_retries.or(general.max_retries),
    }
}

fn timeouts_over(specific: v1::Timeouts, general: &v1::Timeouts) -> v1::Timeouts {
    v1::Timeouts {
        request_ms: specific.request_ms.or(general.request_ms),
        per_try_ms: specific.per_try_ms.or(general.per_try_ms),
        idle_ms: specific.idle_ms.or(general.idle_ms),
        response_headers_ms: specific.response_headers_ms.or(general.response_headers_ms),
    }
}

impl Outbound {
    fn over(self, general: &Self) -> Self {
        let requests = general.max_requests_per_connection;
        Self {
            connect_timeout_ms: self.connect_timeout_ms.or(general.connect_timeout_ms),
            idle_timeout_ms: self.idle_timeout_ms.or(general.idle_timeout_ms),
            max_requests_per_connection: self.max_requests_per_connection.or(requests),
            max_connection_age_ms: self.max_connection_age_ms.or(general.max_connection_age_ms),
        }
    }
}

impl Retries {
    fn over(self, general: &Self) -> Self {
        let header = || general.idempotency_header.clone();
        Self {
            attempts: self.attempts.or(general.attempts),
            on: self.on.or_else(|| general.on.clone()),
            backoff_base_ms: self.backoff_base_ms.or(general.backoff_base_ms),
            backoff_max_ms: self.backoff_max_ms.or(general.backoff_max_ms),
            max_retry_after_ms: self.max_retry_after_ms.or(general.max_retry_after_ms),
            idempotency_header: self.idempotency_header.or_else(header),
            methods: self.methods.or_else(|| general.methods.clone()),
            budget_percent: self.budget_percent.or(general.budget_percent),
            budget_min_per_second: self.budget_min_per_second.or(general.budget_min_per_second),
            budget_window_ms: self.budget_window_ms.or(general.budget_window_ms),
            buffer_bytes: self.buffer_bytes.or(general.buffer_bytes),
            hedge: both(self.hedge, &general.hedge, Hedge::over),
        }
    }
}
