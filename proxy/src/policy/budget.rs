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
/// for a worker whose clock reading is a moment older.
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

    /// What slot `index` and the `before` slots before it counted.
    fn sum(&self, index: u64, before: u64) -> u64 {
        let first = index.saturating_sub(before);
        // A worker that is a moment ahead may have written the next slot already.
        (first..=index + 1)
            .map(|index| {
                let (held, count) = unpack(self.word(index).load(Ordering::SeqCst));
                u64::from(if held == index as u32 { count } else { 0 })
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
