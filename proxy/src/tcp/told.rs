//! What the access log tells of a raw connection.

use std::net::SocketAddr;

use crate::access_log::Line;
use crate::answer::Reason;
use crate::clock::{self, Timestamp};
use crate::inbound_connection::Arrival;
use crate::relay::{RelayEnd, Relayed};
use crate::runtime::ServiceRuntime;
use crate::worker::Worker;

/// Whose connection it was, for the access log.
pub(super) struct Ends<'a> {
    pub direction: &'static str,
    pub endpoint: Option<&'a str>,
    pub peer: SocketAddr,
    pub identity: Option<&'a str>,
}

impl<'a> Ends<'a> {
    /// To the application.
    pub fn inbound(arrival: &'a Arrival) -> Self {
        Self {
            direction: "inbound",
            endpoint: None,
            peer: arrival.peer,
            identity: arrival.identity.as_ref().map(|peer| peer.id.as_str()),
        }
    }
}

/// Tells it, where there is an access log.
pub(super) fn log(
    worker: &Worker,
    runtime: &ServiceRuntime,
    ends: Ends<'_>,
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
        RelayEnd::Denied => Some(Reason::Denied.word()),
    };
    let duration_ms = clock::now().since(started).as_secs_f64() * 1_000.0;
    worker.shared.access_log.write(&Line {
        at_ms: clock::unix_ms(started),
        direction: ends.direction,
        protocol: "tcp",
        service: &runtime.name,
        route: None,
        rule: None,
        backend: None,
        endpoint: ends.endpoint,
        peer: ends.peer,
        identity: ends.identity,
        method: None,
        path: None,
        status: None,
        reason,
        instead_of: None,
        grpc_status: None,
        attempts: 0,
        latency_ms: duration_ms,
        duration_ms,
        received_bytes: relayed.received_bytes,
    });
}
