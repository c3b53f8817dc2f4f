//! nginx, one process with one thread. It speaks no HTTP/2 to upstreams.

use std::path::Path;
use std::process::Command;

use super::{Running, Stage, System, Tool, ask_version, doors, ports, program, words};
use crate::process::{Process, find_program};
use crate::scenario::Scenario;

const CONFIGURATION: &str = include_str!("../../peers/nginx.conf");
/// TCP is a module of its own in Debian.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) const SYSTEM: System = System {
    name: "nginx",
    word: "nginx",
    lacks,
    start,
    version: |_| {
        find_program("nginx").map_or_else(String::new, |program| ask_version(&program, "-v", 3))
    },
};

fn lacks(_: &Stage) -> Option<String> {
    let tool = Tool {
        program: "nginx",
        install: "apt-get install nginx",
    };
    tool.lack().or_else(|| {
        (!Path::new(STREAM_MODULE).is_file())
            .then(|| format!("{STREAM_MODULE} is missing (apt-get install libnginx-mod-stream)"))
    })
}

fn start(stage: &Stage) -> anyhow::Result<Running> {
    let ports = ports(&[
        Scenario::Http1,
        Scenario::Http1Features,
        Scenario::Http1AsTcp,
        Scenario::TcpBulk,
        Scenario::MtlsOut,
        Scenario::MtlsPair,
        Scenario::MtlsBulk,
        Scenario::MtlsBulkOut,
    ])?;
    let mut values = words(&ports);
    let doors = doors(&mut values)?;
    let file = stage.write("nginx.conf", CONFIGURATION, &values)?;
    let mut command = Command::new(program("nginx")?);
    command.args(["-c"]).arg(file);
    let cores = stage.cores;
    let process = Process::start("nginx", &command, cores.system, cores, &stage.dir)?;
    Running::on_ports(process, &ports)?.with_doors(stage, doors, "nginx")
}
