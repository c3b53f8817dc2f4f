//! The custom resource as users write it: strings with units, every field
//! optional. Its meaning is in [`super::parse`]; the bounds that one field
//! alone can show are in the schema, so that an API server refuses the same
//! objects as the file source does.

use std::borrow::Cow;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How calls to the targets are treated. What each field means, exactly, is
/// in the documentation of the policy's blocks; an absent block does nothing,
/// a present and empty one gives its defaults.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "remora.io",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    namespaced,
    shortname = "tp",
    status = "TrafficPolicyStatus",
    doc = "How calls to a Service, or to every Service of a Namespace, are limited, broken off, retried and timed out."
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// What the policy is for: Services of its own namespace, or that namespace itself.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Limits of what is in flight, and the breaker that takes failing endpoints out.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Connections to the targets.
    pub outbound: Option<Outbound>,
    /// What is sent again, how often and when.
    pub retries: Option<Retries>,
    /// How long a call may take; unset is not limited.
    pub timeouts: Option<Timeouts>,
    /// Rates that all must admit a request. A list at a Service replaces the Namespace's.
    #[schemars(length(max = 32))]
    pub rate_limits: Option<Vec<RateLimit>>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// The API group of the target: empty, the core group.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// The kind of the target.
    pub kind: TargetKind,
    /// The target's name; for a Namespace, the policy's own namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What a policy may be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// One Service.
    Service,
    /// Every Service of the policy's namespace, by default.
    Namespace,
}

/// Limits (a bulkhead) and the trip of endpoints that fail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Connections at once to the service, from one sidecar. 0 refuses everything.
    #[schemars(range(max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection at once. 0 lets none wait.
    #[schemars(range(max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// Requests in flight at once. 0 refuses everything.
    #[schemars(range(max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// Retries in flight at once. 0 lets none be retried.
    #[schemars(range(max = 1_000_000))]
    pub max_retries: Option<u32>,
    /// The same limits for each endpoint.
    pub per_endpoint: Option<Limits>,
    /// What opens: the failing endpoint (default), or the whole service.
    pub scope: Option<Scope>,
    /// Failures in a row that open the breaker. Default 5.
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: Option<u32>,
    /// What counts as a failure: `5xx`, `connect-failure`, `reset`, `timeout`, `gateway-error`,
    /// `refused-stream`, `retriable-4xx`, status codes, gRPC codes by name.
    #[schemars(length(max = 64))]
    pub failures: Option<Vec<IntOrString>>,
    /// How long the breaker stays open at first; doubles with each time. Default 10s.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub base_ejection: Option<String>,
    /// How long it stays open at most. Default 300s.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub max_ejection: Option<String>,
    /// Whether an endpoint's Retry-After prolongs. Default true.
    pub honor_retry_after: Option<bool>,
    /// Attempts at a time while half open. Default 1.
    #[schemars(range(min = 1, max = 100))]
    pub probes: Option<u32>,
    /// Successes in a row that close it again. Default 1.
    #[schemars(range(min = 1, max = 100))]
    pub successes: Option<u32>,
    /// Percent of the service's endpoints that may be open at once. Default 50.
    #[schemars(range(max = 100))]
    pub max_ejected_percent: Option<u32>,
    /// Endpoints that are never taken out. Default 1.
    #[schemars(range(max = 10_000))]
    pub min_endpoints: Option<u32>,
}

/// Limits for each endpoint; unset is not limited, 0 refuses everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Connections at once.
    #[schemars(range(max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection at once.
    #[schemars(range(max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// Requests in flight at once.
    #[schemars(range(max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// Retries in flight at once.
    #[schemars(range(max = 1_000_000))]
    pub max_retries: Option<u32>,
}

/// What a trip takes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// The endpoint that failed.
    Endpoint,
    /// The whole service.
    Service,
}

/// Connections from a sidecar to the targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outbound {
    /// How long connecting may take. Default 2s.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub connect_timeout: Option<String>,
    /// How long an unused connection is kept. Default 60s.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub idle_timeout: Option<String>,
    /// Requests after which a connection is replaced.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests_per_connection: Option<u32>,
    /// Age at which a connection is drained and replaced, with jitter.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub max_connection_age: Option<String>,
}

/// What is sent again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retries {
    /// Retries (not tries). Default 0, off.
    #[schemars(range(max = 10))]
    pub attempts: Option<u32>,
    /// What is retried on; default connect-failure, refused-stream, reset, gateway-error.
    #[schemars(length(max = 64))]
    pub on: Option<Vec<IntOrString>>,
    /// The wait before a retry, with full jitter.
    pub backoff: Option<Backoff>,
    /// A Retry-After is waited for up to this. Default 10s.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub max_retry_after: Option<String>,
    /// A request that carries this header is safe to send again.
    #[schemars(length(min = 1, max = 128))]
    pub idempotency_header: Option<String>,
    /// Further methods that are safe to send again: `POST`, `/package.Service/Method`.
    #[schemars(length(max = 64))]
    pub methods: Option<Vec<String>>,
    /// How many retries there may be beside the requests.
    pub budget: Option<Budget>,
    /// How much of a request's body is kept for sending it again. Default 64KiB, at most 16MiB.
    pub buffer_bytes: Option<IntOrString>,
}

/// Waits between tries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backoff {
    /// Before the first retry; doubles. Default 25ms.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub base: Option<String>,
    /// At most. Default 250ms.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub max: Option<String>,
}

/// In any window at most max(percent of the requests, minPerSecond x window) retries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// Percent of the requests. Default 20.
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// Retries each second that are always allowed. Default 10.
    #[schemars(range(max = 100_000))]
    pub min_per_second: Option<u32>,
    /// The window. Default 10s.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub window: Option<String>,
}

/// Limits of time; unset is not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// The whole request, all tries and waits.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub request: Option<String>,
    /// One try.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub per_try: Option<String>,
    /// No byte either way.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub idle: Option<String>,
    /// Until the response's headers.
    #[schemars(extend("pattern" = DURATION_PATTERN))]
    pub response_headers: Option<String>,
}

/// One rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Unique within the policy; names the limit in metrics and logs.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The rate.
    pub limit: Rate,
    /// Which requests it is for; absent: all.
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    /// One bucket for each value: remoteAddress, path, method, `header:NAME`. Absent: one bucket.
    #[schemars(length(max = 8))]
    pub key: Option<Vec<String>>,
    /// Who counts: the target's sidecar (default) or each caller's.
    pub enforced_at: Option<EnforcedAt>,
    /// Enforce (default), or Shadow: count what would be refused and let it through.
    pub mode: Option<Mode>,
    /// Buckets at most. Default 10000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_keys: Option<u32>,
}

/// Requests in each period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rate {
    /// Requests in each period; 0 refuses everything.
    #[schemars(range(max = 10_000_000))]
    pub requests: u32,
    /// The period.
    pub per: Period,
    /// Requests at once; default 100 ms worth, at least 1.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub burst: Option<u32>,
}

/// The period of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

/// Which requests a limit is for: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// Any of these HTTP methods.
    #[schemars(length(max = 16))]
    pub methods: Option<Vec<String>>,
    /// The path without the query.
    pub path: Option<PathMatch>,
    /// Each of these headers.
    #[schemars(length(max = 16))]
    pub headers: Option<Vec<HeaderMatch>>,
}

/// Exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// This path.
    #[schemars(length(min = 1, max = 1024))]
    pub exact: Option<String>,
    /// Paths that begin so.
    #[schemars(length(min = 1, max = 1024))]
    pub prefix: Option<String>,
}

/// A header with this value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// The header's name; case does not matter.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its value, exactly.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// Where a rate limit is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EnforcedAt {
    /// By the sidecar of the pod that is called.
    Target,
    /// By the sidecar of each caller.
    Caller,
}

/// Whether a rate limit refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// What is over the limit is refused.
    Enforce,
    /// What is over the limit is counted and let through.
    Shadow,
}

/// What became of the policy (GEP-713, and what the sidecars say).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyStatus {
    /// The generation that the conditions are about.
    pub observed_generation: Option<i64>,
    /// Each target, and whether the policy is in force there.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<AncestorStatus>,
    /// `Accepted` over all targets: true where the policy is in force on every one.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<StatusCondition>,
    /// The sidecars that the policy concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarCounts>,
    /// The breakers of callers, for endpoints of the services on which the policy is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakers: Option<BreakerCounts>,
}

/// The policy on one of its targets (GEP-713, PolicyAncestorStatus).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The target.
    pub ancestor_ref: AncestorReference,
    /// Who says so: `remora.io/control-plane`.
    pub controller_name: String,
    /// `Accepted`, with the reason.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<StatusCondition>,
}

/// A target as a status names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorReference {
    /// The API group: empty, the core group.
    #[serde(default)]
    pub group: String,
    /// `Service` or `Namespace`.
    pub kind: String,
    /// The namespace of a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

/// Sidecars by what they make of the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarCounts {
    /// Subscribed to a resource in which the policy takes part.
    pub total: u32,
    /// Of these, such as have the present version of every one.
    pub applied: u32,
    /// Of these, such as refuse one; the Events say why.
    pub refused: u32,
}

/// Breakers that are not closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerCounts {
    /// Traffic is refused.
    pub open: u32,
    /// Traffic is tried.
    pub half_open: u32,
}

/// As `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusCondition {
    /// `Accepted`.
    pub r#type: String,
    /// `True` or `False`.
    pub status: String,
    /// One word: Accepted, Conflicted, TargetNotFound, Invalid.
    pub reason: String,
    /// In words.
    pub message: String,
    /// When `status` last changed, RFC 3339.
    pub last_transition_time: Option<String>,
    /// The generation that this is about.
    pub observed_generation: Option<i64>,
}

/// The form of a duration (GEP-2257): `250ms`, `10s`, `5m`, `1m30s`.
pub const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A number or a string, as Kubernetes allows in quantities and codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A string.
    String(String),
}

impl JsonSchema for IntOrString {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}
