//! HTTP/1.1: bodies, the connection to the caller, connections upstream.
//!
//! # Layout
//! - [`caller`]: the caller's side of a connection, under hyper.
//! - [`server`]: serves one caller's connection, under hyper.
//! - [`serve`]: serves one caller's connection.
//! - [`connection`]: a connection upstream.

pub mod caller;
pub mod connection;
pub mod serve;
pub mod server;
