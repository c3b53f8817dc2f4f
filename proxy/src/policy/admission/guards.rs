//! How many places are kept from the lower priorities: a pure state machine.
//!
//! ```text
//!   in flight ├──────────────────┬───────────┬───────────┤ limit
//!             sheddable up to here│ default … │ critical …│
//!                                 └ guard of ─┴ guard of ─┘
//!                                    default     critical
//!   one of its priority was refused ──▶ the guard grows
//!   one of it was admitted          ──▶ it shrinks, to a little while any come
//!   nobody of it comes              ──▶ no guard: the others may use every place
//!   too many places stand empty     ──▶ less of the guards is in force
//! ```
//!
//! Loss systems with reserved places behave so: a few are enough for a priority
//! that wants less than there is, since they become free faster than it comes;
//! for one that wants more the guard grows until the lower ones get nothing.
//!
//! Guards go by requests, not by time: one refusal of a priority that comes
//! seldom is one refusal, however many ticks pass until the next of it. And a
//! guard is paid for in places that stand empty while others are refused, so what
//! is in force of the guards is bounded by what they are seen to cost.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::config::admission::Priority;

/// Guards are looked at so often.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Nobody of a priority for so long: it wants no places. What comes once a second
/// is still spared.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// Of the limit, what a refusal adds to the guard of its priority, and the least
/// and, in one tick, the most that is added.
const GROWS: f64 = 1.0 / 50.0;
const GROWS_AT_LEAST: f64 = 0.25;
const GROWS_AT_MOST: f64 = 1.0 / 8.0;
/// What is left of a guard after a request that was admitted.
const SHRINKS: f64 = 1.0 - 1.0 / 500.0;
/// Of the limit, what is kept while anybody of the priority comes.
const LITTLE: f64 = 1.0 / 50.0;
/// Of the limit, how many places may stand empty on average while some are refused;
/// of a limit of a few only, a part of one place.
const IDLE: f64 = 0.125;
const IDLE_AT_LEAST: f64 = 0.5;
/// Of that, what a guard may cost whatever else is empty. Most of it is critical's:
/// whoever names what is critical wants it served, and pays with some of the rest.
const IDLE_OF_CRITICAL: f64 = 0.65;
const IDLE_OF_DEFAULT: f64 = 0.2;
/// What is empty is averaged over about so many requests.
const REMEMBERED: f64 = 100.0;

/// What happened to a priority since the last tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) asked: u64,
    pub(super) refused: u64,
}

/// Places that requests found empty since the last tick, added up: those that
/// nobody was kept from, those kept from sheddable alone, those kept from default too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Empty {
    pub(super) open: u64,
    pub(super) from_sheddable: u64,
    pub(super) from_default: u64,
}

/// What is kept for one priority.
#[derive(Clone, Copy, Debug, Default)]
struct Guard {
    places: f64,
    last_asked: Option<Timestamp>,
    /// The most of it that is in force; `None`: as much as it is.
    bound: Option<f64>,
    /// What it costs: places that are empty for its sake.
    empty: f64,
    /// Parts of a place, over the ticks.
    carried: f64,
    in_force: u32,
}

impl Guard {
    fn step(&mut self, seen: Seen, limit: f64, now: Timestamp) {
        if seen.asked > 0 {
            self.last_asked = Some(now);
        }
        if self.last_asked.is_none_or(|at| now.since(at) >= GONE_AFTER) {
            *self = Self::default();
            return;
        }
        let admitted = seen.asked.saturating_sub(seen.refused);
        let grows = (limit * GROWS).max(GROWS_AT_LEAST) * seen.refused as f64;
        self.places += grows.min((limit * GROWS_AT_MOST).max(GROWS_AT_LEAST));
        self.places *= SHRINKS.powf(admitted as f64);
        self.places = self.places.clamp((limit * LITTLE).min(limit), limit);
    }

    /// `excess`: by which part of what may be empty too much or too little is;
    /// `weight`: of what is known, so much is of this tick.
    fn bind(&mut self, excess: f64, weight: f64) {
        if self.last_asked.is_none() {
            return;
        }
        let held = self.bound.unwrap_or(self.places).min(self.places);
        let bound = held * (1.0 - weight * excess.clamp(-1.0, 1.0));
        // One that had to go altogether must be able to come back.
        self.bound = Some(bound.max(GROWS_AT_LEAST));
        let whole = self.places.min(bound.max(GROWS_AT_LEAST)) + self.carried;
        self.in_force = whole as u32;
        self.carried = whole.fract();
    }
}

/// The guards of the two upper priorities.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Guards {
    critical: Guard,
    default: Guard,
    /// Places that nobody was kept from.
    open: f64,
}

impl Guards {
    /// A tick has ended; `seen` is in the order of [`Priority::ALL`].
    pub(super) fn step(&mut self, seen: [Seen; 3], empty: Empty, limit: u32, now: Timestamp) {
        let limit = f64::from(limit);
        self.critical
            .step(seen[Priority::Critical.index()], limit, now);
        self.default
            .step(seen[Priority::Default.index()], limit, now);
        let asked: u64 = seen.iter().map(|seen| seen.asked).sum();
        if asked == 0 {
            return;
        }
        let asked = asked as f64;
        let weight = 1.0 - (1.0 - 1.0 / REMEMBERED).powf(asked);
        let follow = |held: &mut f64, sum: u64| *held += weight * (sum as f64 / asked - *held);
        follow(&mut self.open, empty.open);
        follow(&mut self.default.empty, empty.from_sheddable);
        follow(&mut self.critical.empty, empty.from_default);
        let allowed = (limit * IDLE).max(IDLE_AT_LEAST);
        let of_critical = self.critical.empty / (allowed * IDLE_OF_CRITICAL);
        self.critical.bind(of_critical - 1.0, weight);
        let of_default = self.default.empty / (allowed * IDLE_OF_DEFAULT);
        let of_all = (self.open + self.default.empty + self.critical.empty) / allowed;
        // Both must be too much: what is empty anyhow is no reason to keep nothing.
        self.default.bind(of_default.min(of_all) - 1.0, weight);
    }

    /// Places that are kept from a priority.
    pub(super) fn kept_from(&self, priority: Priority) -> u32 {
        match priority {
            Priority::Critical => 0,
            Priority::Default => self.critical.in_force,
            Priority::Sheddable => self.critical.in_force + self.default.in_force,
        }
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
            guards.step(seen, Empty::default(), 100, *now);
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
        assert!(guards.kept_from(Priority::Sheddable) >= 98);
        assert_eq!(guards.kept_from(Priority::Default), 0);
        after(100, &mut guards, [BUSY, BUSY, REFUSED], &mut now);
        assert!(guards.kept_from(Priority::Default) >= 98);
        assert_eq!(guards.kept_from(Priority::Critical), 0);
    }

    #[test]
    fn a_priority_that_is_not_refused_keeps_a_little_and_one_that_is_gone_nothing() {
        let (mut guards, mut now) = (Guards::default(), Timestamp::from_millis(1));
        after(20, &mut guards, [BUSY, BUSY, REFUSED], &mut now);
        after(300, &mut guards, [BUSY, BUSY, BUSY], &mut now);
        assert_eq!(guards.kept_from(Priority::Default), 2);
        assert_eq!(guards.kept_from(Priority::Sheddable), 4);
        after(100, &mut guards, [BUSY, BUSY, NOBODY], &mut now);
        assert_eq!(guards.kept_from(Priority::Default), 0);
    }

    #[test]
    fn one_refusal_is_one_however_many_ticks_pass() {
        let (mut guards, mut now) = (Guards::default(), Timestamp::from_millis(1));
        let one = Seen {
            asked: 1,
            refused: 1,
        };
        after(1, &mut guards, [BUSY, BUSY, one], &mut now);
        after(19, &mut guards, [BUSY, BUSY, NOBODY], &mut now);
        assert!(guards.kept_from(Priority::Default) <= 2);
    }

    #[test]
    fn guards_that_leave_too_much_empty_are_not_in_force() {
        let (mut guards, mut now) = (Guards::default(), Timestamp::from_millis(1));
        let seen = [BUSY, REFUSED, REFUSED];
        after(100, &mut guards, seen, &mut now);
        for _ in 0..100 {
            now = now.after(TICK);
            let from_default = 30 * u64::from(guards.kept_from(Priority::Default));
            let empty = Empty {
                from_default,
                ..Empty::default()
            };
            guards.step(seen, empty, 100, now);
        }
        let kept = guards.kept_from(Priority::Default);
        assert!((1..10).contains(&kept), "{kept}");
    }
}
