//! What is promised, written down naively: slow, unbounded, obvious.

use std::time::Duration;

use remora_proxy::balance::{Availability, Candidates};
use remora_proxy::clock::Timestamp;
use remora_proxy::policy::config::{RateLimit, RetryBudget, Trip};

/// A bucket of tokens.
pub struct Bucket {
    limit: RateLimit,
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    pub fn new(limit: &RateLimit, now: Timestamp) -> Self {
        Self {
            limit: limit.clone(),
            tokens: f64::from(limit.burst),
            at: now,
        }
    }

    pub fn change(&mut self, limit: &RateLimit, now: Timestamp) {
        self.fill(now);
        self.limit = limit.clone();
        self.tokens = self.tokens.min(f64::from(limit.burst));
    }

    /// Rounding decides when it is very close to a whole token.
    pub fn check(&mut self, admitted: bool, now: Timestamp) {
        self.fill(now);
        if (self.tokens - 1.0).abs() > 1e-3 {
            assert_eq!(admitted, self.tokens > 1.0, "{} tokens", self.tokens);
        }
        if admitted {
            self.tokens = (self.tokens - 1.0).max(0.0);
        }
    }

    fn fill(&mut self, now: Timestamp) {
        let rate = f64::from(self.limit.requests) / self.limit.per.as_secs_f64();
        let gained = now.since(self.at).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(f64::from(self.limit.burst));
        self.at = now;
    }
}

/// Every request and every retry, remembered for ever.
#[derive(Default)]
pub struct Ledger {
    requests: Vec<Timestamp>,
    retries: Vec<Timestamp>,
}

impl Ledger {
    pub fn request(&mut self, now: Timestamp) {
        self.requests.push(now);
    }

    pub fn retry(&mut self, budget: &RetryBudget, now: Timestamp) {
        self.retries.push(now);
        let inside = |times: &[Timestamp]| {
            let recent = times.iter().rev();
            recent
                .take_while(|at| now.since(**at) < budget.window)
                .count() as f64
        };
        let share = f64::from(budget.percent) / 100.0 * inside(&self.requests);
        let minimum = f64::from(budget.min_per_second) * budget.window.as_secs_f64();
        let retries = inside(&self.retries);
        assert!(
            retries <= share.max(minimum) + 1e-9,
            "{retries} retries in a window, {share} or {minimum} allowed"
        );
    }
}

/// At most so many of the listed endpoints may be out.
pub fn may_be_out(trip: Option<&Trip>, listed: usize) -> usize {
    let Some(trip) = trip else { return 0 };
    let share = listed * trip.max_ejected_percent as usize / 100;
    share.min(listed.saturating_sub(trip.min_endpoints.max(1) as usize))
}

/// The pick is available, and no better kind of endpoint was.
pub fn check_pick(candidates: &impl Candidates, picked: Option<usize>) {
    let rank = |index: usize| {
        let standing = candidates.standing(index);
        (standing.availability != Availability::No).then_some((standing.doubtful, standing.tried))
    };
    let best = (0..candidates.count()).filter_map(rank).min();
    assert_eq!(
        picked.and_then(rank),
        best,
        "not of the best that there were"
    );
}

/// The longest that anything can be shut, with all that prolongs it.
pub const LONGEST: Duration = Duration::from_secs(8 * 20 + 60);
