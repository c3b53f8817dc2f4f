//! The life of a request that goes by a rule.
//!
//! ```text
//!   rule? ─► rate limits ─► preflight? redirect? ─► backend by weight ─► limits and
//!     │ none                    │ yes                  │ cannot be taken   breaker of
//!     ▼                         ▼                      ▼                   the service,
//!    404                     answered                 500                  the rule, the
//!                                                                          backend
//!                                 attempts ◄── filters, mirrors ◄────────────┘
//! ```
//!
//! What is about the request is by the policy of the service that was called; what
//! is about endpoints and connections by the backend's.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderValue, LOCATION};
use http::request::Parts;
use http::{Response, StatusCode};

use super::config::{BackendReference, Filter};
use super::request::View;
use super::routed::Routed;
use super::runtime::{MirrorResult, RoutedRule};
use super::session::Sessions;
use super::{cors, filters, mirror, paths};
use crate::answer::Reason;
use crate::attempts::{Attempting, Later, Way};
use crate::body::Incoming;
use crate::body::request::RequestSource;
use crate::body::response::ResponseBody;
use crate::clock;
use crate::exchange::{BodyFailures, Exchange};
use crate::fallback::{self, Kept};
use crate::headers::REASON;
use crate::http1::parse;
use crate::pipeline::{self, Refusal};
use crate::policy::limit::Kind;
use crate::policy::retry;
use crate::state::{Destination, Service};
use crate::trouble;
use crate::worker::Worker;

/// A request to a port with routes.
#[derive(Debug)]
pub struct Arriving {
    /// Who carries it.
    pub worker: Rc<Worker>,
    /// The service that was called.
    pub service: Arc<Service>,
    /// Its port.
    pub port: u16,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Its head.
    pub parts: Parts,
    /// Its body.
    pub body: Incoming,
    /// The same, once its rule is found.
    pub source: Option<RequestSource>,
    /// What it holds.
    pub exchange: Box<Exchange>,
}

/// Carries a request to the backend that its rule leads to, and the answer back.
pub async fn outbound(mut arriving: Box<Arriving>) -> Response<ResponseBody> {
    let rule = match arriving.find() {
        Ok(rule) => rule,
        Err(refusal) => return refusal.end(arriving.exchange),
    };
    match arriving.keep(&rule) {
        None => go(arriving, rule).await,
        // In a box: few policies have any, and all would carry its size.
        Some(kept) => Box::pin(kept.guard(go(arriving, rule))).await,
    }
}

/// By the rule that was found.
async fn go(mut arriving: Box<Arriving>, rule: Arc<RoutedRule>) -> Response<ResponseBody> {
    if let Some(answer) = arriving.trouble(&rule).await {
        return pipeline::answering(answer, arriving.exchange);
    }
    if let Some(answer) = arriving.limit_rate(&rule) {
        return pipeline::answering(answer, arriving.exchange);
    }
    let port = arriving.port;
    let chosen = match choose(&rule, port, &arriving.parts, &mut arriving.exchange) {
        Ok(to) => Box::pin(reach(&arriving.worker, &arriving.service, to)).await,
        Err(Stop::Answer(answer)) => return pipeline::answering(*answer, arriving.exchange),
        Err(Stop::Refusal(refusal)) => Err(refusal),
    };
    let (backend, port) = match chosen {
        Ok(chosen) => chosen,
        Err(refusal) => return refusal.end(arriving.exchange),
    };
    let entered = enter(&arriving.service, &rule, &backend, &mut arriving.exchange);
    if let Err(refusal) = entered {
        return refusal.end(arriving.exchange);
    }
    let (worker, service) = (Rc::clone(&arriving.worker), Arc::clone(&arriving.service));
    let later = Later::default();
    let way = Way {
        service: &service,
        target: &backend,
        destination: Destination {
            address: None,
            port,
        },
        rule: Some(&rule),
        later: &later,
    };
    Box::pin(arriving.attempting(&worker, way).run()).await
}

impl Arriving {
    fn find(&mut self) -> Result<Arc<RoutedRule>, Refusal> {
        find(&self.service, self.port, &self.parts, &mut self.exchange)
    }

    fn limit_rate(&mut self, rule: &RoutedRule) -> Option<Response<ResponseBody>> {
        let limiter = match &rule.config.rate_limits {
            Some(_) => &rule.runtime.rate_limiter,
            None => self.service.runtime.rate_limiter(),
        };
        let (worker, exchange) = (&self.worker, &mut self.exchange);
        pipeline::limit_caller(worker, exchange, limiter, &self.parts, self.peer)
    }

    /// Trouble on purpose, of the rule or else of the service.
    async fn trouble(&mut self, rule: &RoutedRule) -> Option<Response<ResponseBody>> {
        let policy = &self.service.config.policy;
        let fault = rule.config.fault.as_ref().or(policy.fault.as_ref())?;
        let timeouts = rule.config.timeouts.as_ref().unwrap_or(&policy.timeouts);
        let (timeout, exchange) = (timeouts.request, &mut self.exchange);
        let troubled = trouble::inflict(exchange, fault, &self.parts, self.peer, timeout);
        Box::pin(troubled).await
    }

    /// What the fallback needs, of the rule or else of the service.
    fn keep(&mut self, rule: &RoutedRule) -> Option<Kept> {
        let policy = &self.service.config.policy;
        let fallback = rule.config.fallback.as_ref().or(policy.fallback.as_ref());
        let timeouts = rule.config.timeouts.as_ref().unwrap_or(&policy.timeouts);
        let retries = rule.config.retries.as_ref().or(policy.retries.as_ref());
        let buffer_bytes = retries.map_or(retry::BUFFER_BYTES, |retries| retries.buffer_bytes);
        let body = std::mem::replace(&mut self.body, Incoming::Empty);
        let source = RequestSource::new(body, buffer_bytes, self.exchange.started());
        let request = (&self.parts, &source);
        let (worker, exchange) = (&self.worker, &mut self.exchange);
        let of_policy = fallback::Policy {
            fallback,
            retries,
            timeout: timeouts.request,
        };
        let kept = Kept::of(&of_policy, worker, self.peer, request, exchange);
        self.source = Some(source);
        kept
    }

    /// Its attempts, changed as the filters say.
    fn attempting<'a>(
        self: Box<Self>,
        worker: &'a Rc<Worker>,
        way: Way<'a>,
    ) -> Box<Attempting<'a>> {
        let Self {
            peer,
            mut parts,
            source,
            exchange,
            ..
        } = *self;
        let source = source.unwrap_or(RequestSource::Empty);
        if let Some(routed) = &exchange.routed {
            change(worker, routed, &mut parts, &source, peer);
        }
        let of_rule = way.rule.and_then(|rule| rule.config.fault.as_ref());
        let fault = of_rule.or(way.service.config.policy.fault.as_ref());
        let mut attempting = Attempting::new(worker, way, peer, parts, source, exchange);
        if fault.is_some() {
            // Endpoints may have left while it was delayed.
            attempting.renew();
        }
        attempting
    }
}

/// What ends a request before it goes anywhere.
enum Stop {
    Answer(Box<Response<ResponseBody>>),
    Refusal(Refusal),
}

fn find(
    service: &Service,
    port: u16,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Arc<RoutedRule>, Refusal> {
    let routes = service.routes(port);
    let found = routes.and_then(|routes| routes.find(&View::of(parts)));
    // To callers of gRPC a status of gRPC, whatever they sent.
    let is_grpc = routes.is_some_and(|routes| routes.config.grpc);
    let Some((rule, found)) = found else {
        exchange.is_grpc |= is_grpc;
        let name = &service.runtime.name;
        return Err(Refusal {
            reason: Reason::NoRoute,
            detail: format!("no rule of the routes of {name} matches on port {port}"),
        });
    };
    let breaker = service.config.policy.circuit_breaker.as_ref();
    let failures = breaker.map(|breaker| BodyFailures::of(&breaker.trip.failures));
    let mut routed = Routed::new(rule, found, failures.unwrap_or_default());
    note_cors(&mut routed, parts);
    exchange.routed = Some(routed);
    if let Some(cannot) = &rule.config.cannot {
        exchange.is_grpc |= is_grpc;
        return Err(cannot_be(rule, cannot));
    }
    Ok(Arc::clone(rule))
}

fn cannot_be(rule: &RoutedRule, why: &str) -> Refusal {
    Refusal {
        reason: Reason::NoBackend,
        detail: format!("rule {} of route {}: {why}", rule.label, rule.route),
    }
}

/// The backend, by weight; or the answer that the rule itself gives.
fn choose<'a>(
    rule: &'a RoutedRule,
    port: u16,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<&'a BackendReference, Stop> {
    let is_redirect = rule.config.filters.iter().any(is_redirect);
    let chosen = rule.choose(crate::random::next()).filter(|_| !is_redirect);
    let Some(routed) = &mut exchange.routed else {
        // Never so: it has just been matched.
        return Err(Stop::Refusal(cannot_be(rule, "it was not matched")));
    };
    routed.backend = chosen;
    if let Some(at) = chosen {
        routed.counters = Arc::clone(&rule.backends[at]);
    }
    if let Some((answer, reason)) = answer(routed, port, parts) {
        routed.backend = None;
        routed.counters = Arc::clone(&rule.nowhere);
        exchange.refused(reason, &answer, clock::now());
        return Err(Stop::Answer(Box::new(answer)));
    }
    if let Some(config) = &rule.config.session {
        routed.sessions = Some(Sessions::of(config, &parts.headers));
    }
    let Some(at) = chosen else {
        exchange.is_grpc |= rule.config.route.kind == "GRPCRoute";
        let why = "it has no backend with a weight";
        return Err(Stop::Refusal(cannot_be(rule, why)));
    };
    let to = &rule.config.backends[at].to;
    match &to.cannot {
        None => Ok(to),
        Some(why) => {
            exchange.is_grpc |= rule.config.route.kind == "GRPCRoute";
            let why = format!("backend {}: {why}", to.service);
            Err(Stop::Refusal(cannot_be(rule, &why)))
        }
    }
}

fn is_redirect(filter: &Filter) -> bool {
    matches!(filter, Filter::Redirect(_))
}

/// What the answer will tell a browser, whoever gives it.
fn note_cors(routed: &mut Routed, parts: &Parts) {
    let mut filters = routed.filters();
    let told = filters.find_map(|filter| match filter {
        Filter::Cors(cors) => {
            let mut told = http::HeaderMap::new();
            cors.answer(&parts.headers, cors::is_preflight(parts), &mut told);
            Some(told)
        }
        _ => None,
    });
    drop(filters);
    routed.cors = told;
}

/// A preflight's answer, or a redirect's.
fn answer(
    routed: &mut Routed,
    port: u16,
    parts: &Parts,
) -> Option<(Response<ResponseBody>, Reason)> {
    if routed.cors.is_none() {
        // The backend may have one of its own.
        note_cors(routed, parts);
    }
    if routed.cors.is_some() && cors::is_preflight(parts) {
        return Some((own(Reason::Cors, Reason::Cors.status()), Reason::Cors));
    }
    let redirect = routed.filters().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect),
        _ => None,
    })?;
    let mut answer = own(Reason::Redirect, redirect.status);
    let location = paths::location(redirect, routed.matched(), &View::of(parts), port);
    if let Some(location) = location {
        answer.headers_mut().insert(LOCATION, location);
    }
    Some((answer, Reason::Redirect))
}

fn own(reason: Reason, status: StatusCode) -> Response<ResponseBody> {
    let mut answer = Response::new(ResponseBody::own(bytes::Bytes::new()));
    *answer.status_mut() = status;
    let word = HeaderValue::from_static(reason.word());
    answer.headers_mut().insert(REASON, word);
    answer
}

/// The backend's service, with its endpoints. One that has not arrived is waited
/// for as at a first use.
async fn reach(
    worker: &Worker,
    service: &Arc<Service>,
    to: &BackendReference,
) -> Result<(Arc<Service>, u16), Refusal> {
    if to.service == service.name {
        return Ok((Arc::clone(service), to.port));
    }
    match worker.shared.mesh.resolve_backend(&to.service).await {
        Some(backend) => Ok((backend, to.port)),
        None => Err(Refusal {
            reason: Reason::NoEndpoints,
            detail: format!("the backend {} is not known here", to.service),
        }),
    }
}

/// The places of the request: of the service that was called, of the rule alone,
/// and of the backend, which counts direct and routed calls together.
fn enter(
    service: &Service,
    rule: &RoutedRule,
    backend: &Service,
    exchange: &mut Exchange,
) -> Result<(), Refusal> {
    pipeline::enter(exchange, &service.runtime)?;
    let now = exchange.went_on();
    if rule.config.retries.is_some() {
        rule.runtime.budget.request(now);
    }
    let full = |whose: &str| Refusal {
        reason: Reason::Overloaded,
        detail: format!("circuitBreaker.maxRequests of {whose} is reached"),
    };
    let of_rule = rule.runtime.limits.try_acquire(Kind::Requests);
    let of_rule =
        of_rule.ok_or_else(|| full(&format!("rule {} of route {}", rule.label, rule.route)))?;
    let (mut of_backend, mut breaker) = (None, None);
    if backend.runtime.id != service.runtime.id {
        let runtime = &backend.runtime;
        let permit = runtime.limits.try_acquire(Kind::Requests);
        of_backend = Some(permit.ok_or_else(|| full(&runtime.name))?);
        let admitted = runtime.service_breaker().try_admit(now);
        breaker = Some(admitted.ok_or_else(|| pipeline::breaker_open(runtime, now))?);
    }
    if let Some(routed) = &mut exchange.routed {
        routed.permits = [Some(of_rule), of_backend];
        routed.backend_breaker = breaker;
    }
    Ok(())
}

/// Does what the filters say, and sends the mirrors on their way.
fn change(
    worker: &Rc<Worker>,
    routed: &Routed,
    parts: &mut Parts,
    source: &RequestSource,
    peer: SocketAddr,
) {
    // What becomes a tunnel is for one.
    let is_tunnel = parse::asks_for_tunnel(parts);
    let matched = routed.matched();
    filters::change_request(routed.filters(), matched, parts, |to, parts| {
        let share = (u128::from(crate::random::next()) * u128::from(to.denominator)) >> 64;
        if is_tunnel || to.backend.cannot.is_some() || share >= u128::from(to.numerator) {
            return;
        }
        let counters = routed.rule.mirror_counters(to);
        if !mirror::start(worker, &to.backend, counters, parts, source, peer) {
            counters.mirrored(MirrorResult::Dropped);
        }
    });
}
