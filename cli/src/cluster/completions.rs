//! `remora completions`: what a shell needs to complete what is typed.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::error::Error;
use super::output;
use crate::args::Cli;

/// Options of `remora completions`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "bash: remora completions bash > /etc/bash_completion.d/remora\n\
    zsh:  remora completions zsh > \"${fpath[1]}/_remora\"\n\
    fish: remora completions fish > ~/.config/fish/completions/remora.fish"
)]
pub struct Options {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Known,
}

/// The shells that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Known {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Runs the command.
///
/// # Errors
/// When nothing can be written.
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    output::print(&script(options.shell))?;
    Ok(ExitCode::SUCCESS)
}

/// The script of a shell.
pub fn script(shell: Known) -> String {
    let shell = match shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "remora", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_every_command() {
        for shell in [Known::Bash, Known::Zsh, Known::Fish] {
            let script = script(shell);
            for command in ["check", "status", "top", "inject", "explain", "playground"] {
                assert!(script.contains(command), "{shell:?}: {command}");
            }
        }
    }
}
