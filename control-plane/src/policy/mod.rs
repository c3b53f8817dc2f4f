//! The custom resources TrafficPolicy and AuthorizationPolicy, and their reading
//! into typed settings.
//!
//! # Layout
//! - [`schema`]: the object as users write it, and its schema.
//! - [`bounds`], [`forms`]: what its durations and words may be, for the schema and for files.
//! - [`definition`]: the custom resource definition that an API server is given.
//! - [`status`]: what the control plane writes back into it.
//! - [`check`]: every fault that the schema alone shows, each with its path.
//! - [`units`]: durations and quantities.
//! - `scope`: `targetRefs` and `podSelector`, of both kinds.
//! - [`mtls`], [`admission`], [`balancing`], [`health`]: blocks of a name of their own.
//! - `attempts`, `trouble`: rates and hedges; `fallback` and `fault`.
//! - [`conditions`]: the words of `failures` and `on`.
//! - [`parse`]: from the object to [`crate::core::settings`], once.
//! - [`authorization`]: AuthorizationPolicy; all else is of TrafficPolicy, or of both.
//!
//! What several policies together mean is not here but in [`crate::core::resolve`].

pub mod admission;
mod attempts;
pub mod authorization;
pub mod balancing;
pub mod bounds;
pub mod check;
pub mod conditions;
pub mod definition;
pub mod forms;
pub mod health;
pub mod mtls;
pub mod parse;
pub mod rates;
pub mod schema;
mod scope;
pub mod status;
mod trouble;
pub mod units;

#[cfg(test)]
mod tests;
