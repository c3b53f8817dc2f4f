//! Bodies: what a peer sends, whatever it speaks, and what is made of it.
//!
//! # Layout
//! - [`Incoming`]: what a caller or an upstream sends.
//! - [`request`]: the request's body on its way upstream, with replay.
//! - [`mirror`]: a second reader of it.
//! - [`response`]: the response's body on its way back.

pub mod mirror;
pub mod request;
pub mod response;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http1::connection::{Connection, ResponseStream};
use crate::http1::serve::RequestStream;

/// A body that a peer sends, read as it is asked for: nobody who asks for no
/// more makes the sidecar hold more than what one read gave.
#[derive(Debug)]
pub enum Incoming {
    /// There is none.
    Empty,
    /// What follows a caller's HTTP/1 request head.
    Http1Request(RequestStream),
    /// What follows an upstream's HTTP/1 response head.
    Http1Response(ResponseStream),
    /// On an HTTP/2 stream.
    Http2(crate::http2::stream::Receive),
    /// Its first frame was looked at already.
    Peeked(Box<Peeked>),
}

/// A body of which one frame was read ahead.
#[derive(Debug)]
pub struct Peeked {
    first: Option<Frame<Bytes>>,
    rest: Incoming,
}

impl Incoming {
    /// Puts a frame that was read back in front.
    pub fn with_first(self, first: Frame<Bytes>) -> Self {
        Self::Peeked(Box::new(Peeked {
            first: Some(first),
            rest: self,
        }))
    }

    /// The HTTP/1 connection upstream that the body came on, once nothing more
    /// goes over it either way and it may carry another request.
    pub fn take_connection(&mut self) -> Option<Connection> {
        match self {
            Self::Http1Response(stream) => stream.take_connection(),
            Self::Peeked(peeked) => peeked.rest.take_connection(),
            _ => None,
        }
    }

    /// What remains of the request that this answers goes out, while nobody
    /// asks for more of the answer; ready where that cannot be.
    fn send_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1Response(stream) => stream.send_on(cx),
            Self::Http2(body) => return body.send_on(cx),
            Self::Peeked(peeked) => return peeked.rest.send_on(cx),
            Self::Empty | Self::Http1Request(_) => {}
        }
        Poll::Pending
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke.
    #[error("the connection broke off: {0}")]
    Broke(#[from] std::io::Error),
    /// It closed before the body had ended.
    #[error("the connection closed before the body had ended")]
    Incomplete,
    /// What came is not well-formed.
    #[error("the body is malformed: {0}")]
    Malformed(&'static str),
    /// The peer reset the stream (RFC 9113, section 6.4).
    #[error("the stream was reset: {0}")]
    Reset(String),
    /// Of an answer: the caller broke off while it still sent the request.
    #[error("the caller broke off while it sent the request: {0}")]
    Caller(String),
}

/// A body that goes on while whoever reads it stands still, and does not ask
/// for more: the request's body on its way does not wait for the answer's, and
/// it may have to be given up.
pub trait Timed {
    /// To be polled while the reader does not ask for more. `taken` differs
    /// from the last time where the reader has taken something of what it has.
    /// Ready when the body is given up.
    fn poll_late(&mut self, _taken: u64, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Timed for Incoming {
    fn poll_late(&mut self, _: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.send_on(cx)
    }
}

#[cfg(test)]
impl<D: bytes::Buf> Timed for http_body_util::Full<D> {}

#[cfg(test)]
impl<D> Timed for http_body_util::Empty<D> {}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut polled = match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1Request(stream) => stream.poll_frame(cx),
            Self::Http1Response(stream) => stream.poll_frame(cx),
            Self::Peeked(peeked) => match peeked.first.take() {
                Some(first) => Poll::Ready(Some(Ok(first))),
                None => Pin::new(&mut peeked.rest).poll_frame(cx),
            },
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
        };
        // No field of ours is believed that comes behind a body, whoever sent it.
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            crate::headers::strip_ours(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1Request(stream) => stream.is_end_stream(),
            Self::Http1Response(stream) => stream.is_end_stream(),
            Self::Peeked(peeked) => peeked.first.is_none() && peeked.rest.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1Request(stream) => stream.size_hint(),
            Self::Http1Response(stream) => stream.size_hint(),
            // What was read ahead is not counted in: better no hint than a wrong one.
            Self::Peeked(peeked) if peeked.first.is_some() => SizeHint::default(),
            Self::Peeked(peeked) => peeked.rest.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
