//! Pods of several service accounts in a namespace of their own, and what came
//! of calls between them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, eventually, is_ready};

/// Their namespace.
pub const GUESTS: &str = "guests";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The namespace with its pods, which is taken away at the end:
/// - `server`: HTTP at 8080, all kinds of probes; Service `server`.
/// - `lines`: TCP at 7000, where the server speaks first; Service `lines`.
/// - `friend`, `stranger`: call. Their `/cart` asks `lines`.
/// - `outsider`: of the friend's service account, without a sidecar.
pub struct Guests<'a> {
    cluster: &'a Cluster,
}

/// A pod with a sidecar unless `labels` say otherwise, its service account of its own name.
fn pod(name: &str, account: &str, labels: &str, role: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {GUESTS}, labels: {{app: {name}{labels}}}}}\nspec:\n  \
         serviceAccountName: {account}\n  terminationGracePeriodSeconds: 1\n  containers:\n    - name: app\n      \
         image: remora/demo:0.1.0\n      command: [remora, demo, {role}]\n      \
         env: [{{name: INVENTORY, value: \"lines:7000\"}}]\n{more}"
    )
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {GUESTS}}}\nspec:\n  \
         selector: {{app: {name}}}\n  ports: [{{name: calls, port: {port}}}]\n"
    )
}

impl<'a> Guests<'a> {
    /// All of them, ready.
    pub fn invite(cluster: &'a Cluster) -> Self {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {GUESTS}, labels: {{remora.io/inject: enabled}}}}\n"
        ));
        let mut yaml = String::new();
        for account in ["server", "lines", "friend", "stranger"] {
            yaml.push_str(&format!(
                "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {account}, namespace: {GUESTS}}}\n"
            ));
        }
        let probes = "      startupProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 60}\n      \
             readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 1}\n      \
             livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 2}\n";
        yaml.push_str(&pod("server", "server", "", "catalog", probes));
        yaml.push_str(&pod("lines", "lines", "", "inventory", ""));
        yaml.push_str(&pod("friend", "friend", "", "cart", ""));
        yaml.push_str(&pod("stranger", "stranger", "", "cart", ""));
        let declines = ", remora.io/inject: disabled";
        yaml.push_str(&pod("outsider", "friend", declines, "cart", ""));
        yaml.push_str(&service("server", 8080));
        yaml.push_str(&service("lines", 7000));
        cluster.apply(&yaml);
        let guests = Self { cluster };
        guests.are_ready();
        guests
    }

    /// Waits until all of them are.
    pub fn are_ready(&self) {
        eventually(120, "the guests are ready", || {
            let pods = self.cluster.pods(GUESTS, "app");
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            if ready == pods.len() && ready >= 5 {
                Ok(())
            } else {
                Err(format!("{ready} of {}", pods.len()))
            }
        });
    }

    /// One of them, as the API server has it.
    pub fn pod(&self, name: &str) -> Value {
        self.cluster.json(&["get", "pod", "-n", GUESTS, name])
    }

    /// The address of one of them, of the pod's first family.
    pub fn address(&self, name: &str, port: u16) -> SocketAddr {
        let pod = self.pod(name);
        let ip = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        SocketAddr::new(ip, port)
    }

    /// What a GET from inside one of them came to.
    pub fn call(&self, from: &str, url: &str) -> Result<Value, String> {
        let said = self.cluster.try_kubectl(
            &[
                "exec", "-n", GUESTS, from, "-c", "app", "--", "remora", "demo", "caller", "--url",
                url,
            ],
            None,
        )?;
        serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))
    }

    /// Waits until a GET from one of them comes to this status; `0`: to no answer.
    #[track_caller]
    pub fn comes_to(&self, from: &str, url: &str, status: u16) -> Value {
        eventually(20, &format!("{from}: {url} comes to {status}"), || {
            match (self.call(from, url), status) {
                (Err(why), 0) => Ok(Value::String(why)),
                (Ok(answer), status) if answer["status"] == status => Ok(answer),
                (other, _) => Err(format!("{other:?}")),
            }
        })
    }

    /// What one of their sidecars counts under a name, over those lines that hold `labels`.
    pub fn counted(&self, pod: &str, metric: &str, labels: &str) -> u64 {
        counted(self.cluster, GUESTS, pod, metric, labels)
    }
}

impl Drop for Guests<'_> {
    fn drop(&mut self) {
        let leave = ["delete", "namespace", GUESTS, "--timeout=90s"];
        let left = self.cluster.try_kubectl(&leave, None);
        if !std::thread::panicking() {
            left.unwrap();
        }
    }
}

/// The sum of a sidecar's counters of a name, over those lines that hold `labels`.
pub fn counted(cluster: &Cluster, namespace: &str, pod: &str, metric: &str, labels: &str) -> u64 {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:15120/proxy/metrics");
    let text = cluster.get(&path).unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with(metric) && line.contains(labels));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// What an address answers to bytes in plaintext, from the node: outside of the
/// mesh. Nothing where it closes or resets.
pub fn plaintext(to: SocketAddr, words: &str) -> String {
    let said = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(words.as_bytes())?;
        let (mut said, mut part) = (Vec::new(), [0; 4096]);
        // Until it closes, resets, or says no more.
        while let Ok(length @ 1..) = stream.read(&mut part) {
            said.extend_from_slice(&part[..length]);
        }
        Ok(said)
    };
    String::from_utf8_lossy(&said().unwrap_or_default()).into_owned()
}

/// What `openssl s_client` says of a handshake with an address, from the node.
pub fn handshake(to: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["10", "openssl", "s_client", "-connect", &to.to_string()]);
    command.args(arguments).stdin(Stdio::null());
    let done = command.output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}
