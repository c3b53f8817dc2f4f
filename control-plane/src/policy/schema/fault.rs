//! `fault`: trouble on purpose.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rates::Match;
use crate::policy::{bounds, forms};

/// Trouble on purpose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Requests wait before anything else becomes of them. The wait counts within
    /// timeouts.request.
    ///
    /// Example: {duration: 100ms, percent: 10}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Requests are answered with an error, or broken off, and reach nobody. No breaker counts it.
    ///
    /// Example: {status: 503, percent: 1}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
    /// Which requests: those for which all that is given here holds. It takes the place of what
    /// another level has.
    ///
    /// Default: all requests. Example: {methods: [GET], path: {prefix: /api/}}.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Match>,
}

/// A wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delay {
    /// How long.
    ///
    /// Example: 100ms.
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::FAULT_DELAY)]
    pub duration: String,
    /// How many percent of the requests, to a ten-thousandth of a percent.
    ///
    /// Default: 100. Example: 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<f64>,
}

/// An error, or an end. One of status, grpcStatus and reset is given; it takes the place of what
/// another level has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = one_end())]
pub struct Abort {
    /// The status of the answer; calls of gRPC get what that maps to. One of status, grpcStatus and
    /// reset is given.
    ///
    /// Example: 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u32>,
    /// The grpc-status of the answer; others than gRPC get what that maps to. One of status,
    /// grpcStatus and reset is given.
    ///
    /// Example: 14.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 16))]
    pub grpc_status: Option<u32>,
    /// No answer: the caller's connection breaks (HTTP/1.1), or its stream (HTTP/2). One of status,
    /// grpcStatus and reset is given.
    ///
    /// Example: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = is_true())]
    pub reset: Option<bool>,
    /// How many percent of the requests, to a ten-thousandth of a percent.
    ///
    /// Default: 100. Example: 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<f64>,
}

/// What of the three is given.
pub const ONE_END: &str = "must have exactly one of: status, grpcStatus, reset";
/// `reset`
pub const RESET_IS_TRUE: &str = "must be true: leave it out where nothing is to be reset";

fn one_end() -> Rule {
    Rule::new(
        "[has(self.status), has(self.grpcStatus), has(self.reset)].filter(given, given).size() == 1",
    )
    .message(ONE_END)
}

fn is_true() -> Rule {
    Rule::new("self").message(RESET_IS_TRUE)
}
