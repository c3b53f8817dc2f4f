//! One request, from its head to the end of its answer: what it holds of
//! everybody's limits, and what is told to whom when it ends.
//!
//! Everything is given back on drop, so a request that its caller cancels at
//! any moment leaves nothing counted.

mod breakers;
mod failures;
mod fallback;
mod noted;
mod retried;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Method, Response, StatusCode, Uri};

use crate::access_log::{self, Line};
use crate::answer::Reason;
use crate::attempt::Held;
use crate::attempts::RetryPermit;
use crate::balance::LoadGuard;
use crate::caller::Caller;
use crate::clock::{self, Timestamp};
use crate::grpc;
use crate::http1::connection::Connection;
use crate::metrics::counters::{RetryOutcome, Traffic};
use crate::policy::admission;
use crate::policy::breaker::{BreakerPermit, Outcome};
use crate::policy::limit::Permit;
use crate::routes::routed::Routed;
use crate::runtime::{EndpointRuntime, ServiceRuntime};
use crate::tls::Peer;
use crate::worker::Worker;

pub use self::failures::BodyFailures;

/// Whose request it is.
#[derive(Clone, Debug)]
pub enum Side {
    /// Of the pod, to this service.
    Outbound(Arc<ServiceRuntime>),
    /// To the pod, on one of its ports.
    Inbound(Arc<ServiceRuntime>),
}

impl Side {
    /// The counters of the service or port.
    pub fn runtime(&self) -> &Arc<ServiceRuntime> {
        match self {
            Self::Outbound(runtime) | Self::Inbound(runtime) => runtime,
        }
    }

    /// `outbound` or `inbound`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Outbound(_) => "outbound",
            Self::Inbound(_) => "inbound",
        }
    }

    fn traffic(&self) -> &Traffic {
        &self.runtime().traffic
    }
}

/// How a response's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// To its last byte.
    Whole,
    /// The upstream broke off.
    UpstreamBroke,
    /// A deadline of the policy passed.
    TimedOut,
    /// The caller went away.
    CallerLeft,
}

/// What one attempt holds while it lives.
#[derive(Debug)]
pub struct LiveAttempt {
    /// Whom it was sent to.
    pub endpoint: Arc<EndpointRuntime>,
    /// What it holds of its connection, once it is on one.
    pub held: Option<Held>,
    /// `grpc-status`, where the answer's head carried it.
    pub grpc_status: Option<u8>,
    /// Told how the attempt ended; without an answer it counts as cancelled.
    pub breaker: Option<BreakerPermit>,
    /// Which ends of a body the policy counts as failures.
    pub body_failures: BodyFailures,
    /// Its place among the endpoint's load.
    pub load: LoadGuard,
    /// Its place among the endpoint's requests.
    pub permit: Permit,
    /// Its place among the retries in flight, of the service and the endpoint.
    pub retry_permits: Option<(RetryPermit, Permit)>,
}

/// One request, from its head to the end of its answer. In a box: it is handed
/// on many times, and moving it each time costs more than one allocation.
#[derive(Debug)]
pub struct Exchange {
    worker: Rc<Worker>,
    caller: Caller,
    side: Side,
    peer: SocketAddr,
    started: Timestamp,
    /// Its start, or the end of what has held it up since.
    went_on: Timestamp,
    answered: Option<Timestamp>,
    /// Kept only where there is an access log.
    head: Option<(Method, Uri)>,
    /// The same: who the caller has shown to be.
    identity: Option<Arc<Peer>>,
    status: Option<StatusCode>,
    reason: Option<Reason>,
    /// It is a gRPC call.
    pub is_grpc: bool,
    grpc_status: Option<u8>,
    /// Attempts made so far.
    pub attempts: u32,
    /// Its last attempt is a retry by the policy.
    is_retry: bool,
    /// Its place among the service's requests.
    pub permit: Option<Permit>,
    /// Its place among those that the pod's application is given.
    pub admission: Option<admission::Permit>,
    /// The service's breaker, where it has one.
    pub service_breaker: Option<BreakerPermit>,
    /// The attempt whose answer is being given.
    pub live: Option<LiveAttempt>,
    /// What it holds where it goes by a rule of its service's routes.
    pub routed: Option<Box<Routed>>,
    /// The pod that the request asks for, where a policy may let it.
    pub pin: Option<Box<str>>,
    /// One bit for each reason that a fallback has an answer for.
    falls_back: u16,
    /// What the fallback stands in for.
    instead_of: Option<Reason>,
    endpoint_name: Option<Arc<str>>,
    settled: bool,
}

impl Exchange {
    /// A request whose head has just come in whole.
    pub fn new(
        worker: &Rc<Worker>,
        caller: Caller,
        side: Side,
        peer: SocketAddr,
        started: Timestamp,
    ) -> Box<Self> {
        side.traffic().in_flight.fetch_add(1, Relaxed);
        Box::new(Self {
            worker: Rc::clone(worker),
            caller,
            side,
            peer,
            started,
            went_on: started,
            answered: None,
            head: None,
            identity: None,
            status: None,
            reason: None,
            is_grpc: false,
            grpc_status: None,
            attempts: 0,
            is_retry: false,
            permit: None,
            admission: None,
            service_breaker: None,
            live: None,
            routed: None,
            pin: None,
            falls_back: 0,
            instead_of: None,
            endpoint_name: None,
            settled: false,
        })
    }

    /// Who asked.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// When its head had come in.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// Counters of its service or port.
    pub fn traffic(&self) -> &Traffic {
        self.side.traffic()
    }

    /// The upstream's headers go to the caller.
    pub fn answered(&mut self, status: StatusCode, reason: Option<Reason>, now: Timestamp) {
        self.status = Some(status);
        self.reason = reason;
        self.answered = Some(now);
        let of_backend = self.routed.as_mut().map(|it| &mut it.backend_breaker);
        let breakers = of_backend.into_iter().chain([&mut self.service_breaker]);
        breakers.flatten().for_each(|permit| permit.answered(now));
        let traffic = self.side.traffic();
        traffic.answered(status);
        if let Some(routed) = &self.routed {
            routed.counters.answered(status);
        }
        traffic.latency.observe(now.since(self.started));
        // What fails fast says nothing of how fast the application is.
        let admission = self.admission.as_mut();
        if let Some(permit) = admission.filter(|_| !status.is_server_error()) {
            permit.answered(now);
        }
    }

    /// Remora itself answers.
    pub fn refused<B>(&mut self, reason: Reason, answer: &Response<B>, now: Timestamp) {
        self.status = Some(answer.status());
        self.grpc_status = grpc::status(answer.headers());
        self.reason = Some(reason);
        self.answered = Some(now);
        if !self.may_fall_back(reason) {
            // Else it is counted by what becomes of it.
            self.count_refusal(reason);
        }
    }

    /// The answer has ended: its body, the trailers' gRPC status, and the
    /// connection where it can be used again. Otherwise the connection has been
    /// closed already.
    pub fn finish(mut self: Box<Self>, end: BodyEnd, received_bytes: u64, finished: Finished) {
        self.settle(end, received_bytes, finished);
    }

    fn settle(&mut self, end: BodyEnd, received_bytes: u64, finished: Finished) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let now = clock::now();
        self.caller.state.end(now);
        self.note_grpc_status(end, finished.grpc_status);
        let judged = self
            .live
            .as_ref()
            .and_then(|live| live.body_failures.judge(end, self.grpc_status));
        // The called service has a policy of its own where a rule led elsewhere.
        let of_service = match (&self.routed, &self.live) {
            (Some(routed), Some(_)) => routed.failures.judge(end, self.grpc_status),
            _ => judged,
        };
        if let Some(live) = self.live.take() {
            if self.head.is_some() {
                self.endpoint_name = Some(Arc::clone(&live.endpoint.name));
            }
            self.end_attempt(live, end, judged, finished.connection, now);
        }
        if let (Some(permit), Some(outcome)) = (self.service_breaker.take(), of_service) {
            permit.record(outcome, None, now, crate::random::next());
        }
        if let Some(routed) = &mut self.routed {
            routed.end(judged, now);
        }
        self.permit = None;
        if let Some(mut permit) = self.admission.take()
            && end == BodyEnd::CallerLeft
            && self.answered.is_none()
        {
            permit.left(now);
        }
        self.count_retry(if end == BodyEnd::CallerLeft {
            RetryOutcome::Cancelled
        } else {
            RetryOutcome::Failure
        });
        let traffic = self.side.traffic();
        traffic.attempts.fetch_add(self.attempts.into(), Relaxed);
        traffic.in_flight.fetch_sub(1, Relaxed);
        if end == BodyEnd::CallerLeft {
            traffic.cancelled.fetch_add(1, Relaxed);
        }
        self.log(end, received_bytes, now);
    }

    /// A call that ended in good order without a status has ended as UNKNOWN.
    fn note_grpc_status(&mut self, end: BodyEnd, of_trailers: Option<u8>) {
        if !self.is_grpc {
            return;
        }
        let of_head = self.live.as_ref().and_then(|live| live.grpc_status);
        let none =
            (end == BodyEnd::Whole && self.live.is_some() && self.status == Some(StatusCode::OK))
                .then_some(grpc::UNKNOWN);
        self.grpc_status = of_trailers.or(of_head).or(none);
    }

    fn end_attempt(
        &self,
        live: LiveAttempt,
        end: BodyEnd,
        judged: Option<Outcome>,
        connection: Option<Connection>,
        now: Timestamp,
    ) {
        let LiveAttempt {
            endpoint,
            held,
            breaker,
            load,
            permit,
            retry_permits,
            ..
        } = live;
        if end == BodyEnd::UpstreamBroke || end == BodyEnd::TimedOut {
            load.failed(now);
        }
        if let (Some(breaker), Some(outcome)) = (breaker, judged) {
            if matches!(outcome, Outcome::Failure(_)) {
                endpoint.failures.fetch_add(1, Relaxed);
            }
            breaker.record(outcome, None, now, crate::random::next());
        }
        drop((load, permit, retry_permits));
        release(&self.worker, held, connection, now);
    }

    fn log(&self, end: BodyEnd, received_bytes: u64, now: Timestamp) {
        let Some((method, uri)) = &self.head else {
            return;
        };
        let broke = match end {
            BodyEnd::Whole => None,
            BodyEnd::UpstreamBroke => Some("upstream_broke_off"),
            BodyEnd::TimedOut => Some("timeout"),
            BodyEnd::CallerLeft => Some("caller_left"),
        };
        let routed = self.routed.as_deref();
        let millis = |until: Timestamp| until.since(self.started).as_secs_f64() * 1_000.0;
        self.worker.shared.access_log.write(&Line {
            at_ms: clock::unix_ms(self.started),
            direction: self.side.word(),
            protocol: "http",
            service: &self.side.runtime().name,
            route: routed.map(|routed| &*routed.rule.route),
            rule: routed.map(|routed| &*routed.rule.label),
            backend: routed.and_then(|routed| routed.backend_name()),
            endpoint: self.endpoint_name.as_deref(),
            peer: self.peer,
            identity: self.identity.as_ref().map(|peer| peer.id.as_str()),
            method: Some(method.as_str()),
            path: uri
                .path_and_query()
                .map(|path| access_log::shortened(path.as_str())),
            status: self.status.map(|status| status.as_u16()),
            reason: self.reason.map(Reason::word).or(broke),
            instead_of: self.instead_of.map(Reason::word),
            attempts: self.attempts,
            latency_ms: millis(self.answered.unwrap_or(now)),
            duration_ms: millis(now),
            received_bytes,
            grpc_status: self.grpc_status,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Our own answers need nobody to tell that they went out whole.
        let own = self.reason.is_some() && self.live.is_none();
        let end = if own {
            // What Remora refused says nothing of the service.
            self.forget_service_breakers();
            BodyEnd::Whole
        } else {
            BodyEnd::CallerLeft
        };
        self.settle(end, 0, Finished::default());
    }
}

/// What the end of an answer's body left behind.
#[derive(Debug, Default)]
pub struct Finished {
    /// `grpc-status` of the trailers.
    pub grpc_status: Option<u8>,
    /// The HTTP/1 connection that can be used again.
    pub connection: Option<Connection>,
}

/// Gives back what an attempt held of its connection, which was closed already
/// where it is not here.
pub fn release(
    worker: &Worker,
    held: Option<Held>,
    connection: Option<Connection>,
    now: Timestamp,
) {
    match (held, connection) {
        (Some(Held::Own(lease)), Some(connection)) => {
            worker.pool.give_back(connection, lease, now);
        }
        (Some(Held::Shared(shared)), _) => {
            let service = shared.service();
            drop(shared);
            worker.pool.stream_ended(service);
        }
        (Some(Held::Own(_)) | None, _) => {}
    }
}
