//! A connection to the pod: to which of its ports, whose, and what it speaks.
//!
//! ```text
//!            the port takes mutual TLS             its ALPN
//!  bytes ──► a ClientHello that offers ours ──► handshake ──► remora-h2, remora-h1: an engine
//!    │                                              └───────► remora-tcp ┐
//!    └────► anything else: refused where the port is strict, or ─────────┴► as the
//!           of a caller without identity                      application would see it
//! ```

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use remora_proto::well_known::mesh;
use tokio::net::TcpStream;

use crate::authorization;
use crate::callers::IDLE_TIMEOUT;
use crate::config::Mode;
use crate::detect::{Detector, Verdict};
use crate::engine::{self, Spoken};
use crate::inbound::{self, InboundPort};
use crate::io::{Prefixed, Stream};
use crate::sniff::{self, Sniffed};
use crate::socket;
use crate::state::{MtlsMode, Protocol};
use crate::tcp;
use crate::tls::context::Refused;
use crate::tls::{self, Alpn, HandshakeResult, Peer, Side};
use crate::worker::Worker;

/// Where a connection to the pod comes from, and where it goes.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The caller's address.
    pub peer: SocketAddr,
    /// The pod's, and the port.
    pub address: SocketAddr,
    /// Who the caller has shown to be.
    pub identity: Option<Arc<Peer>>,
}

impl Arrival {
    /// Who calls, as the rules see it.
    pub fn asks(&self) -> authorization::Caller<'_> {
        authorization::Caller {
            peer: self.peer,
            identity: self.identity.as_deref(),
            port: self.address.port(),
        }
    }

    /// Whether what was detected is the application's own bytes: within TLS
    /// nobody is another sidecar once more.
    pub fn is_bytes(&self, verdict: Verdict) -> bool {
        verdict.is_bytes() || (self.identity.is_some() && verdict.is_mesh())
    }
}

/// What a port looks for before it takes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Mutual TLS is not looked for.
    Open,
    /// It is, among the first bytes, for which nobody waits longer because of it:
    /// a caller may not know yet that the port has become `Disabled`. (Not where
    /// bytes are relayed without a look at them.)
    Unasked,
    /// Mutual TLS, for whose first byte somewhat longer is waited, and everything
    /// else too.
    Both,
    /// Mutual TLS and nothing else.
    MutualOnly,
}

impl Door {
    fn of(mode: MtlsMode, has_identity: bool) -> Self {
        match mode {
            MtlsMode::Strict => Self::MutualOnly,
            MtlsMode::Permissive if has_identity => Self::Both,
            MtlsMode::Disabled if has_identity => Self::Unasked,
            MtlsMode::Permissive | MtlsMode::Disabled => Self::Open,
        }
    }
}

/// Serves one connection to the pod until it ends.
pub async fn serve(worker: &Rc<Worker>, socket: TcpStream, peer: SocketAddr) {
    let Some(address) = destination(worker, &socket) else {
        worker
            .shared
            .connections
            .without_destination
            .fetch_add(1, Relaxed);
        tracing::debug!(%peer, "a connection to the inbound port that was not redirected is closed");
        return socket::reset_on_close(&socket);
    };
    let port = worker.shared.inbound.port(address.port());
    let mut arrival = Arrival {
        peer,
        address,
        identity: None,
    };
    let protocol = if worker.shared.config.opaque_ports.contains(address.port()) {
        Protocol::Tcp
    } else {
        port.protocol
    };
    let stream = Stream::Plain(socket);
    let found = match Door::of(port.mtls, worker.shared.tls.has_identity()) {
        Door::MutualOnly => look_for_tls(worker, stream, &arrival).await,
        door => look(worker, stream, &port, protocol, &arrival, door).await,
    };
    let found = match found {
        // In a box: once for a connection, and all would carry its size.
        Some(Found::Tls(stream)) => {
            Box::pin(secure(worker, stream, &port, protocol, &mut arrival)).await
        }
        found => found,
    };
    if let Some(Found::Http(spoken, stream)) = found {
        http(worker, spoken, stream, arrival).await;
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

/// What is to be done with a connection; bytes have been carried already.
enum Found {
    /// An engine is to serve it.
    Http(Spoken, Prefixed),
    /// Another sidecar begins TLS.
    Tls(Prefixed),
}

impl Found {
    /// What detection found, where it is not bytes.
    fn of(verdict: Verdict, stream: Prefixed) -> Option<Self> {
        if verdict == Verdict::MeshTls {
            return Some(Self::Tls(stream));
        }
        Spoken::of(verdict).map(|spoken| {
            let preface = match (spoken, stream.stream()) {
                (Spoken::MeshHttp1, Stream::Plain(_)) => mesh::H1_PREFACE.len(),
                (Spoken::MeshHttp2, Stream::Plain(_)) => mesh::H2_PREFACE.len(),
                _ => 0,
            };
            Self::Http(spoken, stream.without(preface))
        })
    }
}

/// Looks at what a connection speaks, where `door` takes more than mutual TLS.
async fn look(
    worker: &Rc<Worker>,
    stream: Stream,
    port: &InboundPort,
    protocol: Protocol,
    arrival: &Arrival,
    door: Door,
) -> Option<Found> {
    let caller = arrival.peer.ip();
    let sniffed = match protocol {
        // Its server may speak first, and nobody asks for TLS.
        Protocol::Tcp if door != Door::Both => {
            tcp::inbound(worker, stream, Bytes::new(), port, arrival).await;
            return None;
        }
        Protocol::Tcp | Protocol::Detect => {
            let detector = match protocol {
                Protocol::Tcp => Detector::of_tls(),
                _ => Detector::of_http(door != Door::Open),
            };
            if door == Door::Both {
                sniff::sniff_within(&stream, detector, worker.patience.with(caller)).await
            } else {
                sniff::sniff(&stream, detector).await
            }
        }
        declared => {
            let detector = Detector::of_http(door != Door::Open);
            let declared = engine::declared(declared);
            sniff::sniff_http(&stream, detector, declared, IDLE_TIMEOUT)
                .await
                .map(|(verdict, seen)| Sniffed::Decided(verdict, seen))
        }
    };
    match sniffed {
        Ok(Sniffed::Decided(verdict, seen)) => {
            if arrival.is_bytes(verdict) {
                tcp::inbound(worker, stream, seen, port, arrival).await;
                return None;
            }
            Found::of(verdict, Prefixed::new(seen, stream))
        }
        Ok(Sniffed::Silent(detector)) => {
            if door == Door::Both {
                worker.patience.was_quiet(caller);
            }
            let first = tcp::whoever_speaks_first_inbound(worker, stream, detector, port, arrival);
            let (verdict, stream) = first.await?;
            Found::of(verdict, stream)
        }
        Ok(Sniffed::Closed) => None,
        Err(error) => {
            let peer = arrival.peer;
            tracing::debug!(%peer, %error, "a connection broke while its protocol was detected");
            None
        }
    }
}

/// For a port that takes mutual TLS and nothing else.
async fn look_for_tls(worker: &Worker, stream: Stream, arrival: &Arrival) -> Option<Found> {
    let tls = &worker.shared.tls;
    let patience = tls::handshake::ACCEPT_TIMEOUT;
    let what = match sniff::sniff_within(&stream, Detector::of_tls(), patience).await {
        Ok(Sniffed::Decided(Verdict::MeshTls, seen)) => {
            return Some(Found::Tls(Prefixed::new(seen, stream)));
        }
        Ok(Sniffed::Decided(Verdict::ForeignTls, _)) => Refused::ForeignTls,
        Ok(Sniffed::Decided(..)) => Refused::Plaintext,
        Ok(Sniffed::Silent(_)) => {
            let late = tls::handshake::late();
            tls.handshakes.failed(Side::Inbound, arrival.peer, &late);
            stream.reset_on_close();
            return None;
        }
        Ok(Sniffed::Closed) | Err(_) => return None,
    };
    if tls.refused(what) {
        let (peer, port) = (arrival.peer, arrival.address.port());
        tracing::warn!(
            %peer, port, what = what.word(), count = tls.refused_total(what),
            "refused: the port takes nothing but mutual TLS (mtls Strict)"
        );
    }
    stream.reset_on_close();
    None
}

/// Another sidecar: who it is, and what it brings.
async fn secure(
    worker: &Rc<Worker>,
    stream: Prefixed,
    port: &InboundPort,
    protocol: Protocol,
    arrival: &mut Arrival,
) -> Option<Found> {
    let (seen, Stream::Plain(socket)) = stream.into_parts() else {
        // TLS is looked for on a bare socket alone.
        return None;
    };
    let tls = &worker.shared.tls;
    let mutual = tls.mutual().clone();
    let accepted = match mutual {
        Some(mutual) => tls::handshake::accept(&mutual, socket, &seen).await,
        None => {
            socket::reset_on_close(&socket);
            Err(tls::handshake::no_certificate())
        }
    };
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            tls.handshakes.failed(Side::Inbound, arrival.peer, &error);
            return None;
        }
    };
    tls.handshakes.count(Side::Inbound, HandshakeResult::Ok);
    worker.patience.is_meshed(arrival.peer.ip());
    arrival.identity = Some(accepted.peer);
    let stream = Stream::from(accepted.stream);
    let spoken = match accepted.alpn {
        Alpn::H2 => Spoken::MeshHttp2,
        Alpn::H1 => Spoken::MeshHttp1,
        Alpn::Tcp => return look(worker, stream, port, protocol, arrival, Door::Open).await,
    };
    Some(Found::Http(spoken, Prefixed::new(Bytes::new(), stream)))
}

async fn http(worker: &Rc<Worker>, spoken: Spoken, stream: Prefixed, arrival: Arrival) {
    let of_requests = Rc::clone(worker);
    let peer = arrival.peer;
    let arrival = Rc::new(arrival);
    let handle = move |request, caller| {
        inbound::serve(
            Rc::clone(&of_requests),
            caller,
            Rc::clone(&arrival),
            request,
        )
    };
    engine::serve(worker, spoken, stream, peer, handle).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_port_stays_shut_where_there_is_no_identity_to_open_it_with() {
        use Door::{Both, MutualOnly, Open, Unasked};
        use MtlsMode::{Disabled, Permissive, Strict};
        for (mode, with, without) in [
            (Strict, MutualOnly, MutualOnly),
            (Permissive, Both, Open),
            (Disabled, Unasked, Open),
        ] {
            assert_eq!(
                (Door::of(mode, true), Door::of(mode, false)),
                (with, without)
            );
        }
    }
}
