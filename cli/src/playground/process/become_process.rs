//! Becoming a container's process: tie it to its parent, enter its pod's
//! network namespace, run the command.
//!
//! A program of its own instead of a step between fork and exec, because that
//! step would need `unsafe`.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stdin, getppid};

use super::signals;

/// What to become.
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// The process that must be the parent; it ends, this ends.
    #[arg(long)]
    parent: i32,
    /// Standard input is the network namespace to enter.
    #[arg(long)]
    netns: bool,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command; returns only when that failed.
///
/// # Errors
/// When the namespace cannot be entered or the program cannot be run.
pub fn run(exec: Exec) -> anyhow::Result<ExitCode> {
    signals::unblock()?;
    if exec.netns {
        setns(std::io::stdin(), CloneFlags::CLONE_NEWNET)
            .context("cannot enter the pod's network namespace")?;
        dup2_stdin(File::open("/dev/null")?)?;
    }
    tie_to_parent(Signal::SIGKILL, exec.parent)?;
    let Some((program, arguments)) = exec.command.split_first() else {
        bail!("no command");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Asks for `signal` when the parent ends, and makes sure that it has not yet.
pub(super) fn tie_to_parent(signal: Signal, parent: i32) -> anyhow::Result<()> {
    prctl::set_pdeathsig(signal)?;
    if getppid().as_raw() != parent {
        bail!("the process that started this has ended");
    }
    Ok(())
}

/// A command that runs inside `namespace` and ends with this process; the
/// program and its arguments are still to be added.
///
/// # Errors
/// When the namespace's descriptor cannot be duplicated.
pub fn in_namespace(namespace: &std::os::fd::OwnedFd) -> std::io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args([
            "stage",
            "exec",
            "--netns",
            "--parent",
            &std::process::id().to_string(),
            "--",
        ])
        .stdin(namespace.try_clone()?);
    Ok(command)
}

/// The same without a namespace.
pub fn beside() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args([
            "stage",
            "exec",
            "--parent",
            &std::process::id().to_string(),
            "--",
        ])
        .stdin(std::process::Stdio::null());
    command
}
