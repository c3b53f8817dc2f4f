//! `remora-proxy`: the sidecar, and the step that sets its redirect rules.

use clap::{Parser, Subcommand};
use remora_proxy::config::Config;
use remora_proxy::intercept::InterceptOptions;
use remora_proxy::{daemon, intercept};

/// Remora's sidecar; without a command it runs, configured by its environment
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set the redirect rules of this network namespace, and exit
    Intercept(InterceptOptions),
}

fn main() -> anyhow::Result<()> {
    if std::env::args_os().len() == 1 {
        // Every pod runs this way: the parser's pages need not be touched for it.
        return daemon::run(Config::from_environment()?);
    }
    match Arguments::parse().command {
        None => daemon::run(Config::from_environment()?),
        Some(Command::Intercept(options)) => Ok(intercept::run(&options)?),
    }
}
