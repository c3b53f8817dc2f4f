//! The upstream of every system: nginx with a body of 1 KiB.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::PATIENCE;
use crate::process::{Cores, Process, find_program, free_port, loopback};

const CONFIGURATION: &str = include_str!("../../peers/upstream.conf");

/// Starts it on the load's core; gives its port.
///
/// # Errors
/// When nginx is missing or does not start.
pub fn start(cores: Cores, dir: &Path) -> anyhow::Result<(Process, u16)> {
    let program = find_program("nginx")
        .context("the upstream is nginx, which is missing: apt-get install nginx")?;
    let port = free_port()?;
    let file = dir.join("upstream.conf");
    let text = CONFIGURATION
        .replace("@DIR@", &dir.to_string_lossy())
        .replace("@UPSTREAM@", &port.to_string());
    std::fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(file);
    let mut process = Process::start("upstream", &command, cores.load, cores, dir)?;
    process.wait_for(loopback(port), PATIENCE)?;
    Ok((process, port))
}
