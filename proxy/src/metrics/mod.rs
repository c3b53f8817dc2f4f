//! What is counted, and how it is shown.
//!
//! # Layout
//! - [`counters`]: atomics that the data path adds to.
//! - [`exposition`], `caller`, `authorization`, `identity`, `routes`: all of them in Prometheus' text form, at each scrape.
//!
//! Labels are names of Kubernetes objects and words of closed lists, never
//! anything that a caller chose.

mod authorization;
mod caller;
pub mod counters;
pub mod exposition;
mod identity;
mod routes;
