//! HAProxy, one process with one thread.

use std::net::SocketAddr;
use std::process::Command;

use super::{Running, Stage, System, Tool, ask_version, doors, ports, program, words};
use crate::process::{Process, find_program, free_port, loopback};
use crate::scenario::Scenario;

const CONFIGURATION: &str = include_str!("../../peers/haproxy.cfg");
const CALLER: &str = include_str!("../../peers/caller.cfg");
/// What it does on a port of its own; mutual TLS it takes beside.
pub(super) const ON_PORTS: [Scenario; 9] = [
    Scenario::Http1,
    Scenario::Http1Features,
    Scenario::Http2,
    Scenario::Http1AsTcp,
    Scenario::TcpBulk,
    Scenario::MtlsOut,
    Scenario::MtlsPair,
    Scenario::MtlsBulk,
    Scenario::MtlsBulkOut,
];

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
    let ports = ports(&ON_PORTS)?;
    let mut values = words(&ports);
    let doors = doors(&mut values)?;
    let file = stage.write("haproxy.cfg", CONFIGURATION, &values)?;
    let mut command = Command::new(program("haproxy")?);
    command.args(["-db", "-f"]).arg(file);
    let cores = stage.cores;
    let process = Process::start("haproxy", &command, cores.system, cores, &stage.dir)?;
    Running::on_ports(process, &ports)?.with_doors(stage, doors, "haproxy")
}

/// Plaintext in, mutual TLS to each of `doors` out, on the load's core: who calls
/// a system `name` in mutual TLS, and where it is called for each.
pub(super) fn caller(
    stage: &Stage,
    doors: [u16; 2],
    name: &str,
) -> anyhow::Result<Option<(Process, [SocketAddr; 2])>> {
    let Some(program) = find_program("haproxy") else {
        return Ok(None);
    };
    let listen = [free_port()?, free_port()?];
    let values = [
        ("LISTEN", listen[0]),
        ("DOOR", doors[0]),
        ("LISTEN_BULK", listen[1]),
        ("DOOR_BULK", doors[1]),
    ];
    let name = format!("caller-of-{name}");
    let file = stage.write(&format!("{name}.cfg"), CALLER, &values)?;
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(file);
    let cores = stage.cores;
    let process = Process::start(&name, &command, cores.load, cores, &stage.dir)?;
    Ok(Some((process, listen.map(loopback))))
}
