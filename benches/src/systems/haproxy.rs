//! HAProxy, one process with one thread.

use std::process::Command;

use super::{Running, Stage, System, Tool, ask_version, ports, program, words};
use crate::process::{Process, find_program};
use crate::scenario::Scenario;

const CONFIGURATION: &str = include_str!("../../peers/haproxy.cfg");

pub(super) const SYSTEM: System = System {
    name: "HAProxy",
    word: "haproxy",
    lacks: |_| {
        let tool = Tool {
            program: "haproxy",
            install: "apt-get install haproxy",
        };
        tool.lack()
    },
    start,
    version: |_| {
        find_program("haproxy").map_or_else(String::new, |program| ask_version(&program, "-v", 2))
    },
};

fn start(stage: &Stage) -> anyhow::Result<Running> {
    let ports = ports(&Scenario::ALL)?;
    let file = stage.write("haproxy.cfg", CONFIGURATION, &words(&ports))?;
    let mut command = Command::new(program("haproxy")?);
    command.args(["-db", "-f"]).arg(file);
    let cores = stage.cores;
    let process = Process::start("haproxy", &command, cores.system, cores, &stage.dir)?;
    Running::on_ports(process, &ports)
}
