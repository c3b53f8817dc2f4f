//! What of identities is counted and shown.

use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::counters::Counters;

/// The figures.
#[derive(Debug)]
pub struct Figures {
    /// Calls, by what was found of their tokens.
    pub checks: Counters<11>,
    /// Requests for certificates, by what became of them.
    pub issued: Counters<6>,
    /// When the CA that issues ends, in seconds since the Unix epoch; 0: there
    /// is none.
    pub ca_ends: AtomicU64,
    /// When our own serving certificate ends.
    pub serving_ends: AtomicU64,
    /// Roots that are trusted.
    pub roots: AtomicU64,
    /// Whether what is written as the CA cannot be used.
    pub ca_is_wrong: AtomicBool,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            checks: Counters::new([
                "good",
                "missing",
                "malformed",
                "refused",
                "expired",
                "audience",
                "unbound",
                "no_pod",
                "no_replica",
                "throttled",
                "unavailable",
            ]),
            issued: Counters::new([
                "issued",
                "denied",
                "invalid",
                "throttled",
                "unavailable",
                "failed",
            ]),
            ca_ends: AtomicU64::new(0),
            serving_ends: AtomicU64::new(0),
            roots: AtomicU64::new(0),
            ca_is_wrong: AtomicBool::new(false),
        }
    }
}
