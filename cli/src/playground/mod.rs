//! `remora playground`: the mesh on one machine.
//!
//! The same YAML, injector, control plane and sidecars as in a cluster, each
//! pod with its own address, with load and a live view. A stage for the real
//! parts: nothing in it is used in production.
//!
//! # Layout
//! - [`options`]: what can be told; [`scenario`]: what happens; [`routing`]: the
//!   stages of scenarios of routes, [`trials`]: those of policies.
//! - [`process`]: the processes of the playground and how they end together;
//!   [`folder`]: their private folder.
//! - [`stage`]: mounts and the network between pods.
//! - [`cluster`]: controllers and kubelet; [`world`]: the cluster as it is,
//!   [`member`]: a pod of it.
//! - [`control_plane`]: its process; [`identity`]: by what pods show who they are.
//! - [`measure`]: what is seen of the mesh; [`capture`]: what travels in it.
//! - [`show`]: the loop that ties all this together.
//! - [`report`]: the JSON at the end; [`view`]: the live view.
//! - [`control_socket`]: orders from another terminal.
//! - [`clock`]: the time.

use std::io::Write;
use std::process::ExitCode;

use options::Choice;
use scenario::Scenario;

pub mod options;
pub mod routing;
pub mod scenario;
pub mod trials;

pub mod folder;
pub mod process;
pub mod stage;

pub mod capture;
pub mod cluster;
pub mod control_plane;
pub mod identity;
pub mod member;
pub mod world;

pub mod measure;
pub mod show;

pub mod control_socket;
pub mod report;
pub mod view;

pub mod clock;

pub use options::Options;

/// Runs a playground, or tells a running one.
///
/// # Errors
/// Bad options, no way to start, an order that was refused.
pub fn run(mut options: Options) -> anyhow::Result<ExitCode> {
    match (options.order.take(), options.scenario) {
        (Some(order), _) => control_socket::tell(order).map(|()| ExitCode::SUCCESS),
        (None, Choice::List) => list(&mut std::io::stdout().lock()),
        (None, Choice::Of(scenario)) => process::outer::run(&options, scenario),
    }
}

/// All scenarios, each with what it shows.
fn list(out: &mut impl Write) -> anyhow::Result<ExitCode> {
    for scenario in Scenario::all() {
        writeln!(out, "{:22} {}", scenario.word(), scenario.says())?;
    }
    Ok(ExitCode::SUCCESS)
}
