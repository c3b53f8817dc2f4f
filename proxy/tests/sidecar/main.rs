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
//! - [`sidecar`]: the process, its admin endpoint, its end.
//! - [`h2_app`]: an HTTP/2 application that follows a script; [`h2_client`]: an
//!   HTTP/2 client, stream by stream.
//! - [`raw`]: bytes at either end, and between two sidecars.
//! - [`client`]: a raw HTTP/1.1 client that keeps its connection.
//! - the rest: stories, one file for each part of the semantics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on should say so and end, and it measures real time"
)]

mod client;
mod control;
mod h2_app;
mod h2_client;
mod h2_raw;
mod mesh;
mod raw;
mod sidecar;
mod upstream;

mod access_log;
mod bad_input;
mod between_sidecars;
mod breaker;
mod connections;
mod drain;
mod exactness;
mod grpc;
mod http2;
mod inbound;
mod limits;
mod message;
mod rate_limits;
mod retries;
mod stream;
mod tcp;
mod timeouts;
mod upgrades;
mod which_service;

use std::future::Future;
use std::time::Duration;

/// Every wait of a test ends after so long, with a failure.
const PATIENCE: Duration = Duration::from_secs(10);

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
