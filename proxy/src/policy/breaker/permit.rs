//! An attempt that a breaker let pass, until it is told how it ended.

use std::sync::Arc;
use std::time::Duration;

use super::machine::{Ending, Failure, Ticket};
use super::shared::SharedBreaker;
use super::words::{Outcome, State};
use crate::clock::Timestamp;

/// An admitted attempt. It remembers the epoch in which it began, so an answer
/// from before a trip changes nothing. Dropped without an outcome it is neutral.
#[must_use = "a permit that is dropped says nothing of the endpoint"]
#[derive(Debug)]
pub struct BreakerPermit {
    breaker: Arc<SharedBreaker>,
    ticket: Ticket,
    began: Timestamp,
    answered: Option<Timestamp>,
    is_settled: bool,
}

/// How an attempt ended, all that is told of it.
pub(super) struct Recorded {
    pub(super) outcome: Outcome,
    /// From the request's headers to the response's, or to its end without any.
    pub(super) took: Duration,
    retry_after: Option<Duration>,
    pub(super) now: Timestamp,
    pub(super) random: u64,
}

impl Recorded {
    pub(super) fn failure(&self, end: Ending) -> Failure {
        Failure {
            end,
            retry_after: self.retry_after,
            now: self.now,
            random: self.random,
        }
    }
}

impl BreakerPermit {
    pub(super) fn new(breaker: Arc<SharedBreaker>, ticket: Ticket, began: Timestamp) -> Self {
        Self {
            breaker,
            ticket,
            began,
            answered: None,
            is_settled: false,
        }
    }

    /// The response's headers came: how slow the attempt was is known by that.
    pub fn answered(&mut self, now: Timestamp) {
        self.answered.get_or_insert(now);
    }

    /// Whether this attempt probes a half-open breaker.
    pub fn is_probe(&self) -> bool {
        self.ticket.is_probe()
    }

    /// Tells how the attempt ended. `retry_after` is the response's; `random`
    /// spreads the opening. Returns the state that the breaker entered by it.
    pub fn record(
        mut self,
        outcome: Outcome,
        retry_after: Option<Duration>,
        now: Timestamp,
        random: u64,
    ) -> Option<State> {
        self.is_settled = true;
        let recorded = Recorded {
            outcome,
            took: self.answered.unwrap_or(now).since(self.began),
            retry_after,
            now,
            random,
        };
        #[cfg(test)]
        let told = (
            self.breaker.describe(now),
            crate::simulation::rates::Ended {
                at: now,
                took: recorded.took,
                failed: matches!(recorded.outcome, Outcome::Failure(_)),
                is_of_now: self.breaker.is_of_now(self.ticket),
            },
        );
        let entered = self.breaker.record(self.ticket, recorded);
        #[cfg(test)]
        crate::simulation::rates::ended(
            (self.breaker.service(), self.breaker.name()),
            told.1,
            &told.0,
            &self.breaker.describe(now),
        );
        entered
    }

    /// The caller cancelled the attempt, or Remora refused it: neither success
    /// nor failure, and a probe's place is free again.
    pub fn neutral(self) {}
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        if !self.is_settled && self.ticket.is_probe() {
            self.breaker.give_back(self.ticket);
        }
    }
}
