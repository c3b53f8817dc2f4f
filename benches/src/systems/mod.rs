//! The systems that are measured, as one table: [`ALL`].
//!
//! A new one is a file here with a `start` function, and a line in the table.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::h2load::Http2Load;
use crate::identity::Identities;
use crate::proc_stat::{self, CpuTime};
use crate::process::{self, Cores, Process, find_program, free_port, loopback};
use crate::scenario::Scenario;
use remora::Role;

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

/// The address of Remora's first pod where there is one stage.
const POD: Ipv4Addr = Ipv4Addr::new(127, 88, 1, 1);

/// What the systems of one run stand on; it ends with it.
#[derive(Debug)]
pub struct Ground {
    /// What every system is started with.
    pub stage: Stage,
    // Before the folder, because it writes there.
    _upstream: Process,
    _folder: TempDir,
}

impl Ground {
    /// Pins the harness to the load's core, and starts the upstreams there.
    ///
    /// # Errors
    /// When the machine has too few cores, or an upstream does not start.
    pub fn start(
        remora: &remora::Programs,
        envoy: Option<&Path>,
        http2: Http2Load,
    ) -> anyhow::Result<Self> {
        let cores = Cores::find()?;
        process::pin(cores.load)?;
        let folder = tempfile::tempdir()?;
        let identities = Identities::make(folder.path())?;
        let (upstream, ports) = upstream::start(cores, folder.path(), &identities)?;
        Ok(Self {
            stage: Stage {
                dir: folder.path().to_owned(),
                cores,
                upstream: ports,
                pod: POD,
                remora: remora.clone(),
                envoy: envoy.map(Path::to_owned),
                http2,
                identities,
            },
            _upstream: upstream,
            _folder: folder,
        })
    }
}

/// What every system is started with.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Where files of this run lie; removed at its end.
    pub dir: PathBuf,
    /// Which core is whose.
    pub cores: Cores,
    /// The upstreams, on 127.0.0.1.
    pub upstream: upstream::Ports,
    /// The address of Remora's first pod: a loopback address that no other system
    /// uses. See [`Role`] for the others'.
    pub pod: Ipv4Addr,
    /// Remora's own programs.
    pub remora: remora::Programs,
    /// Envoy, where it is not to be fetched.
    pub envoy: Option<PathBuf>,
    /// The load of HTTP/2.
    pub http2: Http2Load,
    /// Who they are to each other, where they speak TLS.
    pub identities: Identities,
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
        let certificates = self.identities.folder().to_string_lossy();
        let last = self.pod.octets()[3];
        let [callee, far_caller, far_callee] =
            [Role::Callee, Role::FarCaller, Role::FarCallee].map(|role| role.address(self.pod));
        let mut all: Vec<(&str, &dyn Display)> = vec![
            ("DIR", &dir),
            ("CERTIFICATES", &certificates),
            ("POD", &self.pod),
            ("STAGE", &last),
            ("CALLEE", &callee),
            ("FAR_CALLER", &far_caller),
            ("FAR_CALLEE", &far_callee),
            ("UPSTREAM", &self.upstream.http1),
            ("UPSTREAM_HTTP2", &self.upstream.http2),
            ("UPSTREAM_TLS", &self.upstream.tls),
            ("UPSTREAM_BULK", &self.upstream.bulk),
            ("UPSTREAM_BULK_HTTP", &self.upstream.bulk_http),
            ("UPSTREAM_BULK_TLS", &self.upstream.bulk_tls),
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
    /// The processes whose CPU time it costs; none where there is nothing
    /// between load and upstream.
    pub pids: Vec<u32>,
}

/// Where a system takes mutual TLS with HTTP/1.1 in it.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Its address.
    pub address: SocketAddr,
    /// What is named by ALPN.
    pub alpn: &'static str,
    /// The process that is measured.
    pub pid: u32,
}

/// A system that runs.
#[derive(Debug)]
pub struct Running {
    /// What is measured in most scenarios; none where there is nothing between
    /// load and upstream.
    pub measured: Option<Process>,
    /// What it needs beside it.
    pub helpers: Vec<Process>,
    /// What it can do.
    pub targets: Vec<Target>,
    /// Where it takes mutual TLS itself.
    pub door: Option<Door>,
}

impl Running {
    /// Where `scenario` is to be had, if it can do it.
    pub fn target(&self, scenario: Scenario) -> Option<&Target> {
        self.targets
            .iter()
            .find(|target| target.scenario == scenario)
    }

    /// CPU time of what a target costs, so far.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn spent(target: &Target) -> anyhow::Result<Option<CpuTime>> {
        let spent = target.pids.iter().map(|pid| proc_stat::cpu_time(*pid));
        let spent: Vec<CpuTime> = spent.collect::<anyhow::Result<_>>()?;
        Ok(spent.into_iter().reduce(CpuTime::plus))
    }

    /// # Errors
    /// When one of its processes has ended; with what it said.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        let mut all = self.measured.iter_mut().chain(&mut self.helpers);
        all.try_for_each(Process::check_alive)
    }

    /// `process`, which serves each scenario on the port beside it, when it does.
    fn on_ports(mut process: Process, ports: &[(Scenario, u16)]) -> anyhow::Result<Self> {
        let targets: Vec<Target> = ports
            .iter()
            .map(|(scenario, port)| Target {
                scenario: *scenario,
                address: loopback(*port),
                host: "plain",
                pids: vec![process.id()],
            })
            .collect();
        for target in &targets {
            process.wait_for(target.address, PATIENCE)?;
        }
        Ok(Self {
            measured: Some(process),
            helpers: Vec::new(),
            targets,
            door: None,
        })
    }

    /// It takes mutual TLS at `doors` (see [`doors`]); what calls it there is a
    /// HAProxy on the load's core, plaintext in and mutual TLS out, so that any
    /// generator will do. Where that is missing, the scenarios are.
    fn with_doors(mut self, stage: &Stage, doors: [u16; 2], name: &str) -> anyhow::Result<Self> {
        let Some(process) = &self.measured else {
            return Ok(self);
        };
        let (address, pid) = (loopback(doors[0]), process.id());
        self.door = Some(Door {
            address,
            alpn: "http/1.1",
            pid,
        });
        if let Some((mut caller, ways)) = haproxy::caller(stage, doors, name)? {
            for (scenario, address) in [Scenario::MtlsIn, Scenario::MtlsBulkIn]
                .into_iter()
                .zip(ways)
            {
                caller.wait_for(address, PATIENCE)?;
                self.targets.push(Target {
                    scenario,
                    address,
                    host: "plain",
                    pids: vec![pid],
                });
            }
            self.helpers.push(caller);
        }
        Ok(self)
    }
}

/// A free port for each of `scenarios`, and what configurations call it.
fn ports(scenarios: &[Scenario]) -> anyhow::Result<Vec<(Scenario, u16)>> {
    scenarios
        .iter()
        .map(|scenario| Ok((*scenario, free_port()?)))
        .collect()
}

/// Free ports where a system takes mutual TLS, the second for large answers; adds
/// what configurations call these, and those between two of its own ports.
fn doors(values: &mut Vec<(&'static str, u16)>) -> anyhow::Result<[u16; 2]> {
    let doors = [free_port()?, free_port()?];
    values.extend([
        ("MTLS_IN", doors[0]),
        ("MTLS_BULK_IN", doors[1]),
        ("BETWEEN", free_port()?),
        ("BETWEEN_BULK", free_port()?),
    ]);
    Ok(doors)
}

/// The words for `ports` in configurations: `HTTP1_FEATURES`.
fn words(ports: &[(Scenario, u16)]) -> Vec<(&'static str, u16)> {
    let word = |scenario| match scenario {
        Scenario::Http1 => "HTTP1",
        Scenario::Http1Features => "HTTP1_FEATURES",
        Scenario::Http2 => "HTTP2",
        Scenario::Http1AsTcp => "HTTP1_AS_TCP",
        Scenario::TcpBulk => "TCP_BULK",
        Scenario::MtlsOut => "MTLS_OUT",
        Scenario::MtlsIn => "MTLS_IN",
        Scenario::MtlsPair => "MTLS_PAIR",
        Scenario::MtlsBulk => "MTLS_BULK",
        Scenario::MtlsBulkOut => "MTLS_BULK_OUT",
        Scenario::MtlsBulkIn => "MTLS_BULK_IN",
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
