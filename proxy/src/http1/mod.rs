//! HTTP/1.1: bodies, the connection to the caller, connections upstream.
//!
//! # Layout
//! - [`caller`]: the caller's side of a connection, under hyper.
//! - [`server`]: serves one caller's connection.
//! - [`request_body`]: the request's body on its way upstream, with replay.
//! - [`response_body`]: the response's body on its way back.
//! - [`headers`]: what is taken off and put on at each hop.

pub mod caller;
pub mod headers;
pub mod request_body;
pub mod response_body;
pub mod server;
