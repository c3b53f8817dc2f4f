//! HTTP/1.1: bodies, the connection to the caller, connections upstream.
//!
//! # Layout
//! - [`caller`]: the caller's side of a connection, under hyper.
//! - [`server`]: serves one caller's connection.

pub mod caller;
pub mod server;
