//! The only place that reads a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods)] // the place that is meant to
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whole seconds since the Unix epoch, as certificates and tokens count time.
pub fn unix_seconds() -> u64 {
    unix_ms() / 1_000
}

/// A moment to measure durations from.
#[allow(clippy::disallowed_methods)] // the place that is meant to
pub fn now() -> Instant {
    Instant::now()
}
