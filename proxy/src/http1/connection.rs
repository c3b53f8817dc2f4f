//! A connection upstream: owned by whoever sends on it, with no task of its own.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http::{Method, StatusCode, Version};
use http_body::{Frame, SizeHint};

use super::encode;
use super::framing::{self, Length};
use super::limits::INTERIM_ANSWERS;
use super::parse::{self, ResponseHead};
use super::receive::Receiving;
use super::send::WrongLength;
use super::upload::{Upload, UploadError};
use super::wire::{HeadFault, Wire};
use crate::body::request::{RequestBody, RequestBodyError};
use crate::body::{BodyError, Incoming};
use crate::caller::{Caller, Interim};
use crate::io::Stream;
use crate::relay::Scratch;
use crate::upstream::{Head, SendError};

/// An HTTP/1.1 connection upstream that is idle, or about to carry one exchange.
#[derive(Debug)]
pub struct Connection {
    exchange: Box<Exchange>,
}

/// A connection with what goes over it, in one place, so that it is moved cheaply.
#[derive(Debug)]
struct Exchange {
    wire: Wire,
    upload: Upload,
    answer: Receiving,
    /// It may carry another request once both directions have ended.
    keep_alive: bool,
    tunnel: bool,
    /// Of a tunnel: who hears that the upstream says no more.
    hears: Option<Rc<Interim>>,
}

impl Connection {
    /// Over `stream`; reads and writes through the worker's `scratch`.
    pub fn new(stream: Stream, scratch: &Scratch) -> Self {
        Self {
            exchange: Box::new(Exchange {
                wire: Wire::new(stream, Bytes::new(), scratch),
                upload: Upload::none(),
                answer: Receiving::new(Length::Exact(0)),
                keep_alive: true,
                tunnel: false,
                hears: None,
            }),
        }
    }

    /// Whether the peer has neither closed it nor sent anything unasked. No
    /// system call unless the reactor saw something come in.
    pub fn is_usable(&self) -> bool {
        self.exchange.wire.is_idle()
    }

    /// Sends a request and waits for the head of its answer. The answer's body
    /// owns the connection ([`Incoming::take_connection`]), and what remains of
    /// the request's body goes out while that is read.
    ///
    /// # Errors
    /// See [`SendError`]; the connection is closed by then.
    pub async fn send(
        self,
        head: Head<'_>,
        body: RequestBody,
        caller: &Caller,
    ) -> Result<(Parts, Incoming), SendError> {
        if !self.is_usable() {
            return Err(SendError::Unsent);
        }
        let mut exchange = self.exchange;
        // CONNECT has a target and no body; an upgrade none before its answer.
        let asks = parse::asks_for_tunnel(head.parts);
        let (coding, said) = encode::request_coding(head.parts, &body, asks);
        exchange.upload = Upload::new(body, coding, asks);
        let mut waiting = Waiting {
            asks_for_upgrade: asks && head.parts.method != Method::CONNECT,
            interim_answers: 0,
        };
        poll_fn(|cx| {
            let write = |out: &mut Vec<u8>| encode::request_head(out, head, said, asks);
            let Exchange { upload, wire, .. } = &mut *exchange;
            Poll::Ready(match upload.begin(cx, wire, write) {
                Err((UploadError::Io(_), false)) => Err(SendError::Unsent),
                Err((error, _)) => waiting.upload_failed(error, upload),
                Ok(()) => Ok(()),
            })
        })
        .await?;
        let answer = poll_fn(|cx| waiting.poll_answer(cx, &mut exchange, caller)).await?;
        exchange.begin_answer(answer, head, caller, asks)
    }
}

/// A request that is being sent, until the head of its answer has come.
struct Waiting {
    asks_for_upgrade: bool,
    interim_answers: usize,
}

impl Waiting {
    /// Goes on to read where the upstream takes no more: it may have answered
    /// before it closed (RFC 9112, section 9.5).
    fn upload_failed(&self, error: UploadError, upload: &mut Upload) -> Result<(), SendError> {
        match error {
            UploadError::Io(_) => {
                upload.break_off();
                Ok(())
            }
            UploadError::Body(RequestBodyError::Caller(error)) => Err(SendError::Caller(error)),
            UploadError::Body(RequestBodyError::Superseded) => Err(SendError::Superseded),
            UploadError::Length(WrongLength) => Err(SendError::Caller(BodyError::Malformed(
                "it is not as long as its Content-Length says",
            ))),
        }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        caller: &Caller,
    ) -> Poll<Result<ResponseHead, SendError>> {
        let Exchange { upload, wire, .. } = exchange;
        if upload.is_under_way()
            && let Poll::Ready(Err(error)) = upload.poll(cx, wire)
        {
            self.upload_failed(error, upload)?;
        }
        loop {
            let head = match ready!(wire.poll_head(cx)) {
                Ok(Some(head)) => head,
                Ok(None) => return Poll::Ready(Err(self.no_answer("it closed", wire))),
                Err(HeadFault::Broke(error)) => {
                    return Poll::Ready(Err(self.no_answer(&error.to_string(), wire)));
                }
                Err(HeadFault::Wrong(error)) => return Poll::Ready(Err(malformed(&error))),
            };
            let head = parse::response(&head).map_err(|error| malformed(&error))?;
            let status = head.parts.status;
            if status == StatusCode::SWITCHING_PROTOCOLS && !self.asks_for_upgrade {
                let detail = "it switched protocols, which nobody had asked for";
                return Poll::Ready(Err(SendError::Malformed(detail.into())));
            }
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok(head));
            }
            self.interim_answers += 1;
            if self.interim_answers > INTERIM_ANSWERS {
                let detail = format!("more than {INTERIM_ANSWERS} interim answers came");
                return Poll::Ready(Err(SendError::Malformed(detail)));
            }
            caller.interim.push(status, head.parts.headers);
        }
    }

    fn no_answer(&self, detail: &str, wire: &Wire) -> SendError {
        if wire.partial_bytes() == 0 && self.interim_answers == 0 {
            return SendError::Unanswered;
        }
        SendError::Broke(format!("it broke off in the head of its answer: {detail}"))
    }
}

fn malformed(error: &parse::HeadError) -> SendError {
    SendError::Malformed(format!("its answer is malformed: {error}"))
}

impl Exchange {
    /// The head of the answer is there: what follows is its body.
    fn begin_answer(
        mut self: Box<Self>,
        answer: ResponseHead,
        head: Head<'_>,
        caller: &Caller,
        asks_for_tunnel: bool,
    ) -> Result<(Parts, Incoming), SendError> {
        let status = answer.parts.status;
        if status == StatusCode::SWITCHING_PROTOCOLS
            && !framing::is_among_offered(&head.parts.headers, &answer.parts.headers)
        {
            let detail = "it switched to a protocol that was not offered";
            return Err(SendError::Malformed(detail.into()));
        }
        self.tunnel = status == StatusCode::SWITCHING_PROTOCOLS
            || (head.parts.method == Method::CONNECT && status.is_success());
        debug_assert!(asks_for_tunnel || !self.tunnel);
        let length = if self.tunnel {
            self.upload.open_tunnel();
            self.hears = Some(Rc::clone(&caller.interim));
            Length::UntilClose
        } else {
            self.upload.close_held();
            answer.length(&head.parts.method)
        };
        self.keep_alive = answer.keep_alive
            && head.parts.version != Version::HTTP_10
            && length != Length::UntilClose;
        self.answer = Receiving::new(length);
        let stream = ResponseStream {
            exchange: Some(self),
        };
        Ok((answer.parts, Incoming::Http1Response(stream)))
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.send_on(cx);
        let polled = self.answer.poll_frame(cx, &mut self.wire);
        if let (Poll::Ready(None), Some(hears)) = (&polled, &self.hears)
            && self.is_half_open()
        {
            hears.half_closed.set(true);
            return Poll::Pending;
        }
        polled
    }

    /// What remains of the request goes out.
    fn send_on(&mut self, cx: &mut Context<'_>) {
        if !self.upload.is_under_way() {
            return;
        }
        match self.upload.poll(cx, &mut self.wire) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                if self.tunnel {
                    self.wire.shutdown();
                }
            }
            Poll::Ready(Err(_)) => {
                // The answer is not to blame, and may come whole; but the
                // upstream must see that the request does not.
                self.upload.break_off();
                self.wire.shutdown();
            }
        }
    }

    /// A tunnel whose caller still speaks when the upstream does not any more.
    fn is_half_open(&self) -> bool {
        self.tunnel && self.answer.is_ended() && self.upload.is_under_way()
    }
}

/// The body of an answer, and the connection that it comes on.
#[derive(Debug)]
pub struct ResponseStream {
    exchange: Option<Box<Exchange>>,
}

impl ResponseStream {
    /// See [`Incoming::take_connection`].
    pub fn take_connection(&mut self) -> Option<Connection> {
        let exchange = self.exchange.take_if(|exchange| {
            exchange.answer.is_ended()
                && exchange.upload.is_ended()
                && exchange.keep_alive
                && exchange.wire.unread.is_empty()
        })?;
        Some(Connection { exchange })
    }

    /// See [`http_body::Body::poll_frame`].
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.exchange {
            Some(exchange) => exchange.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    /// See [`crate::body::Timed::poll_late`].
    pub fn send_on(&mut self, cx: &mut Context<'_>) {
        if let Some(exchange) = &mut self.exchange {
            exchange.send_on(cx);
        }
    }

    /// See [`http_body::Body::is_end_stream`].
    pub fn is_end_stream(&self) -> bool {
        self.exchange
            .as_ref()
            .is_none_or(|exchange| exchange.answer.is_ended() && !exchange.is_half_open())
    }

    /// See [`http_body::Body::size_hint`].
    pub fn size_hint(&self) -> SizeHint {
        match &self.exchange {
            Some(exchange) => exchange.answer.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
