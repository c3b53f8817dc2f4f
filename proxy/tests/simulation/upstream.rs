//! The endpoints: what they do with a request, and what the sidecar keeps of them.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use remora_proxy::balance::{Candidates, LoadMeter, Standing};
use remora_proxy::clock::Timestamp;
use remora_proxy::policy::breaker::{BreakerSet, SharedBreaker};
use remora_proxy::policy::config::{AttemptEnd, Limits as LimitsConfig};
use remora_proxy::policy::limit::Limits;

/// How an endpoint behaves for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    Slow,
    /// Half of the answers are 503, some with `Retry-After`.
    Flaky,
    Failing,
    Refusing,
    /// Takes everything and answers when nobody waits any more, or never.
    Silent,
}

impl Mood {
    pub fn draw(random: &mut Rng) -> Self {
        match random.u8(..10) {
            0..4 => Self::Well,
            4 => Self::Slow,
            5 => Self::Flaky,
            6 => Self::Failing,
            7 | 8 => Self::Refusing,
            _ => Self::Silent,
        }
    }
}

/// An answer and how long it takes.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    pub after: Duration,
    pub end: AttemptEnd,
    pub retry_after: Option<Duration>,
}

/// One pod of the service.
pub struct Endpoint {
    pub name: String,
    pub breaker: Arc<SharedBreaker>,
    pub load: Arc<LoadMeter>,
    pub limits: Arc<Limits>,
    pub is_listed: bool,
    pub is_doubtful: bool,
    pub mood: Mood,
}

impl Endpoint {
    pub fn new(name: &str, set: &BreakerSet, limits: &LimitsConfig, now: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            breaker: set.endpoint(name, now),
            load: LoadMeter::new(),
            limits: Limits::new(limits),
            is_listed: true,
            is_doubtful: false,
            mood: Mood::Well,
        }
    }

    pub fn reply(&self, random: &mut Rng) -> Option<Reply> {
        let status = |status| AttemptEnd::Response { status, grpc: None };
        let (millis, end) = match self.mood {
            Mood::Well => (random.u64(1..30), status(200)),
            Mood::Slow => (random.u64(300..3000), status(200)),
            Mood::Flaky if random.bool() => (random.u64(1..30), status(200)),
            Mood::Flaky => (random.u64(1..30), status(503)),
            Mood::Failing if random.bool() => (1, AttemptEnd::Reset),
            Mood::Failing => (1, status(500)),
            Mood::Refusing => (1, AttemptEnd::ConnectFailure),
            Mood::Silent if random.bool() => return None,
            Mood::Silent => (random.u64(5000..60_000), status(200)),
        };
        let asks = self.mood == Mood::Flaky && random.u8(..4) == 0;
        Some(Reply {
            after: Duration::from_millis(millis),
            end,
            retry_after: asks.then(|| Duration::from_secs(random.u64(..20))),
        })
    }
}

/// The listed endpoints as one request sees them.
pub struct View<'a> {
    pub endpoints: &'a [Endpoint],
    pub listed: Vec<usize>,
    pub tried: &'a [usize],
    pub now: Timestamp,
}

impl Candidates for View<'_> {
    fn count(&self) -> usize {
        self.listed.len()
    }
    fn is_even(&self) -> bool {
        true
    }
    fn weight(&self, _index: usize) -> u32 {
        1
    }
    fn standing(&self, index: usize) -> Standing {
        let endpoint = &self.endpoints[self.listed[index]];
        Standing {
            availability: endpoint.breaker.availability(self.now),
            tried: self.tried.contains(&self.listed[index]),
            doubtful: endpoint.is_doubtful,
        }
    }
    fn load(&self, index: usize) -> f64 {
        self.endpoints[self.listed[index]].load.load(self.now)
    }
}
