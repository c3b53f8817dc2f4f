//! What the stage sees of the mesh: the admin endpoints of its sidecars, the
//! visitor's own count.
//!
//! - [`client`]: a small HTTP client that keeps its connection.
//! - [`sidecar`]: one task for each sidecar, asking what changed.
//! - [`stats`]: counters to rates, histograms to quantiles.
//! - [`breakers`]: breaker states and their changes, each counted once.
//! - [`propagation`]: how long a changed policy takes to be in force everywhere.
//! - [`identity`]: certificates, and how they follow each other.
//! - [`routes`]: where requests go, by route and backend.
//! - [`policies`]: limits, retries, rate limits, admission at work.
//! - [`versions`]: how long a changed route takes to be in force.
//! - [`visitor`]: what became of the load.

pub mod breakers;
pub mod client;
pub mod identity;
pub mod policies;
pub mod propagation;
pub mod routes;
pub mod sidecar;
pub mod stats;
pub mod versions;
pub mod visitor;
