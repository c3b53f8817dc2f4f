//! What became of the load, as the visitor itself counts it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::client::{Client, Place};

/// How often it is asked. Nobody else asks: each answer starts a new stretch.
const EVERY: Duration = Duration::from_millis(500);

/// Quantiles in milliseconds.
#[derive(Debug, Clone, Default, Deserialize, Serialize, PartialEq)]
pub struct Quantiles {
    /// The median.
    #[serde(default)]
    pub p50: f64,
    /// Of a hundred, one is slower.
    #[serde(default)]
    pub p99: f64,
    /// Of a thousand, one is slower.
    #[serde(default)]
    pub p999: f64,
}

/// The answer of the visitor's `GET /stats`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Whether its warm-up is over.
    pub started: bool,
    /// Requests per second that it wants to send.
    pub rate: f64,
    /// Ended, whatever became of them.
    pub requests: u64,
    /// Idempotent requests that failed.
    pub failed_idempotent: u64,
    /// Others that failed.
    pub failed_other: u64,
    /// 429: refused on purpose.
    pub rate_limited: u64,
    /// Due but not sent: too many were under way.
    pub skipped: u64,
    /// Since the start, in milliseconds.
    pub latency_ms: Quantiles,
    /// Since the last question.
    pub recent: Recent,
    /// The last failures.
    pub errors: Vec<Failure>,
}

/// The same since the last question.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Recent {
    /// How long that was.
    pub seconds: f64,
    /// Ended.
    pub requests: u64,
    /// Idempotent requests that failed.
    pub failed_idempotent: u64,
    /// Others that failed.
    pub failed_other: u64,
    /// In milliseconds.
    pub latency_ms: Quantiles,
}

/// A request that failed.
#[derive(Debug, Clone, Default, Deserialize, Serialize, PartialEq)]
#[serde(default)]
pub struct Failure {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// What went wrong.
    pub what: String,
}

/// Starts asking; the newest answer is in the channel.
pub fn watch(place: Place, newest: watch::Sender<Load>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut client = Client::new(place);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Ok(load) = client.json("/stats").await
                && newest.send(load).is_err()
            {
                return;
            }
        }
    })
}
