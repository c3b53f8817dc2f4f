//! Circuit breakers: one for each endpoint, or one for the service.
//!
//! # Layout
//! - [`machine`]: the breaker itself, pure.
//! - [`floor`]: how many endpoints may be out at once, pure.
//! - [`shared`]: the thin shell by which all workers share one breaker.
//! - [`set`]: the breakers of one service.
//! - [`journal`]: what changed lately.
//!
//! The concurrency limits that also go by this name are `policy::limit`.
//!
//! Locks are taken in this order: the set's members, one breaker, the floor,
//! the journal.

mod floor;
mod journal;
mod machine;
mod set;
mod shared;

pub use journal::{Change, JOURNAL_CAPACITY, Journal, Transitions};
pub use machine::{Outcome, PROBE_DEADLINE_AT_LEAST, State};
pub use set::{BreakerSet, DEPARTED_CAPACITY};
pub use shared::{BreakerPermit, Description, SharedBreaker};
