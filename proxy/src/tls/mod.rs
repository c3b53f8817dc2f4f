//! Mutual TLS between sidecars, and TLS to the control plane.
//!
//! # Layout
//! - [`hello`]: whether a connection that begins with TLS is a sidecar's.
//! - [`config`]: what is agreed on, with which certificate and roots.
//! - [`verify`]: whom a certificate shows the peer to be; [`certificate`] over
//!   [`der`]: what it says; [`known`]: chains that were believed a moment ago.
//! - [`handshake`]: both sides of one; [`outcome`]: how they end.
//! - [`stream`]: a connection after it.
//! - [`context`]: what all workers share.
//!
//! What it does not own: where certificates come from (`identity`), and which
//! connections are to have TLS (`connect`, `inbound_connection`).

pub mod certificate;
pub mod config;
pub mod context;
pub mod der;
pub mod handshake;
pub mod hello;
pub mod known;
pub mod outcome;
pub mod stream;
pub mod verify;

pub use self::config::{Alpn, ClientConfigs, Mutual, Own};
pub use self::context::{Context, Peer};
pub use self::outcome::{HandshakeError, HandshakeResult, Side};
pub use self::stream::TlsStream;
pub use self::verify::Trust;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
