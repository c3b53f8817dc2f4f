//! Conformance: what others have published as tests of HTTP/2 and gRPC, and a
//! storm of streams, through real sidecars under a real control plane.
//!
//! - `h2spec`: the suite of that name against the outbound and inbound listeners.
//! - `grpc`: grpc-go's interoperability cases through two sidecars.
//! - `storm`: ten thousand streams at once, cancelled and reset.
//! - `mesh`: the daemons as processes; `go`: the programs in `tests/go`.
//!
//! Where Go, or the modules in `tests/go`, cannot be had, the tests that need
//! them say SKIPPED, with the reason; with `REMORA_REQUIRE_GO=1` they fail
//! instead.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test ends where its ground is missing, and measures real time"
)]

mod go;
mod grpc;
mod h2spec;
mod mesh;
mod storm;
