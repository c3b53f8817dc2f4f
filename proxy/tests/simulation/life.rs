//! The life of a request: rate limit, limit, pick, breaker, attempt, record, retry.

use std::sync::Arc;
use std::time::Duration;

use remora_proxy::balance::{LoadGuard, pick};
use remora_proxy::policy::breaker::{BreakerPermit, Outcome, SharedBreaker};
use remora_proxy::policy::config::{self, AttemptEnd};
use remora_proxy::policy::deadline::Deadlines;
use remora_proxy::policy::limit::{Kind, Limits, Permit};
use remora_proxy::policy::rate_limit::{Decision as RateDecision, Facts};
use remora_proxy::policy::retry::{self, Attempts, Decision, Ended};

use crate::models::check_pick;
use crate::upstream::{Reply, View};
use crate::world::{ENDPOINTS, Event, World, budget_of};

pub struct Request {
    pub method: &'static str,
    pub deadlines: Deadlines,
    pub attempts: Attempts,
    pub tried: Vec<usize>,
    /// Attempts so far; the number of the one that is live.
    pub made: u32,
    pub live: Option<Live>,
    pub most: u32,
    pub _in_flight: Permit,
    pub retry_permit: Option<Permit>,
}

pub struct Live {
    pub endpoint: usize,
    pub breaker: Arc<SharedBreaker>,
    /// How often the breaker had opened when a probe began.
    pub probe_of: Option<u64>,
    pub permit: BreakerPermit,
    pub load: LoadGuard,
    pub _in_flight: Permit,
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
    fn client_identity(&self) -> Option<&str> {
        None
    }

    fn remote_address(&self) -> Option<std::net::IpAddr> {
        None
    }
}

impl World {
    pub fn arrive(&mut self) {
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

    pub fn attempt(&mut self, id: u64) {
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
    pub fn admit(&mut self, tried: &[usize]) -> Option<Live> {
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

    pub fn reply(&mut self, id: u64, number: u32, reply: &Reply) {
        let Some(request) = self.requests.get_mut(&id) else {
            self.summary.late += 1;
            return;
        };
        match request.live.take_if(|_| request.made == number) {
            Some(live) => self.ended(id, live, reply.end, reply.retry_after),
            None => self.summary.late += 1,
        }
    }

    pub fn deadline(&mut self, id: u64, number: u32) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if let Some(live) = request.live.take_if(|_| request.made == number) {
            self.ended(id, live, AttemptEnd::Timeout, None);
        }
    }

    pub fn ended(&mut self, id: u64, live: Live, end: AttemptEnd, retry_after: Option<Duration>) {
        let failures = config::Conditions::default_failures();
        let outcome = Outcome::of(end, &failures);
        match outcome {
            Outcome::Success => live.load.answered(self.now),
            Outcome::Failure(_) => live.load.failed(self.now),
        }
        let random = self.random.u64(..);
        live.permit.record(outcome, retry_after, self.now, random);
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
    pub fn again(
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
}

fn acquire(limits: &Arc<Limits>, kind: Kind) -> Option<Permit> {
    let room = limits.max(kind).is_none_or(|max| limits.in_use(kind) < max);
    let permit = limits.try_acquire(kind);
    assert_eq!(permit.is_some(), room, "{}", kind.as_str());
    permit
}
