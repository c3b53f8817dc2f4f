//! `remora playground` as a process: what it leaves behind (nothing) and what
//! it says to bad input. Its pods here are `sleep`s without sidecars: the mesh
//! itself is tested as a whole elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where its ground is missing"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a stage may take to stand, and to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

const SLEEPERS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleeper, namespace: quiet}
spec:
  replicas: 2
  selector: {matchLabels: {app: sleeper}}
  template:
    metadata: {labels: {app: sleeper}}
    spec:
      containers:
        - name: sleep
          command: [sleep, '600']
          env: [{name: MARK, value: '@MARK@'}]
---
apiVersion: v1
kind: Service
metadata: {name: sleeper, namespace: quiet}
spec:
  selector: {app: sleeper}
  ports: [{port: 80}]
";

/// A folder of YAML, and a runtime folder whose name marks every process.
struct Place {
    _root: tempfile::TempDir,
    manifests: PathBuf,
    runtime: PathBuf,
}

impl Place {
    fn new(extra_yaml: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (manifests, runtime) = (root.path().join("manifests"), root.path().join("runtime"));
        fs::create_dir(&manifests).unwrap();
        fs::create_dir(&runtime).unwrap();
        let text = SLEEPERS.replace("@MARK@", runtime.to_str().unwrap());
        fs::write(manifests.join("sleepers.yaml"), text).unwrap();
        if !extra_yaml.is_empty() {
            fs::write(manifests.join("extra.yaml"), extra_yaml).unwrap();
        }
        Self {
            _root: root,
            manifests,
            runtime,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command
            .arg("playground")
            .args(["--manifests".as_ref(), self.manifests.as_os_str()])
            .args(arguments);
        command
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts a playground and waits until its pods run.
    fn start(&self, arguments: &[&str]) -> (Child, BufReader<ChildStderr>) {
        let mut child = self.command(arguments).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut all = String::new();
        while !all.contains("pods are ready") {
            assert!(
                lines.read_line(&mut all).unwrap() > 0,
                "it ended early: {all}"
            );
        }
        (child, lines)
    }

    /// Processes that carry our mark, by command line.
    fn processes(&self) -> Vec<String> {
        let mark = self.runtime.to_str().unwrap().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.windows(mark.len()).any(|window| window == mark) {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push(String::from_utf8_lossy(&line).replace('\0', " "));
            }
        }
        found
    }

    fn assert_nothing_is_left(&self) {
        let begin = now();
        loop {
            let processes = self.processes();
            let files: Vec<_> = fs::read_dir(&self.runtime)
                .unwrap()
                .flatten()
                .map(|entry| entry.path())
                .collect();
            if processes.is_empty() && files.is_empty() {
                return;
            }
            assert!(
                now() - begin < PATIENCE,
                "left behind: {processes:#?} {files:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a test's own patience")]
fn now() -> Instant {
    Instant::now()
}

fn can_make_namespaces() -> bool {
    let probe = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["stage", "probe"])
        .output()
        .unwrap();
    if !probe.status.success() {
        eprintln!(
            "NOT TESTED with network namespaces: {}",
            String::from_utf8_lossy(&probe.stderr)
        );
    }
    probe.status.success()
}

fn ends_clean(isolation: &str, signal: Signal) {
    let place = Place::new("");
    let (mut child, mut lines) = place.start(&["--json", "--isolation", isolation]);
    let running = place.processes();
    assert!(
        running
            .iter()
            .filter(|line| line.contains("sleep 600"))
            .count()
            >= 2,
        "{running:#?}"
    );
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let status = child.wait().unwrap();
    let mut out = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    if signal != Signal::SIGKILL {
        let report: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {rest}"));
        assert_eq!(report["isolation"], isolation);
        assert!(!status.success(), "without load it cannot be good");
    }
    place.assert_nothing_is_left();
}

#[test]
fn in_namespaces_nothing_is_left_behind() {
    if can_make_namespaces() {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
            ends_clean("netns", signal);
        }
    }
}

/// One test, because loopback stages share their addresses.
#[test]
fn on_loopback_nothing_is_left_behind_and_a_taken_port_is_named() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        ends_clean("loopback", signal);
    }
    let _taken = TcpListener::bind("127.77.0.1:15110").unwrap();
    let place = Place::new("");
    let output = place.run(&["--json", "--isolation", "loopback"]);
    assert_refused(&output, "127.77.0.1:15110 is taken");
    place.assert_nothing_is_left();
}

#[test]
fn pods_follow_the_yaml_and_orders_from_elsewhere() {
    if !can_make_namespaces() {
        return;
    }
    let place = Place::new("");
    let (mut child, _lines) = place.start(&["--json", "--isolation", "netns"]);
    let sleeping = |count: usize| {
        let begin = now();
        while place
            .processes()
            .iter()
            .filter(|line| line.starts_with("sleep 600"))
            .count()
            != count
        {
            assert!(
                now() - begin < PATIENCE,
                "not {count}: {:#?}",
                place.processes()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    sleeping(2);
    let file = place.manifests.join("sleepers.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("replicas: 2", "replicas: 4")).unwrap();
    sleeping(4);
    let tell = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command
            .arg("playground")
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &place.runtime)
            .output()
            .unwrap()
    };
    assert!(tell(&["kill", "sleeper-3"]).status.success());
    sleeping(3);
    assert_refused(&tell(&["kill", "sleeper-3"]), "already killed");
    assert_refused(
        &tell(&["kill", "nobody-1"]),
        "there are sleeper-1, sleeper-2",
    );
    assert_refused(&tell(&["slow", "sleeper-1"]), "no port to be told by");
    assert!(tell(&["revive", "sleeper-3"]).status.success());
    sleeping(4);
    fs::write(&file, text.replace("replicas: 2", "replicas: none")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    sleeping(4);
    fs::write(&file, text.replace("replicas: 2", "replicas: 1")).unwrap();
    sleeping(1);
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    child.wait().unwrap();
    place.assert_nothing_is_left();
}

fn assert_refused(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(expected), "{expected:?} is not in {said:?}");
}

#[test]
fn bad_input_is_named() {
    let place = Place::new("");
    assert_refused(&place.run(&["--scenario", "tragedy"]), "tragedy");
    assert_refused(&place.run(&["--for", "soon"]), "soon");
    assert_refused(&place.run(&[]), "--json");
    let nowhere = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["playground", "--json", "--manifests", "/nowhere"])
        .output()
        .unwrap();
    assert_refused(&nowhere, "--manifests DIR");
    let order = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["playground", "kill", "web-1"])
        .env("XDG_RUNTIME_DIR", &place.runtime)
        .output()
        .unwrap();
    assert_refused(&order, "no playground of this user runs");
    let empty = tempfile::tempdir().unwrap();
    assert_refused(&place.run_in(empty.path()), "no .yaml");
}

impl Place {
    fn run_in(&self, folder: &Path) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args([
            "playground".as_ref(),
            "--json".as_ref(),
            "--manifests".as_ref(),
            folder.as_os_str(),
        ]);
        command.output().unwrap()
    }
}

#[test]
fn a_broken_deployment_is_named_with_file_and_line() {
    if !can_make_namespaces() {
        return;
    }
    let broken = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad, namespace: quiet}\nspec:\n  replicas: lots\n";
    let place = Place::new(broken);
    let output = place.run(&["--json", "--for", "3s", "--isolation", "netns"]);
    assert!(!output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let problems = report["problems"].to_string();
    assert!(problems.contains("extra.yaml:5"), "{problems}");
    place.assert_nothing_is_left();
}
