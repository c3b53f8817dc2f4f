//! A control plane that says what another one said: each recorded response is
//! sent once the sidecar has asked for all that was asked for when it was
//! recorded, has answered the one before, and the world is that far.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use prost::Message;
use prost::bytes::Bytes;
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use remora_proto::v1::{ReportAcknowledgement, SidecarReport};
use tokio::sync::{mpsc, watch};

use super::server::{self, Opened};
use crate::exchange::{Channel, Line};

/// What is changed in each message before it is sent.
pub type Change = Arc<dyn Fn(Channel, Vec<u8>) -> Vec<u8> + Send + Sync>;

#[derive(Clone)]
struct Step {
    world: usize,
    type_url: String,
    asked: BTreeSet<String>,
    bytes: Vec<u8>,
}

/// What the sidecar said.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub streams: usize,
    /// Reasons, by type.
    pub nacks: Vec<(String, String)>,
    pub reports: Vec<SidecarReport>,
}

#[derive(Clone)]
struct Shared {
    steps: Vec<Step>,
    acknowledgements: BTreeMap<u64, Vec<u8>>,
    change: Change,
    world: watch::Receiver<usize>,
    heard: Arc<Mutex<Heard>>,
}

/// The control plane; ends on drop.
pub struct Player {
    pub url: String,
    world: watch::Sender<usize>,
    heard: Arc<Mutex<Heard>>,
    task: tokio::task::JoinHandle<()>,
}

impl Player {
    pub async fn start(address: SocketAddr, lines: &[Line], change: Change) -> Self {
        let listener = crate::bind(address).await;
        let (world, follow) = watch::channel(0);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let shared = Shared {
            steps: steps(lines),
            acknowledgements: acknowledgements(lines),
            change,
            world: follow,
            heard: Arc::clone(&heard),
        };
        let task = tokio::spawn(async move {
            let (opened, mut streams) = mpsc::channel(4);
            let serving = tokio::spawn(server::serve(listener, opened));
            while let Some(stream) = streams.recv().await {
                let shared = shared.clone();
                match stream.channel {
                    Channel::Stream => drop(tokio::spawn(configure(stream, shared))),
                    Channel::Reports => drop(tokio::spawn(acknowledge(stream, shared))),
                }
            }
            serving.abort();
        });
        let url = format!("http://{address}");
        Self {
            url,
            world,
            heard,
            task,
        }
    }

    pub fn world(&self, number: usize) {
        self.world.send_replace(number);
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The responses on the stream of configuration, each with what had been asked
/// for before it.
fn steps(lines: &[Line]) -> Vec<Step> {
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut worlds, mut steps) = (0_usize, Vec::new());
    for line in lines {
        match line {
            Line::World(_) => worlds += 1,
            Line::FromSidecar(Channel::Stream, bytes) => {
                let request = DeltaDiscoveryRequest::decode(&**bytes).unwrap();
                let of_type = asked.entry(request.type_url).or_default();
                of_type.extend(request.resource_names_subscribe);
            }
            Line::FromControlPlane(Channel::Stream, bytes) => {
                let response = DeltaDiscoveryResponse::decode(&**bytes).unwrap();
                steps.push(Step {
                    world: worlds.saturating_sub(1),
                    asked: asked.get(&response.type_url).cloned().unwrap_or_default(),
                    type_url: response.type_url,
                    bytes: bytes.clone(),
                });
            }
            _ => {}
        }
    }
    steps
}

fn acknowledgements(lines: &[Line]) -> BTreeMap<u64, Vec<u8>> {
    let acknowledgements = lines.iter().filter_map(|line| match line {
        Line::FromControlPlane(Channel::Reports, bytes) => {
            let sequence = ReportAcknowledgement::decode(&**bytes).unwrap().sequence;
            Some((sequence, bytes.clone()))
        }
        _ => None,
    });
    acknowledgements.collect()
}

/// One stream of configuration.
async fn configure(mut stream: Opened, mut shared: Shared) {
    shared.heard.lock().unwrap().streams += 1;
    let mut left = std::mem::take(&mut shared.steps);
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut unanswered = BTreeSet::new();
    loop {
        let world = *shared.world.borrow_and_update();
        let mut waiting = unanswered.clone();
        for step in std::mem::take(&mut left) {
            // What nobody asked for is pushed with whatever is asked first.
            let has_asked = match asked.get(&step.type_url) {
                Some(asked) => asked.is_superset(&step.asked),
                None => step.asked.is_empty() && !asked.is_empty(),
            };
            if has_asked && step.world <= world && !waiting.contains(&step.type_url) {
                let bytes = (shared.change)(Channel::Stream, step.bytes);
                unanswered.insert(step.type_url.clone());
                let _ = stream.responses.send(Ok(Bytes::from(bytes))).await;
                waiting.insert(step.type_url);
            } else {
                waiting.insert(step.type_url.clone());
                left.push(step);
            }
        }
        tokio::select! {
            changed = shared.world.changed() => if changed.is_err() { return },
            request = stream.requests.message() => {
                let Ok(Some(bytes)) = request else { return };
                let request = DeltaDiscoveryRequest::decode(bytes).unwrap();
                if !request.response_nonce.is_empty() {
                    unanswered.remove(&request.type_url);
                }
                if let Some(error) = request.error_detail {
                    let nack = (request.type_url.clone(), error.message);
                    shared.heard.lock().unwrap().nacks.push(nack);
                }
                let of_type = asked.entry(request.type_url).or_default();
                of_type.extend(request.resource_names_subscribe);
            }
        }
    }
}

/// One stream of reports.
async fn acknowledge(mut stream: Opened, shared: Shared) {
    while let Ok(Some(bytes)) = stream.requests.message().await {
        let report = SidecarReport::decode(bytes).unwrap();
        let sequence = report.sequence;
        let recorded = shared.acknowledgements.get(&sequence).cloned();
        let answer = recorded.unwrap_or_else(|| {
            ReportAcknowledgement {
                sequence,
                ..Default::default()
            }
            .encode_to_vec()
        });
        shared.heard.lock().unwrap().reports.push(report);
        let answer = (shared.change)(Channel::Reports, answer);
        if stream
            .responses
            .send(Ok(Bytes::from(answer)))
            .await
            .is_err()
        {
            return;
        }
    }
}
