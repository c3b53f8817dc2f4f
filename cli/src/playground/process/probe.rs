//! Whether network namespaces can be had here, found out by making a small
//! stage and taking it down again.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

use super::super::stage::{mounts, network};
use super::{become_process, janitor};

/// Asks a child of our own; `None` when all works, else what does not.
///
/// # Errors
/// When the child cannot be started at all.
pub fn ask() -> anyhow::Result<Option<String>> {
    let output = Command::new("/proc/self/exe")
        .args(["stage", "probe"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start a child process")?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().last().unwrap_or("it ended without a word");
    Ok(Some(reason.trim_start_matches("remora: ").to_owned()))
}

/// The outer half: enters the namespaces and starts the inner half.
///
/// # Errors
/// The first step that failed.
pub fn outside() -> anyhow::Result<ExitCode> {
    janitor::enter_namespaces()?;
    let status = Command::new("/proc/self/exe")
        .args(["stage", "probe", "--inside"])
        .status()
        .context("no process in the new process namespace")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The inner half: mounts, a bridge, a pod's network and its redirect rules.
///
/// # Errors
/// The first step that failed.
pub fn inside() -> anyhow::Result<ExitCode> {
    mounts::make_private()?;
    mounts::check_hosts()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let namespace = runtime.block_on(async {
        let network = network::Network::create().await?;
        network.add_pod(1).await
    })?;
    let mut command = become_process::in_namespace(&namespace)?;
    let output = command
        .args(super::super::cluster::container::PROBE_INTERCEPT)
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!(
            "redirect rules cannot be set: {}",
            said.lines().last().unwrap_or("no reason given")
        );
    }
    Ok(ExitCode::SUCCESS)
}
