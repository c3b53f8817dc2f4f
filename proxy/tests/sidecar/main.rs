//! The real sidecar on real sockets, against a scripted control plane and
//! scripted upstreams; each sentence of what policies mean that shows on the
//! wire is held here.
//!
//! Loopback only: every test has a /24 of 127/8 to itself. The sidecar runs in
//! explicit mode as a child process, and ends with its test.
//!
//! # Layout
//! - [`control`]: the control plane, which sends what the test says.
//! - [`mesh`]: services, endpoints and policies as a test writes them.
//! - [`upstream`]: applications, with all their bad manners.
//! - [`authority`]: whose certificates sidecars use, where they have any.
//! - [`sidecar`]: the process, its admin endpoint, its end; [`process`]: what the
//!   kernel says about it.
//! - [`h2_app`]: an HTTP/2 application that follows a script; [`h2_client`]: an
//!   HTTP/2 client, stream by stream.
//! - [`raw`]: bytes at either end, and between two sidecars.
//! - [`tap`]: an application that writes down every byte.
//! - [`http2_app`]: an HTTP/2 application and caller that behave well;
//!   [`http2_frames`] and [`http2_fields`]: a raw peer that need not.
//! - [`client`]: a raw HTTP/1.1 client that keeps its connection.
//! - [`exchange`], [`newer`]: what older builds said, and what newer ones may
//!   say (shared with `proto` and the control plane).
//! - [`attack`]: what an attack may cost, and the caller who is served meanwhile.
//! - the rest: stories, one file for each part of the semantics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on should say so and end, and it measures real time"
)]

mod attack;
mod authority;
mod client;
mod control;
#[path = "../../../proto/tests/contract/exchange.rs"]
mod exchange;
mod h2_app;
mod h2_client;
mod h2_raw;
mod http2_app;
mod http2_fields;
mod http2_frames;
mod mesh;
#[path = "../../../proto/tests/contract/newer.rs"]
#[allow(dead_code, reason = "shared by the tests of three crates")]
mod newer;
mod process;
mod raw;
mod sidecar;
mod tap;
mod upstream;

mod access_log;
mod admission;
mod authorization;
mod bad_input;
mod balancing;
mod bars;
mod between_sidecars;
mod both_ways;
mod breaker;
mod connections;
mod drain;
mod exactness;
mod fallbacks;
mod faults;
mod flow_control;
mod grpc;
mod health;
mod hedges;
mod http1_bodies;
mod http1_heads;
mod http1_slow;
mod http1_upgrades;
mod http1_upstreams;
mod http2;
mod http2_attacks;
mod http2_malformed;
mod http2_storm;
mod http2_upstreams;
mod identity;
mod inbound;
mod leader;
mod limits;
mod long_streams;
mod mesh_limits;
mod message;
mod metrics;
mod posts;
mod rate_limits;
mod rates;
mod retries;
mod routes;
mod secured;
mod soak;
mod stream;
mod tcp;
mod timeouts;
mod upgrades;
mod versions;
mod waits;
mod weak_tls;
mod which_service;

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

/// Every wait of a test ends after so long, with a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Completes when `condition` holds; looked at every few milliseconds.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("it never came about that {what}");
    }
}

async fn soon<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(value) => value,
        Err(_) => panic!("it took too long: {what}"),
    }
}

/// A listener there. An earlier one may still be in the hands of a task that was
/// aborted and has not had its turn.
async fn bind(address: SocketAddr) -> TcpListener {
    let bound = async {
        loop {
            match TcpListener::bind(address).await {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                bound => return bound.unwrap(),
            }
        }
    };
    soon("the address is free", bound).await
}
