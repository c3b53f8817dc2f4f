//! Raw TCP: to an endpoint of a service under its breaker and limits, or to
//! the application.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::access_log::Line;
use crate::balance::LoadGuard;
use crate::clock::{self, Timestamp};
use crate::connect::{self, Target};
use crate::detect::{Detector, Verdict};
use crate::engine::Spoken;
use crate::inbound::InboundPort;
use crate::io::Prefixed;
use crate::policy::breaker::{BreakerPermit, Outcome};
use crate::policy::config::{AttemptEnd, Outbound};
use crate::policy::retry::MAX_RESENDS;
use crate::pool::Idle;
use crate::relay::{self, RelayEnd, Relayed};
use crate::runtime::{ConnectionPermits, EndpointRuntime, ServiceRuntime};
use crate::select::{self, Tried};
use crate::sniff::{self, Sniffed};
use crate::socket;
use crate::state::{Destination, Endpoint, Service};
use crate::wire::Wire;
use crate::worker::Worker;

/// Endpoints that are looked at for one connection.
const PICKS: usize = 8;

/// A connection that stands, to an endpoint of a service.
struct Upstream<'a> {
    stream: TcpStream,
    endpoint: &'a Endpoint,
    permits: ConnectionPermits,
    breaker: BreakerPermit,
    load: LoadGuard,
    service_breaker: Option<BreakerPermit>,
}

/// Carries a raw connection to `service`.
pub async fn outbound(
    worker: &Rc<Worker>,
    caller: TcpStream,
    seen: Bytes,
    peer: SocketAddr,
    service: &Service,
    destination: Destination,
) {
    let started = clock::now();
    match open(worker, peer, service, destination).await {
        Some(upstream) => carry(worker, &caller, upstream, seen, peer, service, started).await,
        None => refuse(&caller, &service.runtime),
    }
}

/// Nothing reached an application: the caller sees a reset.
fn refuse(caller: &TcpStream, runtime: &ServiceRuntime) {
    runtime.traffic.tcp_failures.fetch_add(1, Relaxed);
    socket::reset_on_close(caller);
}

/// The client of an undeclared port is silent: connects, and lets whoever
/// speaks first decide. Gives the connection back when the client turns out
/// to speak HTTP; the connection upstream then waits in the pool.
pub async fn whoever_speaks_first(
    worker: &Rc<Worker>,
    caller: TcpStream,
    detector: Detector,
    peer: SocketAddr,
    service: &Service,
    destination: Destination,
) -> Option<(Spoken, Prefixed)> {
    let started = clock::now();
    let Some(upstream) = open(worker, peer, service, destination).await else {
        // Perhaps it speaks HTTP and can be told why; else its first bytes end it.
        return match sniff::resume(&caller, detector).await {
            Ok(Sniffed::Decided(Verdict::Http1, seen)) => {
                Some((Spoken::Http1, Prefixed::new(seen, caller)))
            }
            Ok(Sniffed::Decided(Verdict::Http2, seen)) => {
                Some((Spoken::Http2, Prefixed::new(seen, caller)))
            }
            _ => {
                refuse(&caller, &service.runtime);
                None
            }
        };
    };
    match first_words(&caller, &upstream.stream, detector).await {
        FirstWords::Http(Spoken::Http1, seen) => {
            let Upstream {
                stream,
                endpoint,
                permits,
                breaker,
                ..
            } = upstream;
            drop(breaker);
            let target = Target {
                service: &service.runtime,
                endpoint: &endpoint.runtime,
                address: endpoint.config.address_for(destination),
                wire: Wire::Http1,
                outbound: &service.config.policy.outbound,
            };
            let Idle { connection, lease } = connect::adopt(worker, stream, target, permits);
            worker.pool.give_back(connection, lease, clock::now());
            Some((Spoken::Http1, Prefixed::new(seen, caller)))
        }
        // Multiplexed on a connection that others may share: this one is of no use.
        FirstWords::Http(spoken, seen) if !spoken.is_mesh() => {
            Some((spoken, Prefixed::new(seen, caller)))
        }
        FirstWords::Http(_, seen) | FirstWords::Opaque(seen) => {
            carry(worker, &caller, upstream, seen, peer, service, started).await;
            None
        }
        FirstWords::Nobody => None,
    }
}

enum FirstWords {
    /// The client speaks HTTP.
    Http(Spoken, Bytes),
    /// Something else; what the client has said.
    Opaque(Bytes),
    /// Both are gone.
    Nobody,
}

async fn first_words(caller: &TcpStream, upstream: &TcpStream, detector: Detector) -> FirstWords {
    tokio::select! {
        biased;
        _ = caller.readable() => {}
        _ = upstream.readable() => return FirstWords::Opaque(Bytes::new()),
    }
    match sniff::resume(caller, detector).await {
        Ok(Sniffed::Decided(verdict, seen)) => match Spoken::of(verdict) {
            Some(spoken) => FirstWords::Http(spoken, seen),
            None => FirstWords::Opaque(seen),
        },
        // It closed its side, and the server may still have something to say.
        Ok(Sniffed::Silent(_) | Sniffed::Closed) => FirstWords::Opaque(Bytes::new()),
        Err(_) => FirstWords::Nobody,
    }
}

/// Connects to an endpoint; what refuses is tried elsewhere up to twice.
async fn open<'a>(
    worker: &Rc<Worker>,
    peer: SocketAddr,
    service: &'a Service,
    destination: Destination,
) -> Option<Upstream<'a>> {
    let mut tried = Tried::default();
    let runtime = &service.runtime;
    runtime.traffic.tcp_connections.fetch_add(1, Relaxed);
    let mut refused = 0;
    for _ in 0..PICKS {
        let now = clock::now();
        let service_breaker = runtime.service_breaker().try_admit(now)?;
        let picked = select::pick(
            service,
            destination.port,
            Some(peer.ip()),
            &worker.shared.config.node,
            &tried,
            now,
            crate::random::next(),
        );
        let endpoint = picked.ok()?;
        tried.add(endpoint);
        let Some(breaker) = endpoint.runtime.breaker.try_admit(now) else {
            continue;
        };
        // At `perEndpoint.maxConnections`: another may have room.
        let Some(permits) = ConnectionPermits::try_acquire(runtime, &endpoint.runtime) else {
            continue;
        };
        if refused > 0 {
            runtime.traffic.resends.fetch_add(1, Relaxed);
        }
        let load = endpoint.runtime.load.start(now);
        endpoint.runtime.attempts.fetch_add(1, Relaxed);
        let address = endpoint.config.address_for(destination);
        match connect::dial(worker, address, &service.config.policy.outbound).await {
            Ok(stream) => {
                let service_breaker = Some(service_breaker);
                return Some(Upstream {
                    stream,
                    endpoint,
                    permits,
                    breaker,
                    load,
                    service_breaker,
                });
            }
            Err(error) => {
                tracing::debug!(service = %runtime.name, %error, "a raw connection did not come about");
                fail(
                    service,
                    &endpoint.runtime,
                    AttemptEnd::ConnectFailure,
                    breaker,
                    &load,
                );
                record(service, AttemptEnd::ConnectFailure, service_breaker);
                refused += 1;
                if refused > MAX_RESENDS || service.is_direct() {
                    return None;
                }
            }
        }
    }
    None
}

fn fail(
    service: &Service,
    endpoint: &EndpointRuntime,
    end: AttemptEnd,
    breaker: BreakerPermit,
    load: &LoadGuard,
) {
    load.failed(clock::now());
    endpoint.failures.fetch_add(1, Relaxed);
    record(service, end, breaker);
}

fn record(service: &Service, end: AttemptEnd, breaker: BreakerPermit) {
    if let Some(policy) = &service.config.policy.circuit_breaker
        && policy.trip.failures.matches(end)
    {
        breaker.record(
            Outcome::Failure(end),
            None,
            clock::now(),
            crate::random::next(),
        );
    }
}

/// Relays until the connection ends. The endpoint has done its work once its
/// first byte comes; a reset before that counts as if it had not connected.
async fn carry(
    worker: &Rc<Worker>,
    caller: &TcpStream,
    upstream: Upstream<'_>,
    seen: Bytes,
    peer: SocketAddr,
    service: &Service,
    started: Timestamp,
) {
    let Upstream {
        stream,
        endpoint,
        permits,
        breaker,
        load,
        service_breaker,
    } = upstream;
    let _open = OpenConnection::count(&service.runtime);
    let mut outcome = Some((breaker, load));
    let mut service_outcome = service_breaker;
    let idle = service.config.policy.timeouts.idle;
    let relayed = relay::relay(caller, &stream, seen, idle, &worker.scratch, || {
        let now = clock::now();
        if let Some((breaker, load)) = outcome.take() {
            load.answered(now);
            breaker.record(Outcome::Success, None, now, crate::random::next());
        }
        if let Some(breaker) = service_outcome.take() {
            breaker.record(Outcome::Success, None, now, crate::random::next());
        }
    })
    .await;
    if relayed.end == RelayEnd::UpstreamBroke {
        service.runtime.traffic.tcp_failures.fetch_add(1, Relaxed);
        if let Some((breaker, load)) = outcome.take() {
            fail(
                service,
                &endpoint.runtime,
                AttemptEnd::ConnectFailure,
                breaker,
                &load,
            );
        }
        if let Some(breaker) = service_outcome.take() {
            record(service, AttemptEnd::ConnectFailure, breaker);
        }
    }
    drop(permits);
    log(
        worker,
        &service.runtime,
        "outbound",
        Some(&endpoint.runtime.name),
        peer,
        started,
        relayed,
    );
}

/// Carries a raw connection to the application.
pub async fn inbound(
    worker: &Rc<Worker>,
    caller: TcpStream,
    seen: Bytes,
    port: &InboundPort,
    address: SocketAddr,
) {
    match dial_application(worker, port, address).await {
        Some(stream) => carry_inbound(worker, &caller, &stream, seen, port).await,
        None => socket::reset_on_close(&caller),
    }
}

async fn dial_application(
    worker: &Rc<Worker>,
    port: &InboundPort,
    address: SocketAddr,
) -> Option<TcpStream> {
    port.runtime.traffic.tcp_connections.fetch_add(1, Relaxed);
    let application = worker.shared.application_address(address);
    match connect::dial(worker, application, &Outbound::default()).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            port.runtime.traffic.tcp_failures.fetch_add(1, Relaxed);
            tracing::debug!(%error, "the application does not take a raw connection");
            None
        }
    }
}

async fn carry_inbound(
    worker: &Rc<Worker>,
    caller: &TcpStream,
    stream: &TcpStream,
    seen: Bytes,
    port: &InboundPort,
) {
    let started = clock::now();
    let _open = OpenConnection::count(&port.runtime);
    let relayed = relay::relay(caller, stream, seen, None, &worker.scratch, || ()).await;
    if relayed.end == RelayEnd::UpstreamBroke {
        port.runtime.traffic.tcp_failures.fetch_add(1, Relaxed);
    }
    if let Ok(peer) = caller.peer_addr() {
        log(
            worker,
            &port.runtime,
            "inbound",
            None,
            socket::canonical(peer),
            started,
            relayed,
        );
    }
}

/// As [`whoever_speaks_first`], with the application as the only endpoint.
pub async fn whoever_speaks_first_inbound(
    worker: &Rc<Worker>,
    caller: TcpStream,
    detector: Detector,
    port: &InboundPort,
    address: SocketAddr,
) -> Option<(Spoken, Prefixed)> {
    let Some(stream) = dial_application(worker, port, address).await else {
        socket::reset_on_close(&caller);
        return None;
    };
    let address = worker.shared.application_address(address);
    match first_words(&caller, &stream, detector).await {
        FirstWords::Http(Spoken::Http1, seen) => {
            let outbound = Outbound::default();
            let target = Target {
                service: &port.runtime,
                endpoint: &port.application,
                address,
                wire: Wire::Http1,
                outbound: &outbound,
            };
            if let Some(permits) = ConnectionPermits::try_acquire(&port.runtime, &port.application)
            {
                let Idle { connection, lease } = connect::adopt(worker, stream, target, permits);
                worker.pool.give_back(connection, lease, clock::now());
            }
            Some((Spoken::Http1, Prefixed::new(seen, caller)))
        }
        FirstWords::Http(spoken, seen) => Some((spoken, Prefixed::new(seen, caller))),
        FirstWords::Opaque(seen) => {
            carry_inbound(worker, &caller, &stream, seen, port).await;
            None
        }
        FirstWords::Nobody => None,
    }
}

/// Counts a raw connection as open until it is dropped.
struct OpenConnection(Arc<ServiceRuntime>);

impl OpenConnection {
    fn count(runtime: &Arc<ServiceRuntime>) -> Self {
        runtime.traffic.tcp_open.fetch_add(1, Relaxed);
        Self(Arc::clone(runtime))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.traffic.tcp_open.fetch_sub(1, Relaxed);
    }
}

fn log(
    worker: &Worker,
    runtime: &ServiceRuntime,
    direction: &'static str,
    endpoint: Option<&str>,
    peer: SocketAddr,
    started: Timestamp,
    relayed: Relayed,
) {
    if !worker.shared.access_log.is_on() {
        return;
    }
    let reason = match relayed.end {
        RelayEnd::Closed => None,
        RelayEnd::CallerBroke => Some("caller_left"),
        RelayEnd::UpstreamBroke => Some("upstream_broke_off"),
        RelayEnd::Idle => Some("timeout"),
    };
    let duration_ms = clock::now().since(started).as_secs_f64() * 1_000.0;
    worker.shared.access_log.write(&Line {
        at_ms: clock::unix_ms(started),
        direction,
        protocol: "tcp",
        service: &runtime.name,
        endpoint,
        peer,
        method: None,
        path: None,
        status: None,
        reason,
        grpc_status: None,
        attempts: 0,
        latency_ms: duration_ms,
        duration_ms,
        received_bytes: relayed.received_bytes,
    });
}
