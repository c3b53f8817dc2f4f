//! Which endpoint gets the next attempt.
//!
//! [`load`] measures how slow and how busy each endpoint is; [`choose`] picks
//! by two choices among those that may be used, [`turns`] in turn, [`ring`] by what
//! calls have in common; [`math`] is what they need of it. Which endpoints there
//! are, and whether a breaker lets them be used, is told by the caller.

mod choose;
mod load;
mod math;
mod ring;
mod turns;

pub use choose::{Availability, Candidates, Standing, by_chance, least_requests, pick};
pub use load::{LoadGuard, LoadMeter};
pub use ring::{Load, Ring, StableHash};
pub use turns::Turns;
