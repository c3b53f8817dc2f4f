//! Serves one caller's HTTP/1.1 connection: hyper around a handler.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use http::header::{self, HeaderValue};
use http::{Request, Response, Version};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::answer::{self, Reason};
use crate::body::Incoming;
use crate::body::response::ResponseBody;
use crate::caller::{Caller, CallerState, Interim};
use crate::clock;
use crate::http1::caller::{CallerIo, Refusals};
use crate::io::Prefixed;
use crate::worker::Worker;

/// A head may be so large, and have so many fields; then 431.
pub const HEAD_BYTES: usize = 64 * 1024;
/// See [`HEAD_BYTES`].
pub const HEAD_FIELDS: usize = 256;

/// What hyper may hold of one connection: a whole head has to fit.
pub const BUFFER_BYTES: usize = HEAD_BYTES + 8 * 1024;

/// Serves `stream` until it ends. `handle` answers each request; it is told the
/// connection's state so that the answer's end can be noted there.
///
/// In drain each answer says `Connection: close`. A connection without a request
/// is left alone: closing it could meet a request that is on its way.
pub async fn serve<H, F>(worker: &Rc<Worker>, stream: Prefixed, peer: SocketAddr, handle: H)
where
    H: Fn(Request<Incoming>, Caller) -> F,
    F: Future<Output = Response<ResponseBody>>,
{
    let state = CallerState::new(clock::now(), stream.has_prefix());
    let refusals = Refusals::new();
    let interim = Rc::new(Interim::default());
    let watched = worker.callers.watch(Rc::clone(&state));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let request = request.map(Incoming::Hyper);
        state.begin();
        refusals.begin();
        let caller = Caller {
            state: Rc::clone(&state),
            interim: Rc::clone(&interim),
        };
        let answer = match check(&request) {
            Ok(()) => Ok(handle(request, caller)),
            Err(detail) => Err(detail),
        };
        let state = Rc::clone(&state);
        async move {
            let (mut answer, last) = match answer {
                Ok(answer) => (answer.await, false),
                Err(detail) => {
                    worker.shared.connections.bad_requests.fetch_add(1, Relaxed);
                    state.end(clock::now());
                    let answer = answer::refuse(Reason::BadRequest, detail.to_owned(), false);
                    (answer, true)
                }
            };
            if last || worker.draining.get() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(CallerIo::new(
        stream,
        Rc::clone(&state),
        Rc::clone(&refusals),
    ));
    let connection = Builder::new()
        .auto_date_header(false)
        .max_headers(HEAD_FIELDS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        watched.poll_expired(cx).map(|()| None)
    })
    .await;
    let Some(ended) = ended else {
        tracing::debug!(%peer, "closing a caller's connection that sends no whole request");
        return;
    };
    if let Err(error) = ended {
        worker.shared.count_caller_error(&error);
        tracing::debug!(%peer, %error, status = refusals.refused(), "a caller's connection ended with an error");
    }
}

/// What hyper lets pass although two readers may understand it differently
/// (RFC 9112, section 3.2).
fn check<B>(request: &Request<B>) -> Result<(), &'static str> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("the request has more than one Host");
    }
    let names_none = first.is_none() && request.uri().authority().is_none();
    if names_none && request.version() == Version::HTTP_11 {
        return Err("the request has no Host, which HTTP/1.1 demands");
    }
    Ok(())
}
