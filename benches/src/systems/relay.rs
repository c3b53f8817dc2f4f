//! The floors under TCP: this program's own relay of bytes ([`crate::relay`]),
//! one thread in a process of its own for each of its two ports.

use std::process::Command;

use super::{Running, Stage, System, ports};
use crate::process::{Process, loopback};
use crate::relay::Mover;
use crate::scenario::Scenario;

/// The subcommand of this program that relays.
const SUBCOMMAND: &str = "relay";

pub(super) const COPY: System = System {
    name: "relay, 64 KiB copy",
    word: "relay",
    lacks: |_| None,
    start: |stage| start(stage, Mover::Copy),
    version: |_| String::new(),
};

pub(super) const SPLICE: System = System {
    name: "relay, splice",
    word: "relay-splice",
    lacks: |_| None,
    start: |stage| start(stage, Mover::Splice),
    version: |_| String::new(),
};

/// One process serves both scenarios.
fn start(stage: &Stage, mover: Mover) -> anyhow::Result<Running> {
    let ports = ports(&[Scenario::Http1AsTcp, Scenario::TcpBulk])?;
    let upstreams = [stage.upstream.http1, stage.upstream.bulk];
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SUBCOMMAND);
    for ((_, port), upstream) in ports.iter().zip(upstreams) {
        command.arg(format!("{}={}", loopback(*port), loopback(upstream)));
    }
    let name = match mover {
        Mover::Copy => "relay",
        Mover::Splice => {
            command.arg("--splice");
            "relay-splice"
        }
    };
    let cores = stage.cores;
    let process = Process::start(name, &command, cores.system, cores, &stage.dir)?;
    Running::on_ports(process, &ports)
}
