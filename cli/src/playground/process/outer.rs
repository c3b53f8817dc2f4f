//! The process that was typed: decides on the isolation, starts the janitor,
//! passes signals on, hands back its exit status.

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::options::{Isolation, Options, Plan, check_length, manifests_folder};
use super::super::scenario::Scenario;
use super::super::trials::Trial;
use super::super::{folder, routing, view};
use super::{probe, signals};

/// Runs the playground to its end.
///
/// # Errors
/// Bad options, no way to start; what goes wrong later is the exit status.
pub fn run(options: &Options, scenario: Scenario) -> anyhow::Result<ExitCode> {
    let manifests = manifests_folder(&options.manifests)?;
    if !options.json {
        check_terminal()?;
    }
    check_length(scenario, options.length)?;
    let first = routing::stages(scenario).first();
    let first = first.map(|stage| routing::files(&manifests, scenario, stage));
    first.transpose()?;
    let trial = scenario.trial();
    if let Some((trial, first)) = trial.and_then(|trial| Some((trial, trial.stages.first()?))) {
        let files = trial.files(&routing::scenarios(&manifests), first);
        routing::check(&files, scenario)?;
    }
    // Nobody watches it go on: a trial ends by itself.
    let own = trial.filter(|_| options.json).map(Trial::length);
    let length = options.length.or(own);
    let (isolation, isolation_reason) = decide(options.isolation)?;
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    let (keep_logs, capture) = (absolute(&options.keep_logs)?, absolute(&options.capture)?);
    if capture.is_some() && isolation != Isolation::Netns {
        bail!(
            "--capture needs pods in network namespaces (--isolation netns): on loopback addresses everything is one machine's"
        );
    }
    folder::sweep_abandoned();
    let plan = Plan {
        isolation,
        isolation_reason,
        folder: folder::create()?,
        manifests,
        scenario,
        length_ms: length.map(super::super::clock::millis),
        json: options.json,
        keep_logs,
        capture,
    };
    let status = start_and_wait(&plan);
    // The janitor has done this unless it was killed.
    let _ = std::fs::remove_dir_all(&plan.folder);
    let status = status?;
    if let Some(signal) = status.signal() {
        if !options.json {
            view::restore_after_sudden_end();
        }
        bail!("the playground was ended by signal {signal}");
    }
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}

/// The live view needs a terminal, and one that is large enough.
fn check_terminal() -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        bail!("the live view needs a terminal; use --json (and --for DURATION) without one");
    }
    let (columns, rows) = crossterm::terminal::size().context("cannot ask the terminal's size")?;
    if columns < view::LEAST_COLUMNS || rows < view::LEAST_ROWS {
        bail!(
            "the live view needs a terminal of at least {}x{}, and this one has {columns}x{rows}; enlarge it or use --json",
            view::LEAST_COLUMNS,
            view::LEAST_ROWS
        );
    }
    Ok(())
}

/// The isolation, and why it is not network namespaces where that was tried.
fn decide(wish: Option<Isolation>) -> anyhow::Result<(Isolation, Option<String>)> {
    if wish == Some(Isolation::Loopback) {
        return Ok((Isolation::Loopback, None));
    }
    match (probe::ask()?, wish) {
        (None, _) => Ok((Isolation::Netns, None)),
        (Some(reason), Some(_)) => {
            bail!("--isolation netns is not possible here: {reason}; --isolation loopback is")
        }
        (Some(reason), None) => {
            eprintln!(
                "remora: pods run on loopback addresses, because network namespaces cannot be had: {reason}"
            );
            Ok((Isolation::Loopback, Some(reason)))
        }
    }
}

/// Starts the janitor and waits for it.
fn start_and_wait(plan: &Plan) -> anyhow::Result<ExitStatus> {
    let waited = signals::block()?;
    let mut janitor = Command::new("/proc/self/exe")
        .args([
            "stage",
            "janitor",
            "--parent",
            &std::process::id().to_string(),
        ])
        .env(Plan::VARIABLE, serde_json::to_string(plan)?)
        .spawn()
        .context("cannot start the playground's inner process")?;
    loop {
        let signal = waited.wait()?;
        if let Some(status) = janitor.try_wait()? {
            return Ok(status);
        }
        if matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP) {
            pass_on(&janitor);
        }
    }
}

/// Tells a child to end.
pub(super) fn pass_on(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may just have ended; then SIGCHLD says so.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}
