//! The sidecar's own identity: a key pair that never leaves its memory, a
//! certificate for it from the control plane, and its renewal.
//!
//! # Layout
//! - [`request`]: a key pair, and what asks for its certificate.
//! - [`renewal`]: when to ask: pure.
//! - [`agent`]: the task that asks, and follows the trust bundle.
//! - [`status`]: how it stands, for people and metrics.
//!
//! What it does not own: how certificates are judged and used ([`crate::tls`]),
//! and how the control plane is reached ([`crate::stream`]).

pub mod agent;
pub mod renewal;
pub mod request;
pub mod status;

pub use self::agent::Agent;
pub use self::status::Status;
