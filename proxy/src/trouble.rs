//! Trouble on purpose: `fault` at the caller's side, before anything is decided
//! about the request but where it goes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::answer::Reason;
use crate::body::response::ResponseBody;
use crate::clock;
use crate::exchange::Exchange;
use crate::grpc;
use crate::headers::REASON;
use crate::metrics::counters::FaultKind;
use crate::pipeline::Facts;
use crate::policy::config::trouble::{AbortKind, Fault};
use crate::policy::fault;
use crate::policy::rate_limit::Caller;

/// Does to a request what is drawn for it. Gives the answer for one that ends by
/// it. `timeout` is `timeouts.request`, within which a delay counts.
pub async fn inflict(
    exchange: &mut Exchange,
    fault: &Fault,
    parts: &Parts,
    peer: SocketAddr,
    timeout: Option<Duration>,
) -> Option<Response<ResponseBody>> {
    let caller = Caller {
        address: peer.ip(),
        identity: None,
    };
    let facts = Facts {
        parts,
        caller: &caller,
    };
    let lots = [crate::random::next(), crate::random::next()];
    let drawn = fault::draw(fault, &facts, lots);
    if let Some(delay) = drawn.delay {
        exchange.traffic().faulted(FaultKind::Delay);
        let in_time = wait(exchange, parts, delay, timeout).await;
        exchange.goes_on(clock::now());
        if !in_time {
            let detail = "timeouts.request passed in a delay of fault.delay".to_owned();
            let answer = crate::answer::refuse(Reason::Timeout, detail, exchange.is_grpc);
            exchange.refused(Reason::Timeout, &answer, clock::now());
            return Some(answer);
        }
    }
    let answer = match drawn.abort? {
        AbortKind::Http(status) => {
            exchange.traffic().faulted(FaultKind::Abort);
            let status = no_tunnel(parts, status);
            abort(exchange.is_grpc, status, grpc_of(status))
        }
        AbortKind::Grpc(code) => {
            exchange.traffic().faulted(FaultKind::Abort);
            abort(exchange.is_grpc, no_tunnel(parts, http_of(code)), code)
        }
        AbortKind::Reset => {
            exchange.traffic().faulted(FaultKind::Reset);
            exchange.caller().interim.broken.set(true);
            abort(exchange.is_grpc, StatusCode::SERVICE_UNAVAILABLE, 14)
        }
    };
    exchange.refused(Reason::Fault, &answer, clock::now());
    Some(answer)
}

/// Whether the request has time left after it.
async fn wait(
    exchange: &Exchange,
    parts: &Parts,
    delay: Duration,
    timeout: Option<Duration>,
) -> bool {
    let of_call = exchange.is_grpc.then(|| grpc::timeout(&parts.headers));
    let ends = [timeout, of_call.flatten()].into_iter().flatten().min();
    let until = exchange.started().after(delay);
    let ends = ends.map(|span| exchange.started().after(span));
    let at = ends.map_or(until, |ends| ends.min(until));
    tokio::time::sleep_until(clock::instant(at)).await;
    ends.is_none_or(|ends| until < ends)
}

/// To CONNECT a success would say that there is a tunnel.
fn no_tunnel(parts: &Parts, status: StatusCode) -> StatusCode {
    if parts.method == Method::CONNECT && status.is_success() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    status
}

fn abort(is_grpc: bool, status: StatusCode, code: u8) -> Response<ResponseBody> {
    const DETAIL: &str = "a fault that the policy injects";
    if is_grpc {
        let mut answer = Response::new(ResponseBody::own(Bytes::new()));
        *answer.headers_mut() = grpc::alone(Reason::Fault, code, DETAIL);
        return answer;
    }
    let body = match status {
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
            Bytes::new()
        }
        _ => Bytes::from_static(b"a fault that the policy injects\n"),
    };
    let mut answer = Response::new(ResponseBody::own(body));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(REASON, HeaderValue::from_static(Reason::Fault.word()));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    fields.insert(CONTENT_TYPE, text);
    answer
}

/// gRPC, "HTTP to gRPC Status Code Mapping".
const fn grpc_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// google.rpc.Code says to each code which status of HTTP it is.
fn http_of(code: u8) -> StatusCode {
    let status = match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
