//! The clock, the events and the life of a request.
//!
//! Everything happens on one thread, in the order of virtual time; chance comes
//! from the seed alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use remora_proxy::balance::{LoadGuard, pick};
use remora_proxy::clock::Timestamp;
use remora_proxy::policy::breaker::{
    BreakerPermit, BreakerSet, Change, Journal, Outcome, SharedBreaker, State,
};
use remora_proxy::policy::budget::RetryBudget;
use remora_proxy::policy::config::{self, AttemptEnd};
use remora_proxy::policy::deadline::Deadlines;
use remora_proxy::policy::limit::{Kind, Limits, Permit};
use remora_proxy::policy::rate_limit::{Decision as RateDecision, Facts, RateLimiter};
use remora_proxy::policy::retry::{self, Attempts, Decision, Ended};

use crate::models::{Bucket, LONGEST, Ledger, check_pick, may_be_out};
use crate::settings::Settings;
use crate::upstream::{Endpoint, Mood, Reply, View};

const ENDPOINTS: usize = 6;
const ARRIVALS: usize = 300;
/// Stands for the budget of a policy without retries: none is ever asked of it.
const NO_BUDGET: config::RetryBudget = config::RetryBudget {
    percent: 0,
    min_per_second: 0,
    window: Duration::from_secs(2),
};

/// What happened, for the sweep to know that it happened at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub answered: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub retried: u64,
    pub resent: u64,
    pub budget_refused: u64,
    pub overloaded: u64,
    pub rate_limited: u64,
    pub no_endpoint: u64,
    pub probes: u64,
    pub late: u64,
    pub vanished: u64,
    pub opened: u64,
    pub closed: u64,
    pub would_open: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.retried += other.retried;
        self.resent += other.resent;
        self.budget_refused += other.budget_refused;
        self.overloaded += other.overloaded;
        self.rate_limited += other.rate_limited;
        self.no_endpoint += other.no_endpoint;
        self.probes += other.probes;
        self.late += other.late;
        self.vanished += other.vanished;
        self.opened += other.opened;
        self.closed += other.closed;
        self.would_open += other.would_open;
    }
}

#[derive(Debug)]
enum Event {
    Arrive,
    Attempt(u64),
    Reply(u64, u32, Reply),
    Deadline(u64, u32),
    Cancel(u64),
    Mischief,
}

struct Request {
    method: &'static str,
    deadlines: Deadlines,
    attempts: Attempts,
    tried: Vec<usize>,
    /// Attempts so far; the number of the one that is live.
    made: u32,
    live: Option<Live>,
    most: u32,
    _in_flight: Permit,
    retry_permit: Option<Permit>,
}

struct Live {
    endpoint: usize,
    breaker: Arc<SharedBreaker>,
    /// How often the breaker had opened when a probe began.
    probe_of: Option<u64>,
    permit: BreakerPermit,
    load: LoadGuard,
    _in_flight: Permit,
}

struct Anything;

impl Facts for Anything {
    fn method(&self) -> &str {
        "GET"
    }
    fn path(&self) -> &str {
        "/"
    }
    fn header(&self, _name: &str) -> Option<&[u8]> {
        None
    }
    fn remote_address(&self) -> Option<std::net::IpAddr> {
        None
    }
}

/// Tells how to play a seed again that broke a promise.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("play it again alone with REMORA_SEED={}", self.0);
        }
    }
}

/// One service, its endpoints, one sidecar.
pub struct World {
    _seed: Seed,
    random: Rng,
    now: Timestamp,
    events: BTreeMap<(Timestamp, u64), Event>,
    last_id: u64,
    settings: Settings,
    journal: Arc<Journal>,
    set: BreakerSet,
    limits: Arc<Limits>,
    budget: RetryBudget,
    rate_limiter: RateLimiter,
    endpoints: Vec<Endpoint>,
    requests: BTreeMap<u64, Request>,
    bucket: Bucket,
    ledger: Ledger,
    summary: Summary,
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

    fn run(&mut self) {
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

    fn schedule(&mut self, at: Timestamp, event: Event) {
        self.last_id += 1;
        self.events.insert((at, self.last_id), event);
    }

    fn arrive(&mut self) {
        let decision = self.rate_limiter.check(&Anything, self.now);
        self.bucket
            .check(decision == RateDecision::Admitted, self.now);
        if decision != RateDecision::Admitted {
            self.summary.rate_limited += 1;
            return;
        }
        let Some(permit) = acquire(&self.limits, Kind::Requests) else {
            self.summary.overloaded += 1;
            return;
        };
        self.budget.request(self.now);
        self.ledger.request(self.now);
        self.last_id += 1;
        let id = self.last_id;
        let request = Request {
            method: if self.random.u8(..4) == 0 {
                "POST"
            } else {
                "GET"
            },
            deadlines: Deadlines::new(&self.settings.timeouts, self.now),
            attempts: Attempts::new(),
            tried: Vec::new(),
            made: 0,
            live: None,
            most: 0,
            _in_flight: permit,
            retry_permit: None,
        };
        self.requests.insert(id, request);
        // The caller has less patience than the silent endpoints: nothing stays for ever.
        let patience = if self.random.u8(..8) == 0 {
            self.random.u64(..200)
        } else {
            self.random.u64(10_000..30_000)
        };
        self.schedule(
            self.now.after(Duration::from_millis(patience)),
            Event::Cancel(id),
        );
        self.attempt(id);
    }

    fn attempt(&mut self, id: u64) {
        let Some(mut request) = self.requests.remove(&id) else {
            return;
        };
        let Some(live) = self.admit(&request.tried) else {
            return;
        };
        request.made += 1;
        request.tried.push(live.endpoint);
        let bounds = request.deadlines.attempt(self.now);
        if let Some(next) = bounds.until_headers {
            assert!(request.deadlines.request().is_none_or(|end| next.at <= end));
            self.schedule(next.at, Event::Deadline(id, request.made));
        }
        if let Some(reply) = self.endpoints[live.endpoint].reply(&mut self.random) {
            self.schedule(
                self.now.after(reply.after),
                Event::Reply(id, request.made, reply),
            );
        }
        request.live = Some(live);
        self.requests.insert(id, request);
    }

    /// Endpoint, breaker, limit; `None` ends the request.
    fn admit(&mut self, tried: &[usize]) -> Option<Live> {
        let mut refused = tried.to_vec();
        // Once more than there are endpoints: a breaker may refuse what it just offered.
        for _ in 0..=ENDPOINTS {
            let listed = (0..ENDPOINTS)
                .filter(|at| self.endpoints[*at].is_listed)
                .collect();
            let view = View {
                endpoints: &self.endpoints,
                listed,
                tried: &refused,
                now: self.now,
            };
            let picked = pick(&view, self.random.u64(..));
            check_pick(&view, picked);
            let Some(at) = picked.map(|picked| view.listed[picked]) else {
                break;
            };
            let endpoint = &self.endpoints[at];
            let Some(permit) = endpoint.breaker.try_admit(self.now) else {
                refused.push(at);
                continue;
            };
            let opened = endpoint.breaker.describe(self.now).ejections;
            let probe_of = permit.is_probe().then_some(opened);
            if probe_of.is_some() {
                self.summary.probes += 1;
                self.check_probes(&endpoint.breaker, opened);
            }
            let Some(in_flight) = acquire(&endpoint.limits, Kind::Requests) else {
                self.summary.overloaded += 1;
                return None;
            };
            return Some(Live {
                endpoint: at,
                breaker: Arc::clone(&endpoint.breaker),
                probe_of,
                permit,
                load: endpoint.load.start(self.now),
                _in_flight: in_flight,
            });
        }
        self.summary.no_endpoint += 1;
        None
    }

    fn reply(&mut self, id: u64, number: u32, reply: &Reply) {
        let Some(request) = self.requests.get_mut(&id) else {
            self.summary.late += 1;
            return;
        };
        match request.live.take_if(|_| request.made == number) {
            Some(live) => self.ended(id, live, reply.end, reply.retry_after),
            None => self.summary.late += 1,
        }
    }

    fn deadline(&mut self, id: u64, number: u32) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if let Some(live) = request.live.take_if(|_| request.made == number) {
            self.ended(id, live, AttemptEnd::Timeout, None);
        }
    }

    fn ended(&mut self, id: u64, live: Live, end: AttemptEnd, retry_after: Option<Duration>) {
        let failures = config::Conditions::default_failures();
        let outcome = Outcome::of(end, &failures);
        match outcome {
            Outcome::Success => live.load.answered(self.now),
            Outcome::Failure(_) => live.load.failed(self.now),
        }
        let random = self.random.u64(..);
        if live.permit.record(outcome, retry_after, self.now, random) == Some(State::Closed) {
            self.endpoints[live.endpoint].load.forget();
        }
        let Some(mut request) = self.requests.remove(&id) else {
            return;
        };
        request.retry_permit = None;
        if outcome == Outcome::Success {
            self.summary.answered += 1;
            return;
        }
        match self.again(&mut request, end, retry_after) {
            Some(after) => {
                self.requests.insert(id, request);
                self.schedule(self.now.after(after), Event::Attempt(id));
            }
            None => self.summary.failed += 1,
        }
    }

    /// Whether another attempt follows, and after which wait.
    fn again(
        &mut self,
        request: &mut Request,
        end: AttemptEnd,
        retry_after: Option<Duration>,
    ) -> Option<Duration> {
        let policy = self.settings.retries.as_ref();
        request.most = request.most.max(policy.map_or(0, |policy| policy.attempts));
        let facts = retry::Request {
            method: request.method,
            grpc_method: None,
            has_idempotency_header: false,
        };
        let ended = Ended {
            end,
            body_replayable: self.random.u8(..20) > 0,
            response_started: false,
            retry_after,
            time_left: request.deadlines.time_left(self.now),
        };
        let random = self.random.u64(..);
        let Decision::Again { after, free } =
            request.attempts.decide(policy, &facts, &ended, random)
        else {
            return None;
        };
        if request.method == "POST" {
            assert!(retry::never_reached_application(end), "repeats a payment");
        }
        assert!(
            request.made <= retry::MAX_RESENDS + request.most,
            "attempts without end"
        );
        assert!(ended.time_left.is_none_or(|left| after < left));
        if free {
            self.summary.resent += 1;
            return Some(after);
        }
        request.retry_permit = Some(acquire(&self.limits, Kind::Retries)?);
        if !self.budget.try_spend(self.now) {
            self.summary.budget_refused += 1;
            return None;
        }
        self.ledger.retry(&budget_of(&self.settings), self.now);
        self.summary.retried += 1;
        Some(after)
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
            6 => self.endpoints[at].is_terminating ^= true,
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

    fn members_changed(&mut self) {
        let names = self.endpoints.iter().filter(|it| it.is_listed);
        self.set
            .set_members(names.map(|it| it.name.as_str()), self.now);
        for endpoint in self.endpoints.iter_mut().filter(|it| it.is_listed) {
            endpoint.breaker = self.set.endpoint(&endpoint.name, self.now);
        }
    }

    fn configure(&mut self, settings: Settings) {
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

    /// After every event.
    fn check(&self) {
        let trip = self.settings.trip.as_ref();
        let listed: Vec<_> = self.endpoints.iter().filter(|it| it.is_listed).collect();
        let out = listed
            .iter()
            .filter(|it| {
                matches!(
                    it.breaker.describe(self.now).state,
                    State::Open | State::HalfOpen
                )
            })
            .count();
        assert!(
            out <= may_be_out(trip, listed.len()),
            "{out} of {} are out",
            listed.len()
        );
        assert_eq!(
            self.set.ejected() as usize,
            out,
            "the floor's books are wrong"
        );
        assert_eq!(
            self.limits.in_use(Kind::Requests) as usize,
            self.requests.len()
        );
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let live = self.requests.values().filter_map(|it| it.live.as_ref());
            let in_flight = live.filter(|live| live.endpoint == at).count();
            assert_eq!(endpoint.limits.in_use(Kind::Requests) as usize, in_flight);
            assert_eq!(endpoint.load.in_flight() as usize, in_flight);
        }
    }

    /// Before another probe of this opening begins, fewer than `probes` are in flight.
    fn check_probes(&self, breaker: &Arc<SharedBreaker>, opened: u64) {
        let live = self.requests.values().filter_map(|it| it.live.as_ref());
        let in_flight = live
            .filter(|live| live.probe_of == Some(opened) && Arc::ptr_eq(&live.breaker, breaker))
            .count();
        let probes = self.settings.trip.as_ref().map_or(0, |trip| trip.probes);
        assert!(in_flight < probes as usize, "{in_flight} probes already");
    }

    fn check_nothing_is_held(&self) {
        assert_eq!(self.requests.len(), 0);
        for kind in Kind::ALL {
            assert_eq!(self.limits.in_use(kind), 0, "{}", kind.as_str());
        }
        let changes = self.journal.since(0);
        let in_order = |pair: &[Change]| pair[0].sequence + 1 == pair[1].sequence;
        assert!(changes.windows(2).all(in_order));
    }

    /// When all is well again, everything is answered and every breaker closes.
    fn check_recovery(&mut self) {
        for endpoint in &mut self.endpoints {
            endpoint.mood = Mood::Well;
            endpoint.is_terminating = false;
            endpoint.is_listed = true;
        }
        self.members_changed();
        let trip = self.settings.trip.clone();
        self.configure(Settings {
            trip,
            ..Settings::generous()
        });
        self.now = self.now.after(LONGEST);
        let before = self.summary.clone();
        for step in 0..200 {
            self.schedule(
                self.now.after(Duration::from_millis(100 * step)),
                Event::Arrive,
            );
        }
        self.run();
        let answered = self.summary.answered - before.answered;
        let cancelled = self.summary.cancelled - before.cancelled;
        assert_eq!(answered + cancelled, 200, "not everything was answered");
        for endpoint in &self.endpoints {
            let told = endpoint.breaker.describe(self.now);
            assert!(
                matches!(told.state, State::Closed | State::WouldOpen),
                "{told:?}"
            );
        }
    }
}

fn acquire(limits: &Arc<Limits>, kind: Kind) -> Option<Permit> {
    let room = limits.max(kind).is_none_or(|max| limits.in_use(kind) < max);
    let permit = limits.try_acquire(kind);
    assert_eq!(permit.is_some(), room, "{}", kind.as_str());
    permit
}

fn budget_of(settings: &Settings) -> config::RetryBudget {
    settings
        .retries
        .as_ref()
        .map_or(NO_BUDGET, |retries| retries.budget)
}
