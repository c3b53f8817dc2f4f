//! Routes: which rule of a Service's routes a request takes, and what that does
//! with it. Owns no connection and no policy; the pipeline asks it first.
//!
//! # Layout, in the order in which a request meets it
//! - [`config`]: what the routes say.
//! - [`request`], [`conditions`]: a request as a match sees it.
//! - [`index`] over `group`: the match with the highest precedence; [`explain`]:
//!   why not the others.
//! - [`way`]: the life of a request that goes by a rule; [`routed`]: what it holds.
//! - [`runtime`]: what all workers share about a rule, and which backend is chosen.
//! - [`filters`]: what is done with a request and its answer; [`paths`], [`cors`],
//!   [`mirror`] each of them.
//! - [`session`]: by which endpoint a caller was served before.

pub mod conditions;
pub mod config;
pub mod cors;
pub mod explain;
pub mod filters;
mod group;
pub mod index;
pub mod mirror;
pub mod paths;
#[cfg(test)]
mod property_tests;
pub mod request;
pub mod routed;
pub mod runtime;
pub mod session;
pub mod way;
