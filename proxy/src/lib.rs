//! Placeholder.
pub mod intercept;
