//! Whether a raw connection may be: to the application, and from the pod to
//! itself, where no hop is between.

use std::net::SocketAddr;
use std::rc::Rc;

use super::inbound;
use super::told::{Ends, log};
use crate::authorization;
use crate::callers::IDLE_TIMEOUT;
use crate::clock;
use crate::detect::{Detector, Verdict};
use crate::inbound::InboundPort;
use crate::inbound_connection::Arrival;
use crate::io::{Prefixed, Stream};
use crate::relay::{RelayEnd, Relayed};
use crate::sniff::{self, Sniffed};
use crate::tls::context::Refused;
use crate::worker::Worker;

/// The port where the pod connects to itself, `None` for any other endpoint, which
/// decides for itself; nothing at all where it may not.
pub(super) fn itself(
    worker: &Worker,
    peer: SocketAddr,
    address: SocketAddr,
) -> Option<Option<u16>> {
    if !worker.shared.is_own_pod(address.ip()) {
        return Some(None);
    }
    let own = worker.shared.tls.own();
    let asks = authorization::Caller {
        peer,
        identity: own.as_deref(),
        port: address.port(),
    };
    let may = worker.shared.inbound.authorization.connection(&asks);
    may.then_some(Some(address.port()))
}

/// Completes when it may no longer.
pub(super) async fn until_denied_itself(worker: &Worker, peer: SocketAddr, own_port: Option<u16>) {
    let Some(port) = own_port else {
        return std::future::pending().await;
    };
    let own = worker.shared.tls.own().clone();
    let asks = authorization::Caller {
        peer,
        identity: own.as_deref(),
        port,
    };
    let authorization = &worker.shared.inbound.authorization;
    authorization.until_denied(&asks).await;
}

/// Completes when a connection to the application may be no longer: by a policy,
/// or because it came without mutual TLS and its port takes nothing else now.
pub(super) async fn until_denied(worker: &Worker, arrival: &Arrival) {
    let inbound = &worker.shared.inbound;
    let asks = arrival.asks();
    let denied = inbound.authorization.until_denied(&asks);
    if arrival.identity.is_some() {
        return denied.await;
    }
    tokio::select! {
        () = denied => {}
        () = inbound.until_strict(arrival.address.port()) => {
            worker.shared.tls.refused(Refused::Plaintext);
        }
    }
}

/// Whether a raw connection may reach the application; else it is reset.
pub(super) fn may(worker: &Worker, caller: &Stream, port: &InboundPort, arrival: &Arrival) -> bool {
    let authorization = &worker.shared.inbound.authorization;
    if authorization.connection(&arrival.asks()) {
        return true;
    }
    caller.reset_on_close();
    let relayed = Relayed {
        end: RelayEnd::Denied,
        sent_bytes: 0,
        received_bytes: 0,
    };
    let ends = Ends::inbound(arrival);
    log(worker, &port.runtime, ends, clock::now(), relayed);
    false
}

/// The client of an undeclared port is silent, and a raw connection it may not
/// have: the application is not dialled for it unless it speaks HTTP.
pub(super) async fn only_http(
    worker: &Rc<Worker>,
    caller: Stream,
    detector: Detector,
    port: &InboundPort,
    arrival: &Arrival,
) -> Option<(Verdict, Prefixed)> {
    let spoken = tokio::time::timeout(IDLE_TIMEOUT, caller.readable()).await;
    let sniffed = match spoken {
        Ok(Ok(())) => sniff::resume(&caller, detector).await,
        Ok(Err(_)) | Err(_) => {
            caller.reset_on_close();
            return None;
        }
    };
    match sniffed {
        Ok(Sniffed::Decided(verdict, seen)) => {
            if !arrival.is_bytes(verdict) {
                return Some((verdict, Prefixed::new(seen, caller)));
            }
            // What the policies say may have changed, and still nothing was dialled.
            inbound(worker, caller, seen, port, arrival).await;
            None
        }
        Ok(Sniffed::Silent(_) | Sniffed::Closed) => {
            may(worker, &caller, port, arrival);
            None
        }
        Err(_) => None,
    }
}
