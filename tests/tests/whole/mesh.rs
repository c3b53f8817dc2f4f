//! A mesh of processes: started, asked, killed, and gone with the test.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use remora_proto::well_known::{ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT, PROBE_PORT};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Nothing here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);

const STREAM_PORT: u16 = 15110;
const PLANE_ADMIN_PORT: u16 = 15114;
const PORT: u16 = 8080;

/// The hosts of one test's addresses.
const PLANE: u8 = 1;
const WEB: u8 = 2;
const CATALOG: u8 = 3;
const APPLICATION: u8 = 4;

/// A process that ends with its owner.
struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(name: &'static str, logs: &tempfile::TempDir, command: &mut Command) -> Self {
        let log = logs.path().join(name);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let command = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap());
        let child = command.stderr(file).spawn().unwrap();
        Self { name, child, log }
    }

    /// SIGKILL: it has no time to say goodbye.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, as a test may want it to.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- log of {}\n{log}", self.name);
        }
    }
}

/// web-1, which calls; catalog-1, which answers; each with a sidecar.
pub struct Mesh {
    number: u8,
    plane: Process,
    web: Process,
    _catalog: Process,
    folder: tempfile::TempDir,
    logs: tempfile::TempDir,
}

impl Mesh {
    /// Starts it all and waits until both sidecars are ready. Each test of this
    /// binary hands in another number, and has addresses of its own by it.
    pub async fn start(number: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let logs = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("shop.yaml"), shop(number)).unwrap();
        serve(SocketAddr::new(address(number, APPLICATION), PORT)).await;
        let mesh = Self {
            number,
            plane: plane(number, &folder, &logs),
            web: sidecar("web-1", number, WEB, &logs),
            _catalog: sidecar("catalog-1", number, CATALOG, &logs),
            folder,
            logs,
        };
        for host in [WEB, CATALOG] {
            let admin = mesh.at(host, ADMIN_PORT);
            until("a sidecar is ready", async || {
                matches!(try_get(admin, "/ready").await, Some((200, ..)))
            })
            .await;
        }
        mesh
    }

    fn at(&self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(address(self.number, host), port)
    }

    /// The caller's way out: an HTTP proxy.
    pub fn outbound(&self) -> SocketAddr {
        self.at(WEB, OUTBOUND_PORT)
    }

    /// Calls catalog as web's application does: status, head, body.
    pub async fn call(&self, path: &str) -> (u16, String, String) {
        let (status, head, body) = self.try_call(path).await.unwrap();
        (status, head, body)
    }

    /// As `call`; `None` where no whole answer came.
    pub async fn try_call(&self, path: &str) -> Option<(u16, String, String)> {
        try_get(self.outbound(), &format!("http://catalog:{PORT}{path}")).await
    }

    /// Writes a file into the folder that the control plane watches.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Writes catalog's policy.
    pub fn write_policy(&self, spec: &str) {
        self.write("policy.yaml", &policy(spec));
    }

    /// What the caller's sidecar says at its admin endpoint.
    pub async fn sidecar_says(&self, path: &str) -> Value {
        json(self.at(WEB, ADMIN_PORT), path).await
    }

    /// What the control plane says at its own.
    pub async fn plane_says(&self, path: &str) -> Value {
        json(self.at(PLANE, PLANE_ADMIN_PORT), path).await
    }

    /// SIGKILL to the control plane.
    pub fn kill_plane(&mut self) {
        self.plane.kill();
    }

    /// Starts it again at the same addresses.
    pub fn revive_plane(&mut self) {
        self.plane = plane(self.number, &self.folder, &self.logs);
    }

    /// Whether the caller's sidecar is still the process that was started.
    pub fn sidecar_lives(&mut self) -> bool {
        self.web.child.try_wait().unwrap().is_none()
    }
}

/// A policy for catalog.
pub fn policy(spec: &str) -> String {
    format!(
        "apiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: catalog, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: catalog}}]\n  {spec}\n"
    )
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

/// Sends these very bytes, and reads until the other side closes.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        stream.write_all(bytes).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(PATIENCE, exchange).await.ok()?
}

async fn try_get(to: SocketAddr, target: &str) -> Option<(u16, String, String)> {
    let request =
        format!("GET {target} HTTP/1.1\r\nhost: catalog:{PORT}\r\nconnection: close\r\n\r\n");
    let answer = raw(to, request.as_bytes()).await?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.to_lowercase(), body.to_owned()))
}

async fn json(admin: SocketAddr, path: &str) -> Value {
    let (status, head, body) = try_get(admin, path).await.unwrap();
    assert_eq!(status, 200, "{head}\n{body}");
    serde_json::from_str(&body).unwrap()
}

/// Addresses that no other test and no other process of the tests has.
fn address(number: u8, host: u8) -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, high.max(1), low, number * 8 + host))
}

/// An application: answers every request with 200 and the path.
async fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(async |request: Request<hyper::body::Incoming>| {
                let path = request.uri().path().to_owned();
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(path))))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
        }
    });
}

fn remora() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-under-test"));
    command.env_clear();
    command
}

fn plane(number: u8, folder: &tempfile::TempDir, logs: &tempfile::TempDir) -> Process {
    let listen = SocketAddr::new(address(number, PLANE), STREAM_PORT).to_string();
    let admin = SocketAddr::new(address(number, PLANE), PLANE_ADMIN_PORT).to_string();
    let source = format!("files:{}", folder.path().display());
    let arguments = [
        "control-plane",
        "--source",
        &source,
        "--listen",
        &listen,
        "--admin",
        &admin,
    ];
    Process::start("control-plane", logs, remora().args(arguments))
}

fn sidecar(pod: &'static str, number: u8, host: u8, logs: &tempfile::TempDir) -> Process {
    let own = address(number, host);
    let listen = |port: u16| SocketAddr::new(own, port).to_string();
    let stream = SocketAddr::new(address(number, PLANE), STREAM_PORT);
    let mut command = remora();
    command.arg("proxy").envs([
        ("REMORA_NAMESPACE", "shop".to_owned()),
        ("REMORA_POD", pod.to_owned()),
        ("REMORA_POD_UID", format!("{pod}-uid")),
        ("REMORA_POD_IPS", own.to_string()),
        ("REMORA_CONTROL_PLANE", format!("http://{stream}")),
        ("REMORA_MODE", "explicit".to_owned()),
        ("REMORA_OUTBOUND_LISTEN", listen(OUTBOUND_PORT)),
        ("REMORA_INBOUND_LISTEN", listen(INBOUND_PORT)),
        ("REMORA_ADMIN_LISTEN", listen(ADMIN_PORT)),
        ("REMORA_PROBE_LISTEN", listen(PROBE_PORT)),
        ("REMORA_EXPLICIT_INBOUND", PORT.to_string()),
        (
            "REMORA_APP_ADDRESS",
            address(number, APPLICATION).to_string(),
        ),
    ]);
    Process::start(pod, logs, &mut command)
}

/// The objects of a namespace with two pods and one service.
fn shop(number: u8) -> String {
    let (web, catalog) = (address(number, WEB), address(number, CATALOG));
    let pod = |name: &str, ip: IpAddr| {
        format!(
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}-1, namespace: shop, uid: {name}-1-uid, labels: {{app: {name}}}}}\n\
             spec: {{containers: [{{name: app, ports: [{{containerPort: {PORT}}}]}}]}}\n\
             status: {{podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n"
        )
    };
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{remora.io/inject: enabled}}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: catalog, namespace: shop}}\n\
         spec:\n  clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10]\n  selector: {{app: catalog}}\n  \
         ports: [{{name: http, port: {PORT}}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: catalog-a, namespace: shop, labels: {{kubernetes.io/service-name: catalog}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {PORT}}}]\nendpoints:\n\
         - addresses: [{catalog}]\n  conditions: {{ready: true}}\n  \
         targetRef: {{kind: Pod, name: catalog-1, namespace: shop, uid: catalog-1-uid}}\n{}{}",
        pod("web", web),
        pod("catalog", catalog)
    )
}
