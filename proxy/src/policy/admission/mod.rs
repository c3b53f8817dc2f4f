//! Admission: how many requests the pod's application is given at a time, and
//! which of them go first. One for each of the pod's ports, of all workers.
//!
//! ```text
//!   request ──▶ priority ──▶ in flight < limit - what is kept from it? ──▶ Permit
//!                                     │ no                                   │ answer's
//!                                     └──▶ refused at once: overloaded       ▼ body ended
//!                                                                        given back
//! ```
//!
//! # Layout
//! - [`priority`]: which priority a request has, pure.
//! - `adaptive`: the limit that follows latency, pure.
//! - `guards`: what is kept from the lower priorities, pure.
//! - [`gate`]: the count that all workers share, exact at every moment.
//!
//! It does not answer the caller, and knows nothing of TCP: raw connections are
//! not counted here.

mod adaptive;
pub mod gate;
mod guards;
pub mod priority;
#[cfg(test)]
mod simulation;

pub use gate::{Figures, Gate, Permit};
