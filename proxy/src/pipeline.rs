//! The life of a request from the pod to a service, in one page.
//!
//! ```text
//! head ─► routes? ─► fault ─► rate limits ─► limits ─► service breaker ─► budget counts it
//!            └─► [`crate::routes::way`] where the port has any; then as here
//!      ┌────────────────────────────────────────────────────────────┐
//!      ▼                                                            │
//!   pick endpoint ─► its breaker ─► its limits ─► send ─► ended? ─► again?
//!                                                   │ response
//!                                                   ▼
//!                              headers to the caller, body, [`Exchange::finish`]
//! ```

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};

use crate::answer::{self, Reason};
use crate::attempts::{Attempting, Later, Way};
use crate::body::Incoming;
use crate::body::request::RequestSource;
use crate::body::response::ResponseBody;
use crate::caller::Caller;
use crate::clock::{self, Timestamp};
use crate::exchange::{Exchange, Side};
use crate::fallback::{self, Kept};
use crate::headers;
use crate::policy::config::RateLimit;
use crate::policy::limit::Kind;
use crate::policy::rate_limit::{self, Decision};
use crate::policy::retry;
use crate::routes::way::{self, Arriving};
use crate::runtime::ServiceRuntime;
use crate::state::{Destination, Service};
use crate::trouble;
use crate::worker::Worker;

/// A request on its way to a service.
#[derive(Debug)]
pub struct Call {
    /// Who carries it.
    pub worker: Rc<Worker>,
    /// The connection that it came on.
    pub caller: Caller,
    /// The service that it is for.
    pub service: Arc<Service>,
    /// What was called: the service's port, and its address or the pod's.
    pub destination: Destination,
    /// Who sent it.
    pub peer: SocketAddr,
}

/// Carries `request` to the service, and the answer back.
pub async fn outbound(call: Call, request: Request<Incoming>) -> Response<ResponseBody> {
    let started = clock::now();
    let Call {
        worker,
        caller,
        service,
        destination,
        peer,
    } = call;
    let runtime = &service.runtime;
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::new(
        &worker,
        caller,
        Side::Outbound(Arc::clone(runtime)),
        peer,
        started,
    );
    exchange.note_head(&parts);
    let policy = &service.config.policy;
    if policy.load_balancing.pinning || service.routing.is_some() {
        exchange.pin = headers::pinned(&parts.headers);
    }
    headers::strip_ours(&mut parts.headers);

    if service.routes(destination.port).is_some() {
        let arriving = Arriving {
            port: destination.port,
            worker,
            service,
            peer,
            parts,
            body,
            source: None,
            exchange,
        };
        return Box::pin(way::outbound(Box::new(arriving))).await;
    }
    let buffer_bytes = policy
        .retries
        .as_ref()
        .map_or(retry::BUFFER_BYTES, |retries| retries.buffer_bytes);
    let source = RequestSource::new(body, buffer_bytes, started);
    if policy.fault.is_some() || policy.fallback.is_some() {
        let going = Going {
            worker,
            service,
            destination,
            peer,
            parts,
            source,
            exchange,
        };
        // In a box: few policies have any, and all would carry its size.
        return Box::pin(troubled(going)).await;
    }
    if let Some(stop) = stop(&worker, &mut exchange, runtime, &parts, peer) {
        return stop.end(exchange);
    }
    let later = Later::default();
    let way = Way::to(&service, destination, &later);
    let attempting = Attempting::new(&worker, way, peer, parts, source, exchange);
    Box::pin(attempting.run()).await
}

/// A request to a port without routes.
struct Going {
    worker: Rc<Worker>,
    service: Arc<Service>,
    destination: Destination,
    peer: SocketAddr,
    parts: Parts,
    source: RequestSource,
    exchange: Box<Exchange>,
}

/// The same under a policy with a fault or a fallback.
async fn troubled(mut going: Going) -> Response<ResponseBody> {
    let policy = &going.service.config.policy;
    let of_policy = fallback::Policy {
        fallback: policy.fallback.as_ref(),
        retries: policy.retries.as_ref(),
        timeout: policy.timeouts.request,
    };
    let (worker, peer) = (&going.worker, going.peer);
    let request = (&going.parts, &going.source);
    let kept = Kept::of(&of_policy, worker, peer, request, &mut going.exchange);
    match kept {
        None => go(going).await,
        Some(kept) => kept.guard(go(going)).await,
    }
}

async fn go(going: Going) -> Response<ResponseBody> {
    let Going {
        worker,
        service,
        destination,
        peer,
        parts,
        source,
        mut exchange,
    } = going;
    let policy = &service.config.policy;
    if let Some(fault) = &policy.fault {
        let timeout = policy.timeouts.request;
        let troubled = trouble::inflict(&mut exchange, fault, &parts, peer, timeout);
        if let Some(answer) = Box::pin(troubled).await {
            return answering(answer, exchange);
        }
    }
    if let Some(stop) = stop(&worker, &mut exchange, &service.runtime, &parts, peer) {
        return stop.end(exchange);
    }
    let later = Later::default();
    let way = Way::to(&service, destination, &later);
    let mut attempting = Attempting::new(&worker, way, peer, parts, source, exchange);
    if policy.fault.is_some() {
        // Endpoints may have left while it was delayed.
        attempting.renew();
    }
    Box::pin(attempting.run()).await
}

/// What ends a request before its attempts.
enum Stop {
    Limited(Box<Response<ResponseBody>>),
    Refused(Refusal),
}

impl Stop {
    fn end(self, exchange: Box<Exchange>) -> Response<ResponseBody> {
        match self {
            Self::Limited(answer) => answering(*answer, exchange),
            Self::Refused(refusal) => refusal.end(exchange),
        }
    }
}

/// Asks the limits and the breaker of the service.
fn stop(
    worker: &Worker,
    exchange: &mut Exchange,
    runtime: &ServiceRuntime,
    parts: &Parts,
    peer: SocketAddr,
) -> Option<Stop> {
    let limiter = runtime.rate_limiter();
    if let Some(answer) = limit_caller(worker, exchange, limiter, parts, peer) {
        return Some(Stop::Limited(Box::new(answer)));
    }
    enter(exchange, runtime).err().map(Stop::Refused)
}

/// Why a request does not go on.
#[derive(Debug)]
pub struct Refusal {
    /// The word for it.
    pub reason: Reason,
    /// What happened, and what to check.
    pub detail: String,
}

impl Refusal {
    /// The answer, which ends `exchange`.
    pub fn end(self, exchange: Box<Exchange>) -> Response<ResponseBody> {
        refuse(exchange, self.reason, self.detail)
    }
}

/// Asks the rate limits of the pod's own calls.
pub fn limit_caller(
    worker: &Worker,
    exchange: &mut Exchange,
    limiter: &rate_limit::RateLimiter,
    parts: &Parts,
    peer: SocketAddr,
) -> Option<Response<ResponseBody>> {
    if limiter.is_empty() {
        return None;
    }
    // Of its own pod's calls a sidecar knows one caller: itself.
    let own = worker.shared.tls.own();
    let caller = rate_limit::Caller {
        address: peer.ip(),
        identity: own.as_deref(),
    };
    limit_rate(exchange, limiter, parts, &caller, |_| true)
}

/// The place of a request among its service's, and the service's breaker; counts
/// it in the budget.
pub fn enter(exchange: &mut Exchange, runtime: &ServiceRuntime) -> Result<(), Refusal> {
    let now = exchange.went_on();
    match runtime.limits.try_acquire(Kind::Requests) {
        Some(permit) => exchange.permit = Some(permit),
        None => {
            return Err(Refusal {
                reason: Reason::Overloaded,
                detail: format!("circuitBreaker.maxRequests of {} is reached", runtime.name),
            });
        }
    }
    match runtime.service_breaker().try_admit(now) {
        Some(permit) => exchange.service_breaker = Some(permit),
        None => return Err(breaker_open(runtime, now)),
    }
    runtime.budget.request(now);
    Ok(())
}

/// A service's own breaker lets nothing pass.
pub fn breaker_open(runtime: &ServiceRuntime, now: Timestamp) -> Refusal {
    let cause = runtime.service_breaker().describe(now).cause;
    Refusal {
        reason: Reason::BreakerOpen,
        detail: format!("the circuit breaker of {} is open: {cause}", runtime.name),
    }
}

/// Asks the rate limits. `applies` leaves out those that do not concern this port.
///
/// Gives the answer for a request that is over one.
pub fn limit_rate(
    exchange: &mut Exchange,
    limiter: &rate_limit::RateLimiter,
    parts: &Parts,
    caller: &rate_limit::Caller<'_>,
    applies: impl Fn(&RateLimit) -> bool,
) -> Option<Response<ResponseBody>> {
    if limiter.is_empty() {
        return None;
    }
    let Decision::Refused(refusal) =
        limiter.check_those(&Facts { parts, caller }, exchange.went_on(), applies)
    else {
        return None;
    };
    let detail = format!(
        "rate limit {} of policy {} is reached; try again in {} ms",
        refusal.name,
        refusal.policy,
        refusal.retry_after.as_millis()
    );
    let mut answer = answer::refuse(Reason::RateLimited, detail, exchange.is_grpc);
    answer::set_retry_after(&mut answer, refusal.retry_after);
    answer::set_rate_limit(
        &mut answer,
        refusal.limit,
        refusal.remaining,
        refusal.reset_seconds(),
    );
    exchange.refused(Reason::RateLimited, &answer, clock::now());
    Some(answer)
}

/// A request as rate limits see it.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Its head.
    pub parts: &'a Parts,
    /// Who sent it.
    pub caller: &'a rate_limit::Caller<'a>,
}

impl rate_limit::Facts for Facts<'_> {
    fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    fn path(&self) -> &str {
        self.parts.uri.path()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.parts
            .headers
            .get(name)
            .map(http::HeaderValue::as_bytes)
    }

    fn remote_address(&self) -> Option<IpAddr> {
        Some(self.caller.address)
    }

    fn client_identity(&self) -> Option<&str> {
        self.caller.identity.map(|peer| peer.id.as_str())
    }
}

/// Remora's own answer, which ends `exchange`.
pub fn refuse(
    mut exchange: Box<Exchange>,
    reason: Reason,
    detail: String,
) -> Response<ResponseBody> {
    let answer = answer::refuse(reason, detail, exchange.is_grpc);
    exchange.refused(reason, &answer, clock::now());
    answering(answer, exchange)
}

/// Ends `exchange`, whose caller has left: what it is answered reaches nobody.
pub fn missed(exchange: Box<Exchange>, detail: String) -> Response<ResponseBody> {
    let is_grpc = exchange.is_grpc;
    drop(exchange);
    answer::refuse(Reason::BadRequest, detail, is_grpc)
}

/// `answer`, which ends `exchange` when it has gone out.
pub fn answering(
    mut answer: Response<ResponseBody>,
    exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    if let Some(routed) = &exchange.routed {
        routed.change_own_answer(answer.headers_mut());
    }
    answer.map(|body| body.answering(exchange))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What glibc keeps at hand in pieces (`tcache_max`); a larger one is cut
    /// from its heap each time, which cost a tenth of a request over HTTP/2.
    const AT_HAND: usize = 1032;

    fn size_of_future<F: Future>(_: impl FnOnce() -> F) -> usize {
        size_of::<F>()
    }

    /// Only its type is looked at.
    #[allow(clippy::unreachable, reason = "it is never called")]
    fn some<T>() -> T {
        unreachable!()
    }

    #[test]
    fn what_a_request_needs_comes_in_pieces_that_the_allocator_has_at_hand() {
        for (what, size) in [
            ("outbound", size_of_future(|| outbound(some(), some()))),
            (
                "inbound",
                size_of_future(|| crate::inbound::serve(some(), some(), some(), some())),
            ),
            ("routed", size_of_future(|| way::outbound(some()))),
            (
                "attempts",
                size_of_future(|| some::<Box<Attempting<'static>>>().run()),
            ),
            ("exchange", size_of::<Exchange>()),
            ("attempting", size_of::<Attempting<'static>>()),
        ] {
            assert!(size <= AT_HAND, "{what}: {size} bytes");
        }
    }
}
