//! A caller's connection, as the server's loop and the request's body share it:
//! the body reads as long as it has not ended, then the loop does, to learn of
//! the next request or of the caller's leaving.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::framing::Length;
use super::limits::DRAINED_BYTES;
use super::receive::Receiving;
use super::wire::{HeadFault, Wire};
use crate::body::BodyError;
use crate::caller::CallerState;
use crate::clock;

/// A caller's connection.
#[derive(Debug)]
pub struct Link {
    inner: RefCell<Inner>,
    /// The present request: bodies of earlier ones read nothing any more.
    number: Cell<u64>,
    state: Rc<CallerState>,
}

#[derive(Debug)]
struct Inner {
    wire: Wire,
    body: Receiving,
    /// The caller closed, or its connection broke.
    left: bool,
    /// What it sent for a body is none.
    malformed: bool,
    /// The server's loop, which reads again once the body has ended. The body
    /// may be read by another task, for an upstream connection that many share.
    server: Option<Waker>,
}

impl Link {
    /// Over `wire`, whose caller is doing what `state` says.
    pub fn new(wire: Wire, state: Rc<CallerState>) -> Rc<Self> {
        Rc::new(Self {
            inner: RefCell::new(Inner {
                wire,
                body: Receiving::new(Length::Exact(0)),
                left: false,
                malformed: false,
                server: None,
            }),
            number: Cell::new(0),
            state,
        })
    }

    /// For a look at the connection, or to write to it: never over a poll of
    /// somebody's future or body, which may read from it.
    pub fn with_wire<T>(&self, with: impl FnOnce(&mut Wire) -> T) -> T {
        with(&mut self.inner.borrow_mut().wire)
    }

    /// The next request's head; `None` when the caller closed before one began.
    pub fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, HeadFault>> {
        let wire = &mut self.inner.borrow_mut().wire;
        let before = wire.partial_bytes();
        let polled = wire.poll_head(cx);
        if polled.is_pending() && wire.partial_bytes() > before {
            self.state.heard(clock::now());
        }
        polled
    }

    /// A request's head came: its body is framed by `length`, or held back where
    /// it asks for a `tunnel`.
    pub fn begin(self: &Rc<Self>, length: Length, tunnel: bool) -> Option<RequestStream> {
        self.number.set(self.number.get() + 1);
        let body = if tunnel {
            Receiving::held()
        } else {
            Receiving::new(length)
        };
        let stream = (!body.is_ended()).then(|| RequestStream {
            link: Rc::clone(self),
            number: self.number.get(),
        });
        self.inner.borrow_mut().body = body;
        stream
    }

    /// The answer to what was [`Receiving::held`]: from now on everything
    /// passes, or there is no body after all.
    pub fn settle(&self, tunnel: bool) {
        let body = &mut self.inner.borrow_mut().body;
        if body.is_held() {
            *body = Receiving::new(if tunnel {
                Length::UntilClose
            } else {
                Length::Exact(0)
            });
        }
    }

    /// See [`CallerState::stands`].
    pub fn stands(&self, at: Option<u64>) {
        self.state.stands(at);
    }

    /// The answer was given: whoever still has the request's body gets no more of it.
    pub fn end(&self) {
        self.number.set(self.number.get() + 1);
    }

    /// Whether the request's body has been read whole.
    pub fn is_body_ended(&self) -> bool {
        self.inner.borrow().body.is_ended()
    }

    /// Whether nothing of the caller's is left unread, as far as is known.
    pub fn is_quiet(&self) -> bool {
        let inner = self.inner.borrow();
        inner.body.is_ended() && inner.wire.unread.is_empty()
    }

    /// Whether the caller closed, or broke off.
    pub fn has_left(&self) -> bool {
        self.inner.borrow().left
    }

    /// Whether the body that it sent was malformed.
    pub fn is_malformed(&self) -> bool {
        self.inner.borrow().malformed
    }

    /// Ready when the caller has left. Reads ahead at most once, and nothing
    /// while there is a body that somebody may still ask for: then a look behind
    /// it tells, once for each sweep.
    pub fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Inner {
            wire,
            body,
            left,
            server,
            ..
        } = &mut *self.inner.borrow_mut();
        if !(body.is_ended() || body.is_held()) {
            match server {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *server = Some(cx.waker().clone()),
            }
            *left |= self.state.wants_look() && wire.has_peer_left();
        }
        if !*left && (body.is_ended() || body.is_held()) && wire.unread.is_empty() {
            match ready!(wire.poll_read(cx, Bytes::copy_from_slice)) {
                Ok(ahead) => {
                    *left = ahead.is_empty();
                    wire.unread = ahead;
                }
                Err(_) => *left = true,
            }
        }
        if *left {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Reads what is left of the body, as far as [`DRAINED_BYTES`]; gives
    /// whether it ended.
    pub fn poll_drain(&self, cx: &mut Context<'_>, drained: &mut usize) -> Poll<bool> {
        let Inner { wire, body, .. } = &mut *self.inner.borrow_mut();
        loop {
            if body.is_ended() {
                return Poll::Ready(true);
            }
            if body.is_broken() || body.is_held() || *drained > DRAINED_BYTES {
                return Poll::Ready(false);
            }
            if let Some(Ok(frame)) = ready!(body.poll_frame(cx, wire)) {
                *drained += frame.data_ref().map_or(0, Bytes::len);
            }
        }
    }
}

/// The body of a request, read from the caller's connection as it is asked for.
#[derive(Debug)]
pub struct RequestStream {
    link: Rc<Link>,
    number: u64,
}

impl RequestStream {
    fn is_current(&self) -> bool {
        self.link.number.get() == self.number
    }

    /// See [`http_body::Body::poll_frame`].
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.is_current() {
            return Poll::Ready(Some(Err(BodyError::Incomplete)));
        }
        let Inner {
            wire,
            body,
            left,
            malformed,
            server,
        } = &mut *self.link.inner.borrow_mut();
        let polled = body.poll_frame(cx, wire);
        match &polled {
            Poll::Ready(Some(Err(BodyError::Malformed(_)))) => *malformed = true,
            Poll::Ready(Some(Err(_))) if !*malformed => *left = true,
            _ => {}
        }
        if (body.is_ended() || body.is_broken())
            && let Some(server) = server.take()
            && !server.will_wake(cx.waker())
        {
            server.wake();
        }
        polled
    }

    /// See [`http_body::Body::is_end_stream`].
    pub fn is_end_stream(&self) -> bool {
        self.is_current() && self.link.is_body_ended()
    }

    /// See [`http_body::Body::size_hint`].
    pub fn size_hint(&self) -> SizeHint {
        if self.is_current() {
            self.link.inner.borrow().body.size_hint()
        } else {
            SizeHint::default()
        }
    }
}
