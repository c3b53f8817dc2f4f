//! The control plane's own small binary.

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
    let filter = EnvFilter::try_from_env("REMORA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    remora_control_plane::run(Arguments::parse().options).await
}
