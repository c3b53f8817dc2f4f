//! Serves one caller's HTTP/1.1 connection, all of it in the task that polls it.
//!
//! Between requests the connection is this future, its socket and nothing else;
//! what a request needs is in one box that goes with it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::answer::{Asked, End, Handled};
use super::limits::{LINGER_BYTES, LINGER_TIME};
use super::link::Link;
pub use super::link::RequestStream;
use super::parse::{self, HeadError, RequestHead};
use super::wire::{HeadFault, Wire};
use crate::body::response::ResponseBody;
use crate::body::{Incoming, Timed};
use crate::caller::{Caller, CallerState, Interim};
use crate::callers::Callers;
use crate::clock;
use crate::io::Prefixed;
use crate::relay::Scratch;
use crate::worker::Worker;

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
    let host = Host {
        callers: &worker.callers,
        scratch: &worker.scratch,
        draining: &worker.draining,
        bad_requests: &worker.shared.connections.bad_requests,
    };
    serve_for(host, stream, peer, handle).await;
}

/// What of a worker the server needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host<'a> {
    pub callers: &'a Callers,
    pub scratch: &'a Scratch,
    pub draining: &'a Cell<bool>,
    pub bad_requests: &'a AtomicU64,
}

/// See [`serve`].
pub(super) async fn serve_for<H, F, B>(
    host: Host<'_>,
    stream: Prefixed,
    peer: SocketAddr,
    handle: H,
) where
    H: Fn(Request<Incoming>, Caller) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Timed + Unpin,
{
    let caller = Caller {
        state: CallerState::new(clock::now(), stream.has_prefix()),
        interim: Rc::new(Interim::default()),
    };
    let (prefix, stream) = stream.into_parts();
    let wire = Wire::new(stream, prefix, host.scratch);
    let link = Link::new(wire, Rc::clone(&caller.state));
    let watched = host.callers.watch(Rc::clone(&caller.state));
    let mut serving = pin!(serve_each(host, &link, &caller, handle));
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        watched.poll_expired(cx).map(|()| None)
    });
    match ended.await {
        None => tracing::debug!(%peer, "closing a caller's connection that sends no whole request"),
        Some(Err(fault)) => {
            tracing::debug!(%peer, %fault, "a caller's connection ended with an error");
        }
        Some(Ok(())) => {}
    }
}

/// Answers one request after the other.
async fn serve_each<H, F, B>(
    host: Host<'_>,
    link: &Rc<Link>,
    caller: &Caller,
    handle: H,
) -> Result<(), HeadFault>
where
    H: Fn(Request<Incoming>, Caller) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Timed + Unpin,
{
    loop {
        let head = match poll_fn(|cx| link.poll_head(cx)).await {
            Ok(None) => return Ok(()),
            Ok(Some(head)) => parse::request(&head).map_err(HeadFault::from),
            Err(fault) => Err(fault),
        };
        let head = match head {
            Ok(head) => head,
            Err(HeadFault::Wrong(error)) => {
                host.bad_requests.fetch_add(1, Relaxed);
                Box::pin(refuse(link, error)).await;
                return Err(error.into());
            }
            Err(fault) => return Err(fault),
        };
        let mut handled = begin(link, caller, head, &handle);
        let giving = poll_fn(|cx| handled.poll(cx, host.draining.get())).await;
        drop(handled);
        let end = match giving {
            Some(mut giving) => poll_fn(|cx| giving.poll(cx, link)).await,
            None if caller.interim.broken.get() => End::Reset,
            None => End::Abort,
        };
        link.end();
        if link.is_malformed() {
            host.bad_requests.fetch_add(1, Relaxed);
        }
        match end {
            End::KeepAlive if link.is_body_ended() || Box::pin(drain(link)).await => {}
            End::Close => {
                let closing = poll_fn(|cx| link.with_wire(|wire| wire.poll_shutdown(cx)));
                // A caller that does not take the end has had its answer.
                let _ = tokio::time::timeout(LINGER_TIME, closing).await;
                return Ok(());
            }
            End::KeepAlive | End::Linger => {
                Box::pin(linger(link)).await;
                return Ok(());
            }
            End::Abort => return Ok(()),
            End::Reset => {
                link.with_wire(|wire| wire.stream().reset_on_close());
                return Ok(());
            }
        }
    }
}

/// Gives a request to its handler. No `async fn`: its arguments would be part of
/// a connection that waits for the next request.
fn begin<'a, H, F, B>(
    link: &'a Rc<Link>,
    caller: &'a Caller,
    head: RequestHead,
    handle: &H,
) -> Handled<'a, F>
where
    H: Fn(Request<Incoming>, Caller) -> F,
    F: Future<Output = Response<B>>,
{
    caller.state.begin();
    caller.interim.reset();
    let asked = Asked {
        method: head.parts.method.clone(),
        version: head.parts.version,
        keep_alive: head.keep_alive,
        tunnel: head.tunnel,
        expects_continue: head.expects_continue,
    };
    let body = match link.begin(head.length, head.tunnel) {
        Some(stream) => Incoming::Http1Request(stream),
        None => Incoming::Empty,
    };
    let request = Request::from_parts(head.parts, body);
    Handled {
        link,
        caller,
        asked,
        handling: Box::pin(handle(request, caller.clone())),
        continued: false,
    }
}

/// Reads a little of a request's body that nobody wanted, so that the
/// connection can be kept; gives whether it ended.
async fn drain(link: &Link) -> bool {
    let mut drained = 0;
    let draining = poll_fn(|cx| link.poll_drain(cx, &mut drained));
    matches!(tokio::time::timeout(LINGER_TIME, draining).await, Ok(true))
}

/// Answers what is no request, and ends the connection.
async fn refuse(link: &Link, error: HeadError) {
    let (status, detail) = match error {
        HeadError::TooLarge => (
            "431 Request Header Fields Too Large",
            "the request's head is larger than 64 KiB or has more than 256 fields",
        ),
        HeadError::Malformed(detail) => ("400 Bad Request", detail),
    };
    let words = match error {
        HeadError::TooLarge => "",
        HeadError::Malformed(_) => "the request is not well-formed HTTP/1.1: ",
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\nx-remora-reason: bad_request\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{words}{detail}\n",
        words.len() + detail.len() + 1
    );
    let answer = Bytes::from(answer);
    let written = poll_fn(|cx| {
        let written = link.with_wire(|wire| wire.write(cx, |batch| batch.data(answer.clone())));
        Poll::Ready(written.is_ok())
    });
    if written.await {
        linger(link).await;
    }
}

/// Ends a connection on which more may be under way from the caller: closing
/// it with that unread would reset it, and the reset would overtake the answer.
async fn linger(link: &Link) {
    let mut read = 0;
    let mut told = false;
    let reading = poll_fn(|cx| {
        link.with_wire(|wire| {
            if !told {
                if std::task::ready!(wire.poll_flush(cx)).is_err() {
                    return Poll::Ready(());
                }
                wire.shutdown();
                told = true;
            }
            wire.unread = Bytes::new();
            while read <= LINGER_BYTES {
                match std::task::ready!(wire.poll_read(cx, <[u8]>::len)) {
                    Ok(0) | Err(_) => break,
                    Ok(more) => read += more,
                }
            }
            Poll::Ready(())
        })
    });
    // A caller that neither reads nor closes is not waited for.
    let _ = tokio::time::timeout(LINGER_TIME, reading).await;
}
