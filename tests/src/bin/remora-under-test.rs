//! The command line as users have it: what the whole-system tests start.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    remora::run(remora::args::Cli::parse())
}
