//! The load that a system can just bear: wrk, from Debian.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::load::Carried;
use crate::process::{Cores, Process, find_program};

/// Connections, all of them always busy.
pub const CONNECTIONS: u32 = 32;
/// wrk takes so much longer than its load at most.
const OVERTIME: Duration = Duration::from_secs(10);
const SCRIPT: &str = include_str!("../peers/wrk.lua");

/// What wrk saw.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
struct Seen {
    /// Answers.
    requests: u64,
    /// How long it took.
    microseconds: u64,
    /// Connections that broke, answers that were not 2xx or 3xx, timeouts.
    errors: u64,
}

/// Loads `address` for `span`, naming `host`.
///
/// # Errors
/// wrk is missing or fails, or any answer was an error.
pub fn run(
    address: SocketAddr,
    host: &str,
    span: Duration,
    cores: Cores,
    dir: &Path,
) -> anyhow::Result<Carried> {
    let program = find_program("wrk").context("wrk is missing: apt-get install wrk")?;
    let script = dir.join("wrk.lua");
    std::fs::write(&script, SCRIPT)?;
    let mut command = Command::new(program);
    command
        .args(["-t1", &format!("-c{CONNECTIONS}")])
        .arg(format!("-d{}s", span.as_secs().max(1)))
        .args(["-H", &format!("Host: {host}"), "-s"])
        .arg(&script)
        .arg(format!("http://{address}/"));
    let mut wrk = Process::start("wrk", &command, cores.load, cores, dir)?;
    let status = wrk.wait(span + OVERTIME)?;
    let said = wrk.said();
    let json = said.lines().find_map(|line| line.strip_prefix("JSON "));
    let Some(json) = json.filter(|_| status.success()) else {
        bail!("wrk failed ({status}): {said}");
    };
    let seen: Seen = serde_json::from_str(json)?;
    if seen.errors > 0 || seen.requests == 0 {
        bail!(
            "wrk saw {} errors in {} requests",
            seen.errors,
            seen.requests
        );
    }
    Ok(Carried {
        units: seen.requests as f64,
        span: Duration::from_micros(seen.microseconds),
    })
}
