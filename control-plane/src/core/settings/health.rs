//! `healthCheck`, typed.

use remora_proto::v1;
use remora_proto::v1::health_check::Kind;

/// `healthCheck`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HealthCheck {
    /// `http`, `tcp` or `grpc`, complete.
    pub kind: Option<Kind>,
    /// `interval`
    pub interval_ms: Option<u64>,
    /// `timeout`
    pub timeout_ms: Option<u64>,
    /// `window`
    pub window: Option<u32>,
    /// `unhealthyThreshold`
    pub unhealthy_threshold: Option<u32>,
    /// `healthyThreshold`
    pub healthy_threshold: Option<u32>,
}

/// `healthCheck.interval`
pub const PROBE_INTERVAL_MS: u64 = 10_000;
/// `healthCheck.timeout`
pub const PROBE_TIMEOUT_MS: u64 = 1_000;
/// `healthCheck.unhealthyThreshold`
pub const UNHEALTHY_THRESHOLD: u32 = 3;
/// `healthCheck.healthyThreshold`
pub const HEALTHY_THRESHOLD: u32 = 1;

impl HealthCheck {
    pub(super) fn over(self, general: &Self) -> Self {
        Self {
            kind: self.kind.or_else(|| general.kind.clone()),
            interval_ms: self.interval_ms.or(general.interval_ms),
            timeout_ms: self.timeout_ms.or(general.timeout_ms),
            window: self.window.or(general.window),
            unhealthy_threshold: self.unhealthy_threshold.or(general.unhealthy_threshold),
            healthy_threshold: self.healthy_threshold.or(general.healthy_threshold),
        }
    }

    /// With the defaults; what two levels together turn around is put in order.
    pub fn complete(&self) -> Self {
        let mut done = self.clone().over(&Self {
            interval_ms: Some(PROBE_INTERVAL_MS),
            timeout_ms: Some(PROBE_TIMEOUT_MS),
            unhealthy_threshold: Some(UNHEALTHY_THRESHOLD),
            healthy_threshold: Some(HEALTHY_THRESHOLD),
            ..Self::default()
        });
        done.window = done.window.max(done.unhealthy_threshold);
        done.timeout_ms = done.timeout_ms.min(done.interval_ms);
        done
    }

    /// As sidecars get it.
    pub fn proto(&self) -> v1::HealthCheck {
        let done = self.complete();
        v1::HealthCheck {
            kind: done.kind,
            interval_ms: done.interval_ms.unwrap_or_default(),
            timeout_ms: done.timeout_ms.unwrap_or_default(),
            window: done.window.unwrap_or_default(),
            unhealthy_threshold: done.unhealthy_threshold.unwrap_or_default(),
            healthy_threshold: done.healthy_threshold.unwrap_or_default(),
        }
    }
}
