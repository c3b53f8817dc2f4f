//! One bucket: [`governor`]'s atomic state under our own arithmetic.
//!
//! Its direct limiters can neither give back nor change their rate, so its
//! state store is driven here. A bucket that has been carried over to another
//! rate is *moved*: who still finds it looks for its successor.

use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};

use super::gcra::Rate;

/// In place of a time: this bucket has been carried over.
const MOVED: u64 = u64::MAX;

/// Why a bucket was not debited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// It is empty.
    Over {
        /// Until it would admit one more.
        wait: Duration,
        /// Until it is full.
        until_full: Duration,
        /// Whole requests in it.
        remaining: u64,
    },
    /// It has been carried over: read the rules again.
    Moved,
}

#[derive(Debug, Default)]
pub(super) struct Bucket(InMemoryState);

impl Bucket {
    /// A bucket that is full again at `tat`.
    pub(super) fn full_at(tat: u64) -> Self {
        let bucket = Self::default();
        bucket.replace(|_| Some(tat));
        bucket
    }

    /// Takes one request out; tells when it is full again.
    pub(super) fn debit(&self, rate: &Rate, now: u64) -> Result<u64, Halt> {
        self.0.measure_and_replace(&NotKeyed::NonKey, |tat| {
            let tat = tat.map_or(0, Nanos::as_u64);
            if tat == MOVED {
                return Err(Halt::Moved);
            }
            match rate.debit(tat, now) {
                Ok(next) => Ok((next, Nanos::new(next))),
                Err(wait) => Err(Halt::Over {
                    wait,
                    until_full: rate.until_full(tat, now),
                    remaining: rate.available(tat, now),
                }),
            }
        })
    }

    /// Puts one request back; tells when it is full again. A moved bucket has
    /// taken the debit along, and stays as it is.
    pub(super) fn give_back(&self, rate: &Rate) -> u64 {
        self.replace(|tat| (tat != MOVED).then(|| rate.give_back(tat)));
        self.full_again()
    }

    /// When it is full again.
    pub(super) fn full_again(&self) -> u64 {
        self.replace(|_| None)
    }

    /// Ends it; tells when it would have been full again.
    pub(super) fn take(&self) -> u64 {
        self.replace(|_| Some(MOVED))
    }

    /// What it was before.
    fn replace(&self, change: impl Fn(u64) -> Option<u64>) -> u64 {
        let outcome = self.0.measure_and_replace(&NotKeyed::NonKey, |tat| {
            let tat = tat.map_or(0, Nanos::as_u64);
            change(tat).map_or(Err(tat), |next| Ok((tat, Nanos::new(next))))
        });
        match outcome {
            Ok(before) | Err(before) => before,
        }
    }
}
