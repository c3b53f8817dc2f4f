//! `healthCheck`: how an endpoint is asked whether it is well.

use std::ops::RangeInclusive;
use std::time::Duration;

/// `healthCheck`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From one to the next.
    pub interval: Duration,
    /// Until an answer; not longer than `interval`.
    pub timeout: Duration,
    /// Of so many of the last probes; at least 1 ...
    pub window: u32,
    /// ... so many failed: unhealthy. 1 to `window`.
    pub unhealthy_threshold: u32,
    /// So many in a row went well: healthy again; at least 1.
    pub healthy_threshold: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A GET.
    Http(HttpProbe),
    /// Whether a connection comes about.
    Tcp,
    /// `grpc.health.v1.Health/Check` of this service; may be empty.
    Grpc(String),
}

/// A GET and what is expected of its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// With its query.
    pub path: String,
    /// Any of these; empty: 200-299.
    pub expected_statuses: Vec<RangeInclusive<u16>>,
    /// The beginning of the body holds this; empty: any.
    pub expected_body: String,
}
