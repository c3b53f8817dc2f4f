//! `remora-benches`: measures Remora beside other proxies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use remora_benches::scenario::{self, Scenario};
use remora_benches::systems::remora::Programs;
use remora_benches::{ab, compare, memory, stop, table};

/// Where `--write` writes, seen from the repository's top.
const README: &str = "benches/README.md";

/// Measures Remora beside other proxies
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// CPU, throughput and latency of all systems, in interleaved rounds
    Compare(CompareArguments),
    /// Two builds of Remora against each other, in interleaved pairs of short loads
    Ab(AbArguments),
    /// Memory of the idle sidecar, and the time until it is ready
    Memory(MemoryArguments),
}

#[derive(Debug, Args)]
struct CompareArguments {
    /// How long each load lasts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// How often each is measured; medians want at least 5
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Scenarios, comma separated (http1, http1-features); all by default
    #[arg(long)]
    scenarios: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct AbArguments {
    /// The folder of build a: remora-proxy, and remora-control-plane where it differs
    #[arg(long)]
    a: PathBuf,
    /// The folder of build b
    #[arg(long)]
    b: PathBuf,
    /// The folder of remora-control-plane for a build that has none; by default that of this program
    #[arg(long)]
    remora: Option<PathBuf>,
    /// The scenario
    #[arg(long, default_value = "http1-features")]
    scenario: Scenario,
    /// Pairs of loads
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    rounds: u32,
    /// How long each load lasts
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct MemoryArguments {
    /// How often the sidecar is started
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    starts: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The folder of remora-proxy and remora-control-plane; by default that of this program
    #[arg(long)]
    remora: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Put the tables into benches/README.md
    #[arg(long)]
    write: bool,
}

impl Common {
    fn give(&self, mark: &str, report: &impl serde::Serialize, text: &str) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(report)?);
        } else {
            print!("{text}");
        }
        if self.write {
            table::write(Path::new(README), mark, text)?;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    stop::listen().context("cannot listen for signals")?;
    match arguments.command {
        Command::Compare(arguments) => {
            let scenarios = match &arguments.scenarios {
                Some(words) => scenario::parse_list(words)?,
                None => Scenario::ALL.to_vec(),
            };
            let report = compare::run(&compare::Plan {
                span: Duration::from_secs(arguments.seconds),
                rounds: arguments.rounds,
                scenarios,
                remora: Programs::find(arguments.common.remora.as_deref())?,
            })?;
            arguments
                .common
                .give("compare", &report, &table::compare(&report))
        }
        Command::Ab(arguments) => {
            let report = ab::run(&ab::Plan {
                a: arguments.a,
                b: arguments.b,
                spare: arguments.remora,
                scenario: arguments.scenario,
                pairs: arguments.rounds,
                span: Duration::from_secs(arguments.seconds),
            })?;
            if arguments.json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{}", table::ab(&report));
            }
            Ok(())
        }
        Command::Memory(arguments) => {
            let programs = Programs::find(arguments.common.remora.as_deref())?;
            let report = memory::run(programs, arguments.starts)?;
            arguments
                .common
                .give("memory", &report, &table::memory(&report))
        }
    }
}
