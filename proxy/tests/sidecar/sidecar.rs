//! The sidecar as a process, and its admin endpoint.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::authority::{self, Authority};
use crate::client::{Answer, Client};
use crate::mesh::Net;
use crate::process::Process;
use crate::{eventually, soon};

/// What a test asks of its sidecar.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data workers.
    pub workers: usize,
    /// Whether requests are logged.
    pub access_log: bool,
    /// The pod's ports.
    pub inbound: &'static str,
    /// REMORA_DRAIN_TIMEOUT
    pub drain_timeout: &'static str,
    /// The last byte of its pod's address; the application's is one more.
    pub host: u8,
    /// Whose certificates it uses; without one it has no identity.
    pub authority: Option<Authority>,
    /// REMORA_PROBES
    pub probes: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            access_log: false,
            inbound: "8080,7000",
            drain_timeout: "5s",
            host: 1,
            authority: None,
            probes: "",
        }
    }
}

/// The sidecar under test: the one that was built with the tests, or another
/// build of the same sources, such as the release build of a soak.
fn program() -> OsString {
    std::env::var_os("REMORA_TEST_PROXY")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_remora-proxy").into())
}

/// A running sidecar; killed on drop.
#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    net: Net,
    host: u8,
    folder: tempfile::TempDir,
}

impl Sidecar {
    /// Starts the process. Its pod has the address `.1` and its application `.2`
    /// where the options say nothing else.
    pub async fn start(net: Net, control_plane: &str, options: Options) -> Self {
        let host = options.host;
        let folder = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(folder.path().join("stderr")).unwrap();
        let access_log = match options.access_log {
            true => folder.path().join("access").display().to_string(),
            false => "off".to_owned(),
        };
        let mut command = Command::new(program());
        command.env_clear();
        if let Some(authority) = &options.authority {
            let (token, roots) = (folder.path().join("token"), folder.path().join("ca.crt"));
            std::fs::write(&token, format!("web-{host}\n")).unwrap();
            std::fs::write(&roots, authority.roots_pem()).unwrap();
            command
                .env("REMORA_TRUST_DOMAIN", authority::TRUST_DOMAIN)
                .env("REMORA_TOKEN_FILE", token)
                .env("REMORA_TRUST_FILE", roots);
        }
        let child = command
            .env("REMORA_NAMESPACE", "shop")
            .env("REMORA_POD", format!("web-{host}"))
            .env("REMORA_POD_UID", format!("uid-web-{host}"))
            .env("REMORA_POD_IPS", net.ip(host).to_string())
            .env("REMORA_CONTROL_PLANE", control_plane)
            .env("REMORA_MODE", "explicit")
            .env("REMORA_EXPLICIT_INBOUND", options.inbound)
            .env("REMORA_APP_ADDRESS", net.ip(host + 1).to_string())
            .env("REMORA_OUTBOUND_LISTEN", format!("{}:15101", net.ip(host)))
            .env("REMORA_ADMIN_LISTEN", format!("{}:15120", net.ip(host)))
            .env("REMORA_PROBE_LISTEN", format!("{}:15121", net.ip(host)))
            .env("REMORA_PROBES", options.probes)
            .env("REMORA_CONCURRENCY", options.workers.to_string())
            .env("REMORA_DRAIN_TIMEOUT", options.drain_timeout)
            .env("REMORA_ACCESS_LOG", access_log)
            .env("REMORA_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let sidecar = Self {
            child,
            net,
            host,
            folder,
        };
        eventually("the sidecar listens", async || {
            tokio::net::TcpStream::connect(sidecar.admin())
                .await
                .is_ok()
        })
        .await;
        sidecar
    }

    /// Its outbound listener.
    pub fn outbound(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(self.host), 15101)
    }

    /// One of its pod's ports.
    pub fn inbound(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.net.ip(self.host), port)
    }

    /// Its admin endpoint.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(self.host), 15120)
    }

    /// The process, as the kernel sees it.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// `GET path` at the admin endpoint.
    pub async fn get(&self, path: &str) -> Answer {
        let mut client = Client::connect(self.admin()).await;
        client.get("admin", path).await
    }

    /// The JSON at `path` of the admin endpoint.
    pub async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.get(path).await.body).unwrap()
    }

    /// The value of a counter, all its samples whose labels hold `labels` together.
    pub async fn counter(&self, name: &str, labels: &str) -> u64 {
        let text = self.get("/metrics").await.text();
        let samples = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(labels));
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Completes when `/ready` says so.
    pub async fn until_ready(&self) {
        eventually("the sidecar is ready", async || {
            self.get("/ready").await.status == 200
        })
        .await;
    }

    /// The `/breakers` entry of an endpoint of `shop/catalog`.
    pub async fn breaker(&self, endpoint: &str) -> Value {
        let service = self.service_breaker().await;
        let endpoints = service["endpoints"].as_array().unwrap();
        let found = endpoints.iter().find(|entry| entry["endpoint"] == endpoint);
        found.unwrap_or(&Value::Null).clone()
    }

    /// The `/breakers` entry of `shop/catalog`.
    pub async fn service_breaker(&self) -> Value {
        let breakers = self.json("/breakers").await;
        let services = breakers["services"].as_array().unwrap();
        let found = services
            .iter()
            .find(|entry| entry["service"] == "shop/catalog");
        found.unwrap_or(&Value::Null).clone()
    }

    /// The `/stats` entry of `shop/catalog`.
    pub async fn outbound_stats(&self) -> Value {
        let stats = self.json("/stats").await;
        let services = stats["outbound"].as_array().unwrap();
        let found = services
            .iter()
            .find(|entry| entry["service"] == "shop/catalog");
        found.unwrap_or(&Value::Null).clone()
    }

    /// The lines of its access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("access")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        let path: PathBuf = self.folder.path().join("stderr");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Kills it, with all that is under way.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; whether it was a good one.
    pub async fn ended(&mut self) -> bool {
        let child = &mut self.child;
        soon("the sidecar ends", async {
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.success();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the sidecar said:\n{}", self.log());
        }
    }
}
