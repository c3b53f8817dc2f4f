//! The only place that makes random numbers. Everything else is handed them.
//!
//! Not for secrets: these numbers spread load and jitter timers.

/// Evenly between 0 and 1.
#[allow(clippy::disallowed_methods)] // the place that is meant to
pub fn unit() -> f64 {
    (fastrand::u64(..) >> 11) as f64 / ((1_u64 << 53) - 1) as f64
}
