//! The policies: small state machines without tokio, metrics or clock.
//!
//! # Layout, in the order in which a request meets them
//! - [`config`]: what a policy says.

pub mod config;
