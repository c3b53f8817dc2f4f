//! HTTP/2 connections upstream, which the requests of a worker share: one for
//! each place, more only where the peer's stream limit is reached.
//!
//! Owns which one a request takes, that only one is opened at a time, and when
//! one is let go. A connection that takes no more streams is kept until its
//! last one has ended, because it holds its permits until then.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::http2::connection::Connection;
use crate::pool::{Lease, Place};

/// Connections of one worker to one place that take streams; beyond it requests
/// wait, as they do at `maxConnections`. Those that end are not counted: each
/// has a stream of a request that is in flight, and such streams may outlive any
/// number of connections.
const CONNECTIONS_FOR_EACH_PLACE: usize = 16;

/// A connection that requests share. Its socket closes before its permits are
/// given back.
#[derive(Debug)]
pub struct Shared {
    /// The connection.
    pub connection: Connection,
    lease: RefCell<Lease>,
    /// It takes no more streams.
    retired: Cell<bool>,
}

impl Shared {
    /// A connection that was just opened.
    pub fn new(connection: Connection, lease: Lease) -> Rc<Self> {
        Rc::new(Self {
            connection,
            lease: RefCell::new(lease),
            retired: Cell::new(false),
        })
    }

    /// A request is about to go out on it; whether it is not the first.
    pub fn count_request(&self) -> bool {
        let mut lease = self.lease.borrow_mut();
        lease.count_request();
        std::mem::replace(&mut lease.reused, true)
    }

    /// Whose limits it counts against.
    pub fn service(&self) -> u64 {
        self.lease.borrow().service
    }

    fn is_open(&self) -> bool {
        !self.retired.get() && self.connection.is_usable()
    }

    fn takes_streams(&self, now: Timestamp) -> bool {
        if !self.is_open() {
            return false;
        }
        if self.lease.borrow().lifetime.is_over(now) {
            self.retire();
            return false;
        }
        self.connection.has_room()
    }

    fn retire(&self) {
        self.retired.set(true);
        self.connection.drain();
    }

    fn is_idle(&self) -> bool {
        self.connection.streams() == 0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.close();
    }
}

/// The opening of a shared connection.
#[derive(Debug)]
pub enum Opening {
    /// The asker opens it; the others wait until this is dropped.
    Mine(Opener),
    /// Somebody else does.
    Theirs(Rc<Pending>),
}

/// An opening that is under way.
#[derive(Debug, Default)]
pub struct Pending {
    ended: Notify,
    failed: RefCell<Option<String>>,
}

impl Pending {
    /// Completes when the opening has ended; with the reason where it failed.
    pub async fn ended(&self) -> Option<String> {
        self.ended.notified().await;
        self.failed.borrow().clone()
    }
}

/// Held by the one who opens a connection.
#[derive(Debug)]
pub struct Opener {
    openings: Rc<RefCell<HashMap<Place, Rc<Pending>>>>,
    place: Place,
    pending: Rc<Pending>,
}

impl Opener {
    /// Tells those who wait that it came to nothing, so that they do not each
    /// find out anew.
    pub fn fail(&self, why: String) {
        *self.pending.failed.borrow_mut() = Some(why);
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.openings.borrow_mut().remove(&self.place);
        self.pending.ended.notify_waiters();
    }
}

/// The shared connections of one worker.
#[derive(Debug, Default)]
pub struct SharedConnections {
    places: RefCell<BTreeMap<Place, Vec<Rc<Shared>>>>,
    openings: Rc<RefCell<HashMap<Place, Rc<Pending>>>>,
}

impl SharedConnections {
    /// One to `place` that takes a stream.
    pub fn find(&self, place: Place, now: Timestamp) -> Option<Rc<Shared>> {
        let mut places = self.places.borrow_mut();
        let held = places.get_mut(&place)?;
        if let Some(found) = held.iter().find(|shared| shared.takes_streams(now)) {
            return Some(Rc::clone(found));
        }
        // Those that ended give their permits back now, not at the next sweep.
        held.retain(|shared| shared.connection.is_usable() || !shared.is_idle());
        None
    }

    /// See [`crate::pool::Pool::opening`].
    pub fn opening(&self, place: Place) -> Opening {
        let mut openings = self.openings.borrow_mut();
        if let Some(pending) = openings.get(&place) {
            return Opening::Theirs(Rc::clone(pending));
        }
        let pending = Rc::new(Pending::default());
        openings.insert(place, Rc::clone(&pending));
        Opening::Mine(Opener {
            openings: Rc::clone(&self.openings),
            place,
            pending,
        })
    }

    /// Whether no more may be opened to `place`.
    pub fn is_full(&self, place: Place) -> bool {
        let places = self.places.borrow();
        let open = |held: &Vec<Rc<Shared>>| held.iter().filter(|shared| shared.is_open()).count();
        places.get(&place).map_or(0, open) >= CONNECTIONS_FOR_EACH_PLACE
    }

    /// Keeps one that was just opened.
    pub fn keep(&self, shared: Rc<Shared>) {
        let place = shared.lease.borrow().place;
        self.places
            .borrow_mut()
            .entry(place)
            .or_default()
            .push(shared);
    }

    /// Closes one of `service` that carries nothing and goes elsewhere than to `place`.
    pub fn close_idle_of(&self, service: u64, place: Place) -> bool {
        for (of, held) in self.places.borrow_mut().iter_mut() {
            let useless = |shared: &Rc<Shared>| {
                shared.service() == service
                    && shared.is_idle()
                    && (*of != place || !shared.connection.is_usable())
            };
            if let Some(index) = held.iter().position(useless) {
                drop(held.remove(index));
                return true;
            }
        }
        false
    }

    /// Closes those that carry nothing and that `lends` gives away.
    pub fn lend(&self, mut lends: impl FnMut(&Lease) -> bool) {
        for held in self.places.borrow_mut().values_mut() {
            held.retain(|shared| !(shared.is_idle() && lends(&shared.lease.borrow())));
        }
    }

    /// Lets go of what has ended, is too old, or has long carried nothing.
    pub fn sweep(&self, now: Timestamp) {
        self.places.borrow_mut().retain(|_, held| {
            held.retain(|shared| {
                if !shared.is_idle() {
                    shared.lease.borrow_mut().idle_from(now);
                    if shared.lease.borrow().lifetime.is_over(now) {
                        shared.retire();
                    }
                    return true;
                }
                !shared.retired.get()
                    && shared.connection.is_usable()
                    && !shared.lease.borrow().has_outstayed(now)
            });
            !held.is_empty()
        });
    }
}
