//! Counters that every worker adds to and the admin endpoint reads.
//!
//! All are atomics without locks; a handle to them is held by whoever counts,
//! so nothing is looked up for a request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::answer::Reason;

/// Upper bounds of the latency histogram's buckets, milliseconds; one more
/// bucket takes what is slower.
pub const LATENCY_BOUNDS_MS: [f64; 16] = [
    0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0,
    10_000.0,
];

/// Latency from the request's headers to the response's headers.
#[derive(Debug, Default)]
pub struct Latency {
    counts: [AtomicU64; LATENCY_BOUNDS_MS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Latency {
    /// Counts one.
    pub fn observe(&self, latency: Duration) {
        let millis = latency.as_secs_f64() * 1_000.0;
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < millis);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(latency.as_nanos() as u64, Relaxed);
    }

    /// How many fell into each bucket.
    pub fn counts(&self) -> [u64; LATENCY_BOUNDS_MS.len() + 1] {
        std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed))
    }

    /// All of them added up.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanos.load(Relaxed) as f64 / 1e9
    }
}

/// What became of a retry, or of the wish for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOutcome {
    /// Its answer is none that the policy would retry.
    Success,
    /// It failed as the attempt before it.
    Failure,
    /// The caller went away meanwhile.
    Cancelled,
    /// Not made: the budget is spent.
    BudgetExhausted,
    /// Not made: `maxRetries` is reached.
    OverLimit,
}

impl RetryOutcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [
        Self::Success,
        Self::Failure,
        Self::Cancelled,
        Self::BudgetExhausted,
        Self::OverLimit,
    ];

    /// The word for it in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::BudgetExhausted => "budget_exhausted",
            Self::OverLimit => "over_limit",
        }
    }
}

/// How many retries came to what.
#[derive(Debug, Default)]
pub struct RetryOutcomes([AtomicU64; RetryOutcome::ALL.len()]);

impl RetryOutcomes {
    /// Counts one.
    pub fn count(&self, outcome: RetryOutcome) {
        self.0[outcome as usize].fetch_add(1, Relaxed);
    }

    /// How many so far.
    pub fn total(&self, outcome: RetryOutcome) -> u64 {
        self.0[outcome as usize].load(Relaxed)
    }
}

/// What is counted about the requests of one service (outbound) or port (inbound).
#[derive(Debug, Default)]
pub struct Traffic {
    /// By class of status: 1xx to 5xx.
    classes: [AtomicU64; 5],
    /// Answered by Remora itself, by reason.
    reasons: [AtomicU64; Reason::ALL.len()],
    /// Of these, `fault` and `fallback`, whose status a policy writes, by its class.
    written: [[AtomicU64; 5]; 2],
    /// Attempts of requests that have ended.
    pub attempts: AtomicU64,
    /// Of the reasons such as a fallback stood in for.
    fallbacks: [AtomicU64; Reason::ALL.len()],
    /// Trouble on purpose, by its kind.
    faults: [AtomicU64; FaultKind::ALL.len()],
    /// Attempts that were retries by the policy.
    pub retries: AtomicU64,
    /// What those came to, and why others were not made.
    pub retry_outcomes: RetryOutcomes,
    /// Attempts sent again because nothing had reached the application.
    pub resends: AtomicU64,
    /// Attempts that were hedges.
    pub hedges: AtomicU64,
    /// Hedges whose answer was given.
    pub hedges_won: AtomicU64,
    /// Hedges that another was quicker than, or that were no good.
    pub hedges_lost: AtomicU64,
    /// Hedges that the budget or `maxRetries` refused.
    pub hedges_without_budget: AtomicU64,
    /// Hedges for which there was no other endpoint.
    pub hedges_without_endpoint: AtomicU64,
    /// Requests that wait for an endpoint now.
    pub waiting: AtomicU64,
    /// Requests that got an endpoint after a wait.
    pub found_after_wait: AtomicU64,
    /// Requests that waited for an endpoint for nothing.
    pub gone_after_wait: AtomicU64,
    /// Requests whose caller went away before the answer had ended.
    pub cancelled: AtomicU64,
    /// Requests in flight.
    pub in_flight: AtomicU64,
    /// Raw TCP connections so far.
    pub tcp_connections: AtomicU64,
    /// Raw TCP connections that did not come about or broke.
    pub tcp_failures: AtomicU64,
    /// Raw TCP connections open.
    pub tcp_open: AtomicU64,
    /// From the request's headers to the response's.
    pub latency: Latency,
}

/// What `fault` did to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It waited.
    Delay,
    /// It was answered.
    Abort,
    /// Its connection or stream broke.
    Reset,
}

impl FaultKind {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Delay, Self::Abort, Self::Reset];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Reset => "reset",
        }
    }
}

/// A moment's reading of [`Traffic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficTotals {
    /// Requests that were answered, by anyone.
    pub requests: u64,
    /// Of those: 5xx, and what Remora itself refused but for rate limits, what
    /// the caller may not do, and what a rule answers as it should.
    pub failures: u64,
    /// Retries and resends.
    pub retries: u64,
    /// Refused by a rate limit.
    pub rate_limited: u64,
    /// Refused by a limit of the circuit breaker, or by the open breaker.
    pub overloaded: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Hedges that were sent.
    pub hedges: u64,
    /// Requests that a fallback answered.
    pub fallbacks: u64,
    /// Requests that met trouble on purpose: once for each kind.
    pub faults: u64,
    /// Retries and hedges that the budget refused.
    pub budget_exhausted: u64,
    /// Refused at a limit of the circuit breaker, whether a fallback answered or not.
    pub at_limits: u64,
}

/// From 0 for 1xx.
fn class_of(status: http::StatusCode) -> usize {
    (status.as_u16() / 100).clamp(1, 5) as usize - 1
}

/// The place of a reason whose status a policy writes.
const fn written_at(reason: Reason) -> Option<usize> {
    match reason {
        Reason::Fault => Some(0),
        Reason::Fallback => Some(1),
        _ => None,
    }
}

/// Whether an answer of Remora's own is one of [`TrafficTotals::failures`].
const fn is_failure(reason: Reason) -> bool {
    !reason.is_answer() && !matches!(reason, Reason::RateLimited | Reason::Denied)
}

impl Traffic {
    /// Counts an answer that the upstream gave.
    pub fn answered(&self, status: http::StatusCode) {
        self.classes[class_of(status)].fetch_add(1, Relaxed);
    }

    /// Counts an answer that Remora gave itself.
    pub fn refused(&self, reason: Reason, status: http::StatusCode) {
        self.reasons[reason.index()].fetch_add(1, Relaxed);
        if let Some(at) = written_at(reason) {
            self.written[at][class_of(status)].fetch_add(1, Relaxed);
        }
    }

    /// Answers of Remora for `reason`, by class of status from 1xx.
    pub fn reason_classes(&self, reason: Reason) -> [u64; 5] {
        let all = self.reason(reason);
        match written_at(reason) {
            Some(at) => std::array::from_fn(|class| self.written[at][class].load(Relaxed)),
            None => {
                let of_reason = class_of(reason.status());
                std::array::from_fn(|class| if class == of_reason { all } else { 0 })
            }
        }
    }

    /// Counts a fallback in the place of a refusal.
    pub fn fell_back(&self, instead_of: Reason) {
        self.fallbacks[instead_of.index()].fetch_add(1, Relaxed);
    }

    /// Fallbacks in the place of this.
    pub fn fallbacks(&self, instead_of: Reason) -> u64 {
        self.fallbacks[instead_of.index()].load(Relaxed)
    }

    /// Counts trouble on purpose.
    pub fn faulted(&self, kind: FaultKind) {
        self.faults[kind as usize].fetch_add(1, Relaxed);
    }

    /// Trouble of this kind.
    pub fn faults(&self, kind: FaultKind) -> u64 {
        self.faults[kind as usize].load(Relaxed)
    }

    /// Answers of the upstream, by class of status from 1xx.
    pub fn classes(&self) -> [u64; 5] {
        std::array::from_fn(|class| self.classes[class].load(Relaxed))
    }

    /// Answers of Remora for `reason`.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons[reason.index()].load(Relaxed)
    }

    /// A moment's reading.
    pub fn totals(&self) -> TrafficTotals {
        let classes = self.classes();
        // Each is read once: others count meanwhile.
        let reasons = Reason::ALL.map(|reason| (reason, self.reason(reason)));
        let sum = |which: fn(Reason) -> bool| -> u64 {
            let those = reasons.iter().filter(|(reason, _)| which(*reason));
            those.map(|(_, count)| count).sum()
        };
        TrafficTotals {
            requests: classes.iter().sum::<u64>() + sum(|_| true),
            failures: classes[4] + sum(is_failure),
            retries: self.retries.load(Relaxed) + self.resends.load(Relaxed),
            rate_limited: sum(|reason| reason == Reason::RateLimited),
            overloaded: sum(|reason| matches!(reason, Reason::Overloaded | Reason::BreakerOpen)),
            in_flight: self.in_flight.load(Relaxed),
            hedges: self.hedges.load(Relaxed),
            fallbacks: Reason::ALL.map(|it| self.fallbacks(it)).iter().sum(),
            faults: FaultKind::ALL.map(|it| self.faults(it)).iter().sum(),
            budget_exhausted: self.retry_outcomes.total(RetryOutcome::BudgetExhausted)
                + self.hedges_without_budget.load(Relaxed),
            at_limits: self.reason(Reason::Overloaded) + self.fallbacks(Reason::Overloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_falls_into_its_bucket() {
        let latency = Latency::default();
        latency.observe(Duration::from_micros(500));
        latency.observe(Duration::from_micros(501));
        latency.observe(Duration::from_secs(60));
        let counts = latency.counts();
        assert_eq!((counts[0], counts[1], counts[16]), (1, 1, 1));
    }

    #[test]
    fn a_rate_limited_request_is_not_a_failure() {
        let traffic = Traffic::default();
        for reason in [Reason::RateLimited, Reason::Overloaded] {
            traffic.refused(reason, reason.status());
        }
        traffic.answered(http::StatusCode::OK);
        traffic.answered(http::StatusCode::BAD_GATEWAY);
        let totals = traffic.totals();
        assert_eq!(
            (totals.requests, totals.failures, totals.rate_limited),
            (4, 2, 1)
        );
    }

    #[test]
    fn totals_that_are_read_while_others_count_are_never_below_zero() {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            let counting = scope.spawn(|| {
                for _ in 0..100_000 {
                    for reason in [Reason::RateLimited, Reason::Denied] {
                        traffic.refused(reason, reason.status());
                    }
                }
            });
            while !counting.is_finished() {
                assert_eq!(traffic.totals().failures, 0);
            }
        });
    }
}
