//! A control plane over a folder of YAML, a caller's sidecar and a target's, as
//! processes in explicit mode on loopback addresses.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use remora_proto::well_known::{
    ADMIN_PORT, CONTROL_PLANE_ADMIN_PORT, CONTROL_PLANE_PORT, INBOUND_PORT, MESH_PROTOCOLS,
    OUTBOUND_PORT, PROBE_PORT, SIDECAR_CONTAINER, mesh,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Declared to speak HTTP/2.
pub const HTTP2: u16 = 8080;
/// Not declared: detected on each connection.
pub const DETECTED: u16 = 8081;
/// Declared to speak gRPC.
pub const GRPC: u16 = 9000;

/// The hosts of one mesh's addresses.
const PLANE: u8 = 1;
const CALLER: u8 = 2;
const TARGET: u8 = 3;
const APPLICATION: u8 = 4;
/// Where the caller's sidecar listens, which is the cluster IP of the service
/// at the same time: so a client whose authority is what it connects to
/// names the service.
const FRONT: u8 = 5;

/// How requests travel between the two sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// As the caller speaks them: the target's sidecar says nothing of itself.
    AsSpoken,
    /// By the protocols of Remora's own sidecars.
    Ours,
}

/// Who has which addresses.
#[derive(Clone, Copy, Debug)]
pub struct Place(u8);

impl Place {
    /// Each test of this binary hands in another number below 31, and has
    /// addresses of its own by it.
    pub fn new(number: u8) -> Self {
        Self(number)
    }

    fn at(self, host: u8, port: u16) -> SocketAddr {
        let [.., high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high.max(1), low, self.0 * 8 + host);
        SocketAddr::new(IpAddr::V4(ip), port)
    }

    /// Where the application listens.
    pub fn application(self, port: u16) -> SocketAddr {
        self.at(APPLICATION, port)
    }

    /// The caller's way out.
    pub fn outbound(self) -> SocketAddr {
        self.at(FRONT, HTTP2)
    }

    /// The target's way in.
    pub fn inbound(self, port: u16) -> SocketAddr {
        self.at(TARGET, port)
    }
}

/// A process that ends with its owner.
struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(name: &'static str, logs: &tempfile::TempDir, command: &mut Command) -> Self {
        let log = logs.path().join(name);
        let file = File::create(&log).unwrap();
        let command = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap());
        let child = command.stderr(file).spawn().unwrap();
        Self { name, child, log }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended_early = !matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() || ended_early {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!(
                "--- log of {} (ended early: {ended_early})\n{log}",
                self.name
            );
        }
    }
}

/// caller-1, which calls the service `echo`; target-1, which answers; each with
/// a sidecar.
pub struct Mesh {
    place: Place,
    _plane: Process,
    _caller: Process,
    _target: Process,
    folder: tempfile::TempDir,
    _logs: tempfile::TempDir,
}

impl Mesh {
    /// Starts it all and waits until both sidecars are ready.
    pub async fn start(place: Place, hop: Hop) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let logs = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("shop.yaml"), shop(place, hop)).unwrap();
        let mesh = Self {
            place,
            _plane: plane(place, &folder, &logs),
            _caller: sidecar("caller-1", place, CALLER, &logs),
            _target: sidecar("target-1", place, TARGET, &logs),
            folder,
            _logs: logs,
        };
        for host in [CALLER, TARGET] {
            let admin = place.at(host, ADMIN_PORT);
            until("a sidecar is ready", async || {
                matches!(try_get(admin, "/ready").await, Some((200, _)))
            })
            .await;
        }
        mesh
    }

    /// Writes the service's policy and waits until the caller's sidecar has it,
    /// which it does not before the first call. `generation` counts the writes.
    pub async fn apply_policy(&self, generation: u64, spec: &str) {
        let text = format!(
            "apiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\n\
             metadata: {{name: echo, namespace: shop}}\n\
             spec:\n  targetRefs: [{{group: \"\", kind: Service, name: echo}}]\n  {spec}\n"
        );
        fs::write(self.folder.path().join("policy.yaml"), text).unwrap();
        until("the policy is applied", async || {
            let config = self.caller_says("/config").await;
            let applied = config["applied"].as_array().into_iter().flatten();
            applied
                .flat_map(|resource| resource["policies"].as_array().into_iter().flatten())
                .any(|policy| policy["generation"] == generation)
        })
        .await;
    }

    /// What the caller's sidecar says at its admin endpoint.
    pub async fn caller_says(&self, path: &str) -> Value {
        json(self.place.at(CALLER, ADMIN_PORT), path).await
    }

    /// What the target's says.
    pub async fn target_says(&self, path: &str) -> Value {
        json(self.place.at(TARGET, ADMIN_PORT), path).await
    }
}

/// Waits until it is so; how long that took.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !is_so().await {
        assert!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(LOOK).await;
    }
    begin.elapsed()
}

async fn try_get(to: SocketAddr, target: &str) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        let request = format!("GET {target} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.ok()??;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

async fn json(admin: SocketAddr, path: &str) -> Value {
    let (status, body) = try_get(admin, path).await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn remora() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-under-test"));
    command.env_clear();
    command
}

fn plane(place: Place, folder: &tempfile::TempDir, logs: &tempfile::TempDir) -> Process {
    let mut command = remora();
    command.arg("control-plane");
    for (flag, value) in [
        ("--source", format!("files:{}", folder.path().display())),
        ("--listen", place.at(PLANE, CONTROL_PLANE_PORT).to_string()),
        (
            "--admin",
            place.at(PLANE, CONTROL_PLANE_ADMIN_PORT).to_string(),
        ),
    ] {
        command.args([flag, &value]);
    }
    Process::start("control-plane", logs, &mut command)
}

fn sidecar(pod: &'static str, place: Place, host: u8, logs: &tempfile::TempDir) -> Process {
    let listen = |port: u16| place.at(host, port).to_string();
    let (outbound, inbound) = match host {
        CALLER => (place.outbound().to_string(), String::new()),
        _ => (listen(OUTBOUND_PORT), format!("{HTTP2},{DETECTED},{GRPC}")),
    };
    let mut command = remora();
    command.arg("proxy").envs([
        ("REMORA_NAMESPACE", "shop".to_owned()),
        ("REMORA_POD", pod.to_owned()),
        ("REMORA_POD_UID", format!("{pod}-uid")),
        ("REMORA_POD_IPS", place.at(host, 0).ip().to_string()),
        (
            "REMORA_CONTROL_PLANE",
            format!("http://{}", place.at(PLANE, CONTROL_PLANE_PORT)),
        ),
        ("REMORA_MODE", "explicit".to_owned()),
        ("REMORA_OUTBOUND_LISTEN", outbound),
        ("REMORA_INBOUND_LISTEN", listen(INBOUND_PORT)),
        ("REMORA_ADMIN_LISTEN", listen(ADMIN_PORT)),
        ("REMORA_PROBE_LISTEN", listen(PROBE_PORT)),
        ("REMORA_EXPLICIT_INBOUND", inbound),
        ("REMORA_APP_ADDRESS", place.application(0).ip().to_string()),
    ]);
    if let Some(filter) = std::env::var_os("REMORA_LOG") {
        command.env("REMORA_LOG", filter);
    }
    Process::start(pod, logs, &mut command)
}

/// The objects: two pods with sidecars, and a service of one of them.
fn shop(place: Place, hop: Hop) -> String {
    let annotations = match hop {
        Hop::AsSpoken => String::new(),
        Hop::Ours => format!(
            ", annotations: {{{MESH_PROTOCOLS}: \"{}\"}}",
            mesh::PLAINTEXT
        ),
    };
    let pod = |name: &str, host: u8| {
        let ip = place.at(host, 0).ip();
        format!(
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}-1, namespace: shop, uid: {name}-1-uid, \
             labels: {{app: {name}}}{annotations}}}\n\
             spec:\n  initContainers: [{{name: {SIDECAR_CONTAINER}, restartPolicy: Always}}]\n  \
             containers: [{{name: app}}]\n\
             status: {{podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n"
        )
    };
    let ports = format!(
        "[{{name: http2-echo, port: {HTTP2}}}, {{name: echo, port: {DETECTED}}}, \
         {{name: grpc-echo, port: {GRPC}}}]"
    );
    let (front, target) = (place.at(FRONT, 0).ip(), place.at(TARGET, 0).ip());
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{remora.io/inject: enabled}}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: echo, namespace: shop}}\n\
         spec:\n  clusterIP: {front}\n  clusterIPs: [{front}]\n  selector: {{app: target}}\n  ports: {ports}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: echo-a, namespace: shop, labels: {{kubernetes.io/service-name: echo}}}}\n\
         addressType: IPv4\nports: {ports}\nendpoints:\n\
         - addresses: [{target}]\n  conditions: {{ready: true}}\n  \
         targetRef: {{kind: Pod, name: target-1, namespace: shop, uid: target-1-uid}}\n{}{}",
        pod("caller", CALLER),
        pod("target", TARGET)
    )
}
