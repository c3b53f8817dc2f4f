//! HTTP/2, both sides, plaintext with prior knowledge (RFC 9113, section 3.3),
//! on the `h2` crate.
//!
//! # Layout
//! - [`serve`]: a caller's connection; [`answer`]: one stream of it.
//! - [`connection`]: a connection upstream that many requests share.
//! - `leaving`: requests that are given up before their answer.
//! - [`stream`]: what comes on a stream, and what is sent on one.
//! - [`message`]: heads as HTTP/2 carries them, and HTTP/1.1 between sidecars.
//! - [`io`]: the socket under a connection: gathers what a poll writes;
//!   [`frames`]: looks at what comes, for floods that `h2` lets pass.
//! - [`stall`]: a peer that takes nothing; [`unread`]: how many answers wait.
//! - [`settings`]: what we allow a peer, each number with its reason.
//!
//! What it does not own: which connection a request takes (`pool`), and what
//! a request means (`pipeline`).

pub mod answer;
pub mod connection;
pub mod frames;
pub mod io;
mod leaving;
pub mod message;
pub mod serve;
pub mod settings;
pub mod stall;
pub mod stream;
pub mod unread;

pub use remora_proto::well_known::mesh::H2_PREFACE as MESH_PREFACE;

#[cfg(test)]
mod tests;
