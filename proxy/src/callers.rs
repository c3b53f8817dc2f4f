//! Which callers' connections a worker holds, and which of them have
//! outstayed: looked through once a second, so that no request sets a timer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::http1::caller::CallerState;

/// A request's head must be in whole after so long (a slow sender of headers
/// would otherwise hold a connection for ever).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection without any request for so long is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// The connections of one worker.
#[derive(Debug, Default)]
pub struct Callers {
    held: RefCell<Vec<Rc<Entry>>>,
    draining: Cell<bool>,
}

/// What a connection is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It has outstayed: end now.
    Expired,
    /// End after the request in hand.
    Drain,
}

#[derive(Debug)]
struct Entry {
    state: Rc<CallerState>,
    // Not a Notify: this is polled with every wake-up of the connection, and a
    // cell of the worker's own costs next to nothing.
    signal: Cell<Option<Signal>>,
    waker: RefCell<Option<Waker>>,
    place: Cell<usize>,
}

impl Entry {
    fn tell(&self, signal: Signal) {
        self.signal.set(Some(signal));
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
            signal: Cell::new(self.draining.get().then_some(Signal::Drain)),
            waker: RefCell::default(),
            place: Cell::new(held.len()),
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

    /// How many are answering a request just now.
    pub fn busy(&self) -> usize {
        self.held
            .borrow()
            .iter()
            .filter(|entry| entry.state.in_exchange())
            .count()
    }

    /// Tells every connection, and those to come, to end after the request in hand.
    pub fn drain(&self) {
        self.draining.set(true);
        for entry in self.held.borrow().iter() {
            entry.tell(Signal::Drain);
        }
    }

    /// Tells the connections that have outstayed to end.
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
            if late || idle {
                entry.tell(Signal::Expired);
            }
        }
    }
}

impl Watched<'_> {
    /// Ready when the connection is told something; each thing is told once.
    pub fn poll_signal(&self, cx: &mut Context<'_>) -> Poll<Signal> {
        if let Some(signal) = self.entry.signal.take() {
            return Poll::Ready(signal);
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

    fn told(watched: &Watched<'_>) -> Option<Signal> {
        match watched.poll_signal(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(signal) => Some(signal),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_head_that_never_ends_expires_and_an_idle_connection_does_not() {
        let callers = Callers::default();
        let start = Timestamp::from_millis(1000);
        let slow = callers.watch(CallerState::new(start, true));
        let idle = callers.watch(CallerState::new(start, false));
        callers.sweep(start.after(HEAD_TIMEOUT));
        assert_eq!((told(&slow), told(&idle)), (Some(Signal::Expired), None));
        drop(slow);
        assert_eq!(callers.len(), 1);
        drop(idle);
        assert!(callers.is_empty());
    }

    #[test]
    fn draining_reaches_those_that_are_there_and_those_that_come() {
        let callers = Callers::default();
        let start = Timestamp::from_millis(1000);
        let early = callers.watch(CallerState::new(start, false));
        assert_eq!(told(&early), None);
        callers.drain();
        let late = callers.watch(CallerState::new(start, false));
        assert_eq!(
            (told(&early), told(&late)),
            (Some(Signal::Drain), Some(Signal::Drain))
        );
        assert_eq!(told(&late), None);
    }
}
