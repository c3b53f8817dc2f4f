//! What is there at a time, counted by those who have it: raised after a permit was
//! given and lowered before it is given back, so it is never above the truth.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use remora_proxy::policy::config;
use remora_proxy::policy::limit::{Kind, Limits, Permit};

use crate::{OPERATIONS, WORKERS, on_workers};

const ENDPOINTS: usize = 3;
const OF_SERVICE: config::Limits = config::Limits {
    max_connections: Some(23),
    max_pending_requests: Some(5),
    max_requests: Some(17),
    max_retries: Some(3),
};
const OF_ENDPOINT: config::Limits = config::Limits {
    max_connections: Some(9),
    max_pending_requests: Some(2),
    max_requests: Some(7),
    max_retries: Some(2),
};

/// One limit, and what really is there of it.
struct Counted {
    limits: Arc<Limits>,
    there: [AtomicU32; 4],
    refused: [AtomicU32; 4],
}

impl Counted {
    fn new(limits: &config::Limits) -> Self {
        Self {
            limits: Limits::new(limits),
            there: Default::default(),
            refused: Default::default(),
        }
    }

    fn take(&self, kind: Kind) -> Option<Held<'_>> {
        let at = Kind::ALL.iter().position(|it| *it == kind)?;
        let Some(permit) = self.limits.try_acquire(kind) else {
            self.refused[at].fetch_add(1, Relaxed);
            return None;
        };
        let there = self.there[at].fetch_add(1, SeqCst) + 1;
        let max = self.limits.max(kind).expect("every kind has one");
        assert!(there <= max, "{there} {}, at most {max}", kind.as_str());
        Some(Held {
            there: &self.there[at],
            _permit: permit,
        })
    }
}

/// A permit, which is counted until just before it is given back.
struct Held<'a> {
    there: &'a AtomicU32,
    _permit: Permit,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.there.fetch_sub(1, SeqCst);
    }
}

/// What a request has of a service and of an endpoint, or a connection has.
type Both<'a> = (Held<'a>, Held<'a>);

fn take_both<'a>(service: &'a Counted, endpoint: &'a Counted, kind: Kind) -> Option<Both<'a>> {
    // As the sidecar does: what the service gave goes back where the endpoint refuses.
    let of_service = service.take(kind)?;
    Some((of_service, endpoint.take(kind)?))
}

#[test]
fn no_limit_is_exceeded_in_a_million_operations_with_cancellations() {
    let service = Counted::new(&OF_SERVICE);
    let endpoints: Vec<_> = (0..ENDPOINTS).map(|_| Counted::new(&OF_ENDPOINT)).collect();
    let taken: usize = on_workers(|worker| {
        let mut random = fastrand::Rng::with_seed(worker as u64);
        let mut held: Vec<Both<'_>> = Vec::new();
        let mut taken = 0;
        for _ in 0..OPERATIONS / WORKERS {
            // More is asked for than given back, so that the limits are where it happens.
            if random.u8(..5) < 3 {
                let kind = Kind::ALL[random.usize(..Kind::ALL.len())];
                let endpoint = &endpoints[random.usize(..ENDPOINTS)];
                if let Some(both) = take_both(&service, endpoint, kind) {
                    taken += 1;
                    held.push(both);
                }
            } else if !held.is_empty() {
                // In no order: callers go away as they please.
                drop(held.swap_remove(random.usize(..held.len())));
            }
            if random.u16(..) == 0 {
                // All of a worker's callers at once.
                held.clear();
            }
        }
        taken
    })
    .into_iter()
    .sum();
    for counted in endpoints.iter().chain([&service]) {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(counted.limits.in_use(kind), 0, "{}", kind.as_str());
            let refused = counted.refused[at].load(Relaxed);
            assert!(refused > 0, "{} was never reached", kind.as_str());
        }
    }
    assert!(
        taken > OPERATIONS / 20,
        "hardly anything was given: {taken}"
    );
}

/// While a limit falls and rises: at each moment no more than the highest that was in
/// force since the last moment at which it was kept.
#[test]
fn a_limit_that_changes_all_the_time_admits_nothing_above_the_highest() {
    let limits = Limits::new(&OF_SERVICE);
    let there = AtomicU32::new(0);
    let highest = 17;
    on_workers(|worker| {
        let mut random = fastrand::Rng::with_seed(worker as u64);
        let mut held = Vec::new();
        for _ in 0..OPERATIONS / WORKERS {
            match random.u8(..8) {
                0 if worker == 0 => limits.reconfigure(&config::Limits {
                    max_requests: Some(random.u32(..=highest)),
                    ..OF_SERVICE
                }),
                0..5 => {
                    if let Some(permit) = limits.try_acquire(Kind::Requests) {
                        let now = there.fetch_add(1, SeqCst) + 1;
                        assert!(now <= highest, "{now} of {highest}");
                        held.push(permit);
                    }
                }
                _ => {
                    if let Some(permit) = held.pop() {
                        there.fetch_sub(1, SeqCst);
                        drop(permit);
                    }
                }
            }
        }
        there.fetch_sub(held.len() as u32, SeqCst);
    });
    assert_eq!(limits.in_use(Kind::Requests), 0);
}
