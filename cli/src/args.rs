//! What can be typed: `remora <command>`.

use clap::{Parser, Subcommand};

use crate::{demo, playground};

/// A very light service mesh.
#[derive(Debug, Parser)]
#[command(name = "remora", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `remora`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a shop, its sidecars and the control plane on this machine, with load and a live view.
    Playground(playground::Options),
    /// Run the sidecar (configured by REMORA_* variables), or set a pod's redirect rules.
    Proxy(crate::commands::ProxyArguments),
    /// Run the control plane.
    ControlPlane(remora_control_plane::Options),
    /// Run one role of the demo shop.
    Demo(demo::DemoOptions),
    /// The playground's own inner steps.
    #[command(subcommand, hide = true)]
    Stage(playground::process::Stage),
}
