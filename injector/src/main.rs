//! The injector's own small binary.

use std::io::IsTerminal;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Remora's injector: the webhook that gives pods their sidecars.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    options: remora_injector::Options,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("REMORA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    remora_injector::run(Arguments::parse().options).await
}
