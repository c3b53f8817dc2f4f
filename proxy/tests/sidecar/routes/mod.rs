//! Where requests on a Service's port go, and what is done with them on the way.
//!
//! - [`stage`]: routes as a test writes them.

mod backends;
mod cors;
mod filters;
mod grpc;
mod matches;
mod mirrors;
mod policies;
mod sessions;
mod splits;
pub mod stage;
