//! Tests of Remora as a whole, and of its source.
//!
//! # Layout
//! - [`style`]: what the house asks of the source, each rule a pure function;
//!   `tests/style.rs` holds the tree to them.
//!
//! Targets of their own: `tests/whole` (the daemons together), `tests/netns`
//! (interception), `tests/conformance` (h2spec, grpc-go's interoperability
//! cases, a storm of streams; its Go programs are in `go`).
//!
//! The binary `remora-under-test` is the command line as users have it, for
//! the tests that start the daemons as processes (`tests/whole`).

pub mod style;
