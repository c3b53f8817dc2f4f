//! `retries` and `timeouts`: what is sent again, and when it is over.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::core::settings::defaults;
use crate::policy::bounds::{self, Pair};
use crate::policy::forms::{self, IntOrString};

const BACKOFFS: Pair = Pair {
    first: ("base", defaults::BACKOFF_BASE_MS),
    second: ("max", defaults::BACKOFF_MAX_MS),
};

/// What is sent again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retries {
    /// How many times a request is sent again, the first time not counted. 0 is off.
    ///
    /// Default: 0. Example: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub attempts: Option<u32>,
    /// What a request is sent again on: connect-failure, refused-stream, reset, gateway-error (502,
    /// 503, 504), 5xx, timeout, retriable-4xx (409), a status code from 200 to 599, or the name of
    /// a gRPC code. kubectl reads a bare on as true: write the field's name in quotes.
    ///
    /// Default: [connect-failure, refused-stream, reset, gateway-error].
    /// Example: [connect-failure, reset, 503].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("items" = forms::condition()))]
    pub on: Option<Vec<IntOrString>>,
    /// The wait before a retry: a random time up to base, which doubles with each retry up to max.
    ///
    /// Example: {base: 25ms, max: 250ms}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// The longest Retry-After of an endpoint that is waited for, where the deadline allows it.
    ///
    /// Default: 10s. Example: 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::RETRY_AFTER)]
    pub max_retry_after: Option<String>,
    /// The name of a header by which the caller says that the request may be repeated, whatever its
    /// method.
    ///
    /// Default: none. Example: idempotency-key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = forms::HEADER_LENGTH), extend("pattern" = forms::HEADER))]
    #[x_kube(validation = forms::header_name())]
    #[x_kube(validation = forms::not_ours(""))]
    pub idempotency_header: Option<String>,
    /// Further methods that may be repeated, beside GET, HEAD, OPTIONS, TRACE, PUT and DELETE: HTTP
    /// methods in capitals, or methods of gRPC with their service.
    ///
    /// Default: none. Example: [POST, /shop.Catalog/List].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("items" = forms::any_method()))]
    pub methods: Option<Vec<String>>,
    /// How many retries there may be beside the requests: in any window at most percent of the
    /// requests, or minPerSecond for each second of it, whichever is more. For one sidecar and one
    /// service.
    ///
    /// Example: {percent: 20, minPerSecond: 10, window: 10s}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How much of a request's body is kept so that it can be sent again; a request with a larger
    /// one is not retried. Bytes as a number or with a unit (k, M, Ki, Mi, KiB, MiB), at most 16MiB.
    ///
    /// Default: 64KiB. Example: 256KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxLength" = 15,
        "minimum" = 0,
        "maximum" = bounds::MAX_BUFFER_BYTES,
        "pattern" = forms::QUANTITY
    ))]
    #[x_kube(validation = forms::buffer_bytes())]
    pub buffer_bytes: Option<IntOrString>,
    /// A second attempt at another endpoint while the first is not yet answered; the first good
    /// answer is taken, and the other attempt given up. Only for requests that may be repeated and
    /// whose whole body is in the buffer. Each costs the budget, also where attempts is 0.
    ///
    /// Example: {after: p95, max: 1}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
}

/// Attempts beside one that is not yet answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hedge {
    /// How long the first attempt may take before another is made: a duration from 1ms to 1h, or
    /// p1 to p99, that percentile of the service's latencies as the caller's sidecar has lately
    /// seen them (before it has seen 100 of them nothing is hedged).
    ///
    /// Default: p95. Example: 50ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH))]
    #[x_kube(validation = bounds::hedge_after())]
    pub after: Option<String>,
    /// How many such attempts a request may have.
    ///
    /// Default: 1. Example: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5))]
    pub max: Option<u32>,
}

/// Waits between attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = BACKOFFS.at_first())]
#[x_kube(validation = BACKOFFS.at_second())]
pub struct Backoff {
    /// The longest wait before the first retry. It must not be longer than max.
    ///
    /// Default: 25ms. Example: 50ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::BACKOFF_BASE)]
    pub base: Option<String>,
    /// The longest wait before any retry.
    ///
    /// Default: 250ms. Example: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::BACKOFF_MAX)]
    pub max: Option<String>,
}

/// How many retries there may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// Retries in percent of the requests.
    ///
    /// Default: 20. Example: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// Retries each second that are allowed however few requests there are.
    ///
    /// Default: 10. Example: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub min_per_second: Option<u32>,
    /// The time over which requests and retries are counted.
    ///
    /// Default: 10s. Example: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::BUDGET_WINDOW)]
    pub window: Option<String>,
}

/// Limits of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Pair::where_both("perTry", "request"))]
pub struct Timeouts {
    /// The whole call, from the request's headers to the end of the response, with all retries and
    /// the waits between them. For gRPC streams and upgraded connections it ends with the
    /// response's headers.
    ///
    /// Default: not limited. Example: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::TIMEOUT)]
    pub request: Option<String>,
    /// One attempt at a call. It must not be longer than request.
    ///
    /// Default: not limited. Example: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::TIMEOUT)]
    pub per_try: Option<String>,
    /// How long no byte may come either way.
    ///
    /// Default: not limited. Example: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::TIMEOUT)]
    pub idle: Option<String>,
    /// How long the response's headers may take, from the request's headers.
    ///
    /// Default: not limited. Example: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::TIMEOUT)]
    pub response_headers: Option<String>,
}
