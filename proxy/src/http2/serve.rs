//! Serves one caller's HTTP/2 connection: each stream in a task of its own.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;

use super::frames::{self, Frames};
use super::io::{Deferred, READ_BYTES, Turn};
use super::stall::Stall;
use super::stream::Receive;
use super::{answer, message, settings};
use crate::answer::Reason as Refusal;
use crate::body::{Incoming, Timed};
use crate::caller::{Caller, CallerState, Interim};
use crate::callers::{Callers, Watched};
use crate::clock::{self, Timestamp};
use crate::grpc;
use crate::headers::REASON;
use crate::io::Prefixed;
use crate::worker::Worker;

/// Who speaks on a caller's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An application, or whoever has no sidecar.
    Application,
    /// A sidecar, behind [`super::MESH_PREFACE`], which has been read.
    Mesh,
}

/// [`Interim`]s that a connection keeps for its next streams, because each has
/// an alarm, which is dearer than all else that a stream needs.
const SPARE_INTERIMS: usize = 32;

/// See [`SPARE_INTERIMS`].
#[derive(Debug, Default)]
struct Interims(RefCell<Vec<Rc<Interim>>>);

impl Interims {
    fn take(&self) -> Rc<Interim> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    fn give_back(&self, interim: Rc<Interim>) {
        let mut spare = self.0.borrow_mut();
        // An attempt that still winds down may have it.
        if spare.len() < SPARE_INTERIMS && Rc::strong_count(&interim) == 1 {
            interim.reset();
            spare.push(interim);
        }
    }
}

/// What of a worker its connections need.
#[derive(Clone, Copy, Debug)]
pub struct Keeper<'a> {
    /// Where connections that have outstayed are found.
    pub callers: &'a Callers,
    /// Whether draining has begun.
    pub draining: &'a Cell<bool>,
    /// Counts malformed requests.
    pub bad_requests: &'a AtomicU64,
}

/// Serves `stream` until it ends. `handle` answers each request; the handler's
/// future is dropped where its stream is reset or the connection ends, and it
/// notes the request's end at its [`Caller`].
///
/// In drain the connection says GOAWAY as soon as anything happens on it, and
/// ends with its last stream.
pub async fn serve<H, F, B>(
    worker: &Rc<Worker>,
    stream: Prefixed,
    peer: SocketAddr,
    kind: Kind,
    handle: H,
) where
    H: Fn(Request<Incoming>, Caller) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + Timed + Unpin + 'static,
{
    let keeper = Keeper {
        callers: &worker.callers,
        draining: &worker.draining,
        bad_requests: &worker.shared.connections.bad_requests,
    };
    serve_for(keeper, stream, peer, kind, handle).await;
}

/// See [`serve`].
pub async fn serve_for<H, F, B>(
    keeper: Keeper<'_>,
    stream: Prefixed,
    peer: SocketAddr,
    kind: Kind,
    handle: H,
) where
    H: Fn(Request<Incoming>, Caller) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + Timed + Unpin + 'static,
{
    let state = CallerState::new(clock::now(), true);
    let watched = keeper.callers.watch(Rc::clone(&state));
    let io = Deferred::new(stream, Frames::of_caller(kind), READ_BYTES);
    let Some(connection) = shake(&io, kind, &watched).await else {
        tracing::debug!(%peer, "a connection ended before it was HTTP/2");
        return;
    };
    // The preface was the first head.
    state.begin();
    state.end(clock::now());
    let mut serving = Serving {
        connection,
        io,
        keeper,
        watched,
        state,
        kind,
        handle: Rc::new(handle),
        interims: Rc::default(),
        draining: false,
        in_head: false,
        counted_since: clock::now(),
        calmed: false,
        stall: Stall::default(),
        closing: None,
    };
    let ended = poll_fn(|cx| serving.poll(cx)).await;
    let (io, calmed) = (serving.io.clone(), serving.calmed);
    // Ends what is still on it.
    drop(serving);
    if let Err(error) = &ended {
        tracing::debug!(%peer, %error, "a caller's connection ended with an error");
    }
    if calmed || ended.is_err_and(|error| !error.is_io()) {
        io.linger().await;
    }
}

type Server = h2::server::Connection<Deferred, Bytes>;

async fn shake(io: &Deferred, kind: Kind, watched: &Watched<'_>) -> Option<Server> {
    let mut handshake = settings::server(kind).handshake::<_, Bytes>(io.clone());
    poll_fn(|cx| {
        io.begin();
        let shaken = Pin::new(&mut handshake).poll(cx);
        if let Poll::Ready(shaken) = shaken {
            return Poll::Ready(shaken.ok());
        }
        match io.end(cx) {
            Err(_) => return Poll::Ready(None),
            Ok(Turn::Again) => cx.waker().wake_by_ref(),
            Ok(Turn::Wait) => {}
        }
        watched.poll_expired(cx).map(|()| None)
    })
    .await
}

struct Serving<'a, H> {
    connection: Server,
    io: Deferred,
    keeper: Keeper<'a>,
    watched: Watched<'a>,
    state: Rc<CallerState>,
    kind: Kind,
    handle: Rc<H>,
    interims: Rc<Interims>,
    /// GOAWAY was said, or is about to be.
    draining: bool,
    /// A head has come in part.
    in_head: bool,
    /// Since when frames without use are counted.
    counted_since: Timestamp,
    /// ENHANCE_YOUR_CALM was said.
    calmed: bool,
    /// Of what the socket is to take.
    stall: Stall,
    /// When it is cut off.
    closing: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<H, F, B> Serving<'_, H>
where
    H: Fn(Request<Incoming>, Caller) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + Timed + Unpin + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.io.begin();
        if self.keeper.draining.get() {
            self.drain();
        }
        let ended = loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, mut respond)))) => {
                    // What is reset as soon as it is begun (CVE-2023-44487) reaches
                    // nobody, and costs no more than this.
                    if respond.poll_reset(cx).is_pending() {
                        self.accept(request, respond);
                    }
                }
                Poll::Ready(Some(Err(error))) => break Some(Err(error)),
                Poll::Ready(None) => break Some(Ok(())),
                Poll::Pending => break None,
            }
        };
        let turn = self.io.end(cx);
        if let Some(ended) = ended {
            return Poll::Ready(ended);
        }
        self.look_at_frames();
        if self.watched.poll_expired(cx).is_ready() && self.closing.is_none() {
            self.outstayed(cx);
        }
        if let Some(closing) = &mut self.closing
            && closing.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        match turn {
            Err(_) => return Poll::Ready(Ok(())),
            Ok(Turn::Again) => cx.waker().wake_by_ref(),
            Ok(Turn::Wait) => {}
        }
        self.io.poll_stalled(&mut self.stall, cx).map(Ok)
    }

    fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.connection.graceful_shutdown();
        }
    }

    /// A head that does not end, or nothing for very long.
    fn outstayed(&mut self, cx: &mut Context<'_>) {
        self.drain();
        self.close_soon();
        cx.waker().wake_by_ref();
    }

    fn close_soon(&mut self) {
        let at = clock::instant(clock::now().after(settings::CLOSE_TIMEOUT));
        self.closing = Some(Box::pin(tokio::time::sleep_until(at)));
    }

    fn look_at_frames(&mut self) {
        let (in_head, suspicious) = self.io.frames(|frames| {
            // SETTINGS is the end of a client's preface (RFC 9113, section 3.4).
            let in_head = frames.in_head() || !frames.is_introduced();
            (in_head, frames.is_suspicious())
        });
        if in_head != self.in_head {
            self.in_head = in_head;
            if in_head {
                self.state.heard(clock::now());
            } else {
                // It may have been the fields that end a body.
                self.state.begin();
                self.state.end(clock::now());
            }
        }
        if !suspicious || self.closing.is_some() {
            return;
        }
        let now = clock::now();
        if frames::is_flood(self.counted_since, now) {
            tracing::warn!(
                "a caller floods its connection with HTTP/2 frames that carry nothing; ending it"
            );
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.calmed = true;
            self.close_soon();
        }
        self.counted_since = now;
        self.io.frames(Frames::forgive);
    }

    fn accept(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (mut parts, body) = request.into_parts();
        let marked = self.kind == Kind::Mesh && message::unmark(&mut parts);
        let refusal = if parts.headers.len() > settings::HEAD_FIELDS {
            Some((
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's head has more than 256 fields",
            ))
        } else {
            let checked = if marked {
                message::check_path(&parts)
            } else {
                message::check(&parts)
            };
            checked
                .err()
                .map(|detail| (StatusCode::BAD_REQUEST, detail))
        };
        if let Some((status, detail)) = refusal {
            self.refuse(respond, &parts, status, detail);
            return;
        }
        self.state.begin();
        let caller = Caller {
            state: Rc::clone(&self.state),
            interim: self.interims.take(),
        };
        let bodiless = parts.method == Method::HEAD;
        let incoming = if body.is_end_stream() {
            Incoming::Empty
        } else {
            Incoming::Http2(Receive::of_caller(body, &parts.headers))
        };
        let request = Request::from_parts(parts, incoming);
        let (handle, interims) = (Rc::clone(&self.handle), Rc::clone(&self.interims));
        // In boxes of our own: tokio moves a task's future several times, and
        // the allocator has pieces up to 1 KiB at hand.
        let interim = Rc::clone(&caller.interim);
        let handling = Box::pin(handle(request, caller));
        let task = async move {
            answer::answer(respond, handling, &interim, bodiless).await;
            interims.give_back(interim);
        };
        tokio::task::spawn_local(Box::pin(task));
    }

    fn refuse(
        &self,
        respond: SendResponse<Bytes>,
        parts: &Parts,
        status: StatusCode,
        detail: &'static str,
    ) {
        self.keeper.bad_requests.fetch_add(1, Relaxed);
        tracing::debug!(%status, detail, "refusing a request");
        if grpc::is_call(&parts.headers) {
            let headers = grpc::refusal_alone(Refusal::BadRequest, detail);
            return answer::refuse(respond, StatusCode::OK, headers);
        }
        let mut headers = HeaderMap::new();
        headers.insert(REASON, HeaderValue::from_static(Refusal::BadRequest.word()));
        answer::refuse(respond, status, headers);
    }
}
