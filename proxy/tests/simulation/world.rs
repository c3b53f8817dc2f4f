//! The clock, the events and the life of a request.
//!
//! Everything happens on one thread, in the order of virtual time; chance comes
//! from the seed alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use remora_proxy::clock::Timestamp;
use remora_proxy::policy::breaker::{BreakerSet, Journal};
use remora_proxy::policy::budget::RetryBudget;
use remora_proxy::policy::config;
use remora_proxy::policy::limit::Limits;
use remora_proxy::policy::rate_limit::RateLimiter;

use crate::life::Request;
use crate::models::{Bucket, Ledger};
use crate::settings::Settings;
use crate::summary::Summary;
use crate::upstream::{Endpoint, Mood, Reply};

pub const ENDPOINTS: usize = 6;
const ARRIVALS: usize = 300;
/// Stands for the budget of a policy without retries: none is ever asked of it.
const NO_BUDGET: config::RetryBudget = config::RetryBudget {
    percent: 0,
    min_per_second: 0,
    window: Duration::from_secs(2),
};

#[derive(Debug)]
pub enum Event {
    Arrive,
    Attempt(u64),
    Reply(u64, u32, Reply),
    Deadline(u64, u32),
    Cancel(u64),
    Mischief,
}

/// Tells how to play a seed again that broke a promise.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("play it again alone with SIM_SEED={}", self.0);
        }
    }
}

/// One service, its endpoints, one sidecar.
pub struct World {
    _seed: Seed,
    pub random: Rng,
    pub now: Timestamp,
    pub events: BTreeMap<(Timestamp, u64), Event>,
    pub last_id: u64,
    pub settings: Settings,
    pub journal: Arc<Journal>,
    pub set: BreakerSet,
    pub limits: Arc<Limits>,
    pub budget: RetryBudget,
    pub rate_limiter: RateLimiter,
    pub endpoints: Vec<Endpoint>,
    pub requests: BTreeMap<u64, Request>,
    pub bucket: Bucket,
    pub ledger: Ledger,
    pub summary: Summary,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let settings = Settings::draw(&mut random);
        let now = Timestamp::from_millis(1000);
        let journal = Journal::new();
        let trip = settings.trip.as_ref();
        let set = BreakerSet::new("shop/catalog", trip, Arc::clone(&journal), now);
        let endpoints = (0..ENDPOINTS)
            .map(|index| {
                Endpoint::new(
                    &format!("catalog-{index}"),
                    &set,
                    &settings.per_endpoint,
                    now,
                )
            })
            .collect();
        Self {
            _seed: Seed(seed),
            now,
            events: BTreeMap::new(),
            last_id: 0,
            journal,
            set,
            limits: Limits::new(&settings.limits),
            budget: RetryBudget::new(&budget_of(&settings)),
            rate_limiter: RateLimiter::new(std::slice::from_ref(&settings.rate_limit)),
            endpoints,
            requests: BTreeMap::new(),
            bucket: Bucket::new(&settings.rate_limit, now),
            ledger: Ledger::default(),
            summary: Summary::default(),
            settings,
            random,
        }
    }

    pub fn play(mut self) -> Summary {
        let mut at = self.now;
        for _ in 0..ARRIVALS {
            // Bursts, and pauses in which ejections pass.
            let pause = if self.random.u8(..4) > 0 {
                self.random.u64(..30)
            } else {
                self.random.u64(..1500)
            };
            at = at.after(Duration::from_millis(pause));
            self.schedule(at, Event::Arrive);
            if self.random.u8(..12) == 0 {
                self.schedule(at, Event::Mischief);
            }
        }
        self.run();
        self.check_nothing_is_held();
        self.check_recovery();
        let counts = self.set.transitions();
        self.summary.opened = counts.opened;
        self.summary.closed = counts.closed;
        self.summary.would_open = counts.would_open;
        self.summary
    }

    pub fn run(&mut self) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            // After a jump of the clock events are late, never early.
            self.now = self.now.max(at);
            match event {
                Event::Arrive => self.arrive(),
                Event::Attempt(id) => self.attempt(id),
                Event::Reply(id, number, reply) => self.reply(id, number, &reply),
                Event::Deadline(id, number) => self.deadline(id, number),
                Event::Cancel(id) => {
                    if self.requests.remove(&id).is_some() {
                        self.summary.cancelled += 1;
                    }
                }
                Event::Mischief => self.mischief(),
            }
            self.check();
        }
    }

    pub fn schedule(&mut self, at: Timestamp, event: Event) {
        self.last_id += 1;
        self.events.insert((at, self.last_id), event);
    }

    fn mischief(&mut self) {
        let at = self.random.usize(..ENDPOINTS);
        match self.random.u8(..10) {
            0..4 => self.endpoints[at].mood = Mood::draw(&mut self.random),
            4 | 5 => {
                self.endpoints[at].is_listed ^= true;
                self.summary.vanished += 1;
                self.members_changed();
            }
            6 => self.endpoints[at].is_doubtful ^= true,
            7 => {
                self.now = self
                    .now
                    .after(Duration::from_millis(self.random.u64(..20_000)))
            }
            _ => {
                for _ in 0..self.random.u8(1..5) {
                    let settings = Settings::draw(&mut self.random);
                    self.configure(settings);
                }
            }
        }
    }

    pub fn members_changed(&mut self) {
        let names = self.endpoints.iter().filter(|it| it.is_listed);
        self.set
            .set_members(names.map(|it| it.name.as_str()), self.now);
        for endpoint in self.endpoints.iter_mut().filter(|it| it.is_listed) {
            endpoint.breaker = self.set.endpoint(&endpoint.name, self.now);
        }
    }

    pub fn configure(&mut self, settings: Settings) {
        self.set.reconfigure(settings.trip.as_ref(), self.now);
        self.limits.reconfigure(&settings.limits);
        for endpoint in &self.endpoints {
            endpoint.limits.reconfigure(&settings.per_endpoint);
        }
        self.budget.reconfigure(&budget_of(&settings), self.now);
        let limit = std::slice::from_ref(&settings.rate_limit);
        self.rate_limiter.reconfigure(limit, self.now);
        self.bucket.change(&settings.rate_limit, self.now);
        self.settings = settings;
    }
}

pub fn budget_of(settings: &Settings) -> config::RetryBudget {
    settings
        .retries
        .as_ref()
        .map_or(NO_BUDGET, |retries| retries.budget)
}
