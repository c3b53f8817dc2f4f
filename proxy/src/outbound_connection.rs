//! A connection that the pod opened: where it was going, what it speaks, and
//! who carries it on.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::callers::IDLE_TIMEOUT;
use crate::clock;
use crate::config::Mode;
use crate::detect::{Detector, Verdict};
use crate::engine::{self, Spoken};
use crate::io::{Prefixed, Stream};
use crate::pipeline::{self, Call};
use crate::policy::config::Outbound;
use crate::relay;
use crate::sniff::{self, Sniffed};
use crate::socket;
use crate::state::{Destination, Protocol, Resolution, Service};
use crate::tcp;
use crate::worker::Worker;

/// Serves one connection of the pod until it ends.
pub async fn serve(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    if worker.shared.config.mode != Mode::Intercept {
        return crate::explicit::serve(worker, stream, peer).await;
    }
    let destination = match socket::original_destination(&stream) {
        Ok(Some(destination)) => destination,
        Ok(None) | Err(_) => {
            // A connection to the listener itself would be sent back here for ever.
            worker
                .shared
                .connections
                .without_destination
                .fetch_add(1, Relaxed);
            tracing::debug!(%peer, "a connection to the outbound port that was not redirected is closed");
            return socket::reset_on_close(&stream);
        }
    };
    let mesh = &worker.shared.mesh;
    match mesh.resolve_address(destination.ip(), clock::now()).await {
        Resolution::Service(service) => {
            let destination = Destination {
                address: Some(destination.ip()),
                port: destination.port(),
            };
            to_service(worker, stream, peer, service, destination).await
        }
        Resolution::Unknown => {
            worker
                .shared
                .connections
                .passed_unknown
                .fetch_add(1, Relaxed);
            pass(worker, stream, destination).await;
        }
        Resolution::NoAnswer => {
            worker
                .shared
                .connections
                .passed_unanswered
                .fetch_add(1, Relaxed);
            pass(worker, stream, destination).await;
        }
    }
}

/// What belongs to nothing in the mesh is relayed untouched.
async fn pass(worker: &Rc<Worker>, stream: TcpStream, destination: SocketAddr) {
    match crate::connect::dial(worker, destination, &Outbound::default()).await {
        Ok(upstream) => {
            let (stream, upstream) = (Stream::Plain(stream), Stream::Plain(upstream));
            relay::relay(
                &stream,
                &upstream,
                Bytes::new(),
                None,
                &worker.scratch,
                || (),
            )
            .await;
        }
        Err(error) => {
            tracing::debug!(%error, "a connection out of the mesh did not come about");
            socket::reset_on_close(&stream);
        }
    }
}

async fn to_service(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<Service>,
    destination: Destination,
) {
    let stream = Stream::Plain(stream);
    let protocol = protocol(worker, &service, destination.port);
    let sniffed = match protocol {
        Protocol::Tcp => {
            return tcp::outbound(worker, stream, Bytes::new(), peer, &service, destination).await;
        }
        Protocol::Detect => sniff::sniff(&stream, Detector::default()).await,
        declared => {
            let declared = engine::declared(declared);
            sniff::sniff_http(&stream, Detector::default(), declared, IDLE_TIMEOUT)
                .await
                .map(|(verdict, seen)| Sniffed::Decided(verdict, seen))
        }
    };
    match sniffed {
        Ok(Sniffed::Decided(verdict, seen)) => match spoken(verdict) {
            Some(spoken) => {
                let stream = Prefixed::new(seen, stream);
                http(worker, spoken, stream, peer, service, destination).await;
            }
            None => tcp::outbound(worker, stream, seen, peer, &service, destination).await,
        },
        Ok(Sniffed::Silent(detector)) => {
            let first =
                tcp::whoever_speaks_first(worker, stream, detector, peer, &service, destination);
            if let Some((spoken, stream)) = first.await {
                http(worker, spoken, stream, peer, service, destination).await;
            }
        }
        Ok(Sniffed::Closed) => {}
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection broke while its protocol was detected")
        }
    }
}

/// What the pod's own application speaks; only sidecars speak to each other.
pub fn spoken(verdict: Verdict) -> Option<Spoken> {
    Spoken::of(verdict).filter(|spoken| !spoken.is_mesh())
}

fn protocol(worker: &Worker, service: &Service, port: u16) -> Protocol {
    if worker.shared.config.opaque_ports.contains(port) {
        return Protocol::Tcp;
    }
    service
        .config
        .port(port)
        .map_or(Protocol::Detect, |port| port.protocol)
}

/// Serves HTTP to `service`. Each request sees the service as it is then.
pub async fn http(
    worker: &Rc<Worker>,
    spoken: Spoken,
    stream: Prefixed,
    peer: SocketAddr,
    service: Arc<Service>,
    destination: Destination,
) {
    let name = Arc::clone(&service.name);
    let last = RefCell::new(service);
    let of_requests = Rc::clone(worker);
    let handle = move |request, caller| {
        let worker = Rc::clone(&of_requests);
        let current = worker.shared.mesh.load().service(&name).map(Arc::clone);
        if let Some(current) = current {
            current.touch(clock::now());
            *last.borrow_mut() = current;
        }
        let service = Arc::clone(&last.borrow());
        let call = Call {
            worker,
            caller,
            service,
            destination,
            peer,
        };
        pipeline::outbound(call, request)
    };
    engine::serve(worker, spoken, stream, peer, handle).await;
}
