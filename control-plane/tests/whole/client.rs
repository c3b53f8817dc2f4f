//! A scripted sidecar, and a control plane to talk to.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use remora_control_plane::{Options, Running, Source, start};
use remora_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use remora_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Nothing here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A control plane over a folder of its own.
pub struct Plane {
    pub folder: tempfile::TempDir,
    pub running: Running,
}

impl Plane {
    pub async fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let running = run(folder.path()).await;
        Self { folder, running }
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub async fn admin(&self, path: &str) -> serde_json::Value {
        let (head, body) = self.fetch(path).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        serde_json::from_str(&body).unwrap()
    }

    pub async fn fetch(&self, path: &str) -> (String, String) {
        let mut stream = tokio::net::TcpStream::connect(self.running.admin)
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// Asks `/problems` until it holds what is wanted.
    pub async fn problem(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        for _ in 0..250 {
            let problems = self.admin("/problems").await;
            let found = problems
                .as_array()
                .unwrap()
                .iter()
                .find(|problem| wanted(problem));
            if let Some(found) = found {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no such problem: {}", self.admin("/problems").await);
    }
}

pub async fn run(folder: &Path) -> Running {
    start(Options {
        sources: vec![Source::Files(folder.to_owned())],
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: "127.0.0.1:0".parse().unwrap(),
    })
    .await
    .unwrap()
}

/// One stream.
pub struct Sidecar {
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
    /// For the first request.
    node: Option<Node>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
    /// Of each type URL what is held: name to version.
    pub held: HashMap<String, HashMap<String, String>>,
}

impl Sidecar {
    pub async fn connect(plane: &Plane, pod: &str) -> Self {
        let url = format!("http://{}", plane.running.listen);
        let mut client = AggregatedDiscoveryServiceClient::connect(url)
            .await
            .unwrap();
        let (sender, receiver) = mpsc::channel(16);
        let id = format!("sidecar/shop/{pod}/{pod}-uid");
        let node = Some(Node {
            id,
            user_agent_version: "test".into(),
            ..Node::default()
        });
        let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver));
        let responses = tokio::time::timeout(PATIENCE, responses)
            .await
            .unwrap()
            .unwrap()
            .into_inner();
        Self {
            sender,
            node,
            responses,
            held: HashMap::new(),
        }
    }

    pub async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        self.sender.send(request).await.unwrap();
    }

    pub async fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// The next response, not answered yet.
    pub async fn receive(&mut self) -> DeltaDiscoveryResponse {
        let response = tokio::time::timeout(PATIENCE, self.responses.message());
        let response = response
            .await
            .expect("a response in time")
            .unwrap()
            .expect("a stream");
        let held = self.held.entry(response.type_url.clone()).or_default();
        for resource in &response.resources {
            held.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            held.remove(name);
        }
        response
    }

    pub async fn acknowledge(&mut self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub async fn refuse(&mut self, response: &DeltaDiscoveryResponse, why: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(Status {
                code: 3,
                message: why.into(),
                details: Vec::new(),
            }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// The next response, acknowledged.
    pub async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.receive().await;
        self.acknowledge(&response).await;
        response
    }

    /// That nothing comes, for long enough to notice.
    pub async fn nothing_comes(&mut self) {
        let quiet = tokio::time::timeout(Duration::from_millis(150), self.responses.message());
        if let Ok(response) = quiet.await {
            panic!("unexpected: {response:?}");
        }
    }
}

/// What is in a resource.
pub fn open<T: Message + Default>(resource: &Resource) -> T {
    T::decode(&*resource.resource.as_ref().unwrap().value).unwrap()
}
