//! Nothing in between: what the load sees of the upstream alone. A proxy's
//! added latency is over this.

use super::{Running, Stage, System, Target};
use crate::process::loopback;
use crate::scenario::Scenario;

pub(super) const SYSTEM: System = System {
    name: "direct",
    tools: &[],
    start,
    version: |_| String::new(),
};

fn start(stage: &Stage) -> anyhow::Result<Running> {
    Ok(Running {
        measured: None,
        helpers: Vec::new(),
        targets: vec![Target {
            scenario: Scenario::Http1,
            address: loopback(stage.upstream),
            host: "upstream",
        }],
    })
}
