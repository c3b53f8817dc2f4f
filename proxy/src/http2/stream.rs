//! What comes on a stream, and what is sent on one.
//!
//! One piece of a body is in hand at a time: the next is asked for when the
//! window had room for the last, and a piece's window is given back to its
//! sender when the next is asked for.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use super::connection::Place;
use super::unread::Unread;
use crate::body::BodyError;
use crate::body::request::RequestBody;
use crate::caller::Interim;

/// A body that a peer sends on a stream; upstream also the rest of the
/// request's body, which moves while this is polled. Dropped before its end,
/// the stream is reset with CANCEL.
#[derive(Debug)]
pub struct Receive {
    body: RecvStream,
    /// Bytes given away whose window the peer has not back.
    owed: usize,
    /// Of the declared length, what has not come.
    left: Option<u64>,
    ended: bool,
    sending: Option<Box<Send<RequestBody>>>,
    /// Among the streams of its connection.
    place: Option<Place>,
    /// Of a tunnel: who hears that the upstream says no more.
    hears: Option<Rc<Interim>>,
    unread: Unread,
}

impl Receive {
    /// What a caller sends.
    pub fn of_caller(body: RecvStream, headers: &HeaderMap) -> Self {
        Self::new(body, headers, None, None)
    }

    /// What an upstream sends, while `sending` goes on: of a tunnel also when
    /// the upstream has said all, which `hears` is told.
    pub(super) fn of_upstream(
        body: RecvStream,
        headers: &HeaderMap,
        sending: Option<Send<RequestBody>>,
        place: Option<Place>,
        hears: Option<Rc<Interim>>,
    ) -> Self {
        let mut receive = Self::new(body, headers, sending.map(Box::new), place);
        receive.hears = hears;
        receive
    }

    fn new(
        body: RecvStream,
        headers: &HeaderMap,
        sending: Option<Box<Send<RequestBody>>>,
        place: Option<Place>,
    ) -> Self {
        // h2 holds the peer to it.
        let left = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok())
            .and_then(|length| length.parse().ok());
        Self {
            body,
            owed: 0,
            left,
            ended: false,
            sending,
            place,
            hears: None,
            unread: Unread::default(),
        }
    }

    /// A tunnel whose caller still speaks when the upstream does not any more.
    fn is_half_open(&self) -> bool {
        self.hears.is_some() && self.sending.is_some()
    }

    fn pay(&mut self) {
        if self.owed > 0 {
            // On a stream that has ended there is nobody to give it back to.
            let _ = self.body.flow_control().release_capacity(self.owed);
            self.owed = 0;
        }
    }

    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(sending) = &mut self.sending else {
            return Ok(());
        };
        match sending.poll(cx) {
            Poll::Pending => return Ok(()),
            // Where the peer takes no more, what it sends says why.
            Poll::Ready(Ok(()) | Err(Sending::Refused)) => {}
            Poll::Ready(Err(Sending::Broke(error))) => {
                sending.reset(Reason::CANCEL);
                self.ended = true;
                return Err(BodyError::Caller(error.to_string()));
            }
        }
        self.sending = None;
        Ok(())
    }

    /// See [`crate::body::Timed::poll_late`].
    pub fn send_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.unread.set(true);
        match self.poll_sending(cx) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        }
    }

    /// The upstream has said all in good order.
    fn poll_half_open<T>(&self) -> Poll<Option<T>> {
        match &self.hears {
            Some(hears) if self.sending.is_some() => {
                hears.half_closed.set(true);
                Poll::Pending
            }
            _ => Poll::Ready(None),
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        loop {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.owed = data.len();
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let trailers = ready!(self.body.poll_trailers(cx)).transpose();
                    return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)));
                }
            }
        }
    }
}

impl Body for Receive {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.unread.set(false);
        this.pay();
        if this.ended && !this.is_half_open() {
            return Poll::Ready(None);
        }
        if let Err(error) = this.poll_sending(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        if this.ended {
            return this.poll_half_open();
        }
        let frame = match ready!(this.poll_body(cx)) {
            Some(Ok(frame)) => {
                this.ended = frame.is_trailers();
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Err(error)) if is_end(&error) && this.left.is_none_or(|left| left == 0) => None,
            Some(Err(error)) => Some(Err(body_error(error))),
            None => {
                this.ended = true;
                return this.poll_half_open();
            }
        };
        this.ended = true;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        (self.ended || self.body.is_end_stream()) && !self.is_half_open()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        self.pay();
        let ended = self.is_end_stream() && self.sending.is_none();
        if let Some(place) = &mut self.place {
            place.ended = ended;
        }
    }
}

/// A peer that has said all and does not want the rest of ours says NO_ERROR
/// (RFC 9113, section 8.1).
fn is_end(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

fn body_error(error: h2::Error) -> BodyError {
    let text = error.to_string();
    match error.into_io() {
        Some(error) => BodyError::Broke(error),
        None => BodyError::Reset(text),
    }
}

/// A body on its way out, within the window that the peer grants.
#[derive(Debug)]
pub struct Send<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// The piece in hand.
    piece: Bytes,
    sent_bytes: u64,
}

/// Why a body was not sent whole.
#[derive(Debug)]
pub enum Sending<E> {
    /// The peer takes no more: it reset the stream, or the connection is gone.
    Refused,
    /// The body broke off.
    Broke(E),
}

impl<B: Body<Data = Bytes> + Unpin> Send<B> {
    /// `body` goes out on `stream`.
    pub fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self {
            stream,
            body,
            piece: Bytes::new(),
            sent_bytes: 0,
        }
    }

    /// Sends what the window takes; ready when all has been handed over.
    ///
    /// # Errors
    /// See [`Sending`]. What is to be said to the peer is the owner's to say.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Sending<B::Error>>> {
        loop {
            if !self.piece.is_empty() {
                let ended = ready!(self.poll_piece(cx)).map_err(|_| Sending::Refused)?;
                if ended {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let sent = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() && self.body.is_end_stream() => {
                        self.stream.send_data(data, true)
                    }
                    Ok(data) => {
                        self.piece = data;
                        continue;
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => self
                            .stream
                            .send_trailers(super::message::trailers(trailers)),
                        Err(_) => continue,
                    },
                },
                Some(Err(error)) => return Poll::Ready(Err(Sending::Broke(error))),
                None => self.stream.send_data(Bytes::new(), true),
            };
            return Poll::Ready(sent.map_err(|_| Sending::Refused));
        }
    }

    /// Sends of the piece in hand what the window takes; whether it was the last.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, h2::Error>> {
        self.stream.reserve_capacity(self.piece.len());
        let mut granted = self.stream.capacity();
        while granted == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(more) => granted = more?,
                None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
            }
        }
        let part = if granted < self.piece.len() {
            self.piece.split_to(granted)
        } else {
            std::mem::take(&mut self.piece)
        };
        self.sent_bytes += part.len() as u64;
        let ended = self.piece.is_empty() && self.body.is_end_stream();
        self.stream.send_data(part, ended)?;
        Poll::Ready(Ok(ended))
    }
}

impl<B> Send<B> {
    /// Ready when the peer has reset the stream, or the connection is gone.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }

    /// While a piece waits for window: what has been sent so far.
    pub fn waiting(&self) -> Option<u64> {
        (!self.piece.is_empty()).then_some(self.sent_bytes)
    }

    /// Nothing more comes of the body, which is polled on: a tunnel's other
    /// half is not over.
    pub fn half_close(&mut self) {
        // It fails where the peer has gone, which the next poll shows.
        let _ = self.stream.send_data(Bytes::new(), true);
    }

    /// The body itself.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Breaks the stream off.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}
