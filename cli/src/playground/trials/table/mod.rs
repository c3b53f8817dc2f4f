//! All trials. A figure's name: see [`super::figures`].
//!
//! - [`breaking`], [`answering`], [`limiting`], [`finding`]: by what they are about.

mod answering;
mod breaking;
mod finding;
mod limiting;

use super::{Stage, Trial};

/// In the order of SEMANTICS.
pub const ALL: &[&Trial] = &[
    &breaking::LIMITS,
    &breaking::BREAKER,
    &breaking::FAILURE_RATE,
    &breaking::SLOW_CALLS,
    &breaking::OUTAGE,
    &answering::RETRY_BUDGET,
    &answering::HEDGING,
    &answering::TIMEOUTS,
    &limiting::RATE_LIMIT,
    &limiting::MESH_RATE_LIMIT,
    &limiting::ADMISSION,
    &finding::BALANCING,
    &finding::HEALTH_CHECK,
    &answering::FALLBACK,
    &answering::FAULT,
    &finding::TCP,
];

/// Reads at 150 a second: fifty for each pod.
const READS: &[&str] = &["reads&to=reviews:8080&rate=150"];
const MEND: &[(&str, &str)] = &[("reviews", "/mend")];

/// The trial of this name.
pub fn find(name: &str) -> Option<&'static Trial> {
    ALL.iter().find(|trial| trial.name == name).copied()
}

const fn stage(
    name: &'static str,
    file: &'static str,
    seconds: u32,
    orders: &'static [(&'static str, &'static str)],
    load: &'static [&'static str],
) -> Stage {
    Stage {
        name,
        file,
        seconds,
        orders,
        load,
    }
}
