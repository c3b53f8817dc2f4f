//! `healthCheck`: whether an endpoint is well, asked of it.

use kube::KubeSchema;
use kube::core::{Message, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::settings::defaults;
use crate::policy::bounds::{self, Pair};
use crate::policy::forms::{self, IntOrString};

const TIMES: Pair = Pair {
    first: ("timeout", defaults::PROBE_TIMEOUT_MS),
    second: ("interval", defaults::PROBE_INTERVAL_MS),
};

/// Whether an endpoint is well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = one_kind())]
#[x_kube(validation = TIMES.at_first())]
#[x_kube(validation = TIMES.at_second())]
#[x_kube(validation = window_holds())]
pub struct HealthCheck {
    /// By a GET request of HTTP/1.1. One of http, tcp and grpc is given.
    ///
    /// Example: {path: /healthz}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// By a connection: that it comes about is enough. One of http, tcp and grpc is given.
    ///
    /// Example: {}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// By grpc.health.v1.Health/Check, which must say SERVING. One of http, tcp and grpc is given.
    ///
    /// Example: {service: shop.Catalog}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// The time from one probe to the next; each is a little different, so that not all come at
    /// once.
    ///
    /// Default: 10s. Example: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::PROBE_INTERVAL)]
    pub interval: Option<String>,
    /// How long a probe may take; then it has failed. It must not be longer than interval.
    ///
    /// Default: 1s. Example: 500ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::PROBE_TIMEOUT)]
    pub timeout: Option<String>,
    /// How many of the last probes are looked at. It must not be less than unhealthyThreshold.
    ///
    /// Default: what unhealthyThreshold is. Example: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub window: Option<u32>,
    /// How many of them must have failed for the endpoint to count as unhealthy: then it gets
    /// requests only while there is no other.
    ///
    /// Default: 3. Example: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: Option<u32>,
    /// How many in a row must have gone well for it to count as healthy again.
    ///
    /// Default: 1. Example: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: Option<u32>,
}

/// A probe by HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCheck {
    /// What is asked for, with its query. It begins with a slash and is ASCII, all else
    /// percent-encoded.
    ///
    /// Example: /healthz.
    #[schemars(length(min = 1, max = forms::TEXT_LENGTH), extend("pattern" = forms::PROBE_PATH))]
    pub path: String,
    /// The status codes that are well: one, or two with a dash for all from the first to the last,
    /// from 200 to 599.
    ///
    /// Default: [200-299]. Example: [200-299, 304].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), extend("items" = forms::status_range()))]
    pub expected_statuses: Option<Vec<IntOrString>>,
    /// A text that the first 64 KiB of the answer's body must hold.
    ///
    /// Default: any body. Example: ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = forms::BODY_TEXT_LENGTH), extend("pattern" = forms::VISIBLE))]
    pub expected_body: Option<String>,
}

/// A probe by a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpCheck {}

/// A probe by gRPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcCheck {
    /// The name of the service that is asked about; empty is the server as a whole.
    ///
    /// Default: empty. Example: shop.Catalog.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::GRPC_SERVICE_LENGTH), extend("pattern" = forms::GRPC_SERVICE))]
    pub service: Option<String>,
}

/// What of the three is given.
pub const ONE_CHECK: &str = "must have exactly one of: http, tcp, grpc";

fn one_kind() -> Rule {
    Rule::new("[has(self.http), has(self.tcp), has(self.grpc)].filter(given, given).size() == 1")
        .message(ONE_CHECK)
}

fn window_holds() -> Rule {
    let default = defaults::UNHEALTHY_THRESHOLD;
    let least = format!("(has(self.unhealthyThreshold) ? self.unhealthyThreshold : {default})");
    Rule::new(format!("!has(self.window) || self.window >= {least}"))
        .message(Message::Message(format!(
            "must not be less than unhealthyThreshold, which is {default} where it is not given"
        )))
        .field_path(".window")
}
