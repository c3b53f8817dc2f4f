//! The policies: small state machines without tokio, metrics or clock.
//!
//! # Layout, in the order in which a request meets them
//! - [`config`]: what a policy says.
//! - [`fault`]: which requests meet trouble on purpose.
//! - [`authorize`]: who may call.
//! - [`rate_limit`]: how many requests in a time.
//! - [`limit`]: how many of anything at the same time.
//! - [`breaker`]: which endpoint gets nothing for a while.
//! - [`deadline`]: how long anything may take.
//! - [`retry`]: whether an attempt is followed by another.
//! - [`hedge`]: whether another is made beside it.
//! - [`budget`]: how many retries a service bears.

pub mod authorize;
pub mod breaker;
pub mod budget;
pub mod config;
pub mod deadline;
pub mod fault;
pub mod hedge;
pub mod limit;
pub mod rate_limit;
pub mod retry;
