//! System calls for each unit of a load, counted by `perf` in a load of its own (the
//! counting itself costs time).

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::load;
use crate::process::{Process, find_program};
use crate::stop;
use crate::systems::{Stage, Target};

const SPAN: Duration = Duration::from_secs(1);
/// `perf` has attached by then.
const ATTACHED: Duration = Duration::from_millis(500);

/// System calls of `pid` for each unit carried to `target`; `None` where `perf` is
/// missing or may not count.
///
/// # Errors
/// When the load fails.
pub fn per_unit(pid: u32, stage: &Stage, target: &Target) -> anyhow::Result<Option<f64>> {
    let Some(perf) = find_program("perf") else {
        eprintln!("perf is missing (apt-get install linux-perf): system calls are not counted");
        return Ok(None);
    };
    let file = stage.dir.join("perf.csv");
    let mut command = Command::new(perf);
    command
        .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p"])
        .arg(pid.to_string())
        .arg("-o")
        .arg(&file);
    let cores = stage.cores;
    let mut perf = Process::start("perf", &command, cores.load, cores, &stage.dir)?;
    stop::sleep(ATTACHED)?;
    let carried = load::saturate(stage, target, SPAN)?;
    let id = i32::try_from(perf.id()).ok().and_then(Pid::from_raw);
    kill_process(id.context("perf has no id")?, Signal::INT)?;
    perf.wait(Duration::from_secs(5))?;
    let counted = std::fs::read_to_string(&file).unwrap_or_default();
    let count: Option<f64> = counted
        .lines()
        .find(|line| line.contains("sys_enter"))
        .and_then(|line| line.split(',').next()?.parse().ok());
    if count.is_none() {
        eprintln!("perf may not count system calls here: {}", perf.said());
    }
    Ok(count.map(|count| count / carried.units))
}
