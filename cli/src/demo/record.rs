//! What became of the visitor's requests.
//!
//! # `GET /stats`
//! ```json
//! {
//!   "started": true,            // the warm-up is over, the schedule runs
//!   "rate": 1000,               // requests a second that are asked for
//!   "in_flight": 3,
//!   "seconds": 12.0,            // since the schedule began
//!   "requests": 11980,          // ended, whatever became of them
//!   "succeeded": 11960,         // 2xx
//!   "failed_idempotent": 0,     // GETs that failed: no answer, or 400 and up
//!   "failed_other": 1,          // POSTs that failed
//!   "rate_limited": 19,         // 429: refused on purpose, not failed
//!   "skipped": 0,               // due, but CONCURRENCY were under way; not sent
//!   "resent": 2,                // sent again by the client because a kept
//!                               // connection had closed (not failed)
//!   "latency_ms": {"count": 11980, "mean": 1.0, "p50": 0.8, "p99": 3.1, "p999": 9.0, "max": 12.0},
//!   "recent": {                 // the same since the last `GET /stats`
//!     "seconds": 1.0, "requests": 1000, "succeeded": 1000, "failed_idempotent": 0,
//!     "failed_other": 0, "rate_limited": 0, "skipped": 0, "latency_ms": {}
//!   },
//!   "errors": [                 // the last 100 failures, oldest first
//!     {"at_ms": 1700000000000, "method": "GET", "path": "/cart", "what": "503 overloaded"}
//!   ]
//! }
//! ```
//! `at_ms` is Unix time. Latency runs from the moment a request was *due* to
//! the end of its answer, so that a stall is not hidden by the requests that
//! were not sent meanwhile; requests that failed or were limited count too.
//! Reading starts a new `recent`: have one reader only.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::Method;
use serde::Serialize;

/// Failures that are remembered.
const MAX_ERRORS: usize = 100;
/// Latencies above are counted as this.
const MAX_LATENCY_US: u64 = 60_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Succeeded,
    /// 429.
    RateLimited,
    /// Anything else, in words.
    Failed(String),
}

/// Counts and latencies of a stretch of time.
#[derive(Debug, Clone)]
struct Stretch {
    since: Instant,
    succeeded: u64,
    failed_idempotent: u64,
    failed_other: u64,
    rate_limited: u64,
    skipped: u64,
    latency_us: Histogram<u64>,
}

/// Everything since the start, and since the last look.
#[derive(Debug)]
pub struct Record {
    total: Stretch,
    recent: Stretch,
    errors: VecDeque<Failure>,
}

#[derive(Debug, Clone, Serialize)]
struct Failure {
    at_ms: u64,
    method: String,
    path: Cow<'static, str>,
    what: String,
}

/// The counts of a stretch, as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Counts {
    seconds: f64,
    requests: u64,
    succeeded: u64,
    failed_idempotent: u64,
    failed_other: u64,
    rate_limited: u64,
    skipped: u64,
    latency_ms: Latency,
}

#[derive(Debug, Clone, Serialize)]
struct Latency {
    count: u64,
    mean: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// What a look shows.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    #[serde(flatten)]
    total: Counts,
    recent: Counts,
    errors: Vec<Failure>,
}

impl Stretch {
    fn new(since: Instant) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Stretch {
            since,
            succeeded: 0,
            failed_idempotent: 0,
            failed_other: 0,
            rate_limited: 0,
            skipped: 0,
            latency_us: Histogram::new_with_max(MAX_LATENCY_US, DIGITS)?,
        })
    }

    fn restart(&mut self, since: Instant) {
        self.since = since;
        self.succeeded = 0;
        self.failed_idempotent = 0;
        self.failed_other = 0;
        self.rate_limited = 0;
        self.skipped = 0;
        self.latency_us.reset();
    }

    fn ended(&mut self, method: &Method, latency_us: u64, outcome: &Outcome) {
        let count = match outcome {
            Outcome::Succeeded => &mut self.succeeded,
            Outcome::RateLimited => &mut self.rate_limited,
            Outcome::Failed(_) if method.is_idempotent() => &mut self.failed_idempotent,
            Outcome::Failed(_) => &mut self.failed_other,
        };
        *count += 1;
        self.latency_us.saturating_record(latency_us);
    }

    fn counts(&self, now: Instant) -> Counts {
        let latency = &self.latency_us;
        let ms = |us: u64| us as f64 / 1000.0;
        let quantile = |q| ms(latency.value_at_quantile(q));
        Counts {
            seconds: now.saturating_duration_since(self.since).as_secs_f64(),
            requests: latency.len(),
            succeeded: self.succeeded,
            failed_idempotent: self.failed_idempotent,
            failed_other: self.failed_other,
            rate_limited: self.rate_limited,
            skipped: self.skipped,
            latency_ms: Latency {
                count: latency.len(),
                mean: latency.mean() / 1000.0,
                p50: quantile(0.5),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: ms(latency.max()),
            },
        }
    }
}

impl Record {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never with the bounds above; they are the histogram's to judge.
    pub fn new(now: Instant) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Record {
            total: Stretch::new(now)?,
            recent: Stretch::new(now)?,
            errors: VecDeque::new(),
        })
    }

    /// Forgets everything: the schedule begins.
    pub fn restart(&mut self, now: Instant) {
        self.total.restart(now);
        self.recent.restart(now);
        self.errors.clear();
    }

    /// A request ended.
    pub fn ended(
        &mut self,
        method: &Method,
        path: Cow<'static, str>,
        latency: Duration,
        outcome: Outcome,
        at_ms: u64,
    ) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.total.ended(method, latency_us, &outcome);
        self.recent.ended(method, latency_us, &outcome);
        if let Outcome::Failed(what) = outcome {
            if self.errors.len() == MAX_ERRORS {
                self.errors.pop_front();
            }
            let method = method.to_string();
            self.errors.push_back(Failure {
                at_ms,
                method,
                path,
                what,
            });
        }
    }

    /// Requests were due, but not sent.
    pub fn skipped(&mut self, count: u64) {
        self.total.skipped += count;
        self.recent.skipped += count;
    }

    /// Shows everything, and starts a new recent stretch.
    pub fn look(&mut self, now: Instant) -> Snapshot {
        let snapshot = Snapshot {
            total: self.total.counts(now),
            recent: self.recent.counts(now),
            errors: self.errors.iter().cloned().collect(),
        };
        self.recent.restart(now);
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::clock;

    #[test]
    fn outcomes_are_counted_apart_and_a_look_starts_anew() {
        let start = clock::now();
        let mut record = Record::new(start).unwrap();
        let failed = || Outcome::Failed("503 overloaded".to_owned());
        let ms = Duration::from_millis;
        record.ended(&Method::GET, "/".into(), ms(2), Outcome::Succeeded, 1);
        record.ended(&Method::GET, "/cart".into(), ms(4), failed(), 2);
        record.ended(&Method::POST, "/checkout".into(), ms(6), failed(), 3);
        record.ended(&Method::GET, "/".into(), ms(1), Outcome::RateLimited, 4);
        record.skipped(5);
        let now = start + Duration::from_secs(2);
        let json = serde_json::to_value(record.look(now)).unwrap();
        assert_eq!(json["requests"], 4);
        assert_eq!(json["failed_idempotent"], 1);
        assert_eq!(json["failed_other"], 1);
        assert_eq!(json["rate_limited"], 1);
        assert_eq!(json["skipped"], 5);
        assert_eq!(json["seconds"], 2.0);
        assert_eq!(json["errors"][0]["path"], "/cart");
        assert_eq!(json["recent"]["requests"], 4);
        let max = json["latency_ms"]["max"].as_f64().unwrap();
        assert!((5.9..6.1).contains(&max), "{max}");

        let json = serde_json::to_value(record.look(now)).unwrap();
        assert_eq!(json["requests"], 4);
        assert_eq!(json["recent"]["requests"], 0);
        assert_eq!(json["recent"]["latency_ms"]["p999"], 0.0);
    }

    #[test]
    fn only_the_last_failures_are_kept_and_the_slowest_still_count() {
        let mut record = Record::new(clock::now()).unwrap();
        for at_ms in 0..150 {
            let outcome = Outcome::Failed(String::new());
            record.ended(
                &Method::GET,
                "/".into(),
                Duration::from_secs(999),
                outcome,
                at_ms,
            );
        }
        let json = serde_json::to_value(record.look(clock::now())).unwrap();
        assert_eq!(json["errors"].as_array().unwrap().len(), MAX_ERRORS);
        assert_eq!(json["errors"][0]["at_ms"], 50);
        assert_eq!(json["latency_ms"]["count"], 150);
    }
}
