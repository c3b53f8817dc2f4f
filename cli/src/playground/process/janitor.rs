//! The process between the terminal's and the conductor: it enters the
//! enclosing namespaces, waits, and removes the private folder at the end.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::Context;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{alarm, getegid, geteuid, getppid};

use super::super::options::{Isolation, Plan};
use super::become_process::tie_to_parent;
use super::{outer, signals};

/// How long the conductor may take to end in order, in seconds.
const ORDERLY_END_SECONDS: u32 = 15;

/// Runs the conductor to its end and tidies up.
///
/// # Errors
/// When the namespaces cannot be entered or the conductor cannot be started.
pub fn run(parent: i32) -> anyhow::Result<ExitCode> {
    let plan = Plan::handed_down()?;
    let waited = signals::block()?;
    tie_to_parent(Signal::SIGTERM, parent)?;
    let status = start(&plan).and_then(|child| wait(child, &waited, parent));
    let removed = std::fs::remove_dir_all(&plan.folder);
    let status = status?;
    if let Err(error) = removed {
        eprintln!("remora: cannot remove {}: {error}", plan.folder.display());
    }
    if let Some(signal) = status.signal() {
        anyhow::bail!("the playground's conductor was ended by signal {signal}");
    }
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}

/// Enters the namespaces and starts the conductor, which becomes their first process.
fn start(plan: &Plan) -> anyhow::Result<Child> {
    if plan.isolation == Isolation::Netns {
        enter_namespaces()?;
    }
    Command::new("/proc/self/exe")
        .args([
            "stage",
            "conductor",
            "--parent",
            &std::process::id().to_string(),
        ])
        .spawn()
        .context("cannot start the playground's conductor")
}

/// A user namespace in which this user is root, and in it a network and (for
/// the next child) a process namespace.
pub(super) fn enter_namespaces() -> anyhow::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).context("no user namespace (unshare)")?;
    // Without this the kernel refuses the group map of an ordinary user.
    std::fs::write("/proc/self/setgroups", "deny").context("no group map (setgroups)")?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("no user map")?;
    std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("no group map")?;
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace (unshare)")?;
    unshare(CloneFlags::CLONE_NEWPID).context("no process namespace (unshare)")?;
    Ok(())
}

/// Waits for the conductor; signals are passed on, and patience has an end.
fn wait(
    mut conductor: Child,
    waited: &nix::sys::signal::SigSet,
    parent: i32,
) -> anyhow::Result<ExitStatus> {
    loop {
        let signal = waited.wait()?;
        if let Some(status) = conductor.try_wait()? {
            return Ok(status);
        }
        let orphaned = getppid().as_raw() != parent;
        match signal {
            Signal::SIGALRM => conductor.kill()?,
            Signal::SIGCHLD => {}
            _ if orphaned => conductor.kill()?,
            _ => {
                outer::pass_on(&conductor);
                alarm::set(ORDERLY_END_SECONDS);
            }
        }
    }
}
