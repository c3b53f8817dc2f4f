//! The custom resource as users write it: strings with units, every field
//! optional. Its meaning is in [`super::parse`]; whatever one object alone can
//! show to be wrong is in the schema, so that an API server refuses the same
//! objects as the file source does.
//!
//! - The doc comments here are what `kubectl explain` shows: what a field does,
//!   its unit, then `Default: … . Example: … .` The bounds are added from the
//!   schema itself ([`super::definition`]).
//! - No leaf field has a default in the schema, but in its description. The API
//!   server writes such defaults into the stored object, where they look as if
//!   the user had set them: a Service's policy that is silent about a field
//!   would beat its Namespace's policy, which is not.
//! - `deny_unknown_fields` holds for files. An API server prunes fields that it
//!   does not know; kubectl asks it to refuse them by name
//!   (`--validate=strict`, its default).
//! - Whether a namespace is the policy's own (of a target of kind Namespace, of a
//!   fallback's Service) cannot be seen by rules of a schema (they know only the name
//!   of the object's own metadata): the control plane judges it, and says so in
//!   `status`.

mod admission;
mod balancing;
mod breaker;
mod fallback;
mod fault;
mod health;
mod mtls;
mod rates;
mod retries;
mod routes;
mod scope;
mod trip;

use kube::core::{Reason, Rule};
use kube::{CustomResource, KubeSchema};
use remora_proto::bounds::MAX_POLICY_RATE_LIMITS;
use serde::{Deserialize, Serialize};

pub use admission::{
    Adaptive, Admission, Priorities, Priority, PriorityRule, TRUSTS_SOMEBODY, Trusted,
};
pub use balancing::{
    Algorithm, ConsistentHash, CookieLifetime, HASH_GIVEN, HASH_WANTED, LoadBalancing,
    PERMANENT_ENDS, SessionPersistence, SessionType, SlowStart, Zones,
};
pub use breaker::{CircuitBreaker, Limits, Outbound, Scope};
pub use fallback::{BackendRef, Fallback, Field, ONE_ACTION, OTHER_SERVICE, Refusal, Response};
pub use fault::{Abort, Delay, Fault, ONE_END, RESET_IS_TRUE};
pub use health::{GrpcCheck, HealthCheck, HttpCheck, ONE_CHECK, TcpCheck};
pub use mtls::{Mtls, MtlsMode};
pub use rates::{
    EnforcedAt, HeaderMatch, LimitScope, Match, Mode, PathMatch, Period, Rate, RateLimit,
};
pub use retries::{Backoff, Budget, Hedge, Retries, Timeouts};
pub use routes::{AT_CALLER, NOT_OF_ROUTES, OF_SERVICES};
pub use scope::{
    AttachKind, AttachRef, GROUP_FITS, LabelExpression, ONE_SCOPE, Operator, PodSelector,
    SECTION_FITS, TargetKind, TargetRef, VALUES_FIT, attached_differ, one_scope, targets_differ,
};
pub use trip::{FailureRate, SlowCallRate};

use super::status::TrafficPolicyStatus;

/// How calls to the targets are treated. A block that is absent does nothing; one that is present
/// and empty gives its defaults. Where a rule, its route, the Service and its Namespace have
/// policies, the first in this order wins field by field, and a list replaces a list.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "remora.io",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    namespaced,
    shortname = "tp",
    category = "remora",
    status = "TrafficPolicyStatus",
    doc = "How calls to a Service, or to every Service of a Namespace, are balanced, limited, broken off, retried and timed out.",
    // A policy of a Namespace is for its Services (GEP-713: inherited).
    label("gateway.networking.k8s.io/policy", "Inherited"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the policy is in force at all of its targets"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason",
        description = "Why it is, or is not"
    ),
    printcolumn(
        name = "Sidecars",
        type_ = "integer",
        json_path = ".status.sidecars.total",
        description = "Sidecars that are to have the policy"
    ),
    printcolumn(
        name = "Applied",
        type_ = "integer",
        json_path = ".status.sidecars.applied",
        description = "Sidecars in which it is in force"
    ),
    printcolumn(
        name = "Refused",
        type_ = "integer",
        json_path = ".status.sidecars.refused",
        description = "Sidecars that did not take it"
    ),
    printcolumn(
        name = "Open",
        type_ = "integer",
        json_path = ".status.breakers.open",
        description = "Breakers of its targets that are open"
    ),
    printcolumn(
        name = "HalfOpen",
        type_ = "integer",
        json_path = ".status.breakers.halfOpen",
        description = "Breakers of its targets that are half open",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[allow(
    clippy::duplicated_attributes,
    reason = "columns of one type, each with its own attribute"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = one_scope())]
#[x_kube(validation = not_of_pods("circuitBreaker"))]
#[x_kube(validation = not_of_pods("outbound"))]
#[x_kube(validation = not_of_pods("retries"))]
#[x_kube(validation = not_of_pods("timeouts"))]
#[x_kube(validation = not_of_pods("rateLimits"))]
#[x_kube(validation = not_of_pods("admission"))]
#[x_kube(validation = not_of_pods("loadBalancing"))]
#[x_kube(validation = not_of_pods("healthCheck"))]
#[x_kube(validation = not_of_pods("fallback"))]
#[x_kube(validation = not_of_pods("fault"))]
#[x_kube(validation = mtls_of_pods())]
#[x_kube(validation = routes::not_of_routes("outbound"))]
#[x_kube(validation = routes::not_of_routes("mtls"))]
#[x_kube(validation = routes::not_of_routes("admission"))]
#[x_kube(validation = routes::not_of_routes("loadBalancing"))]
#[x_kube(validation = routes::not_of_routes("healthCheck"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.maxConnections"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.maxPendingRequests"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.perEndpoint"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.scope"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.consecutiveFailures"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.failureRate"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.slowCallRate"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.failures"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.baseEjection"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.maxEjection"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.honorRetryAfter"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.probes"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.successes"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.maxEjectedPercent"))]
#[x_kube(validation = routes::not_of_routes("circuitBreaker.minEndpoints"))]
#[x_kube(validation = routes::at_caller())]
#[x_kube(validation = fallback::other_service())]
pub struct TrafficPolicySpec {
    /// What the policy is for: Services of its own namespace, or that namespace itself as the
    /// default for all of its Services, or routes of that namespace or single rules of them (such a
    /// policy has retries, timeouts, rateLimits with enforcedAt Caller, fallback, fault, and of
    /// circuitBreaker maxRequests and maxRetries). No target is named twice. Either this or
    /// podSelector is given.
    ///
    /// Example: [{group: "", kind: Service, name: catalog}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = attached_differ())]
    pub target_refs: Option<Vec<AttachRef>>,
    /// The pods of the policy's namespace of whose ports mtls says what they take, whichever
    /// Services cover them; an empty selector selects all pods. Such a policy has mtls and no other
    /// block, and all of them count: of each port the strictest of what they, the Services that
    /// cover it and the Namespace say. Either this or targetRefs is given.
    ///
    /// Example: {matchLabels: {app: catalog}}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelector>,
    /// Limits of what is in flight at once, and the breaker that takes failing endpoints out of
    /// the balance until they are well again.
    ///
    /// Example: {consecutiveFailures: 3, maxRequests: 500}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// The connections from a caller's sidecar to the targets.
    ///
    /// Example: {connectTimeout: 500ms}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Outbound>,
    /// What is sent again, how often and when. What never reached the application (a connection
    /// that failed, a refused stream) is sent again up to twice even without this block.
    ///
    /// Example: {attempts: 2}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// How long a call may take. What is not given is not limited.
    ///
    /// Example: {request: 5s, perTry: 1s}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Rates of requests. Every limit that matches a request must admit it; else it is answered
    /// with 429, or RESOURCE_EXHAUSTED for gRPC. A list at a Service replaces the Namespace's.
    ///
    /// Example: [{name: all, limit: {requests: 100, per: second}}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = MAX_POLICY_RATE_LIMITS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub rate_limits: Option<Vec<RateLimit>>,
    /// How many requests a pod takes at a time, and which go first where that is not enough. The
    /// sidecar of the pod that is called sees to it, before the application.
    ///
    /// Example: {maxRequests: 100}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
    /// Which of the endpoints gets a request.
    ///
    /// Example: {algorithm: LeastRequest}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// Probes that say whether an endpoint is well. Each pod's own sidecar probes its application,
    /// and all callers are told; endpoints without a sidecar are probed by their callers.
    ///
    /// Example: {http: {path: /healthz}}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// What is answered where Remora itself would refuse. Such an answer carries x-remora-reason:
    /// fallback.
    ///
    /// Example: {response: {status: 200, body: "[]"}}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Trouble on purpose, for trying out what becomes of it: callers are made to wait, or are
    /// refused with x-remora-reason: fault.
    ///
    /// Example: {abort: {status: 503, percent: 1}}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Whether the targets, or the pods that podSelector selects, take only mutual TLS between
    /// sidecars.
    ///
    /// Example: {mode: Strict}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
}

/// Why a block may not stand beside `podSelector`.
pub const NOT_OF_PODS: &str =
    "is about calls to a Service: a policy with podSelector has only mtls";
/// What `podSelector` must stand beside.
pub const MTLS_OF_PODS: &str = "must be given where podSelector is";

/// A block that is about calls to a Service: a pod may be called by way of several of them, or of
/// none.
fn not_of_pods(block: &str) -> Rule {
    Rule::new(format!("!has(self.podSelector) || !has(self.{block})"))
        .message(NOT_OF_PODS)
        .field_path(format!(".{block}"))
        .reason(Reason::FieldValueForbidden)
}

fn mtls_of_pods() -> Rule {
    Rule::new("!has(self.podSelector) || has(self.mtls)")
        .message(MTLS_OF_PODS)
        .field_path(".mtls")
        .reason(Reason::FieldValueRequired)
}
