//! Process 1 of the stage: makes the mounts, then runs the show.

use std::fs;
use std::process::ExitCode;

use anyhow::bail;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::super::options::{Isolation, Plan};
use super::super::show;
use super::super::stage::mounts;
use super::{become_process, signals};

/// Runs the show to its end.
///
/// # Errors
/// When the stage cannot be set up; what goes wrong on it is the exit status.
pub fn run(parent: i32) -> anyhow::Result<ExitCode> {
    let plan = Plan::handed_down()?;
    signals::unblock()?;
    match plan.isolation {
        Isolation::Netns => {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            check_parent(parent)?;
            mounts::make_private()?;
            fs::create_dir_all(plan.stage())?;
            mounts::in_memory(&plan.stage())?;
            let hosts = plan.stage().join("hosts");
            fs::write(&hosts, "127.0.0.1 localhost\n")?;
            mounts::cover_hosts(&hosts)?;
        }
        Isolation::Loopback => {
            become_process::tie_to_parent(Signal::SIGKILL, parent)?;
            fs::create_dir_all(plan.stage())?;
        }
    }
    // One thread: PR_SET_PDEATHSIG of the children follows the thread that
    // made them, and this one lives to the end.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(show::run(plan))
}

/// Inside its process namespace a process cannot see its parent; the `/proc`
/// that is still the outer one can.
fn check_parent(parent: i32) -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    if line.and_then(|line| line.trim().parse().ok()) != Some(parent) {
        bail!("the process that started this has ended");
    }
    Ok(())
}
