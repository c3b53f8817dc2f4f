//! The commands for a cluster: what is installed, how its sidecars are, what
//! they do, what is in force.
//!
//! They read; none of them changes a cluster. Daemons are reached through the
//! API server's pod proxy, so nothing has to be exposed for them.
//!
//! # Layout
//! - [`options`]: what every command can be told; [`error`]: why one cannot do
//!   its work.
//! - [`resources`]: kinds and their paths; [`api`]: the API server, with bounds.
//! - [`text`]: what came from a cluster, before it reaches a terminal;
//!   [`output`]: tables, JSON, YAML.
//! - [`mesh`]: pods and sidecars.
//! - The commands: [`check`], [`status`], [`top`], [`explain`], [`identity`],
//!   [`authorize`], [`version`], and without a cluster [`inject`] and [`completions`].

use std::process::ExitCode;

pub mod options;

pub mod error;

pub mod resources;

pub mod api;

pub mod text;

pub mod output;

pub mod mesh;

pub mod authorize;
pub mod check;
pub mod completions;
pub mod explain;
pub mod identity;
pub mod inject;
pub mod status;
pub mod top;
pub mod version;

use error::Error;

/// The exit status of a command that found what it is there to find.
pub const FOUND: ExitCode = ExitCode::FAILURE;
/// The exit status of a command that could not do its work.
const NOT_DONE: u8 = 2;

/// Runs a command that asks a cluster; its error is printed here.
pub fn run(command: impl Future<Output = Result<ExitCode, Error>>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let done = match builder.enable_all().build() {
        Ok(runtime) => {
            let done = runtime.block_on(command);
            // A name that is still being looked up keeps nobody waiting.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Error::Output(error)),
    };
    ended(done)
}

/// The exit status of what was done; an error is printed.
pub fn ended(done: Result<ExitCode, Error>) -> ExitCode {
    done.unwrap_or_else(|error| {
        output::warn(&error.to_string());
        ExitCode::from(NOT_DONE)
    })
}
