//! A worker on the bench's own thread, with control plane, streams and upstream on
//! others: for the benches of whole requests.

#![allow(clippy::expect_used)] // a benchmark that cannot be set up must say so and end

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use remora_benches::process::{free_port, loopback};
use remora_benches::systems::fill;
use remora_proto::v1::ServiceUsage;
use remora_proxy::access_log::AccessLogger;
use remora_proxy::config::Config;
use remora_proxy::inbound::Inbound;
use remora_proxy::socket;
use remora_proxy::stream::{
    ControlPlane, Identity, NumberedChange, Options, ReportSource, Streams,
};
use remora_proxy::worker::{self, ConnectionCounters, Listeners, Shared};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{oneshot, watch};

const OBJECTS: &str = include_str!("../../peers/remora.yaml");
/// Of each answer, and of each request that has one.
pub const BODY_BYTES: usize = 1024;
/// The address of the caller's pod.
const POD: &str = "127.88.1.1";

/// A worker on this thread, all else on others.
pub struct Stage {
    /// The worker's, and the caller's.
    pub runtime: LocalRuntime,
    /// What the sidecar knows.
    pub mesh: Arc<remora_proxy::state::Mesh>,
    outbound: SocketAddr,
    _folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
    _drain: watch::Sender<bool>,
}

impl Stage {
    /// With the services of the side-by-side harness, and those of `further` objects.
    pub fn new(further: &str) -> Self {
        let outbound = loopback(free_port().expect("a free port"));
        let folder = tempfile::tempdir().expect("a folder");
        let control_plane = start_control_plane(folder.path(), start_upstream(), further);
        let shared = start_streams(&config(outbound, &control_plane));
        let (stop, stopping) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let mesh = Arc::clone(&shared.mesh);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async {
            let listeners = Listeners {
                outbound: socket::listen(outbound).expect("a listener"),
                inbound: Vec::new(),
            };
            tokio::task::spawn_local(worker::run(shared, listeners, draining, stopping));
        });
        Self {
            runtime,
            mesh,
            outbound,
            _folder: folder,
            _stop: stop,
            _drain: drain,
        }
    }

    /// A connection to the worker.
    pub fn connect(&self) -> TcpStream {
        self.runtime.block_on(async {
            let stream = TcpStream::connect(self.outbound)
                .await
                .expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            stream
        })
    }

    /// How long the answer is; after it the connection upstream is there.
    pub fn first_answer(&self, request: &[u8]) -> usize {
        let mut client = self.connect();
        let mut answer = Vec::new();
        self.runtime.block_on(async {
            client.write_all(request).await.expect("a worker");
            loop {
                let read = client.read_buf(&mut answer).await.expect("an answer");
                assert!(read > 0, "cut short: {}", String::from_utf8_lossy(&answer));
                let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
                if let Some(head) = head
                    && answer.len() >= head + 4 + BODY_BYTES
                {
                    return answer.len();
                }
            }
        })
    }
}

fn config(outbound: SocketAddr, control_plane: &str) -> Config {
    let outbound = outbound.to_string();
    let variables: HashMap<String, String> = [
        ("REMORA_NAMESPACE", "bench"),
        ("REMORA_POD", "caller"),
        ("REMORA_POD_UID", "caller-uid"),
        ("REMORA_POD_IPS", POD),
        ("REMORA_CONTROL_PLANE", control_plane),
        ("REMORA_MODE", "explicit"),
        ("REMORA_APP_ADDRESS", "127.0.0.1"),
        ("REMORA_OUTBOUND_LISTEN", outbound.as_str()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    Config::from_variables(&variables).expect("a good configuration")
}

struct NothingToReport;

impl ReportSource for NothingToReport {
    fn breaker_changes_since(&self, _: u64) -> Vec<NumberedChange> {
        Vec::new()
    }

    fn usage(&self) -> Vec<ServiceUsage> {
        Vec::new()
    }
}

/// What the workers share, once the control plane has made it ready.
fn start_streams(config: &Config) -> Arc<Shared> {
    let config = config.clone();
    let (ready, is_ready) = oneshot::channel();
    on_a_thread(async move {
        let options = Options {
            identity: Identity {
                namespace: config.namespace.clone(),
                pod: config.pod.clone(),
                pod_uid: config.pod_uid.clone(),
                service_account: String::new(),
                version: "bench".to_owned(),
                trust_domain: None,
            },
            control_plane: ControlPlane::parse(&config.control_plane, None, None)
                .expect("an address"),
        };
        let (mesh, streams) = Streams::new(options);
        let shared = Arc::new(Shared {
            access_log: AccessLogger::open(&config.access_log).expect("no access log"),
            journal: Arc::clone(mesh.journal()),
            mesh: Arc::clone(&mesh),
            inbound: Inbound::default(),
            connections: ConnectionCounters::default(),
            tls: remora_proxy::tls::Context::default(),
            health: remora_proxy::health::Board::default(),
            loops: remora_proxy::metrics::process::Loops::default(),
            identity: remora_proxy::identity::Status::default(),
            connection_wanted: tokio::sync::Notify::new(),
            config,
        });
        let _running = streams.spawn(Arc::new(NothingToReport));
        let mut when_ready = mesh.ready();
        let _ = when_ready.wait_for(|ready| *ready).await;
        let _ = ready.send(shared);
        std::future::pending::<()>().await;
    });
    is_ready.blocking_recv().expect("a control plane")
}

/// Serves the bench's objects until the process ends; gives its address.
fn start_control_plane(folder: &Path, upstream: u16, further: &str) -> String {
    // Services of other scenarios, which nobody calls here.
    let (http2, bulk, bulk_http) = (9, 10, 11);
    let values: [(&str, &dyn Display); 9] = [
        ("POD", &POD),
        ("STAGE", &"uid"),
        ("CALLEE", &"127.88.1.2"),
        ("FAR_CALLER", &"127.88.1.3"),
        ("FAR_CALLEE", &"127.88.1.4"),
        ("UPSTREAM_BULK_HTTP", &bulk_http),
        ("UPSTREAM", &upstream),
        ("UPSTREAM_HTTP2", &http2),
        ("UPSTREAM_BULK", &bulk),
    ];
    let objects = fill(&format!("{OBJECTS}{further}"), &values).expect("a value for each word");
    std::fs::write(folder.join("bench.yaml"), objects).expect("a file");
    let address = loopback(free_port().expect("a free port"));
    let options = remora_control_plane::Options {
        sources: vec![remora_control_plane::Source::Files(folder.to_owned())],
        listen: address,
        admin: loopback(free_port().expect("a free port")),
        identity: Default::default(),
    };
    on_a_thread(async move {
        if let Err(error) = remora_control_plane::run(options).await {
            eprintln!("the control plane ended: {error:#}");
        }
    });
    format!("http://{address}")
}

fn on_a_thread(work: impl Future<Output = ()> + Send + 'static) {
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work);
    });
}

/// Answers each request with the same body; gives its port. One thread has all
/// connections: with one for each, where the system put it decided over what a request
/// of its service cost.
fn start_upstream() -> u16 {
    // On all of 127/8, for services of several endpoints.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    listener.set_nonblocking(true).expect("a listener");
    let body = "x".repeat(BODY_BYTES);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n{body}");
    let answer: Arc<str> = answer.into();
    on_a_thread(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_all(stream, Arc::clone(&answer)));
        }
    });
    port
}

async fn answer_all(mut stream: TcpStream, answer: Arc<str>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(read) if read > 0 => filled += read,
            _ => return,
        }
        let seen = &buffer[..filled];
        let Some(head) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let body = if seen.starts_with(b"PUT") {
            BODY_BYTES
        } else {
            0
        };
        if filled >= head + 4 + body {
            filled = 0;
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
