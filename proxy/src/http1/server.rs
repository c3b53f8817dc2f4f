//! Serves one caller's HTTP/1.1 connection: hyper around a handler.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::callers::Signal;
use crate::clock;
use crate::http1::caller::{CallerIo, CallerState};
use crate::http1::response_body::ResponseBody;
use crate::io::Prefixed;
use crate::worker::Worker;

/// A head may be so large, and have so many fields; then 431.
pub const HEAD_BYTES: usize = 64 * 1024;
/// See [`HEAD_BYTES`].
pub const HEAD_FIELDS: usize = 256;

/// What hyper may hold of one connection: a whole head has to fit.
pub const BUFFER_BYTES: usize = HEAD_BYTES + 8 * 1024;

/// Serves `stream` until it ends, or until draining lets it end after the
/// request in hand. `handle` answers each request; it is told the connection's
/// state so that the answer's end can be noted there.
pub async fn serve<H, F>(worker: &Rc<Worker>, stream: Prefixed, peer: SocketAddr, handle: H)
where
    H: Fn(Request<Incoming>, Rc<CallerState>) -> F,
    F: Future<Output = Response<ResponseBody>>,
{
    let state = CallerState::new(clock::now(), stream.has_prefix());
    let watched = worker.callers.watch(Rc::clone(&state));
    let service = service_fn(|request| {
        state.begin();
        let answer = handle(request, Rc::clone(&state));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let io = TokioIo::new(CallerIo::new(stream, Rc::clone(&state)));
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
        match std::task::ready!(watched.poll_signal(cx)) {
            Signal::Expired => Poll::Ready(None),
            Signal::Drain => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().poll(cx).map(Some)
            }
        }
    })
    .await;
    let Some(ended) = ended else {
        tracing::debug!(%peer, "closing a caller's connection that sends no whole request");
        return;
    };
    if let Err(error) = ended {
        worker.shared.count_caller_error(&error);
        tracing::debug!(%peer, %error, status = state.refused(), "a caller's connection ended with an error");
    }
}
