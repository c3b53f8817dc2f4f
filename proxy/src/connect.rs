//! A connection upstream for a request: from the pool, or a new one within the
//! limits, or after a bounded wait.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::clock;
use crate::http1::server::{BUFFER_BYTES, HEAD_BYTES, HEAD_FIELDS};
use crate::io::UpstreamIo;
use crate::policy::config::Outbound;
use crate::policy::limit::Kind;
use crate::pool::{Lifetime, UpstreamConnection};
use crate::runtime::{ConnectionPermits, EndpointRuntime, ServiceRuntime};
use crate::worker::Worker;

/// Whom to connect to, and how connections there are kept.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Of the service, or of the pod's own port.
    pub service: &'a Arc<ServiceRuntime>,
    /// The one that was picked.
    pub endpoint: &'a Arc<EndpointRuntime>,
    /// Its address and port.
    pub address: SocketAddr,
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

/// A connection to `target`, within the limits. `queued` is true while the
/// request waits for others to end.
pub async fn obtain(
    worker: &Rc<Worker>,
    target: Target<'_>,
    reuse: Reuse,
    queued: &Cell<bool>,
) -> Result<UpstreamConnection, ConnectError> {
    let max_idle = match reuse {
        Reuse::Any => None,
        Reuse::IdleLessThan(limit) => Some(limit),
        Reuse::Never => Some(Duration::ZERO),
    };
    if let Some(connection) =
        worker
            .pool
            .take(target.endpoint.id, target.address, clock::now(), max_idle)
    {
        return Ok(connection);
    }
    if let Some(permits) = ConnectionPermits::try_acquire(target.service, target.endpoint) {
        return open(worker, target, permits).await;
    }
    queued.set(true);
    let permits = wait(worker, target, max_idle).await;
    queued.set(false);
    match permits? {
        Waited::Connection(connection) => Ok(connection),
        Waited::Permits(permits) => open(worker, target, permits).await,
    }
}

/// What waiting came to.
enum Waited {
    /// A connection came back.
    Connection(UpstreamConnection),
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
    let waiter = worker.pool.wait(target.service.id);
    let deadline = clock::instant(clock::now().after(target.outbound.connect_timeout));
    loop {
        // An idle connection that this request cannot use keeps the place of one that it can.
        worker.pool.close_idle_of(
            target.service.id,
            target.endpoint.id,
            max_idle,
            clock::now(),
        );
        if let Some(connection) =
            worker
                .pool
                .take(target.endpoint.id, target.address, clock::now(), max_idle)
        {
            return Ok(Waited::Connection(connection));
        }
        if let Some(permits) = ConnectionPermits::try_acquire(target.service, target.endpoint) {
            return Ok(Waited::Permits(permits));
        }
        // What the other workers keep idle would keep this request waiting for ever.
        worker.shared.connection_wanted.notify_waiters();
        tokio::select! {
            () = waiter.returned() => {}
            () = target.service.connection_freed.notified() => {}
            () = tokio::time::sleep_until(deadline) => return Err(overloaded("maxConnections")),
        }
    }
}

async fn open(
    worker: &Rc<Worker>,
    target: Target<'_>,
    permits: ConnectionPermits,
) -> Result<UpstreamConnection, ConnectError> {
    let stream = dial(worker, target.address, target.outbound).await?;
    adopt(stream, target, permits).await
}

/// Makes an HTTP/1.1 connection of a stream that stands already.
pub async fn adopt(
    stream: TcpStream,
    target: Target<'_>,
    permits: ConnectionPermits,
) -> Result<UpstreamConnection, ConnectError> {
    let io = UpstreamIo::new(stream);
    let (sender, connection) = http1::Builder::new()
        .max_headers(HEAD_FIELDS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(BUFFER_BYTES)
        .handshake(TokioIo::new(io.clone()))
        .await
        .map_err(|error| ConnectError::Refused {
            address: target.address,
            source: io::Error::other(error),
        })?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection upstream ended with an error");
        }
    });
    let now = clock::now();
    let lifetime = Lifetime::new(target.outbound, now, crate::random::next());
    Ok(UpstreamConnection::new(
        sender,
        io,
        lifetime,
        now,
        target.address,
        target.service.id,
        permits,
    ))
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
