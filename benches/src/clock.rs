//! The only reader of the clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch.
#[allow(clippy::disallowed_methods)] // as below
pub fn unix_seconds() -> u64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH);
    age.map_or(0, |age| age.as_secs())
}

/// A moment, only to be compared with others of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Instant);

impl Moment {
    /// The present moment.
    #[allow(clippy::disallowed_methods)] // the one place where the clock is read
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// The time since `earlier`; zero where that is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    /// The time that has passed since this moment.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// This moment moved by `span`.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}
