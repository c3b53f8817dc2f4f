//! A body that a peer sends, read as it is asked for and never further.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};

use super::chunked::Chunked;
use super::framing::Length;
use super::limits::{BUFFER_BYTES, DIRECT_BYTES};
use super::wire::Wire;
use crate::body::BodyError;

/// How far a body has been read.
#[derive(Debug)]
pub struct Receiving {
    state: State,
}

#[derive(Debug)]
enum State {
    Exact(u64),
    Chunked(Box<Chunked>),
    UntilClose,
    /// Of a tunnel that may come about: nothing yet.
    Held,
    Ended,
    /// It broke off; what broke was told once.
    Broken,
}

/// What a piece of reading came to.
type Piece = Option<Result<Frame<Bytes>, BodyError>>;

impl Receiving {
    /// A body that is framed by `length`.
    pub fn new(length: Length) -> Self {
        Self {
            state: match length {
                Length::Exact(0) => State::Ended,
                Length::Exact(bytes) => State::Exact(bytes),
                Length::Chunked => State::Chunked(Box::default()),
                Length::UntilClose => State::UntilClose,
            },
        }
    }

    /// Nothing, until it is known whether the connection becomes a tunnel.
    pub fn held() -> Self {
        Self { state: State::Held }
    }

    /// Whether it has been read to its end.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether it waits to become a tunnel.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Held)
    }

    /// Whether it broke off.
    pub fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// What is known of its size.
    pub fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Exact(bytes) => SizeHint::with_exact(*bytes),
            State::Ended => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    /// The next piece of it.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<Piece> {
        let polled = self.poll_piece(cx, wire);
        match &polled {
            Poll::Ready(Some(Err(_))) => {
                self.state = State::Broken;
                wire.release();
            }
            Poll::Ready(_) if self.is_ended() => wire.release(),
            _ => {}
        }
        polled
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<Piece> {
        if self.is_held() {
            return Poll::Pending;
        }
        loop {
            if !wire.unread.is_empty() {
                if let Some(piece) = self.take_unread(wire) {
                    return Poll::Ready(piece);
                }
                continue;
            }
            let direct = match &self.state {
                State::Ended => return Poll::Ready(None),
                State::Broken => return Poll::Ready(Some(Err(BodyError::Incomplete))),
                State::Exact(remaining) => *remaining,
                State::Chunked(chunked) => chunked.remaining(),
                State::UntilClose | State::Held => 0,
            };
            if direct >= DIRECT_BYTES as u64 {
                let limit = usize::try_from(direct).map_or(BUFFER_BYTES, |n| n.min(BUFFER_BYTES));
                let data = ready!(wire.poll_read_direct(cx, limit));
                return Poll::Ready(Some(data.map_err(BodyError::from).and_then(|data| {
                    self.account(data.len() as u64)?;
                    Ok(Frame::data(data))
                })));
            }
            if let Some(piece) = ready!(self.poll_small(cx, wire)) {
                return Poll::Ready(piece);
            }
        }
    }

    /// Bytes of data came that were read straight into a buffer; none at the end.
    fn account(&mut self, bytes: u64) -> Result<(), BodyError> {
        if bytes == 0 {
            return Err(BodyError::Incomplete);
        }
        match &mut self.state {
            State::Exact(remaining) => {
                *remaining = remaining.saturating_sub(bytes);
                if *remaining == 0 {
                    self.state = State::Ended;
                }
            }
            State::Chunked(chunked) => chunked.advance(bytes),
            _ => {}
        }
        Ok(())
    }

    /// From what was read already; `None` where that gives no data.
    fn take_unread(&mut self, wire: &mut Wire) -> Option<Piece> {
        match &mut self.state {
            State::Exact(remaining) => {
                let bytes = usize::try_from(*remaining)
                    .map_or(wire.unread.len(), |n| n.min(wire.unread.len()));
                let data = if bytes == wire.unread.len() {
                    std::mem::take(&mut wire.unread)
                } else {
                    wire.unread.split_to(bytes)
                };
                *remaining -= bytes as u64;
                if *remaining == 0 {
                    self.state = State::Ended;
                }
                Some(Some(Ok(Frame::data(data))))
            }
            State::Chunked(chunked) => {
                let mut data = Vec::new();
                match chunked.decode(&wire.unread, &mut data) {
                    Ok(taken) if taken == wire.unread.len() => wire.unread = Bytes::new(),
                    Ok(taken) => wire.unread.advance(taken),
                    Err(detail) => return Some(Some(Err(BodyError::Malformed(detail)))),
                }
                self.decoded(data)
            }
            State::UntilClose => {
                let data = std::mem::take(&mut wire.unread);
                Some(Some(Ok(Frame::data(data))))
            }
            State::Held => None,
            State::Ended => Some(None),
            State::Broken => Some(Some(Err(BodyError::Incomplete))),
        }
    }

    /// What chunks came to; `None` where it was only framing.
    fn decoded(&mut self, data: Vec<u8>) -> Option<Piece> {
        let State::Chunked(chunked) = &mut self.state else {
            return None;
        };
        if !data.is_empty() {
            // With trailers to come the end is told with them.
            if chunked.is_ended() && !chunked.has_trailers() {
                self.state = State::Ended;
            }
            return Some(Some(Ok(Frame::data(Bytes::from(data)))));
        }
        if !chunked.is_ended() {
            return None;
        }
        let trailers = chunked.take_trailers();
        self.state = State::Ended;
        Some(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// From the worker's buffer, copied exactly.
    fn poll_small(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<Option<Piece>> {
        if let State::Chunked(chunked) = &self.state
            && chunked.is_ended()
        {
            // Its trailers are still to be told.
            return Poll::Ready(self.decoded(Vec::new()));
        }
        let state = &mut self.state;
        let read = wire.poll_read(cx, |bytes| match state {
            _ if bytes.is_empty() => Ok((Vec::new(), Bytes::new(), true)),
            State::Chunked(chunked) => {
                let mut data = Vec::new();
                let taken = chunked.decode(bytes, &mut data)?;
                Ok((data, Bytes::copy_from_slice(&bytes[taken..]), false))
            }
            State::Exact(remaining) => {
                let taken = usize::try_from(*remaining).map_or(bytes.len(), |n| n.min(bytes.len()));
                *remaining -= taken as u64;
                let rest = Bytes::copy_from_slice(&bytes[taken..]);
                Ok((bytes[..taken].to_vec(), rest, false))
            }
            _ => Ok((bytes.to_vec(), Bytes::new(), false)),
        });
        let (data, rest, is_end) = match ready!(read) {
            Err(error) => return Poll::Ready(Some(Some(Err(error.into())))),
            Ok(Err(detail)) => return Poll::Ready(Some(Some(Err(BodyError::Malformed(detail))))),
            Ok(Ok(read)) => read,
        };
        wire.unread = rest;
        if is_end {
            return Poll::Ready(Some(match self.state {
                State::UntilClose => {
                    self.state = State::Ended;
                    None
                }
                _ => Some(Err(BodyError::Incomplete)),
            }));
        }
        Poll::Ready(match self.state {
            State::Chunked(_) => self.decoded(data),
            State::Exact(0) => {
                self.state = State::Ended;
                Some(Some(Ok(Frame::data(Bytes::from(data)))))
            }
            _ => Some(Some(Ok(Frame::data(Bytes::from(data))))),
        })
    }
}
