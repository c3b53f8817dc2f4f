//! A worker's connections upstream: idle ones of HTTP/1, and those of HTTP/2
//! that requests share.
//!
//! Owns which connection is used next and when one is closed. Limits on
//! connections are the service's (`runtime`); each open connection has a
//! [`Lease`], which carries its permits.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::http1::connection::Connection;
use crate::policy::config::Outbound;
use crate::runtime::ConnectionPermits;
use crate::shared::{Opening, Shared, SharedConnections};
use crate::wire::Wire;

/// A request that must not be sent twice uses a pooled connection to something
/// that is not a sidecar only when it was idle for less than this: the server
/// may be closing it at this very moment.
pub const FRESH: Duration = Duration::from_secs(1);

/// Idle connections that a worker keeps for one endpoint.
const IDLE_FOR_EACH_ENDPOINT: usize = 1024;

/// When a connection is not used again.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    idle_timeout: Duration,
    retire_at: Option<Timestamp>,
    requests_left: Option<u32>,
}

impl Lifetime {
    /// From `outbound`, for a connection opened `now`; its age is jittered by up
    /// to a fifth, so that connections opened together do not all end together.
    pub fn new(outbound: &Outbound, now: Timestamp, random: u64) -> Self {
        let retire_at = outbound
            .max_connection_age
            .map(|age| now.after(age.mul_f64(0.8 + 0.2 * crate::random::unit(random))));
        Self {
            idle_timeout: outbound.idle_timeout,
            retire_at,
            requests_left: outbound.max_requests_per_connection,
        }
    }

    /// Whether it takes no further request.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.requests_left == Some(0) || self.retire_at.is_some_and(|at| at <= now)
    }
}

/// An endpoint, an address of it, what is spoken there, and who is there by
/// [`Secured::tag`]: 0 where nobody proves it.
///
/// [`Secured::tag`]: crate::state::Secured::tag
pub type Place = (u64, SocketAddr, Wire, u64);

/// What an open connection upstream holds, beside its socket.
#[derive(Debug)]
pub struct Lease {
    /// Where it goes: one endpoint may be reached at several addresses and ports.
    pub place: Place,
    /// Whose limits it counts against.
    pub service: u64,
    /// When it is not used again.
    pub lifetime: Lifetime,
    /// It has carried a request before this one.
    pub reused: bool,
    idle_since: Timestamp,
    permits: ConnectionPermits,
}

impl Lease {
    /// Of a connection that was just opened.
    pub fn new(
        place: Place,
        service: u64,
        lifetime: Lifetime,
        now: Timestamp,
        permits: ConnectionPermits,
    ) -> Self {
        Self {
            place,
            service,
            lifetime,
            reused: false,
            idle_since: now,
            permits,
        }
    }

    /// A request is about to go out on it.
    pub fn count_request(&mut self) {
        if let Some(left) = &mut self.lifetime.requests_left {
            *left = left.saturating_sub(1);
        }
    }

    /// Nothing is on it since `now`.
    pub fn idle_from(&mut self, now: Timestamp) {
        self.idle_since = now;
    }

    /// Whether nothing has been on it for its idle timeout, or it is too old.
    pub fn has_outstayed(&self, now: Timestamp) -> bool {
        self.lifetime.is_over(now) || now.since(self.idle_since) >= self.lifetime.idle_timeout
    }

    /// Whether a request waits for such a connection at some worker.
    pub fn somebody_waits(&self) -> bool {
        self.permits.somebody_waits()
    }
}

/// An HTTP/1 connection that carries nothing. Its socket closes before its
/// permits are given back, so that no upstream ever has more connections than
/// the limits allow: fields drop in this order.
#[derive(Debug)]
pub struct Idle {
    /// The connection.
    pub connection: Connection,
    /// What it holds; in a box, because each request hands it on several times.
    pub lease: Box<Lease>,
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    /// In an order, so that what is closed for others is no matter of chance.
    slots: RefCell<BTreeMap<Place, Vec<Idle>>>,
    shared: SharedConnections,
    /// Requests of this worker that wait for a connection, by service.
    waiting: RefCell<HashMap<u64, Rc<Waiting>>>,
}

/// Those who wait for a connection of one service.
#[derive(Debug, Default)]
struct Waiting {
    count: Cell<usize>,
    returned: Notify,
}

/// Waits for a connection to come back; stops waiting on drop.
#[derive(Debug)]
pub struct Waiter<'a> {
    pool: &'a Pool,
    service: u64,
    waiting: Rc<Waiting>,
}

impl Pool {
    /// The HTTP/1 connection to `place` that was used last, when it is still
    /// good and was idle for less than `max_idle`.
    pub fn take(&self, place: Place, now: Timestamp, max_idle: Option<Duration>) -> Option<Idle> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(&place)?;
        while let Some(mut idle) = slot.pop() {
            if idle.lease.has_outstayed(now) || !idle.connection.is_usable() {
                continue;
            }
            if max_idle.is_some_and(|max_idle| now.since(idle.lease.idle_since) >= max_idle) {
                // All below it were idle for longer.
                slot.push(idle);
                return None;
            }
            idle.lease.reused = true;
            return Some(idle);
        }
        None
    }

    /// A shared connection to `place` that has room for a stream.
    pub fn share(&self, place: Place, now: Timestamp) -> Option<Rc<Shared>> {
        self.shared.find(place, now)
    }

    /// The opening of a shared connection to `place` that is under way, or a
    /// new one, which the asker has to carry out.
    pub fn opening(&self, place: Place) -> Opening {
        self.shared.opening(place)
    }

    /// Whether one more shared connection to `place` may be opened.
    pub fn may_open(&self, place: Place) -> bool {
        !self.shared.is_full(place)
    }

    /// Keeps a shared connection that was just opened.
    pub fn keep(&self, shared: Rc<Shared>) {
        self.shared.keep(shared);
    }

    /// Takes an HTTP/1 connection back after a whole answer. Where another
    /// worker waits for a connection of this service and none here does, it is
    /// closed, which lets that worker open one.
    pub fn give_back(&self, connection: Connection, mut lease: Box<Lease>, now: Timestamp) {
        if lease.lifetime.is_over(now) || !connection.is_usable() {
            // Closed first, as everywhere.
            drop(connection);
            return;
        }
        let waiting = if lease.somebody_waits() {
            let waiting = self.waiting.borrow().get(&lease.service).cloned();
            if waiting.is_none() {
                drop(connection);
                return;
            }
            waiting
        } else {
            None
        };
        lease.idle_since = now;
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(lease.place).or_default();
        if slot.len() < IDLE_FOR_EACH_ENDPOINT {
            slot.push(Idle { connection, lease });
        } else {
            drop(connection);
        }
        drop(slots);
        if let Some(waiting) = waiting {
            waiting.returned.notify_one();
        }
    }

    /// A stream of a shared connection of `service` has ended.
    pub fn stream_ended(&self, service: u64) {
        if let Some(waiting) = self.waiting.borrow().get(&service) {
            waiting.returned.notify_one();
        }
    }

    /// Begins to wait for a connection of `service`.
    pub fn wait(&self, service: u64) -> Waiter<'_> {
        let waiting = Rc::clone(self.waiting.borrow_mut().entry(service).or_default());
        waiting.count.set(waiting.count.get() + 1);
        Waiter {
            pool: self,
            service,
            waiting,
        }
    }

    /// Closes an idle connection of `service` that a request for `place`
    /// cannot use, so that its permit serves that request; whether there was one.
    pub fn close_idle_of(
        &self,
        service: u64,
        place: Place,
        max_idle: Option<Duration>,
        now: Timestamp,
    ) -> bool {
        let mut slots = self.slots.borrow_mut();
        for (of, slot) in slots.iter_mut() {
            let useless = |idle: &Idle| {
                let outstayed =
                    max_idle.is_some_and(|limit| now.since(idle.lease.idle_since) >= limit);
                idle.lease.service == service
                    && (*of != place || outstayed || !idle.connection.is_usable())
            };
            if let Some(index) = slot.iter().position(useless) {
                drop(slot.remove(index));
                return true;
            }
        }
        drop(slots);
        self.shared.close_idle_of(service, place)
    }

    /// Closes one idle connection of each service for which a request waits at
    /// some worker, which may then open one.
    pub fn lend(&self) {
        let mut lent: Vec<u64> = Vec::new();
        let mut lends = |lease: &Lease| {
            let lends = lease.somebody_waits() && !lent.contains(&lease.service);
            if lends {
                lent.push(lease.service);
            }
            lends
        };
        for slot in self.slots.borrow_mut().values_mut() {
            slot.retain(|idle| !lends(&idle.lease));
        }
        self.shared.lend(lends);
    }

    /// Closes what has been idle for too long, is too old, or was closed by the
    /// other side.
    pub fn sweep(&self, now: Timestamp) {
        self.slots.borrow_mut().retain(|_, slot| {
            slot.retain(|idle| !idle.lease.has_outstayed(now) && idle.connection.is_usable());
            slot.shrink_to(slot.len() * 2);
            !slot.is_empty()
        });
        self.shared.sweep(now);
    }
}

impl Waiter<'_> {
    /// Completes when a connection came back to this worker.
    pub async fn returned(&self) {
        self.waiting.returned.notified().await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let left = self.waiting.count.get() - 1;
        self.waiting.count.set(left);
        if left == 0 {
            self.pool.waiting.borrow_mut().remove(&self.service);
        }
    }
}
