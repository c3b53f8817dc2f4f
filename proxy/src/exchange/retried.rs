//! What a request's retries come to, for the metrics; and since when it goes on.

use std::sync::atomic::Ordering::Relaxed;

use super::Exchange;
use crate::clock::Timestamp;
use crate::metrics::counters::RetryOutcome;

impl Exchange {
    /// When it went on: with its head, or when what held it up had ended (a fault's
    /// delay, a wait for an endpoint, an attempt before this one). What is decided by
    /// rates is decided for this moment, and how long an endpoint takes is told from it.
    pub fn went_on(&self) -> Timestamp {
        self.went_on
    }

    /// What held it up has ended.
    pub fn goes_on(&mut self, now: Timestamp) {
        self.went_on = now;
    }

    /// It is sent once more: as a retry by the policy, or `free` where nothing had
    /// reached the application.
    pub fn again(&mut self, free: bool) {
        if free {
            self.traffic().resends.fetch_add(1, Relaxed);
            return;
        }
        self.retry_ended(false);
        self.is_retry = true;
        self.traffic().retries.fetch_add(1, Relaxed);
    }

    /// Where its last attempt was a retry: whether that came to something.
    pub fn retry_ended(&mut self, is_good: bool) {
        self.count_retry(if is_good {
            RetryOutcome::Success
        } else {
            RetryOutcome::Failure
        });
    }

    pub(super) fn count_retry(&mut self, outcome: RetryOutcome) {
        if std::mem::take(&mut self.is_retry) {
            self.traffic().retry_outcomes.count(outcome);
        }
    }
}
