//! One limit: what it counts, its rate and its buckets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bucket::{Bucket, Halt};
use super::facts::{Facts, Keys, matches};
use super::gcra::Rate;
use super::keyed::{Keyed, Place};
use super::shares::{Shared, Shares};
use crate::policy::config::{KeyPart, RateLimit};

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) config: RateLimit,
    rate: Rate,
    place: Buckets,
    pub(super) counters: Arc<Counters>,
}

/// Where a rule's buckets are.
#[derive(Debug)]
enum Buckets {
    Own(Arc<Store>),
    /// `scope: Mesh`: with the share that the sidecar has.
    Mesh(Arc<Shared>),
}

/// One bucket, or one for each key.
#[derive(Debug)]
pub(super) enum Store {
    One(Bucket),
    Keyed(Box<Keyed>),
}

/// What has become of requests, since the limit was first seen.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) admitted: AtomicU64,
    pub(super) limited: AtomicU64,
    pub(super) would_limit: AtomicU64,
    pub(super) overflowed: AtomicU64,
}

/// A request that has been taken out of a bucket: what giving it back needs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Debited {
    One,
    Keyed(u128, Place),
}

impl Debited {
    fn overflowed(self) -> bool {
        matches!(self, Self::Keyed(_, Place::Overflow))
    }
}

impl Rule {
    /// A limit that is seen for the first time: its buckets are full; those of a
    /// limit of the mesh are where its share has them.
    pub(super) fn new(config: &RateLimit, shares: &Shares, now: u64) -> Self {
        Self {
            rate: rate(config),
            place: if config.mesh {
                Buckets::mesh(config, shares, now)
            } else {
                Buckets::Own(Arc::new(Store::full_at(config, 0)))
            },
            counters: Arc::default(),
            config: config.clone(),
        }
    }

    /// The same limit with other fields; its buckets hold what they held. Where
    /// nothing changed that they depend on they are the very same; where the
    /// key changed, other buckets come in their place, and each of them starts
    /// with as little as the emptiest of the old ones held.
    pub(super) fn changed_to(&self, config: &RateLimit, shares: &Shares, now: u64) -> Self {
        let old = &self.config;
        let new_rate = rate(config);
        let place = match &self.place {
            _ if config.mesh => Buckets::mesh(config, shares, now),
            // What the mesh let through is not told here: it begins with nothing.
            Buckets::Mesh(_) => {
                let empty = new_rate.carry_over(&new_rate, u64::MAX, now);
                Buckets::Own(Arc::new(Store::full_at(config, empty)))
            }
            Buckets::Own(store) => {
                let same_buckets = old.key == config.key && old.max_keys == config.max_keys;
                Buckets::Own(if new_rate == self.rate && same_buckets {
                    Arc::clone(store)
                } else {
                    Arc::new(store.carry_over((old, &self.rate), (config, &new_rate), now))
                })
            }
        };
        Self {
            config: config.clone(),
            rate: new_rate,
            place,
            counters: Arc::clone(&self.counters),
        }
    }

    pub(super) fn counts(&self, facts: &impl Facts) -> bool {
        matches(&self.config.matches, facts)
    }

    pub(super) fn debit(&self, facts: &impl Facts, keys: &Keys, now: u64) -> Result<Debited, Halt> {
        let (overflowed, outcome) = match &self.place {
            Buckets::Mesh(shared) => shared.debit(facts, now),
            Buckets::Own(store) => store.debit((&self.config.key, facts), keys, &self.rate, now),
        };
        if overflowed {
            self.counters.overflowed.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    pub(super) fn give_back(&self, debited: Debited) {
        match &self.place {
            Buckets::Mesh(shared) => shared.give_back(debited),
            Buckets::Own(store) => store.give_back(debited, &self.rate),
        }
    }

    pub(super) fn key_count(&self) -> usize {
        match &self.place {
            Buckets::Mesh(shared) => shared.key_count(),
            Buckets::Own(store) => store.key_count(),
        }
    }
}

impl Buckets {
    fn mesh(config: &RateLimit, shares: &Shares, now: u64) -> Self {
        let shared = shares.of(config);
        shared.configure(config, now);
        Self::Mesh(shared)
    }
}

impl Store {
    pub(super) fn full_at(config: &RateLimit, tat: u64) -> Self {
        if config.key.is_empty() {
            Self::One(Bucket::full_at(tat))
        } else {
            Self::Keyed(Box::new(Keyed::new(config.max_keys, tat)))
        }
    }

    /// Ends its buckets and builds those that come in their place.
    pub(super) fn carry_over(
        &self,
        (old, old_rate): (&RateLimit, &Rate),
        (config, rate): (&RateLimit, &Rate),
        now: u64,
    ) -> Self {
        let carry = |tat| rate.carry_over(old_rate, tat, now);
        match self {
            Self::Keyed(keyed) if old.key == config.key => {
                let rates = (old_rate, rate);
                Self::Keyed(Box::new(keyed.carry_over(config.max_keys, rates, now)))
            }
            Self::Keyed(keyed) => Self::full_at(config, carry(keyed.take_emptiest())),
            Self::One(bucket) => Self::full_at(config, carry(bucket.take())),
        }
    }

    /// Also whether it came to the overflow bucket.
    pub(super) fn debit(
        &self,
        (key, facts): (&[KeyPart], &impl Facts),
        keys: &Keys,
        rate: &Rate,
        now: u64,
    ) -> (bool, Result<Debited, Halt>) {
        match self {
            Self::One(bucket) => (false, bucket.debit(rate, now).map(|_| Debited::One)),
            Self::Keyed(keyed) => {
                let key = keys.of(key, facts);
                let (place, outcome) = keyed.debit(key, rate, now);
                let debited = Debited::Keyed(key, place);
                (debited.overflowed(), outcome.map(|()| debited))
            }
        }
    }

    /// What came out of another form of store went with that.
    pub(super) fn give_back(&self, debited: Debited, rate: &Rate) {
        match (self, debited) {
            (Self::One(bucket), _) => {
                bucket.give_back(rate);
            }
            (Self::Keyed(keyed), Debited::Keyed(key, place)) => keyed.give_back(key, place, rate),
            (Self::Keyed(_), Debited::One) => {}
        }
    }

    pub(super) fn key_count(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Keyed(keyed) => keyed.len(),
        }
    }
}

fn rate(config: &RateLimit) -> Rate {
    Rate::new(config.requests, config.per, config.burst)
}
