//! A connection upstream that many requests share.
//!
//! A handle costs a reference count. The connection itself is driven by a task
//! of its own; a request's body is read by the request's own task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, StatusCode};
use http_body::Body;
use tokio::sync::Notify;

use super::frames::Frames;
use super::io::{Deferred, Turn, UPSTREAM_TURN_BYTES};
use super::leaving::{Awaited, Leaving};
use super::stall::Stall;
use super::stream::{Receive, Send, Sending};
use super::{MESH_PREFACE, message, settings, unread};
use crate::body::Incoming;
use crate::body::request::{RequestBody, RequestBodyError};
use crate::caller::Caller;
use crate::clock;
use crate::http1::limits::INTERIM_ANSWERS;
use crate::io::{Prefixed, Stream};
use crate::upstream::{Head, SendError};

/// A handle on an open HTTP/2 connection. The connection stays open until it is
/// closed or drained, whoever holds handles.
#[derive(Clone, Debug)]
pub struct Connection(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    io: Deferred,
    /// Gone once no further stream may begin.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    streams: Cell<usize>,
    /// Streams that the upstream allows.
    allowed: Cell<usize>,
    /// The upstream's SETTINGS have come.
    settled: Cell<bool>,
    closed: Cell<bool>,
    /// A stream was given up, and the upstream may not have been told.
    telling: Cell<bool>,
    /// Wakes the driver, which tells it.
    driver: RefCell<Option<Waker>>,
    /// Told when `settled` or `closed` turns true, and `telling` false.
    changed: Notify,
    leaving: Leaving,
}

impl Shared {
    fn driven_by(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|held| held.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }
}

/// A stream's place among those of its connection.
#[derive(Debug)]
pub(super) struct Place {
    shared: Rc<Shared>,
    /// Both sides have said all.
    pub(super) ended: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get() - 1);
        if !self.ended && !self.shared.closed.get() {
            self.shared.telling.set(true);
            // h2 wakes it as well, but not for a stream that never began.
            if let Some(driver) = &*self.shared.driver.borrow() {
                driver.wake_by_ref();
            }
        }
    }
}

impl Connection {
    /// Begins HTTP/2 on `stream`. Nothing is waited for: what a client says
    /// first goes out together with the first request.
    ///
    /// # Errors
    /// None of the socket's: those end the connection, and what is sent on it.
    pub async fn open(stream: Stream) -> Result<Self, io::Error> {
        Self::begin(stream, &[]).await
    }

    /// The same to a sidecar: behind [`MESH_PREFACE`], where TLS has not said it.
    ///
    /// # Errors
    /// As for [`Connection::open`].
    pub async fn open_mesh(stream: Stream) -> Result<Self, io::Error> {
        let preface = match stream {
            Stream::Tls(_) => &[],
            _ => MESH_PREFACE,
        };
        Self::begin(stream, preface).await
    }

    async fn begin(stream: Stream, preface: &[u8]) -> Result<Self, io::Error> {
        let stream = Prefixed::new(Bytes::new(), stream);
        let io = Deferred::new(stream, Frames::of_upstream(), UPSTREAM_TURN_BYTES);
        io.say_first(preface);
        let (sender, connection) = settings::client()
            .handshake::<_, Bytes>(io.clone())
            .await
            .map_err(io_error)?;
        let shared = Rc::new(Shared {
            io,
            sender: RefCell::new(Some(sender)),
            streams: Cell::new(0),
            allowed: Cell::new(settings::UPSTREAM_STREAMS_AT_FIRST),
            settled: Cell::new(false),
            closed: Cell::new(false),
            telling: Cell::new(false),
            driver: RefCell::default(),
            changed: Notify::new(),
            leaving: Leaving::default(),
        });
        tokio::task::spawn_local(drive(connection, Rc::clone(&shared)));
        Ok(Self(shared))
    }

    /// Whether a request may be sent on it: it is open, and neither side ends it.
    pub fn is_usable(&self) -> bool {
        !self.0.closed.get()
            && self.0.sender.borrow().is_some()
            && !self.0.io.frames(|frames| frames.is_going_away())
    }

    /// Whether a further stream may begin now: neither the upstream's limit nor
    /// [`settings::UPSTREAM_STREAMS`] is reached.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How many further streams may begin now.
    pub fn room(&self) -> usize {
        let allowed = self.0.allowed.get().min(settings::UPSTREAM_STREAMS);
        allowed.saturating_sub(self.0.streams.get())
    }

    /// Whether the upstream has said its first words, which are SETTINGS.
    pub fn has_heard(&self) -> bool {
        self.0.settled.get()
    }

    /// Streams now, until the end of each answer.
    pub fn streams(&self) -> usize {
        self.0.streams.get()
    }

    /// Ends it at once, and every stream on it: the upstream sees that before
    /// anything that is sent to it later.
    pub fn close(&self) {
        self.0.sender.borrow_mut().take();
        self.0.closed.set(true);
        self.0.io.close();
    }

    /// Begins no further stream; closes when the last has ended.
    pub fn drain(&self) {
        self.0.sender.borrow_mut().take();
    }

    /// Completes when the connection has been closed, by whichever side.
    pub async fn closed(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.closed.get() {
                return;
            }
            changed.await;
        }
    }

    /// Sends a request and waits for the answer's head; the rest of `body` is
    /// sent while what comes back is polled. Dropped before, the stream is
    /// reset with CANCEL.
    ///
    /// # Errors
    /// See [`SendError`]; [`SendError::Unsent`] also where there is no room.
    pub async fn send(
        &self,
        head: Head<'_>,
        body: RequestBody,
        caller: &Caller,
    ) -> Result<(http::response::Parts, Incoming), SendError> {
        let mut request = message::request(head);
        if request.extensions().get::<h2::ext::Protocol>().is_some() {
            self.offers_extended_connect().await?;
        }
        // Before anything is waited for: whoever chose this connection saw room on it.
        let place = self.place().ok_or(SendError::Unsent)?;
        self.all_told().await;
        let before = self.0.io.sent_bytes();
        let ends = body.is_end_stream();
        let (response, stream) = {
            let sender = self.0.sender.borrow();
            let sender = sender.as_ref().ok_or(SendError::Unsent)?;
            begin_stream(sender, &mut request, ends)?
        };
        let mut awaited = Awaited::new(&self.0.leaving, response, place);
        let mut sending = (!ends).then(|| Send::new(stream, body));
        let mut interim = 0;
        let answered = poll_fn(|cx| {
            let polled =
                awaited.poll_with(|response| poll_answer(response, caller, &mut interim, cx));
            if let Poll::Ready(answer) = polled {
                return Poll::Ready(answer);
            }
            if let Some(body) = &mut sending
                && let Poll::Ready(sent) = body.poll(cx)
            {
                if let Err(Sending::Broke(error)) = sent {
                    return Poll::Ready(Err(Unanswered::Body(error)));
                }
                sending = None;
            }
            Poll::Pending
        })
        .await;
        match answered {
            Ok(answer) => Ok(taken(answer, head, sending, awaited.over(), caller)),
            Err(Unanswered::Body(RequestBodyError::Caller(error))) => Err(SendError::Caller(error)),
            Err(Unanswered::Body(RequestBodyError::Superseded)) => Err(SendError::Superseded),
            Err(Unanswered::Nonsense(why)) => Err(SendError::Malformed(why.to_owned())),
            Err(Unanswered::Upstream(error)) => {
                drop(awaited.over());
                let unsent = self.0.io.sent_bytes() == before;
                Err(send_error(&error, unsent, interim > 0))
            }
        }
    }

    fn place(&self) -> Option<Place> {
        if self.0.closed.get() || !self.has_room() {
            return None;
        }
        self.0.streams.set(self.0.streams.get() + 1);
        Some(Place {
            shared: Rc::clone(&self.0),
            ended: false,
        })
    }

    /// Waits until RST_STREAM has been written for each stream that was given
    /// up. h2 writes a new stream's head before all that waits, so an upstream
    /// would have one request more than the limits allow.
    async fn all_told(&self) {
        while self.0.telling.get() {
            let changed = self.0.changed.notified();
            if self.0.closed.get() {
                return;
            }
            changed.await;
        }
    }

    /// RFC 8441, section 3: only once the upstream has said that it takes them.
    async fn offers_extended_connect(&self) -> Result<(), SendError> {
        loop {
            let changed = self.0.changed.notified();
            if self.0.closed.get() {
                return Err(SendError::Unsent);
            }
            if self.0.settled.get() {
                break;
            }
            changed.await;
        }
        match self.0.sender.borrow().as_ref() {
            None => Err(SendError::Unsent),
            Some(sender) if sender.is_extended_connect_protocol_enabled() => Ok(()),
            Some(_) => Err(SendError::Unsupported(
                "the upstream does not take an extended CONNECT (RFC 8441)",
            )),
        }
    }
}

enum Unanswered {
    Upstream(h2::Error),
    Nonsense(&'static str),
    Body(RequestBodyError),
}

type Begun = (ResponseFuture, h2::SendStream<Bytes>);

fn begin_stream(
    sender: &SendRequest<Bytes>,
    request: &mut http::Request<()>,
    ends: bool,
) -> Result<Begun, SendError> {
    // A stream waits in h2 until one that has ended for us has ended on the
    // wire. The handle that began it remembers it, and would take its waker for
    // the one given here, so that its body never moved again; a fresh handle
    // remembers none, and queues up behind.
    let mut sender = sender.clone();
    let mut noop = Context::from_waker(Waker::noop());
    if let Poll::Ready(Err(_)) = sender.poll_ready(&mut noop) {
        return Err(SendError::Unsent);
    }
    let request = std::mem::take(request);
    sender
        .send_request(request, ends)
        .map_err(|error| match error.reason() {
            None if !error.is_io() => SendError::Malformed(error.to_string()),
            _ => SendError::Unsent,
        })
}

fn poll_answer(
    response: &mut ResponseFuture,
    caller: &Caller,
    interim: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<Result<http::Response<h2::RecvStream>, Unanswered>> {
    while let Some(answer) = std::task::ready!(response.poll_informational(cx)) {
        let (parts, ()) = answer.map_err(Unanswered::Upstream)?.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 9113, section 8.6.
            let why = "the upstream answered 101, which HTTP/2 does not have";
            return Poll::Ready(Err(Unanswered::Nonsense(why)));
        }
        *interim += 1;
        if *interim > INTERIM_ANSWERS {
            let why = "the upstream sends interim answers without end";
            return Poll::Ready(Err(Unanswered::Nonsense(why)));
        }
        caller.interim.push(parts.status, parts.headers);
    }
    Pin::new(response).poll(cx).map_err(Unanswered::Upstream)
}

/// The answer as the request's side of the sidecar takes it.
fn taken(
    answer: http::Response<h2::RecvStream>,
    head: Head<'_>,
    sending: Option<Send<RequestBody>>,
    mut place: Option<Place>,
    caller: &Caller,
) -> (http::response::Parts, Incoming) {
    let (mut parts, body) = answer.into_parts();
    parts.version = head.parts.version;
    let hears = (head.parts.method == Method::CONNECT && parts.status.is_success())
        .then(|| Rc::clone(&caller.interim));
    if body.is_end_stream() && (hears.is_none() || sending.is_none()) {
        if let Some(place) = &mut place {
            place.ended = sending.is_none();
        }
        return (parts, Incoming::Empty);
    }
    let body = Receive::of_upstream(body, &parts.headers, sending, place, hears);
    (parts, Incoming::Http2(body))
}

/// `unsent`: not one byte went out since the request was handed over.
fn send_error(error: &h2::Error, unsent: bool, interim: bool) -> SendError {
    let remote = error.is_remote();
    // h2 tells a stream of GOAWAY only where the stream is above its last one.
    if remote && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)) {
        return SendError::Refused;
    }
    if error.is_io() && unsent {
        return SendError::Unsent;
    }
    if error.is_io() && !interim {
        return SendError::Unanswered;
    }
    if error.is_reset() && error.is_library() {
        return SendError::Malformed(format!("the upstream's answer is malformed: {error}"));
    }
    SendError::Broke(format!("the upstream broke the stream off: {error}"))
}

fn io_error(error: h2::Error) -> io::Error {
    let text = error.to_string();
    error.into_io().unwrap_or_else(|| io::Error::other(text))
}

type Driven = h2::client::Connection<Deferred, Bytes>;

fn has_ended(connection: &mut Driven, cx: &mut Context<'_>) -> bool {
    let polled = Pin::new(connection).poll(cx);
    if let Poll::Ready(Err(error)) = &polled {
        tracing::debug!(%error, "a connection upstream ended with an error");
    }
    polled.is_ready()
}

async fn drive(mut connection: Driven, shared: Rc<Shared>) {
    let mut seen = 0;
    let mut counted_since = clock::now();
    let mut stall = Stall::default();
    let mut window = settings::STREAM_WINDOW;
    poll_fn(|cx| {
        let io = &shared.io;
        shared.driven_by(cx.waker());
        io.begin();
        // Refused while the last change is not acknowledged: then the next turn says it.
        let wanted = unread::stream_window();
        if wanted != window && connection.set_initial_window_size(wanted).is_ok() {
            window = wanted;
        }
        let mut ended = has_ended(&mut connection, cx);
        if !ended && shared.leaving.turn(&mut connection, io, cx) {
            ended = has_ended(&mut connection, cx);
        }
        let settings = io.frames(|frames| frames.settings());
        if settings != seen {
            seen = settings;
            shared.allowed.set(connection.max_concurrent_send_streams());
            shared.settled.set(true);
            shared.changed.notify_waiters();
        }
        let turn = io.end(cx);
        if shared.telling.replace(false) {
            shared.changed.notify_waiters();
        }
        if io.frames(|frames| frames.is_suspicious()) {
            let now = clock::now();
            if super::frames::is_flood(counted_since, now) {
                tracing::warn!("an upstream floods its connection with HTTP/2 frames that carry nothing; closing it");
                return Poll::Ready(());
            }
            counted_since = now;
            io.frames(Frames::forgive);
        }
        match turn {
            _ if ended => Poll::Ready(()),
            Err(_) => Poll::Ready(()),
            Ok(Turn::Wait) => io.poll_stalled(&mut stall, cx),
            Ok(Turn::Again) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await;
    shared.sender.borrow_mut().take();
    shared.closed.set(true);
    shared.leaving.close();
    // Ends what is still on it.
    drop(connection);
    shared.io.close();
    shared.changed.notify_waiters();
}
