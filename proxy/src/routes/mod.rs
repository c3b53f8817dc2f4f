//! Routes: which rule of a Service's routes a request takes, and what that does
//! with it. Owns no connection and no policy; the pipeline asks it first.
//!
//! # Layout, in the order in which a request meets it
//! - [`config`]: what the routes say.
//! - [`request`], [`conditions`]: a request as a match sees it.
//! - [`index`] over `group`: the match with the highest precedence; [`explain`]:
//!   why not the others.
//! - [`cors`]: which scripts of browsers may read an answer.

pub mod conditions;
pub mod config;
pub mod cors;
pub mod explain;
mod group;
pub mod index;
#[cfg(test)]
mod property_tests;
pub mod request;
