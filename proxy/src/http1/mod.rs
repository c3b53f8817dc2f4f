//! HTTP/1.1: the engine that serves callers and asks upstreams.
//!
//! # Layout
//! - [`serve`]: a caller's connection; its `answer`s, and the `link` that it
//!   shares with the bodies of requests.
//! - [`connection`]: a connection upstream; the `upload` of a request's body.
//! - `wire`: a socket with what was read too early and could not be written
//!   yet; `batch`: what goes out in one system call.
//! - `receive`, `send`: bodies that are read, and written.
//! - The codec, which knows no sockets: `scan`, `parse`, `framing`, `chunked`,
//!   `encode`; and its [`limits`].

mod answer;
mod batch;
mod chunked;
pub mod connection;
mod encode;
mod framing;
pub mod limits;
mod link;
pub(crate) mod parse;
mod receive;
pub(crate) mod scan;
mod send;
pub mod serve;
mod upload;
mod wire;

#[cfg(test)]
mod tests;
