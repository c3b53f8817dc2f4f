//! Limits on what is open at the same time: connections, waiting requests,
//! requests in flight, retries in flight.
//!
//! ```text
//!              in use < max                      dropped
//!   try_acquire ───────────▶ Permit (in use + 1) ───────▶ in use - 1
//!        │ in use >= max
//!        └──────────▶ None: refused at once, nothing waits here
//! ```
//!
//! Exact over all threads at every moment: what is in use and the maximum
//! share one atomic word, so that no request is admitted by a maximum that has
//! just been lowered. It does not decide which limits a request meets, nor in
//! which order: that is the pipeline's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::config;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Open connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests in flight.
    Requests,
    /// Retries in flight.
    Retries,
}

impl Kind {
    /// Every kind, in the order of their cells.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Pending,
        Self::Requests,
        Self::Retries,
    ];

    /// The word for it in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

/// The limits of one service, or of one endpoint.
#[derive(Debug)]
pub struct Limits {
    connections: Cell,
    pending: Cell,
    requests: Cell,
    retries: Cell,
}

impl Limits {
    /// Limits with nothing in use.
    pub fn new(limits: &config::Limits) -> Arc<Self> {
        Arc::new(Self {
            connections: Cell::new(limits.max_connections),
            pending: Cell::new(limits.max_pending_requests),
            requests: Cell::new(limits.max_requests),
            retries: Cell::new(limits.max_retries),
        })
    }

    /// Takes other maxima over; what is in use stays in use. Where a maximum
    /// falls below that, nothing is admitted until it has drained.
    pub fn reconfigure(&self, limits: &config::Limits) {
        self.connections.set_max(limits.max_connections);
        self.pending.set_max(limits.max_pending_requests);
        self.requests.set_max(limits.max_requests);
        self.retries.set_max(limits.max_retries);
    }

    /// One more of `kind`, until the permit is dropped; `None` at the limit.
    pub fn try_acquire(self: &Arc<Self>, kind: Kind) -> Option<Permit> {
        self.cell(kind).try_add().then(|| Permit {
            limits: Arc::clone(self),
            kind,
        })
    }

    /// How many of `kind` there are now.
    pub fn in_use(&self, kind: Kind) -> u32 {
        self.cell(kind).read().in_use
    }

    /// How many of `kind` there may be; `None` is not limited.
    pub fn max(&self, kind: Kind) -> Option<u32> {
        let max = self.cell(kind).read().max;
        (max != UNLIMITED).then_some(max)
    }

    fn cell(&self, kind: Kind) -> &Cell {
        match kind {
            Kind::Connections => &self.connections,
            Kind::Pending => &self.pending,
            Kind::Requests => &self.requests,
            Kind::Retries => &self.retries,
        }
    }
}

/// The right to one connection, waiting request, request or retry.
/// Dropping it gives it back, however the request ends.
#[must_use = "a permit that is dropped is given back"]
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.cell(self.kind).remove();
    }
}

/// Stands for "not limited". Policies bound every limit far below it
/// (1,000,000), and nothing has so many things open, so it is never reached.
const UNLIMITED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    max: u32,
    in_use: u32,
}

impl Count {
    const fn pack(self) -> u64 {
        ((self.max as u64) << 32) | self.in_use as u64
    }

    const fn unpack(word: u64) -> Self {
        Self {
            max: (word >> 32) as u32,
            in_use: word as u32,
        }
    }

    /// One more, where the limit allows it.
    const fn more(self) -> Option<Self> {
        if self.in_use >= self.max {
            return None;
        }
        Some(Self {
            in_use: self.in_use + 1,
            ..self
        })
    }
}

/// Maximum and use in one word: both are always read and changed together.
#[derive(Debug)]
struct Cell(AtomicU64);

impl Cell {
    fn new(max: Option<u32>) -> Self {
        let max = max.unwrap_or(UNLIMITED);
        Self(AtomicU64::new(Count { max, in_use: 0 }.pack()))
    }

    fn read(&self) -> Count {
        Count::unpack(self.0.load(Ordering::Acquire))
    }

    fn try_add(&self) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                Count::unpack(word).more().map(Count::pack)
            })
            .is_ok()
    }

    fn remove(&self) {
        // Use is the low half and at least 1 here, so nothing is borrowed from the maximum.
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(Count::unpack(before).in_use > 0, "given back twice");
    }

    fn set_max(&self, max: Option<u32>) {
        let max = max.unwrap_or(UNLIMITED);
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            let changed = Count {
                max,
                ..Count::unpack(word)
            };
            match self.0.compare_exchange_weak(
                word,
                changed.pack(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return,
                Err(newer) => word = newer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use proptest::prelude::*;

    use super::*;

    fn requests(max: Option<u32>) -> config::Limits {
        config::Limits {
            max_requests: max,
            ..config::Limits::default()
        }
    }

    #[test]
    fn zero_refuses_everything_and_unset_nothing() {
        let limits = Limits::new(&requests(Some(0)));
        assert!(limits.try_acquire(Kind::Requests).is_none());
        assert_eq!(limits.max(Kind::Requests), Some(0));
        let held: Vec<_> = (0..1000)
            .map_while(|_| limits.try_acquire(Kind::Pending))
            .collect();
        assert_eq!(held.len(), 1000);
        assert_eq!(limits.max(Kind::Pending), None);
        assert_eq!(limits.in_use(Kind::Pending), 1000);
    }

    #[test]
    fn each_kind_has_its_own_maximum() {
        let limits = Limits::new(&config::Limits {
            max_connections: Some(1),
            max_pending_requests: Some(2),
            max_requests: Some(3),
            max_retries: Some(4),
        });
        for (kind, max) in Kind::ALL.into_iter().zip(1..) {
            let held: Vec<_> = (0..10).map_while(|_| limits.try_acquire(kind)).collect();
            assert_eq!(held.len(), max, "{}", kind.as_str());
        }
    }

    #[test]
    fn lowered_below_use_it_admits_nothing_until_drained() {
        let limits = Limits::new(&requests(Some(3)));
        let mut held: Vec<_> = (0..3)
            .map_while(|_| limits.try_acquire(Kind::Requests))
            .collect();
        limits.reconfigure(&requests(Some(2)));
        held.pop();
        assert!(limits.try_acquire(Kind::Requests).is_none());
        held.pop();
        let third = limits.try_acquire(Kind::Requests);
        assert!(third.is_some());
        assert!(limits.try_acquire(Kind::Requests).is_none());
        drop((held, third));
        assert_eq!(limits.in_use(Kind::Requests), 0);
    }

    /// `held` counts what really is there: raised after a permit was given,
    /// lowered before it is given back, so it is never above the truth.
    #[test]
    fn four_threads_with_random_cancellation_never_exceed_the_limit() {
        const MAX: i64 = 7;
        let limits = Limits::new(&requests(Some(MAX as u32)));
        let held = AtomicI64::new(0);
        let admitted = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (limits, held, admitted) = (&limits, &held, &admitted);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    let mut mine = Vec::new();
                    for _ in 0..50_000 {
                        if random.bool() {
                            if let Some(permit) = limits.try_acquire(Kind::Requests) {
                                let now = held.fetch_add(1, Ordering::SeqCst) + 1;
                                assert!(now <= MAX, "{now} in flight");
                                admitted.fetch_add(1, Ordering::Relaxed);
                                mine.push(permit);
                            }
                        } else if !mine.is_empty() {
                            held.fetch_sub(1, Ordering::SeqCst);
                            drop(mine.swap_remove(random.usize(..mine.len())));
                        }
                    }
                    held.fetch_sub(mine.len() as i64, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(limits.in_use(Kind::Requests), 0);
        assert!(admitted.into_inner() > 10_000);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Acquire,
        Drop(usize),
        Max(Option<u32>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Acquire),
            3 => (0..20_usize).prop_map(Step::Drop),
            1 => proptest::option::of(0..6_u32).prop_map(Step::Max),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_counter_with_a_maximum(steps in proptest::collection::vec(step(), 1..80)) {
            let limits = Limits::new(&requests(Some(3)));
            let (mut held, mut max) = (Vec::new(), Some(3));
            for step in steps {
                match step {
                    Step::Acquire => {
                        let permit = limits.try_acquire(Kind::Requests);
                        prop_assert_eq!(permit.is_some(), max.is_none_or(|max| held.len() < max as usize));
                        held.extend(permit);
                    }
                    Step::Drop(at) if at < held.len() => drop(held.swap_remove(at)),
                    Step::Drop(_) => {}
                    Step::Max(new) => {
                        limits.reconfigure(&requests(new));
                        max = new;
                    }
                }
                prop_assert_eq!(limits.in_use(Kind::Requests) as usize, held.len());
                prop_assert_eq!(limits.max(Kind::Requests), max);
            }
        }
    }
}
