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
//! - That a target of kind Namespace is the policy's own namespace cannot be
//!   seen by rules of a schema (they know only the name of the object's own
//!   metadata): the control plane judges it, and says so in `status`.

mod breaker;
mod rates;
mod retries;

use kube::core::Rule;
use kube::{CustomResource, KubeSchema};
use remora_proto::bounds::MAX_POLICY_RATE_LIMITS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use breaker::{CircuitBreaker, Limits, Outbound, Scope};
pub use rates::{EnforcedAt, HeaderMatch, Match, Mode, PathMatch, Period, Rate, RateLimit};
pub use retries::{Backoff, Budget, Retries, Timeouts};

use super::forms;
use super::status::TrafficPolicyStatus;

/// How calls to the targets are treated. A block that is absent does nothing; one that is present
/// and empty gives its defaults. Where a Service and its Namespace both have a policy, the
/// Service's wins field by field, and a list replaces a list.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "remora.io",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    namespaced,
    shortname = "tp",
    category = "remora",
    status = "TrafficPolicyStatus",
    doc = "How calls to a Service, or to every Service of a Namespace, are limited, broken off, retried and timed out.",
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
pub struct TrafficPolicySpec {
    /// What the policy is for: Services of its own namespace, or that namespace itself as the
    /// default for all of its Services. No target is named twice.
    ///
    /// Example: [{group: "", kind: Service, name: catalog}].
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = targets_differ())]
    pub target_refs: Vec<TargetRef>,
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
}

/// What the policy is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// The API group of the target: empty, which is the core group. Default: empty. Example: "".
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self == ''").message("must be \"\" (the core group)"))]
    pub group: String,
    /// The kind of the target: a Service of the policy's namespace, or Namespace for all of them.
    ///
    /// Example: Service.
    pub kind: TargetKind,
    /// The name of the target. For kind Namespace it is the policy's own namespace; another one is
    /// not in force, and status says so.
    ///
    /// Example: catalog.
    #[schemars(length(min = 1, max = forms::NAME_LENGTH), extend("pattern" = forms::NAME))]
    pub name: String,
}

/// What a policy may be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum TargetKind {
    /// One Service.
    Service,
    /// Every Service of the policy's namespace, by default.
    Namespace,
}

fn targets_differ() -> Rule {
    Rule::new("self.all(a, self.exists_one(b, a.kind == b.kind && a.name == b.name))")
        .message("names a target twice")
}
