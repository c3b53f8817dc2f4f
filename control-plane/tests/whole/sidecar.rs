//! A scripted sidecar, and a reader of the admin endpoint.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use remora_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use remora_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status as Refused;
use tonic::transport::{Channel, Endpoint};

/// Nothing here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What an HTTP endpoint answers to a GET: head and body.
pub async fn fetch(endpoint: SocketAddr, path: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(endpoint).await.unwrap();
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
    /// To the streams at `listen`, as the node `id`.
    pub async fn connect_as(listen: SocketAddr, id: String) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{listen}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self::begin(channel, id, None).await.unwrap()
    }

    /// Over this connection, with the token where there is one.
    pub async fn begin(channel: Channel, id: String, token: Option<&str>) -> Result<Self, Refused> {
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let (sender, receiver) = mpsc::channel(16);
        let node = Some(Node {
            id,
            user_agent_version: "test".into(),
            ..Node::default()
        });
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let responses = client.delta_aggregated_resources(request);
        let responses = tokio::time::timeout(PATIENCE, responses).await.unwrap()?;
        Ok(Self {
            sender,
            node,
            responses: responses.into_inner(),
            held: HashMap::new(),
        })
    }

    /// By what the stream is ended.
    pub async fn end(&mut self) -> Refused {
        let ended = tokio::time::timeout(PATIENCE, self.ended());
        ended.await.expect("an end in time")
    }

    /// The same, whenever it comes and whatever comes before.
    pub async fn ended(&mut self) -> Refused {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => return status,
            }
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
