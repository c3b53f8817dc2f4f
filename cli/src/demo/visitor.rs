//! The load: a fixed rate of requests by schedule, whatever the answers do.
//!
//! Before the schedule begins, one round of all kinds of requests must have
//! been answered, so that the start of the other pods is not counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc, watch};

use super::client::{Answer, Call, CallError, Client};
use super::clock;
use super::record::{Outcome, Record};
use super::server::{self, Handler, json, not_found};

/// How long a request may take before it counts as failed.
const TIMEOUT: Duration = Duration::from_secs(8);
/// The pause after a request of the warm-up that failed.
const WARM_UP_PAUSE: Duration = Duration::from_millis(200);
/// How many failures of the warm-up pass between two lines in the log.
const WARM_UP_FAILURES_A_LINE: u32 = 25;
/// Requests that are due but not yet taken up; more are skipped.
const MAX_DUE: usize = 4096;
/// The kinds of requests repeat after so many.
const ROUND: u64 = 20;

/// The visitor.
pub struct Visitor {
    web: Arc<Client>,
    rate: u32,
    concurrency: u16,
    started: AtomicBool,
    places: Arc<Semaphore>,
    record: Option<Mutex<Record>>,
}

/// By this header the shop knows a crawler.
const CRAWLER: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-visitor"),
    HeaderValue::from_static("crawler"),
);

/// The n-th request: mostly reading, one in twenty buys, one in twenty is a
/// crawler (the shop's policy limits crawlers).
fn visit(n: u64) -> Call {
    match (n % ROUND, n % 3) {
        (0, _) => Call::post("/checkout", r#"{"items":[{"id":7,"count":2}]}"#),
        (10, _) => Call {
            headers: vec![CRAWLER],
            ..Call::get("/products")
        },
        (_, 0) => Call::get("/"),
        (_, 1) => Call::get("/products"),
        _ => Call::get("/cart"),
    }
}

fn outcome(result: &Result<Answer, CallError>) -> Outcome {
    match result {
        Ok(answer) if answer.status.is_success() => Outcome::Succeeded,
        Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => Outcome::RateLimited,
        Ok(answer) => {
            let said = match &answer.reason {
                Some(reason) => reason.clone(),
                None => String::from_utf8_lossy(&answer.body)
                    .chars()
                    .take(200)
                    .collect(),
            };
            Outcome::Failed(format!("{} {said}", answer.status.as_u16()))
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

impl Visitor {
    /// Will send `rate` requests a second to `web`, at most `concurrency` at a
    /// time.
    pub fn new(web: Arc<Client>, rate: u32, concurrency: u16) -> Arc<Self> {
        Arc::new(Visitor {
            web,
            rate,
            concurrency,
            started: AtomicBool::new(false),
            places: Arc::new(Semaphore::new(concurrency.into())),
            record: Record::new(clock::now()).ok().map(Mutex::new),
        })
    }

    fn record(&self) -> Option<MutexGuard<'_, Record>> {
        let record = self.record.as_ref()?;
        Some(record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends until `stopped` turns true; then waits for what is under way.
    pub async fn run(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.warm_up() => {}
            () = server::until(&mut stopped) => return,
        }
        if let Some(mut record) = self.record() {
            record.restart(clock::now());
        }
        self.started.store(true, Ordering::Relaxed);
        let (sender, due) = mpsc::channel(MAX_DUE);
        let visitor = Arc::clone(&self);
        let rate = self.rate;
        // A thread of its own, because tokio's timers are whole milliseconds,
        // which would show in every latency. It ends when `due` is dropped.
        let schedule = thread::Builder::new().name("schedule".to_owned());
        if let Err(error) = schedule.spawn(move || visitor.keep_schedule(rate, &sender)) {
            eprintln!("visitor: starting the schedule's thread: {error}");
            return;
        }
        tokio::select! {
            () = Arc::clone(&self).send_when_due(due) => {}
            () = server::until(&mut stopped) => {}
        }
        let all = self.places.acquire_many(self.concurrency.into());
        let _ = tokio::time::timeout(TIMEOUT, all).await;
    }

    /// Asks one of each until all were answered.
    async fn warm_up(&self) {
        let mut failures = 0_u32;
        let mut n = 0;
        while n < ROUND {
            let result = self.web.call(&visit(n), TIMEOUT).await;
            if let Outcome::Failed(what) = outcome(&result) {
                if failures.is_multiple_of(WARM_UP_FAILURES_A_LINE) {
                    eprintln!("visitor: waiting for the shop: {}: {what}", visit(n).path);
                }
                failures += 1;
                n = 0;
                tokio::time::sleep(WARM_UP_PAUSE).await;
            } else {
                n += 1;
            }
        }
    }

    /// Says of each request when it is due. What was late is made up for at
    /// once: that is what "due" means.
    fn keep_schedule(&self, rate: u32, sender: &mpsc::Sender<(u64, Instant)>) {
        let start = clock::now();
        for n in 0_u64.. {
            let due =
                start + Duration::from_nanos(n.saturating_mul(1_000_000_000) / u64::from(rate));
            let early = due.saturating_duration_since(clock::now());
            if !early.is_zero() {
                thread::sleep(early);
            }
            match sender.try_send((n, due)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => self.skip(),
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }

    fn skip(&self) {
        if let Some(mut record) = self.record() {
            record.skipped(1);
        }
    }

    async fn send_when_due(self: Arc<Self>, mut schedule: mpsc::Receiver<(u64, Instant)>) {
        while let Some((n, due)) = schedule.recv().await {
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                self.skip();
                continue;
            };
            let visitor = Arc::clone(&self);
            tokio::spawn(async move {
                visitor.send(n, due).await;
                drop(place);
            });
        }
    }

    async fn send(&self, n: u64, due: Instant) {
        let call = visit(n);
        let result = self.web.call(&call, TIMEOUT).await;
        let latency = clock::now().saturating_duration_since(due);
        if let Some(mut record) = self.record() {
            let outcome = outcome(&result);
            record.ended(&call.method, call.path, latency, outcome, clock::unix_ms());
        }
    }

    fn stats(&self) -> Option<String> {
        let mut snapshot = serde_json::to_value(self.record()?.look(clock::now())).ok()?;
        let fields = snapshot.as_object_mut()?;
        let in_flight = usize::from(self.concurrency) - self.places.available_permits();
        fields.insert(
            "started".into(),
            self.started.load(Ordering::Relaxed).into(),
        );
        fields.insert("rate".into(), self.rate.into());
        fields.insert("in_flight".into(), in_flight.into());
        fields.insert("resent".into(), self.web.resent().into());
        Some(snapshot.to_string())
    }
}

/// Serves `GET /stats`.
pub struct Stats(pub Arc<Visitor>);

impl Handler for Stats {
    async fn handle(&self, request: Request<Incoming>) -> server::Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/stats") => match self.0.stats() {
                Some(stats) => json(StatusCode::OK, stats),
                None => json(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    r#"{"error":"no record"}"#,
                ),
            },
            _ => not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_reads_mostly_and_buys_once() {
        let round: Vec<Call> = (0..ROUND).map(visit).collect();
        let count = |path| round.iter().filter(|call| call.path == path).count();
        assert_eq!(count("/checkout"), 1);
        assert_eq!(
            round.iter().filter(|call| !call.headers.is_empty()).count(),
            1
        );
        assert!(count("/") >= 5 && count("/products") >= 5 && count("/cart") >= 5);
    }

    #[test]
    fn a_refusal_is_told_by_its_reason() {
        let answered = |status, reason: Option<&str>| {
            outcome(&Ok(Answer {
                headers: http::HeaderMap::new(),
                status,
                reason: reason.map(str::to_owned),
                body: "text".into(),
            }))
        };
        let limited = answered(StatusCode::TOO_MANY_REQUESTS, Some("rate_limited"));
        assert_eq!(limited, Outcome::RateLimited);
        let refused = answered(StatusCode::SERVICE_UNAVAILABLE, Some("overloaded"));
        assert_eq!(refused, Outcome::Failed("503 overloaded".to_owned()));
        let failed = answered(StatusCode::NOT_FOUND, None);
        assert_eq!(failed, Outcome::Failed("404 text".to_owned()));
        assert_eq!(answered(StatusCode::OK, None), Outcome::Succeeded);
    }
}
