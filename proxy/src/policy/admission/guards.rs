//! How many places are kept from the lower priorities: a pure state machine.
//!
//! ```text
//!   in flight ├──────────────────┬───────────┬───────────┤ limit
//!             sheddable up to here│ default … │ critical …│
//!                                 └ guard of ─┴ guard of ─┘
//!                                    default     critical
//!   its priority was refused lately ──▶ the guard grows
//!   nobody of it was refused        ──▶ it shrinks, to a little while any come
//!   nobody of it comes              ──▶ no guard: the others may use every place
//! ```
//!
//! Loss systems with reserved places behave so: a few are enough for a priority
//! that wants less than there is, since they become free faster than it comes;
//! for one that wants more the guard grows until the lower ones get nothing.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::config::admission::Priority;

/// Guards are looked at so often.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Nobody of a priority for so long: it wants no places.
const GONE_AFTER: Duration = Duration::from_secs(1);
/// So much of a priority may be refused ...
const TOLERATED: f64 = 0.02;
/// ... as it was over about so many ticks.
const REMEMBERED: f64 = 10.0;
/// Of the limit, what a tick adds to the guard of a priority of which more is
/// refused, and the least that it adds.
const GROWS: f64 = 1.0 / 20.0;
const GROWS_AT_LEAST: f64 = 0.25;
/// What is left of a guard after a tick without one.
const SHRINKS: f64 = 0.97;
/// Of the limit, what is kept while anybody of the priority comes.
const LITTLE: f64 = 1.0 / 50.0;

/// What happened to a priority since the last tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) asked: u64,
    pub(super) refused: u64,
}

/// What is kept for one priority.
#[derive(Clone, Copy, Debug, Default)]
struct Guard {
    places: f64,
    /// The share of it that was refused lately.
    refused: f64,
    last_asked: Option<Timestamp>,
}

impl Guard {
    fn step(&mut self, seen: Seen, limit: f64, now: Timestamp) {
        if seen.asked > 0 {
            self.last_asked = Some(now);
        }
        let comes = self.last_asked.is_some_and(|at| now.since(at) < GONE_AFTER);
        if seen.asked > 0 {
            let share = seen.refused as f64 / seen.asked as f64;
            self.refused += (share - self.refused) / REMEMBERED;
        }
        if !comes {
            *self = Self::default();
        } else if self.refused > TOLERATED {
            // The more of them, the faster.
            self.places += (limit * GROWS.max(self.refused / 4.0)).max(GROWS_AT_LEAST);
        } else if self.refused < TOLERATED / 2.0 {
            self.places = (self.places * SHRINKS).max(limit * LITTLE);
        }
        self.places = self.places.clamp(0.0, limit);
    }
}

/// The guards of the two upper priorities.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Guards {
    critical: Guard,
    default: Guard,
}

impl Guards {
    /// A tick has ended; `seen` is in the order of [`Priority::ALL`].
    pub(super) fn step(&mut self, seen: [Seen; 3], limit: u32, now: Timestamp) {
        let limit = f64::from(limit);
        self.critical
            .step(seen[Priority::Critical.index()], limit, now);
        self.default
            .step(seen[Priority::Default.index()], limit, now);
    }

    /// Places that are kept from a priority.
    pub(super) fn kept_from(&self, priority: Priority) -> u32 {
        let places = match priority {
            Priority::Critical => 0.0,
            Priority::Default => self.critical.places,
            Priority::Sheddable => self.critical.places + self.default.places,
        };
        places as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Seen = Seen {
        asked: 10,
        refused: 0,
    };
    const REFUSED: Seen = Seen {
        asked: 10,
        refused: 5,
    };
    const NOBODY: Seen = Seen {
        asked: 0,
        refused: 0,
    };

    fn after(ticks: usize, guards: &mut Guards, seen: [Seen; 3], now: &mut Timestamp) {
        for _ in 0..ticks {
            *now = now.after(TICK);
            guards.step(seen, 100, *now);
        }
    }

    #[test]
    fn alone_every_priority_may_use_every_place() {
        for priority in Priority::ALL {
            let (mut guards, mut now) = (Guards::default(), Timestamp::from_millis(1));
            let mut seen = [NOBODY; 3];
            seen[priority.index()] = REFUSED;
            after(100, &mut guards, seen, &mut now);
            assert_eq!(guards.kept_from(priority), 0, "{priority:?}");
        }
    }

    #[test]
    fn a_priority_that_is_refused_takes_all_from_those_below_it() {
        let (mut guards, mut now) = (Guards::default(), Timestamp::from_millis(1));
        after(100, &mut guards, [BUSY, REFUSED, NOBODY], &mut now);
        assert_eq!(guards.kept_from(Priority::Sheddable), 100);
        assert_eq!(guards.kept_from(Priority::Default), 0);
        after(100, &mut guards, [BUSY, BUSY, REFUSED], &mut now);
        assert_eq!(guards.kept_from(Priority::Default), 100);
        assert_eq!(guards.kept_from(Priority::Critical), 0);
    }

    #[test]
    fn a_priority_that_is_not_refused_keeps_a_little_and_one_that_is_gone_nothing() {
        let (mut guards, mut now) = (Guards::default(), Timestamp::from_millis(1));
        after(20, &mut guards, [BUSY, BUSY, REFUSED], &mut now);
        after(300, &mut guards, [BUSY, BUSY, BUSY], &mut now);
        assert_eq!(guards.kept_from(Priority::Default), 2);
        assert_eq!(guards.kept_from(Priority::Sheddable), 4);
        after(20, &mut guards, [BUSY, BUSY, NOBODY], &mut now);
        assert_eq!(guards.kept_from(Priority::Default), 0);
    }
}
