//! The load that a system can just bear, whatever the scenario speaks.

use std::time::Duration;

use crate::h2load::Http2Load;
use crate::scenario::Scenario;
use crate::systems::{Stage, Target};
use crate::{bulk, h2load, wrk};

/// What a load carried.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// In the scenario's unit.
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
    match target.scenario {
        Scenario::Http2 => h2load::run(stage, target, span),
        Scenario::TcpBulk => bulk::receive(target.address, None, span),
        Scenario::MtlsBulk | Scenario::MtlsBulkOut | Scenario::MtlsBulkIn => {
            bulk::receive(target.address, Some(target.host), span)
        }
        _ => wrk::run(target.address, target.host, span, stage.cores, &stage.dir),
    }
}

/// The load in words.
pub fn describe(scenario: Scenario, http2: Http2Load) -> String {
    match scenario {
        Scenario::Http2 => format!(
            "{} connections with {} streams each, always busy",
            http2.connections, http2.streams
        ),
        _ if scenario.is_bulk() => format!("{} connections", bulk::CONNECTIONS),
        _ => format!("{} connections always busy", wrk::CONNECTIONS),
    }
}
