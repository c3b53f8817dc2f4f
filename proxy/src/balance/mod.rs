//! Which endpoint gets the next attempt.
//!
//! [`load`] measures how slow and how busy each endpoint is; [`choose`] picks
//! by two choices among those that may be used; [`math`] is what they need of it. Which endpoints there are, and
//! whether a breaker lets them be used, is told by the caller.

mod choose;
mod load;
mod math;

pub use choose::{Availability, Candidates, Standing, pick};
pub use load::{LoadGuard, LoadMeter};
