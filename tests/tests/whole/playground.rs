//! `remora playground` with the demo shop, as the README's first command runs
//! it: it says that the mesh did what it should, and leaves nothing behind.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::capture::{Flows, between_pods};

/// One at a time: each takes the machine to itself, and loopback addresses are
/// the same for all. Trials in namespaces, which are small, share it with each other.
static STAGE: RwLock<()> = RwLock::new(());
/// How long what ends may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests a second, as the demo's YAML has them, and as they are here.
const FULL_RATE: &str = r#"{name: RATE, value: "1000"}"#;
const BUYERS_RATE: &str = r#"{name: RATE, value: "700"}"#;
const LOW_RATE: &str = r#"{name: RATE, value: "200"}"#;
/// Cart's limits, which a machine that stands still for a second would reach.
const CART_LIMITS: &str = ": 200\n";
/// How the playground ends what it says of a time that was too long.
const TOO_SLOW: &str = "is the most.";
/// Options of a run: with kills and revivals, and without.
const DEMO: [&str; 2] = ["--for", "10s"];
const STEADY: [&str; 4] = ["--scenario", "steady", "--for", "4s"];
/// Ways of connections that the shop has at the least.
const MANY: usize = 8;
/// A line of the demo's policy for its whole namespace.
const OF_ALL: &str = "  timeouts: {request: 5s}\n";
/// What the playground says where the machine gives no namespaces.
const NO_NAMESPACES: &str = "--isolation netns is not possible here";

#[test]
fn the_demo_shop_stays_whole_on_loopback_addresses() {
    let playground = Playground::run("loopback", &DEMO, "");
    playground.assert_ok();
    playground.assert_nothing_is_left();
}

#[test]
fn the_demo_shop_stays_whole_in_network_namespaces() {
    let playground = Playground::run("netns", &DEMO, "");
    if playground.is_impossible() {
        return;
    }
    playground.assert_ok();
    playground.assert_nothing_is_left();
    // Nobody has asked for mutual TLS.
    assert_all_is_tls(&playground.flows());
}

#[test]
fn in_strict_mode_nothing_travels_in_plaintext_either() {
    let playground = Playground::run("netns", &STEADY, "  mtls: {mode: Strict}\n");
    if playground.is_impossible() {
        return;
    }
    playground.assert_carried();
    assert_all_is_tls(&playground.flows());
}

/// Else the capture might have seen nothing.
#[test]
fn where_mutual_tls_is_disabled_the_capture_shows_what_is_said() {
    let playground = Playground::run("netns", &STEADY, "  mtls: {mode: Disabled}\n");
    if playground.is_impossible() {
        return;
    }
    playground.assert_carried();
    let flows = playground.flows();
    // Multiplexed, so that of heads little can be read; of bodies all.
    for words in SAID {
        let is_said = |flow: &Vec<Vec<u8>>| flow.iter().any(|bytes| contains(bytes, words));
        assert!(flows.values().any(is_said), "no {words:?} was captured");
    }
}

/// What two sidecars say to each other in plaintext, and the shop's programs.
const SAID: [&str; 3] = ["\0remora-h2", "\"products\"", "inventory ready"];

/// Each way of each connection begins with a record of TLS's handshake (RFC
/// 8446, section 5.1), and nothing says what the shop's programs say.
fn assert_all_is_tls(flows: &Flows) {
    assert!(flows.len() > MANY, "{} flows were captured", flows.len());
    for (ends, flow) in flows {
        let begin = &flow[0][..flow[0].len().min(40)];
        assert!(
            begin.starts_with(&[22, 3]),
            "{ends:?} begins with {:?}",
            String::from_utf8_lossy(begin)
        );
        let of_http = ["HTTP/1.", "PRI * HTTP/2", "GET /", "POST /", "catalog"];
        for words in of_http.into_iter().chain(SAID) {
            assert!(
                !flow.iter().any(|bytes| contains(bytes, words)),
                "{ends:?} says {words:?}"
            );
        }
    }
}

fn contains(bytes: &[u8], words: &str) -> bool {
    bytes
        .windows(words.len())
        .any(|window| window == words.as_bytes())
}

/// A playground that has ended.
pub struct Playground {
    isolation: &'static str,
    program: PathBuf,
    runtime: PathBuf,
    output: Output,
    capture: PathBuf,
    _place: tempfile::TempDir,
}

impl Playground {
    /// `settings`: more lines of the policy for the whole namespace.
    pub fn run(isolation: &'static str, options: &[&str], settings: &str) -> Self {
        let _alone = STAGE.write().unwrap_or_else(PoisonError::into_inner);
        let place = tempfile::tempdir().unwrap();
        copy_demo(&place.path().join("manifests"), settings);
        let capture = (isolation == "netns").then_some("stage.pcap");
        Self::run_in(place, isolation, options, capture)
    }

    /// A trial: of the shop no more than it needs, beside other trials where pods have
    /// namespaces.
    pub fn trial(isolation: &'static str, scenario: &str) -> Self {
        let (_alone, _shared) = match isolation {
            "netns" => {
                let shared = STAGE.read().unwrap_or_else(PoisonError::into_inner);
                (None, Some(shared))
            }
            _ => {
                let alone = STAGE.write().unwrap_or_else(PoisonError::into_inner);
                (Some(alone), None)
            }
        };
        let place = tempfile::tempdir().unwrap();
        copy_little(&place.path().join("manifests"));
        Self::run_in(place, isolation, &["--scenario", scenario], None)
    }

    fn run_in(
        place: tempfile::TempDir,
        isolation: &'static str,
        options: &[&str],
        capture: Option<&str>,
    ) -> Self {
        // A copy of the program: its path marks every process of this run.
        let program = place.path().join("remora");
        fs::copy(env!("CARGO_BIN_EXE_remora-under-test"), &program).unwrap();
        let runtime = place.path().join("runtime");
        fs::create_dir(&runtime).unwrap();
        let manifests = place.path().join("manifests");
        copy_scenarios(&manifests.join("scenarios"));
        let file = place.path().join(capture.unwrap_or_default());
        let output = Command::new(&program)
            .args(["playground", "--json", "--isolation", isolation])
            .args(options)
            .arg("--manifests")
            .arg(&manifests)
            .args(capture.map(|_| format!("--capture={}", file.display())))
            .env("XDG_RUNTIME_DIR", &runtime)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Self {
            isolation,
            program,
            runtime,
            output,
            capture: file,
            _place: place,
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Where the machine gives no namespaces it says so.
    pub fn is_impossible(&self) -> bool {
        if !self.said().contains(NO_NAMESPACES) {
            return false;
        }
        assert!(
            std::env::var_os("REMORA_REQUIRE_NETNS").is_none(),
            "{}",
            self.said()
        );
        // Not by `eprintln!`, whose words libtest keeps to itself.
        let words = format!("\nSKIPPED (nothing was tested): {}\n", self.said());
        std::io::stderr().write_all(words.as_bytes()).unwrap();
        true
    }

    /// What was captured between its pods.
    fn flows(&self) -> Flows {
        between_pods(&self.capture)
    }

    /// The load was carried, and nothing of it failed.
    fn assert_carried(&self) {
        let text = String::from_utf8_lossy(&self.output.stdout);
        let told = format!("{}\n{text}\n{}", self.output.status, self.said());
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{told}"));
        assert!(json["requests"].as_u64().unwrap() > 100, "{told}");
        assert_eq!(json["failed"], 0, "{told}");
    }

    /// All that does not depend on speed. How fast it must be (within which
    /// time a breaker opens, a policy is in force) is for the release build on
    /// a machine of its own: `.ci/run` plays it.
    fn assert_ok(&self) {
        let text = String::from_utf8_lossy(&self.output.stdout);
        let told = format!("{}\n{text}\n{}", self.output.status, self.said());
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{told}"));
        let failures = json["failures"]
            .as_array()
            .unwrap_or_else(|| panic!("{told}"));
        let is_slow = |failure: &Value| failure.as_str().unwrap().ends_with(TOO_SLOW);
        assert!(failures.iter().all(is_slow), "{told}");
        assert_eq!(json["ok"], failures.is_empty(), "{told}");
        assert_eq!(self.output.status.success(), failures.is_empty(), "{told}");
        assert_eq!(json["isolation"], self.isolation, "{told}");
        assert_eq!(json["failed"], 0, "{told}");
        for count in ["opened", "half_opened", "closed"] {
            assert!(json["breaker"][count].as_u64().unwrap() > 0, "{told}");
        }
    }

    /// The stages of a scenario of routes, of which nothing was wrong.
    pub fn stages(&self) -> Vec<Value> {
        let text = String::from_utf8_lossy(&self.output.stdout);
        let told = format!("{}\n{text}\n{}", self.output.status, self.said());
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{told}"));
        let problems = json["problems"].as_array();
        let problems = problems.unwrap_or_else(|| panic!("{told}"));
        let is_slow = |problem: &Value| problem.as_str().unwrap().ends_with(TOO_SLOW);
        assert!(problems.iter().all(is_slow), "{problems:#?}\n{told}");
        json["stages"].as_array().cloned().unwrap_or_default()
    }

    /// What a trial came to, all of whose claims held.
    #[track_caller]
    pub fn verdict(&self) -> Value {
        let text = String::from_utf8_lossy(&self.output.stdout);
        let told = format!("{}\n{text}\n{}", self.output.status, self.said());
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{told}"));
        let problems = json["problems"].as_array();
        let problems = problems.unwrap_or_else(|| panic!("{told}"));
        assert!(problems.is_empty(), "{problems:#?}\n{}", json["trial"]);
        assert_eq!(json["ok"], true, "{told}");
        json["trial"].clone()
    }

    pub fn assert_nothing_is_left(&self) {
        let begin = Instant::now();
        loop {
            let (processes, files) = (self.processes(), files(&self.runtime));
            if processes.is_empty() && files.is_empty() {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "left behind: {processes:?} {files:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Processes that still run our copy of the program.
    fn processes(&self) -> Vec<PathBuf> {
        let mut found = files(Path::new("/proc"));
        found.retain(|process| {
            fs::read_link(process.join("exe")).is_ok_and(|program| program == self.program)
        });
        found
    }
}

/// The demo shop's YAML, with a load that unoptimized code can bear on a machine
/// that other tests use too; the full one is for the release build.
fn copy_demo(to: &Path, settings: &str) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::create_dir(to).unwrap();
    for file in files(&top.join("manifests/demo")) {
        if file.is_dir() {
            continue;
        }
        // Who has no identity may not have money taken, and the load waits for it.
        if settings.contains("Disabled") && file.ends_with("authorization.yaml") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let text = text
            .replace(FULL_RATE, LOW_RATE)
            .replace(CART_LIMITS, ": 5000\n");
        fs::write(to.join(file.file_name().unwrap()), text).unwrap();
    }
    let policies = fs::read_to_string(to.join("policies.yaml")).unwrap();
    assert!(policies.contains(OF_ALL), "no place for it in {policies}");
    let policies = policies.replacen(OF_ALL, &format!("{OF_ALL}{settings}"), 1);
    fs::write(to.join("policies.yaml"), policies).unwrap();
    let visitor = fs::read_to_string(to.join("visitor.yaml")).unwrap();
    assert!(visitor.contains(LOW_RATE), "no rate in {visitor}");
}

/// The namespace and its defaults: what a trial stands on.
fn copy_little(to: &Path) {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
    fs::create_dir(to).unwrap();
    let namespace = fs::read_to_string(demo.join("namespace.yaml")).unwrap();
    fs::write(to.join("namespace.yaml"), namespace).unwrap();
    let policies = fs::read_to_string(demo.join("policies.yaml")).unwrap();
    let (defaults, _) = policies.split_once("\n---\n").unwrap();
    fs::write(to.join("policies.yaml"), format!("{defaults}\n")).unwrap();
}

/// The scenarios' YAML, likewise.
fn copy_scenarios(to: &Path) {
    fs::create_dir(to).unwrap();
    fs::write(to.join(".remora-ignore"), "").unwrap();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for folder in files(&top.join("manifests/demo/scenarios")) {
        if !folder.is_dir() {
            continue;
        }
        let copy = to.join(folder.file_name().unwrap());
        fs::create_dir_all(&copy).unwrap();
        for file in files(&folder) {
            let text = fs::read_to_string(&file).unwrap();
            let text = text.replace(BUYERS_RATE, LOW_RATE);
            fs::write(copy.join(file.file_name().unwrap()), text).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}
