//! What an engine and the pipeline share about a caller: what its connection is
//! doing right now, and the interim answers on their way to it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::alarm::Alarm;
use crate::clock::Timestamp;

/// Interim answers that wait to be written to one caller; an upstream that
/// sends more at once than its caller takes loses the oldest.
const INTERIM_WAITING: usize = 8;

/// The caller of one request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its connection.
    pub state: Rc<CallerState>,
    /// Of the request: of the connection for HTTP/1, of the stream for HTTP/2.
    pub interim: Rc<Interim>,
}

/// What a caller's connection is doing, for the worker's sweep.
#[derive(Debug)]
pub struct CallerState {
    /// Requests between their head and the end of their answer.
    in_exchange: Cell<u32>,
    /// Since when a request's head has been coming in.
    head_since: Cell<Option<Timestamp>>,
    /// When a byte last came between requests.
    last_read: Cell<Timestamp>,
    look: Cell<Look>,
    /// While it takes no more of an answer: what it has taken of it.
    stands_at: Cell<Option<u64>>,
}

/// Whether a look is wanted at a connection whose caller may leave unseen: what
/// it sent of a request's body lies unread before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    NotWanted,
    Wanted,
    Due,
}

impl CallerState {
    /// A connection that was just accepted.
    pub fn new(now: Timestamp, has_bytes: bool) -> Rc<Self> {
        Rc::new(Self {
            in_exchange: Cell::new(0),
            head_since: Cell::new(has_bytes.then_some(now)),
            last_read: Cell::new(now),
            look: Cell::new(Look::NotWanted),
            stands_at: Cell::new(None),
        })
    }

    /// It takes no more of an answer, of which it has taken so many bytes; or
    /// it does.
    pub fn stands(&self, at: Option<u64>) {
        self.stands_at.set(at);
    }

    /// See [`CallerState::stands`].
    pub fn stands_at(&self) -> Option<u64> {
        self.stands_at.get()
    }

    /// A body that somebody may still ask for is in the way of the connection's
    /// end; gives whether it is time to look behind it.
    pub fn wants_look(&self) -> bool {
        self.look.replace(Look::Wanted) == Look::Due
    }

    /// The sweep is here; gives whether the connection wants to be woken to look.
    pub fn let_look(&self) -> bool {
        self.look.replace(match self.look.get() {
            Look::NotWanted => Look::NotWanted,
            Look::Wanted | Look::Due => Look::Due,
        }) == Look::Wanted
    }

    /// A byte came while no request was in hand.
    pub fn heard(&self, now: Timestamp) {
        self.last_read.set(now);
        if self.head_since.get().is_none() {
            self.head_since.set(Some(now));
        }
    }

    /// A request's head has come in whole.
    pub fn begin(&self) {
        self.in_exchange.set(self.in_exchange.get() + 1);
        self.head_since.set(None);
        self.look.set(Look::NotWanted);
        self.stands_at.set(None);
    }

    /// An answer has ended.
    pub fn end(&self, now: Timestamp) {
        self.in_exchange
            .set(self.in_exchange.get().saturating_sub(1));
        self.last_read.set(now);
    }

    /// Whether a request is being answered.
    pub fn in_exchange(&self) -> bool {
        self.in_exchange.get() > 0
    }

    /// For how long a request's head has been coming in; `None` between requests.
    pub fn head_age(&self, now: Timestamp) -> Option<Duration> {
        self.head_since.get().map(|since| now.since(since))
    }

    /// For how long the connection has been between requests without a byte.
    pub fn idle_for(&self, now: Timestamp) -> Option<Duration> {
        (!self.in_exchange()).then(|| now.since(self.last_read.get()))
    }
}

/// What lasts from the request that a caller has in hand to its next: interim
/// answers (1xx, RFC 9110 section 15.2) on their way to it, which an attempt
/// puts in and the server writes when it has polled the handler; and the alarm.
#[derive(Debug, Default)]
pub struct Interim {
    waiting: RefCell<VecDeque<(StatusCode, HeaderMap)>>,
    /// 100 was passed on: a further attempt's would be a second one.
    continued: Cell<bool>,
    /// The next deadline of the request that is in hand.
    pub alarm: Alarm,
    /// Of a tunnel: the upstream says no more, and the caller is to hear that,
    /// while what the caller says goes on.
    pub half_closed: Cell<bool>,
    /// In the place of an answer the caller's connection, or its stream, breaks.
    pub broken: Cell<bool>,
}

impl Interim {
    /// A new request begins on the connection.
    pub fn reset(&self) {
        self.waiting.borrow_mut().clear();
        self.continued.set(false);
        self.half_closed.set(false);
        self.broken.set(false);
    }

    /// The upstream sent one. 101 is none: it ends the exchange of heads.
    pub fn push(&self, status: StatusCode, headers: HeaderMap) {
        if status == StatusCode::CONTINUE && self.continued.replace(true) {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == INTERIM_WAITING {
            waiting.pop_front();
        }
        waiting.push_back((status, headers));
    }

    /// The next to write.
    pub fn pop(&self) -> Option<(StatusCode, HeaderMap)> {
        self.waiting.borrow_mut().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_is_passed_on_once_for_a_request() {
        let interim = Interim::default();
        interim.push(StatusCode::CONTINUE, HeaderMap::new());
        interim.push(StatusCode::CONTINUE, HeaderMap::new());
        assert!(interim.pop().is_some() && interim.pop().is_none());
        interim.reset();
        interim.push(StatusCode::CONTINUE, HeaderMap::new());
        assert!(interim.pop().is_some());
    }

    #[test]
    fn a_flood_of_interim_answers_is_bounded() {
        let interim = Interim::default();
        for _ in 0..1000 {
            interim.push(StatusCode::PROCESSING, HeaderMap::new());
        }
        assert_eq!(interim.waiting.borrow().len(), INTERIM_WAITING);
    }
}
