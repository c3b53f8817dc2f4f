//! Memory: of the sidecar when it has started (and the time until it is ready),
//! of all systems over idle connections and in a burst.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::burst::{self, BurstReport};
use crate::compare;
use crate::h2load;
use crate::http;
use crate::idle::{self, Connections, IdleReport};
use crate::machine::Machine;
use crate::proc_stat::{self, Memory};
use crate::statistics::median;
use crate::stop;
use crate::systems::remora::{self, Role};
use crate::systems::{Ground, Stage, System};

/// Memory is read again after so long.
const REST: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Systems.
    pub systems: Vec<System>,
    /// How often the sidecar is started.
    pub starts: u32,
    /// Idle connections; zero leaves that out.
    pub connections: u32,
    /// Bodies of the burst; zero leaves that out.
    pub bodies: u32,
    /// Remora's programs.
    pub remora: remora::Programs,
    /// Envoy, where it is not to be fetched.
    pub envoy: Option<PathBuf>,
}

/// What a run of [`run`] found.
#[derive(Debug, Serialize)]
pub struct MemoryReport {
    /// Where it was.
    pub machine: Machine,
    /// Remora's start.
    pub start: StartReport,
    /// Each system over idle connections.
    pub idle: Vec<IdleReport>,
    /// Each system in a burst.
    pub burst: Vec<BurstReport>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
    /// What failed.
    pub failed: Vec<String>,
}

/// Remora's start.
#[derive(Debug, Serialize)]
pub struct StartReport {
    /// Starts.
    pub starts: u32,
    /// Of the last start, right after it turned ready.
    pub when_ready: Memory,
    /// Of the last start, [`StartReport::rest_seconds`] later.
    pub at_rest: Memory,
    /// See [`StartReport::at_rest`].
    pub rest_seconds: u64,
    /// From the start of the process until `/ready` said 200, asked each millisecond.
    pub ready_ms: Spread,
    /// The median of what the sidecar itself says (`ready_ms` of `/config`).
    pub own_ready_ms: f64,
}

/// A median and its extremes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            median: median(values)?,
            lowest: values.iter().copied().reduce(f64::min)?,
            highest: values.iter().copied().reduce(f64::max)?,
        })
    }
}

/// Measures.
///
/// # Errors
/// When the sidecar does not become ready, or the harness is told to end. What
/// fails of the systems is told in [`MemoryReport::failed`].
pub fn run(plan: &Plan) -> anyhow::Result<MemoryReport> {
    let ground = Ground::start(&plan.remora, plan.envoy.as_deref(), h2load::DEFAULT)?;
    let stage = &ground.stage;
    let start = start(stage, plan.starts)?;
    let (mut idle, mut burst) = (Vec::new(), Vec::new());
    let (mut skipped, mut failed) = (Vec::new(), Vec::new());
    for system in compare::complete(&plan.systems, stage, &mut skipped) {
        if plan.connections > 0 {
            for kind in [Connections::Plain, Connections::Tls] {
                let report = idle::measure(&system, stage, plan.connections, kind);
                let what = "idle connections";
                idle.extend(unless_failed(&system, what, report, &mut failed)?);
            }
        }
        if plan.bodies > 0 {
            let report = burst::measure(&system, stage, plan.bodies);
            burst.extend(unless_failed(&system, "a burst", report, &mut failed)?);
        }
    }
    Ok(MemoryReport {
        machine: Machine::read(),
        start,
        idle,
        burst,
        skipped,
        failed,
    })
}

/// What fails is noted, so that the others are measured.
pub(crate) fn unless_failed<T>(
    system: &System,
    what: &str,
    report: anyhow::Result<Option<T>>,
    failed: &mut Vec<String>,
) -> anyhow::Result<Option<T>> {
    match report {
        Ok(report) => Ok(report),
        Err(error) => {
            stop::check()?;
            let line = format!("{} with {what} failed: {error:#}", system.name);
            eprintln!("{line}");
            failed.push(line);
            Ok(None)
        }
    }
}

/// Starts the sidecar `starts` times, under one control plane.
fn start(stage: &Stage, starts: u32) -> anyhow::Result<StartReport> {
    let control_plane = remora::control_plane(stage)?;
    let mut outside = Vec::new();
    let mut own = Vec::new();
    let mut last = None;
    for _ in 0..starts {
        drop(last.take());
        let sidecar = remora::sidecar(stage, &control_plane.url, Role::Caller)?;
        outside.push(sidecar.ready_after.as_secs_f64() * 1e3);
        let memory = proc_stat::memory(sidecar.process.id())?;
        let (_, config) = http::get(sidecar.admin, "/config")?;
        let config: serde_json::Value = serde_json::from_str(&config)?;
        let ready_ms = config["sidecar"]["ready_ms"]
            .as_f64()
            .or(config["ready_ms"].as_f64());
        own.push(ready_ms.context("/config has no ready_ms")?);
        last = Some((sidecar, memory));
    }
    let (sidecar, when_ready) = last.context("at least one start is needed")?;
    stop::sleep(REST)?;
    Ok(StartReport {
        starts,
        when_ready,
        at_rest: proc_stat::memory(sidecar.process.id())?,
        rest_seconds: REST.as_secs(),
        ready_ms: Spread::of(&outside).context("no start was measured")?,
        own_ready_ms: median(&own).unwrap_or(0.0),
    })
}
