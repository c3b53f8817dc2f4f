//! What a policy says, parsed: the types that every state machine is built from.
//!
//! `state::decode` makes them from the stream's resources and checks the
//! bounds there, so nothing here needs checking again. SEMANTICS.md says what
//! each field means.
//!
//! # Layout
//! - this file: what is about limits, attempts and time.
//! - [`balancing`]: which endpoint; [`trouble`]: fallbacks and faults; [`health`]: probes.

pub mod balancing;
pub mod health;
pub mod trouble;

use std::sync::Arc;
use std::time::Duration;

pub use self::balancing::LoadBalancing;
pub use self::health::HealthCheck;
pub use self::trouble::{Fallback, Fault};

/// What a caller does with calls to one service. The default does nothing but
/// resend what never reached the application.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServicePolicy {
    /// `circuitBreaker`; absent: no limits, no breaker.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// `outbound`.
    pub outbound: Outbound,
    /// `retries`; absent: only what never reached the application is sent again.
    pub retries: Option<Retries>,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// Those with `enforcedAt: Caller`, in order.
    pub rate_limits: Vec<RateLimit>,
    /// `loadBalancing`.
    pub load_balancing: LoadBalancing,
    /// `fallback`.
    pub fallback: Option<Arc<Fallback>>,
    /// `fault`.
    pub fault: Option<Fault>,
    /// `healthCheck`, for endpoints without a sidecar of their own.
    pub health_check: Option<HealthCheck>,
}

/// `circuitBreaker`: the bulkhead and the trip.
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitBreaker {
    /// Over the whole service.
    pub limits: Limits,
    /// For each endpoint.
    pub per_endpoint: Limits,
    /// The breaker proper.
    pub trip: Trip,
}

/// Unset is not limited; zero refuses everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// Requests in flight.
    pub max_requests: Option<u32>,
    /// Retries in flight.
    pub max_retries: Option<u32>,
}

/// Whose failures are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each endpoint has a breaker.
    #[default]
    Endpoint,
    /// The service has one breaker.
    Service,
}

/// When the breaker opens and how it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Trip {
    /// Whose failures are counted together.
    pub scope: Scope,
    /// So many failures in a row open it; zero: failures in a row alone never do.
    pub consecutive_failures: u32,
    /// What a failure is.
    pub failures: Conditions,
    /// The first opening lasts so long.
    pub base_ejection: Duration,
    /// No opening lasts longer.
    pub max_ejection: Duration,
    /// A `Retry-After` of the endpoint prolongs the opening.
    pub honor_retry_after: bool,
    /// Half-open: attempts at a time; at least 1.
    pub probes: u32,
    /// Half-open: successes in a row that close it; at least 1.
    pub successes: u32,
    /// Of a service's endpoints at most so many are open, 0-100.
    pub max_ejected_percent: u32,
    /// So many endpoints are always kept.
    pub min_endpoints: u32,
    /// `failureRate`.
    pub failure_rate: Option<Rate>,
    /// `slowCallRate`.
    pub slow_calls: Option<SlowCalls>,
}

/// A share of the attempts of late that opens a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many of a hundred, 1-100.
    pub threshold_percent: u32,
    /// Attempts that ended within this count.
    pub window: Duration,
    /// Of fewer nothing is said; at least 1.
    pub min_requests: u32,
}

/// `slowCallRate`: the share of attempts that took longer than `duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowCalls {
    /// From the request's headers to the response's.
    pub duration: Duration,
    /// The share.
    pub rate: Rate,
}

impl Default for Trip {
    fn default() -> Self {
        Self {
            scope: Scope::Endpoint,
            consecutive_failures: 5,
            failures: Conditions::default_failures(),
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
            honor_retry_after: true,
            probes: 1,
            successes: 1,
            max_ejected_percent: 50,
            min_endpoints: 1,
            failure_rate: None,
            slow_calls: None,
        }
    }
}

/// How an attempt ended, as policies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// No connection came about, or the target's sidecar says that nothing
    /// reached the application.
    ConnectFailure,
    /// The upstream refused the stream before it acted on it.
    RefusedStream,
    /// The connection or stream broke.
    Reset,
    /// A deadline of the attempt passed.
    Timeout,
    /// A response, with its HTTP status and, for gRPC, its status code.
    Response {
        /// The HTTP status.
        status: u16,
        /// `grpc-status`, where there is one.
        grpc: Option<u8>,
    },
}

/// A set of ways in which an attempt can end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// [`AttemptEnd::ConnectFailure`]
    pub connect_failure: bool,
    /// [`AttemptEnd::RefusedStream`]
    pub refused_stream: bool,
    /// [`AttemptEnd::Reset`]
    pub reset: bool,
    /// [`AttemptEnd::Timeout`]
    pub timeout: bool,
    /// 502, 503, 504
    pub gateway_error: bool,
    /// 500-599
    pub server_error: bool,
    /// 409
    pub retriable_client_error: bool,
    /// These HTTP statuses.
    pub status_codes: Vec<u16>,
    /// These gRPC codes.
    pub grpc_codes: Vec<u8>,
}

impl Conditions {
    /// The default of `circuitBreaker.failures`.
    pub fn default_failures() -> Self {
        Self {
            connect_failure: true,
            reset: true,
            timeout: true,
            server_error: true,
            // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS
            grpc_codes: vec![2, 4, 13, 14, 15],
            ..Self::default()
        }
    }

    /// The default of `retries.on`.
    pub fn default_retries() -> Self {
        Self {
            connect_failure: true,
            refused_stream: true,
            reset: true,
            gateway_error: true,
            ..Self::default()
        }
    }

    /// Whether `end` is one of these.
    pub fn matches(&self, end: AttemptEnd) -> bool {
        match end {
            AttemptEnd::ConnectFailure => self.connect_failure,
            AttemptEnd::RefusedStream => self.refused_stream,
            AttemptEnd::Reset => self.reset,
            AttemptEnd::Timeout => self.timeout,
            AttemptEnd::Response { status, grpc } => {
                (self.gateway_error && matches!(status, 502..=504))
                    || (self.server_error && matches!(status, 500..=599))
                    || (self.retriable_client_error && status == 409)
                    || self.status_codes.contains(&status)
                    || grpc.is_some_and(|code| self.grpc_codes.contains(&code))
            }
        }
    }
}

/// `outbound`: how connections to the service are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Until a connection must stand.
    pub connect_timeout: Duration,
    /// An idle pooled connection is closed after this.
    pub idle_timeout: Duration,
    /// A connection is closed after so many requests.
    pub max_requests_per_connection: Option<u32>,
    /// A connection is drained and closed after about this.
    pub max_connection_age: Option<Duration>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(60),
            max_requests_per_connection: None,
            max_connection_age: None,
        }
    }
}

/// `retries`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Retries, not tries.
    pub attempts: u32,
    /// What is retried on.
    pub on: Conditions,
    /// Full jitter between zero and this, doubled with each retry.
    pub backoff_base: Duration,
    /// No wait is longer, `Retry-After` apart.
    pub backoff_max: Duration,
    /// `Retry-After` is waited for up to this; a longer one ends retrying.
    pub max_retry_after: Duration,
    /// A request with this header is safe to retry, lower case.
    pub idempotency_header: Option<String>,
    /// HTTP methods and gRPC methods (`/package.Service/Method`) that are safe to retry.
    pub methods: Vec<String>,
    /// How many retries the service bears.
    pub budget: RetryBudget,
    /// A body is kept for replay up to this.
    pub buffer_bytes: usize,
    /// `hedge`; also where `attempts` is zero.
    pub hedge: Option<Hedge>,
}

/// A second attempt beside one that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// How long it is waited for.
    pub after: HedgeAfter,
    /// At a request; at least 1.
    pub max: u32,
}

/// When a hedge is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// After this.
    Fixed(Duration),
    /// After this percentile of the service's latencies of late, 1-99.
    Percentile(u8),
}

/// In any window at most max(percent x requests, minimum x window) retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests in the window, 0-100.
    pub percent: u32,
    /// So many each second are always allowed.
    pub min_per_second: u32,
    /// The window; at least 1 s.
    pub window: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            min_per_second: 10,
            window: Duration::from_secs(10),
        }
    }
}

/// `timeouts`; unset is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// The whole, all attempts and backoffs.
    pub request: Option<Duration>,
    /// One attempt.
    pub per_try: Option<Duration>,
    /// No byte either way.
    pub idle: Option<Duration>,
    /// Of one attempt, until the response's headers.
    pub response_headers: Option<Duration>,
}

/// One entry of `rateLimits`.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Unique within its policy.
    pub name: Arc<str>,
    /// `namespace/policy`; together with `name` it identifies the bucket.
    pub policy: Arc<str>,
    /// So many in each `per`; zero refuses everything.
    pub requests: u32,
    /// The period.
    pub per: Duration,
    /// So many at once; at least 1 where `requests` is not zero.
    pub burst: u32,
    /// Which requests it counts.
    pub matches: Match,
    /// One bucket for each value of these; empty: one bucket.
    pub key: Vec<KeyPart>,
    /// Counted only, never refused.
    pub shadow: bool,
    /// Buckets at most; at least 1.
    pub max_keys: usize,
    /// `scope: Mesh`: the sidecar has a share of it, and refuses where it has none.
    pub mesh: bool,
}

/// All that is given must hold; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Any of these; empty: any method.
    pub methods: Vec<String>,
    /// The path, without the query.
    pub path: Option<PathMatch>,
    /// Each of these.
    pub headers: Vec<HeaderMatch>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This very path.
    Exact(String),
    /// Every path that begins so.
    Prefix(String),
}

/// A header with this very value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// The value.
    pub exact: String,
}

/// One part of a rate limit's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The value of this header, lower case name.
    Header(String),
    /// The caller's IP address.
    RemoteAddress,
    /// The path, without the query.
    Path,
    /// The method.
    Method,
    /// The caller's SPIFFE id.
    ClientIdentity,
}
