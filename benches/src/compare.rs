//! The side-by-side measurement.
//!
//! ```text
//!  core 0: load, upstreams         core 1: the system under test, one worker
//!
//!  each system alone: memory at rest and over idle connections
//!  start all systems ─► warm-up
//!      ─► round 1: A B C, round 2: C B A, ... in each scenario (interleaved, so
//!         that what disturbs the machine disturbs all of them)
//!      ─► medians
//! ```
//!
//! Every system stays up for all rounds; those that are not being loaded idle.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::clock::Moment;
use crate::counters::{self, Counts};
use crate::figures::{self, Figures, Rounds, Sample};
use crate::fixed_rate::{self, Load};
use crate::h2load::Http2Load;
use crate::idle::{self, Connections, IdleReport};
use crate::machine::Machine;
use crate::memory::unless_failed;
use crate::scenario::Scenario;
use crate::systems::{Ground, Running, Stage, System, Target, remora};
use crate::{load, stop};

/// The fixed rate at which latencies are measured, requests each second.
pub const RATE: u32 = 2_000;
/// Connections of the fixed rate.
pub const RATE_CONNECTIONS: u32 = 32;
/// Before the first round every target is loaded for so long.
const WARM_UP: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each load that a system can just bear lasts so long.
    pub span: Duration,
    /// Each load of a fixed rate lasts so long.
    pub rate_span: Duration,
    /// Rounds.
    pub rounds: u32,
    /// Scenarios.
    pub scenarios: Vec<Scenario>,
    /// Systems.
    pub systems: Vec<System>,
    /// Remora's programs.
    pub remora: remora::Programs,
    /// Envoy, where it is not to be fetched.
    pub envoy: Option<PathBuf>,
    /// The load of HTTP/2.
    pub http2: Http2Load,
    /// Idle connections over which memory is read; zero leaves that out.
    pub idle_connections: u32,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it was.
    pub machine: Machine,
    /// Each load lasted so long.
    pub seconds: u64,
    /// Each load of a fixed rate lasted so long.
    pub rate_seconds: u64,
    /// Rounds.
    pub rounds: u32,
    /// The load of HTTP/2.
    pub http2: Http2Load,
    /// What the systems say of their versions.
    pub versions: Vec<(&'static str, String)>,
    /// Medians, one for each scenario and system.
    pub figures: Vec<Figures>,
    /// Memory, where it was asked for.
    pub memory: Vec<IdleReport>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
    /// What failed.
    pub failed: Vec<String>,
}

/// Measures.
///
/// # Errors
/// When the upstream or a system does not start, or the harness is told to end.
/// What fails later is told in [`Report::failed`].
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    let began = Moment::now();
    let ground = Ground::start(&plan.remora, plan.envoy.as_deref(), plan.http2)?;
    let stage = &ground.stage;
    let mut skipped = Vec::new();
    let scenarios = with_generator(&plan.scenarios, &mut skipped);
    let systems = complete(&plan.systems, stage, &mut skipped);
    let mut failed = Vec::new();
    let memory = memory(&systems, stage, plan.idle_connections, &mut failed)?;
    let mut run = Run {
        stage,
        plan,
        scenarios,
        running: start_all(&systems, stage)?,
        samples: BTreeMap::new(),
        failed,
    };
    run.announce();
    run.warm_up()?;
    for round in 1..=plan.rounds {
        run.round(round)?;
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        eprintln!("round {round}/{} done after {minutes:.1} min", plan.rounds);
    }
    let figures = run.figures()?;
    Ok(Report {
        machine: Machine::read(),
        seconds: plan.span.as_secs(),
        rate_seconds: plan.rate_span.as_secs(),
        rounds: plan.rounds,
        http2: plan.http2,
        versions: systems
            .iter()
            .map(|system| (system.name, (system.version)(stage)))
            .collect(),
        figures,
        memory,
        skipped,
        failed: run.failed,
    })
}

/// The scenarios whose load can be made here.
fn with_generator(scenarios: &[Scenario], skipped: &mut Vec<String>) -> Vec<Scenario> {
    let chosen = scenarios.iter().filter(|scenario| {
        let lack = scenario.generator().and_then(|tool| tool.lack());
        skip(scenario.title(), lack, skipped)
    });
    chosen.copied().collect()
}

/// The systems that can run here.
pub(crate) fn complete(
    systems: &[System],
    stage: &Stage,
    skipped: &mut Vec<String>,
) -> Vec<System> {
    let chosen = systems
        .iter()
        .filter(|system| skip(system.name, (system.lacks)(stage), skipped));
    chosen.copied().collect()
}

fn skip(name: &str, lack: Option<String>, skipped: &mut Vec<String>) -> bool {
    let Some(lack) = lack else { return true };
    let line = format!("{name} is SKIPPED: {lack}");
    eprintln!("{line}");
    skipped.push(line);
    false
}

/// Each system alone, so that what it holds is what these connections cost.
fn memory(
    systems: &[System],
    stage: &Stage,
    connections: u32,
    failed: &mut Vec<String>,
) -> anyhow::Result<Vec<IdleReport>> {
    let mut reports = Vec::new();
    for system in systems.iter().filter(|_| connections > 0) {
        let report = idle::measure(system, stage, connections, Connections::Plain);
        reports.extend(unless_failed(system, "idle connections", report, failed)?);
    }
    Ok(reports)
}

fn start_all(systems: &[System], stage: &Stage) -> anyhow::Result<Vec<(System, Running)>> {
    let started = systems.iter().map(|system| {
        let running =
            (system.start)(stage).with_context(|| format!("{} does not start", system.name))?;
        Ok((*system, running))
    });
    started.collect()
}

struct Run<'a> {
    stage: &'a Stage,
    plan: &'a Plan,
    scenarios: Vec<Scenario>,
    running: Vec<(System, Running)>,
    samples: BTreeMap<(Scenario, usize), Rounds>,
    failed: Vec<String>,
}

impl Run<'_> {
    /// What is to be measured, in the order of the tables.
    fn all(&self) -> Vec<(Scenario, usize, Target)> {
        let mut all = Vec::new();
        for scenario in &self.scenarios {
            for (index, (_, running)) in self.running.iter().enumerate() {
                if let Some(target) = running.target(*scenario) {
                    all.push((*scenario, index, target.clone()));
                }
            }
        }
        all
    }

    fn announce(&self) {
        let all = self.all();
        let mut seconds = (WARM_UP + counters::TAKES).as_secs_f64() * all.len() as f64;
        for (scenario, _, _) in &all {
            let rate = scenario
                .dialect()
                .map_or(Duration::ZERO, |_| self.plan.rate_span);
            seconds += (self.plan.span + rate).as_secs_f64() * f64::from(self.plan.rounds);
        }
        eprintln!(
            "{} measurements in each of {} rounds: about {:.0} minutes",
            all.len(),
            self.plan.rounds,
            (seconds * 1.05 / 60.0).ceil()
        );
    }

    /// What fails here is left out of the rounds.
    fn warm_up(&mut self) -> anyhow::Result<()> {
        for (scenario, index, target) in self.all() {
            if let Err(error) = load::saturate(self.stage, &target, WARM_UP) {
                stop::check()?;
                self.fail(scenario, index, "left out, it failed in warm-up", &error);
                let (_, running) = &mut self.running[index];
                running.targets.retain(|target| target.scenario != scenario);
            }
        }
        Ok(())
    }

    fn fail(&mut self, scenario: Scenario, index: usize, when: &str, error: &anyhow::Error) {
        let name = self.running[index].0.name;
        let line = format!("{name}, {}: {when}: {error:#}", scenario.word());
        eprintln!("{line}");
        self.failed.push(line);
    }

    fn round(&mut self, round: u32) -> anyhow::Result<()> {
        let mut order = self.all();
        if round.is_multiple_of(2) {
            // Whoever comes later finds the machine as the others left it.
            order.reverse();
        }
        for (scenario, index, target) in order {
            match self.measure(index, &target) {
                Ok(sample) => {
                    let name = self.running[index].0.name;
                    eprintln!("round {round}: {}", say(name, scenario, &sample));
                    let rounds = self.samples.entry((scenario, index)).or_default();
                    rounds.insert(round, sample);
                }
                Err(error) => {
                    stop::check()?;
                    self.fail(scenario, index, &format!("round {round}"), &error);
                }
            }
        }
        Ok(())
    }

    fn measure(&mut self, index: usize, target: &Target) -> anyhow::Result<Sample> {
        let cpu = || Running::spent(target);
        let before = cpu()?;
        let carried = load::saturate(self.stage, target, self.plan.span)?;
        let between = cpu()?;
        let mut at_rate = None;
        if let Some(dialect) = target.scenario.dialect() {
            let latencies = fixed_rate::run(&Load {
                address: target.address,
                host: target.host.to_owned(),
                dialect,
                per_second: RATE,
                connections: RATE_CONNECTIONS,
                span: self.plan.rate_span,
            })?;
            if latencies.requests == 0 {
                bail!("no request at the fixed rate was answered");
            }
            let spent = cpu()?
                .zip(between)
                .map(|(after, before)| after.since(before));
            let of_each = |spent: Duration| spent.as_secs_f64() * 1e6 / latencies.requests as f64;
            at_rate = Some((spent.map(|spent| of_each(spent.total)), latencies));
        }
        self.running[index].1.check_alive()?;
        Ok(Sample {
            units: carried.units,
            spent: between
                .zip(before)
                .map(|(after, before)| after.since(before)),
            per_second: carried.per_second(),
            at_rate,
        })
    }

    fn figures(&mut self) -> anyhow::Result<Vec<Figures>> {
        let mut figures = Vec::new();
        for (scenario, index, target) in self.all() {
            let counts = match counters::per_unit(self.stage, &target) {
                Ok(counts) => counts,
                Err(error) => {
                    stop::check()?;
                    self.fail(scenario, index, "while perf counted", &error);
                    Counts::default()
                }
            };
            let Some(own) = self.samples.get(&(scenario, index)) else {
                continue;
            };
            let beside = scenario.yardsticks().map(|name| self.of(scenario, name));
            let name = self.running[index].0.name;
            figures.push(figures::summarize(scenario, name, own, beside, counts));
        }
        Ok(figures)
    }

    fn of(&self, scenario: Scenario, name: &str) -> Option<&Rounds> {
        let mut systems = self.running.iter();
        let index = systems.position(|(system, _)| system.name == name)?;
        self.samples.get(&(scenario, index))
    }
}

fn say(name: &str, scenario: Scenario, sample: &Sample) -> String {
    let unit = scenario.unit();
    let (time, per) = unit.time();
    let cpu = sample.spent.map_or_else(String::new, |spent| {
        let each = spent.total.as_secs_f64() * 1e6 / sample.units / per;
        format!(" {each:.1} {time} CPU/{},", unit.word())
    });
    let rate = sample.at_rate.map_or_else(String::new, |(_, latencies)| {
        format!(
            "; at {RATE}/s p50 {} p99 {} p99.9 {} us",
            latencies.p50_us, latencies.p99_us, latencies.p999_us
        )
    });
    format!(
        "{} {name}:{cpu} {:.1} {}/s{rate}",
        scenario.word(),
        sample.per_second,
        unit.plural()
    )
}
