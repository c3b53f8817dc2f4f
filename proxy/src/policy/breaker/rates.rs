//! The shares of attempts of late that failed, and that were slow.
//!
//! ```text
//!   oldest                                              now
//!   ├──────┼──────┼──────┼── ... ──┼──────┼──────┼ so far ┤
//!   └──────── counted: twenty slots, this one with them ──┘
//! ```
//!
//! The window slides in slots of a twentieth of its length. All workers count
//! without a lock: a word of a slot holds which slot of time it is, and how many
//! attempts there were and how many of them bad. Where a slot is full both are
//! halved, so that the share stays.
//!
//! What belongs to an earlier epoch of the breaker must not be counted: with each
//! epoch the breaker takes new windows ([`super::shared`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::config::{Rate, SlowCalls, Trip};

/// Slots of a window.
pub(super) const SLOTS: u64 = 20;
/// One more, for a worker whose reading of the clock is a moment older.
const RING: usize = SLOTS as usize + 1;
/// A slot holds so many attempts.
const FULL: u64 = (1 << COUNT_BITS) - 1;
const COUNT_BITS: u32 = 20;
const TAG_BITS: u32 = 24;
/// No worker's reading of the clock is older by so many slots (51 s of the shortest
/// window's); what seems to lie further ahead has lain there for days.
const MOST_AHEAD: u64 = 1 << 10;

/// Attempts of one window.
#[derive(Debug)]
pub(super) struct Window {
    slot_nanos: u64,
    slots: [AtomicU64; RING],
}

/// What a window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) total: u64,
    pub(super) bad: u64,
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self {
            slot_nanos: (nanos / SLOTS).max(1),
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Counts one that ended now; what the window holds with it.
    pub(super) fn count(&self, is_bad: bool, now: Timestamp) -> Tally {
        let index = now.as_nanos() / self.slot_nanos;
        let tag = index & mask(TAG_BITS);
        let slot = &self.slots[(index % RING as u64) as usize];
        // Fails where the slot is a later one's already: then it is too late.
        let _too_late = slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let (held, tally) = unpack(word);
            let tally = if held == tag {
                tally
            } else if tally.total == 0 || !is_later(held, tag) {
                Tally::default()
            } else {
                return None;
            };
            Some(pack(tag, tally.with(is_bad)))
        });
        self.tally(index)
    }

    fn tally(&self, index: u64) -> Tally {
        let tag = index & mask(TAG_BITS);
        let mut sum = Tally::default();
        for slot in &self.slots {
            let (held, tally) = unpack(slot.load(Ordering::Acquire));
            if tag.wrapping_sub(held) & mask(TAG_BITS) < SLOTS {
                sum.total += tally.total;
                sum.bad += tally.bad;
            }
        }
        sum
    }
}

impl Tally {
    fn with(self, is_bad: bool) -> Self {
        let Self { mut total, mut bad } = self;
        if total == FULL {
            (total, bad) = (total / 2, bad / 2);
        }
        Self {
            total: total + 1,
            bad: bad + u64::from(is_bad),
        }
    }

    /// Whether it is so many that the breaker opens.
    pub(super) fn is_over(self, rate: &Rate) -> bool {
        self.total >= u64::from(rate.min_requests)
            && self.bad * 100 >= self.total * u64::from(rate.threshold_percent)
    }
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Whether slot `held` lies after `tag`, on the circle of tags.
const fn is_later(held: u64, tag: u64) -> bool {
    let ahead = held.wrapping_sub(tag) & mask(TAG_BITS);
    ahead != 0 && ahead < MOST_AHEAD
}

const fn pack(tag: u64, tally: Tally) -> u64 {
    (tag << (2 * COUNT_BITS)) | (tally.total << COUNT_BITS) | tally.bad
}

const fn unpack(word: u64) -> (u64, Tally) {
    let tally = Tally {
        total: (word >> COUNT_BITS) & FULL,
        bad: word & FULL,
    };
    (word >> (2 * COUNT_BITS), tally)
}

/// A rate that is over its threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Breach {
    tally: Tally,
    rate: Rate,
    /// Of slow calls: what slow is.
    slow: Option<Duration>,
}

impl Breach {
    /// One word of a closed list, for metrics.
    pub(super) const fn reason(self) -> &'static str {
        match self.slow {
            None => "failure_rate",
            Some(_) => "slow_calls",
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { total, bad } = self.tally;
        write!(f, "{bad} of {total} calls ")?;
        match self.slow {
            None => write!(f, "failed")?,
            Some(slow) => write!(f, "took longer than {}", Span(slow))?,
        }
        let percent = bad * 100 / total.max(1);
        write!(
            f,
            " within {} ({percent}%, threshold {}%)",
            Span(self.rate.window),
            self.rate.threshold_percent
        )
    }
}

/// A duration as policies write it.
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

/// The windows of one breaker, of one epoch.
#[derive(Debug)]
pub(super) struct Rates {
    failures: Option<(Rate, Arc<Window>)>,
    slow: Option<(SlowCalls, Arc<Window>)>,
}

impl Rates {
    /// Empty ones; none where the policy asks for none.
    pub(super) fn new(trip: &Trip) -> Option<Self> {
        Self::after(trip, None)
    }

    /// Under another policy: what was counted stays where the window's length does.
    pub(super) fn after(trip: &Trip, before: Option<&Self>) -> Option<Self> {
        if trip.failure_rate.is_none() && trip.slow_calls.is_none() {
            return None;
        }
        let failures = before.and_then(|before| before.failures.as_ref());
        let slow = before.and_then(|before| before.slow.as_ref());
        Some(Self {
            failures: trip.failure_rate.map(|rate| {
                let same = failures.filter(|(old, _)| old.window == rate.window);
                (rate, kept(same.map(|(_, window)| window), &rate))
            }),
            slow: trip.slow_calls.map(|calls| {
                let same = slow.filter(|(old, _)| {
                    old.duration == calls.duration && old.rate.window == calls.rate.window
                });
                (calls, kept(same.map(|(_, window)| window), &calls.rate))
            }),
        })
    }

    /// An attempt has ended, after so long; what is over its threshold by it.
    pub(super) fn count(&self, failed: bool, took: Duration, now: Timestamp) -> Option<Breach> {
        let failures = self.failures.as_ref().and_then(|(rate, window)| {
            let tally = window.count(failed, now);
            let slow = None;
            tally.is_over(rate).then_some(Breach {
                tally,
                rate: *rate,
                slow,
            })
        });
        let slow = self.slow.as_ref().and_then(|(calls, window)| {
            let tally = window.count(took > calls.duration, now);
            tally.is_over(&calls.rate).then_some(Breach {
                tally,
                rate: calls.rate,
                slow: Some(calls.duration),
            })
        });
        failures.or(slow)
    }
}

fn kept(same: Option<&Arc<Window>>, rate: &Rate) -> Arc<Window> {
    same.map_or_else(|| Arc::new(Window::new(rate.window)), Arc::clone)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate {
        threshold_percent: 50,
        window: Duration::from_secs(10),
        min_requests: 4,
    };

    fn rates(trip: &Trip) -> Rates {
        Rates::new(trip).unwrap()
    }

    #[test]
    fn fewer_than_the_least_say_nothing_and_the_threshold_itself_is_over() {
        let rates = rates(&Trip {
            failure_rate: Some(RATE),
            ..Trip::default()
        });
        let now = Timestamp::from_millis(1_000_000);
        let count = |failed| rates.count(failed, Duration::ZERO, now);
        assert!(count(true).is_none() && count(true).is_none() && count(false).is_none());
        let breach = count(false).unwrap();
        assert_eq!(
            breach.to_string(),
            "2 of 4 calls failed within 10s (50%, threshold 50%)"
        );
        assert_eq!(count(false), None, "two of five are fewer than a half");
    }

    #[test]
    fn a_call_of_the_very_duration_is_not_slow() {
        let rates = rates(&Trip {
            slow_calls: Some(SlowCalls {
                duration: Duration::from_millis(250),
                rate: Rate {
                    min_requests: 1,
                    ..RATE
                },
            }),
            ..Trip::default()
        });
        let now = Timestamp::from_millis(1_000_000);
        let took = |millis| rates.count(false, Duration::from_millis(millis), now);
        assert_eq!(took(250), None);
        assert_eq!(
            took(251).unwrap().to_string(),
            "1 of 2 calls took longer than 250ms within 10s (50%, threshold 50%)"
        );
    }

    #[test]
    fn what_was_counted_days_ago_is_not_taken_for_later() {
        let day = Duration::from_secs(86_400);
        for days in 1..=30 {
            let window = Window::new(Duration::from_secs(1));
            let start = Timestamp::from_millis(1_000_000);
            window.count(true, start);
            let tally = window.count(false, start.after(day * days));
            assert_eq!(tally, Tally { total: 1, bad: 0 }, "after {days} days");
        }
    }

    #[test]
    fn a_slot_that_is_full_keeps_its_share() {
        let full = Tally {
            total: FULL,
            bad: FULL / 4,
        };
        let after = full.with(false);
        assert!(after.total <= FULL && after.bad * 100 / after.total == 24);
        assert_eq!(unpack(pack(7, full)), (7, full));
    }

    #[test]
    fn another_policy_keeps_what_was_counted_where_the_window_is_as_long() {
        let mut trip = Trip {
            failure_rate: Some(RATE),
            ..Trip::default()
        };
        let before = rates(&trip);
        let now = Timestamp::from_millis(1_000_000);
        for _ in 0..3 {
            before.count(true, Duration::ZERO, now);
        }
        trip.failure_rate = Some(Rate {
            threshold_percent: 100,
            ..RATE
        });
        let after = Rates::after(&trip, Some(&before)).unwrap();
        assert!(after.count(true, Duration::ZERO, now).is_some());
        trip.failure_rate = Some(Rate {
            window: Duration::from_secs(5),
            ..RATE
        });
        let shorter = Rates::after(&trip, Some(&after)).unwrap();
        assert_eq!(shorter.count(true, Duration::ZERO, now), None);
    }

    proptest! {
        #[test]
        fn a_window_holds_what_a_naive_model_holds(
            steps in prop::collection::vec((0..3000_u64, any::<bool>()), 1..200),
            window_ms in 1000..60_000_u64,
            start in 0..1_000_000_000_u64,
        ) {
            let window = Window::new(Duration::from_millis(window_ms));
            let slot = |at: Timestamp| at.as_nanos() / (window_ms * 1_000_000 / SLOTS);
            let mut model: Vec<(Timestamp, bool)> = Vec::new();
            let mut now = Timestamp::from_millis(start);
            for (later, is_bad) in steps {
                now = now.after(Duration::from_millis(later));
                model.push((now, is_bad));
                let inside: Vec<bool> = model.iter()
                    .filter(|(at, _)| slot(now) - slot(*at) < SLOTS)
                    .map(|(_, is_bad)| *is_bad)
                    .collect();
                let tally = window.count(is_bad, now);
                prop_assert_eq!(tally.total, inside.len() as u64);
                prop_assert_eq!(tally.bad, inside.iter().filter(|bad| **bad).count() as u64);
                // In time, and not in slots: nothing older than the window, all of the last 19/20.
                let is_young = |at: Timestamp, of: u64| {
                    now.since(at) < Duration::from_millis(window_ms * of / SLOTS)
                };
                let at_most = model.iter().filter(|(at, _)| now.since(*at) <= Duration::from_millis(window_ms)).count();
                let at_least = model.iter().filter(|(at, _)| is_young(*at, SLOTS - 1)).count();
                prop_assert!((at_least..=at_most).contains(&inside.len()));
            }
        }
    }
}
