//! A scripted control plane: delta ADS and the report stream, over resources
//! that the test puts, breaks and takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use prost::Message;
use remora_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use remora_proto::v1::reports_server::{Reports, ReportsServer};
use remora_proto::v1::{MeshShare, ReportAcknowledgement, SidecarReport};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

use crate::authority::{Authority, Issuing};
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone, Debug)]
struct Entry {
    version: String,
    aliases: Vec<String>,
    body: Vec<u8>,
}

/// What a sidecar said to a response.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The NACK's message; `None` is an ACK.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    resources: BTreeMap<(String, String), Entry>,
    versions: u64,
    verdicts: Vec<Verdict>,
    /// Responses, each of which gets a verdict.
    responses: usize,
    reports: Vec<SidecarReport>,
    streams: u64,
    /// `initial_resource_versions` of each stream's first requests.
    reconnected_with: Vec<String>,
    /// Every resource name that was sent, in order.
    sent: Vec<String>,
    /// Of limits of the mesh, for the next acknowledgement.
    shares: Vec<MeshShare>,
}

#[derive(Debug)]
struct Shared {
    authority: Option<Authority>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// The control plane; ends on drop.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Control {
    /// Listens on `address`.
    pub fn start(address: SocketAddr) -> Self {
        Self::start_with(address, None)
    }

    /// The same, encrypted and with certificates where there is an `authority`.
    pub fn start_with(address: SocketAddr, authority: Option<Authority>) -> Self {
        let mut control = Self {
            address,
            shared: Arc::new(Shared {
                authority,
                state: Mutex::default(),
                changed: watch::channel(0).0,
            }),
            server: None,
        };
        control.come_back();
        control
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        match self.shared.authority {
            Some(_) => format!("https://{}", self.address),
            None => format!("http://{}", self.address),
        }
    }

    /// Puts a resource, new or in another version.
    pub fn put(&self, type_url: &str, name: &str, aliases: Vec<String>, body: &impl Message) {
        let mut state = self.shared.state.lock().unwrap();
        state.versions += 1;
        let entry = Entry {
            version: state.versions.to_string(),
            aliases,
            body: body.encode_to_vec(),
        };
        state
            .resources
            .insert((type_url.to_owned(), name.to_owned()), entry);
        drop(state);
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Puts something that no sidecar can decode.
    pub fn put_garbage(&self, type_url: &str, name: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state.versions += 1;
        let version = state.versions.to_string();
        let key = (type_url.to_owned(), name.to_owned());
        if let Some(entry) = state.resources.get_mut(&key) {
            entry.version = version;
            entry.body = vec![0xff; 7];
        }
        drop(state);
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Takes a resource away.
    pub fn remove(&self, type_url: &str, name: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state
            .resources
            .remove(&(type_url.to_owned(), name.to_owned()));
        drop(state);
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// The process is gone: its connections break, and nobody listens.
    pub fn go_away(&mut self) {
        if let Some((stop, thread)) = self.server.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }

    /// The process is back, with the same resources. It has a runtime of its
    /// own, with which all its connections end.
    pub fn come_back(&mut self) {
        let (address, script) = (self.address, Script(Arc::clone(&self.shared)));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.set_reuseaddr(true).unwrap();
                socket.bind(address).unwrap();
                let listener: TcpListener = socket.listen(64).unwrap();
                let authority = script.0.authority.clone();
                let router = tonic::transport::Server::builder()
                    .add_service(AggregatedDiscoveryServiceServer::new(script.clone()))
                    .add_service(ReportsServer::new(script));
                let serving = async {
                    match authority {
                        None => {
                            let incoming = TcpListenerStream::new(listener);
                            router.serve_with_incoming(incoming).await
                        }
                        Some(authority) => {
                            let incoming = authority.encrypted(listener);
                            let router = router.add_service(Issuing::service(authority));
                            router.serve_with_incoming(incoming).await
                        }
                    }
                };
                tokio::select! {
                    served = serving => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        self.server = Some((stop, thread));
    }

    /// What was answered with a NACK so far.
    pub fn nacks(&self) -> Vec<String> {
        let state = self.shared.state.lock().unwrap();
        state
            .verdicts
            .iter()
            .filter_map(|verdict| verdict.error.clone())
            .collect()
    }

    /// How many ACKs have come.
    pub fn acks(&self) -> usize {
        let state = self.shared.state.lock().unwrap();
        state
            .verdicts
            .iter()
            .filter(|verdict| verdict.error.is_none())
            .count()
    }

    /// Whether all that was sent has been taken, or refused.
    pub fn is_settled(&self) -> bool {
        let state = self.shared.state.lock().unwrap();
        state.verdicts.len() == state.responses
    }

    /// How many streams were opened.
    pub fn streams(&self) -> u64 {
        self.shared.state.lock().unwrap().streams
    }

    /// Names that a new stream said to hold already.
    pub fn reconnected_with(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().reconnected_with.clone()
    }

    /// How often a resource of this name was sent.
    pub fn times_sent(&self, name: &str) -> usize {
        let state = self.shared.state.lock().unwrap();
        state.sent.iter().filter(|sent| *sent == name).count()
    }

    /// Gives a share of a limit of the mesh, with the next acknowledgement or at once.
    pub fn give(&self, share: MeshShare) {
        self.shared.state.lock().unwrap().shares.push(share);
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// All reports so far.
    pub fn reports(&self) -> Vec<SidecarReport> {
        self.shared.state.lock().unwrap().reports.clone()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.go_away();
    }
}

#[derive(Clone, Debug)]
struct Script(Arc<Shared>);

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Script {
    type DeltaAggregatedResourcesStream = Outgoing<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if let Some(authority) = &self.0.authority {
            authority.account(&request)?;
        }
        self.0.state.lock().unwrap().streams += 1;
        let (responses, outgoing) = mpsc::channel(64);
        let session = Session {
            shared: Arc::clone(&self.0),
            types: BTreeMap::new(),
            responses,
            nonce: 0,
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

#[tonic::async_trait]
impl Reports for Script {
    type ReportStream = Outgoing<ReportAcknowledgement>;

    async fn report(
        &self,
        request: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let (answers, outgoing) = mpsc::channel(64);
        let shared = Arc::clone(&self.0);
        let mut reports = request.into_inner();
        tokio::spawn(async move {
            let mut changed = shared.changed.subscribe();
            let mut sequence = 0;
            loop {
                let is_report = tokio::select! {
                    report = reports.message() => match report {
                        Ok(Some(report)) => {
                            sequence = report.sequence;
                            shared.state.lock().unwrap().reports.push(report);
                            true
                        }
                        _ => return,
                    },
                    _ = changed.changed() => false,
                };
                let mesh_shares = std::mem::take(&mut shared.state.lock().unwrap().shares);
                let is_news = is_report || !mesh_shares.is_empty();
                let acknowledgement = ReportAcknowledgement {
                    sequence,
                    mesh_shares,
                };
                if is_news && answers.send(Ok(acknowledgement)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

#[derive(Debug, Default)]
struct OfType {
    wanted: BTreeSet<String>,
    sent: BTreeMap<String, String>,
}

/// One stream.
struct Session {
    shared: Arc<Shared>,
    types: BTreeMap<String, OfType>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    nonce: u64,
}

impl Session {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request).await,
                    _ => return,
                },
                _ = changed.changed() => {
                    for type_url in self.types.keys().cloned().collect::<Vec<_>>() {
                        self.send_changes(&type_url, &BTreeSet::new(), true).await;
                    }
                }
            }
        }
    }

    async fn take(&mut self, request: DeltaDiscoveryRequest) {
        let of_type = self.types.entry(request.type_url.clone()).or_default();
        let knows = !request.initial_resource_versions.is_empty();
        {
            let mut state = self.shared.state.lock().unwrap();
            if !request.response_nonce.is_empty() {
                let error = request.error_detail.map(|detail| detail.message);
                state.verdicts.push(Verdict { error });
            }
            for (name, version) in request.initial_resource_versions {
                state.reconnected_with.push(name.clone());
                of_type.sent.insert(name, version);
            }
        }
        for name in &request.resource_names_unsubscribe {
            of_type.wanted.remove(name);
        }
        let new: BTreeSet<String> = request.resource_names_subscribe.into_iter().collect();
        of_type.wanted.extend(new.iter().cloned());
        if !new.is_empty() {
            self.send_changes(&request.type_url, &new, knows).await;
        }
    }

    /// `knows` is whether the sidecar has said which versions it holds.
    async fn send_changes(&mut self, type_url: &str, new: &BTreeSet<String>, knows: bool) {
        let Some(of_type) = self.types.get_mut(type_url) else {
            return;
        };
        let mut resources = Vec::new();
        let mut removed = Vec::new();
        let mut answered = BTreeSet::new();
        {
            let mut state = self.shared.state.lock().unwrap();
            let mut there = BTreeMap::new();
            for ((of, name), entry) in &state.resources {
                let by: Vec<&String> = of_type
                    .wanted
                    .iter()
                    .filter(|wanted| matches(wanted, name, &entry.aliases))
                    .collect();
                if of != type_url || by.is_empty() {
                    continue;
                }
                // A name that is new to the stream is answered whatever was sent by another.
                if !knows
                    && by
                        .iter()
                        .any(|wanted| new.contains(*wanted) && !wanted.ends_with('*'))
                {
                    of_type.sent.remove(name);
                }
                answered.extend(by.into_iter().cloned());
                there.insert(name.clone(), entry.clone());
            }
            for (name, entry) in &there {
                if of_type.sent.get(name) != Some(&entry.version) {
                    of_type.sent.insert(name.clone(), entry.version.clone());
                    resources.push(resource(type_url, name, entry));
                }
            }
            of_type.sent.retain(|name, _| {
                let kept = there.contains_key(name);
                if !kept {
                    removed.push(name.clone());
                }
                kept
            });
            state
                .sent
                .extend(resources.iter().map(|resource| resource.name.clone()));
        }
        removed.extend(
            of_type
                .wanted
                .iter()
                .filter(|name| !name.ends_with("/*"))
                .filter(|name| !answered.contains(*name))
                .filter(|name| new.contains(*name) || !removed.is_empty())
                .cloned()
                .collect::<Vec<_>>(),
        );
        let empty_glob = new.iter().any(|name| name.ends_with("/*"));
        if resources.is_empty() && removed.is_empty() && !empty_glob {
            return;
        }
        self.nonce += 1;
        self.shared.state.lock().unwrap().responses += 1;
        let response = DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            nonce: self.nonce.to_string(),
            resources,
            removed_resources: removed,
            ..DeltaDiscoveryResponse::default()
        };
        let _ = self.responses.send(Ok(response)).await;
    }
}

fn matches(wanted: &str, name: &str, aliases: &[String]) -> bool {
    wanted == name
        || aliases.iter().any(|alias| alias == wanted)
        || wanted
            .strip_suffix('*')
            .is_some_and(|prefix| name.starts_with(prefix))
}

fn resource(type_url: &str, name: &str, entry: &Entry) -> Resource {
    Resource {
        version: entry.version.clone(),
        resource: Some(prost_types::Any {
            type_url: type_url.to_owned(),
            value: entry.body.clone(),
        }),
        name: name.to_owned(),
        aliases: entry.aliases.clone(),
    }
}
