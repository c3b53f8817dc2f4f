//! The request's body on its way upstream: passed through, and kept for replay
//! as far as a retry may need it.
//!
//! Owns the replay buffer and its bound; whether to retry is `policy::retry`'s.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::mirror::Mirrored;
use super::{BodyError, Incoming};
use crate::clock::{self, Timestamp};
use crate::headers;

/// A request's body, from which the body of each attempt is made.
#[derive(Debug, Clone)]
pub enum RequestSource {
    /// There is none.
    Empty,
    /// Read from the caller as the attempt asks for it.
    Stream(Rc<Shared>),
    /// The pieces of another request's, for one attempt.
    Mirrored(Rc<Mirrored>),
    /// What was kept of a whole one, for an attempt beside another.
    Kept(Rc<Shared>),
}

/// What the attempts of one request share.
#[derive(Debug)]
pub struct Shared {
    state: RefCell<State>,
    /// The attempt that may read; an earlier one that is still winding down may not.
    current: Cell<u32>,
    /// When a byte last came from the caller.
    moved: Cell<Timestamp>,
}

#[derive(Debug)]
struct State {
    incoming: Incoming,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    limit_bytes: usize,
    /// Something was passed on that is not kept.
    lost: bool,
    ended: bool,
    trailers: Option<HeaderMap>,
    /// Who gets a copy.
    mirrors: Vec<Rc<Mirrored>>,
}

impl RequestSource {
    /// Takes the caller's body; at most `limit_bytes` of it are kept for replay.
    pub fn new(incoming: Incoming, limit_bytes: usize, now: Timestamp) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let state = State {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            limit_bytes,
            lost: false,
            ended: false,
            trailers: None,
            mirrors: Vec::new(),
        };
        Self::Stream(Rc::new(Shared {
            state: RefCell::new(state),
            current: Cell::new(0),
            moved: Cell::new(now),
        }))
    }

    /// A second reader of the same body, from its beginning: to be asked for
    /// before anything is read.
    pub fn mirrored(&self) -> Self {
        match self {
            Self::Stream(shared) => {
                let mirror = Mirrored::new();
                let mut state = shared.state.borrow_mut();
                state.mirrors.push(Rc::clone(&mirror));
                Self::Mirrored(mirror)
            }
            Self::Empty | Self::Mirrored(_) | Self::Kept(_) => Self::Empty,
        }
    }

    /// A second reader of a body that has ended and is kept whole, beside the first.
    pub fn beside(&self) -> Self {
        match self {
            Self::Stream(shared) | Self::Kept(shared) => Self::Kept(Rc::clone(shared)),
            Self::Empty | Self::Mirrored(_) => Self::Empty,
        }
    }

    /// The body for the next attempt; bodies of earlier attempts end with an error.
    pub fn attempt(&self) -> RequestBody {
        match self {
            Self::Empty => RequestBody::Empty,
            Self::Stream(shared) => {
                let number = shared.current.get() + 1;
                shared.current.set(number);
                RequestBody::Stream {
                    shared: Rc::clone(shared),
                    number,
                    next: 0,
                }
            }
            Self::Mirrored(mirror) => RequestBody::Mirrored(Rc::clone(mirror)),
            Self::Kept(shared) => RequestBody::Kept {
                shared: Rc::clone(shared),
                next: 0,
            },
        }
    }

    /// Whether an attempt made now would send the whole body from its beginning.
    pub fn replayable(&self) -> bool {
        match self {
            Self::Empty | Self::Kept(_) => true,
            Self::Stream(shared) => !shared.state.borrow().lost,
            Self::Mirrored(_) => false,
        }
    }

    /// Whether the caller has sent all of it.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Empty | Self::Kept(_) => true,
            Self::Stream(shared) => {
                let state = shared.state.borrow();
                state.ended || state.incoming.is_end_stream()
            }
            Self::Mirrored(mirror) => mirror.is_end_stream(),
        }
    }

    /// When a byte of the body last came from the caller; not before `began`.
    pub fn last_moved(&self, began: Timestamp) -> Timestamp {
        match self {
            Self::Empty | Self::Mirrored(_) | Self::Kept(_) => began,
            Self::Stream(shared) => shared.moved.get().max(began),
        }
    }

    /// No further attempt will be made: keeps nothing more, and lets go of what was kept.
    pub fn commit(&self) {
        if let Self::Stream(shared) = self {
            let mut state = shared.state.borrow_mut();
            state.limit_bytes = 0;
            // What the current attempt has not read yet must stay; it has read
            // everything once it reads from the caller, so only then is it freed.
            state.lost = true;
        }
    }
}

/// The body of one attempt.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    Empty,
    /// The kept beginning, then the caller's stream.
    Stream {
        /// Shared with the request's other attempts.
        shared: Rc<Shared>,
        /// Which attempt this is.
        number: u32,
        /// The next kept piece.
        next: usize,
    },
    /// The pieces of another request's.
    Mirrored(Rc<Mirrored>),
    /// The kept pieces of a whole one, and then its trailers.
    Kept {
        /// Shared with the request's other attempts.
        shared: Rc<Shared>,
        /// The next kept piece; beyond them the trailers.
        next: usize,
    },
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// The caller's side broke.
    #[error("the caller broke off while sending the request body: {0}")]
    Caller(#[from] BodyError),
    /// A later attempt has taken over.
    #[error("a later attempt has taken the request body over")]
    Superseded,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let (shared, number, next) = match self.get_mut() {
            RequestBody::Stream {
                shared,
                number,
                next,
            } => (shared, number, next),
            RequestBody::Mirrored(mirror) => return mirror.poll_frame(cx),
            RequestBody::Kept { shared, next } => {
                let frame = shared.state.borrow().frame(*next);
                *next += 1;
                return Poll::Ready(frame.map(Ok));
            }
            RequestBody::Empty => return Poll::Ready(None),
        };
        if shared.current.get() != *number {
            return Poll::Ready(Some(Err(RequestBodyError::Superseded)));
        }
        let mut state = shared.state.borrow_mut();
        if let Some(kept) = state.kept.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        let frame = state.poll_caller(cx, next);
        if frame.is_ready() {
            shared.moved.set(clock::now());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { shared, next, .. } => {
                let state = shared.state.borrow();
                *next >= state.kept.len()
                    && state.trailers.is_none()
                    && (state.ended || state.incoming.is_end_stream())
            }
            Self::Mirrored(mirror) => mirror.is_end_stream(),
            Self::Kept { shared, next } => shared.state.borrow().frame(*next).is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { shared, next, .. } => {
                let state = shared.state.borrow();
                let kept: usize = state.kept.iter().skip(*next).map(Bytes::len).sum();
                match state.incoming.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(rest + kept as u64),
                    None => SizeHint::default(),
                }
            }
            Self::Mirrored(_) => SizeHint::default(),
            Self::Kept { shared, next } => {
                let state = shared.state.borrow();
                let kept: usize = state.kept.iter().skip(*next).map(Bytes::len).sum();
                SizeHint::with_exact(kept as u64)
            }
        }
    }
}

impl State {
    /// Of a body that is kept whole the frame at this place; the last are its trailers.
    fn frame(&self, at: usize) -> Option<Frame<Bytes>> {
        if let Some(kept) = self.kept.get(at) {
            return Some(Frame::data(kept.clone()));
        }
        let trailers = self.trailers.clone().filter(|_| at == self.kept.len());
        trailers.map(Frame::trailers)
    }

    fn poll_caller(
        &mut self,
        cx: &mut Context<'_>,
        next: &mut usize,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self.ended {
            return Poll::Ready(
                self.trailers
                    .clone()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            );
        }
        match std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                self.ended = true;
                self.mirrors.drain(..).for_each(|mirror| mirror.end(None));
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.lost = true;
                self.mirrors.drain(..).for_each(|mirror| mirror.break_off());
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.mirrors.iter().for_each(|mirror| mirror.push(data));
                    self.keep(data, next);
                    if self.incoming.is_end_stream() {
                        // Nobody may ask for what comes no more.
                        self.mirrors.drain(..).for_each(|mirror| mirror.end(None));
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_ours(trailers);
                    self.ended = true;
                    let told = |mirror: Rc<Mirrored>| mirror.end(Some(trailers.clone()));
                    self.mirrors.drain(..).for_each(told);
                    self.trailers = Some(trailers.clone()).filter(|_| !self.lost);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn keep(&mut self, data: &Bytes, next: &mut usize) {
        if !self.lost && self.kept_bytes + data.len() <= self.limit_bytes {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
            *next = self.kept.len();
            return;
        }
        self.lost = true;
        self.kept = Vec::new();
        self.kept_bytes = 0;
        *next = 0;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Nobody reads on, so nothing more comes to them either.
        self.mirrors.iter().for_each(|mirror| mirror.break_off());
    }
}
