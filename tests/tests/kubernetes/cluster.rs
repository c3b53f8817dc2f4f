//! The cluster, as `kubectl` sees it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// One test at a time: they share the cluster, and two cores.
static ALONE: Mutex<()> = Mutex::new(());
/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// For so long something is read again that could not be read.
const READ_SECONDS: u64 = 4;

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// `kubectl proxy`, which ends with this process.
static PROXY: OnceLock<Proxy> = OnceLock::new();

/// `kubectl proxy`: the API server at an address of this machine, without the
/// start of a process for each question.
struct Proxy {
    address: String,
    _child: Child,
}

impl Proxy {
    fn start() -> Self {
        // Its end is this process's: the shell ends when its input does.
        let script = "kubectl proxy --port=0 & proxy=$!; read -r _; kill $proxy";
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(address.contains(':'), "kubectl proxy said {line:?}");
        Self {
            address,
            _child: child,
        }
    }
}

/// A cluster that may be used.
pub struct Cluster {
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// The cluster of `KUBECONFIG`; without one this says so, and gives none.
    pub fn take() -> Option<Self> {
        if std::env::var_os("KUBECONFIG").is_none() {
            // Not by `eprintln!`, whose words libtest keeps to itself.
            let words =
                b"\nSKIPPED (nothing was tested): no KUBECONFIG; see tests/kube/README.md\n";
            std::io::stderr().write_all(words).unwrap();
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self { _alone: alone })
    }

    /// What `kubectl` prints; the test ends where it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        match self.try_kubectl(arguments, None) {
            Ok(said) => said,
            Err(said) => panic!("kubectl {}: {said}", arguments.join(" ")),
        }
    }

    /// What `kubectl` prints, or what it says of its failure.
    pub fn try_kubectl(&self, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
        let mut command = Command::new("kubectl");
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("kubectl: {error}"))?;
        let mut pipe = child.stdin.take().unwrap();
        // An early end of kubectl closes the pipe; its words say why.
        let _ = pipe.write_all(input.unwrap_or_default().as_bytes());
        drop(pipe);
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&stdout).into_owned();
        if status.success() {
            Ok(said)
        } else {
            Err(format!("{said}{}", String::from_utf8_lossy(&stderr)))
        }
    }

    /// Applies YAML.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        if let Err(said) = self.try_kubectl(&["apply", "-f", "-"], Some(yaml)) {
            panic!("kubectl apply: {said}\n{yaml}");
        }
    }

    /// What `kubectl get ... -o json` gives. An API server that is short of breath for a
    /// moment is asked again: what is read may be read twice.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let all = [arguments, &["-o", "json"]].concat();
        let what = format!("kubectl {} answers", all.join(" "));
        let said = eventually(READ_SECONDS, &what, || self.try_kubectl(&all, None));
        serde_json::from_str(&said).unwrap()
    }

    /// What the API server has at a path.
    pub fn get(&self, path: &str) -> Result<String, String> {
        self.ask("GET", path)
    }

    fn ask(&self, method: &str, path: &str) -> Result<String, String> {
        let proxy = PROXY.get_or_init(Proxy::start);
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&proxy.address)?;
            stream.set_read_timeout(Some(ANSWER))?;
            // Of version 1.0, so that the answer has no chunks and an end.
            write!(
                stream,
                "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            )?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = ask().map_err(|error| format!("{path}: {error}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        match head.split(' ').nth(1) {
            Some("200") => Ok(body.to_owned()),
            _ => Err(format!(
                "{path}: {} {body}",
                head.lines().next().unwrap_or_default()
            )),
        }
    }

    /// What the API server has at a path, read.
    pub fn object(&self, path: &str) -> Result<Value, String> {
        let said = self.get(path)?;
        serde_json::from_str(&said).map_err(|error| format!("{path}: {error}: {said}"))
    }

    /// What a pod serves at a port, by the API server's proxy.
    pub fn served(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<Value, String> {
        self.object(&format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}"
        ))
    }

    /// What a pod answers when it is told something at a port, likewise.
    pub fn told(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Value, String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let said = self.ask("POST", &path)?;
        serde_json::from_str(&said).map_err(|error| format!("{path}: {error}: {said}"))
    }

    /// The pods that a selector finds, those that are ending not counted.
    #[track_caller]
    pub fn pods(&self, namespace: &str, selector: &str) -> Vec<Value> {
        let listed = self.json(&["get", "pods", "-n", namespace, "-l", selector]);
        let pods = listed["items"].as_array().unwrap().iter();
        pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .cloned()
            .collect()
    }

    /// The name of the only pod that a selector finds.
    #[track_caller]
    pub fn pod(&self, namespace: &str, selector: &str) -> String {
        let pods = self.pods(namespace, selector);
        assert_eq!(pods.len(), 1, "pods of {selector} in {namespace}");
        pods[0]["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// Waits for a Deployment's or StatefulSet's roll-out.
    #[track_caller]
    pub fn rolled_out(&self, namespace: &str, what: &str) {
        self.kubectl(&["rollout", "status", "-n", namespace, what, "--timeout=180s"]);
    }
}

/// Looks until there is an answer.
#[track_caller]
pub fn eventually<T>(seconds: u64, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) => assert!(
                begin.elapsed() < Duration::from_secs(seconds),
                "not within {seconds} s: {what}; instead: {instead}"
            ),
        }
        std::thread::sleep(LOOK);
    }
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis().try_into().unwrap()
}

/// Whether every container of a pod is ready, native sidecars among them.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// The middle one.
pub fn median(mut values: Vec<i64>) -> i64 {
    values.sort_unstable();
    values[values.len() / 2]
}
