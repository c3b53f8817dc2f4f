//! The sidecar.
//!
//! # Layout, in the order in which a request meets it
//! - [`policy`]: limits, breaker, retries, timeouts, rate limits: pure state machines.
//! - [`runtime`]: what is shared by all workers about a service and an endpoint.
//! - [`clock`] and [`random`]: the only sources of time and chance.

pub mod clock;
pub mod policy;
pub mod random;
pub mod runtime;
