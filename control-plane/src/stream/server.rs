//! The shell of gRPC: one task for each stream, which carries requests into
//! its session and responses out of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use remora_proto::discovery::DeltaDiscoveryRequest;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::{Request, Response, Status, Streaming};

use super::peers::Peers;
use super::protocol::{self, Answer};
use super::sent::Sent;
use super::session::{MAX_TYPES, Node, Session, Violation};
use crate::core::store::{ResourceType, Store};
use crate::identity::gate::{self, Admitted};
use crate::reports::{Origin, Sidecars};

/// Bytes of one request: some 16,000 names with versions.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// How long a stream may stay without its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The path of the one method.
const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// `DeltaDiscoveryResponse` with resources that are encoded already: on the
/// wire an embedded message and the bytes of one are the same.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncodedResponse {
    /// Each an encoded `Resource`.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// The type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// To be answered.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Gone, or never there.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

impl EncodedResponse {
    fn new(type_url: String, response: protocol::Response) -> Self {
        Self {
            resources: response
                .resources
                .iter()
                .map(|resource| resource.encoded.clone())
                .collect(),
            type_url,
            nonce: response.nonce,
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The service.
#[derive(Clone)]
pub struct AdsServer {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    sidecars: Arc<Sidecars>,
    /// True once the source has told all it had at the start: before that an
    /// answer would take away what reconnecting sidecars rightly hold.
    synced: watch::Receiver<bool>,
    /// True when the process ends: streams end then too.
    ending: watch::Receiver<bool>,
    peers: Peers,
    sent: Arc<Sent>,
}

impl AdsServer {
    /// Serves what is in `store`.
    pub fn new(
        store: Arc<Store>,
        sidecars: Arc<Sidecars>,
        synced: watch::Receiver<bool>,
        ending: watch::Receiver<bool>,
        peers: Peers,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                sidecars,
                synced,
                ending,
                peers,
                sent: Arc::default(),
            }),
        }
    }

    /// What was sent so far, over all streams.
    pub fn sent(&self) -> Arc<Sent> {
        self.shared.sent.clone()
    }
}

type Responses = ReceiverStream<Result<EncodedResponse, Status>>;

struct Method(Arc<Shared>);

impl tonic::server::StreamingService<DeltaDiscoveryRequest> for Method {
    type Response = EncodedResponse;
    type ResponseStream = Responses;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let permit = shared.peers.admit(request.remote_addr())?;
            // Of each type at most one response is in flight, and one error.
            let (sender, receiver) = mpsc::channel(MAX_TYPES + 1);
            let admitted = request.extensions().get::<Admitted>().cloned();
            tokio::spawn(async move {
                let requests = request.into_inner();
                let ended = tokio::select! {
                    ended = serve(&shared, requests, &sender, admitted.clone()) => ended,
                    gone = gate::gone(&shared.store, admitted.as_ref()) => Err(gone),
                };
                if let Err(status) = ended {
                    tracing::debug!(code = ?status.code(), reason = status.message(), "stream ends");
                    // No place, or no receiver: then nobody wants the reason.
                    let _ = sender.try_send(Err(status));
                }
                drop(permit);
            });
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
    }
}

type Sender = mpsc::Sender<Result<EncodedResponse, Status>>;

async fn serve(
    shared: &Shared,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    sender: &Sender,
    admitted: Option<Admitted>,
) -> Result<(), Status> {
    let mut synced = shared.synced.clone();
    let mut ending = shared.ending.clone();
    let first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, requests.message());
    let first = first
        .await
        .map_err(|_| Status::deadline_exceeded("no request came"))??;
    let Some(first) = first else {
        return Ok(());
    };
    let node = first.node.clone().unwrap_or_default();
    let identity = Node::parse(&node.id).map_err(refuse)?;
    if let Some(admitted) = &admitted {
        admitted.is(&identity)?;
    }
    let mut session = Session::new(shared.store.clone(), identity, admitted.clone());
    // What all may read, who has a pod's token may read anywhere; what it says is
    // the pod's word only from there.
    let speaks = || {
        let at_home = |admitted| gate::at_home(&shared.store, admitted).is_ok();
        admitted.as_ref().is_none_or(at_home)
    };
    let _connected = speaks().then(|| {
        let version = &node.user_agent_version;
        shared
            .sidecars
            .connect(session.node(), version, Origin::Stream)
    });
    tracing::debug!(node = %node.id, "a sidecar's stream begins");
    tokio::select! {
        _ = synced.wait_for(|synced| *synced) => {}
        _ = ending.wait_for(|ending| *ending) => return Err(leaving()),
    }
    take(shared, &mut session, first, &speaks)?;
    let mailbox = session.mailbox();
    loop {
        for (type_url, response) in session.responses() {
            let kind = ResourceType::from_url(&type_url);
            let response = EncodedResponse::new(type_url, response);
            let (resources, bytes) = (response.resources.len(), response.encoded_len());
            shared.sent.count(kind, resources, bytes);
            if sender.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => take(shared, &mut session, request, &speaks)?,
                None => return Ok(()),
            },
            () = mailbox.changed() => {}
            () = sender.closed() => return Ok(()),
            _ = ending.wait_for(|ending| *ending) => return Err(leaving()),
        }
    }
}

fn take(
    shared: &Shared,
    session: &mut Session,
    request: DeltaDiscoveryRequest,
    speaks: &impl Fn() -> bool,
) -> Result<(), Status> {
    let type_url = request.type_url.clone();
    match session.request(request).map_err(refuse)? {
        Answer::None => {}
        _ if !speaks() => {}
        Answer::Accepted(resources) => {
            shared
                .sidecars
                .accepted(session.node(), &type_url, &resources);
        }
        Answer::Refused(resources, reason) => {
            let names: Vec<&str> = resources.iter().map(|(name, _)| &**name).collect();
            let node = session.node();
            tracing::warn!(
                namespace = node.namespace,
                pod = node.pod,
                ?names,
                ?reason,
                "a sidecar refused resources"
            );
            shared
                .sidecars
                .refused(node, &type_url, &resources, &reason);
        }
    }
    Ok(())
}

fn refuse(violation: Violation) -> Status {
    match violation {
        Violation::NodeId(_) | Violation::Name => Status::invalid_argument(violation.to_string()),
        Violation::TooManySubscriptions | Violation::TooManyTypes => {
            Status::resource_exhausted(violation.to_string())
        }
    }
}

fn leaving() -> Status {
    Status::unavailable("the control plane is ending; connect again")
}

impl<B> Service<http::Request<B>> for AdsServer
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != PATH {
            return Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) });
        }
        let method = Method(self.shared.clone());
        Box::pin(async move {
            let codec =
                tonic_prost::ProstCodec::<EncodedResponse, DeltaDiscoveryRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec)
                .apply_max_message_size_config(Some(MAX_REQUEST_BYTES), None);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

impl tonic::server::NamedService for AdsServer {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}
