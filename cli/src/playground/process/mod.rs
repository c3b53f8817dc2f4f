//! The playground's processes, outermost first, and how they end together.
//!
//! ```text
//! remora playground            the terminal's process: waits, passes signals on
//! └─ stage janitor             enters the user, network and process namespace;
//!    │                         removes the private folder when all is over
//!    └─ stage conductor        process 1 of the new process namespace: runs it all
//!       ├─ control-plane
//!       └─ stage exec -- ...   enters a pod's network namespace, becomes its process
//! ```
//! Each dies with its parent (`PR_SET_PDEATHSIG`), so the end of any of them,
//! however sudden, is the end of everything below it; the kernel itself empties
//! a process namespace whose first process ended. Only the janitor outlives its
//! parent, for as long as it takes to tidy up. Nothing here uses threads.

pub mod become_process;
pub mod conductor;
pub mod janitor;
pub mod outer;
pub mod probe;
mod signals;

use std::process::ExitCode;

/// The hidden subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Stage {
    /// Enters the namespaces, starts the conductor, tidies up after it.
    Janitor {
        /// The process that must be the parent.
        #[arg(long)]
        parent: i32,
    },
    /// Runs the stage.
    Conductor {
        /// The process that must be the parent, as seen from outside.
        #[arg(long)]
        parent: i32,
    },
    /// Becomes a container's process.
    Exec(become_process::Exec),
    /// Finds out whether network namespaces can be had.
    Probe {
        /// Set in the process that is already inside.
        #[arg(long)]
        inside: bool,
    },
}

/// Runs a hidden subcommand.
///
/// # Errors
/// Whatever ended it.
pub fn run(stage: Stage) -> anyhow::Result<ExitCode> {
    match stage {
        Stage::Janitor { parent } => janitor::run(parent),
        Stage::Conductor { parent } => conductor::run(parent),
        Stage::Exec(exec) => become_process::run(exec),
        Stage::Probe { inside: false } => probe::outside(),
        Stage::Probe { inside: true } => probe::inside(),
    }
}
