//! The custom resource definition: the files that are made from it, and that
//! an API server and the control plane judge objects alike.
//!
//! `files` and `parity` need nothing; `server` asks a real API server and says
//! so where there is none. `table`, `blocks`, `fields` and `chance` hold the objects for both, and
//! `authorization` those of AuthorizationPolicy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where its ground is missing"
)]

mod authorization;
mod blocks;
mod chance;
mod fields;
mod files;
mod parity;
mod reference;
mod server;
mod table;
