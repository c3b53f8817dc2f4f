//! What the replicas of a control plane tell each other: sidecars report to the one
//! that leads, and every replica serves them, so that what probes say of pods' ports
//! goes from the one to the others.
//!
//! ```text
//!             somebody else leads             the whole is told
//! NOT FOLLOWING ───────────────▶ CONNECTING ───────────────────▶ FOLLOWING
//!   ▲                              │   ▲                             │
//!   │ we lead, or nobody does      │   │ backoff with jitter         │ the stream ends
//!   └──────────────────────────────┴───┴─────────────────────────────┘
//! ```
//! In every state but FOLLOWING what was told last is believed for as long as the
//! verdict of a sidecar without a stream (see [`crate::reports::verdicts`]).
//!
//! # Layout
//! - [`server`]: the leader's side.
//! - [`follow`]: the side of every other replica.
//! - [`connect`]: how a replica reaches the leader, knows it, and is known by it.

pub mod connect;
pub mod follow;
pub mod server;
