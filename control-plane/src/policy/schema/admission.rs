//! `admission`: how many requests the targets take at a time, and which go first.

use kube::KubeSchema;
use kube::core::{Message, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rates::Match;
use crate::core::settings::defaults;
use crate::policy::authorization::words;
use crate::policy::forms;

/// How many requests a target takes at a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Admission {
    /// The most requests that one pod takes at a time on a port; more are refused with 503 at
    /// once. 0 refuses everything.
    ///
    /// Default: not limited. Example: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// A limit that follows the application's latency: it falls where requests become slower, and
    /// rises where they do not.
    ///
    /// Example: {minRequests: 4, maxRequests: 1000, tolerancePercent: 200}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Adaptive>,
    /// Which requests go first where there is not room for all: critical before default before
    /// sheddable.
    ///
    /// Example: {rules: [{priority: sheddable, match: {path: {prefix: /recommendations}}}]}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priorities: Option<Priorities>,
}

/// A limit that follows latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = least_at_most())]
#[x_kube(validation = most_at_least())]
pub struct Adaptive {
    /// The limit never falls below this. It must not be more than maxRequests.
    ///
    /// Default: 4. Example: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: Option<u32>,
    /// The limit never rises above this.
    ///
    /// Default: 1000. Example: 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// How slow requests may become before the limit falls, in percent of their latency without
    /// load.
    ///
    /// Default: 200. Example: 150.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 101, max = 1000))]
    pub tolerance_percent: Option<u32>,
}

/// Which requests go first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Priorities {
    /// The name of a header whose value is critical, default or sheddable. It is believed of the
    /// callers of trusted alone.
    ///
    /// Default: none. Example: x-priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = forms::HEADER_LENGTH), extend("pattern" = forms::HEADER))]
    #[x_kube(validation = forms::header_name())]
    #[x_kube(validation = forms::not_ours(""))]
    pub header: Option<String>,
    /// Of whom the header is believed: any of these callers.
    ///
    /// Default: nobody. Example: [{namespace: shop}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub trusted: Option<Vec<Trusted>>,
    /// The priority of requests that have no such header: the first rule that matches says it;
    /// where none does it is default.
    ///
    /// Default: none. Example: [{priority: critical, match: {path: {prefix: /checkout}}}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub rules: Option<Vec<PriorityRule>>,
}

/// Callers, by what they have proved: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = trusts_somebody())]
pub struct Trusted {
    /// The namespace of the caller's identity.
    ///
    /// Default: any namespace. Example: shop.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = words::namespace_rule())]
    pub namespace: Option<String>,
    /// Who the caller is, as a SPIFFE id.
    ///
    /// Default: anybody in namespace. Example: "spiffe://cluster.local/ns/shop/sa/web".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = words::MAX_IDENTITY))]
    #[x_kube(validation = words::whole_identity_rule())]
    pub identity: Option<String>,
}

/// The priority of some requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriorityRule {
    /// Their priority.
    ///
    /// Example: sheddable.
    pub priority: Priority,
    /// Which requests: those for which all that is given here holds.
    ///
    /// Default: all requests. Example: {methods: [GET], path: {prefix: /recommendations}}.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Match>,
}

/// Which requests go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
#[serde(rename_all = "camelCase")]
pub enum Priority {
    /// The last to be refused.
    Critical,
    /// What is neither.
    Default,
    /// The first to be refused.
    Sheddable,
}

/// An entry of `trusted` that says nothing would trust everybody.
pub const TRUSTS_SOMEBODY: &str = "must have at least one of: namespace, identity";

fn trusts_somebody() -> Rule {
    Rule::new("has(self.namespace) || has(self.identity)").message(TRUSTS_SOMEBODY)
}

/// The fault at `minRequests`, where that is given.
fn least_at_most() -> Rule {
    let most = defaults::ADAPTIVE_MAX_REQUESTS;
    Rule::new(format!(
        "!has(self.minRequests) || \
         self.minRequests <= (has(self.maxRequests) ? self.maxRequests : {most})"
    ))
    .message(Message::Message(format!(
        "must not be more than maxRequests, which is {most} where it is not given"
    )))
    .field_path(".minRequests")
}

/// The fault at `maxRequests`, where that alone is given.
fn most_at_least() -> Rule {
    let least = defaults::ADAPTIVE_MIN_REQUESTS;
    Rule::new(format!(
        "has(self.minRequests) || !has(self.maxRequests) || self.maxRequests >= {least}"
    ))
    .message(Message::Message(format!(
        "must not be less than minRequests, which is {least} where it is not given"
    )))
    .field_path(".maxRequests")
}
