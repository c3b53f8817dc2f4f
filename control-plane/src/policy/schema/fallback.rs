//! `fallback`: what is answered instead of a refusal.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::forms;

/// What is answered instead of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = one_action())]
pub struct Fallback {
    /// Which refusals of Remora are replaced, by the word of x-remora-reason. What the application
    /// itself answered never is.
    ///
    /// Default: [breaker_open, overloaded, no_endpoints, timeout, retries_exhausted, rate_limited].
    /// Example: [breaker_open, no_endpoints].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 6))]
    pub when: Option<Vec<Refusal>>,
    /// An answer of the sidecar itself. One of response and backendRef is given; it takes the place
    /// of what another level has.
    ///
    /// Example: {status: 200, body: "[]"}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,
    /// A port of another Service, which gets the request once; not one that may have been worked on
    /// already (timeout, retries_exhausted), unless it is one that retries may send twice. One of
    /// response and backendRef is given; it takes the place of what another level has.
    ///
    /// Example: {name: catalog-static, port: 80}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<BackendRef>,
}

/// A refusal that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The breaker of the service, or of all endpoints, is open.
    BreakerOpen,
    /// A limit of the circuit breaker, or admission.
    Overloaded,
    /// Nobody serves.
    NoEndpoints,
    /// It took too long.
    Timeout,
    /// Every attempt failed.
    RetriesExhausted,
    /// A rate limit.
    RateLimited,
}

impl Refusal {
    /// All of them, as they stand in `when` by default.
    pub const ALL: [Self; 6] = [
        Self::BreakerOpen,
        Self::Overloaded,
        Self::NoEndpoints,
        Self::Timeout,
        Self::RetriesExhausted,
        Self::RateLimited,
    ];

    /// As `x-remora-reason` has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::Overloaded => "overloaded",
            Self::NoEndpoints => "no_endpoints",
            Self::Timeout => "timeout",
            Self::RetriesExhausted => "retries_exhausted",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// An answer of the sidecar itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Response {
    /// Its status.
    ///
    /// Default: 200. Example: 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u32>,
    /// Its headers, beside those that every answer has. None that frames the message.
    ///
    /// Default: none. Example: [{name: content-type, value: application/json}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub headers: Option<Vec<Field>>,
    /// Its body, at most 16 KiB.
    ///
    /// Default: empty. Example: "[]".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16_384))]
    #[x_kube(validation = forms::body_bytes())]
    pub body: Option<String>,
    /// What calls of gRPC get: trailers alone, with this grpc-status.
    ///
    /// Default: 14. Example: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 16))]
    pub grpc_status: Option<u32>,
    /// And this grpc-message.
    ///
    /// Default: empty. Example: the catalog is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::TEXT_LENGTH), extend("pattern" = forms::VISIBLE))]
    pub grpc_message: Option<String>,
}

/// A header of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    /// Its name; capitals do not matter.
    ///
    /// Example: content-type.
    #[schemars(length(min = 1, max = forms::HEADER_LENGTH), extend("pattern" = forms::HEADER))]
    #[x_kube(validation = forms::header_name())]
    #[x_kube(validation = forms::changeable())]
    pub name: String,
    /// Its value: visible ASCII, and spaces and tabs within it.
    ///
    /// Example: application/json.
    #[schemars(length(max = forms::TEXT_LENGTH), extend("pattern" = forms::HEADER_VALUE))]
    pub value: String,
}

/// A port of another Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// The name of the Service.
    ///
    /// Example: catalog-static.
    #[schemars(length(min = 1, max = 63), extend("pattern" = forms::LABEL))]
    pub name: String,
    /// The Service's port.
    ///
    /// Example: 80.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u32,
    /// Its namespace. Another one than the policy's must allow it by a ReferenceGrant (from: group
    /// remora.io, kind TrafficPolicy; to: Service); until it does the fallback is not in force, and
    /// status says so.
    ///
    /// Default: that of the policy. Example: shop.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), extend("pattern" = forms::LABEL))]
    pub namespace: Option<String>,
}

/// What of the two is given.
pub const ONE_ACTION: &str = "must have exactly one of: response, backendRef";

fn one_action() -> Rule {
    Rule::new("has(self.response) != has(self.backendRef)").message(ONE_ACTION)
}

/// What a backend is beside the targets of its policy.
pub const OTHER_SERVICE: &str = "must be another Service than those that the policy is for";

/// For `spec`. Of a namespace that is given no rule can say whether it is the policy's own: then
/// the control plane does.
pub fn other_service() -> Rule {
    Rule::new(
        "!has(self.fallback) || !has(self.fallback.backendRef) || \
         has(self.fallback.backendRef.namespace) || !has(self.targetRefs) || \
         !self.targetRefs.exists(t, t.kind == 'Service' && t.name == self.fallback.backendRef.name)",
    )
    .message(OTHER_SERVICE)
    .field_path(".fallback.backendRef")
}
