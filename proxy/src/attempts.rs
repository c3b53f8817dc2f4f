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
use crate::clock::{self, Timestamp};
use crate::connect::Target;
use crate::exchange::{Exchange, LiveAttempt, release};
use crate::grpc;
use crate::headers;
use crate::pipeline;
use crate::policy::breaker::Outcome;
use crate::policy::config::AttemptEnd;
use crate::policy::deadline::{Bound, Deadlines};
use crate::policy::limit::{Kind, Permit};
use crate::policy::retry::{self, Attempts, Decision, Ended};
use crate::routes::runtime::RoutedRule;
use crate::select::{self, NoPick, Tried};
use crate::state::{Destination, Endpoint, MeshProtocols, Service};
use crate::upstream::Head;
use crate::wire::Wire;
use crate::worker::Worker;

mod endings;
mod held_answer;
mod own_pod;
mod way;

use self::endings::{late, record_failure};

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
    retry_permit: Option<Permit>,
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
        exchange: Box<Exchange>,
    ) -> Box<Self> {
        let attempt_began = exchange.started();
        let mut deadlines = Deadlines::new(way.timeouts(), exchange.started());
        let asked = exchange.is_grpc.then(|| grpc::timeout(&parts.headers));
        if let Some(timeout) = asked.flatten() {
            deadlines.shorten(exchange.started().after(timeout));
        }
        Box::new(Self {
            worker,
            way,
            peer,
            parts,
            source,
            exchange,
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
                    let traffic = self.exchange.traffic();
                    let counter = if free {
                        &traffic.resends
                    } else {
                        &traffic.retries
                    };
                    counter.fetch_add(1, Relaxed);
                    if !after.is_zero() {
                        tokio::time::sleep(after).await;
                    }
                }
                Decision::No(_) => {
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
        let header = policy.and_then(|retries| retries.idempotency_header.as_deref());
        let request = retry::Request {
            method: self.parts.method.as_str(),
            grpc_method: self.exchange.is_grpc.then(|| self.parts.uri.path()),
            has_idempotency_header: header
                .is_some_and(|name| self.parts.headers.contains_key(name)),
        };
        let now = clock::now();
        let ended = Ended {
            end,
            body_replayable: self.source.replayable(),
            response_started: false,
            retry_after,
            time_left: self.deadlines.time_left(now),
        };
        let before = self.attempts;
        let decision = self
            .attempts
            .decide(policy, &request, &ended, crate::random::next());
        let Decision::Again { free: false, .. } = decision else {
            return decision;
        };
        if !self.take_retry() {
            self.attempts = before;
            return Decision::No(retry::Reason::RetryLimit);
        }
        if !self.way.budget().try_spend(now) {
            self.give_retry_back();
            self.attempts = before;
            self.exchange
                .traffic()
                .budget_exhausted
                .fetch_add(1, Relaxed);
            return Decision::No(retry::Reason::BudgetExhausted);
        }
        decision
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
        let endpoint = match self.take_endpoint(now) {
            Ok(endpoint) => endpoint,
            Err((reason, detail)) => return Attempted::Refused(reason, detail),
        };
        let endpoint = &endpoint;
        self.tried.add(endpoint);
        self.attempt_began = now;
        self.exchange.attempts += 1;
        if let Some(answer) = self.ask_own_pod(endpoint) {
            self.exchange.live = None;
            return Attempted::RefusedByOwnPod(answer);
        }
        let address = endpoint.config.address_for(self.way.destination);
        // The connection to the pod itself passes no redirect, so no sidecar.
        let mesh = if self.worker.shared.is_own_pod(address.ip()) {
            MeshProtocols::default()
        } else {
            endpoint.config.mesh
        };
        let target = Target {
            service: &self.way.target.runtime,
            endpoint: &endpoint.runtime,
            address,
            wire: Wire::of(&self.parts, mesh),
            secured: self.worker.shared.secured(&endpoint.config, address),
            outbound: &self.way.target.config.policy.outbound,
        };
        self.pass_deadline_on(now);
        let bounds = Bounds {
            until_headers: self.deadlines.attempt(now).until_headers,
            idle: self.way.timeouts().idle,
        };
        endpoint.runtime.attempts.fetch_add(1, Relaxed);
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
        // Without a hop in between, the application hears of us from us.
        let is_own_pod = self.worker.shared.is_own_pod(target.address.ip());
        let own = is_own_pod
            .then(|| self.worker.shared.tls.own().clone())
            .flatten();
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

    fn take_endpoint(&mut self, now: Timestamp) -> Result<Endpoint, (Reason, String)> {
        if let Some(endpoint) = self.take_session(now) {
            return Ok(endpoint.clone());
        }
        let Way {
            target,
            destination,
            ..
        } = self.way;
        // The first pick follows on the request's head; until a later one endpoints
        // may have come and gone.
        let current = (self.exchange.attempts > 0)
            .then(|| {
                self.worker
                    .shared
                    .mesh
                    .load()
                    .service(&target.name)
                    .cloned()
            })
            .flatten();
        let target = current.as_deref().unwrap_or(target);
        let name = &target.runtime.name;
        let config = &self.worker.shared.config;
        for _ in 0..PICKS {
            let random = crate::random::next();
            let source = Some(self.peer.ip());
            let picked = select::pick(
                target,
                destination.port,
                source,
                &config.node,
                &self.tried,
                now,
                random,
            );
            let endpoint = match picked {
                Ok(endpoint) => endpoint,
                Err(NoPick::Overloaded) => {
                    let detail = format!(
                        "circuitBreaker.perEndpoint.maxRequests of every endpoint of {name} is reached"
                    );
                    return Err((Reason::Overloaded, detail));
                }
                Err(NoPick::NoEndpoints) => {
                    let detail = format!(
                        "{name} has no endpoint for port {} that is ready",
                        destination.port
                    );
                    return Err((Reason::NoEndpoints, detail));
                }
            };
            if let Some(live) = self.take_places(endpoint, now) {
                self.exchange.live = Some(live);
                self.note_served(endpoint);
                return Ok(endpoint.clone());
            }
        }
        Err((
            Reason::Overloaded,
            format!("every endpoint of {name} that was looked at is at its limits"),
        ))
    }

    fn take_places(&mut self, endpoint: &Endpoint, now: Timestamp) -> Option<LiveAttempt> {
        let permit = endpoint.runtime.limits.try_acquire(Kind::Requests)?;
        let retry_permits = match self.retry_permit.take() {
            None => None,
            Some(of_service) => match endpoint.runtime.limits.try_acquire(Kind::Retries) {
                Some(of_endpoint) => Some((of_service, of_endpoint)),
                None => {
                    self.retry_permit = Some(of_service);
                    return None;
                }
            },
        };
        let Some(breaker) = endpoint.runtime.breaker.try_admit(now) else {
            self.retry_permit = retry_permits.map(|(of_service, _)| of_service);
            return None;
        };
        #[cfg(test)]
        crate::simulation::book::picked(
            &self.worker.shared.mesh,
            endpoint,
            self.parts.headers.get("x-id"),
            now,
        );
        Some(LiveAttempt {
            endpoint: Arc::clone(&endpoint.runtime),
            held: None,
            grpc_status: None,
            breaker: Some(breaker),
            body_failures: self.body_failures(),
            load: endpoint.runtime.load.start(now),
            permit,
            retry_permits,
        })
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
        let exchange = &mut *self.exchange;
        let Some(live) = &mut exchange.live else {
            // Never so: an attempt that is answered is alive.
            return Attempted::Answered(response, end);
        };
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
        self.source.commit();
        let (mut parts, body) = response.into_parts();
        let said = parts
            .headers
            .get(headers::REASON)
            .and_then(|word| Reason::from_word(word.as_bytes()));
        self.exchange.answered(parts.status, said, now);
        if !self.exchange.is_grpc {
            // As for an endpoint's: a long answer must not keep the place of a probe.
            self.exchange.end_probes(now);
        }
        if let Some(routed) = &self.exchange.routed {
            routed.change_answer(self.way.target, &mut parts.headers);
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
