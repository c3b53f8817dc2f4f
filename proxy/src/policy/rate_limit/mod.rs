//! Rate limits: how many requests in a time.
//!
//! ```text
//!   request ──▶ first limit that matches ──▶ second ──▶ ... ──▶ Admitted
//!                    │ debit                   │ empty
//!                    ◀──────── give back ──────┘
//!                    └──▶ Refused
//! ```
//!
//! # Layout
//! - [`facts`]: which requests a limit counts, and by which key.
//! - [`rule`]: one limit.
//! - [`keyed`], [`bucket`]: its buckets, shared by all workers.
//! - [`shares`]: limits of the whole mesh, of which the sidecar has a part.
//! - [`gcra`]: the arithmetic, pure.
//!
//! A limit without a key is one atomic word. It does not answer the caller:
//! the pipeline makes a 429 out of [`Refusal`].

mod bucket;
mod facts;
mod gcra;
mod keyed;
mod rule;
pub mod shares;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

#[cfg(test)]
pub use facts::Bare;
pub use facts::{Caller, Facts, matches};

use self::bucket::Halt;
use self::facts::Keys;
use self::rule::Rule;
use self::shares::Shares;
use super::config::RateLimit;
use crate::clock::{self, Timestamp};

/// The limits that requests of one kind meet: those to a service, at the caller,
/// or those to a port, at the target.
#[derive(Debug)]
pub struct RateLimiter {
    rules: ArcSwap<Vec<Rule>>,
    keys: Keys,
    shares: Arc<Shares>,
    // A lock is allowed: only a change of the limits takes it, and a request
    // that finds its bucket gone in that very moment.
    changing: Mutex<()>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every limit that matches has counted it.
    Admitted,
    /// One refused, and no other has counted it.
    Refused(Refusal),
}

/// What the answer to a refused request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `namespace/policy` of the limit.
    pub policy: Arc<str>,
    /// The limit's name.
    pub name: Arc<str>,
    /// `Retry-After`: the bucket admits a request then. Where the limit is zero, its period.
    pub retry_after: Duration,
    /// `RateLimit-Limit`: requests in each period.
    pub limit: u32,
    /// `RateLimit-Remaining`: what is left in the bucket.
    pub remaining: u64,
    /// `RateLimit-Reset`: the bucket is full then.
    pub reset: Duration,
}

impl Refusal {
    /// [`Self::retry_after`] as the header has it: whole seconds, rounded up, at least 1.
    pub fn retry_after_seconds(&self) -> u64 {
        whole_seconds(self.retry_after).max(1)
    }

    /// [`Self::reset`] as the header has it: whole seconds, rounded up.
    pub fn reset_seconds(&self) -> u64 {
        whole_seconds(self.reset)
    }
}

/// What a limit has done so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// `namespace/policy`.
    pub policy: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Requests that it and all others let through.
    pub admitted: u64,
    /// Requests that it refused.
    pub limited: u64,
    /// Requests that it would have refused, were it not in shadow.
    pub would_limit: u64,
    /// Requests that shared the overflow bucket.
    pub overflowed: u64,
    /// Keys that have a bucket now.
    pub keys: usize,
    /// Its buckets are those of the whole sidecar, wherever it is enforced.
    pub mesh: bool,
}

impl RateLimiter {
    /// Limits whose buckets are all full; those of the mesh are as their shares say.
    pub fn new(limits: &[RateLimit]) -> Self {
        Self::with_shares(limits, Shares::own(), clock::now())
    }

    /// As [`Self::new`], with shares of its own: where one process is more than one sidecar.
    pub fn with_shares(limits: &[RateLimit], shares: Arc<Shares>, now: Timestamp) -> Self {
        let rules = limits
            .iter()
            .map(|limit| Rule::new(limit, &shares, now.as_nanos()));
        Self {
            rules: ArcSwap::from_pointee(rules.collect()),
            keys: Keys::default(),
            shares,
            changing: Mutex::new(()),
        }
    }

    /// Takes other limits over. A limit is the same as before when policy and
    /// name are: its buckets then hold what they held, whatever else changed.
    pub fn reconfigure(&self, limits: &[RateLimit], now: Timestamp) {
        let _alone = self.changing.lock();
        let old = self.rules.load_full();
        if old.iter().map(|rule| &rule.config).eq(limits) {
            return;
        }
        let rules = limits
            .iter()
            .map(|limit| {
                let known = old.iter().find(|rule| {
                    rule.config.policy == limit.policy && rule.config.name == limit.name
                });
                let (shares, now) = (&self.shares, now.as_nanos());
                known.map_or_else(
                    || Rule::new(limit, shares, now),
                    |rule| rule.changed_to(limit, shares, now),
                )
            })
            .collect();
        self.rules.store(Arc::new(rules));
    }

    /// Whether there is any limit, so that facts are worth collecting.
    pub fn is_empty(&self) -> bool {
        self.rules.load().is_empty()
    }

    /// Admits the request and counts it, or refuses it.
    pub fn check(&self, facts: &impl Facts, now: Timestamp) -> Decision {
        self.check_those(facts, now, |_| true)
    }

    /// As [`Self::check`], among the limits for which `applies`: one bucket may
    /// stand for several ports, each with limits of its own beside it.
    pub fn check_those(
        &self,
        facts: &impl Facts,
        now: Timestamp,
        applies: impl Fn(&RateLimit) -> bool,
    ) -> Decision {
        let applies = &applies;
        let now = now.as_nanos();
        loop {
            let rules = self.rules.load();
            match self.enforce(&rules, facts, now, applies) {
                Ok(()) => {
                    self.shadow(&rules, facts, now, applies);
                    return Decision::Admitted;
                }
                Err(Stop::Refused(refusal)) => return Decision::Refused(refusal),
                // Wait for the change that is under way, then look again.
                Err(Stop::Moved) => drop(self.changing.lock()),
            }
        }
    }

    /// What each limit has done so far, in their order.
    pub fn states(&self) -> Vec<LimitState> {
        self.rules
            .load()
            .iter()
            .map(|rule| LimitState {
                policy: Arc::clone(&rule.config.policy),
                name: Arc::clone(&rule.config.name),
                admitted: rule.counters.admitted.load(Ordering::Relaxed),
                limited: rule.counters.limited.load(Ordering::Relaxed),
                would_limit: rule.counters.would_limit.load(Ordering::Relaxed),
                overflowed: rule.counters.overflowed.load(Ordering::Relaxed),
                keys: rule.key_count(),
                mesh: rule.config.mesh,
            })
            .collect()
    }

    /// Debits in order. What has been debited is remembered on the stack: each
    /// limit gives back what it took when one after it stops the request.
    fn enforce(
        &self,
        rules: &[Rule],
        facts: &impl Facts,
        now: u64,
        applies: &impl Fn(&RateLimit) -> bool,
    ) -> Result<(), Stop> {
        let Some(at) = rules
            .iter()
            .position(|rule| !rule.config.shadow && applies(&rule.config) && rule.counts(facts))
        else {
            return Ok(());
        };
        let rule = &rules[at];
        let debited = rule
            .debit(facts, &self.keys, now)
            .map_err(|halt| Stop::new(halt, rule))?;
        match self.enforce(&rules[at + 1..], facts, now, applies) {
            Ok(()) => rule.counters.admitted.fetch_add(1, Ordering::Relaxed),
            Err(stop) => {
                rule.give_back(debited);
                return Err(stop);
            }
        };
        Ok(())
    }

    /// Shadow limits count only what the others admit, and hold up nothing.
    fn shadow(
        &self,
        rules: &[Rule],
        facts: &impl Facts,
        now: u64,
        applies: &impl Fn(&RateLimit) -> bool,
    ) {
        let shadows = rules
            .iter()
            .filter(|rule| rule.config.shadow && applies(&rule.config));
        for rule in shadows.filter(|rule| rule.counts(facts)) {
            let counter = match rule.debit(facts, &self.keys, now) {
                Ok(_) => &rule.counters.admitted,
                Err(Halt::Over { .. }) => &rule.counters.would_limit,
                // In this very moment: it misses a request, and nothing hangs on it.
                Err(Halt::Moved) => continue,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

enum Stop {
    Refused(Refusal),
    Moved,
}

impl Stop {
    fn new(halt: Halt, rule: &Rule) -> Self {
        let Halt::Over {
            wait,
            until_full,
            remaining,
        } = halt
        else {
            return Self::Moved;
        };
        rule.counters.limited.fetch_add(1, Ordering::Relaxed);
        Self::Refused(Refusal {
            policy: Arc::clone(&rule.config.policy),
            name: Arc::clone(&rule.config.name),
            retry_after: wait,
            limit: rule.config.requests,
            remaining,
            reset: until_full,
        })
    }
}

/// `span` in whole seconds, rounded up, as HTTP's headers have it.
pub fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}
