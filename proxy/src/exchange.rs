//! One request, from its head to the end of its answer: what it holds of
//! everybody's limits, and what is told to whom when it ends.
//!
//! Everything is given back on drop, so a request that its caller cancels at
//! any moment leaves nothing counted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Method, StatusCode, Uri};

use crate::access_log::{self, Line};
use crate::answer::Reason;
use crate::balance::LoadGuard;
use crate::caller::Caller;
use crate::clock::{self, Timestamp};
use crate::metrics::counters::Traffic;
use crate::policy::breaker::{BreakerPermit, Outcome};
use crate::policy::config::{AttemptEnd, Conditions};
use crate::policy::limit::Permit;
use crate::pool::UpstreamConnection;
use crate::runtime::{EndpointRuntime, ServiceRuntime};
use crate::worker::Worker;

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
    /// Given back to the pool when the answer has come whole.
    pub connection: Option<UpstreamConnection>,
    /// Told how the attempt ended; without an answer it counts as cancelled.
    pub breaker: Option<BreakerPermit>,
    /// Which ends of a body the policy counts as failures.
    pub body_failures: BodyFailures,
    /// Its place among the endpoint's load.
    pub load: LoadGuard,
    /// Its place among the endpoint's requests.
    pub permit: Permit,
    /// Its place among the retries in flight, of the service and the endpoint.
    pub retry_permits: Option<(Permit, Permit)>,
}

/// Which ends of a response's body `circuitBreaker.failures` lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct BodyFailures {
    reset: bool,
    timeout: bool,
}

impl BodyFailures {
    /// As `failures` says.
    pub fn of(failures: &Conditions) -> Self {
        Self {
            reset: failures.matches(AttemptEnd::Reset),
            timeout: failures.matches(AttemptEnd::Timeout),
        }
    }

    /// What `end` says of the endpoint; nothing where the caller left, or where
    /// the policy does not count it.
    fn judge(self, end: BodyEnd) -> Option<Outcome> {
        match end {
            BodyEnd::Whole => Some(Outcome::Success),
            BodyEnd::UpstreamBroke => self.reset.then_some(Outcome::Failure(AttemptEnd::Reset)),
            BodyEnd::TimedOut => self
                .timeout
                .then_some(Outcome::Failure(AttemptEnd::Timeout)),
            BodyEnd::CallerLeft => None,
        }
    }
}

/// One request, from its head to the end of its answer.
#[derive(Debug)]
pub struct Exchange {
    worker: Rc<Worker>,
    caller: Caller,
    side: Side,
    peer: SocketAddr,
    started: Timestamp,
    answered: Option<Timestamp>,
    /// Kept only where there is an access log.
    head: Option<(Method, Uri)>,
    status: Option<StatusCode>,
    reason: Option<Reason>,
    /// Attempts made so far.
    pub attempts: u32,
    /// Its place among the service's requests.
    pub permit: Option<Permit>,
    /// The service's breaker, where it has one.
    pub service_breaker: Option<BreakerPermit>,
    /// The attempt whose answer is being given.
    pub live: Option<LiveAttempt>,
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
    ) -> Self {
        side.traffic().in_flight.fetch_add(1, Relaxed);
        Self {
            worker: Rc::clone(worker),
            caller,
            side,
            peer,
            started,
            answered: None,
            head: None,
            status: None,
            reason: None,
            attempts: 0,
            permit: None,
            service_breaker: None,
            live: None,
            endpoint_name: None,
            settled: false,
        }
    }

    /// Remembers what the access log tells, where there is one.
    pub fn note_head(&mut self, method: &Method, uri: &Uri) {
        if self.worker.shared.access_log.is_on() {
            self.head = Some((method.clone(), uri.clone()));
        }
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
        let traffic = self.side.traffic();
        traffic.answered(status);
        traffic.latency.observe(now.since(self.started));
    }

    /// Remora itself answers.
    pub fn refused(&mut self, reason: Reason, status: StatusCode, now: Timestamp) {
        self.status = Some(status);
        self.reason = Some(reason);
        self.answered = Some(now);
        self.side.traffic().refused(reason);
    }

    /// The answer has ended.
    pub fn finish(mut self, end: BodyEnd, received_bytes: u64) {
        self.settle(end, received_bytes);
    }

    fn settle(&mut self, end: BodyEnd, received_bytes: u64) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let now = clock::now();
        self.caller.state.end(now);
        let judged = self
            .live
            .as_ref()
            .and_then(|live| live.body_failures.judge(end));
        if let Some(live) = self.live.take() {
            if self.head.is_some() {
                self.endpoint_name = Some(Arc::clone(&live.endpoint.name));
            }
            self.end_attempt(live, end, judged, now);
        }
        if let (Some(permit), Some(outcome)) = (self.service_breaker.take(), judged) {
            permit.record(outcome, None, now, crate::random::next());
        }
        self.permit = None;
        let traffic = self.side.traffic();
        traffic.in_flight.fetch_sub(1, Relaxed);
        if end == BodyEnd::CallerLeft {
            traffic.cancelled.fetch_add(1, Relaxed);
        }
        self.log(end, received_bytes, now);
    }

    fn end_attempt(
        &self,
        live: LiveAttempt,
        end: BodyEnd,
        judged: Option<Outcome>,
        now: Timestamp,
    ) {
        let LiveAttempt {
            endpoint,
            connection,
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
        match connection {
            Some(connection) if end == BodyEnd::Whole => {
                drop((load, permit, retry_permits));
                let service = self.side.runtime();
                let waiting = service.somebody_waits();
                self.worker
                    .pool
                    .give_back(endpoint.id, connection, now, waiting);
            }
            // Closed before its place is free for another.
            connection => {
                drop(connection);
                drop((load, permit, retry_permits));
            }
        }
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
        let millis = |until: Timestamp| until.since(self.started).as_secs_f64() * 1_000.0;
        self.worker.shared.access_log.write(&Line {
            at_ms: clock::unix_ms(self.started),
            direction: self.side.word(),
            protocol: "http",
            service: &self.side.runtime().name,
            endpoint: self.endpoint_name.as_deref(),
            peer: self.peer,
            method: Some(method.as_str()),
            path: uri
                .path_and_query()
                .map(|path| access_log::shortened(path.as_str())),
            status: self.status.map(|status| status.as_u16()),
            reason: self.reason.map(Reason::word).or(broke),
            attempts: self.attempts,
            latency_ms: millis(self.answered.unwrap_or(now)),
            duration_ms: millis(now),
            received_bytes,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Our own answers need nobody to tell that they went out whole.
        let own = self.reason.is_some() && self.live.is_none();
        let end = if own {
            // What Remora refused says nothing of the service.
            self.service_breaker = None;
            BodyEnd::Whole
        } else {
            BodyEnd::CallerLeft
        };
        self.settle(end, 0);
    }
}
