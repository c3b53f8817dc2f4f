//! When a request is sent a second time though the first is still under way.
//!
//! ```text
//!   attempt ├──── after ────▶ hedge ├──── after ────▶ hedge ... at most `max`
//!      │ good                   │ good            the others are cancelled
//!      └──────── first ─────────┴────────▶ answer
//!      │ bad, others under way ──▶ waits for them
//!      └ bad, the last ──────────▶ the retry's decision, once
//! ```
//!
//! Pure, but for [`Latencies`], which all workers share: the service's latencies of
//! late, by which a percentile is a time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::config::{Conditions, Hedge, HedgeAfter};
use crate::clock::Timestamp;
use crate::policy::config::AttemptEnd;

/// The hedges of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Hedges {
    after: Duration,
    left: u32,
    due: Option<Timestamp>,
}

impl Hedges {
    /// Of an attempt that begins at `now`, of a request that has had `sent` already.
    /// None where there are no more, or where it is not known yet what is late.
    pub fn new(
        hedge: &Hedge,
        sent: u32,
        latencies: impl FnOnce(u8) -> Option<Duration>,
        now: Timestamp,
    ) -> Option<Self> {
        let left = hedge.max.checked_sub(sent).filter(|left| *left > 0)?;
        let after = match hedge.after {
            HedgeAfter::Fixed(after) => after,
            HedgeAfter::Percentile(percentile) => latencies(percentile)?,
        };
        Some(Self {
            after,
            left,
            due: Some(now.after(after)),
        })
    }

    /// When the next is sent.
    pub fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// One was sent.
    pub fn sent(&mut self, now: Timestamp) {
        self.left = self.left.saturating_sub(1);
        self.due = (self.left > 0).then(|| now.after(self.after));
    }

    /// There is no endpoint for another, or no budget.
    pub fn stop(&mut self) {
        self.due = None;
    }
}

/// Whether an answer ends the race: one that is neither retried nor a failure.
pub fn is_good(end: AttemptEnd, on: &Conditions, failures: Option<&Conditions>) -> bool {
    let is_answer = matches!(end, AttemptEnd::Response { .. });
    is_answer && !on.matches(end) && !failures.is_some_and(|failures| failures.matches(end))
}

/// So many latencies are kept.
const KEPT: usize = 1024;
/// With fewer nothing is said.
pub const AT_LEAST: u64 = 100;
/// A percentile is reckoned anew after so many.
const ANEW: u64 = 32;

/// The latencies of a service of late, in microseconds.
#[derive(Debug)]
pub struct Latencies {
    kept: [AtomicU32; KEPT],
    count: AtomicU64,
    /// What was reckoned last: percentile (8 bits), for which [`ANEW`] (24), the result (32).
    reckoned: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            kept: std::array::from_fn(|_| AtomicU32::new(0)),
            count: AtomicU64::new(0),
            reckoned: AtomicU64::new(0),
        }
    }
}

impl Latencies {
    /// One more; of an attempt that was cancelled what it had taken so far, or the
    /// slow ones would be forgotten for being slow.
    pub fn note(&self, latency: Duration) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        let at = self.count.fetch_add(1, Relaxed);
        self.kept[(at % KEPT as u64) as usize].store(micros, Relaxed);
    }

    /// This percentile; nothing while too little is known.
    pub fn percentile(&self, percentile: u8) -> Option<Duration> {
        let count = self.count.load(Relaxed);
        if count < AT_LEAST {
            return None;
        }
        let key = (u64::from(percentile) << 24) | ((count / ANEW) & 0xff_ffff);
        let held = self.reckoned.load(Relaxed);
        if held >> 32 == key {
            return Some(Duration::from_micros(held & 0xffff_ffff));
        }
        let micros = self.reckon(percentile, count);
        self.reckoned
            .store((key << 32) | u64::from(micros), Relaxed);
        Some(Duration::from_micros(micros.into()))
    }

    fn reckon(&self, percentile: u8, count: u64) -> u32 {
        let mut kept: [u32; KEPT] = std::array::from_fn(|at| self.kept[at].load(Relaxed));
        let length = KEPT.min(count as usize);
        let rank = (length * usize::from(percentile)).div_ceil(100);
        let at = rank.saturating_sub(1).min(length.saturating_sub(1));
        *kept[..length].select_nth_unstable(at).1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const AT: fn(u64) -> Timestamp = Timestamp::from_millis;

    fn hedge(max: u32) -> Hedge {
        Hedge {
            after: HedgeAfter::Fixed(MS(50)),
            max,
        }
    }

    #[test]
    fn each_is_due_after_the_last_and_there_are_no_more_than_the_most() {
        let mut hedges = Hedges::new(&hedge(2), 0, |_| None, AT(0)).unwrap();
        assert_eq!(hedges.due(), Some(AT(50)));
        hedges.sent(AT(51));
        assert_eq!(hedges.due(), Some(AT(101)));
        hedges.sent(AT(101));
        assert_eq!(hedges.due(), None);
        assert!(
            Hedges::new(&hedge(2), 2, |_| None, AT(0)).is_none(),
            "of the whole request"
        );
        let mut hedges = Hedges::new(&hedge(2), 1, |_| None, AT(0)).unwrap();
        hedges.stop();
        assert_eq!(hedges.due(), None);
    }

    #[test]
    fn a_percentile_is_no_time_until_enough_is_known() {
        let p95 = Hedge {
            after: HedgeAfter::Percentile(95),
            max: 1,
        };
        let latencies = Latencies::default();
        for number in 1..=99 {
            latencies.note(MS(number));
            assert!(Hedges::new(&p95, 0, |p| latencies.percentile(p), AT(0)).is_none());
        }
        latencies.note(MS(100));
        let hedges = Hedges::new(&p95, 0, |p| latencies.percentile(p), AT(0));
        assert_eq!(hedges.unwrap().due(), Some(AT(95)));
    }

    #[test]
    fn good_is_what_is_neither_retried_nor_a_failure() {
        let (on, failures) = (
            Conditions::default_retries(),
            Conditions::default_failures(),
        );
        let good = |status| {
            let end = AttemptEnd::Response { status, grpc: None };
            is_good(end, &on, Some(&failures))
        };
        assert!(good(200) && good(404) && !good(503) && !good(500));
        assert!(!is_good(AttemptEnd::Timeout, &on, None), "it is no answer");
    }

    proptest! {
        #[test]
        fn a_percentile_is_that_of_a_naive_model(
            all in prop::collection::vec(0..100_000_u64, 100..3000),
            percentile in 1..100_u8,
        ) {
            let latencies = Latencies::default();
            for micros in &all {
                latencies.note(Duration::from_micros(*micros));
            }
            let mut last: Vec<u64> = all.iter().rev().take(KEPT).copied().collect();
            last.sort_unstable();
            let rank = (last.len() * usize::from(percentile)).div_ceil(100);
            let expected = Duration::from_micros(last[rank - 1]);
            prop_assert_eq!(latencies.percentile(percentile), Some(expected));
        }
    }
}
