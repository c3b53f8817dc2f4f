//! The demo's only look at the clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The present, for durations.
#[allow(clippy::disallowed_methods)] // the one place of the demo
pub fn now() -> Instant {
    Instant::now()
}

/// The present, in milliseconds since 1970.
#[allow(clippy::disallowed_methods)] // the one place of the demo
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
