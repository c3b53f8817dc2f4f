//! Remora's command line.
//!
//! # Layout
//! - [`args`]: what can be typed.
//! - [`commands`]: the daemons as subcommands; each starts its own runtime.
//! - [`cluster`]: the commands for a cluster: check, status, top, explain, identity,
//!   authorize, inject.
//! - [`demo`]: the demo shop, one role per process.
//! - [`playground`]: the mesh on one machine, with load and a live view.
//!
//! Nothing here starts a thread before the chosen command asks for it: the
//! playground enters new namespaces, which only a process with a single
//! thread may do.

use std::process::ExitCode;

pub mod args;
pub mod cluster;
pub mod commands;
pub mod demo;
pub mod playground;

use args::{Cli, Command};
use cluster::{authorize, check, completions, explain, identity, inject, status, top, version};

/// Runs what was typed; errors go to standard error, one line each cause.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Playground(options) => playground::run(options),
        Command::Check(options) => return cluster::run(check::run(options)),
        Command::Status(options) => return cluster::run(status::run(options)),
        Command::Top(options) => return cluster::run(top::run(options)),
        Command::Explain(options) => return cluster::run(explain::run(options)),
        Command::Identity(options) => return cluster::run(identity::run(options)),
        Command::Authorize(options) => return cluster::run(authorize::run(options)),
        Command::Version(options) => return cluster::run(version::run(options)),
        Command::Inject(options) => return cluster::ended(inject::run(&options)),
        Command::Completions(options) => return cluster::ended(completions::run(&options)),
        Command::Proxy(arguments) => commands::proxy(arguments).map(|()| ExitCode::SUCCESS),
        Command::ControlPlane(options) => {
            commands::control_plane(options).map(|()| ExitCode::SUCCESS)
        }
        Command::Injector(options) => commands::injector(options).map(|()| ExitCode::SUCCESS),
        Command::Demo(options) => commands::demo(options).map(|()| ExitCode::SUCCESS),
        Command::Stage(stage) => playground::process::run(stage),
    };
    done.unwrap_or_else(|error| {
        eprintln!("remora: {error:#}");
        ExitCode::FAILURE
    })
}
