//! A connection upstream for a request: from the pool, or a new one within the
//! limits, or after a bounded wait.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use remora_proto::well_known as names;
use tokio::net::TcpStream;

use crate::clock::Timestamp;
use crate::io::Stream;
use crate::policy::config::Outbound;
use crate::policy::limit::Kind;
use crate::pool::{Idle, Lease, Lifetime, Place};
use crate::runtime::{ConnectionPermits, ConnectionWaiter, EndpointRuntime, ServiceRuntime};
use crate::shared::{Opening, Shared};
use crate::state::Secured;
use crate::tls::{self, Alpn, HandshakeError, HandshakeResult, Side};
use crate::wire::Wire;
use crate::worker::Worker;
use crate::{clock, http1, http2};

/// Whom to connect to, and how connections there are kept.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Of the service, or of the pod's own port.
    pub service: &'a Arc<ServiceRuntime>,
    /// The one that was picked.
    pub endpoint: &'a Arc<EndpointRuntime>,
    /// Its address and port.
    pub address: SocketAddr,
    /// What is spoken there.
    pub wire: Wire,
    /// Who must be there, and is sent nothing but TLS; `None`: plaintext.
    pub secured: Option<&'a Secured>,
    /// `outbound`.
    pub outbound: &'a Outbound,
}

/// Which pooled connections will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Any that is open.
    Any,
    /// One that was idle for less than this.
    IdleLessThan(Duration),
    /// None: a new connection.
    Never,
}

impl Reuse {
    const fn max_idle(self) -> Option<Duration> {
        match self {
            Self::Any => None,
            Self::IdleLessThan(limit) => Some(limit),
            Self::Never => Some(Duration::ZERO),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint did not take it.
    #[error("{address} did not accept a connection: {source}")]
    Refused {
        /// Who did not.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A limit of the circuit breaker is reached.
    #[error("circuitBreaker.{limit} of {service} is reached")]
    Overloaded {
        /// Whose limit.
        service: Arc<str>,
        /// Which limit.
        limit: &'static str,
    },
}

/// What carries a request: a connection of its own, or a stream of a shared one.
#[derive(Debug)]
pub enum Carrier {
    /// HTTP/1
    Own(Idle),
    /// HTTP/2
    Shared(Rc<Shared>),
}

impl Target<'_> {
    fn place(&self) -> Place {
        let tag = self.secured.map_or(0, |secured| secured.tag);
        (self.endpoint.id, self.address, self.wire, tag)
    }
}

/// A connection to `target`, within the limits. `now` is when the attempt
/// began; `queued` is true while the request waits for others to end.
pub async fn obtain(
    worker: &Rc<Worker>,
    target: Target<'_>,
    reuse: Reuse,
    now: Timestamp,
    queued: &Cell<bool>,
) -> Result<Carrier, ConnectError> {
    if target.wire.is_multiplexed() {
        if let Some(shared) = worker.pool.share(target.place(), now) {
            return Ok(Carrier::Shared(shared));
        }
        return Box::pin(obtain_shared(worker, target, queued)).await;
    }
    let max_idle = reuse.max_idle();
    if let Some(idle) = worker.pool.take(target.place(), now, max_idle) {
        return Ok(Carrier::Own(idle));
    }
    // In a box: few requests come here, and all would carry its size.
    Box::pin(obtain_own(worker, target, max_idle, queued)).await
}

/// A connection of its own that is not there yet.
async fn obtain_own(
    worker: &Rc<Worker>,
    target: Target<'_>,
    max_idle: Option<Duration>,
    queued: &Cell<bool>,
) -> Result<Carrier, ConnectError> {
    if let Some(permits) = ConnectionPermits::try_acquire(target.service, target.endpoint) {
        return open(worker, target, permits).await.map(Carrier::Own);
    }
    queued.set(true);
    let waited = wait(worker, target, max_idle).await;
    queued.set(false);
    match waited? {
        Waited::Carrier(carrier) => Ok(carrier),
        Waited::Permits(permits) => open(worker, target, permits).await.map(Carrier::Own),
    }
}

/// As [`obtain`], for HTTP/2. Of those who need a connection that is not there
/// one opens it, and the others wait for that.
async fn obtain_shared(
    worker: &Rc<Worker>,
    target: Target<'_>,
    queued: &Cell<bool>,
) -> Result<Carrier, ConnectError> {
    let place = target.place();
    loop {
        if let Some(shared) = worker.pool.share(place, clock::now()) {
            return Ok(Carrier::Shared(shared));
        }
        let opener = match worker.pool.opening(place) {
            Opening::Theirs(pending) => match pending.ended().await {
                None => continue,
                Some(why) => {
                    return Err(ConnectError::Refused {
                        address: target.address,
                        source: io::Error::other(why),
                    });
                }
            },
            Opening::Mine(opener) => opener,
        };
        let permits = match worker.pool.may_open(place) {
            true => ConnectionPermits::try_acquire(target.service, target.endpoint),
            false => None,
        };
        let permits = match permits {
            Some(permits) => permits,
            None => {
                // The others queue as well, each within `maxPendingRequests`.
                drop(opener);
                queued.set(true);
                let waited = wait(worker, target, None).await;
                queued.set(false);
                match waited? {
                    Waited::Carrier(carrier) => return Ok(carrier),
                    Waited::Permits(permits) => {
                        return open_shared(worker, target, permits)
                            .await
                            .map(Carrier::Shared);
                    }
                }
            }
        };
        let opened = open_shared(worker, target, permits).await;
        if let Err(error) = &opened {
            opener.fail(error.to_string());
        }
        return opened.map(Carrier::Shared);
    }
}

/// What waiting came to.
enum Waited {
    /// A connection came back, or has room again.
    Carrier(Carrier),
    /// One may be opened.
    Permits(ConnectionPermits),
}

/// At `maxConnections`: waits until one comes back or may be opened, among at
/// most `maxPendingRequests`, for at most the connect timeout.
async fn wait(
    worker: &Rc<Worker>,
    target: Target<'_>,
    max_idle: Option<Duration>,
) -> Result<Waited, ConnectError> {
    let overloaded = |limit| ConnectError::Overloaded {
        service: Arc::clone(&target.service.name),
        limit,
    };
    let (of_service, of_endpoint) = (&target.service.limits, &target.endpoint.limits);
    if of_service.max(Kind::Connections) == Some(0) {
        return Err(overloaded("maxConnections"));
    }
    if of_endpoint.max(Kind::Connections) == Some(0) {
        return Err(overloaded("perEndpoint.maxConnections"));
    }
    let Some(_pending) = of_service.try_acquire(Kind::Pending) else {
        return Err(overloaded("maxPendingRequests"));
    };
    let Some(_pending_there) = of_endpoint.try_acquire(Kind::Pending) else {
        return Err(overloaded("perEndpoint.maxPendingRequests"));
    };
    let _waiting = ConnectionWaiter::new(target.service);
    let waiter = worker.pool.wait(target.service.id);
    let deadline = clock::instant(clock::now().after(target.outbound.connect_timeout));
    loop {
        // An idle connection that this request cannot use keeps the place of one that it can.
        worker
            .pool
            .close_idle_of(target.service.id, target.place(), max_idle, clock::now());
        if let Some(waited) = look_again(worker, target, max_idle) {
            return Ok(waited);
        }
        // What the other workers keep idle would keep this request waiting for ever.
        worker.shared.connection_wanted.notify_waiters();
        tokio::select! {
            // In an order that chance has no part in, so that it can be played again.
            biased;
            () = waiter.returned() => {}
            () = target.service.connection_freed.notified() => {}
            () = tokio::time::sleep_until(deadline) => return Err(overloaded("maxConnections")),
        }
    }
}

fn look_again(
    worker: &Rc<Worker>,
    target: Target<'_>,
    max_idle: Option<Duration>,
) -> Option<Waited> {
    let (place, now) = (target.place(), clock::now());
    let carrier = if target.wire.is_multiplexed() {
        worker.pool.share(place, now).map(Carrier::Shared)
    } else {
        worker.pool.take(place, now, max_idle).map(Carrier::Own)
    };
    if let Some(carrier) = carrier {
        return Some(Waited::Carrier(carrier));
    }
    if target.wire.is_multiplexed() && !worker.pool.may_open(place) {
        return None;
    }
    ConnectionPermits::try_acquire(target.service, target.endpoint).map(Waited::Permits)
}

async fn open(
    worker: &Rc<Worker>,
    target: Target<'_>,
    permits: ConnectionPermits,
) -> Result<Idle, ConnectError> {
    let stream = dial_target(worker, target).await?;
    if target.wire == Wire::MeshHttp1 && target.secured.is_none() {
        // A few bytes on a socket that has just opened are always taken at once.
        let taken = stream.try_write(names::mesh::H1_PREFACE);
        if !matches!(taken, Ok(length) if length == names::mesh::H1_PREFACE.len()) {
            return Err(refused(
                target,
                taken
                    .err()
                    .unwrap_or_else(|| io::ErrorKind::WriteZero.into()),
            ));
        }
    }
    Ok(adopt(worker, stream, target, permits))
}

/// Makes an HTTP/1 connection of a stream that stands already.
pub fn adopt(
    worker: &Rc<Worker>,
    stream: Stream,
    target: Target<'_>,
    permits: ConnectionPermits,
) -> Idle {
    Idle {
        connection: http1::connection::Connection::new(stream, &worker.scratch),
        lease: Box::new(lease(target, permits)),
    }
}

async fn open_shared(
    worker: &Rc<Worker>,
    target: Target<'_>,
    permits: ConnectionPermits,
) -> Result<Rc<Shared>, ConnectError> {
    let stream = dial_target(worker, target).await?;
    // Many share it, and all of them would go on to a node that is gone.
    stream
        .end_unacknowledged(http2::settings::SOCKET_STALL)
        .map_err(|source| refused(target, source))?;
    let opened = if target.wire == Wire::MeshHttp2 {
        http2::connection::Connection::open_mesh(stream).await
    } else {
        http2::connection::Connection::open(stream).await
    };
    let connection = opened.map_err(|source| refused(target, source))?;
    let shared = Shared::new(connection, lease(target, permits));
    worker.pool.keep(Rc::clone(&shared));
    Ok(shared)
}

fn lease(target: Target<'_>, permits: ConnectionPermits) -> Lease {
    let now = clock::now();
    let lifetime = Lifetime::new(target.outbound, now, crate::random::next());
    Lease::new(target.place(), target.service.id, lifetime, now, permits)
}

fn refused(target: Target<'_>, source: io::Error) -> ConnectError {
    ConnectError::Refused {
        address: target.address,
        source,
    }
}

async fn dial_target(worker: &Worker, target: Target<'_>) -> Result<Stream, ConnectError> {
    let Target {
        address, outbound, ..
    } = target;
    let alpn = target.wire.alpn();
    dial_endpoint(worker, address, target.secured, alpn, outbound).await
}

/// Opens a connection to an endpoint within the connect timeout: with mutual
/// TLS, and nothing less, where it is `secured`.
///
/// # Errors
/// A handshake that fails is a connection that did not come about.
pub async fn dial_endpoint(
    worker: &Worker,
    address: SocketAddr,
    secured: Option<&Secured>,
    alpn: Alpn,
    outbound: &Outbound,
) -> Result<Stream, ConnectError> {
    #[cfg(test)]
    if let Some(network) = crate::simulation::network::present() {
        let dialing = network.dial(address, outbound.connect_timeout).await;
        let refused = |source| ConnectError::Refused { address, source };
        return dialing.map(Stream::Simulated).map_err(refused);
    }
    let Some(secured) = secured else {
        return dial(worker, address, outbound).await.map(Stream::Plain);
    };
    let deadline = clock::instant(clock::now().after(outbound.connect_timeout));
    let socket = dial(worker, address, outbound).await?;
    let shaking = Box::pin(shake_hands(worker, socket, address, secured, alpn));
    let shaken = tokio::time::timeout_at(deadline, shaking).await;
    let handshakes = &worker.shared.tls.handshakes;
    match shaken.unwrap_or_else(|_| Err(tls::handshake::late())) {
        Ok(stream) => {
            handshakes.count(Side::Outbound, HandshakeResult::Ok);
            Ok(stream)
        }
        Err(error) => {
            handshakes.failed(Side::Outbound, address, &error);
            let source = io::Error::other(error);
            Err(ConnectError::Refused { address, source })
        }
    }
}

async fn shake_hands(
    worker: &Worker,
    socket: TcpStream,
    address: SocketAddr,
    secured: &Secured,
    alpn: Alpn,
) -> Result<Stream, HandshakeError> {
    let mutual = worker.shared.tls.mutual().clone();
    let mutual = mutual.ok_or_else(tls::handshake::no_certificate)?;
    let config = worker.tls_clients.of(&mutual, &secured.id, alpn)?;
    let stream = tls::handshake::connect(config, socket, address.ip()).await?;
    Ok(stream.into())
}

/// Opens a TCP connection within the connect timeout.
pub async fn dial(
    worker: &Worker,
    address: SocketAddr,
    outbound: &Outbound,
) -> Result<TcpStream, ConnectError> {
    let connecting = crate::socket::connect(address, worker.shared.config.socket_mark);
    let connected = match tokio::time::timeout(outbound.connect_timeout, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "no connection within connectTimeout ({} ms)",
                outbound.connect_timeout.as_millis()
            ),
        )),
    };
    connected.map_err(|source| ConnectError::Refused { address, source })
}
