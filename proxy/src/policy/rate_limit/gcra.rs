//! The generic cell rate algorithm (ITU-T I.371, annex A) as plain arithmetic.
//!
//! ```text
//!                    burst x interval
//!          ├──────────────────────────────────────┤
//!          now                    TAT             │
//!   ───────┼───────────────────────┼──────────────┼────▶ time
//!          ├─ spent, fills again ──┤── available ─┤
//! ```
//!
//! A bucket is one number, the theoretical arrival time: the moment at which it
//! is full again. A request moves it on by one interval and is refused where it
//! would get further than the whole bucket from now.

use std::time::Duration;

use remora_proto::bounds::WHOLE_PARTS_PER_MILLION;

/// How fast a bucket fills and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// From one request to the next. Rounded up: never more than the limit.
    interval: u64,
    /// `burst` intervals; zero admits nothing.
    depth: u64,
    /// What is told to those whom `requests: 0` refuses.
    per: Duration,
}

impl Rate {
    pub(super) fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let per_nanos = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let Some(interval) = per_nanos.checked_next_multiple_of(u64::from(requests)) else {
            return Self {
                interval: 0,
                depth: 0,
                per,
            };
        };
        let interval = (interval / u64::from(requests)).max(1);
        Self {
            interval,
            depth: interval.saturating_mul(u64::from(burst)),
            per,
        }
    }

    /// A part of such a rate, in millionths, with a burst of its own.
    pub(super) fn part(requests: u32, per: Duration, parts_per_million: u32, burst: u32) -> Self {
        let whole = u128::from(WHOLE_PARTS_PER_MILLION);
        let parts = u128::from(requests) * u128::from(parts_per_million);
        let Some(interval) = (per.as_nanos() * whole).checked_next_multiple_of(parts) else {
            return Self::new(0, per, 0);
        };
        let interval = u64::try_from(interval / parts).unwrap_or(u64::MAX).max(1);
        Self {
            interval,
            depth: interval.saturating_mul(u64::from(burst)),
            per,
        }
    }

    /// The bucket's time after one request more, or how long that has to wait.
    pub(super) fn debit(&self, tat: u64, now: u64) -> Result<u64, Duration> {
        if self.depth == 0 {
            return Err(self.per);
        }
        let next = tat.max(now).saturating_add(self.interval);
        match (next - now).checked_sub(self.depth) {
            None | Some(0) => Ok(next),
            Some(too_early) => Err(Duration::from_nanos(too_early)),
        }
    }

    /// The bucket's time with one request taken back.
    pub(super) fn give_back(&self, tat: u64) -> u64 {
        tat.saturating_sub(self.interval)
    }

    /// Whole requests that it would admit now.
    pub(super) fn available(&self, tat: u64, now: u64) -> u64 {
        self.content(tat, now)
            .checked_div(self.interval)
            .unwrap_or(0)
    }

    /// Until it is full.
    pub(super) fn until_full(&self, tat: u64, now: u64) -> Duration {
        if self.depth == 0 {
            return self.per;
        }
        Duration::from_nanos(tat.saturating_sub(now))
    }

    /// The time of a bucket that holds now what a bucket of rate `old` holds, as
    /// far as it fits. What has been spent stays spent, so no change of the rate gives
    /// anything: a larger bucket fills up from there.
    pub(super) fn carry_over(&self, old: &Self, tat: u64, now: u64) -> u64 {
        let held = u128::from(old.content(tat, now));
        let scaled = (held * u128::from(self.interval))
            .checked_div(u128::from(old.interval))
            .unwrap_or(0);
        let content = u64::try_from(scaled).unwrap_or(u64::MAX).min(self.depth);
        now.saturating_add(self.depth - content)
    }

    /// What it holds, in nanoseconds of filling.
    fn content(&self, tat: u64, now: u64) -> u64 {
        self.depth.saturating_sub(tat.saturating_sub(now))
    }
}
