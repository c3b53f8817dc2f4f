//! Active health checks: of the pod's own application, which the control plane is
//! told of, and of endpoints without a sidecar, which only this sidecar hears of.
//!
//! # Layout
//! - [`verdict`]: what probes come to, pure.
//! - [`probe`]: one probe.
//! - [`watch`]: one check, kept up.
//! - [`keep`]: which checks are kept.
//! - [`board`]: what they have found.
//!
//! A verdict is no breaker's state: an endpoint that is unhealthy is taken while no
//! other serves.

pub mod board;
pub mod keep;
pub mod probe;
pub mod verdict;
pub mod watch;

pub use board::Board;
