//! How the watches are doing: counters for the metrics, and the moment at
//! which every kind has been told once.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::core::objects::Kind;

/// The kinds that are watched.
pub const KINDS: [Kind; 9] = [
    Kind::Namespace,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Pod,
    Kind::TrafficPolicy,
    Kind::AuthorizationPolicy,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::ReferenceGrant,
];

/// How one kind is doing.
#[derive(Debug, Default)]
struct Watch {
    events: AtomicU64,
    failures: AtomicU64,
    /// Was told whole at least once.
    listed: AtomicBool,
    failing: AtomicBool,
}

/// How the watches are doing.
#[derive(Debug, Default)]
pub struct Watches {
    watches: [Watch; KINDS.len()],
    /// How many kinds were told whole.
    complete: AtomicUsize,
}

/// The figures of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Which.
    pub kind: Kind,
    /// Objects that were told, listed or changed or gone, since the start.
    pub events: u64,
    /// Failed requests and broken watches since the start.
    pub failures: u64,
    /// What is known of it is whole, and followed.
    pub synced: bool,
}

impl Watches {
    /// The figures of every kind.
    pub fn figures(&self) -> [Figures; KINDS.len()] {
        std::array::from_fn(|index| {
            let watch = &self.watches[index];
            Figures {
                kind: KINDS[index],
                events: watch.events.load(Ordering::Relaxed),
                failures: watch.failures.load(Ordering::Relaxed),
                synced: watch.listed.load(Ordering::Relaxed)
                    && !watch.failing.load(Ordering::Relaxed),
            }
        })
    }

    pub(super) fn count_events(&self, kind: Kind, count: usize) {
        if let Some(watch) = self.of(kind) {
            watch.events.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn count_failure(&self, kind: Kind) {
        if let Some(watch) = self.of(kind) {
            watch.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn set_failing(&self, kind: Kind, failing: bool) {
        if let Some(watch) = self.of(kind) {
            watch.failing.store(failing, Ordering::Relaxed);
        }
    }

    /// That all of a kind has been told. True for the one call by which the
    /// last of them is complete.
    pub(super) fn set_listed(&self, kind: Kind) -> bool {
        let first = self
            .of(kind)
            .is_some_and(|watch| !watch.listed.swap(true, Ordering::Relaxed));
        first && self.complete.fetch_add(1, Ordering::SeqCst) + 1 == KINDS.len()
    }

    fn of(&self, kind: Kind) -> Option<&Watch> {
        let index = KINDS.iter().position(|one| *one == kind)?;
        self.watches.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_kind_completes_them_and_does_so_once() {
        let watches = Watches::default();
        let [first, rest @ ..] = KINDS;
        assert!(rest.into_iter().all(|kind| !watches.set_listed(kind)));
        assert!(watches.set_listed(first));
        assert!(!watches.set_listed(first));
        watches.set_failing(first, true);
        let figures = watches.figures();
        assert!(!figures[0].synced && figures[1].synced, "{figures:?}");
    }
}
