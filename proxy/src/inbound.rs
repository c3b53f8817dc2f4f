//! The life of a request to the pod: whether it may, rate limits, then the
//! application.
//!
//! Owns what is counted and limited for each of the pod's ports. A connection
//! to the application is a plain one; nothing is retried here, because only
//! the caller knows other endpoints. What the application turned away unseen, as
//! it does when it ends a connection of HTTP/2, is sent once more.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::request::Parts;
use http::{Request, Response};
use tokio::sync::watch;

use crate::answer::{self, Reason};
use crate::attempt::{self, Bounds, Failure, Held, Sent};
use crate::authorization::Authorization;
use crate::body::Incoming;
use crate::body::request::RequestSource;
use crate::body::response::{ResponseBody, Until};
use crate::caller::Caller;
use crate::clock;
use crate::connect::Target;
use crate::exchange::{BodyFailures, Exchange, LiveAttempt, Side};
use crate::grpc;
use crate::headers;
use crate::inbound_connection::Arrival;
use crate::pipeline;
use crate::policy::admission::{self, Gate};
use crate::policy::breaker::Journal;
use crate::policy::config::admission::Admission;
use crate::policy::config::{AttemptEnd, Outbound, RateLimit, ServicePolicy};
use crate::policy::limit::Kind;
use crate::policy::rate_limit::{self, RateLimiter};
use crate::policy::retry;
use crate::runtime::{EndpointRuntime, ServiceRuntime};
use crate::state::{MeshProtocols, MtlsMode, Protocol, WorkloadConfig};
use crate::tls::Peer;
use crate::tls::context::Refused;
use crate::upstream::Head;
use crate::wire::Wire;
use crate::worker::Worker;

/// What is told to who was not admitted: overload passes, or it does not.
const ADMISSION_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Ports beyond the workload's own that get counters of their own.
const OTHER_PORTS: usize = 256;

/// What is counted for one of the pod's ports; lives as long as the sidecar.
#[derive(Debug)]
struct Counted {
    runtime: Arc<ServiceRuntime>,
    gate: Arc<Gate>,
    application: Arc<EndpointRuntime>,
}

/// One of the pod's ports, as its workload says now.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// Counters, limits and the pool's name of the port.
    pub runtime: Arc<ServiceRuntime>,
    /// The application on it.
    pub application: Arc<EndpointRuntime>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What it takes without mutual TLS.
    pub mtls: MtlsMode,
    /// Every rate limit of the pod; a limit is one bucket for all ports.
    pub limiter: Arc<RateLimiter>,
    /// Which of them hold for this port.
    limits: Arc<Vec<LimitName>>,
    /// How many requests the application is given at a time.
    pub gate: Arc<Gate>,
    /// What policies say of that.
    pub admissions: Arc<Vec<Admission>>,
}

/// `namespace/policy` and the limit's name.
type LimitName = (Arc<str>, Arc<str>);

impl InboundPort {
    /// Whether this one of the pod's rate limits holds for the port.
    pub fn applies(&self, limit: &RateLimit) -> bool {
        self.limits
            .iter()
            .any(|(policy, name)| *policy == limit.policy && *name == limit.name)
    }
}

#[derive(Debug)]
struct Rules {
    ports: BTreeMap<u16, Rule>,
    /// For ports that no Service covers.
    others: Rule,
}

impl Rules {
    fn of(&self, port: u16) -> &Rule {
        self.ports.get(&port).unwrap_or(&self.others)
    }

    fn apply(&self, port: u16, counted: &Counted) {
        counted
            .gate
            .configure(&self.of(port).admissions, clock::now());
    }
}

/// What holds for a port.
#[derive(Clone, Debug, Default)]
struct Rule {
    protocol: Protocol,
    mtls: MtlsMode,
    limits: Arc<Vec<LimitName>>,
    admissions: Arc<Vec<Admission>>,
}

/// The pod's ports.
#[derive(Debug)]
pub struct Inbound {
    /// Who may call.
    pub authorization: Authorization,
    limiter: Arc<RateLimiter>,
    rules: ArcSwap<Rules>,
    changes: watch::Sender<()>,
    counted: ArcSwap<BTreeMap<u16, Arc<Counted>>>,
    journal: Arc<Journal>,
}

impl Inbound {
    /// Before the workload has arrived nothing is limited, and every port is
    /// `mtls`.
    pub fn new(mtls: MtlsMode) -> Self {
        Self {
            authorization: Authorization::default(),
            limiter: Arc::new(RateLimiter::new(&[])),
            rules: ArcSwap::from_pointee(Rules {
                ports: BTreeMap::new(),
                others: Rule {
                    mtls,
                    ..Rule::default()
                },
            }),
            changes: watch::Sender::default(),
            counted: ArcSwap::default(),
            journal: Journal::new(),
        }
    }

    /// Takes a workload over; buckets keep their fill.
    pub fn configure(&self, workload: &WorkloadConfig) {
        let mut all: Vec<RateLimit> = Vec::new();
        let mut names = |limits: &[RateLimit]| -> Arc<Vec<LimitName>> {
            let name = |limit: &RateLimit| {
                let known = all
                    .iter()
                    .any(|held| held.policy == limit.policy && held.name == limit.name);
                if !known {
                    all.push(limit.clone());
                }
                (Arc::clone(&limit.policy), Arc::clone(&limit.name))
            };
            Arc::new(limits.iter().map(name).collect())
        };
        let others = Rule {
            protocol: Protocol::Detect,
            mtls: workload.mtls,
            limits: names(&workload.rate_limits),
            admissions: Arc::new(workload.admissions.clone()),
        };
        let ports = workload
            .ports
            .iter()
            .map(|(port, of_port)| {
                let rule = Rule {
                    protocol: of_port.protocol,
                    mtls: of_port.mtls,
                    limits: names(&of_port.rate_limits),
                    admissions: Arc::new(of_port.admissions.clone()),
                };
                (*port, rule)
            })
            .collect();
        self.authorization.configure(&workload.authorizations);
        self.limiter.reconfigure(&all, clock::now());
        let rules = Arc::new(Rules { ports, others });
        self.rules.store(Arc::clone(&rules));
        for (port, counted) in self.counted.load().iter() {
            rules.apply(*port, counted);
        }
        self.changes.send_replace(());
    }

    /// Completes when the port takes nothing but mutual TLS.
    pub async fn until_strict(&self, port: u16) {
        let mut changes = self.changes.subscribe();
        let is_strict = || {
            let rules = self.rules.load();
            rules.ports.get(&port).unwrap_or(&rules.others).mtls == MtlsMode::Strict
        };
        while !is_strict() {
            // The sender lives as long as this does.
            let _ = changes.changed().await;
        }
    }

    /// One of the pod's ports, known to the workload or not.
    pub fn port(&self, port: u16) -> InboundPort {
        let rules = self.rules.load();
        let rule = rules.ports.get(&port).unwrap_or(&rules.others);
        let counted = self.counted(port);
        InboundPort {
            runtime: Arc::clone(&counted.runtime),
            application: Arc::clone(&counted.application),
            protocol: rule.protocol,
            mtls: rule.mtls,
            limiter: Arc::clone(&self.limiter),
            limits: Arc::clone(&rule.limits),
            gate: Arc::clone(&counted.gate),
            admissions: Arc::clone(&rule.admissions),
        }
    }

    /// The rate limits of the pod, of all ports together.
    pub fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }

    /// Every port that has been called, with what was counted.
    pub fn counted_ports(&self) -> Vec<(u16, Arc<ServiceRuntime>)> {
        self.counted
            .load()
            .iter()
            .map(|(port, counted)| (*port, Arc::clone(&counted.runtime)))
            .collect()
    }

    /// The admission of every port that has been called and has one.
    pub fn gates(&self) -> Vec<(u16, Arc<Gate>)> {
        let rules = self.rules.load();
        let counted = self.counted.load();
        let has_one = |port: &u16| !rules.of(*port).admissions.is_empty();
        let all = counted.iter().filter(|(port, _)| has_one(port));
        all.map(|(port, counted)| (*port, Arc::clone(&counted.gate)))
            .collect()
    }

    fn counted(&self, port: u16) -> Arc<Counted> {
        if let Some(counted) = self.counted.load().get(&port) {
            return Arc::clone(counted);
        }
        // Port 0 stands for all that came after the bound, so that a scan of
        // every port cannot make the map grow.
        let port = if self.counted.load().len() >= OTHER_PORTS {
            0
        } else {
            port
        };
        self.counted.rcu(|held| {
            let mut held = BTreeMap::clone(held);
            held.entry(port).or_insert_with(|| {
                let runtime = ServiceRuntime::with_limiter(
                    &port.to_string(),
                    &ServicePolicy::default(),
                    true,
                    &self.journal,
                    Arc::clone(&self.limiter),
                    clock::now(),
                );
                let application = EndpointRuntime::application(&runtime);
                Arc::new(Counted {
                    runtime: Arc::new(runtime),
                    gate: Gate::new(),
                    application: Arc::new(application),
                })
            });
            held
        });
        match self.counted.load().get(&port) {
            Some(counted) => {
                self.rules.load().apply(port, counted);
                Arc::clone(counted)
            }
            // Never so: entries are only ever added.
            None => self.counted(0),
        }
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self::new(MtlsMode::default())
    }
}

/// Carries `request`, which came on `arrival`, to the application, and the
/// answer back.
pub async fn serve(
    worker: Rc<Worker>,
    caller: Caller,
    arrival: Rc<Arrival>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let started = clock::now();
    let port = worker.shared.inbound.port(arrival.address.port());
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::new(
        &worker,
        caller,
        Side::Inbound(Arc::clone(&port.runtime)),
        arrival.peer,
        started,
    );
    exchange.note_head(&parts);
    exchange.note_identity(arrival.identity.as_ref());
    if port.mtls == MtlsMode::Strict && arrival.identity.is_none() {
        // Nothing reached the application: a sidecar that asks asks again, in TLS.
        worker.shared.tls.refused(Refused::Plaintext);
        let detail = "the port takes nothing but mutual TLS now; this connection is from before";
        return pipeline::refuse(exchange, Reason::ConnectFailed, detail.to_owned());
    }
    headers::strip_ours_but_attempt(&mut parts.headers);
    let authorization = &worker.shared.inbound.authorization;
    if let Err((reason, detail)) = authorization.request(&mut parts, &arrival.asks()) {
        return pipeline::refuse(exchange, reason, detail);
    }
    let who = rate_limit::Caller {
        address: arrival.peer.ip(),
        identity: arrival.identity.as_deref(),
    };
    let limited = pipeline::limit_rate(&mut exchange, &port.limiter, &parts, &who, |limit| {
        port.applies(limit)
    });
    if let Some(answer) = limited {
        return pipeline::answering(answer, exchange);
    }
    let who = arrival.identity.as_deref();
    if let Some(answer) = admit(&mut exchange, &port, &parts, arrival.peer.ip(), who) {
        return pipeline::answering(answer, exchange);
    }
    let forwarded = forward(&worker, &port, &arrival, parts, body, exchange);
    Box::pin(forwarded).await
}

/// Takes a place for the request, or gives the answer where there is none.
pub fn admit(
    exchange: &mut Exchange,
    port: &InboundPort,
    parts: &Parts,
    address: IpAddr,
    identity: Option<&Peer>,
) -> Option<Response<ResponseBody>> {
    let caller = &rate_limit::Caller { address, identity };
    let facts = pipeline::Facts { parts, caller };
    let priority = admission::priority::of(&port.admissions, &facts, identity);
    if let Some(permit) = port.gate.try_admit(priority, exchange.went_on()) {
        exchange.admission = Some(permit);
        return None;
    }
    let detail = format!(
        "admission: the application has as many requests at a time as it is given, or as are kept for higher priorities than {}",
        priority.word()
    );
    let mut answer = answer::refuse(Reason::Overloaded, detail, exchange.is_grpc);
    answer::set_retry_after(&mut answer, ADMISSION_RETRY_AFTER);
    exchange.refused(Reason::Overloaded, &answer, clock::now());
    Some(answer)
}

async fn forward(
    worker: &Rc<Worker>,
    port: &InboundPort,
    arrival: &Arrival,
    parts: Parts,
    body: Incoming,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let outbound = Outbound::default();
    let address = worker.shared.application_address(arrival.address);
    let target = Target {
        service: &port.runtime,
        endpoint: &port.application,
        address,
        wire: Wire::of(&parts, MeshProtocols::default()),
        secured: None,
        outbound: &outbound,
    };
    let Some(permit) = port.application.limits.try_acquire(Kind::Requests) else {
        let detail = "the application is at its limit".to_owned();
        return pipeline::refuse(exchange, Reason::Overloaded, detail);
    };
    let began = exchange.started();
    let load = port.application.load.start(began);
    exchange.attempts = 1;
    let source = RequestSource::new(body, retry::BUFFER_BYTES, exchange.started());
    let sent = Sent {
        head: Head {
            parts: &parts,
            attempt: None,
            identity: arrival.identity.as_ref().map(|peer| &peer.header),
        },
        source: &source,
        caller: exchange.caller(),
        safe: retry::is_idempotent(parts.method.as_str()),
        bounds: Bounds {
            until_headers: None,
            idle: None,
        },
        began,
    };
    match send(worker, &target, &sent).await {
        Ok((response, held)) => {
            let (mut parts, body) = response.into_parts();
            headers::strip_ours(&mut parts.headers);
            exchange.answered(parts.status, None, clock::now());
            let endpoint = Arc::clone(&port.application);
            exchange.live = Some(LiveAttempt {
                endpoint,
                held: Some(held),
                grpc_status: grpc::status(&parts.headers),
                breaker: None,
                body_failures: BodyFailures::default(),
                load,
                permit,
                retry_permits: None,
            });
            Response::from_parts(
                parts,
                ResponseBody::relayed(body, exchange, Until::default()),
            )
        }
        Err(Failure::CallerLeft(detail)) => pipeline::missed(exchange, detail),
        Err(failure) => {
            let (reason, detail) = explain(failure, address);
            pipeline::refuse(exchange, reason, detail)
        }
    }
}

/// A caller without a sidecar would not send again what GOAWAY turned away
/// between us and the application: it was told of no connection's end.
async fn send(
    worker: &Rc<Worker>,
    target: &Target<'_>,
    sent: &Sent<'_>,
) -> Result<(Response<Incoming>, Held), Failure> {
    match attempt::send(worker, target, false, sent).await {
        Err(Failure::Ended(AttemptEnd::RefusedStream, _)) if sent.source.replayable() => {
            // Boxed because it is rare.
            Box::pin(attempt::send(worker, target, false, sent)).await
        }
        ended => ended,
    }
}

fn explain(failure: Failure, address: SocketAddr) -> (Reason, String) {
    match failure {
        Failure::Ended(AttemptEnd::ConnectFailure | AttemptEnd::RefusedStream, detail) => (
            Reason::ConnectFailed,
            format!("the application does not answer on its port: {detail}"),
        ),
        Failure::Ended(_, detail) => (Reason::RetriesExhausted, detail),
        Failure::Stale { unsent: true } => (
            Reason::ConnectFailed,
            format!("the application at {address} closes its connections"),
        ),
        Failure::Stale { unsent: false } => (
            Reason::RetriesExhausted,
            format!("the application at {address} closed the connection without an answer"),
        ),
        Failure::Overloaded(detail) => (Reason::Overloaded, detail),
        Failure::CallerBroke(detail) | Failure::CallerLeft(detail) => (Reason::BadRequest, detail),
        Failure::OutOfTime(bound) | Failure::Waited(bound) => (
            Reason::Timeout,
            format!("timeouts.{} passed", bound.field()),
        ),
    }
}
