//! How many retries a service bears.
//!
//! ```text
//!   oldest                                                        now
//!   ├ part ┼──────┼──────┼──────┼── ... ──┼──────┼──────┼──────┼ so far ┤
//!   │      └────────────── requests: slots wholly inside ───────────────┤
//!   └───────────────────── retries: every slot it touches ──────────────┘
//! ```
//!
//! In the window that ends with any retry there are at most
//! max(percent x requests, minPerSecond x window) retries. The window slides in
//! slots of a thirtieth of its length; what the slots cannot tell exactly is
//! rounded against the retry, so the bound holds for every moment, not only
//! for slot edges.
//!
//! Shared by all workers without a lock. A retry is first written down and
//! then judged, and taken back when it is one too many: of two that race, each
//! sees the other, so both may be refused but never one too many admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::config;
use crate::clock::Timestamp;

/// The retry budget of one service.
#[derive(Debug)]
pub struct RetryBudget {
    window: ArcSwap<Window>,
}

impl RetryBudget {
    /// Nothing requested, nothing retried yet.
    pub fn new(budget: &config::RetryBudget) -> Self {
        Self {
            window: ArcSwap::from_pointee(Window::new(*budget)),
        }
    }

    /// Takes another budget over. What was counted stays; where the window's
    /// length changes the retries are carried over as made just now, and the
    /// requests are not, so that no change makes the budget larger than either.
    pub fn reconfigure(&self, budget: &config::RetryBudget, now: Timestamp) {
        let old = self.window.load();
        if old.budget == *budget {
            return;
        }
        let mut new = Window::new(*budget);
        if old.budget.window == budget.window {
            new.requests = Arc::clone(&old.requests);
            new.retries = Arc::clone(&old.retries);
        } else {
            let retries = old.retries.sum(old.index(now), SLOTS_INSIDE);
            new.retries.seed(new.index(now), retries);
        }
        self.window.store(Arc::new(new));
    }

    /// Counts a request (not its retries).
    pub fn request(&self, now: Timestamp) {
        let window = self.window.load();
        window.requests.add(window.index(now));
    }

    /// Spends one retry; `false` when the budget is exhausted.
    pub fn try_spend(&self, now: Timestamp) -> bool {
        self.window.load().try_spend(now)
    }
}

/// Slots that lie wholly inside a window.
const SLOTS_INSIDE: u64 = 30;
/// Slots kept: those inside, the one that the window touches, and one to spare
/// for a worker whose reading of the clock is a moment older.
const SLOTS: usize = 32;

#[derive(Debug)]
struct Window {
    budget: config::RetryBudget,
    slot_nanos: u64,
    requests: Arc<Slots>,
    retries: Arc<Slots>,
}

impl Window {
    fn new(budget: config::RetryBudget) -> Self {
        let nanos = u64::try_from(budget.window.as_nanos()).unwrap_or(u64::MAX);
        Self {
            budget,
            // Rounded up for the retries' sake: all slots together cover the window.
            slot_nanos: nanos.div_ceil(SLOTS_INSIDE).max(1),
            requests: Arc::default(),
            retries: Arc::default(),
        }
    }

    fn index(&self, now: Timestamp) -> u64 {
        now.as_nanos() / self.slot_nanos
    }

    fn try_spend(&self, now: Timestamp) -> bool {
        let index = self.index(now);
        if !self.retries.add(index) {
            return false;
        }
        // One slot fewer than the window's for the requests: rounding the slot
        // up may have made thirty of them longer than the window.
        let requests = self.requests.sum(index, SLOTS_INSIDE - 2);
        let within = self.retries.sum(index, SLOTS_INSIDE) <= allowance(&self.budget, requests);
        if !within {
            self.retries.take_back(index);
        }
        within
    }
}

/// How many retries a window with so many requests may hold.
fn allowance(budget: &config::RetryBudget, requests: u64) -> u64 {
    let share = requests.saturating_mul(u64::from(budget.percent)) / 100;
    share.max(minimum(budget.min_per_second, budget.window))
}

fn minimum(per_second: u32, window: Duration) -> u64 {
    let retries = window.as_nanos() * u128::from(per_second) / 1_000_000_000;
    u64::try_from(retries).unwrap_or(u64::MAX)
}

/// A ring of counters. Each word holds which slot of time it counts (high
/// half) and the count (low half), so that a slot is recycled by the first
/// write after its time, without anybody sweeping.
#[derive(Debug, Default)]
struct Slots([AtomicU64; SLOTS]);

impl Slots {
    /// Counts one in slot `index`; `false` when that slot is long past.
    fn add(&self, index: u64) -> bool {
        self.change(index, |count| count.saturating_add(1))
    }

    /// Undoes an [`Self::add`]; nothing is to be done when the slot is gone by now.
    fn take_back(&self, index: u64) {
        self.change(index, |count| count.saturating_sub(1));
    }

    fn change(&self, index: u64, change: impl Fn(u32) -> u32) -> bool {
        let tag = index as u32;
        self.word(index)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
                let (held, count) = unpack(word);
                if held == tag {
                    Some(pack(tag, change(count)))
                } else if is_older(held, tag) || word == 0 {
                    Some(pack(tag, change(0)))
                } else {
                    None
                }
            })
            .is_ok()
    }

    /// What slot `index`, the `before` slots before it and any after it counted:
    /// a worker whose reading of the clock is ahead has written there.
    fn sum(&self, index: u64, before: u64) -> u64 {
        let first = index.saturating_sub(before) as u32;
        self.0
            .iter()
            .map(|word| {
                let (held, count) = unpack(word.load(Ordering::SeqCst));
                u64::from(if is_older(held, first) { 0 } else { count })
            })
            .sum()
    }

    fn seed(&self, index: u64, count: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.word(index)
            .store(pack(index as u32, count), Ordering::SeqCst);
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        &self.0[index as usize % SLOTS]
    }
}

const fn pack(tag: u32, count: u32) -> u64 {
    ((tag as u64) << 32) | count as u64
}

const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// Whether slot `held` lies before `tag`, on the circle of 32-bit slot numbers.
const fn is_older(held: u32, tag: u32) -> bool {
    (tag.wrapping_sub(held) as i32) > 0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;

    const fn budget(percent: u32, min_per_second: u32, window_ms: u64) -> config::RetryBudget {
        config::RetryBudget {
            percent,
            min_per_second,
            window: Duration::from_millis(window_ms),
        }
    }

    fn spend(budget: &RetryBudget, tries: usize, now: Timestamp) -> usize {
        (0..tries).filter(|_| budget.try_spend(now)).count()
    }

    #[test]
    fn without_requests_the_minimum_is_allowed_and_no_more() {
        let shared = RetryBudget::new(&budget(20, 10, 10_000));
        let now = Timestamp::from_millis(50_000);
        assert_eq!(spend(&shared, 500, now), 100);
        // The first moment at which a window holds none of them, but for the rounding of a slot.
        assert_eq!(spend(&shared, 500, Timestamp::from_millis(60_000)), 0);
        assert_eq!(spend(&shared, 500, Timestamp::from_millis(60_700)), 100);
    }

    #[test]
    fn a_share_of_the_requests_is_allowed() {
        let shared = RetryBudget::new(&budget(20, 0, 10_000));
        let now = Timestamp::from_millis(50_000);
        assert_eq!(spend(&shared, 500, now), 0);
        for _ in 0..1000 {
            shared.request(now);
        }
        assert_eq!(spend(&shared, 500, now), 200);
    }

    #[test]
    fn zero_percent_and_no_minimum_allow_nothing() {
        let shared = RetryBudget::new(&budget(0, 0, 1000));
        let now = Timestamp::from_millis(5);
        shared.request(now);
        assert_eq!(spend(&shared, 10, now), 0);
    }

    #[test]
    fn a_change_of_the_policy_refills_nothing() {
        let shared = RetryBudget::new(&budget(0, 10, 10_000));
        let now = Timestamp::from_millis(50_000);
        assert_eq!(spend(&shared, 500, now), 100);
        shared.reconfigure(&budget(5, 10, 10_000), now);
        assert_eq!(spend(&shared, 10, now), 0);
        shared.reconfigure(&budget(5, 10, 1000), now);
        assert_eq!(spend(&shared, 10, now), 0);
        shared.reconfigure(&budget(5, 11, 10_000), now);
        assert_eq!(spend(&shared, 500, now), 10);
    }

    #[test]
    fn four_threads_never_spend_more_than_there_is() {
        for round in 0..50 {
            let shared = RetryBudget::new(&budget(0, 10, 10_000));
            let spent = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for thread in 0..4_u64 {
                    let (shared, spent) = (&shared, &spent);
                    scope.spawn(move || {
                        for step in 0..200 {
                            // Each worker's reading of the clock is a little different.
                            let now = Timestamp::from_millis(50_000 + round + step + thread * 300);
                            if shared.try_spend(now) {
                                spent.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    });
                }
            });
            let spent = spent.into_inner();
            assert!(spent <= 100, "{spent}");
            assert!(spent >= 90, "{spent}: refused without need");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Requests(u32),
        Retries(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop_oneof![
                0..50_u64,
                300..400_u64,
                900..1100_u64,
                Just(1000_u64),
                0..20_000_u64
            ]
            .prop_map(Step::Wait),
            (1..50_u32).prop_map(Step::Requests),
            (1..50_u32).prop_map(Step::Retries),
        ]
    }

    proptest! {
        #[test]
        fn never_more_in_a_window_than_a_naive_count_allows(
            steps in proptest::collection::vec(step(), 1..120),
            percent in 0..=100_u32,
            minimum in 0..20_u32,
        ) {
            let config = budget(percent, minimum, 1000);
            let shared = RetryBudget::new(&config);
            let mut now = Timestamp::from_millis(3);
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            let inside = |times: &[Timestamp], now: Timestamp| {
                times.iter().filter(|at| now.since(**at) < config.window).count() as u64
            };
            for step in steps {
                match step {
                    Step::Wait(span) => now = now.after(Duration::from_millis(span)),
                    Step::Requests(count) => for _ in 0..count {
                        shared.request(now);
                        requests.push(now);
                    },
                    Step::Retries(count) => for _ in 0..count {
                        if shared.try_spend(now) {
                            retries.push(now);
                            let allowed = allowance(&config, inside(&requests, now));
                            prop_assert!(inside(&retries, now) <= allowed);
                        } else if retries.last().is_none_or(|last| now.since(*last).as_millis() > 1100) {
                            // Nothing was spent lately, so only a budget of nothing refuses.
                            let recent = requests.iter().filter(|at| now.since(**at).as_millis() < 900).count();
                            prop_assert_eq!(allowance(&config, recent as u64), 0);
                        }
                    },
                }
            }
        }
    }
}
