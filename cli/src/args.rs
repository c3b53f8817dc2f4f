//! What can be typed: `remora <command>`.

use clap::{Parser, Subcommand};

use crate::cluster::{
    authorize, check, completions, explain, identity, inject, status, top, version,
};
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
    /// Find what is wrong with Remora in a cluster, before or after its installation.
    Check(check::Options),
    /// Show each sidecar of a cluster: connected, in sync, of which version.
    Status(status::Options),
    /// Show live what each pod of a cluster does: requests, latency, retries, limits, breakers.
    Top(top::Options),
    /// Show which policy each setting of a Service comes from.
    Explain(explain::Options),
    /// Show a pod's identity: its certificate, until when, when it is renewed, whom it believes.
    Identity(identity::Options),
    /// Show which AuthorizationPolicies are for a pod, and what a given caller gets there.
    Authorize(authorize::Options),
    /// Put the sidecar into the pod templates of a YAML file.
    Inject(inject::Options),
    /// Show the versions of this program, the control plane and the sidecars.
    Version(version::Options),
    /// Print a shell's completions.
    Completions(completions::Options),
    /// Run the sidecar (configured by REMORA_* variables), or set a pod's redirect rules.
    Proxy(crate::commands::ProxyArguments),
    /// Run the control plane.
    ControlPlane(remora_control_plane::Options),
    /// Run the injector: the webhook that gives pods their sidecars.
    Injector(remora_injector::Options),
    /// Run one role of the demo shop.
    Demo(demo::DemoOptions),
    /// The playground's own inner steps.
    #[command(subcommand, hide = true)]
    Stage(playground::process::Stage),
}
