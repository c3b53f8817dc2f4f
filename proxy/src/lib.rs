//! The sidecar.
//!
//! # Layout, in the order in which a request meets it
//! - [`policy`]: limits, breaker, retries, timeouts, rate limits: pure state machines.
//! - [`balance`]: which endpoint gets the next attempt.
//! - [`runtime`]: what is shared by all workers about a service and an endpoint.
//! - [`state`]: what the control plane says, as the rest reads it.
//! - [`stream`]: how it gets here, and what is reported back.
//! - [`intercept`]: the redirect rules of a pod.
//! - [`clock`] and [`random`]: the only sources of time and chance.

pub mod balance;
pub mod clock;
pub mod intercept;
pub mod policy;
pub mod random;
pub mod runtime;
pub mod state;
pub mod stream;
