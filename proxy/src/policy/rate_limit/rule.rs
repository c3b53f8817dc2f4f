//! One limit: what it counts, its rate and its buckets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bucket::{Bucket, Halt};
use super::facts::{Facts, Keys, matches};
use super::gcra::Rate;
use super::keyed::{Keyed, Place};
use crate::policy::config::RateLimit;

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) config: RateLimit,
    rate: Rate,
    store: Arc<Store>,
    pub(super) counters: Arc<Counters>,
}

#[derive(Debug)]
enum Store {
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

impl Rule {
    /// A limit that is seen for the first time: its buckets are full.
    pub(super) fn new(config: &RateLimit) -> Self {
        Self {
            rate: rate(config),
            store: Arc::new(Store::full_at(config, 0)),
            counters: Arc::default(),
            config: config.clone(),
        }
    }

    /// The same limit with other fields; its buckets hold what they held. Where
    /// nothing changed that they depend on they are the very same; where the
    /// key changed, other buckets come in their place, and each of them starts
    /// with as little as the emptiest of the old ones held.
    pub(super) fn changed_to(&self, config: &RateLimit, now: u64) -> Self {
        let old = &self.config;
        let new_rate = rate(config);
        let same_key = old.key == config.key;
        let store = if new_rate == self.rate && same_key && old.max_keys == config.max_keys {
            Arc::clone(&self.store)
        } else {
            let carry = |tat| new_rate.carry_over(&self.rate, tat, now);
            Arc::new(match &*self.store {
                Store::Keyed(keyed) if same_key => {
                    let rates = (&self.rate, &new_rate);
                    Store::Keyed(Box::new(keyed.carry_over(config.max_keys, rates, now)))
                }
                Store::Keyed(keyed) => Store::full_at(config, carry(keyed.take_emptiest())),
                Store::One(bucket) => Store::full_at(config, carry(bucket.take())),
            })
        };
        Self {
            config: config.clone(),
            rate: new_rate,
            store,
            counters: Arc::clone(&self.counters),
        }
    }

    pub(super) fn counts(&self, facts: &impl Facts) -> bool {
        matches(&self.config.matches, facts)
    }

    pub(super) fn debit(&self, facts: &impl Facts, keys: &Keys, now: u64) -> Result<Debited, Halt> {
        match &*self.store {
            Store::One(bucket) => bucket.debit(&self.rate, now).map(|_| Debited::One),
            Store::Keyed(keyed) => {
                let key = keys.of(&self.config.key, facts);
                let (place, outcome) = keyed.debit(key, &self.rate, now);
                if place == Place::Overflow {
                    self.counters.overflowed.fetch_add(1, Ordering::Relaxed);
                }
                outcome.map(|()| Debited::Keyed(key, place))
            }
        }
    }

    pub(super) fn give_back(&self, debited: Debited) {
        match (&*self.store, debited) {
            (Store::One(bucket), _) => {
                bucket.give_back(&self.rate);
            }
            (Store::Keyed(keyed), Debited::Keyed(key, place)) => {
                keyed.give_back(key, place, &self.rate);
            }
            (Store::Keyed(_), Debited::One) => debug_assert!(false, "debited elsewhere"),
        }
    }

    pub(super) fn key_count(&self) -> usize {
        match &*self.store {
            Store::One(_) => 0,
            Store::Keyed(keyed) => keyed.len(),
        }
    }
}

impl Store {
    fn full_at(config: &RateLimit, tat: u64) -> Self {
        if config.key.is_empty() {
            Self::One(Bucket::full_at(tat))
        } else {
            Self::Keyed(Box::new(Keyed::new(config.max_keys, tat)))
        }
    }
}

fn rate(config: &RateLimit) -> Rate {
    Rate::new(config.requests, config.per, config.burst)
}
