//! `loadBalancing`, typed.

use remora_proto::v1;
use remora_proto::v1::load_balancing::Algorithm;
use remora_proto::v1::persistence::Kind;

use super::both;

/// `loadBalancing`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadBalancing {
    /// `algorithm`
    pub algorithm: Option<Algorithm>,
    /// `consistentHash.on`
    pub hash_on: Option<Vec<v1::HashPart>>,
    /// `consistentHash.loadBoundPercent`
    pub load_bound_percent: Option<u32>,
    /// `sessionPersistence`
    pub persistence: Option<Persistence>,
    /// `pinning`
    pub pinning: Option<bool>,
    /// `slowStart`
    pub slow_start: Option<SlowStart>,
    /// `zones`, whether it is Ignore.
    pub ignore_zones: Option<bool>,
    /// `waitForEndpoints`
    pub wait_for_endpoints_ms: Option<u64>,
}

/// `loadBalancing.slowStart`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowStart {
    /// `window`
    pub window_ms: Option<u64>,
}

/// `loadBalancing.sessionPersistence`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persistence {
    /// `type`, whether it is Header.
    pub by_header: Option<bool>,
    /// `sessionName`
    pub name: Option<String>,
    /// `strict`
    pub strict: Option<bool>,
    /// `absoluteTimeout`
    pub absolute_timeout_ms: Option<u64>,
    /// `cookieLifetimeType`, whether it is Permanent.
    pub permanent: Option<bool>,
}

/// `loadBalancing.consistentHash.loadBoundPercent`
pub const LOAD_BOUND_PERCENT: u32 = 125;
/// `loadBalancing.sessionPersistence.sessionName`
pub const SESSION_NAME: &str = "remora-session";
/// `loadBalancing.slowStart.window`
pub const SLOW_START_MS: u64 = 30_000;

impl LoadBalancing {
    pub(super) fn over(self, general: &Self) -> Self {
        Self {
            algorithm: self.algorithm.or(general.algorithm),
            hash_on: self.hash_on.or_else(|| general.hash_on.clone()),
            load_bound_percent: self.load_bound_percent.or(general.load_bound_percent),
            persistence: both(self.persistence, &general.persistence, Persistence::over),
            pinning: self.pinning.or(general.pinning),
            slow_start: both(self.slow_start, &general.slow_start, |one, other| {
                SlowStart {
                    window_ms: one.window_ms.or(other.window_ms),
                }
            }),
            ignore_zones: self.ignore_zones.or(general.ignore_zones),
            wait_for_endpoints_ms: self.wait_for_endpoints_ms.or(general.wait_for_endpoints_ms),
        }
    }

    /// With the defaults, and without what another level's algorithm leaves without meaning.
    pub fn complete(&self) -> Self {
        let general = Self {
            algorithm: Some(Algorithm::PeakEwma),
            load_bound_percent: Some(LOAD_BOUND_PERCENT),
            persistence: self.persistence.as_ref().map(|_| Persistence {
                by_header: Some(false),
                name: Some(SESSION_NAME.to_owned()),
                strict: Some(false),
                absolute_timeout_ms: Some(0),
                permanent: Some(false),
            }),
            pinning: Some(false),
            slow_start: self.slow_start.map(|_| SlowStart {
                window_ms: Some(SLOW_START_MS),
            }),
            ignore_zones: Some(false),
            wait_for_endpoints_ms: Some(0),
            ..Self::default()
        };
        let mut done = self.clone().over(&general);
        if done.algorithm != Some(Algorithm::ConsistentHash) {
            (done.hash_on, done.load_bound_percent) = (None, None);
        }
        if let Some(persistence) = &mut done.persistence
            && persistence.absolute_timeout_ms == Some(0)
        {
            // Of two levels one may say Permanent, and the other that it has no end.
            persistence.permanent = Some(false);
        }
        done
    }

    /// As sidecars get it.
    pub fn proto(&self) -> v1::LoadBalancing {
        let done = self.complete();
        v1::LoadBalancing {
            algorithm: done.algorithm.unwrap_or_default().into(),
            hash_on: done.hash_on.unwrap_or_default(),
            hash_load_bound_percent: done.load_bound_percent.unwrap_or_default(),
            persistence: done.persistence.map(Persistence::proto),
            pinning: done.pinning.unwrap_or_default(),
            slow_start_ms: done
                .slow_start
                .and_then(|block| block.window_ms)
                .unwrap_or(0),
            ignore_zones: done.ignore_zones.unwrap_or_default(),
            wait_for_endpoints_ms: done.wait_for_endpoints_ms.unwrap_or_default(),
        }
    }
}

impl Persistence {
    fn over(self, general: &Self) -> Self {
        Self {
            by_header: self.by_header.or(general.by_header),
            name: self.name.or_else(|| general.name.clone()),
            strict: self.strict.or(general.strict),
            absolute_timeout_ms: self.absolute_timeout_ms.or(general.absolute_timeout_ms),
            permanent: self.permanent.or(general.permanent),
        }
    }

    fn proto(self) -> v1::Persistence {
        let name = self.name.unwrap_or_default();
        let kind = if self.by_header == Some(true) {
            Kind::Header(name.to_ascii_lowercase())
        } else {
            Kind::Cookie(v1::PersistenceCookie {
                name,
                path: "/".to_owned(),
                permanent: self.permanent.unwrap_or_default(),
            })
        };
        v1::Persistence {
            kind: Some(kind),
            strict: self.strict.unwrap_or_default(),
            absolute_timeout_ms: self.absolute_timeout_ms.unwrap_or_default(),
        }
    }
}
