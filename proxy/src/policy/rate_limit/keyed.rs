//! One bucket for each key, so many at most.
//!
//! ```text
//!   key known ───────────────────────────────────▶ its bucket
//!   key new ── a place is free ──────────────────▶ a new bucket
//!       └── none ── sweep: full buckets go ──┬───▶ a new bucket
//!                                            └───▶ the overflow bucket, counted
//! ```
//!
//! Only a full bucket is ever evicted: a new one in its place would hold the
//! same. Keys are kept as 128-bit hashes under secrets of this process, so a
//! caller can neither make two keys meet nor make them large.
//!
//! The map is split into shards with a lock each, held for one look-up, so that
//! two workers meet only where they serve callers of the same shard.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::bucket::{Bucket, Halt};
use super::gcra::Rate;

const SHARDS: usize = 16;

/// Where a request was debited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Own,
    Overflow,
}

#[derive(Debug)]
pub(super) struct Keyed {
    shards: [Mutex<Shard>; SHARDS],
    max_keys: usize,
    count: AtomicUsize,
    /// No bucket is full before this moment, so no sweep is worth while.
    none_full_before: AtomicU64,
    // A lock is allowed: only taken when there is no place for a new key.
    sweeping: Mutex<()>,
    overflow: Bucket,
    /// When a new key's bucket is full: in the past, but shortly after a change
    /// of the rate, when all buckets hold only what the old one held.
    start: u64,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<u128, Bucket, BuildHasherDefault<Ready>>,
    is_moved: bool,
}

impl Keyed {
    pub(super) fn new(max_keys: usize, start: u64) -> Self {
        Self {
            shards: Default::default(),
            max_keys,
            count: AtomicUsize::new(0),
            none_full_before: AtomicU64::new(u64::MAX),
            sweeping: Mutex::new(()),
            overflow: Bucket::full_at(start),
            start,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Takes one request out of the key's bucket, or of the overflow bucket where
    /// the key can have none.
    pub(super) fn debit(&self, key: u128, rate: &Rate, now: u64) -> (Place, Result<(), Halt>) {
        let mut outcome = self.debit_own(key, rate, now);
        if outcome.is_none() {
            self.sweep(now);
            outcome = self.debit_own(key, rate, now);
        }
        match outcome {
            Some(outcome) => (Place::Own, outcome),
            None => (
                Place::Overflow,
                self.overflow.debit(rate, now).map(|_full_again| ()),
            ),
        }
    }

    pub(super) fn give_back(&self, key: u128, place: Place, rate: &Rate) {
        if place == Place::Overflow {
            self.overflow.give_back(rate);
            return;
        }
        let shard = self.shard(key).lock();
        if let Some(bucket) = shard.buckets.get(&key) {
            bucket.give_back(rate);
            self.none_full_before
                .fetch_min(bucket.full_again(), Ordering::AcqRel);
        }
    }

    /// `None` when the key has no bucket and there is no place for one.
    fn debit_own(&self, key: u128, rate: &Rate, now: u64) -> Option<Result<(), Halt>> {
        let mut shard = self.shard(key).lock();
        if shard.is_moved {
            return Some(Err(Halt::Moved));
        }
        if let Some(bucket) = shard.buckets.get(&key) {
            return Some(bucket.debit(rate, now).map(|_full_again| ()));
        }
        if !self.reserve() {
            return None;
        }
        let bucket = Bucket::full_at(self.start);
        let outcome = bucket.debit(rate, now);
        self.none_full_before
            .fetch_min(bucket.full_again(), Ordering::AcqRel);
        shard.buckets.insert(key, bucket);
        Some(outcome.map(|_full_again| ()))
    }

    fn reserve(&self) -> bool {
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < self.max_keys).then_some(count + 1)
            })
            .is_ok()
    }

    /// Evicts every bucket that is full. Looked up under the lock, so that a
    /// worker which comes meanwhile waits for the finding instead of overflowing.
    fn sweep(&self, now: u64) {
        let _alone = self.sweeping.lock();
        if self.none_full_before.load(Ordering::Acquire) > now {
            return;
        }
        self.none_full_before.store(u64::MAX, Ordering::Release);
        for shard in &self.shards {
            let mut shard = shard.lock();
            let before = shard.buckets.len();
            let mut earliest = u64::MAX;
            shard.buckets.retain(|_, bucket| {
                let full = bucket.full_again();
                if full > now {
                    earliest = earliest.min(full);
                }
                full > now
            });
            // Inside the lock: a bucket that comes later lowers it again by itself.
            self.none_full_before.fetch_min(earliest, Ordering::AcqRel);
            self.count
                .fetch_sub(before - shard.buckets.len(), Ordering::AcqRel);
        }
        debug_assert!(self.len() <= self.max_keys);
    }

    /// Ends every bucket and builds their successors with another rate. Where
    /// there are fewer places than before the emptiest keep theirs; the others
    /// share the overflow bucket, which is then as empty as they.
    pub(super) fn carry_over(&self, max_keys: usize, rates: (&Rate, &Rate), now: u64) -> Self {
        let (old, new) = rates;
        let carry = |tat: u64| new.carry_over(old, tat, now);
        let start = carry(self.start);
        let successor = Self::new(max_keys, start);
        let mut overflow = carry(self.overflow.take());
        for (key, tat) in self.take() {
            let tat = carry(tat);
            // What a new bucket would hold needs no place.
            if tat <= start {
                continue;
            }
            if successor.reserve() {
                successor.none_full_before.fetch_min(tat, Ordering::AcqRel);
                let mut shard = successor.shard(key).lock();
                shard.buckets.insert(key, Bucket::full_at(tat));
            } else {
                overflow = overflow.max(tat);
            }
        }
        Self {
            overflow: Bucket::full_at(overflow),
            ..successor
        }
    }

    /// Ends every bucket; tells when the emptiest would have been full.
    pub(super) fn take_emptiest(&self) -> u64 {
        let overflow = self.overflow.take();
        self.take()
            .into_iter()
            .map(|(_, tat)| tat)
            .fold(overflow.max(self.start), u64::max)
    }

    /// The emptiest first, so that the sparse places keep what must be remembered.
    fn take(&self) -> Vec<(u128, u64)> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.is_moved = true;
            let buckets = std::mem::take(&mut shard.buckets);
            all.extend(
                buckets
                    .iter()
                    .map(|(key, bucket)| (*key, bucket.full_again())),
            );
        }
        all.sort_unstable_by_key(|(_, tat)| std::cmp::Reverse(*tat));
        all
    }

    fn shard(&self, key: u128) -> &Mutex<Shard> {
        &self.shards[(key >> 64) as usize % SHARDS]
    }
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}
