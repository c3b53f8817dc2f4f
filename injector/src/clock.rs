//! The only place that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Since the Unix epoch, by the machine's clock.
#[allow(clippy::disallowed_methods)] // the place that is meant to
pub fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A moment to measure durations from.
#[allow(clippy::disallowed_methods)] // the place that is meant to
pub fn now() -> Instant {
    Instant::now()
}
