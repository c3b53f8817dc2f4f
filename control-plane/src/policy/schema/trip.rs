//! What opens a breaker beside failures in a row: rates over a window.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::policy::bounds;
use crate::policy::forms::{self, IntOrString};

/// A rate of failures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailureRate {
    /// Which part of the attempts must have failed, in percent: 50%, or the number 50. From 1% to
    /// 100%.
    ///
    /// Default: 50%. Example: 25%.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxLength" = 4,
        "minimum" = 1,
        "maximum" = 100,
        "pattern" = forms::PERCENT
    ))]
    pub threshold: Option<IntOrString>,
    /// The time over which attempts are counted.
    ///
    /// Default: 10s. Example: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::RATE_WINDOW)]
    pub window: Option<String>,
    /// With fewer attempts in the window than this nothing is judged.
    ///
    /// Default: 20. Example: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_requests: Option<u32>,
}

/// A rate of slow calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowCallRate {
    /// An attempt is slow where the response's headers come later than this after the request's,
    /// or have not come by then when it ends.
    ///
    /// Example: 1s.
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::TIMEOUT)]
    pub duration: String,
    /// Which part of the attempts must have been slow, in percent: 50%, or the number 50. From 1%
    /// to 100%.
    ///
    /// Default: 50%. Example: 80%.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxLength" = 4,
        "minimum" = 1,
        "maximum" = 100,
        "pattern" = forms::PERCENT
    ))]
    pub threshold: Option<IntOrString>,
    /// The time over which attempts are counted.
    ///
    /// Default: 10s. Example: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::RATE_WINDOW)]
    pub window: Option<String>,
    /// With fewer attempts in the window than this nothing is judged.
    ///
    /// Default: 20. Example: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_requests: Option<u32>,
}
