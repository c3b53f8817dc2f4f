//! `remora playground` with the demo shop, as the README's first command runs
//! it: it says that the mesh did what it should, and leaves nothing behind.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One at a time: each takes the machine to itself, and loopback addresses are
/// the same for all.
static STAGE: Mutex<()> = Mutex::new(());
/// How long what ends may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests a second, as the demo's YAML has them, and as they are here.
const FULL_RATE: &str = r#"{name: RATE, value: "1000"}"#;
const LOW_RATE: &str = r#"{name: RATE, value: "200"}"#;
/// Cart's limits, which a machine that stands still for a second would reach.
const CART_LIMITS: &str = ": 200\n";
/// How the playground ends what it says of a time that was too long.
const TOO_SLOW: &str = "is the most.";
/// What the playground says where the machine gives no namespaces.
const NO_NAMESPACES: &str = "--isolation netns is not possible here";

#[test]
fn the_demo_shop_stays_whole_on_loopback_addresses() {
    let playground = Playground::run("loopback");
    playground.assert_ok();
    playground.assert_nothing_is_left();
}

#[test]
fn the_demo_shop_stays_whole_in_network_namespaces() {
    let playground = Playground::run("netns");
    if playground.said().contains(NO_NAMESPACES) {
        assert!(
            std::env::var_os("REMORA_REQUIRE_NETNS").is_none(),
            "{}",
            playground.said()
        );
        // Not by `eprintln!`, whose words libtest keeps to itself.
        let words = format!("\nSKIPPED (nothing was tested): {}\n", playground.said());
        std::io::stderr().write_all(words.as_bytes()).unwrap();
        return;
    }
    playground.assert_ok();
    playground.assert_nothing_is_left();
}

/// A playground that has ended.
struct Playground {
    isolation: &'static str,
    program: PathBuf,
    runtime: PathBuf,
    output: Output,
    _place: tempfile::TempDir,
}

impl Playground {
    fn run(isolation: &'static str) -> Self {
        let _alone = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let place = tempfile::tempdir().unwrap();
        // A copy of the program: its path marks every process of this run.
        let program = place.path().join("remora");
        fs::copy(env!("CARGO_BIN_EXE_remora-under-test"), &program).unwrap();
        let runtime = place.path().join("runtime");
        fs::create_dir(&runtime).unwrap();
        let manifests = place.path().join("manifests");
        copy_demo(&manifests);
        let output = Command::new(&program)
            .args([
                "playground",
                "--for",
                "10s",
                "--json",
                "--isolation",
                isolation,
            ])
            .arg("--manifests")
            .arg(&manifests)
            .env("XDG_RUNTIME_DIR", &runtime)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Self {
            isolation,
            program,
            runtime,
            output,
            _place: place,
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
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

    fn assert_nothing_is_left(&self) {
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
fn copy_demo(to: &Path) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::create_dir(to).unwrap();
    for file in files(&top.join("manifests/demo")) {
        let text = fs::read_to_string(&file).unwrap();
        let text = text
            .replace(FULL_RATE, LOW_RATE)
            .replace(CART_LIMITS, ": 5000\n");
        fs::write(to.join(file.file_name().unwrap()), text).unwrap();
    }
    let visitor = fs::read_to_string(to.join("visitor.yaml")).unwrap();
    assert!(visitor.contains(LOW_RATE), "no rate in {visitor}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}
