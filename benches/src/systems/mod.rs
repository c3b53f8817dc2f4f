//! The systems that are measured, as one table: [`ALL`].
//!
//! A new one is a file here with a `start` function, and a line in the table.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Cores, Process, find_program};
use crate::scenario::Scenario;

mod direct;
mod haproxy;
mod nginx;
pub mod remora;
pub mod upstream;

/// How long anything may take to start.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What every system is started with.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Where files of this run lie; removed at its end.
    pub dir: PathBuf,
    /// Which core is whose.
    pub cores: Cores,
    /// The upstream, on 127.0.0.1.
    pub upstream: u16,
    /// Remora's own programs.
    pub remora: remora::Programs,
}

impl Stage {
    /// Writes a configuration to `name`, with `@WORD@` replaced by its value.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(
        &self,
        name: &str,
        template: &str,
        values: &[(&str, u16)],
    ) -> anyhow::Result<PathBuf> {
        let mut text = template
            .replace("@DIR@", &self.dir.to_string_lossy())
            .replace("@UPSTREAM@", &self.upstream.to_string());
        for (word, value) in values {
            text = text.replace(&format!("@{word}@"), &value.to_string());
        }
        let path = self.dir.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

/// Something that the system needs.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The program.
    pub program: &'static str,
    /// How it comes to the machine.
    pub install: &'static str,
}

/// A line of the table of systems.
#[derive(Clone, Copy, Debug)]
pub struct System {
    /// Its name in every table.
    pub name: &'static str,
    /// Programs that must be there.
    pub tools: &'static [Tool],
    /// Starts it, ready for load.
    pub start: fn(&Stage) -> anyhow::Result<Running>,
    /// What its program says of its version, where it is asked.
    pub version: fn(&Stage) -> String,
}

impl System {
    /// The first program that it lacks.
    pub fn missing(&self) -> Option<Tool> {
        self.tools
            .iter()
            .find(|tool| find_program(tool.program).is_none())
            .copied()
    }
}

/// All systems, in the order in which each round takes them.
pub const ALL: [System; 4] = [
    direct::SYSTEM,
    remora::SYSTEM,
    haproxy::SYSTEM,
    nginx::SYSTEM,
];

/// The one that others are compared with.
pub const YARDSTICK: &str = haproxy::SYSTEM.name;

/// Where a scenario is to be had.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which one.
    pub scenario: Scenario,
    /// The load goes there.
    pub address: SocketAddr,
    /// And names this host.
    pub host: &'static str,
}

/// A system that runs.
#[derive(Debug)]
pub struct Running {
    /// What is measured; none where there is nothing between load and upstream.
    pub measured: Option<Process>,
    /// What it needs beside it.
    pub helpers: Vec<Process>,
    /// What it can do.
    pub targets: Vec<Target>,
}

impl Running {
    /// Where `scenario` is to be had, if it can do it.
    pub fn target(&self, scenario: Scenario) -> Option<&Target> {
        self.targets
            .iter()
            .find(|target| target.scenario == scenario)
    }
}

/// The last word of the first line that `program` answers to `flag`.
fn ask_version(program: &Path, flag: &str, at: usize) -> String {
    let Ok(output) = std::process::Command::new(program).arg(flag).output() else {
        return String::new();
    };
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    let line = said.lines().next().unwrap_or_default();
    line.split([' ', '/'])
        .filter(|word| !word.is_empty())
        .nth(at)
        .unwrap_or_default()
        .to_owned()
}
