//! Which callers' connections a worker holds, and which of them have
//! outstayed: looked through once a second, so that no request sets a timer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

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
}

#[derive(Debug)]
struct Entry {
    state: Rc<CallerState>,
    expired: Notify,
    place: Cell<usize>,
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
            expired: Notify::new(),
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
                entry.expired.notify_one();
            }
        }
    }
}

impl Watched<'_> {
    /// Completes when the connection has outstayed.
    pub async fn expired(&self) {
        self.entry.expired.notified().await;
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

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_expires_and_an_idle_connection_does_not() {
        let callers = Callers::default();
        let start = crate::clock::now();
        let slow = callers.watch(CallerState::new(start, true));
        let idle = callers.watch(CallerState::new(start, false));
        callers.sweep(start.after(HEAD_TIMEOUT));
        let waited = Duration::from_millis(1);
        assert!(tokio::time::timeout(waited, slow.expired()).await.is_ok());
        assert!(tokio::time::timeout(waited, idle.expired()).await.is_err());
        drop(slow);
        assert_eq!(callers.len(), 1);
        drop(idle);
        assert!(callers.is_empty());
    }
}
