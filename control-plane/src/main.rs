//! The control plane's own small binary.

use std::io::IsTerminal;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Remora's control plane: resolves policies and streams them to the sidecars.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    options: remora_control_plane::Options,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // What kube says of a failed watch at each try, the source says once.
    let usual = "info,kube_runtime=error,kube_client=error";
    let filter = EnvFilter::try_from_env("REMORA_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    remora_control_plane::run(Arguments::parse().options).await
}
