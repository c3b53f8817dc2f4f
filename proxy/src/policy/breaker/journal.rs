//! What breakers did lately, for the admin endpoint and the report stream.
//!
//! One for the whole sidecar. It knows nothing of how breakers decide.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::words::State;
use crate::clock::Timestamp;

/// So many changes are kept.
pub const JOURNAL_CAPACITY: usize = 256;

/// One change of one breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Rises by 1 with each change; the first is 1.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// `namespace/name` of the service.
    pub service: Arc<str>,
    /// The endpoint; empty for the service's own breaker.
    pub endpoint: Arc<str>,
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// Why, for people.
    pub cause: String,
}

/// The last changes, and how many there were of each sort.
#[derive(Debug, Default)]
pub struct Journal {
    // A lock is allowed: it is taken by transitions and by those who read them, never by a request that goes well.
    ring: Mutex<Ring>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Ring {
    changes: VecDeque<Change>,
    last_sequence: u64,
}

/// What a breaker that changed writes down.
pub(super) struct Entry<'a> {
    pub(super) at: Timestamp,
    pub(super) service: &'a Arc<str>,
    pub(super) endpoint: &'a Arc<str>,
    pub(super) from: State,
    pub(super) to: State,
    pub(super) cause: String,
}

impl Journal {
    /// An empty journal.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The kept changes whose sequence is above `sequence`, oldest first.
    pub fn since(&self, sequence: u64) -> Vec<Change> {
        let ring = self.ring.lock();
        ring.changes
            .iter()
            .filter(|change| change.sequence > sequence)
            .cloned()
            .collect()
    }

    /// The sequence of the newest change; 0 when there was none.
    pub fn last_sequence(&self) -> u64 {
        self.ring.lock().last_sequence
    }

    /// How many changes there were to each state since the start.
    pub fn counts(&self) -> Transitions {
        self.counts.read()
    }

    pub(super) fn count(&self, step: Step) {
        self.counts.count(step);
    }

    pub(super) fn write(&self, entry: Entry<'_>) {
        let mut ring = self.ring.lock();
        ring.last_sequence += 1;
        if ring.changes.len() == JOURNAL_CAPACITY {
            ring.changes.pop_front();
        }
        let sequence = ring.last_sequence;
        ring.changes.push_back(Change {
            sequence,
            at: entry.at,
            service: Arc::clone(entry.service),
            endpoint: Arc::clone(entry.endpoint),
            from: entry.from,
            to: entry.to,
            cause: entry.cause,
        });
        debug_assert!(ring.changes.len() <= JOURNAL_CAPACITY);
    }
}

/// How many changes there were to each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transitions {
    /// To closed.
    pub closed: u64,
    /// To open.
    pub opened: u64,
    /// To half-open.
    pub half_opened: u64,
    /// To marked only.
    pub would_open: u64,
}

/// One sort of change: what it was, what it is, and why in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// A word of a closed list.
    pub reason: &'static str,
}

/// The same, being counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    // A lock is allowed: only transitions take it. As long as the closed lists of
    // which steps are made.
    steps: Mutex<Vec<(Step, u64)>>,
    closed: AtomicU64,
    opened: AtomicU64,
    half_opened: AtomicU64,
    would_open: AtomicU64,
}

impl Counts {
    pub(super) fn count(&self, step: Step) {
        let counter = match step.to {
            State::Closed => &self.closed,
            State::Open => &self.opened,
            State::HalfOpen => &self.half_opened,
            State::WouldOpen => &self.would_open,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut steps = self.steps.lock();
        match steps.iter_mut().find(|(known, _)| *known == step) {
            Some((_, count)) => *count += 1,
            None => steps.push((step, 1)),
        }
    }

    pub(super) fn steps(&self) -> Vec<(Step, u64)> {
        self.steps.lock().clone()
    }

    pub(super) fn read(&self) -> Transitions {
        Transitions {
            closed: self.closed.load(Ordering::Relaxed),
            opened: self.opened.load(Ordering::Relaxed),
            half_opened: self.half_opened.load(Ordering::Relaxed),
            would_open: self.would_open.load(Ordering::Relaxed),
        }
    }
}
