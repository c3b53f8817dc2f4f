//! The only place that reads a clock.
//!
//! Everything else is handed a [`Timestamp`], so that a state machine can be
//! replayed under a virtual clock.

use std::sync::OnceLock;
use std::time::Duration;

/// Nanoseconds of monotonic time since an origin near the start of the process.
///
/// The origin is one second before the first reading, so that small spans can
/// be subtracted without reaching zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A point that lies `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// A point that lies `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to here; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This point moved by `span`; stays at the end of time when it would pass it.
    pub const fn after(self, span: Duration) -> Self {
        let nanos = span.as_nanos();
        if nanos > u64::MAX as u128 {
            return Self(u64::MAX);
        }
        Self(self.0.saturating_add(nanos as u64))
    }
}

struct Origin {
    monotonic: tokio::time::Instant,
    unix_ms: u64,
}

#[allow(clippy::disallowed_methods)] // the one place where the clocks are read
fn origin() -> &'static Origin {
    static ORIGIN: OnceLock<Origin> = OnceLock::new();
    ORIGIN.get_or_init(|| Origin {
        monotonic: tokio::time::Instant::now(),
        unix_ms: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |age| age.as_millis() as u64),
    })
}

const ORIGIN_OFFSET_NANOS: u64 = 1_000_000_000;

#[cfg(test)]
thread_local! {
    /// A simulation has an origin of its own, so that a seed plays the same again.
    static ORIGIN_OF_THREAD: std::cell::Cell<Option<tokio::time::Instant>> =
        const { std::cell::Cell::new(None) };
}

/// This thread's time begins now.
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // as below
pub fn begin_anew() {
    ORIGIN_OF_THREAD.set(Some(tokio::time::Instant::now()));
}

fn monotonic_origin() -> tokio::time::Instant {
    #[cfg(test)]
    if let Some(own) = ORIGIN_OF_THREAD.get() {
        return own;
    }
    origin().monotonic
}

/// The present moment. Follows tokio's clock, so it stands still where a test pauses it.
#[allow(clippy::disallowed_methods)] // the one place where the clocks are read
pub fn now() -> Timestamp {
    let span = tokio::time::Instant::now().saturating_duration_since(monotonic_origin());
    Timestamp(ORIGIN_OFFSET_NANOS + span.as_nanos() as u64)
}

/// `at` as tokio's clock has it, for timers.
pub fn instant(at: Timestamp) -> tokio::time::Instant {
    let span = Duration::from_nanos(at.0.saturating_sub(ORIGIN_OFFSET_NANOS));
    // Beyond what the clock can carry a timer would never fire anyway: a year stands for ever.
    let origin = monotonic_origin();
    origin
        .checked_add(span)
        .unwrap_or(origin + Duration::from_secs(31_536_000))
}

/// `at` in milliseconds since the Unix epoch, by the system clock as it was at
/// the start of the process (so later jumps of that clock do not reorder events).
pub fn unix_ms(at: Timestamp) -> u64 {
    let since_origin_ms = at.0.saturating_sub(ORIGIN_OFFSET_NANOS) / 1_000_000;
    origin().unix_ms + since_origin_ms
}

/// The system's clock, in milliseconds since the Unix epoch, for what a
/// certificate says: it follows that clock's jumps, as certificates do.
#[allow(clippy::disallowed_methods)] // the one place where the clocks are read
pub fn system_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |age| age.as_millis() as u64)
}

/// [`system_ms`] in whole seconds.
pub fn system_seconds() -> u64 {
    system_ms() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_saturate_at_both_ends() {
        let early = Timestamp::from_millis(1);
        let late = Timestamp::from_millis(3);
        assert_eq!(late.since(early), Duration::from_millis(2));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.after(Duration::MAX).as_nanos(), u64::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn now_follows_a_paused_clock() {
        let before = now();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(now().since(before), Duration::from_secs(5));
    }
}
