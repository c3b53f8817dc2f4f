//! Nothing in between: what the load sees of the upstream alone. A proxy's
//! added latency is over this.

use super::{Running, Stage, System, Target};
use crate::process::loopback;
use crate::scenario::Scenario;

pub(super) const SYSTEM: System = System {
    name: "direct",
    word: "direct",
    lacks: |_| None,
    start,
    version: |_| String::new(),
};

fn start(stage: &Stage) -> anyhow::Result<Running> {
    let target = |scenario, port| Target {
        scenario,
        address: loopback(port),
        host: "upstream",
        pids: Vec::new(),
    };
    Ok(Running {
        measured: None,
        helpers: Vec::new(),
        targets: vec![
            target(Scenario::Http1, stage.upstream.http1),
            target(Scenario::Http2, stage.upstream.http2),
            target(Scenario::TcpBulk, stage.upstream.bulk),
        ],
        door: None,
    })
}
