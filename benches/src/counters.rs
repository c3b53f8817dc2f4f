//! What `perf` counts for each unit of a load, in a load of its own (the
//! counting itself costs time): system calls, and instructions where the
//! processor's counters may be read, which in many virtual machines they may
//! not.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::load;
use crate::process::{Process, find_program};
use crate::stop;
use crate::systems::{Stage, Target};

const SPAN: Duration = Duration::from_secs(1);
/// `perf` has attached by then.
const ATTACHED: Duration = Duration::from_millis(300);
/// How long a count takes altogether.
pub const TAKES: Duration = Duration::from_millis(1_500);
const SYSTEM_CALLS: &str = "raw_syscalls:sys_enter";
const USER_INSTRUCTIONS: &str = "instructions:u";
const SYSTEM_INSTRUCTIONS: &str = "instructions:k";

/// Counts for each unit of a load; none where `perf` cannot count them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// System calls.
    pub syscalls: Option<f64>,
    /// Instructions in user space.
    pub user_instructions: Option<f64>,
    /// Instructions in the kernel.
    pub system_instructions: Option<f64>,
}

/// Counts of its processes for each unit carried to `target`.
///
/// # Errors
/// When the load fails, or `perf` does not end.
pub fn per_unit(stage: &Stage, target: &Target) -> anyhow::Result<Counts> {
    if target.pids.is_empty() {
        return Ok(Counts::default());
    }
    let Some(perf) = find_program("perf") else {
        eprintln!("perf is missing (apt-get install linux-perf): system calls are not counted");
        return Ok(Counts::default());
    };
    let file = stage.dir.join("perf.csv");
    let pids: Vec<String> = target.pids.iter().map(u32::to_string).collect();
    let mut command = Command::new(perf);
    command.args(["stat", "-x,", "-p", &pids.join(","), "-o"]);
    command.arg(&file);
    for event in [SYSTEM_CALLS, USER_INSTRUCTIONS, SYSTEM_INSTRUCTIONS] {
        command.args(["-e", event]);
    }
    let cores = stage.cores;
    let mut perf = Process::start("perf", &command, cores.load, cores, &stage.dir)?;
    stop::sleep(ATTACHED)?;
    let carried = load::saturate(stage, target, SPAN)?;
    let id = i32::try_from(perf.id()).ok().and_then(Pid::from_raw);
    kill_process(id.context("perf has no id")?, Signal::INT)?;
    perf.wait(Duration::from_secs(5))?;
    let counted = std::fs::read_to_string(&file).unwrap_or_default();
    let of_each = |event| count(&counted, event).map(|count| count / carried.units);
    let counts = Counts {
        syscalls: of_each(SYSTEM_CALLS),
        user_instructions: of_each(USER_INSTRUCTIONS),
        system_instructions: of_each(SYSTEM_INSTRUCTIONS),
    };
    if counts.syscalls.is_none() {
        eprintln!("perf may not count system calls here: {}", perf.said());
    }
    Ok(counts)
}

/// Of the line `<count>,<unit>,<event>,...`; a count that could not be had is
/// a word such as `<not supported>`.
fn count(counted: &str, event: &str) -> Option<f64> {
    let line = counted
        .lines()
        .find(|line| line.split(',').nth(2) == Some(event))?;
    line.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_read_and_one_that_is_not_supported_is_none() {
        let counted = "# started on Sat Nov 21\n\n\
            29,,raw_syscalls:sys_enter,682207,100.00,,\n\
            <not supported>,,instructions:u,0,100.00,,\n";
        assert_eq!(count(counted, SYSTEM_CALLS), Some(29.0));
        assert_eq!(count(counted, USER_INSTRUCTIONS), None);
        assert_eq!(count(counted, SYSTEM_INSTRUCTIONS), None);
    }
}
