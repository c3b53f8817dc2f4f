//! The stream of resources to the sidecars: xDS v3 incremental.
//!
//! # Layout
//! - [`protocol`]: what to send when, one type of one stream; pure.
//! - [`session`]: one stream: its types, its bounds, what it watches.
//! - [`peers`]: how many streams each address has.
//! - [`sent`]: how much was sent.
//! - [`server`]: the shell of gRPC around sessions.
//!
//! What the resources mean is not here but in [`crate::core`].

pub mod peers;
pub mod protocol;
pub mod sent;
pub mod server;
pub mod session;

#[cfg(test)]
mod tests;
