//! Limits of the whole mesh: what this sidecar has of each, and wants.
//!
//! ```text
//!   no share ── MeshShare ──▶ a share ── another MeshShare ──▶ another share
//!   refuses                   admits rate x share, burst of the share
//! ```
//!
//! A share outlives streams, outages and versions of the configuration: nobody but
//! the leader takes it away. A change of it mints nothing: what was spent stays
//! spent, and what no longer fits is gone. A limit of one name is one bucket (or
//! one for each key) in the whole sidecar, wherever it is enforced; else each of
//! its places would have the whole share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use remora_proto::bounds::WHOLE_PARTS_PER_MILLION;
use tokio::sync::Notify;

use super::bucket::Halt;
use super::facts::{Facts, Keys};
use super::gcra::Rate;
use super::rule::{Debited, Store};
use crate::clock::Timestamp;
use crate::policy::config::{KeyPart, RateLimit};

/// Limits that are remembered; beyond that those go that are not enforced.
const MAX_LIMITS: usize = 4096;
/// What is told to who is refused for want of a share.
const NO_SHARE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A part of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Of its rate.
    pub parts_per_million: u32,
    /// Of its burst, whole requests. Zero: nothing passes.
    pub burst: u32,
}

/// A limit that this sidecar enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `namespace/policy`.
    pub policy: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The share in force; all zero: none.
    pub share: Share,
    /// The number of the MeshShare that gave it, on the present stream.
    pub grant: u64,
    /// Requests that matched, since the start.
    pub asked: u64,
    /// Those of them that it let through.
    pub admitted: u64,
}

/// The bucket, or buckets, of one such limit.
#[derive(Debug)]
pub(super) struct Shared {
    current: ArcSwap<Filled>,
    keys: Keys,
    // A lock is allowed: only a change of the share or of the limit takes it, and
    // a request that finds its bucket gone in that very moment.
    changing: Mutex<Terms>,
    asked: AtomicU64,
    admitted: AtomicU64,
}

#[derive(Debug)]
struct Filled {
    rate: Rate,
    store: Store,
    key: Vec<KeyPart>,
}

#[derive(Debug)]
struct Terms {
    config: RateLimit,
    share: Share,
    grant: u64,
}

impl Terms {
    fn rate(&self) -> Rate {
        let RateLimit {
            requests,
            per,
            burst,
            ..
        } = self.config;
        let Share {
            parts_per_million: part,
            burst: of_share,
        } = self.share;
        if part == 0 || of_share == 0 || requests == 0 {
            return Rate::new(0, NO_SHARE_RETRY_AFTER.min(per), 0);
        }
        Rate::part(requests, per, part, of_share.min(burst))
    }
}

impl Shared {
    fn new(config: &RateLimit) -> Self {
        let terms = Terms {
            config: config.clone(),
            share: Share::default(),
            grant: 0,
        };
        let filled = Filled {
            rate: terms.rate(),
            store: Store::full_at(config, 0),
            key: config.key.clone(),
        };
        Self {
            current: ArcSwap::from_pointee(filled),
            keys: Keys::default(),
            changing: Mutex::new(terms),
            asked: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
        }
    }

    /// Takes another share or another limit over; the fill stays.
    fn change(&self, now: u64, change: impl FnOnce(&mut Terms)) {
        let mut terms = self.changing.lock();
        let old = terms.config.clone();
        change(&mut terms);
        let held = self.current.load();
        let (rate, config) = (terms.rate(), &terms.config);
        let same_buckets = old.key == config.key && old.max_keys == config.max_keys;
        if rate == held.rate && same_buckets {
            return;
        }
        let filled = Filled {
            store: held
                .store
                .carry_over((&old, &held.rate), (config, &rate), now),
            rate,
            key: config.key.clone(),
        };
        self.current.store(Arc::new(filled));
    }

    /// As the limit is written now.
    pub(super) fn configure(&self, config: &RateLimit, now: u64) {
        self.change(now, |terms| terms.config = config.clone());
    }

    /// Also whether it came to the overflow bucket.
    pub(super) fn debit(&self, facts: &impl Facts, now: u64) -> (bool, Result<Debited, Halt>) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        loop {
            let filled = self.current.load();
            match filled
                .store
                .debit((&filled.key, facts), &self.keys, &filled.rate, now)
            {
                // Wait for the change that is under way, then look again.
                (_, Err(Halt::Moved)) => drop(self.changing.lock()),
                outcome => {
                    let admitted = u64::from(outcome.1.is_ok());
                    self.admitted.fetch_add(admitted, Ordering::Relaxed);
                    return outcome;
                }
            }
        }
    }

    /// Where the buckets have been carried over meanwhile, the debit was too.
    pub(super) fn give_back(&self, debited: Debited) {
        self.admitted.fetch_sub(1, Ordering::Relaxed);
        let filled = self.current.load();
        filled.store.give_back(debited, &filled.rate);
    }

    pub(super) fn key_count(&self) -> usize {
        self.current.load().store.key_count()
    }
}

type Name = (Arc<str>, Arc<str>);

/// All of a sidecar.
#[derive(Debug, Default)]
pub struct Shares {
    // A lock is allowed: only configuration, shares and reports take it.
    limits: Mutex<BTreeMap<Name, Arc<Shared>>>,
    taken: Notify,
}

impl Shares {
    /// Those of this process, which has one sidecar.
    pub fn own() -> Arc<Self> {
        static OWN: OnceLock<Arc<Shares>> = OnceLock::new();
        Arc::clone(OWN.get_or_init(Arc::default))
    }

    /// The buckets of a limit, wherever it is enforced.
    pub(super) fn of(&self, config: &RateLimit) -> Arc<Shared> {
        let name = (Arc::clone(&config.policy), Arc::clone(&config.name));
        let mut limits = self.limits.lock();
        if limits.len() >= MAX_LIMITS {
            limits.retain(|known, shared| *known == name || is_enforced(shared));
        }
        let shared = limits
            .entry(name)
            .or_insert_with(|| Arc::new(Shared::new(config)));
        self.taken.notify_one();
        Arc::clone(shared)
    }

    /// Takes a share over. One of a limit that is not known here is passed over:
    /// its holder says so by not telling of it.
    pub fn take(&self, policy: &str, name: &str, share: Share, grant: u64, now: Timestamp) {
        let shared = {
            let limits = self.limits.lock();
            let mut known = limits.iter();
            known
                .find(|((of, called), _)| **of == *policy && **called == *name)
                .map(|(_, shared)| Arc::clone(shared))
        };
        let Some(shared) = shared else { return };
        let whole = WHOLE_PARTS_PER_MILLION;
        shared.change(now.as_nanos(), |terms| {
            terms.share = Share {
                parts_per_million: share.parts_per_million.min(whole),
                ..share
            };
            terms.grant = grant;
        });
        self.taken.notify_one();
    }

    /// A new stream to the leader: its grants are numbered anew. The shares stay.
    pub fn begin_stream(&self) {
        for shared in self.limits.lock().values() {
            shared.changing.lock().grant = 0;
        }
    }

    /// Of every limit that is enforced now.
    pub fn usage(&self) -> Vec<Usage> {
        let limits = self.limits.lock();
        let enforced = limits.iter().filter(|(_, shared)| is_enforced(shared));
        enforced
            .map(|((policy, name), shared)| {
                let (share, grant) = {
                    let terms = shared.changing.lock();
                    (terms.share, terms.grant)
                };
                Usage {
                    policy: Arc::clone(policy),
                    name: Arc::clone(name),
                    share,
                    grant,
                    asked: shared.asked.load(Ordering::Relaxed),
                    admitted: shared.admitted.load(Ordering::Relaxed),
                }
            })
            .collect()
    }

    /// A limit is new, or a share has been taken.
    pub async fn changed(&self) {
        self.taken.notified().await;
    }
}

/// Whether anybody but the list holds it.
fn is_enforced(shared: &Arc<Shared>) -> bool {
    Arc::strong_count(shared) > 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::rate_limit::{Bare, Decision, RateLimiter, tests};

    const GET: Bare = Bare("GET");
    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn limit(requests: u32, burst: u32) -> RateLimit {
        RateLimit {
            mesh: true,
            ..tests::limit("all", requests, burst)
        }
    }

    fn share(parts_per_million: u32, burst: u32) -> Share {
        Share {
            parts_per_million,
            burst,
        }
    }

    fn passes(limiter: &RateLimiter, now: Timestamp) -> bool {
        limiter.check(&GET, now) == Decision::Admitted
    }

    #[test]
    fn without_a_share_nothing_passes_and_its_demand_is_counted() {
        let shares = Arc::new(Shares::default());
        let limiter = RateLimiter::with_shares(&[limit(100, 10)], Arc::clone(&shares), START);
        assert!(!passes(&limiter, START));
        let usage = shares.usage();
        assert_eq!((usage[0].asked, usage[0].admitted), (1, 0));
        drop(limiter);
        assert!(shares.usage().is_empty(), "nobody enforces it");
    }

    #[test]
    fn a_share_survives_the_limit_and_an_enlargement_brings_nothing_at_once() {
        let shares = Arc::new(Shares::default());
        let limits = [limit(100, 10)];
        let limiter = RateLimiter::with_shares(&limits, Arc::clone(&shares), START);
        shares.take("shop/web", "all", share(500_000, 5), 3, START);
        assert!(!passes(&limiter, START), "it begins empty");
        let later = START.after(Duration::from_millis(20));
        assert!(
            passes(&limiter, later) && !passes(&limiter, later),
            "50 each second"
        );
        limiter.reconfigure(&[], later);
        limiter.reconfigure(&limits, later);
        assert_eq!(shares.usage()[0].share, share(500_000, 5));
        shares.take("shop/web", "all", share(1_000_000, 10), 4, later);
        assert!(!passes(&limiter, later));
        let full = later.after(Duration::from_secs(10));
        assert_eq!((0..20).filter(|_| passes(&limiter, full)).count(), 10);
        shares.begin_stream();
        assert_eq!(shares.usage()[0].grant, 0);
        shares.take("shop/web", "all", share(0, 0), 1, full);
        assert!(!passes(&limiter, full.after(Duration::from_secs(10))));
    }

    #[test]
    fn two_places_of_one_limit_have_one_bucket() {
        let shares = Arc::new(Shares::default());
        let place = || RateLimiter::with_shares(&[limit(100, 10)], Arc::clone(&shares), START);
        let (one, other) = (place(), place());
        shares.take("shop/web", "all", share(1_000_000, 10), 1, START);
        let full = START.after(Duration::from_secs(1));
        let passed = (0..20).filter(|at| passes([&one, &other][at % 2], full));
        assert_eq!(passed.count(), 10);
    }

    #[test]
    fn with_a_key_each_bucket_has_the_share() {
        let shares = Arc::new(Shares::default());
        let keyed = RateLimit {
            key: vec![KeyPart::Method],
            ..limit(100, 10)
        };
        let limiter = RateLimiter::with_shares(&[keyed], Arc::clone(&shares), START);
        let passed = |method, now| {
            let calls = (0..20).filter(|_| limiter.check(&Bare(method), now) == Decision::Admitted);
            calls.count()
        };
        assert_eq!(passed("GET", START), 0, "no share, whatever the key");
        shares.take("shop/web", "all", share(400_000, 4), 1, START);
        let full = START.after(Duration::from_secs(1));
        assert_eq!((passed("GET", full), passed("PUT", full)), (4, 4));
        shares.take("shop/web", "all", share(100_000, 1), 2, full);
        let later = full.after(Duration::from_secs(1));
        assert_eq!((passed("GET", later), passed("HEAD", later)), (1, 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Call,
        Wait(u64),
        Take(u32, u32),
        Limit(u32, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Call),
            3 => (1_u64..200).prop_map(Step::Wait),
            2 => (0_u32..=1_000_000, 0_u32..20).prop_map(|(part, burst)| Step::Take(part, burst)),
            1 => (1_u32..1000, 1_u32..20).prop_map(|(rate, burst)| Step::Limit(rate, burst)),
        ]
    }

    proptest! {
        /// In every window no more than the largest burst share in force in it, and
        /// what the rates in force brought meanwhile.
        #[test]
        fn no_change_mints_anything(steps in proptest::collection::vec(step(), 1..200)) {
            let shares = Arc::new(Shares::default());
            let mut terms = limit(100, 10);
            let limiter = RateLimiter::with_shares(&[terms.clone()], Arc::clone(&shares), START);
            let (mut now, mut part, mut burst) = (START, 0_u32, 0_u32);
            // Tokens that a window beginning at each earlier moment may still give.
            let mut windows: Vec<f64> = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(millis) => {
                        now = now.after(Duration::from_millis(millis));
                        let rate = f64::from(terms.requests) * f64::from(part) / 1e6;
                        let rate = if burst == 0 { 0.0 } else { rate };
                        for left in &mut windows {
                            *left += rate * millis as f64 / 1e3;
                        }
                    }
                    Step::Take(new_part, new_burst) => {
                        (part, burst) = (new_part, new_burst);
                        shares.take("shop/web", "all", share(part, burst), 1, now);
                    }
                    Step::Limit(requests, most) => {
                        terms = RateLimit { requests, burst: most, ..terms };
                        limiter.reconfigure(&[terms.clone()], now);
                    }
                    Step::Call => {
                        // What a bucket may hold as the window begins.
                        windows.push(f64::from(burst.min(terms.burst)));
                        if passes(&limiter, now) {
                            for left in &mut windows {
                                *left -= 1.0;
                                prop_assert!(*left > -1e-6, "{left}");
                            }
                        }
                    }
                }
            }
        }
    }
}
