//! Raw TCP: to an endpoint of a service under its breaker and limits, or to
//! the application.

mod allowed;
mod open;
mod told;
mod waiting;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use self::open::OpenConnection;
use self::told::{Ends, log};
use crate::attempts::Later;
use crate::balance::LoadGuard;
use crate::choice;
use crate::clock::{self, Timestamp};
use crate::connect::{self, Target};
use crate::detect::{Detector, Verdict};
use crate::engine::Spoken;
use crate::inbound::InboundPort;
use crate::inbound_connection::Arrival;
use crate::io::{Prefixed, Stream};
use crate::policy::breaker::{BreakerPermit, Outcome};
use crate::policy::config::{AttemptEnd, Outbound};
use crate::policy::limit::Kind;
use crate::policy::retry::MAX_RESENDS;
use crate::pool::Idle;
use crate::relay::{self, RelayEnd};
use crate::runtime::{ConnectionPermits, EndpointRuntime, ServiceRuntime};
use crate::select::{self, Asking, NoPick, Tried};
use crate::sniff::{self, Sniffed};
use crate::state::{Destination, Endpoint, Service};
use crate::tls::Alpn;
use crate::wire::Wire;
use crate::worker::Worker;

/// Endpoints that are looked at for one connection.
const PICKS: usize = 8;

/// A connection that stands, to an endpoint of a service.
struct Upstream<'a> {
    stream: Stream,
    endpoint: &'a Endpoint,
    /// Of the pod itself, reached without a hop: its own rules hold.
    own_port: Option<u16>,
    permits: ConnectionPermits,
    breaker: BreakerPermit,
    load: LoadGuard,
    service_breaker: BreakerPermit,
}

/// Carries a raw connection to `service`.
pub async fn outbound(
    worker: &Rc<Worker>,
    caller: Stream,
    seen: Bytes,
    peer: SocketAddr,
    service: &Service,
    destination: Destination,
) {
    let (started, later) = (clock::now(), Later::default());
    match open_for(&caller, open(worker, peer, (service, &later), destination)).await {
        Some(upstream) => carry(worker, &caller, upstream, seen, peer, service, started).await,
        None => refuse(&caller, &service.runtime),
    }
}

/// Nothing reached an application: the caller sees a reset.
fn refuse(caller: &Stream, runtime: &ServiceRuntime) {
    runtime.traffic.tcp_failures.fetch_add(1, Relaxed);
    caller.reset_on_close();
}

/// The client of an undeclared port is silent: connects, and lets whoever
/// speaks first decide. Gives the connection back when the client turns out
/// to speak HTTP; the connection upstream then waits in the pool.
pub async fn whoever_speaks_first(
    worker: &Rc<Worker>,
    caller: Stream,
    detector: Detector,
    peer: SocketAddr,
    service: &Service,
    destination: Destination,
) -> Option<(Spoken, Prefixed)> {
    let (started, later) = (clock::now(), Later::default());
    let opening = open(worker, peer, (service, &later), destination);
    let Some(upstream) = open_for(&caller, opening).await else {
        // At once, though it may yet turn out to speak HTTP and could be told why:
        // the client of a server that speaks first would wait for nothing.
        refuse(&caller, &service.runtime);
        return None;
    };
    match first_words(&caller, &upstream.stream, detector).await {
        // Under TLS it carries bytes, and no requests of others.
        FirstWords::Known(Verdict::Http1, seen) if matches!(upstream.stream, Stream::Plain(_)) => {
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
                secured: None,
                outbound: &service.config.policy.outbound,
            };
            let Idle { connection, lease } = connect::adopt(worker, stream, target, permits);
            worker.pool.give_back(connection, lease, clock::now());
            Some((Spoken::Http1, Prefixed::new(seen, caller)))
        }
        // Multiplexed on a connection that others may share: this one is of no use.
        FirstWords::Known(verdict @ (Verdict::Http1 | Verdict::Http2), seen) => {
            let spoken = Spoken::of(verdict)?;
            Some((spoken, Prefixed::new(seen, caller)))
        }
        FirstWords::Known(_, seen) | FirstWords::Opaque(seen) => {
            carry(worker, &caller, upstream, seen, peer, service, started).await;
            None
        }
        FirstWords::Nobody => None,
    }
}

enum FirstWords {
    /// The client speaks HTTP, or begins TLS as another sidecar.
    Known(Verdict, Bytes),
    /// Something else; what the client has said.
    Opaque(Bytes),
    /// Both are gone.
    Nobody,
}

async fn first_words(caller: &Stream, upstream: &Stream, detector: Detector) -> FirstWords {
    tokio::select! {
        biased;
        _ = caller.readable() => {}
        _ = upstream.readable() => return FirstWords::Opaque(Bytes::new()),
    }
    match sniff::resume(caller, detector).await {
        Ok(Sniffed::Decided(verdict, seen)) => {
            if verdict.is_bytes() {
                FirstWords::Opaque(seen)
            } else {
                FirstWords::Known(verdict, seen)
            }
        }
        // It closed its side, and the server may still have something to say.
        Ok(Sniffed::Silent(_) | Sniffed::Closed) => FirstWords::Opaque(Bytes::new()),
        Err(_) => FirstWords::Nobody,
    }
}

/// Nothing is opened, nor waited for, for a caller that has broken off. One that has
/// only said all that it has to say may still hear the answer.
async fn open_for<T>(caller: &Stream, opening: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::select! {
        biased;
        opened = opening => opened,
        () = caller.broken() => None,
    }
}

/// Connects to an endpoint; what refuses is tried elsewhere up to twice. Where
/// there is none it waits, as the policy says.
async fn open<'a>(
    worker: &Rc<Worker>,
    peer: SocketAddr,
    (mut service, mut later): (&'a Service, &'a Later),
    destination: Destination,
) -> Option<Upstream<'a>> {
    let mut tried = Tried::default();
    let traffic = &service.runtime.traffic;
    traffic.tcp_connections.fetch_add(1, Relaxed);
    let ends = waiting::ends(service, clock::now());
    let mut refused = 0;
    for _ in 0..PICKS {
        let now = clock::now();
        let runtime = &service.runtime;
        let service_breaker = runtime.service_breaker().try_admit(now)?;
        let asking = Asking {
            port: destination.port,
            source: Some(peer.ip()),
            node: &worker.shared.config.node,
            hash: choice::hash(&service.config.policy.load_balancing, None, peer.ip()),
            counted: Kind::Connections,
            tried: &tried,
            now,
        };
        let endpoint = match select::pick(service, &asking, crate::random::next()) {
            Ok(endpoint) => endpoint,
            Err(NoPick::NoEndpoints) => {
                let waiting = waiting::wait(worker, (service, later), &asking, ends?);
                (service, later) = Box::pin(waiting).await?;
                continue;
            }
            Err(NoPick::Overloaded) => return None,
        };
        tried.add(endpoint);
        let Some(breaker) = endpoint.runtime.breaker.try_admit(now) else {
            continue;
        };
        // At `perEndpoint.maxConnections`: another may have room.
        let Some(permits) = ConnectionPermits::try_acquire(runtime, &endpoint.runtime) else {
            continue;
        };
        if refused > 0 {
            traffic.resends.fetch_add(1, Relaxed);
        }
        let places = Places {
            permits,
            breaker,
            load: endpoint.runtime.load.start(now),
            service_breaker,
        };
        let address = endpoint.config.address_for(destination);
        let own_port = allowed::itself(worker, peer, address)?;
        let to = (endpoint, address, own_port);
        let upstream = dial(worker, service, to, places).await;
        if upstream.is_some() {
            return upstream;
        }
        refused += 1;
        if refused > MAX_RESENDS || service.is_direct() {
            return None;
        }
    }
    None
}

/// What a connection holds before it stands.
struct Places {
    permits: ConnectionPermits,
    breaker: BreakerPermit,
    load: LoadGuard,
    service_breaker: BreakerPermit,
}

/// Connects; who hears how it went are the breakers.
async fn dial<'a>(
    worker: &Rc<Worker>,
    service: &Service,
    (endpoint, address, own_port): (&'a Endpoint, SocketAddr, Option<u16>),
    places: Places,
) -> Option<Upstream<'a>> {
    let Places {
        permits,
        mut breaker,
        load,
        mut service_breaker,
    } = places;
    endpoint.runtime.attempts.fetch_add(1, Relaxed);
    let secured = worker.shared.secured(&endpoint.config, address);
    let outbound = &service.config.policy.outbound;
    match connect::dial_endpoint(worker, address, secured, Alpn::Tcp, outbound).await {
        Ok(stream) => {
            // Of a raw connection nothing else is known to be slow.
            let connected = clock::now();
            breaker.answered(connected);
            service_breaker.answered(connected);
            load.answered(connected);
            Some(Upstream {
                stream,
                endpoint,
                own_port,
                permits,
                breaker,
                load,
                service_breaker,
            })
        }
        Err(error) => {
            let name = &service.runtime.name;
            tracing::debug!(service = %name, %error, "a raw connection did not come about");
            let end = AttemptEnd::ConnectFailure;
            fail(service, &endpoint.runtime, end, breaker, &load);
            record(service, end, service_breaker);
            None
        }
    }
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
    caller: &Stream,
    upstream: Upstream<'_>,
    seen: Bytes,
    peer: SocketAddr,
    service: &Service,
    started: Timestamp,
) {
    let Upstream {
        stream,
        endpoint,
        own_port,
        permits,
        breaker,
        load,
        service_breaker,
    } = upstream;
    let _open = OpenConnection::count(&service.runtime);
    let mut outcome = Some(breaker);
    let mut service_outcome = Some(service_breaker);
    let idle = service.config.policy.timeouts.idle;
    let answered = || {
        let now = clock::now();
        let breakers = [outcome.take(), service_outcome.take()];
        for breaker in breakers.into_iter().flatten() {
            breaker.record(Outcome::Success, None, now, crate::random::next());
        }
    };
    let denied = allowed::until_denied_itself(worker, peer, own_port);
    let scratch = &worker.scratch;
    let relaying = relay::relay_until(caller, &stream, seen, idle, scratch, answered, denied);
    let relayed = relaying.await;
    if relayed.end == RelayEnd::UpstreamBroke {
        service.runtime.traffic.tcp_failures.fetch_add(1, Relaxed);
        if let Some(breaker) = outcome.take() {
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
    // Open to its end: so balanced by open connections.
    drop((load, permits));
    let ends = Ends {
        direction: "outbound",
        endpoint: Some(&endpoint.runtime.name),
        peer,
        identity: None,
    };
    log(worker, &service.runtime, ends, started, relayed);
}

/// Carries a raw connection to the application.
pub async fn inbound(
    worker: &Rc<Worker>,
    caller: Stream,
    seen: Bytes,
    port: &InboundPort,
    arrival: &Arrival,
) {
    if !allowed::may(worker, &caller, port, arrival) {
        return;
    }
    match dial_application(worker, port, arrival.address).await {
        Some(stream) => carry_inbound(worker, &caller, &stream, seen, port, arrival).await,
        None => caller.reset_on_close(),
    }
}

async fn dial_application(
    worker: &Rc<Worker>,
    port: &InboundPort,
    address: SocketAddr,
) -> Option<Stream> {
    port.runtime.traffic.tcp_connections.fetch_add(1, Relaxed);
    let application = worker.shared.application_address(address);
    match connect::dial(worker, application, &Outbound::default()).await {
        Ok(stream) => Some(stream.into()),
        Err(error) => {
            port.runtime.traffic.tcp_failures.fetch_add(1, Relaxed);
            tracing::debug!(%error, "the application does not take a raw connection");
            None
        }
    }
}

async fn carry_inbound(
    worker: &Rc<Worker>,
    caller: &Stream,
    stream: &Stream,
    seen: Bytes,
    port: &InboundPort,
    arrival: &Arrival,
) {
    let started = clock::now();
    let _open = OpenConnection::count(&port.runtime);
    let denied = allowed::until_denied(worker, arrival);
    let scratch = &worker.scratch;
    let relaying = relay::relay_until(caller, stream, seen, None, scratch, || (), denied);
    let relayed = relaying.await;
    if relayed.end == RelayEnd::UpstreamBroke {
        port.runtime.traffic.tcp_failures.fetch_add(1, Relaxed);
    }
    log(
        worker,
        &port.runtime,
        Ends::inbound(arrival),
        started,
        relayed,
    );
}

/// As [`whoever_speaks_first`], with the application as the only endpoint.
pub async fn whoever_speaks_first_inbound(
    worker: &Rc<Worker>,
    caller: Stream,
    detector: Detector,
    port: &InboundPort,
    arrival: &Arrival,
) -> Option<(Verdict, Prefixed)> {
    let authorization = &worker.shared.inbound.authorization;
    if !authorization.would_take(&arrival.asks()) {
        // In a box: it is rare, and all would carry its size.
        return Box::pin(allowed::only_http(worker, caller, detector, port, arrival)).await;
    }
    let Some(stream) = dial_application(worker, port, arrival.address).await else {
        caller.reset_on_close();
        return None;
    };
    let address = worker.shared.application_address(arrival.address);
    match first_words(&caller, &stream, detector).await {
        FirstWords::Known(Verdict::Http1, seen) => {
            let outbound = Outbound::default();
            let target = Target {
                service: &port.runtime,
                endpoint: &port.application,
                address,
                wire: Wire::Http1,
                secured: None,
                outbound: &outbound,
            };
            if let Some(permits) = ConnectionPermits::try_acquire(&port.runtime, &port.application)
            {
                let Idle { connection, lease } = connect::adopt(worker, stream, target, permits);
                worker.pool.give_back(connection, lease, clock::now());
            }
            Some((Verdict::Http1, Prefixed::new(seen, caller)))
        }
        // Mesh prefaces within TLS are the application's own bytes.
        FirstWords::Known(verdict, seen) if arrival.is_bytes(verdict) => {
            carry_inbound(worker, &caller, &stream, seen, port, arrival).await;
            None
        }
        FirstWords::Known(verdict, seen) => Some((verdict, Prefixed::new(seen, caller))),
        FirstWords::Opaque(seen) => {
            carry_inbound(worker, &caller, &stream, seen, port, arrival).await;
            None
        }
        FirstWords::Nobody => None,
    }
}
