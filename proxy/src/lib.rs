//! The sidecar.
//!
//! # Layout, in the order in which a request meets it
//! - [`policy`]: limits, breaker, retries, timeouts, rate limits: pure state machines.
//! - [`balance`]: which endpoint gets the next attempt.
//! - [`runtime`]: what is shared by all workers about a service and an endpoint.
//! - [`clock`] and [`random`]: the only sources of time and chance.

pub mod balance;
pub mod clock;
pub mod policy;
pub mod random;
pub mod runtime;
