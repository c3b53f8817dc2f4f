//! Sidecars of other versions: an older one's recorded requests and reports,
//! and a newer one's, with what nobody here knows.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost::bytes::Bytes;
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use remora_proto::v1;
use remora_proto::v1::breaker_change::State;
use remora_proto::well_known::{ENDPOINT_TYPE, SERVICE_TYPE, WORKLOAD_TYPE};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::{PATIENCE, Plane, Sidecar, open};
use crate::exchange::{self, Channel, Line};
use crate::newer::Contract;
use crate::raw;

/// What is changed in a message of this name before it is sent.
type Change<'a> = &'a dyn Fn(&str, Vec<u8>) -> Vec<u8>;

/// One stream, bytes only.
struct Raw {
    sender: mpsc::Sender<Bytes>,
    answers: Streaming<Bytes>,
}

impl Raw {
    async fn open(plane: &Plane, channel: Channel) -> Self {
        let (sender, receiver) = mpsc::channel(16);
        let url = format!("http://{}", plane.running.listen);
        let opening = raw::open(url, channel, ReceiverStream::new(receiver));
        let answers = tokio::time::timeout(PATIENCE, opening).await.unwrap();
        Self {
            sender,
            answers: answers.unwrap(),
        }
    }

    async fn send(&self, bytes: Vec<u8>) {
        self.sender.send(bytes.into()).await.unwrap();
    }

    async fn receive<T: Message + Default>(&mut self) -> T {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let answer = answer.expect("an answer in time").unwrap();
        T::decode(answer.expect("a stream")).unwrap()
    }
}

type Responses = BTreeMap<String, DeltaDiscoveryResponse>;

/// Sends what a sidecar sent, in its order. An answer to a response waits for
/// today's response of that type, and names its nonce. Returns today's
/// responses beside the recorded ones.
async fn replayed(
    plane: &Plane,
    change: Change<'_>,
) -> Vec<(DeltaDiscoveryResponse, DeltaDiscoveryResponse)> {
    let mut stream = Raw::open(plane, Channel::Stream).await;
    let mut reports = Raw::open(plane, Channel::Reports).await;
    let (mut recorded, mut waiting) = (Responses::new(), Responses::new());
    let mut pairs = Vec::new();
    for line in exchange::older() {
        match line {
            Line::World(yaml) => plane.write("world.yaml", &yaml),
            Line::FromControlPlane(Channel::Stream, bytes) => {
                let response = DeltaDiscoveryResponse::decode(&*bytes).unwrap();
                recorded.insert(response.type_url.clone(), response);
            }
            Line::FromSidecar(Channel::Stream, mut bytes) => {
                let mut request = DeltaDiscoveryRequest::decode(&*bytes).unwrap();
                if !request.response_nonce.is_empty() {
                    while !waiting.contains_key(&request.type_url) {
                        let response: DeltaDiscoveryResponse = stream.receive().await;
                        waiting.insert(response.type_url.clone(), response);
                    }
                    let today = waiting.remove(&request.type_url).unwrap();
                    if today.nonce != request.response_nonce {
                        request.response_nonce = today.nonce.clone();
                        bytes = request.encode_to_vec();
                    }
                    pairs.push((recorded.remove(&request.type_url).unwrap(), today));
                }
                let name = "envoy.service.discovery.v3.DeltaDiscoveryRequest";
                stream.send(change(name, bytes)).await;
            }
            Line::FromSidecar(Channel::Reports, bytes) => {
                let sequence = v1::SidecarReport::decode(&*bytes).unwrap().sequence;
                reports.send(change("remora.v1.SidecarReport", bytes)).await;
                let answer: v1::ReportAcknowledgement = reports.receive().await;
                assert_eq!(answer.sequence, sequence);
            }
            Line::FromControlPlane(Channel::Reports, _) => {}
        }
    }
    assert!(waiting.is_empty(), "nobody asked for {waiting:?}");
    shown(plane).await;
    pairs
}

/// What operators see of that sidecar, while it is connected.
async fn shown(plane: &Plane) {
    let sidecars = plane.admin("/sidecars").await;
    let sidecar = &sidecars[0];
    assert_eq!(sidecar["pod"], "web-1", "{sidecars}");
    assert_eq!(sidecar["version"], "0.1.0");
    assert_eq!(sidecar["connected"], true);
    // Its Workload, catalog, and the endpoint that is left.
    assert_eq!(sidecar["applied"], 3, "{sidecars}");
    assert_eq!(sidecar["refused"], serde_json::json!([]));
    let breaker = &sidecar["breakers"][0];
    assert_eq!(breaker["endpoint"], "catalog-1", "{sidecars}");
    assert_eq!(breaker["state"], "open", "{sidecars}");
}

/// What the YAML of the exchange says, as the stream carries it.
#[derive(Debug, PartialEq)]
enum Use {
    Service(String, Vec<v1::ServicePort>, Vec<Bytes>, Policy),
    Endpoint(String, Bytes, u32, bool),
    Workload(String, Bytes, Vec<(u32, i32, Option<RateLimit>)>),
}

/// Failures in a row, requests at once, retries, the request's timeout.
type Policy = (Option<u32>, Option<u32>, Option<u32>, Option<u64>);
/// Name, requests, period, burst.
type RateLimit = (String, u32, u64, u32);

/// What an older sidecar lives on of a response.
fn uses(response: &DeltaDiscoveryResponse) -> Vec<Use> {
    let resources = response.resources.iter();
    let of = resources.map(|resource| match response.type_url.as_str() {
        SERVICE_TYPE => {
            let service: v1::Service = open(resource);
            let policy = service.policy.unwrap_or_default();
            let breaker = policy.circuit_breaker.unwrap_or_default();
            let policy = (
                breaker.trip.map(|trip| trip.consecutive_failures),
                breaker.limits.and_then(|limits| limits.max_requests),
                policy.retries.map(|retries| retries.attempts),
                policy.timeouts.and_then(|timeouts| timeouts.request_ms),
            );
            let name = resource.name.clone();
            Use::Service(name, service.ports, service.addresses, policy)
        }
        ENDPOINT_TYPE => {
            let endpoint: v1::Endpoint = open(resource);
            let (address, port) = (endpoint.address, endpoint.target_port);
            Use::Endpoint(resource.name.clone(), address, port, endpoint.ready)
        }
        WORKLOAD_TYPE => {
            let workload: v1::Workload = open(resource);
            let limit =
                |one: &v1::RateLimit| (one.name.clone(), one.requests, one.per_ms, one.burst);
            let ports = workload.ports.iter();
            let ports =
                ports.map(|one| (one.port, one.protocol, one.rate_limits.first().map(limit)));
            let (address, ports) = (workload.addresses[0].clone(), ports.collect());
            Use::Workload(resource.name.clone(), address, ports)
        }
        other => panic!("{other}"),
    });
    of.collect()
}

async fn plane() -> Plane {
    let world = exchange::older().into_iter().find_map(|line| match line {
        Line::World(yaml) => Some(yaml),
        _ => None,
    });
    Plane::new(&[("world.yaml", &world.unwrap())]).await
}

#[tokio::test]
async fn an_older_sidecar_is_told_what_it_was_told_by_its_own_control_plane() {
    let plane = plane().await;
    let pairs = replayed(&plane, &|_, bytes| bytes).await;
    let types: BTreeSet<&str> = pairs.iter().map(|(one, _)| one.type_url.as_str()).collect();
    assert_eq!(types.len(), 3, "{types:?}");
    for (recorded, today) in &pairs {
        assert_eq!(uses(recorded), uses(today));
        assert_eq!(recorded.removed_resources, today.removed_resources);
    }
}

#[tokio::test]
async fn a_newer_sidecar_with_fields_that_nobody_knows_is_served_as_any_other() {
    let (plane, contract) = (plane().await, Contract::load());
    let newer = |message: &str, bytes: Vec<u8>| contract.with_unknown_fields(message, &bytes);
    let pairs = replayed(&plane, &newer).await;
    assert!(
        pairs
            .iter()
            .all(|(recorded, today)| uses(recorded) == uses(today))
    );
}

#[tokio::test]
async fn a_newer_sidecar_that_asks_for_a_later_type_is_told_that_there_is_none() {
    let plane = plane().await;
    let mut sidecar = Sidecar::connect(&plane, "web-1").await;
    let later = "type.googleapis.com/remora.v1.Later";
    sidecar.subscribe(later, &["shop/later"]).await;
    let response = sidecar.take().await;
    assert_eq!(response.type_url, later);
    assert_eq!(response.removed_resources, ["shop/later"]);
    sidecar.subscribe(SERVICE_TYPE, &["shop/catalog"]).await;
    assert_eq!(sidecar.take().await.resources.len(), 1);
}

#[tokio::test]
async fn what_a_newer_sidecar_reports_in_later_words_is_passed_over() {
    let plane = plane().await;
    let mut reports = Raw::open(&plane, Channel::Reports).await;
    let change = |to: i32| v1::BreakerChange {
        service: "shop/catalog".into(),
        endpoint: "catalog-1".into(),
        from: 77,
        to,
        ..v1::BreakerChange::default()
    };
    let applied = |type_url: &str| v1::AppliedResource {
        type_url: type_url.into(),
        name: "shop/catalog".into(),
        version: "1".into(),
    };
    let mut report = v1::SidecarReport {
        sequence: 1,
        sidecar: Some(v1::SidecarIdentity {
            namespace: "shop".into(),
            pod: "web-1".into(),
            ..v1::SidecarIdentity::default()
        }),
        applied: vec![
            applied(SERVICE_TYPE),
            applied("type.googleapis.com/remora.v1.Later"),
        ],
        breaker_changes: vec![change(State::Open.into())],
        ..v1::SidecarReport::default()
    };
    reports.send(report.encode_to_vec()).await;
    let _: v1::ReportAcknowledgement = reports.receive().await;
    let shown = plane.admin("/sidecars").await;
    assert_eq!(shown[0]["applied"], 1, "{shown}");
    assert_eq!(shown[0]["breakers"][0]["state"], "open", "{shown}");

    // A state that has no name here is none of those that are told of.
    (report.sequence, report.breaker_changes) = (2, vec![change(77)]);
    reports.send(report.encode_to_vec()).await;
    let answer: v1::ReportAcknowledgement = reports.receive().await;
    assert_eq!(answer.sequence, 2);
    let shown = plane.admin("/sidecars").await;
    assert_eq!(shown[0]["breakers"], serde_json::json!([]), "{shown}");
}
