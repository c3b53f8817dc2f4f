//! Gateway API's objects, read: HTTPRoute and GRPCRoute of v1.7.0, of both
//! channels, and ReferenceGrant. Reading never fails: what is wrong with a rule
//! is said of that rule, and the others are as they are.
//!
//! # Layout
//! - [`findings`]: what is found wrong, and the reading of fields.
//! - [`route`]: a whole route, and its rules.
//! - [`parents`]: the list `parentRefs`.
//! - [`matches`]: what of a request must hold.
//! - [`filters`]: those of rules, and of backends.
//! - [`cors`]: the largest of them.
//! - [`conduct`]: timeouts, retries, sessions.
//! - [`grant`]: a ReferenceGrant.
//! - [`status`]: which entries of a route's status are ours.

pub mod conduct;
pub mod cors;
pub mod filters;
pub mod findings;
pub mod grant;
pub mod matches;
pub mod parents;
pub mod route;
pub mod status;

/// The group of its kinds.
pub const GROUP: &str = "gateway.networking.k8s.io";
