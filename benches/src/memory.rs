//! The idle sidecar: its memory, and the time until it is ready.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::http;
use crate::machine::Machine;
use crate::proc_stat::{self, Memory};
use crate::process::{self, Cores};
use crate::statistics::median;
use crate::stop;
use crate::systems::{Stage, remora};

/// Memory is read again after so long.
const REST: Duration = Duration::from_secs(10);

/// What a run of [`run`] found.
#[derive(Debug, Serialize)]
pub struct MemoryReport {
    /// Where it was.
    pub machine: Machine,
    /// Starts.
    pub starts: u32,
    /// Of the last start, right after it turned ready.
    pub when_ready: Memory,
    /// Of the last start, [`MemoryReport::rest_seconds`] later.
    pub at_rest: Memory,
    /// See [`MemoryReport::at_rest`].
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

/// Starts the sidecar `starts` times, under one control plane.
///
/// # Errors
/// When it does not become ready, or the harness is told to end.
pub fn run(programs: remora::Programs, starts: u32) -> anyhow::Result<MemoryReport> {
    let cores = Cores::find()?;
    process::pin(cores.load)?;
    let folder = tempfile::tempdir()?;
    let stage = Stage {
        dir: folder.path().to_owned(),
        cores,
        // Nothing is called, so nothing listens there.
        upstream: process::free_port()?,
        remora: programs,
    };
    let control_plane = remora::control_plane(&stage)?;
    let mut outside = Vec::new();
    let mut own = Vec::new();
    let mut last = None;
    for _ in 0..starts {
        drop(last.take());
        let sidecar = remora::sidecar(&stage, &control_plane.url)?;
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
    Ok(MemoryReport {
        machine: Machine::read(),
        starts,
        when_ready,
        at_rest: proc_stat::memory(sidecar.process.id())?,
        rest_seconds: REST.as_secs(),
        ready_ms: Spread::of(&outside).context("no start was measured")?,
        own_ready_ms: median(&own).unwrap_or(0.0),
    })
}
