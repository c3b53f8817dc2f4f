//! `admission`, typed.

use remora_proto::v1;

use super::both;

/// `admission`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// `maxRequests`
    pub max_requests: Option<u32>,
    /// `adaptive`
    pub adaptive: Option<Adaptive>,
    /// `priorities`
    pub priorities: Option<Priorities>,
}

/// `admission.adaptive`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adaptive {
    /// `minRequests`
    pub min_requests: Option<u32>,
    /// `maxRequests`
    pub max_requests: Option<u32>,
    /// `tolerancePercent`
    pub tolerance_percent: Option<u32>,
}

/// `admission.priorities`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Priorities {
    /// `header`, lower case.
    pub header: Option<String>,
    /// `trusted`
    pub trusted: Option<Vec<v1::PrincipalMatch>>,
    /// `rules`
    pub rules: Option<Vec<v1::PriorityRule>>,
}

/// `admission.adaptive.minRequests`
pub const ADAPTIVE_MIN_REQUESTS: u32 = 4;
/// `admission.adaptive.maxRequests`
pub const ADAPTIVE_MAX_REQUESTS: u32 = 1_000;
/// `admission.adaptive.tolerancePercent`
pub const TOLERANCE_PERCENT: u32 = 200;

impl Admission {
    pub(super) fn over(self, general: &Self) -> Self {
        Self {
            max_requests: self.max_requests.or(general.max_requests),
            adaptive: both(self.adaptive, &general.adaptive, Adaptive::over),
            priorities: both(self.priorities, &general.priorities, Priorities::over),
        }
    }

    /// With the defaults.
    pub fn complete(&self) -> Self {
        let adaptive = Adaptive {
            min_requests: Some(ADAPTIVE_MIN_REQUESTS),
            max_requests: Some(ADAPTIVE_MAX_REQUESTS),
            tolerance_percent: Some(TOLERANCE_PERCENT),
        };
        let mut done = self.clone().over(&Self {
            adaptive: self.adaptive.map(|_| adaptive),
            ..Self::default()
        });
        // Two levels together may have a least that is more than the most.
        if let Some(adaptive) = &mut done.adaptive {
            adaptive.min_requests = adaptive.min_requests.min(adaptive.max_requests);
        }
        done
    }

    /// As sidecars get it; `None` where it limits nothing.
    pub fn proto(&self) -> Option<v1::Admission> {
        let done = self.complete();
        let adaptive = done.adaptive.map(|adaptive| v1::AdaptiveConcurrency {
            min_requests: adaptive.min_requests.unwrap_or_default(),
            max_requests: adaptive.max_requests.unwrap_or_default(),
            tolerance_percent: adaptive.tolerance_percent.unwrap_or_default(),
        });
        let priorities = done.priorities.map(|block| v1::Priorities {
            header: block.header.unwrap_or_default(),
            trusted: block.trusted.unwrap_or_default(),
            rules: block.rules.unwrap_or_default(),
        });
        let whole = v1::Admission {
            max_requests: done.max_requests,
            adaptive,
            priorities,
        };
        (whole != v1::Admission::default()).then_some(whole)
    }
}

impl Adaptive {
    fn over(self, general: &Self) -> Self {
        Self {
            min_requests: self.min_requests.or(general.min_requests),
            max_requests: self.max_requests.or(general.max_requests),
            tolerance_percent: self.tolerance_percent.or(general.tolerance_percent),
        }
    }
}

impl Priorities {
    fn over(self, general: &Self) -> Self {
        Self {
            header: self.header.or_else(|| general.header.clone()),
            trusted: self.trusted.or_else(|| general.trusted.clone()),
            rules: self.rules.or_else(|| general.rules.clone()),
        }
    }
}
