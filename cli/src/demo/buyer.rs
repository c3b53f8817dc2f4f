//! Who only pays: a fixed rate of `POST /charge` to payment, some with a
//! cookie that puts the buyer into a group, and which version answered whom.
//!
//! # `GET /stats`, and `POST /stretch`, which answers the same and begins anew
//! ```json
//! {
//!   "started": true,          // somebody was charged: the rate is kept from now on
//!   "rate": 500,
//!   "requests": 4980,         // sent and answered within this stretch
//!   "failed": 0,              // of them: no answer, or none of 2xx
//!   "skipped": 0,             // due, but CONCURRENCY were under way
//!   "answers": {"": {"v1": 2490}, "a": {"v1": 1245}, "b": {"v2": 1245}},
//!   "latency_ms": {"p50": 0.8, "p99": 3.1}   // from sending to the end of the answer
//! }
//! ```
//! `answers` is by the group in the buyer's cookie, then by the version that the
//! answer names. What was sent in one stretch and answered in the next is not
//! counted: so a stretch that begins with a change is about what came after it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, watch};

use super::client::{Call, Client};
use super::server::{self, Handler, json, not_found};
use super::{clock, pace};

/// How long a request may take before it counts as failed.
const TIMEOUT: Duration = Duration::from_secs(8);
/// The pause between attempts to be charged at all.
const WARM_UP_PAUSE: Duration = Duration::from_millis(200);
/// Latencies above are counted as this.
const MAX_LATENCY_US: u64 = 60_000_000;
/// Versions that are told apart; the demo has two.
const MAX_VERSIONS: usize = 8;

/// The buyers by turns: the cookie, and the group that it says.
const BUYERS: [(Option<&str>, &str); 4] = [
    (None, ""),
    (Some("group=a"), "a"),
    (Some("group=b"), "b"),
    (Some("theme=dark; group=b; lang=en"), "b"),
];

/// Counts since a stretch began.
#[derive(Debug)]
struct Stretch {
    number: u64,
    requests: u64,
    failed: u64,
    skipped: u64,
    answers: BTreeMap<&'static str, BTreeMap<String, u64>>,
    latency_us: Histogram<u64>,
}

impl Stretch {
    fn new(number: u64) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            number,
            requests: 0,
            failed: 0,
            skipped: 0,
            answers: BTreeMap::new(),
            latency_us: Histogram::new_with_max(MAX_LATENCY_US, 3)?,
        })
    }

    /// A request of this stretch has ended: with the version that answered, or not.
    fn ended(&mut self, group: &'static str, version: Option<String>, latency: Duration) {
        self.requests += 1;
        let us = u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY_US);
        self.latency_us.saturating_record(us);
        let Some(version) = version else {
            self.failed += 1;
            return;
        };
        let versions = self.answers.entry(group).or_default();
        if versions.len() < MAX_VERSIONS || versions.contains_key(&version) {
            *versions.entry(version).or_default() += 1;
        }
    }
}

/// The buyers.
pub struct Buyer {
    payment: Arc<Client>,
    rate: u32,
    places: Arc<Semaphore>,
    started: AtomicBool,
    stretch: Mutex<Stretch>,
}

impl Buyer {
    /// Will send `rate` requests a second to `payment`, at most `concurrency` at a time.
    ///
    /// # Errors
    /// Never with the bounds above; they are the histogram's to judge.
    pub fn new(
        payment: Arc<Client>,
        rate: u32,
        concurrency: u16,
    ) -> Result<Arc<Self>, hdrhistogram::CreationError> {
        Ok(Arc::new(Self {
            payment,
            rate,
            places: Arc::new(Semaphore::new(concurrency.into())),
            started: AtomicBool::new(false),
            stretch: Mutex::new(Stretch::new(0)?),
        }))
    }

    fn stretch(&self) -> MutexGuard<'_, Stretch> {
        self.stretch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends until `stopped` turns true.
    pub async fn run(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.warm_up() => {}
            () = server::until(&mut stopped) => return,
        }
        self.started.store(true, Ordering::Relaxed);
        tokio::select! {
            never = pace::keep(self.rate, |n| self.send(n)) => match never {},
            () = server::until(&mut stopped) => {}
        }
    }

    async fn warm_up(&self) {
        while self.charge(None).await.is_none() {
            tokio::time::sleep(WARM_UP_PAUSE).await;
        }
    }

    fn send(self: &Arc<Self>, n: u64) {
        let number = self.stretch().number;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.stretch().skipped += 1;
            return;
        };
        let buyer = Arc::clone(self);
        tokio::spawn(async move {
            let (cookie, group) = turn(n);
            let sent: Instant = clock::now();
            let version = buyer.charge(cookie).await;
            let latency = clock::now().saturating_duration_since(sent);
            let mut stretch = buyer.stretch();
            if stretch.number == number {
                stretch.ended(group, version, latency);
            }
            drop(place);
        });
    }

    /// The version that took the money.
    async fn charge(&self, cookie: Option<&'static str>) -> Option<String> {
        let cookie = cookie.map(|cookie| (header::COOKIE, HeaderValue::from_static(cookie)));
        let call = Call {
            headers: cookie.into_iter().collect(),
            ..Call::post("/charge", r#"{"cents":4200}"#)
        };
        let answer = self.payment.call(&call, TIMEOUT).await.ok()?;
        let answer = answer.status.is_success().then_some(answer.body)?;
        let answer: serde_json::Value = serde_json::from_slice(&answer).ok()?;
        answer["version"].as_str().map(str::to_owned)
    }

    /// The counts of this stretch; with `anew` another one begins.
    fn stats(&self, anew: bool) -> String {
        let mut stretch = self.stretch();
        let ms = |quantile| stretch.latency_us.value_at_quantile(quantile) as f64 / 1000.0;
        let stats = serde_json::json!({
            "started": self.started.load(Ordering::Relaxed),
            "rate": self.rate,
            "requests": stretch.requests,
            "failed": stretch.failed,
            "skipped": stretch.skipped,
            "answers": stretch.answers,
            "latency_ms": {"p50": ms(0.5), "p99": ms(0.99)},
        });
        if anew && let Ok(next) = Stretch::new(stretch.number + 1) {
            *stretch = next;
        }
        stats.to_string()
    }
}

/// The cookie of the n-th request, and its group.
fn turn(n: u64) -> (Option<&'static str>, &'static str) {
    let turns = BUYERS.len() as u64;
    usize::try_from(n % turns).map_or(BUYERS[0], |turn| BUYERS[turn])
}

/// Serves `GET /stats` and `POST /stretch`.
pub struct Stats(pub Arc<Buyer>);

impl Handler for Stats {
    async fn handle(&self, request: Request<Incoming>) -> server::Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/stats") => json(StatusCode::OK, self.0.stats(false)),
            (&Method::POST, "/stretch") => json(StatusCode::OK, self.0.stats(true)),
            _ => not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_buyers_are_in_group_b_whatever_else_their_cookies_say() {
        let groups: Vec<_> = (0..8).map(|n| turn(n).1).collect();
        assert_eq!(groups, ["", "a", "b", "b", "", "a", "b", "b"]);
        let with_b = |n| turn(n).0.is_some_and(|cookie| cookie.contains("group=b"));
        assert!(with_b(2) && with_b(3) && !with_b(0) && !with_b(1));
    }

    #[test]
    fn answers_are_counted_by_group_and_version_within_bounds() {
        let mut stretch = Stretch::new(0).unwrap();
        let ms = Duration::from_millis;
        stretch.ended("b", Some("v2".to_owned()), ms(1));
        stretch.ended("b", Some("v2".to_owned()), ms(1));
        stretch.ended("", None, ms(3));
        assert_eq!(stretch.answers["b"]["v2"], 2);
        assert_eq!((stretch.requests, stretch.failed), (3, 1));
        for n in 0..100 {
            stretch.ended("b", Some(format!("v{n}")), ms(1));
        }
        assert_eq!(stretch.answers["b"].len(), MAX_VERSIONS);
    }
}
