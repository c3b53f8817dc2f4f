//! Two builds of Remora against each other: the loop in which a change is
//! judged.
//!
//! ```text
//!  core 0: load, upstream, control planes     core 1: sidecar a, sidecar b
//!
//!  a b │ b a │ a b │ b a ...    one short load each; a ratio from every pair
//! ```
//!
//! Both run for the whole time; the one that is not loaded idles. What disturbs
//! the machine for longer than a pair disturbs both halves of it, so the ratio
//! of a pair holds where times do not.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::counters::{self, Counts};
use crate::h2load::Http2Load;
use crate::identity::Identities;
use crate::load;
use crate::machine::Machine;
use crate::proc_stat::{self, CpuTime, Memory};
use crate::process::{self, Cores};
use crate::scenario::Scenario;
use crate::statistics::{median, median_interval};
use crate::systems::{Running, Stage, Target, remora, upstream};

/// Each is loaded for so long before it counts.
const WARM_UP: Duration = Duration::from_secs(1);

/// What to compare.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The folder of build a.
    pub a: PathBuf,
    /// The folder of build b.
    pub b: PathBuf,
    /// Where a control plane is when a build's folder has none.
    pub spare: Option<PathBuf>,
    /// The scenario.
    pub scenario: Scenario,
    /// The load of HTTP/2.
    pub http2: Http2Load,
    /// Pairs of loads.
    pub pairs: u32,
    /// Each load lasts so long.
    pub span: Duration,
}

/// What a run found.
#[derive(Debug, Serialize)]
pub struct AbReport {
    /// Where it was.
    pub machine: Machine,
    /// The scenario.
    pub scenario: Scenario,
    /// Pairs of loads.
    pub pairs: u32,
    /// Build a.
    pub a: Build,
    /// Build b.
    pub b: Build,
    /// CPU time for each unit, b by a: the median over the pairs.
    pub ratio: f64,
    /// Where that median lies with a confidence of 95 %; none of fewer than 6 pairs.
    pub ratio_95: Option<(f64, f64)>,
    /// The same in user space alone, over the whole run. The kernel counts user
    /// and system in ticks, so this wants many pairs.
    pub user_ratio: f64,
}

/// The figures of one build.
#[derive(Debug, Serialize)]
pub struct Build {
    /// Its folder.
    pub folder: PathBuf,
    /// CPU microseconds for each unit: the median over the pairs.
    pub cpu_us: f64,
    /// The lowest and the highest.
    pub cpu_us_range: (f64, f64),
    /// Of the mean over the run, in user space.
    pub user_us: f64,
    /// Of the mean over the run, in the kernel.
    pub system_us: f64,
    /// Units each second: the median over the pairs.
    pub per_second: f64,
    /// What `perf` counted.
    pub counts: Counts,
    /// After all loads.
    pub memory: Memory,
}

struct Side {
    folder: PathBuf,
    stage: Stage,
    running: Running,
    target: Target,
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    units: f64,
    spent: CpuTime,
}

/// Measures.
///
/// # Errors
/// When a build does not start or cannot do the scenario, any request fails, or
/// the harness is told to end.
pub fn run(plan: &Plan) -> anyhow::Result<AbReport> {
    let cores = Cores::find()?;
    process::pin(cores.load)?;
    let folder = tempfile::tempdir()?;
    let identities = Identities::make(folder.path())?;
    let (_upstream, ports) = upstream::start(cores, folder.path(), &identities)?;
    let side = |name: &str, build: &Path, pod: u8| {
        let dir = folder.path().join(name);
        std::fs::create_dir_all(&dir)?;
        let stage = Stage {
            dir,
            cores,
            upstream: ports,
            pod: Ipv4Addr::new(127, 88, 1, pod),
            remora: remora::Programs::of_build(build, plan.spare.as_deref())?,
            envoy: None,
            http2: plan.http2,
            identities: identities.clone(),
        };
        Side::start(build, stage, plan.scenario).with_context(|| format!("build {name}"))
    };
    let (mut a, mut b) = (side("a", &plan.a, 1)?, side("b", &plan.b, 2)?);
    for side in [&a, &b] {
        load::saturate(&side.stage, &side.target, WARM_UP)?;
    }
    for pair in 0..plan.pairs {
        // Whoever comes second finds the machine as the first left it, so they take turns.
        let order = if pair % 2 == 0 {
            [&mut a, &mut b]
        } else {
            [&mut b, &mut a]
        };
        for side in order {
            side.measure(plan.span)?;
        }
        eprintln!(
            "pair {}/{}: a {:.2} us, b {:.2} us, b/a {:.3}",
            pair + 1,
            plan.pairs,
            last(&a.cpu_us),
            last(&b.cpu_us),
            last(&b.cpu_us) / last(&a.cpu_us),
        );
    }
    let ratios: Vec<f64> = a.cpu_us.iter().zip(&b.cpu_us).map(|(a, b)| b / a).collect();
    let (a, b) = (a.build(plan.scenario)?, b.build(plan.scenario)?);
    Ok(AbReport {
        machine: Machine::read(),
        scenario: plan.scenario,
        pairs: plan.pairs,
        ratio: median(&ratios).context("at least one pair is needed")?,
        ratio_95: median_interval(&ratios),
        user_ratio: b.user_us / a.user_us,
        a,
        b,
    })
}

fn last(values: &[f64]) -> f64 {
    values.last().copied().unwrap_or(f64::NAN)
}

impl Side {
    fn start(folder: &Path, stage: Stage, scenario: Scenario) -> anyhow::Result<Self> {
        let running = remora::start(&stage)?;
        let target = running
            .target(scenario)
            .cloned()
            .with_context(|| format!("Remora cannot do {}", scenario.word()))?;
        Ok(Self {
            folder: folder.to_owned(),
            stage,
            running,
            target,
            cpu_us: Vec::new(),
            per_second: Vec::new(),
            units: 0.0,
            spent: CpuTime::default(),
        })
    }

    fn measure(&mut self, span: Duration) -> anyhow::Result<()> {
        let cpu = || Running::spent(&self.target)?.context("no process to measure");
        let before = cpu()?;
        let carried = load::saturate(&self.stage, &self.target, span)?;
        let spent = cpu()?.since(before);
        self.running.check_alive()?;
        self.cpu_us
            .push(spent.total.as_secs_f64() * 1e6 / carried.units);
        self.per_second.push(carried.per_second());
        self.units += carried.units;
        self.spent = self.spent.plus(spent);
        Ok(())
    }

    fn build(self, scenario: Scenario) -> anyhow::Result<Build> {
        let of_each = |spent: Duration| spent.as_secs_f64() * 1e6 / self.units;
        let low = self.cpu_us.iter().copied().reduce(f64::min);
        let high = self.cpu_us.iter().copied().reduce(f64::max);
        Ok(Build {
            counts: counters::per_unit(&self.stage, &self.target)
                .with_context(|| scenario.word().to_owned())?,
            memory: proc_stat::memory(self.target.pids.first().copied().unwrap_or(0))?,
            cpu_us: median(&self.cpu_us).context("nothing was measured")?,
            cpu_us_range: low.zip(high).context("nothing was measured")?,
            user_us: of_each(self.spent.user()),
            system_us: of_each(self.spent.system()),
            per_second: median(&self.per_second).context("nothing was measured")?,
            folder: self.folder,
        })
    }
}
