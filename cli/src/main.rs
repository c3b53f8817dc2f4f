//! `remora`: see the library's documentation for the map.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    remora::run(remora::args::Cli::parse())
}
