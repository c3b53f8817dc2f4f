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
