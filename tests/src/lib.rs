//! Tests of Remora as a whole, and of its source.
//!
//! # Layout
//! - [`style`]: what the house asks of the source, each rule a pure function;
//!   `tests/style.rs` holds the tree to them.
//!
//! The binary `remora-under-test` is the command line as users have it, for
//! the tests that start the daemons as processes (`tests/whole`).

pub mod style;
