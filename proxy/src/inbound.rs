//! The life of a request to the pod: whether it may, rate limits, then the
//! application.
//!
//! What is enforced and counted on each of the pod's ports is in [`ports`]. A connection
//! to the application is a plain one; nothing is retried here, because only
//! the caller knows other endpoints. What the application turned away unseen, as
//! it does when it ends a connection of HTTP/2, is sent once more.

mod ports;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};

use crate::answer::{self, Reason};
use crate::attempt::{self, Bounds, Failure, Held, Sent};
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
use crate::policy::admission;
use crate::policy::config::{AttemptEnd, Outbound};
use crate::policy::limit::Kind;
use crate::policy::rate_limit::Caller as RateCaller;
use crate::policy::retry;
use crate::state::{MeshProtocols, MtlsMode};
use crate::tls::context::Refused;
use crate::upstream::Head;
use crate::wire::Wire;
use crate::worker::Worker;

pub use ports::{CountedPort, Inbound, InboundPort};

/// What is told to who was not admitted: overload passes, or it does not.
const ADMISSION_RETRY_AFTER: Duration = Duration::from_secs(1);

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
    let who = RateCaller {
        address: arrival.peer.ip(),
        identity: arrival.identity.as_deref(),
    };
    let limited = pipeline::limit_rate(&mut exchange, &port.limiter, &parts, &who, |limit| {
        port.applies(limit)
    });
    if let Some(answer) = limited {
        return pipeline::answering(answer, exchange);
    }
    if let Some(answer) = admit(&mut exchange, &port, &parts, &who) {
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
    caller: &RateCaller<'_>,
) -> Option<Response<ResponseBody>> {
    let facts = pipeline::Facts { parts, caller };
    let priority = admission::priority::of(&port.admissions, &facts, caller.identity);
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
