//! Load as it is ordered: streams of requests, each at its own rate, and what came
//! of them. For the scenarios of policies, which need another load each.
//!
//! # `POST /streams`
//! Its query names the streams that run from now on, instead of those before, with
//! `stream=` before what each is: `?stream=reads&to=reviews:8080&path=/reviews&rate=150`;
//! see [`stream::Asked`]. No `stream`: none.
//!
//! # `GET /stats`, and `POST /stretch`, which answers the same and begins anew
//! ```json
//! {"started": true, "seconds": 3.02, "streams": {"reads": {"requests": 450, ...}}}
//! ```
//! See [`counts::Counts`] for a stream. What was sent in one stretch and answered in
//! the next is not counted: a stretch is about what came after it began.

pub mod counts;
pub mod stream;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client::{Call, Client};
use super::clock;
use super::dial::Dialer;
use super::server::{self, Answer, Handler, json, not_found};
use counts::Counts;
use stream::{Asked, Stream};

/// Streams at a time.
const MAX_STREAMS: usize = 16;
/// The pause between attempts to reach the shop at all.
const WARM_UP_PAUSE: Duration = Duration::from_millis(100);
/// How long such an attempt may take.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// A shopper.
pub struct Shopper {
    dialer: Dialer,
    started: AtomicBool,
    asked: watch::Sender<Arc<[Asked]>>,
    stretch: Mutex<Stretch>,
}

/// Counts since a stretch began, by stream.
struct Stretch {
    number: u64,
    began: Instant,
    streams: BTreeMap<String, Counts>,
}

impl Shopper {
    /// Connects through this, and asks nothing yet.
    pub fn new(dialer: Dialer) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            started: AtomicBool::new(false),
            asked: watch::Sender::new(Arc::from([])),
            stretch: Mutex::new(Stretch {
                number: 0,
                began: clock::now(),
                streams: BTreeMap::new(),
            }),
        })
    }

    fn stretch(&self) -> MutexGuard<'_, Stretch> {
        self.stretch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which stretch is on.
    fn number(&self) -> u64 {
        self.stretch().number
    }

    /// Counts what became of a request of a stretch, while that one is on.
    fn count(&self, stream: &str, number: u64, note: impl FnOnce(&mut Counts)) {
        let mut stretch = self.stretch();
        if stretch.number == number
            && (stretch.streams.len() < MAX_STREAMS || stretch.streams.contains_key(stream))
        {
            let counts = stretch.streams.entry(stream.to_owned());
            note(counts.or_default());
        }
    }

    /// Shops as it is told until `stopped` turns true.
    pub async fn run(self: Arc<Self>, reviews: Arc<Client>, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.warm_up(&reviews) => {}
            () = server::until(&mut stopped) => return,
        }
        self.started.store(true, Ordering::Relaxed);
        let mut asked = self.asked.subscribe();
        loop {
            // Dropped, and with it what is under way, when others are asked for.
            let mut streams = JoinSet::new();
            for one in asked.borrow_and_update().iter() {
                match Stream::new(Arc::clone(&self), &self.dialer, one.clone()) {
                    Ok(stream) => drop(streams.spawn(stream.run())),
                    Err(error) => eprintln!("shopper: stream {}: {error:#}", one.name),
                }
            }
            tokio::select! {
                changed = asked.changed() => if changed.is_err() { return },
                () = server::until(&mut stopped) => return,
            }
        }
    }

    /// Until the shop answers at all.
    async fn warm_up(&self, reviews: &Client) {
        let call = Call::get("/reviews");
        while reviews.call(&call, WARM_UP_TIMEOUT).await.is_err() {
            tokio::time::sleep(WARM_UP_PAUSE).await;
        }
    }

    /// Takes the query of `POST /streams`.
    fn order(&self, query: &str) -> Result<(), String> {
        let asked: Vec<_> = query.split("stream=").skip(1).collect();
        if asked.len() > MAX_STREAMS {
            return Err(format!("{MAX_STREAMS} streams are the most"));
        }
        let asked: Result<Vec<_>, _> = asked.into_iter().map(Asked::parse).collect();
        self.asked.send_replace(asked?.into());
        Ok(())
    }

    /// The counts of this stretch; with `anew` another one begins.
    fn stats(&self, anew: bool) -> String {
        let mut stretch = self.stretch();
        let now = clock::now();
        let streams: serde_json::Map<_, _> = stretch
            .streams
            .iter()
            .map(|(name, counts)| (name.clone(), counts.told()))
            .collect();
        let stats = serde_json::json!({
            "started": self.started.load(Ordering::Relaxed),
            "seconds": now.saturating_duration_since(stretch.began).as_secs_f64(),
            "streams": streams,
        });
        if anew {
            *stretch = Stretch {
                number: stretch.number + 1,
                began: now,
                streams: BTreeMap::new(),
            };
        }
        stats.to_string()
    }
}

/// Takes orders, and tells.
pub struct Orders(pub Arc<Shopper>);

impl Handler for Orders {
    async fn handle(&self, request: Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/stats") => json(StatusCode::OK, self.0.stats(false)),
            (&Method::POST, "/stretch") => json(StatusCode::OK, self.0.stats(true)),
            (&Method::POST, "/streams") => {
                match self.0.order(request.uri().query().unwrap_or_default()) {
                    Ok(()) => json(StatusCode::OK, r#"{"ok":true}"#),
                    Err(why) => json(
                        StatusCode::BAD_REQUEST,
                        serde_json::json!({"error": why}).to_string(),
                    ),
                }
            }
            _ => not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn several_streams_are_ordered_by_one_query() {
        let shopper = Shopper::new(Dialer::new("").unwrap());
        let two = "stream=a&to=reviews:8080&rate=5&stream=b&to=ledger:7000&kind=tcp&rate=1";
        shopper.order(two).unwrap();
        let names: Vec<_> = shopper
            .asked
            .borrow()
            .iter()
            .map(|one| one.name.clone())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert!(shopper.order("stream=a&rate=5").is_err());
        assert_eq!(
            shopper.asked.borrow().len(),
            2,
            "what is wrong changes nothing"
        );
        shopper.order("").unwrap();
        assert!(shopper.asked.borrow().is_empty());
    }

    #[tokio::test]
    async fn what_belongs_to_another_stretch_is_not_counted() {
        let shopper = Shopper::new(Dialer::new("").unwrap());
        let number = shopper.number();
        shopper.count("a", number, |counts| counts.skipped += 1);
        let told: serde_json::Value = serde_json::from_str(&shopper.stats(true)).unwrap();
        assert_eq!(told["streams"]["a"]["skipped"], 1);
        shopper.count("a", number, |counts| counts.skipped += 1);
        let told: serde_json::Value = serde_json::from_str(&shopper.stats(false)).unwrap();
        assert!(told["streams"]["a"].is_null(), "{told}");
    }
}
