//! `circuitBreaker` and `outbound`: what is in flight, and what carries it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::trip::{FailureRate, SlowCallRate};
use crate::core::settings::defaults;
use crate::policy::bounds::{self, Pair};
use crate::policy::forms::{self, IntOrString};

const EJECTIONS: Pair = Pair {
    first: ("baseEjection", defaults::BASE_EJECTION_MS),
    second: ("maxEjection", defaults::MAX_EJECTION_MS),
};

/// Limits (a bulkhead) and the trip of endpoints that fail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = EJECTIONS.at_first())]
#[x_kube(validation = EJECTIONS.at_second())]
pub struct CircuitBreaker {
    /// The most connections at once from one sidecar to the service. 0 refuses everything.
    ///
    /// Default: not limited. Example: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// The most requests of one sidecar that wait for a connection at once; more are refused with
    /// 503. 0 lets none wait.
    ///
    /// Default: 1024, by each sidecar. Example: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// The most requests in flight at once from one sidecar to the service; more are refused with
    /// 503. 0 refuses everything.
    ///
    /// Default: not limited. Example: 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// The most retries in flight at once from one sidecar to the service. 0 lets none be retried.
    ///
    /// Default: not limited. Example: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_retries: Option<u32>,
    /// The same four limits for each endpoint by itself, beside those for the whole service.
    ///
    /// Example: {maxRequests: 50}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_endpoint: Option<Limits>,
    /// What the breaker takes out: the endpoint that fails (requests go to the others), or the
    /// whole service (requests are answered with 503 at once).
    ///
    /// Default: Endpoint. Example: Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// How many failures in a row open the breaker. A success starts the count again. 0: failures
    /// in a row alone never open it.
    ///
    /// Default: 5. Example: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub consecutive_failures: Option<u32>,
    /// Opens the breaker too where of the attempts that ended within the last window at least
    /// threshold failed, and there were at least minRequests.
    ///
    /// Example: {threshold: 50%, window: 10s, minRequests: 20}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<FailureRate>,
    /// Opens the breaker too where of the attempts that ended within the last window at least
    /// threshold took longer than duration, and there were at least minRequests. While it is half
    /// open, a slow attempt counts as a failure.
    ///
    /// Example: {duration: 1s, threshold: 50%, window: 10s, minRequests: 20}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_call_rate: Option<SlowCallRate>,
    /// What counts as a failure: 5xx, connect-failure, reset, timeout, gateway-error (502, 503,
    /// 504), refused-stream, retriable-4xx (409), a status code from 200 to 599, or the name of a
    /// gRPC code. What Remora itself refused never counts.
    ///
    /// Default: [5xx, connect-failure, reset, timeout, UNAVAILABLE, INTERNAL, UNKNOWN, DATA_LOSS, DEADLINE_EXCEEDED].
    /// Example: [5xx, reset, 429].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("items" = forms::condition()))]
    pub failures: Option<Vec<IntOrString>>,
    /// How long the breaker stays open the first time. It doubles with each further time, up to
    /// maxEjection, and must not be longer than that.
    ///
    /// Default: 10s. Example: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::EJECTION)]
    pub base_ejection: Option<String>,
    /// How long the breaker stays open at most.
    ///
    /// Default: 5m. Example: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::EJECTION)]
    pub max_ejection: Option<String>,
    /// Whether a Retry-After from the endpoint prolongs the ejection, up to maxEjection.
    ///
    /// Default: true. Example: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub honor_retry_after: Option<bool>,
    /// How many requests at a time a half-open breaker lets through to see whether the endpoint is
    /// well again.
    ///
    /// Default: 1. Example: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub probes: Option<u32>,
    /// How many successes in a row close a half-open breaker. One failure opens it again.
    ///
    /// Default: 1. Example: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub successes: Option<u32>,
    /// How many percent of the service's endpoints may be taken out at once. An endpoint above
    /// that is kept, and shown as would_open.
    ///
    /// Default: 50. Example: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub max_ejected_percent: Option<u32>,
    /// How many endpoints always stay, whatever their breakers would do.
    ///
    /// Default: 1. Example: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10_000))]
    pub min_endpoints: Option<u32>,
}

/// Limits for each endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// The most connections at once from one sidecar to one endpoint. 0 refuses everything.
    ///
    /// Default: not limited. Example: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// The most requests of one sidecar that wait for a connection to one endpoint at once. 0 lets
    /// none wait.
    ///
    /// Default: not limited. Example: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// The most requests in flight at once from one sidecar to one endpoint. 0 refuses everything.
    ///
    /// Default: not limited. Example: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// The most retries in flight at once from one sidecar to one endpoint. 0 lets none be retried
    /// there.
    ///
    /// Default: not limited. Example: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_retries: Option<u32>,
}

/// What a trip takes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum Scope {
    /// The endpoint that failed.
    Endpoint,
    /// The whole service.
    Service,
}

/// Connections from a sidecar to the targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outbound {
    /// How long connecting to an endpoint may take. After that it is a connect-failure.
    ///
    /// Default: 2s. Example: 500ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::CONNECT_TIMEOUT)]
    pub connect_timeout: Option<String>,
    /// How long a connection that nothing uses is kept for the next request.
    ///
    /// Default: 1m. Example: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::IDLE_TIMEOUT)]
    pub idle_timeout: Option<String>,
    /// After how many requests a connection is replaced by a new one.
    ///
    /// Default: not limited. Example: 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests_per_connection: Option<u32>,
    /// The age at which a connection takes no new requests and is replaced; each connection's own
    /// is a little different, so that not all go at once.
    ///
    /// Default: not limited. Example: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::CONNECTION_AGE)]
    pub max_connection_age: Option<String>,
}
