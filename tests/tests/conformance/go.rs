//! The programs in `tests/go`: built once, and run.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// Building takes half a minute where nothing is cached.
const BUILD: Duration = Duration::from_secs(540);

/// The program, or why it cannot be had here.
fn built() -> &'static Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
        // What the machine lacks shows here: Go, a Go that is new enough, the modules.
        let had = go(&["mod", "download"]).map_err(|error| format!("no Go: {error}"))?;
        if !had.status.success() {
            return Err(format!("go mod download: {}", said(&had)));
        }
        let program_text = program.to_str().unwrap();
        let output = go(&["build", "-o", program_text, "."]).unwrap();
        assert!(output.status.success(), "go build: {}", said(&output));
        Ok(program)
    })
}

fn go(arguments: &[&str]) -> std::io::Result<Output> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
    // `timeout` bounds what a network that swallows packets would hold up.
    Command::new("timeout")
        .arg(BUILD.as_secs().to_string())
        .arg("go")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
}

fn said(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&all).trim().replace('\n', "; ")
}

/// Whether the program can be had; says SKIPPED where it cannot.
pub fn is_here() -> bool {
    let Err(reason) = built() else { return true };
    assert!(std::env::var_os("REMORA_REQUIRE_GO").is_none(), "{reason}");
    // Not by `eprintln!`, whose words libtest keeps to itself.
    let words = format!("\nSKIPPED (nothing was tested): {reason}\n");
    std::io::stderr().write_all(words.as_bytes()).unwrap();
    false
}

/// A command of the program.
pub fn program(command: &str) -> Command {
    let mut program = Command::new(built().as_ref().unwrap());
    program.arg(command);
    program
}

/// The application behind a sidecar; it ends with its owner.
pub struct Application {
    child: Child,
    /// It ends when this does.
    _stdin: ChildStdin,
}

impl Application {
    /// Listens when this returns: HTTP on the `plain` addresses, gRPC on `grpc`.
    pub fn start(plain: &[String], grpc: &str) -> Self {
        let mut child = program("serve")
            .args(["--h2c", &plain.join(","), "--grpc", grpc])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "listening\n", "the application did not start");
        Self {
            child,
            _stdin: stdin,
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
