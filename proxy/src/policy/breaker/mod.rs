//! Circuit breakers: one for each endpoint, or one for the service.
//!
//! # Layout
//! - [`machine`]: the breaker itself, pure.
//! - [`words`]: what it is told and what it tells.
//! - [`rates`]: the shares of late that failed or were slow, pure but for its atomics.
//! - [`floor`]: how many endpoints may be out at once, pure.
//! - [`shared`]: the thin shell by which all workers share one breaker;
//!   [`permit`]: what an attempt holds of it; [`published`]: what of it is read without its lock.
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
mod permit;
mod published;
#[cfg(test)]
mod rate_tests;
mod rates;
mod set;
mod shared;
#[cfg(test)]
mod tests;
mod words;

pub use journal::{Change, JOURNAL_CAPACITY, Journal, Transitions};
pub use machine::PROBE_DEADLINE_AT_LEAST;
pub use permit::BreakerPermit;
pub use set::{BreakerSet, DEPARTED_CAPACITY};
pub use shared::{Description, SharedBreaker};
pub use words::{Outcome, State};
