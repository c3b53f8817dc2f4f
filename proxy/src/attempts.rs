//! The attempts of one request: picks an endpoint, sends, records how it
//! ended, and asks whether there is another.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Response;
use http::request::Parts;

use crate::answer::Reason;
use crate::attempt::{self, Bounds, Failure, Held, Sent};
use crate::body::Incoming;
use crate::body::request::RequestSource;
use crate::body::response::{ResponseBody, Until};
use crate::choice::Choice;
use crate::clock::{self, Timestamp};
use crate::connect::Target;
use crate::exchange::{Exchange, release};
use crate::grpc;
use crate::headers;
use crate::metrics::counters::RetryOutcome;
use crate::pipeline;
use crate::policy::breaker::Outcome;
use crate::policy::config::{AttemptEnd, Retries};
use crate::policy::deadline::{Bound, Deadlines};
use crate::policy::retry::{self, Attempts, Decision, Ended};
use crate::routes::runtime::RoutedRule;
use crate::select::Tried;
use crate::state::{Destination, Endpoint, MeshProtocols, Service};
use crate::tls::Peer;
use crate::upstream::Head;
use crate::wire::Wire;
use crate::worker::Worker;

mod elsewhere;
mod endings;
mod endpoint;
mod hedged;
mod held_answer;
mod instead;
mod later;
mod own_pod;
mod way;

use self::endings::{late, record_failure};
pub use self::endpoint::{MAX_WAITING, Waiting};
pub use self::later::Later;
pub use self::way::RetryPermit;

/// Endpoints that are looked at for one attempt: another request may take the
/// last place of a limit or a probe between the look and the taking.
const PICKS: usize = 8;

/// Where a request goes, and by whose policy.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// That was called: what is about the request is by its policy.
    pub service: &'a Service,
    /// Whose endpoints get it: what is about these is by its policy.
    pub target: &'a Service,
    /// The port there.
    pub destination: Destination,
    /// That led there, and may say more exactly what is about the request.
    pub rule: Option<&'a RoutedRule>,
    /// Room for the target as it is later.
    pub later: &'a Later,
}

/// A request's attempts.
#[derive(Debug)]
pub struct Attempting<'a> {
    worker: &'a Rc<Worker>,
    way: Way<'a>,
    peer: SocketAddr,
    parts: Parts,
    source: RequestSource,
    exchange: Box<Exchange>,
    attempts: Attempts,
    deadlines: Deadlines,
    attempt_began: Timestamp,
    tried: Tried,
    /// Of the retry that is about to be made.
    retry_permit: Option<RetryPermit>,
    /// What of the request chooses its endpoint.
    choice: Option<Box<Choice>>,
    /// How long it may wait for an endpoint, once it does.
    wait_until: Option<Timestamp>,
    /// Hedges so far.
    hedged: u32,
    /// The attempt that was answered is one.
    is_hedge: bool,
}

/// What an attempt came to.
#[allow(clippy::large_enum_variant)] // made once for an attempt and taken apart at once; a box would be an allocation
enum Attempted {
    /// Response headers; whether the policy counts them as a failure is settled.
    Answered(Response<Incoming>, AttemptEnd),
    /// No response.
    Ended(AttemptEnd, String),
    /// Remora's own answer.
    Refused(Reason, String),
    /// The pod itself was picked, and its own inbound rules refused it.
    RefusedByOwnPod(Response<ResponseBody>),
    /// Nobody waits for an answer.
    CallerLeft(String),
}

impl<'a> Attempting<'a> {
    /// Prepares the attempts of a request that all limits have admitted.
    pub fn new(
        worker: &'a Rc<Worker>,
        way: Way<'a>,
        peer: SocketAddr,
        parts: Parts,
        source: RequestSource,
        mut exchange: Box<Exchange>,
    ) -> Box<Self> {
        let attempt_began = exchange.went_on();
        let mut deadlines = Deadlines::new(way.timeouts(), exchange.started());
        let asked = exchange.is_grpc.then(|| grpc::timeout(&parts.headers));
        if let Some(timeout) = asked.flatten() {
            deadlines.shorten(exchange.started().after(timeout));
        }
        let has_session = exchange
            .routed
            .as_ref()
            .is_some_and(|it| it.sessions.is_some());
        let balancing = &way.target.config.policy.load_balancing;
        let pin = exchange.pin.take();
        // A pod that was called by its own address is kept: there is nothing to choose.
        let choice = match way.target.is_direct() {
            true => None,
            false => Choice::of(balancing, pin, has_session, &parts, peer.ip()),
        };
        Box::new(Self {
            worker,
            way,
            peer,
            parts,
            source,
            exchange,
            choice,
            wait_until: None,
            hedged: 0,
            is_hedge: false,
            attempts: Attempts::new(),
            deadlines,
            attempt_began,
            tried: Tried::default(),
            retry_permit: None,
        })
    }

    /// Attempts until one is answered or nothing more may be tried.
    pub async fn run(mut self: Box<Self>) -> Response<ResponseBody> {
        loop {
            let (end, attempted) = match self.attempt().await {
                Attempted::Refused(reason, detail) => {
                    return pipeline::refuse(self.exchange, reason, detail);
                }
                Attempted::RefusedByOwnPod(answer) => {
                    return pipeline::answering(answer, self.exchange);
                }
                Attempted::CallerLeft(detail) => return pipeline::missed(self.exchange, detail),
                Attempted::Answered(response, end) => (end, Ok(response)),
                Attempted::Ended(end, detail) => (end, Err(detail)),
            };
            let retry_after = attempted
                .as_ref()
                .ok()
                .and_then(|response| headers::retry_after(response.headers()));
            match self.decide(end, retry_after) {
                Decision::Again { after, free } => {
                    if let Ok(response) = attempted {
                        self.let_go(response);
                    }
                    self.exchange.again(free);
                    // In a box: it is rare, and all would carry its size.
                    Box::pin(self.pause(after, free, end)).await;
                }
                Decision::No(why) => {
                    let is_good = attempted.is_ok() && why == retry::Reason::NotListed;
                    self.exchange.retry_ended(is_good);
                    self.record_service_failure(end, retry_after);
                    return match attempted {
                        Ok(response) => self.give(response),
                        Err(detail) => self.give_up(end, detail),
                    };
                }
            }
        }
    }

    fn decide(&mut self, end: AttemptEnd, retry_after: Option<Duration>) -> Decision {
        // A pod that was called by its own address has no other to turn to.
        if self.way.target.is_direct() {
            return Decision::No(retry::Reason::Off);
        }
        let policy = self.way.retries();
        let ordinary = matches!(end, AttemptEnd::Response { .. })
            && !policy.is_some_and(|retries| retries.on.matches(end));
        if ordinary {
            return Decision::No(retry::Reason::NotListed);
        }
        let request = self.request(policy);
        let now = clock::now();
        let ended = Ended {
            end,
            body_replayable: self.source.replayable(),
            response_started: false,
            retry_after,
            time_left: self.deadlines.time_left(now),
        };
        let before = self.attempts;
        let mut attempts = before;
        let decision = attempts.decide(policy, &request, &ended, crate::random::next());
        self.attempts = attempts;
        let Decision::Again { free: false, .. } = decision else {
            return decision;
        };
        if !self.take_retry() {
            let outcomes = &self.exchange.traffic().retry_outcomes;
            outcomes.count(RetryOutcome::OverLimit);
            self.attempts = before;
            return Decision::No(retry::Reason::RetryLimit);
        }
        if !self.way.budget().try_spend(now) {
            self.give_retry_back();
            self.attempts = before;
            let outcomes = &self.exchange.traffic().retry_outcomes;
            outcomes.count(RetryOutcome::BudgetExhausted);
            return Decision::No(retry::Reason::BudgetExhausted);
        }
        decision
    }

    /// As the rules of retrying see it.
    fn request(&self, policy: Option<&Retries>) -> retry::Request<'_> {
        retry::Request::of(&self.parts, self.exchange.is_grpc, policy)
    }

    async fn attempt(&mut self) -> Attempted {
        // The first follows on the request's head without a wait.
        let now = if self.exchange.attempts == 0 {
            self.attempt_began
        } else {
            clock::now()
        };
        if self
            .deadlines
            .time_left(now)
            .is_some_and(|left| left.is_zero())
        {
            return Attempted::Refused(Reason::Timeout, late(Bound::Request));
        }
        // Of an attempt before, at the pod itself.
        self.exchange.admission = None;
        let endpoint = match self.find_endpoint(now).await {
            Ok(endpoint) => endpoint,
            Err((reason, detail)) => return Attempted::Refused(reason, detail),
        };
        // It may have waited for one.
        let now = self.wait_until.map_or(now, |_| clock::now());
        self.exchange.goes_on(now);
        self.note_tried(endpoint);
        self.attempt_began = now;
        self.exchange.attempts += 1;
        if let Some(answer) = self.ask_own_pod(endpoint) {
            self.exchange.live = None;
            return Attempted::RefusedByOwnPod(answer);
        }
        endpoint.runtime.attempts.fetch_add(1, Relaxed);
        self.is_hedge = false;
        if let Some(hedges) = self.hedges(now) {
            // In a box: few policies have any, and all would carry its size.
            return Box::pin(self.race(endpoint, hedges)).await;
        }
        let target = self.target(endpoint);
        self.pass_deadline_on(now);
        let bounds = Bounds {
            until_headers: self.deadlines.attempt(now).until_headers,
            idle: self.way.timeouts().idle,
        };
        match self.send(target, endpoint.config.sidecar, bounds).await {
            Ok((response, held)) => {
                if self.note_answer(&response, held) {
                    return Box::pin(self.hold(endpoint, response)).await;
                }
                self.answered(endpoint, response)
            }
            Err(failure) => self.failed(endpoint, failure),
        }
    }

    fn target(&self, endpoint: &'a Endpoint) -> Target<'a> {
        let target = self.way.target;
        let address = endpoint.config.address_for(self.way.destination);
        // The connection to the pod itself passes no redirect, so no sidecar.
        let mesh = if self.worker.shared.is_own_pod(address.ip()) {
            MeshProtocols::default()
        } else {
            endpoint.config.mesh
        };
        Target {
            service: &target.runtime,
            endpoint: &endpoint.runtime,
            address,
            wire: Wire::of(&self.parts, mesh),
            secured: self.worker.shared.secured(&endpoint.config, address),
            outbound: &target.config.policy.outbound,
        }
    }

    /// Without a hop in between, the application hears of us from us.
    fn own_identity(&self, address: SocketAddr) -> Option<Arc<Peer>> {
        let shared = &self.worker.shared;
        shared
            .is_own_pod(address.ip())
            .then(|| shared.tls.own().clone())
            .flatten()
    }

    /// gRPC: the next hop is told what is left of the caller's deadline, or of
    /// the policy's where that is earlier.
    fn pass_deadline_on(&mut self, now: Timestamp) {
        if self.exchange.is_grpc
            && let Some(left) = self.deadlines.time_left(now)
        {
            let value = grpc::timeout_value(left);
            self.parts.headers.insert(grpc::TIMEOUT, value);
        }
    }

    async fn send(
        &self,
        target: Target<'_>,
        has_sidecar: bool,
        bounds: Bounds,
    ) -> Result<(Response<Incoming>, Held), Failure> {
        let own = self.own_identity(target.address);
        let sent = Sent {
            head: Head {
                parts: &self.parts,
                attempt: Some(self.exchange.attempts),
                identity: own.as_ref().map(|own| &own.header),
            },
            source: &self.source,
            caller: self.exchange.caller(),
            safe: retry::is_idempotent(self.parts.method.as_str()),
            bounds,
            began: self.attempt_began,
        };
        attempt::send(self.worker, &target, has_sidecar, &sent).await
    }

    fn answered(&mut self, endpoint: &Endpoint, mut response: Response<Incoming>) -> Attempted {
        let now = clock::now();
        let said = response
            .headers()
            .get(headers::REASON)
            .and_then(|word| Reason::from_word(word.as_bytes()));
        let said = said.filter(|_| endpoint.config.sidecar);
        if said.is_none() {
            headers::strip_ours(response.headers_mut());
        }
        let end = match said {
            Some(Reason::ConnectFailed) => AttemptEnd::ConnectFailure,
            // The application broke off: its sidecar only tells so.
            Some(Reason::RetriesExhausted) => AttemptEnd::Reset,
            _ => AttemptEnd::Response {
                status: response.status().as_u16(),
                grpc: self
                    .exchange
                    .live
                    .as_ref()
                    .and_then(|live| live.grpc_status),
            },
        };
        let is_failure = self.is_failure(end);
        if said.is_none() && !is_failure && !self.is_hedge {
            self.note_latency(now.since(self.attempt_began));
        }
        let exchange = &mut *self.exchange;
        let Some(live) = &mut exchange.live else {
            // Never so: an attempt that is answered is alive.
            return Attempted::Answered(response, end);
        };
        if let Some(breaker) = &mut live.breaker {
            breaker.answered(now);
        }
        if said.is_some() && matches!(end, AttemptEnd::Response { .. }) {
            // Remora refused it at the target: never a failure of the endpoint.
            live.breaker = None;
            live.load.failed(now);
            exchange.forget_service_breakers();
        } else if is_failure {
            let retry_after = headers::retry_after(response.headers());
            record_failure(live, end, retry_after, now);
        } else {
            live.load.answered(now);
            // A long answer must not keep the place of a probe; how a gRPC call
            // went is only known later.
            if !exchange.is_grpc
                && let Some(probe) = live.breaker.take_if(|permit| permit.is_probe())
            {
                probe.record(Outcome::Success, None, now, crate::random::next());
            }
        }
        Attempted::Answered(response, end)
    }

    fn is_failure(&self, end: AttemptEnd) -> bool {
        let policy = &self.way.target.config.policy;
        policy
            .circuit_breaker
            .as_ref()
            .is_some_and(|breaker| breaker.trip.failures.matches(end))
    }

    /// A response that a retry follows: its connection is kept where it has ended already.
    fn let_go(&mut self, response: Response<Incoming>) {
        let mut body = response.into_body();
        let connection = body.take_connection();
        drop(body);
        if let Some(live) = self.exchange.live.take() {
            release(self.worker, live.held, connection, clock::now());
        }
    }

    fn give(mut self: Box<Self>, response: Response<Incoming>) -> Response<ResponseBody> {
        let now = clock::now();
        let said = response
            .headers()
            .get(headers::REASON)
            .and_then(|word| Reason::from_word(word.as_bytes()));
        if let Some(reason) = said.filter(|reason| self.exchange.may_fall_back(*reason)) {
            return self.refused_there(response, reason);
        }
        self.source.commit();
        let (mut parts, body) = response.into_parts();
        self.exchange.answered(parts.status, said, now);
        if !self.exchange.is_grpc {
            // As for an endpoint's: a long answer must not keep the place of a probe.
            self.exchange.end_probes(now);
        }
        if let Some(routed) = &self.exchange.routed {
            routed.change_answer(self.way.target, &mut parts.headers);
        }
        if let Some(choice) = &self.choice {
            choice.tell(self.way.target, &mut parts.headers);
        }
        let until = self.until(parts.status);
        Response::from_parts(parts, ResponseBody::relayed(body, self.exchange, until))
    }

    /// What ends the answer's body. Of a tunnel, and of a gRPC stream, nothing
    /// but silence.
    fn until(&self, status: http::StatusCode) -> Until {
        let is_tunnel = status == http::StatusCode::SWITCHING_PROTOCOLS
            || (self.parts.method == http::Method::CONNECT && status.is_success());
        let deadline = if is_tunnel || self.exchange.is_grpc {
            None
        } else {
            self.deadlines.attempt(self.attempt_began).until_end
        };
        let idle = self.way.timeouts().idle;
        Until {
            deadline,
            idle,
            request: idle.map(|_| self.source.clone()),
        }
    }
}
