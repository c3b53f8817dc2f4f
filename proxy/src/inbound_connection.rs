//! A connection to the pod: to which of its ports, and what it speaks.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::callers::IDLE_TIMEOUT;
use crate::config::Mode;
use crate::engine::{self, Spoken};
use crate::inbound;
use crate::io::Prefixed;
use crate::sniff::{self, Sniffed};
use crate::socket;
use crate::state::Protocol;
use crate::tcp;
use crate::worker::Worker;

/// Serves one connection to the pod until it ends.
pub async fn serve(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let Some(address) = destination(worker, &stream) else {
        worker
            .shared
            .connections
            .without_destination
            .fetch_add(1, Relaxed);
        tracing::debug!(%peer, "a connection to the inbound port that was not redirected is closed");
        return socket::reset_on_close(&stream);
    };
    let port = worker.shared.inbound.port(address.port());
    let protocol = if worker.shared.config.opaque_ports.contains(address.port()) {
        Protocol::Tcp
    } else {
        port.protocol
    };
    let sniffed = match protocol {
        Protocol::Tcp => return tcp::inbound(worker, stream, Bytes::new(), &port, address).await,
        Protocol::Detect => sniff::sniff(&stream).await,
        declared => sniff::sniff_http(&stream, engine::declared(declared), IDLE_TIMEOUT)
            .await
            .map(|(verdict, seen)| Sniffed::Decided(verdict, seen)),
    };
    match sniffed {
        Ok(Sniffed::Decided(verdict, seen)) => match Spoken::of(verdict) {
            Some(spoken) => {
                http(worker, spoken, Prefixed::new(seen, stream), peer, address).await;
            }
            None => tcp::inbound(worker, stream, seen, &port, address).await,
        },
        Ok(Sniffed::Silent(detector)) => {
            let first = tcp::whoever_speaks_first_inbound(worker, stream, detector, &port, address);
            if let Some((spoken, stream)) = first.await {
                http(worker, spoken, stream, peer, address).await;
            }
        }
        Ok(Sniffed::Closed) => {}
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection broke while its protocol was detected")
        }
    }
}

/// The pod's address and port. In explicit mode the connection came to it; a
/// redirected one says where it was going. One that came to the inbound port
/// itself would be sent back here for ever.
fn destination(worker: &Worker, stream: &TcpStream) -> Option<SocketAddr> {
    if worker.shared.config.mode != Mode::Intercept {
        return stream.local_addr().ok().map(socket::canonical);
    }
    socket::original_destination(stream).ok().flatten()
}

async fn http(
    worker: &Rc<Worker>,
    spoken: Spoken,
    stream: Prefixed,
    peer: SocketAddr,
    address: SocketAddr,
) {
    let of_requests = Rc::clone(worker);
    let handle = move |request, caller| {
        inbound::serve(Rc::clone(&of_requests), caller, address, peer, request)
    };
    engine::serve(worker, spoken, stream, peer, handle).await;
}
