//! The real task against a scripted server on loopback.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use remora_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::state::Resolution;
use crate::state::testing::{self, endpoint_resource, service_resource, workload_resource};
use crate::stream::{Identity, Kind, NumberedChange, ReportSource, Running, Streams};

const PATIENCE: Duration = Duration::from_secs(10);

/// One stream as the server sees it.
struct Session {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Session {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request = tokio::time::timeout(PATIENCE, self.requests.message()).await;
        request
            .expect("in time")
            .expect("no error")
            .expect("not closed")
    }

    /// The next request that subscribes to something.
    async fn subscription(&mut self) -> DeltaDiscoveryRequest {
        loop {
            let request = self.request().await;
            if !request.resource_names_subscribe.is_empty() {
                return request;
            }
        }
    }

    async fn send(&self, response: DeltaDiscoveryResponse) {
        self.responses
            .send(Ok(response))
            .await
            .expect("the client listens");
    }

    async fn send_workload(&self) {
        let workload = workload_resource(&testing::workload(), "1");
        let response = testing::response(Kind::Workload, "w", vec![workload], &[]);
        self.send(response).await;
    }
}

struct Script(mpsc::Sender<Session>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Script {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outgoing) = mpsc::channel(16);
        let requests = request.into_inner();
        let session = Session {
            requests,
            responses,
        };
        let accepted = self.0.send(session).await;
        accepted.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

/// A server that hands its streams to the test.
struct Server {
    address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (script, sessions) = mpsc::channel(4);
        let service = AggregatedDiscoveryServiceServer::new(Script(script));
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { drop(serving.await) });
        Self {
            address,
            sessions,
            task,
        }
    }

    async fn session(&mut self) -> Session {
        let session = tokio::time::timeout(PATIENCE, self.sessions.recv()).await;
        session.expect("in time").expect("the server runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct NothingElse;

impl ReportSource for NothingElse {
    fn breaker_changes_since(&self, _sequence: u64) -> Vec<NumberedChange> {
        Vec::new()
    }

    fn usage(&self) -> Vec<remora_proto::v1::ServiceUsage> {
        Vec::new()
    }
}

struct Sidecar {
    mesh: Arc<Mesh>,
    running: Running,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.running.configuration.abort();
        self.running.reports.abort();
    }
}

fn sidecar(server: SocketAddr) -> Sidecar {
    let identity = Identity {
        namespace: "shop".to_owned(),
        pod: "web-1".to_owned(),
        pod_uid: "uid-web-1".to_owned(),
        version: "0.1.0".to_owned(),
        ..Default::default()
    };
    let control_plane =
        ControlPlane::parse(&format!("http://{server}"), None, None).expect("a URL");
    let (mesh, streams) = Streams::new(Options {
        identity,
        control_plane,
    });
    let running = streams.spawn(Arc::new(NothingElse));
    Sidecar { mesh, running }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

fn catalog_address() -> IpAddr {
    "10.0.0.1".parse().expect("an address")
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("in time");
}

/// Answers the question for the catalog, with one pod.
async fn serve_catalog(session: &mut Session) {
    assert_eq!(
        session.subscription().await.resource_names_subscribe,
        ["address/10.0.0.1"]
    );
    let catalog = service_resource(&testing::service("catalog", 1), "1");
    session
        .send(testing::response(Kind::Service, "s", vec![catalog], &[]))
        .await;
    assert_eq!(
        session.subscription().await.resource_names_subscribe,
        ["shop/catalog/*"]
    );
    let pod = endpoint_resource(&testing::endpoint("catalog", "catalog-1", 1), "1");
    session
        .send(testing::response(Kind::Endpoint, "e", vec![pod], &[]))
        .await;
}

#[tokio::test]
async fn a_sidecar_introduces_itself_and_becomes_ready() {
    let mut server = Server::start(loopback()).await;
    let sidecar = sidecar(server.address);
    let mut session = server.session().await;
    let first = session.request().await;
    let node = first.node.expect("the first request names the node");
    assert_eq!(node.id, "sidecar/shop/web-1/uid-web-1");
    assert_eq!(first.resource_names_subscribe, ["shop/web-1"]);
    assert!(!sidecar.mesh.is_ready());
    session.send_workload().await;
    let mut ready = sidecar.mesh.ready();
    tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready))
        .await
        .expect("in time")
        .expect("held");
    let answer = session.request().await;
    assert_eq!(
        (answer.response_nonce.as_str(), answer.error_detail),
        ("w", None)
    );
    assert!(sidecar.mesh.status().connected);
}

/// Workers have runtimes of their own.
#[tokio::test]
async fn a_worker_on_another_thread_gets_its_service() {
    let mut server = Server::start(loopback()).await;
    let sidecar = sidecar(server.address);
    let mut session = server.session().await;
    session.request().await;
    let mesh = sidecar.mesh.clone();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async { mesh.resolve_address(catalog_address(), clock::now()).await })
    });
    serve_catalog(&mut session).await;
    let resolution = tokio::task::spawn_blocking(|| worker.join())
        .await
        .expect("joined")
        .expect("no panic");
    let Resolution::Service(service) = resolution else {
        panic!("{resolution:?}");
    };
    assert_eq!(service.endpoints(8080).map(|list| list.len()), Some(1));
    assert!(
        sidecar
            .mesh
            .lookup(catalog_address(), clock::now())
            .is_some()
    );
}

#[tokio::test]
async fn a_refused_resource_is_named_with_its_reason() {
    let mut server = Server::start(loopback()).await;
    let sidecar = sidecar(server.address);
    let mut session = server.session().await;
    session.request().await;
    let mut bad = testing::workload();
    bad.namespace = "Shop".to_owned();
    let mut resource = workload_resource(&bad, "7");
    resource.name = "shop/web-1".to_owned();
    session
        .send(testing::response(
            Kind::Workload,
            "bad",
            vec![resource],
            &[],
        ))
        .await;
    let answer = session.request().await;
    let error = answer.error_detail.expect("a NACK");
    assert_eq!(answer.response_nonce, "bad");
    assert!(
        error.message.contains("shop/web-1: namespace"),
        "{}",
        error.message
    );
    assert!(!sidecar.mesh.is_ready());
    let why = sidecar.mesh.refused_workload().expect("it was refused");
    assert!(why.contains("namespace: is \"Shop\""), "{why}");
    session.send_workload().await;
    until(|| sidecar.mesh.is_ready()).await;
    assert!(sidecar.mesh.status().refused.is_empty());
    assert_eq!(sidecar.mesh.refused_workload(), None);
}

#[tokio::test]
async fn the_control_plane_goes_and_comes_back() {
    let mut server = Server::start(loopback()).await;
    let address = server.address;
    let sidecar = sidecar(address);
    let mut session = server.session().await;
    session.request().await;
    session.send_workload().await;
    let asking = {
        let mesh = sidecar.mesh.clone();
        tokio::spawn(async move { mesh.resolve_address(catalog_address(), clock::now()).await })
    };
    serve_catalog(&mut session).await;
    assert!(matches!(asking.await, Ok(Resolution::Service(_))));

    drop(session);
    drop(server);
    until(|| !sidecar.mesh.is_connected()).await;
    let known = sidecar
        .mesh
        .resolve_address(catalog_address(), clock::now())
        .await;
    assert!(
        matches!(known, Resolution::Service(_)),
        "the last good snapshot serves on"
    );
    assert!(sidecar.mesh.is_ready());

    let mut server = Server::start(address).await;
    let mut session = server.session().await;
    let mut held = std::collections::BTreeMap::new();
    for _ in 0..3 {
        let request = session.request().await;
        held.extend(request.initial_resource_versions);
    }
    let names: Vec<&str> = held.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "shop/catalog",
            "shop/catalog/8080/uid-catalog-1",
            "shop/web-1"
        ]
    );
    let gone = ["shop/catalog/8080/uid-catalog-1"];
    session
        .send(testing::response(Kind::Endpoint, "x", Vec::new(), &gone))
        .await;
    until(
        || match sidecar.mesh.lookup(catalog_address(), clock::now()) {
            Some(Resolution::Service(service)) => service.endpoints(8080).is_none(),
            _ => false,
        },
    )
    .await;
}

/// Nothing listens at the address, and time is paused: only timers let it pass.
#[tokio::test(start_paused = true)]
async fn without_a_control_plane_there_is_no_answer_after_a_second() {
    let listener = TcpListener::bind(loopback()).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let sidecar = sidecar(address);
    let before = clock::now();
    let resolution = sidecar
        .mesh
        .resolve_address(catalog_address(), before)
        .await;
    assert!(matches!(resolution, Resolution::NoAnswer));
    let waited = clock::now().since(before);
    assert!((1000..1100).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(sidecar.mesh.counts().no_answer, 1);
    let unknown = sidecar.mesh.resolve_name("*", clock::now()).await;
    assert!(
        matches!(unknown, Resolution::Unknown),
        "no service can be called so"
    );
    assert!(!sidecar.mesh.status().connected);
}

#[tokio::test]
async fn a_server_that_ends_every_stream_is_not_stormed() {
    let mut server = Server::start(loopback()).await;
    let _sidecar = sidecar(server.address);
    let until = clock::instant(clock::now().after(Duration::from_millis(1500)));
    let mut streams = 0;
    while tokio::time::timeout_at(until, server.sessions.recv())
        .await
        .is_ok()
    {
        streams += 1;
    }
    // Pauses of at most 50, 100, 200, 400, 800 ms; with luck they are shorter.
    assert!((2..60).contains(&streams), "{streams}");
}

/// A connection whose other end is gone without a word.
#[tokio::test]
async fn a_dead_control_plane_is_noticed_within_seconds() {
    let listener = TcpListener::bind(loopback()).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let _sidecar = sidecar(address);
    // Two connections each: configuration and reports. They are never read.
    let mut silent = Vec::new();
    let begun = clock::now();
    for _ in 0..3 {
        let connection = tokio::time::timeout(PATIENCE, listener.accept()).await;
        silent.push(
            connection
                .expect("a new attempt within seconds")
                .expect("accepted"),
        );
    }
    assert!(clock::now().since(begun) < Duration::from_secs(8));
}
