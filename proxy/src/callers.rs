//! Which callers' connections a worker holds, and which of them have
//! outstayed: looked through once a second, so that no request sets a timer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::caller::CallerState;
use crate::clock::Timestamp;
use crate::http2::unread;

/// A request's head must be in whole after so long (a slow sender of headers
/// would otherwise hold a connection for ever).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection without any request for so long is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// An HTTP/1 connection whose caller takes nothing of its answer for so long is
/// closed, as a stream of HTTP/2 is: it would hold that answer, and its part of
/// what the connection upstream may carry, for ever where no policy has a timeout.
/// Less while very many wait.
pub const ANSWER_STALL: Duration = crate::http2::settings::STREAM_STALL;

/// The connections of one worker.
#[derive(Debug, Default)]
pub struct Callers {
    held: RefCell<Vec<Rc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    state: Rc<CallerState>,
    // Not a Notify: this is polled with every wake-up of the connection, and a
    // cell of the worker's own costs next to nothing.
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    place: Cell<usize>,
    /// Where it stood, and since which sweep.
    stood: Cell<Option<(u64, Timestamp)>>,
}

impl Entry {
    fn expire(&self) {
        self.expired.set(true);
        self.wake();
    }

    /// For how long the caller has taken nothing of an answer that waits for it.
    fn stands_for(&self, now: Timestamp) -> Option<Duration> {
        let at = self.state.stands_at();
        let since = match (at, self.stood.get()) {
            (Some(at), Some((before, since))) if at == before => since,
            _ => now,
        };
        self.stood.set(at.map(|at| (at, since)));
        at.map(|_| now.since(since))
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// One connection's place in the list, given up on drop.
#[derive(Debug)]
pub struct Watched<'a> {
    callers: &'a Callers,
    entry: Rc<Entry>,
}

impl Callers {
    /// Adds a connection.
    pub fn watch(&self, state: Rc<CallerState>) -> Watched<'_> {
        let mut held = self.held.borrow_mut();
        let entry = Rc::new(Entry {
            state,
            expired: Cell::new(false),
            waker: RefCell::default(),
            place: Cell::new(held.len()),
            stood: Cell::new(None),
        });
        held.push(Rc::clone(&entry));
        Watched {
            callers: self,
            entry,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.borrow().is_empty()
    }

    /// Wakes every connection, so that each sees that draining has begun.
    pub fn wake(&self) {
        for entry in self.held.borrow().iter() {
            entry.wake();
        }
    }

    /// Tells the connections that have outstayed to end, and those whose caller
    /// may have left unseen to look.
    pub fn sweep(&self, now: Timestamp) {
        for entry in self.held.borrow().iter() {
            let late = entry
                .state
                .head_age(now)
                .is_some_and(|age| age >= HEAD_TIMEOUT);
            let idle = entry
                .state
                .idle_for(now)
                .is_some_and(|idle| idle >= IDLE_TIMEOUT);
            let stands = entry
                .stands_for(now)
                .is_some_and(|stood| stood >= unread::stall());
            if late || idle || stands {
                entry.expire();
            } else if entry.state.let_look() {
                entry.wake();
            }
        }
    }
}

impl Watched<'_> {
    /// Ready when the connection has outstayed.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.entry.expired.get() {
            return Poll::Ready(());
        }
        let mut waker = self.entry.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|held| held.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut held = self.callers.held.borrow_mut();
        let place = self.entry.place.get();
        held.swap_remove(place);
        if let Some(moved) = held.get(place) {
            moved.place.set(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_expired(watched: &Watched<'_>) -> bool {
        watched
            .poll_expired(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn a_head_that_never_ends_expires_and_an_idle_connection_does_not() {
        let callers = Callers::default();
        let start = Timestamp::from_millis(1000);
        let slow = callers.watch(CallerState::new(start, true));
        let idle = callers.watch(CallerState::new(start, false));
        callers.sweep(start.after(HEAD_TIMEOUT));
        assert!(is_expired(&slow) && !is_expired(&idle));
        drop(slow);
        assert_eq!(callers.len(), 1);
        drop(idle);
        assert!(callers.is_empty());
    }

    #[test]
    fn a_caller_that_takes_nothing_of_its_answer_expires_and_a_slow_one_does_not() {
        let callers = Callers::default();
        let start = Timestamp::from_millis(1000);
        let state = CallerState::new(start, false);
        state.begin();
        let watched = callers.watch(Rc::clone(&state));
        let half = ANSWER_STALL / 2 + Duration::from_secs(1);
        let mut now = start;
        for taken in [Some(1), Some(1), Some(2), Some(2), None, Some(2), Some(2)] {
            state.stands(taken);
            callers.sweep(now);
            assert!(!is_expired(&watched), "{taken:?}");
            now = now.after(half);
        }
        callers.sweep(now);
        assert!(is_expired(&watched));
    }
}
