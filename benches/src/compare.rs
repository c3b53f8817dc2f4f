//! The side-by-side measurement.
//!
//! ```text
//!  core 0: load, upstream          core 1: the system under test, one worker
//!
//!  start all systems ─► memory at rest ─► warm-up
//!      ─► round 1: A B C, round 2: A B C, ... (interleaved, so that what
//!         disturbs the machine disturbs all of them)
//!      ─► medians
//! ```
//!
//! Every system stays up for the whole run; those that are not being loaded idle.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::fixed_rate::{self, Latencies, Load};
use crate::load;
use crate::machine::Machine;
use crate::proc_stat::{self, CpuTime, Memory};
use crate::process::{self, Cores, Process};
use crate::scenario::Scenario;
use crate::statistics::median;
use crate::stop;
use crate::syscalls;
use crate::systems::{self, Running, Stage, System, Target, remora, upstream};

/// The fixed rate at which latencies are measured, requests each second.
pub const RATE: u32 = 2_000;
/// Connections of the fixed rate.
const RATE_CONNECTIONS: u32 = 32;
/// Before the first round every target is loaded for so long.
const WARM_UP: Duration = Duration::from_secs(1);
/// After the start and before memory at rest is read.
const REST: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each load lasts so long.
    pub span: Duration,
    /// Rounds.
    pub rounds: u32,
    /// Scenarios.
    pub scenarios: Vec<Scenario>,
    /// Remora's programs.
    pub remora: remora::Programs,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it was.
    pub machine: Machine,
    /// Each load lasted so long.
    pub seconds: u64,
    /// Rounds.
    pub rounds: u32,
    /// The systems.
    pub systems: Vec<SystemReport>,
    /// Medians, one for each scenario and system.
    pub figures: Vec<Figures>,
    /// Systems that were not measured, and why.
    pub skipped: Vec<String>,
}

/// What is known of a system whatever it does.
#[derive(Debug, Serialize)]
pub struct SystemReport {
    /// Its name.
    pub name: &'static str,
    /// What it says of its version.
    pub version: String,
    /// At rest, before any load; none where there is no process.
    pub memory_at_rest: Option<Memory>,
}

/// The medians of one system in one scenario. CPU time is the system's own.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The scenario.
    pub scenario: Scenario,
    /// The system.
    pub system: &'static str,
    /// CPU microseconds for each request, all connections always busy.
    pub cpu_us: Option<f64>,
    /// The lowest and the highest of the rounds.
    pub cpu_us_range: Option<(f64, f64)>,
    /// `cpu_us` by that of [`systems::YARDSTICK`] in the same round: the median of
    /// the rounds' ratios, which the machine's changing pace disturbs least.
    pub of_yardstick: Option<f64>,
    /// Requests each second, all connections always busy.
    pub per_second: f64,
    /// CPU microseconds for each request at the fixed rate.
    pub cpu_us_at_rate: Option<f64>,
    /// Microseconds at the fixed rate.
    pub p50_us: f64,
    /// Microseconds at the fixed rate.
    pub p99_us: f64,
    /// Microseconds at the fixed rate.
    pub p999_us: f64,
    /// System calls for each request, all connections always busy; none where
    /// `perf` is missing.
    pub syscalls: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    cpu_us: Option<f64>,
    per_second: f64,
    cpu_us_at_rate: Option<f64>,
    latencies: Latencies,
}

type Samples = BTreeMap<(Scenario, usize), Vec<Sample>>;

/// Measures.
///
/// # Errors
/// When the upstream or a system does not start, any request fails, or the
/// harness is told to end.
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    let cores = Cores::find()?;
    process::pin(cores.load)?;
    let folder = tempfile::tempdir()?;
    let (_upstream, port) = upstream::start(cores, folder.path())?;
    let stage = Stage {
        dir: folder.path().to_owned(),
        cores,
        upstream: port,
        remora: plan.remora.clone(),
    };
    let (mut running, skipped) = start_all(&stage)?;
    stop::sleep(REST)?;
    let systems = running
        .iter()
        .map(|(system, running)| describe(system, running, &stage))
        .collect::<anyhow::Result<_>>()?;
    let mut samples = Samples::new();
    for round in 0..=plan.rounds {
        for scenario in &plan.scenarios {
            for (index, (system, running)) in running.iter_mut().enumerate() {
                let Some(target) = running.target(*scenario).cloned() else {
                    continue;
                };
                let measured = running.measured.as_mut();
                let context = || format!("{} in {}", system.name, scenario.word());
                if round == 0 {
                    load::saturate(&stage, &target, WARM_UP).with_context(context)?;
                    continue;
                }
                let sample = measure(&stage, &target, measured, plan.span).with_context(context)?;
                eprintln!(
                    "round {round}/{}: {}",
                    plan.rounds,
                    say(system, *scenario, &sample)
                );
                samples.entry((*scenario, index)).or_default().push(sample);
            }
        }
    }
    let mut figures = Vec::new();
    let yardstick = running
        .iter()
        .position(|(system, _)| system.name == systems::YARDSTICK);
    for ((scenario, index), own) in &samples {
        let (system, running) = &running[*index];
        let beside = yardstick.and_then(|yardstick| samples.get(&(*scenario, yardstick)));
        figures.push(Figures {
            of_yardstick: beside.and_then(|beside| ratio(own, beside)),
            syscalls: count_syscalls(&stage, running, *scenario)?,
            ..summarize(*scenario, system.name, own)
        });
    }
    Ok(Report {
        machine: Machine::read(),
        seconds: plan.span.as_secs(),
        rounds: plan.rounds,
        systems,
        figures,
        skipped,
    })
}

/// Those that run, and a line for each that does not.
type Started = (Vec<(System, Running)>, Vec<String>);

fn start_all(stage: &Stage) -> anyhow::Result<Started> {
    let mut running = Vec::new();
    let mut skipped = Vec::new();
    for system in systems::ALL {
        if let Some(tool) = system.missing() {
            let line = format!(
                "{} is SKIPPED: {} is missing ({})",
                system.name, tool.program, tool.install
            );
            eprintln!("{line}");
            skipped.push(line);
            continue;
        }
        let started = (system.start)(stage).with_context(|| format!("{} failed", system.name))?;
        running.push((system, started));
    }
    Ok((running, skipped))
}

fn describe(system: &System, running: &Running, stage: &Stage) -> anyhow::Result<SystemReport> {
    let memory_at_rest = match &running.measured {
        Some(process) => Some(proc_stat::memory(process.id())?),
        None => None,
    };
    Ok(SystemReport {
        name: system.name,
        version: (system.version)(stage),
        memory_at_rest,
    })
}

fn measure(
    stage: &Stage,
    target: &Target,
    mut measured: Option<&mut Process>,
    span: Duration,
) -> anyhow::Result<Sample> {
    let pid = measured.as_ref().map(|process| process.id());
    let cpu = || pid.map(proc_stat::cpu_time).transpose();
    let of_each = |before: Option<CpuTime>, after: Option<CpuTime>, units: f64| {
        let spent = after?.since(before?).total;
        Some(spent.as_secs_f64() * 1e6 / units)
    };
    let before = cpu()?;
    let carried = load::saturate(stage, target, span)?;
    let between = cpu()?;
    let latencies = fixed_rate::run(&Load {
        address: target.address,
        host: target.host.to_owned(),
        per_second: RATE,
        connections: RATE_CONNECTIONS,
        span,
    })?;
    let after = cpu()?;
    if let Some(process) = &mut measured {
        process.check_alive()?;
    }
    if latencies.requests == 0 {
        bail!("no request at the fixed rate was answered");
    }
    Ok(Sample {
        cpu_us: of_each(before, between, carried.units),
        per_second: carried.per_second(),
        cpu_us_at_rate: of_each(between, after, latencies.requests as f64),
        latencies,
    })
}

fn say(system: &System, scenario: Scenario, sample: &Sample) -> String {
    let cpu = sample
        .cpu_us
        .map_or_else(String::new, |us| format!(" {us:.1} us CPU,"));
    format!(
        "{} {}:{cpu} {:.0}/s; at {RATE}/s p50 {} p99 {} p99.9 {} us",
        scenario.word(),
        system.name,
        sample.per_second,
        sample.latencies.p50_us,
        sample.latencies.p99_us,
        sample.latencies.p999_us
    )
}

fn count_syscalls(
    stage: &Stage,
    running: &Running,
    scenario: Scenario,
) -> anyhow::Result<Option<f64>> {
    let (Some(process), Some(target)) = (&running.measured, running.target(scenario)) else {
        return Ok(None);
    };
    syscalls::per_unit(process.id(), stage, target)
}

/// Round by round.
fn ratio(own: &[Sample], beside: &[Sample]) -> Option<f64> {
    let ratios: Vec<f64> = own
        .iter()
        .zip(beside)
        .filter_map(|(own, beside)| Some(own.cpu_us? / beside.cpu_us?))
        .collect();
    median(&ratios)
}

fn summarize(scenario: Scenario, system: &'static str, samples: &[Sample]) -> Figures {
    let of = |pick: &dyn Fn(&Sample) -> Option<f64>| {
        let values: Vec<f64> = samples.iter().filter_map(pick).collect();
        median(&values)
    };
    let always = |pick: &dyn Fn(&Sample) -> f64| of(&|sample| Some(pick(sample))).unwrap_or(0.0);
    let cpu = || samples.iter().filter_map(|sample| sample.cpu_us);
    Figures {
        scenario,
        system,
        cpu_us: of(&|sample| sample.cpu_us),
        cpu_us_range: cpu().reduce(f64::min).zip(cpu().reduce(f64::max)),
        of_yardstick: None,
        per_second: always(&|sample| sample.per_second),
        cpu_us_at_rate: of(&|sample| sample.cpu_us_at_rate),
        p50_us: always(&|sample| sample.latencies.p50_us as f64),
        p99_us: always(&|sample| sample.latencies.p99_us as f64),
        p999_us: always(&|sample| sample.latencies.p999_us as f64),
        syscalls: None,
    }
}
