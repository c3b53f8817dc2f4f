//! The systems that are measured, as one table: [`ALL`].
//!
//! A new one is a file here with a `start` function, and a line in the table.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::h2load::Http2Load;
use crate::process::{Cores, Process, find_program};
use crate::scenario::Scenario;

mod direct;
pub mod envoy;
mod haproxy;
mod nginx;
mod relay;
pub mod remora;
pub mod upstream;

/// How long anything may take to start.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The name of a system that others are compared with.
pub const HAPROXY: &str = haproxy::SYSTEM.name;
/// See [`HAPROXY`].
pub const ENVOY: &str = envoy::SYSTEM.name;
/// See [`HAPROXY`].
pub const RELAY: &str = relay::COPY.name;
/// See [`HAPROXY`].
pub const RELAY_SPLICE: &str = relay::SPLICE.name;

/// What every system is started with.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Where files of this run lie; removed at its end.
    pub dir: PathBuf,
    /// Which core is whose.
    pub cores: Cores,
    /// The upstreams, on 127.0.0.1.
    pub upstream: upstream::Ports,
    /// The address of Remora's pod: a loopback address that no other system uses.
    pub pod: Ipv4Addr,
    /// Remora's own programs.
    pub remora: remora::Programs,
    /// Envoy, where it is not to be fetched.
    pub envoy: Option<PathBuf>,
    /// The load of HTTP/2.
    pub http2: Http2Load,
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
        let dir = self.dir.to_string_lossy();
        let mut all: Vec<(&str, &dyn Display)> = vec![
            ("DIR", &dir),
            ("POD", &self.pod),
            ("UPSTREAM", &self.upstream.http1),
            ("UPSTREAM_HTTP2", &self.upstream.http2),
            ("UPSTREAM_BULK", &self.upstream.bulk),
        ];
        all.extend(values.iter().map(|(word, value)| (*word, value as _)));
        let path = self.dir.join(name);
        std::fs::write(&path, fill(template, &all)?)?;
        Ok(path)
    }
}

/// A template with each `@WORD@` replaced by its value.
///
/// # Errors
/// When a word has none: the reader of the result might pass over what holds it.
pub fn fill(template: &str, values: &[(&str, &dyn Display)]) -> anyhow::Result<String> {
    let mut text = template.to_owned();
    for (word, value) in values {
        text = text.replace(&format!("@{word}@"), &value.to_string());
    }
    let is_word = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
    };
    match text.split('@').skip(1).find(is_word) {
        Some(word) => bail!("the template has @{word}@, for which there is no value"),
        None => Ok(text),
    }
}

/// A program, and how it comes to the machine.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The program.
    pub program: &'static str,
    /// How it comes to the machine.
    pub install: &'static str,
}

impl Tool {
    /// What to say where it is missing.
    pub fn lack(self) -> Option<String> {
        find_program(self.program)
            .is_none()
            .then(|| format!("{} is missing ({})", self.program, self.install))
    }
}

/// A line of the table of systems.
#[derive(Clone, Copy, Debug)]
pub struct System {
    /// Its name in every table.
    pub name: &'static str,
    /// Its word on the command line.
    pub word: &'static str,
    /// What it lacks on this machine, and how that comes there.
    pub lacks: fn(&Stage) -> Option<String>,
    /// Starts it, ready for load.
    pub start: fn(&Stage) -> anyhow::Result<Running>,
    /// What its program says of its version, where it is asked.
    pub version: fn(&Stage) -> String,
}

/// All systems, in the order of the tables.
pub const ALL: [System; 7] = [
    direct::SYSTEM,
    remora::SYSTEM,
    haproxy::SYSTEM,
    nginx::SYSTEM,
    envoy::SYSTEM,
    relay::COPY,
    relay::SPLICE,
];

/// Systems from the command line: `remora,haproxy`.
///
/// # Errors
/// Where a word is no system.
pub fn parse_list(words: &str) -> anyhow::Result<Vec<System>> {
    let wanted: Vec<&str> = words.split(',').map(str::trim).collect();
    let known = ALL.map(|system| system.word);
    if let Some(word) = wanted.iter().find(|word| !known.contains(word)) {
        bail!("{word:?} is no system; there are {}", known.join(", "));
    }
    let chosen = ALL.into_iter();
    Ok(chosen
        .filter(|system| wanted.contains(&system.word))
        .collect())
}

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

    /// `process`, which serves each scenario on the port beside it, when it does.
    fn on_ports(mut process: Process, ports: &[(Scenario, u16)]) -> anyhow::Result<Self> {
        let targets: Vec<Target> = ports
            .iter()
            .map(|(scenario, port)| Target {
                scenario: *scenario,
                address: crate::process::loopback(*port),
                host: "plain",
            })
            .collect();
        for target in &targets {
            process.wait_for(target.address, PATIENCE)?;
        }
        Ok(Self {
            measured: Some(process),
            helpers: Vec::new(),
            targets,
        })
    }
}

/// A free port for each of `scenarios`, and what configurations call it.
fn ports(scenarios: &[Scenario]) -> anyhow::Result<Vec<(Scenario, u16)>> {
    scenarios
        .iter()
        .map(|scenario| Ok((*scenario, crate::process::free_port()?)))
        .collect()
}

/// The words for `ports` in configurations: `HTTP1_FEATURES`.
fn words(ports: &[(Scenario, u16)]) -> Vec<(&'static str, u16)> {
    let word = |scenario| match scenario {
        Scenario::Http1 => "HTTP1",
        Scenario::Http1Features => "HTTP1_FEATURES",
        Scenario::Http2 => "HTTP2",
        Scenario::Http1AsTcp => "HTTP1_AS_TCP",
        Scenario::TcpBulk => "TCP_BULK",
    };
    ports
        .iter()
        .map(|(scenario, port)| (word(*scenario), *port))
        .collect()
}

/// The `at`th word of the first line with any that `program` answers to `flag`.
fn ask_version(program: &Path, flag: &str, at: usize) -> String {
    let Ok(output) = std::process::Command::new(program).arg(flag).output() else {
        return String::new();
    };
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    let line = said.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or_default()
        .split([' ', '/'])
        .filter(|word| !word.is_empty())
        .nth(at)
        .unwrap_or_default()
        .to_owned()
}

/// The program that was found before.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    find_program(name).with_context(|| format!("{name} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_chosen_by_their_words_in_the_tables_order() {
        let chosen = parse_list("haproxy, remora").unwrap();
        let names: Vec<&str> = chosen.iter().map(|system| system.name).collect();
        assert_eq!(names, ["Remora", "HAProxy"]);
        let error = parse_list("remora,squid").unwrap_err().to_string();
        assert!(
            error.contains("squid") && error.contains("haproxy"),
            "{error}"
        );
    }
}
