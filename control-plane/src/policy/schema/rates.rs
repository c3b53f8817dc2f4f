//! `rateLimits`: how many requests in a time, of which kind, counted by what.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::forms;

/// One rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// The name of the limit in metrics and logs, in ASCII; each in a policy has its own.
    ///
    /// Example: per-caller.
    #[schemars(
        length(min = 1, max = forms::RATE_LIMIT_NAME_LENGTH),
        extend("pattern" = forms::RATE_LIMIT_NAME)
    )]
    pub name: String,
    /// The rate itself.
    ///
    /// Example: {requests: 100, per: second, burst: 10}.
    pub limit: Rate,
    /// Which requests the limit is for: those for which all that is given here holds.
    ///
    /// Default: all requests. Example: {methods: [GET], path: {prefix: /api/}}.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Match>,
    /// What tells requests apart: each combination of these values has a bucket of its own.
    /// clientIdentity (the SPIFFE id that the caller proved; callers without one share a bucket),
    /// remoteAddress, path, method, or header: and the name of a header.
    ///
    /// Default: none, one bucket for all. Example: [clientIdentity, "header:x-user"].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), extend("items" = forms::key_part()))]
    pub key: Option<Vec<String>>,
    /// Of whom the limit is: of each pod that counts, or of all of them together. Then the control
    /// plane gives each a share of it, by demand; a pod without a share refuses (none was free, or
    /// the control plane has not been reached since it started), and at most as many pods have one
    /// at a time as burst says.
    ///
    /// Default: Pod. Example: Mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<LimitScope>,
    /// Who counts: the sidecar of each pod that is called, or that of each caller.
    ///
    /// Default: Target. Example: Caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_at: Option<EnforcedAt>,
    /// Whether what is over the limit is refused, or only counted.
    ///
    /// Default: Enforce. Example: Shadow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The most buckets that one sidecar keeps. When all are in use, further keys share one.
    ///
    /// Default: 10000. Example: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_keys: Option<u32>,
}

/// Requests in each period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rate {
    /// How many requests are admitted in each period, evenly over it. 0 refuses everything.
    ///
    /// Example: 100.
    #[schemars(range(max = 10_000_000))]
    pub requests: u32,
    /// The period.
    ///
    /// Example: second.
    pub per: Period,
    /// How many requests are admitted at once after a pause.
    ///
    /// Default: what comes in 100 ms, at least 1. Example: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub burst: Option<u32>,
}

/// The period of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
#[serde(rename_all = "camelCase")]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

/// Which requests a limit is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// Any of these HTTP methods, in capitals.
    ///
    /// Default: any method. Example: [GET, HEAD].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("items" = forms::http_method()))]
    pub methods: Option<Vec<String>>,
    /// The path, without what follows a question mark: either exact or prefix.
    ///
    /// Default: any path. Example: {prefix: /api/}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Every one of these headers.
    ///
    /// Default: any headers. Example: [{name: x-visitor, value: crawler}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub headers: Option<Vec<HeaderMatch>>,
}

/// A path: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = one_path())]
pub struct PathMatch {
    /// This path and no other. It begins with a slash and is ASCII, as in the request: all else
    /// percent-encoded.
    ///
    /// Example: /checkout.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = forms::TEXT_LENGTH), extend("pattern" = forms::PATH))]
    pub exact: Option<String>,
    /// Every path that begins so. It begins with a slash and is ASCII, as in the request: all else
    /// percent-encoded.
    ///
    /// Example: /api/.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = forms::TEXT_LENGTH), extend("pattern" = forms::PATH))]
    pub prefix: Option<String>,
}

/// A header with its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// The name of the header; capitals do not matter.
    ///
    /// Example: x-visitor.
    #[schemars(length(min = 1, max = forms::HEADER_LENGTH), extend("pattern" = forms::HEADER))]
    #[x_kube(validation = forms::header_name())]
    #[x_kube(validation = forms::not_ours(""))]
    pub name: String,
    /// The whole value of the header, exactly: visible ASCII, and spaces and tabs within it.
    ///
    /// Example: crawler.
    #[schemars(length(max = forms::TEXT_LENGTH), extend("pattern" = forms::HEADER_VALUE))]
    pub value: String,
}

/// Of whom a rate limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum LimitScope {
    /// Of each pod that counts.
    Pod,
    /// Of all of them together.
    Mesh,
}

/// Where a rate limit is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum EnforcedAt {
    /// By the sidecar of the pod that is called.
    Target,
    /// By the sidecar of each caller.
    Caller,
}

/// Whether a rate limit refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum Mode {
    /// What is over the limit is refused.
    Enforce,
    /// What is over the limit is counted and let through.
    Shadow,
}

fn one_path() -> Rule {
    Rule::new("has(self.exact) != has(self.prefix)")
        .message("must have exactly one of: exact, prefix")
}
