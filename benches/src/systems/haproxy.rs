//! HAProxy, one process with one thread.

use std::process::Command;

use super::{PATIENCE, Running, Stage, System, Target, Tool, ask_version};
use crate::process::{Process, find_program, free_port, loopback};
use crate::scenario::Scenario;

const CONFIGURATION: &str = include_str!("../../peers/haproxy.cfg");

pub(super) const SYSTEM: System = System {
    name: "HAProxy",
    tools: &[Tool {
        program: "haproxy",
        install: "apt-get install haproxy",
    }],
    start,
    version: |_| {
        find_program("haproxy").map_or_else(String::new, |program| ask_version(&program, "-v", 2))
    },
};

fn start(stage: &Stage) -> anyhow::Result<Running> {
    let (plain, guarded) = (free_port()?, free_port()?);
    let ports = [("HTTP1", plain), ("HTTP1_FEATURES", guarded)];
    let file = stage.write("haproxy.cfg", CONFIGURATION, &ports)?;
    let mut command = Command::new(find_program("haproxy").unwrap_or_else(|| "haproxy".into()));
    command.args(["-db", "-f"]).arg(file);
    let mut process = Process::start(
        "haproxy",
        &command,
        stage.cores.system,
        stage.cores,
        &stage.dir,
    )?;
    let targets =
        [(Scenario::Http1, plain), (Scenario::Http1Features, guarded)].map(|(scenario, port)| {
            Target {
                scenario,
                address: loopback(port),
                host: "plain",
            }
        });
    for target in &targets {
        process.wait_for(target.address, PATIENCE)?;
    }
    Ok(Running {
        measured: Some(process),
        helpers: Vec::new(),
        targets: targets.into(),
    })
}
