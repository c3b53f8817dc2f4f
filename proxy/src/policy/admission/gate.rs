//! The shell by which all workers share one port's admission.
//!
//! Limit and count are one atomic word, as in `policy::limit`, so the limit is
//! exact. What is kept from lower priorities, and what the adaptive limit learns,
//! is worked out now and then by a request that happens to pass: none waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::adaptive::{Adaptive, Window};
use super::guards::{Empty, Guards, Seen, TICK};
use crate::clock::Timestamp;
use crate::policy::config::admission::{self as config, Admission, Priority};

/// Stands for "not limited"; policies bound every limit far below it.
const UNLIMITED: u32 = u32::MAX;
/// A window of the adaptive limit has so many answers at least ...
const WINDOW_ANSWERS: u64 = 100;
/// ... and lasts so long, and so many times its own latency.
const WINDOW_AT_LEAST: Duration = Duration::from_millis(20);
const WINDOW_LATENCIES: u32 = 3;
/// One that takes so long to fill is given up: too little comes to learn from.
const WINDOW_AT_MOST: Duration = Duration::from_secs(5);
/// Logarithms are added up as whole numbers of this part.
const LOGARITHM_PARTS: f64 = (1 << 20) as f64;

/// How many may be in flight at one port, and how many are.
#[derive(Debug)]
pub struct Gate {
    /// The limit in the high half, what is in flight in the low one.
    word: AtomicU64,
    /// Places that are kept from each priority.
    kept: [AtomicU32; Priority::ALL.len()],
    /// The limit without what is added to it for the guards.
    plain_limit: AtomicU32,
    asked: [AtomicU64; Priority::ALL.len()],
    refused: [AtomicU64; Priority::ALL.len()],
    /// Places that requests found empty, added up: open to all, kept from
    /// sheddable, kept from default.
    empty: [AtomicU64; 3],
    next_tick: AtomicU64,
    window: Counted,
    // A lock is allowed: nobody waits for it but a change of the policy.
    slow: Mutex<Slow>,
}

/// Of the window that is under way.
#[derive(Debug, Default)]
struct Counted {
    /// There is an adaptive limit; else nothing is counted.
    is_wanted: AtomicBool,
    /// Which it is; what was admitted in an earlier one says nothing of its limit.
    number: AtomicU64,
    began: AtomicU64,
    answers: AtomicU64,
    logarithms: AtomicU64,
    /// Refused with every place taken, not only those of its priority.
    at_limit: AtomicU64,
    /// The last window's latency, nanoseconds.
    latency: AtomicU64,
}

#[derive(Debug, Default)]
struct Slow {
    fixed: Option<u32>,
    adaptive: Option<(config::Adaptive, Adaptive)>,
    guards: Guards,
    told: [Seen; Priority::ALL.len()],
}

/// A moment's reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// `None`: not limited.
    pub limit: Option<u32>,
    /// Admitted and not ended.
    pub in_flight: u32,
    /// In the order of [`Priority::ALL`]: so many asked ...
    pub asked: [u64; Priority::ALL.len()],
    /// ... so many of them were refused ...
    pub refused: [u64; Priority::ALL.len()],
    /// ... and so many places are kept from them now.
    pub kept: [u32; Priority::ALL.len()],
}

impl Gate {
    /// Nothing is limited yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU64::new(pack(UNLIMITED, 0)),
            kept: Default::default(),
            plain_limit: AtomicU32::new(UNLIMITED),
            asked: Default::default(),
            refused: Default::default(),
            empty: Default::default(),
            next_tick: AtomicU64::new(0),
            window: Counted::default(),
            slow: Mutex::default(),
        })
    }

    /// Takes what policies say over: all apply, so of each bound the lowest. What
    /// is in flight stays, and an adaptive limit goes on where it was.
    pub fn configure(&self, admissions: &[Admission], now: Timestamp) {
        let mut slow = self.slow.lock();
        slow.fixed = admissions.iter().filter_map(|one| one.max_requests).min();
        let wanted = admissions.iter().filter_map(|one| one.adaptive);
        let wanted = wanted.reduce(|one, other| config::Adaptive {
            min_requests: one.min_requests.min(other.min_requests),
            max_requests: one.max_requests.min(other.max_requests),
            tolerance_percent: one.tolerance_percent.min(other.tolerance_percent),
        });
        let held = slow.adaptive.take();
        slow.adaptive = wanted.map(|wanted| {
            let mut machine = held.map_or_else(|| Adaptive::new(&wanted), |(_, held)| held);
            machine.bound(&wanted);
            (wanted, machine)
        });
        self.window
            .is_wanted
            .store(slow.adaptive.is_some(), Ordering::Relaxed);
        self.set_limit(&slow);
        self.begin_window(now);
    }

    /// One more of this priority, until the permit is dropped; `None`: it is
    /// refused at once.
    pub fn try_admit(self: &Arc<Self>, priority: Priority, now: Timestamp) -> Option<Permit> {
        let at = priority.index();
        self.asked[at].fetch_add(1, Ordering::Relaxed);
        if self.next_tick.load(Ordering::Relaxed) <= now.as_nanos() {
            self.tick(now);
        }
        let kept = self.kept[at].load(Ordering::Relaxed);
        let more = |word: u64| {
            let (limit, in_flight) = unpack(word);
            (in_flight < limit.saturating_sub(kept)).then(|| pack(limit, in_flight + 1))
        };
        let admitted = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        let (Ok(found) | Err(found)) = admitted;
        self.count_empty(found);
        if let Err(word) = admitted {
            self.refused[at].fetch_add(1, Ordering::Relaxed);
            let (_, in_flight) = unpack(word);
            if in_flight >= self.plain_limit.load(Ordering::Relaxed) {
                self.window.at_limit.fetch_add(1, Ordering::Relaxed);
            }
            return None;
        }
        Some(Permit {
            gate: Arc::clone(self),
            window: self.window.number.load(Ordering::Relaxed),
            since: now,
            is_answered: false,
        })
    }

    /// What a request found: places that stand empty, and for whose sake.
    fn count_empty(&self, found: u64) {
        let plain = self.plain_limit.load(Ordering::Relaxed);
        let (limit, in_flight) = unpack(found);
        let empty = plain.saturating_sub(in_flight);
        if plain == UNLIMITED || empty == 0 {
            return;
        }
        let is_kept_from = |priority: Priority| {
            let kept = self.kept[priority.index()].load(Ordering::Relaxed);
            in_flight >= limit.saturating_sub(kept)
        };
        let why = if is_kept_from(Priority::Default) {
            2
        } else {
            usize::from(is_kept_from(Priority::Sheddable))
        };
        self.empty[why].fetch_add(u64::from(empty), Ordering::Relaxed);
    }

    /// How it stands.
    pub fn figures(&self) -> Figures {
        let (limit, in_flight) = unpack(self.word.load(Ordering::Acquire));
        let read = |counters: &[AtomicU64; Priority::ALL.len()]| {
            std::array::from_fn(|at| counters[at].load(Ordering::Relaxed))
        };
        Figures {
            limit: (limit != UNLIMITED).then_some(limit),
            in_flight,
            asked: read(&self.asked),
            refused: read(&self.refused),
            kept: std::array::from_fn(|at| self.kept[at].load(Ordering::Relaxed)),
        }
    }

    fn set_limit(&self, slow: &Slow) {
        let (plain, limit) = slow.limits();
        self.plain_limit.store(plain, Ordering::Relaxed);
        let change = |word: u64| Some(pack(limit, unpack(word).1));
        // Never refused: the closure always gives a word.
        let _ = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    /// Works out anew what is kept from whom.
    fn tick(&self, now: Timestamp) {
        let Some(mut slow) = self.slow.try_lock() else {
            return;
        };
        self.next_tick
            .store(now.after(TICK).as_nanos(), Ordering::Relaxed);
        let limit = self.plain_limit.load(Ordering::Relaxed);
        if limit == UNLIMITED {
            return;
        }
        let total: [Seen; Priority::ALL.len()] = std::array::from_fn(|at| Seen {
            asked: self.asked[at].load(Ordering::Relaxed),
            refused: self.refused[at].load(Ordering::Relaxed),
        });
        let told = std::mem::replace(&mut slow.told, total);
        let since = std::array::from_fn(|at| Seen {
            asked: total[at].asked - told[at].asked,
            refused: total[at].refused - told[at].refused,
        });
        let [open, from_sheddable, from_default] =
            std::array::from_fn(|at| self.empty[at].swap(0, Ordering::Relaxed));
        // A limit that is learnt is larger by what is kept: nothing stands empty.
        let is_learnt = slow.limits().0 < slow.fixed.unwrap_or(UNLIMITED);
        let empty = if is_learnt {
            Empty::default()
        } else {
            Empty {
                open,
                from_sheddable,
                from_default,
            }
        };
        slow.guards.step(since, empty, limit, now);
        for priority in Priority::ALL {
            let kept = slow.guards.kept_from(priority);
            self.kept[priority.index()].store(kept, Ordering::Relaxed);
        }
        self.set_limit(&slow);
    }

    fn observe(&self, permit: &Permit, now: Timestamp) {
        let counted = &self.window;
        let is_wanted = counted.is_wanted.load(Ordering::Relaxed);
        if !is_wanted || counted.number.load(Ordering::Relaxed) != permit.window {
            return;
        }
        let latency = now.since(permit.since);
        let nanos = latency.as_nanos().max(1) as f64;
        let logarithm = (nanos.ln() * LOGARITHM_PARTS) as u64;
        counted.logarithms.fetch_add(logarithm, Ordering::Relaxed);
        let answers = counted.answers.fetch_add(1, Ordering::Relaxed) + 1;
        let age = now.since(Timestamp::from_nanos(counted.began.load(Ordering::Relaxed)));
        if (answers >= WINDOW_ANSWERS && age >= WINDOW_AT_LEAST) || age >= WINDOW_AT_MOST {
            self.end_window(age, now);
        }
    }

    fn end_window(&self, age: Duration, now: Timestamp) {
        let Some(mut slow) = self.slow.try_lock() else {
            return;
        };
        let Some((config, machine)) = &mut slow.adaptive else {
            return;
        };
        let counted = &self.window;
        let answers = counted.answers.load(Ordering::Relaxed);
        let mean = counted.logarithms.load(Ordering::Relaxed) as f64 / answers.max(1) as f64;
        let latency = Duration::from_nanos((mean / LOGARITHM_PARTS).exp() as u64);
        if answers >= WINDOW_ANSWERS {
            if age < latency.saturating_mul(WINDOW_LATENCIES) && age < WINDOW_AT_MOST {
                return;
            }
            counted
                .latency
                .store(latency.as_nanos() as u64, Ordering::Relaxed);
            let limited = counted.at_limit.load(Ordering::Relaxed) > 0;
            machine.step(Window { latency, limited }, config);
        }
        self.set_limit(&slow);
        self.begin_window(now);
    }

    /// Those who hold the lock, or configure, alone.
    fn begin_window(&self, now: Timestamp) {
        let counted = &self.window;
        counted.number.fetch_add(1, Ordering::Relaxed);
        counted.began.store(now.as_nanos(), Ordering::Relaxed);
        for counter in [&counted.answers, &counted.logarithms, &counted.at_limit] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Slow {
    /// The limit as it is learnt, and the one in force. Places that are kept would
    /// stand empty, and the application with them: so an adaptive limit is larger
    /// by what is kept, up to a quarter, and the lower priorities still fill it.
    fn limits(&self) -> (u32, u32) {
        let fixed = self.fixed.unwrap_or(UNLIMITED);
        let Some((config, machine)) = &self.adaptive else {
            return (fixed, fixed);
        };
        let learnt = machine.limit(config);
        let kept = self.guards.kept_from(Priority::Sheddable);
        let limit = learnt.saturating_add(kept.min(learnt.div_ceil(4)));
        (learnt.min(fixed), limit.min(config.max_requests).min(fixed))
    }
}

const fn pack(limit: u32, in_flight: u32) -> u64 {
    ((limit as u64) << 32) | in_flight as u64
}

const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// One request's place, given back when it is dropped.
#[must_use = "a permit that is dropped is given back"]
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    /// In which it was admitted.
    window: u64,
    since: Timestamp,
    is_answered: bool,
}

impl Permit {
    /// The application's answer has begun: so long it took.
    pub fn answered(&mut self, now: Timestamp) {
        if !std::mem::replace(&mut self.is_answered, true) {
            self.gate.observe(self, now);
        }
    }

    /// Its caller has gone. Where nothing had come by then, it was at least so
    /// slow: callers without patience must not hide what they ran from.
    pub fn left(&mut self, now: Timestamp) {
        let latency = now.since(self.since);
        let known = self.gate.window.latency.load(Ordering::Relaxed);
        if !self.is_answered && latency.as_nanos() > u128::from(known) {
            self.answered(now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // The count is the low half and at least 1 here, so nothing is borrowed.
        let before = self.gate.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(unpack(before).1 > 0, "given back twice");
    }
}
