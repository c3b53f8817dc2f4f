//! An injector over real TLS on loopback, and what it knows of a cluster that
//! is made up.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::ByteString;
use remora_injector::certificate::make::Authority;
use remora_injector::{Options, Patch, Running, clock};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// What the made-up API server says.
pub struct Cluster {
    pub version: Option<String>,
    /// What a list tells.
    pub listed: BTreeMap<String, Value>,
    /// What it tells of each by name; `None`: it does not answer.
    pub named: BTreeMap<String, Option<Value>>,
    /// Which were asked for by name.
    pub asked: Vec<String>,
}

pub type SharedCluster = Arc<Mutex<Cluster>>;

pub fn cluster() -> SharedCluster {
    let enabled = json!({"remora.io/inject": "enabled"});
    let restricted = json!({
        "remora.io/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted",
    });
    let listed = [
        ("shop", enabled),
        ("strict", restricted),
        ("quiet", json!({})),
    ];
    Arc::new(Mutex::new(Cluster {
        version: Some("v1.34.4".to_owned()),
        listed: listed
            .map(|(name, labels)| (name.to_owned(), labels))
            .into(),
        named: BTreeMap::new(),
        asked: Vec::new(),
    }))
}

fn meta(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": name, "labels": labels, "resourceVersion": "1"},
    })
}

fn failure(code: u16) -> (u16, Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "message": "made up", "reason": "MadeUp",
    });
    (code, status)
}

async fn told(cluster: &SharedCluster, path: &str, is_watch: bool) -> Response<Body> {
    if is_watch {
        // Nothing ever happens.
        let silence = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        return Response::new(Body::from_stream(silence));
    }
    let answer = {
        let mut cluster = cluster.lock().unwrap();
        match (path, &cluster.version) {
            ("/version", Some(version)) => Some((
                200,
                json!({
                    "gitVersion": version, "major": "1", "minor": "34", "buildDate": "", "compiler": "",
                    "gitCommit": "", "gitTreeState": "", "goVersion": "", "platform": "",
                }),
            )),
            ("/version", None) => Some(failure(500)),
            ("/api/v1/namespaces", _) => {
                let items = cluster
                    .listed
                    .iter()
                    .map(|(name, labels)| meta(name, labels));
                let items: Vec<Value> = items.collect();
                Some((
                    200,
                    json!({
                        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
                        "metadata": {"resourceVersion": "1"}, "items": items,
                    }),
                ))
            }
            _ => {
                let name = path.trim_start_matches("/api/v1/namespaces/").to_owned();
                cluster.asked.push(name.clone());
                match cluster.named.get(&name) {
                    Some(labels) => labels.as_ref().map(|labels| (200, meta(&name, labels))),
                    None => Some(failure(404)),
                }
            }
        }
    };
    let Some((code, value)) = answer else {
        std::future::pending().await
    };
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::from(value.to_string()))
        .unwrap()
}

fn client(cluster: SharedCluster) -> kube::Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let cluster = cluster.clone();
        async move {
            let watches = request
                .uri()
                .query()
                .is_some_and(|q| q.contains("watch=true"));
            let path = request.uri().path().to_owned();
            Ok::<_, Infallible>(told(&cluster, &path, watches).await)
        }
    });
    kube::Client::new(service, "default")
}

pub struct World {
    pub running: Running,
    pub cluster: SharedCluster,
    pub folder: tempfile::TempDir,
    pub authority: Authority,
}

pub const HOST: &str = "remora-injector.remora-system.svc";

pub fn put_certificate(folder: &Path, authority: &Authority) {
    let made = authority
        .issue(&[HOST.to_owned()], clock::since_epoch())
        .unwrap();
    std::fs::write(folder.join("tls.crt"), made.certificate).unwrap();
    std::fs::write(folder.join("tls.key"), made.key).unwrap();
}

pub async fn world(cluster: SharedCluster, more: &[&str]) -> World {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(clock::since_epoch()).unwrap();
    put_certificate(folder.path(), &authority);
    let certificate = format!("--certificate={}", folder.path().display());
    let fixed = [
        "x",
        "--listen=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        &certificate,
    ];
    let line = Line::parse_from(fixed.iter().chain(more));
    let running = remora_injector::start(line.options, client(cluster.clone()))
        .await
        .unwrap();
    World {
        running,
        cluster,
        folder,
        authority,
    }
}

pub async fn ready_world() -> World {
    let world = world(cluster(), &["--shutdown-delay=300ms"]).await;
    until("readiness", async || {
        admin(world.running.admin, "/ready").await.0 == 200
    })
    .await;
    world
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}: not within 10 s");
}

/// The status and text of a GET of the admin endpoint.
pub async fn admin(address: SocketAddr, path: &str) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "x")
        .body(Full::<Bytes>::default());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// A TLS connection that trusts the authority, and nothing else.
pub async fn dial(world: &World, protocol: &str) -> TlsStream<TcpStream> {
    dial_at(world.running.listen, &world.authority, protocol).await
}

pub async fn dial_at(
    address: SocketAddr,
    authority: &Authority,
    protocol: &str,
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    connector.connect(name, stream).await.unwrap()
}

/// The certificate of the other side.
pub fn leaf(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Where requests go in.
pub enum Sender {
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

pub async fn sender(stream: TlsStream<TcpStream>) -> Sender {
    let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
    let io = TokioIo::new(stream);
    if is_two {
        let executor = TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::spawn(connection);
        Sender::Two(sender)
    } else {
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Sender::One(sender)
    }
}

impl Sender {
    pub async fn post(&mut self, body: impl Into<Bytes>) -> Result<Response<Bytes>, hyper::Error> {
        self.send("POST", "/inject?timeout=5s", body).await
    }

    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, hyper::Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{HOST}{path}"))
            .header("host", HOST)
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        let response = match self {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// What a review of a pod is answered.
    pub async fn review(&mut self, namespace: &str, pod: Value) -> Answer {
        let response = self.post(review(namespace, pod)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{:?}", response.body());
        Answer(serde_json::from_slice(response.body()).unwrap())
    }
}

pub fn review(namespace: &str, pod: Value) -> String {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": "CREATE",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace, "userInfo": {"username": "x"}, "object": pod,
            "oldObject": null, "dryRun": false, "options": {"kind": "CreateOptions"},
        },
    })
    .to_string()
}

pub fn pod(metadata: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

/// An AdmissionReview's response.
#[derive(Debug)]
pub struct Answer(pub Value);

impl Answer {
    pub fn warnings(&self) -> String {
        self.0["response"]["warnings"].to_string()
    }

    pub fn patch(&self) -> Option<Patch> {
        let response = &self.0["response"];
        assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
        assert_eq!(response["allowed"], true, "{self:?}");
        let patch = response.get("patch")?;
        assert_eq!(response["patchType"], "JSONPatch");
        let ByteString(patch) = serde_json::from_value(patch.clone()).unwrap();
        Some(serde_json::from_slice(&patch).unwrap())
    }

    pub fn is_injected(&self) -> bool {
        let text = self.patch().map(|patch| patch.to_string());
        text.is_some_and(|text| text.contains("remora-intercept"))
    }
}
