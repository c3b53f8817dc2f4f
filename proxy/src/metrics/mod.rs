//! What is counted, and how it is shown.
//!
//! # Layout
//! - [`counters`]: atomics that the data path adds to.
//! - [`exposition`]: everything, at each scrape, out of `requests`, `policies`,
//!   `admission`, `breakers`, `caller`, `health`, `routes`, `authorization`, `identity` and
//!   [`process`].
//! - [`text`]: the two text forms.
//!
//! Labels are names of Kubernetes objects and words of closed lists, never
//! anything that a caller chose. docs/metrics.md is the catalogue.

mod admission;
mod authorization;
mod breakers;
mod caller;
pub mod counters;
pub mod exposition;
mod health;
mod identity;
mod policies;
pub mod process;
mod requests;
mod routes;
pub mod text;
