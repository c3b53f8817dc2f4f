//! A worker's pool of HTTP/1.1 connections upstream.
//!
//! Owns which idle connection is used next and when one is closed. Limits on
//! connections are the service's (`runtime`); a connection carries its permits
//! for as long as it is open.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;

use crate::body::request::RequestBody;
use crate::clock::Timestamp;
use crate::io::UpstreamIo;
use crate::policy::config::Outbound;
use crate::runtime::ConnectionPermits;

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

    fn is_over(&self, now: Timestamp) -> bool {
        self.requests_left == Some(0) || self.retire_at.is_some_and(|at| at <= now)
    }
}

/// An open HTTP/1.1 connection upstream.
#[derive(Debug)]
pub struct UpstreamConnection {
    sender: SendRequest<RequestBody>,
    io: UpstreamIo,
    lifetime: Lifetime,
    idle_since: Timestamp,
    /// Where it goes: one endpoint may be reached at several addresses and ports.
    address: SocketAddr,
    /// It has carried a request before.
    reused: bool,
    service: u64,
    permits: ConnectionPermits,
}

impl UpstreamConnection {
    /// A connection that was just opened.
    pub fn new(
        sender: SendRequest<RequestBody>,
        io: UpstreamIo,
        lifetime: Lifetime,
        now: Timestamp,
        address: SocketAddr,
        service: u64,
        permits: ConnectionPermits,
    ) -> Self {
        Self {
            sender,
            io,
            lifetime,
            idle_since: now,
            address,
            reused: false,
            service,
            permits,
        }
    }

    /// Sends through it. Counts the request against its lifetime.
    pub fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        if let Some(left) = &mut self.lifetime.requests_left {
            *left = left.saturating_sub(1);
        }
        &mut self.sender
    }

    /// Whether it has carried a request before this one.
    pub fn is_reused(&self) -> bool {
        self.reused
    }
}

impl Drop for UpstreamConnection {
    /// Closed before its permits are given back, and before the request that it
    /// may still carry gives back its own: so no upstream ever has more than the
    /// limits allow. hyper's task would close it only later.
    fn drop(&mut self) {
        self.io.close();
    }
}

/// An endpoint, and the address of it.
type Place = (u64, SocketAddr);

#[derive(Debug, Default)]
struct Slot {
    idle: Vec<UpstreamConnection>,
}

/// The idle connections of one worker, by endpoint.
#[derive(Debug, Default)]
pub struct Pool {
    slots: RefCell<HashMap<Place, Slot>>,
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
    /// The connection to `endpoint` that was used last, when it is still good
    /// and was idle for less than `max_idle`.
    pub fn take(
        &self,
        endpoint: u64,
        address: SocketAddr,
        now: Timestamp,
        max_idle: Option<Duration>,
    ) -> Option<UpstreamConnection> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(&(endpoint, address))?;
        let mut not_ready = Vec::new();
        let mut found = None;
        while let Some(mut connection) = slot.idle.pop() {
            let idle = now.since(connection.idle_since);
            if connection.sender.is_closed()
                || idle >= connection.lifetime.idle_timeout
                || connection.lifetime.is_over(now)
            {
                continue;
            }
            if max_idle.is_some_and(|max_idle| idle >= max_idle) {
                // All below it were idle for longer.
                not_ready.push(connection);
                break;
            }
            if connection.sender.is_ready() {
                connection.reused = true;
                found = Some(connection);
                break;
            }
            // Its task has not yet noticed the end of the last answer.
            not_ready.push(connection);
        }
        slot.idle.extend(not_ready.into_iter().rev());
        found
    }

    /// Takes a connection back after a whole answer. Where another worker waits
    /// for a connection of this service and none here does, it is closed, which
    /// lets that worker open one.
    pub fn give_back(
        &self,
        endpoint: u64,
        mut connection: UpstreamConnection,
        now: Timestamp,
        others_wait: bool,
    ) {
        if connection.sender.is_closed() || connection.lifetime.is_over(now) {
            return;
        }
        let waiting = if others_wait {
            self.waiting.borrow().get(&connection.service).cloned()
        } else {
            None
        };
        if others_wait && waiting.is_none() {
            return;
        }
        connection.idle_since = now;
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry((endpoint, connection.address)).or_default();
        if slot.idle.len() < IDLE_FOR_EACH_ENDPOINT {
            slot.idle.push(connection);
        }
        drop(slots);
        if let Some(waiting) = waiting {
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

    /// Closes an idle connection of `service` that a request for `endpoint`
    /// cannot use, so that its permit serves that request; whether there was one.
    pub fn close_idle_of(
        &self,
        service: u64,
        endpoint: u64,
        max_idle: Option<Duration>,
        now: Timestamp,
    ) -> bool {
        let mut slots = self.slots.borrow_mut();
        for (of, slot) in slots.iter_mut() {
            let useless = |connection: &UpstreamConnection| {
                connection.service == service
                    && (of.0 != endpoint
                        || max_idle.is_some_and(|limit| now.since(connection.idle_since) >= limit))
            };
            if let Some(place) = slot.idle.iter().position(useless) {
                drop(slot.idle.remove(place));
                return true;
            }
        }
        false
    }

    /// Closes one idle connection of each service for which a request waits at
    /// some worker, which may then open one.
    pub fn lend(&self) {
        let mut lent: Vec<u64> = Vec::new();
        for slot in self.slots.borrow_mut().values_mut() {
            slot.idle.retain(|connection| {
                let service = connection.service;
                let lends = connection.permits.somebody_waits() && !lent.contains(&service);
                if lends {
                    lent.push(service);
                }
                !lends
            });
        }
    }

    /// Closes what has been idle for too long or is too old.
    pub fn sweep(&self, now: Timestamp) {
        self.slots.borrow_mut().retain(|_, slot| {
            slot.idle.retain(|connection| {
                !connection.sender.is_closed()
                    && !connection.lifetime.is_over(now)
                    && now.since(connection.idle_since) < connection.lifetime.idle_timeout
            });
            slot.idle.shrink_to(slot.idle.len() * 2);
            !slot.idle.is_empty()
        });
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
