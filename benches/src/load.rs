//! The load that a system can just bear, whatever the scenario speaks.

use std::time::Duration;

use crate::systems::{Stage, Target};
use crate::wrk;

/// What a load carried.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// In the scenario's unit: requests.
    pub units: f64,
    /// How long it took.
    pub span: Duration,
}

impl Carried {
    /// Units each second.
    pub fn per_second(self) -> f64 {
        self.units / self.span.as_secs_f64()
    }
}

/// Loads `target` for `span` with all that it bears, from the load's core.
///
/// # Errors
/// When a generator is missing or fails, or anything was not answered well.
pub fn saturate(stage: &Stage, target: &Target, span: Duration) -> anyhow::Result<Carried> {
    let seen = wrk::run(target.address, target.host, span, stage.cores, &stage.dir)?;
    Ok(Carried {
        units: seen.requests as f64,
        span: Duration::from_micros(seen.microseconds),
    })
}
