//! The daemons as subcommands: each is its library, started here.

use anyhow::Context;

use crate::demo::DemoOptions;

/// `remora proxy [intercept]`.
#[derive(Debug, clap::Args)]
pub struct ProxyArguments {
    /// What else than running the sidecar.
    #[command(subcommand)]
    pub command: Option<ProxyCommand>,
}

/// What `remora proxy` can do besides running.
#[derive(Debug, clap::Subcommand)]
pub enum ProxyCommand {
    /// Set this network namespace's redirect rules and exit.
    Intercept(remora_proxy::intercept::InterceptOptions),
}

/// Runs the sidecar, or sets redirect rules.
///
/// # Errors
/// What ended it.
pub fn proxy(arguments: ProxyArguments) -> anyhow::Result<()> {
    match arguments.command {
        Some(ProxyCommand::Intercept(options)) => Ok(remora_proxy::intercept::run(&options)?),
        None => Ok(remora_proxy::daemon::run(
            remora_proxy::config::Config::from_environment()?,
        )?),
    }
}

/// Runs the control plane.
///
/// # Errors
/// What ended it.
pub fn control_plane(options: remora_control_plane::Options) -> anyhow::Result<()> {
    runtime()?.block_on(remora_control_plane::run(options))
}

/// Runs the injector's webhook.
///
/// # Errors
/// What ended it.
pub fn injector(options: remora_injector::Options) -> anyhow::Result<()> {
    runtime()?.block_on(remora_injector::run(options))
}

/// Runs a role of the demo shop.
///
/// # Errors
/// What ended it.
pub fn demo(options: DemoOptions) -> anyhow::Result<()> {
    runtime()?.block_on(crate::demo::run(options))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("no runtime")
}
