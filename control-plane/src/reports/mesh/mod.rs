//! Limits of the whole mesh.
//!
//! # Layout
//! - [`apportion`]: one of them, shared out; without time, without streams.

pub mod apportion;
