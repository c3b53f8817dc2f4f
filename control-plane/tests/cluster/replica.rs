//! Replicas of the control plane, sidecars that report by hand, and what is
//! read of policies and Events.

use std::net::SocketAddr;

use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams};
use remora_control_plane::identity::Options as IdentityOptions;
use remora_control_plane::leader::Replica;
use remora_control_plane::policy::status::TrafficPolicyStatus;
use remora_control_plane::{Options, Running, Source, start_as};
use remora_proto::v1::reports_client::ReportsClient;
use remora_proto::v1::{self, SidecarReport};
use remora_proto::well_known::SERVICE_TYPE;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::sidecar::{Sidecar, fetch, open};
use crate::world::{World, eventually};

/// A replica of the control plane.
pub struct Plane {
    pub running: Running,
}

impl Plane {
    pub async fn start(world: &World, pod: &str) -> Self {
        Self::start_with(world, pod, IdentityOptions::default()).await
    }

    pub async fn start_with(world: &World, pod: &str, identity: IdentityOptions) -> Self {
        let options = Options {
            sources: vec![Source::Kubernetes],
            listen: "127.0.0.1:0".parse().unwrap(),
            admin: "127.0.0.1:0".parse().unwrap(),
            identity,
        };
        let pod = pod.to_owned();
        let namespace = world.namespace.clone();
        let replica = move |listen: SocketAddr| {
            Ok(Some(Replica {
                namespace,
                pod,
                reports_address: listen,
            }))
        };
        let running = start_as(options, replica).await.unwrap();
        let plane = Self { running };
        eventually("the control plane to be ready", async || {
            let head = fetch(plane.running.admin, "/ready").await.0;
            head.contains(" 200 ").then_some(())
        })
        .await;
        plane
    }

    pub async fn leader(&self) -> Value {
        let leader = fetch(self.running.admin, "/leader").await.1;
        serde_json::from_str(&leader).unwrap()
    }

    pub async fn metric(&self, name: &str) -> u64 {
        let metrics = fetch(self.running.admin, "/metrics").await.1;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the metric").trim().parse().unwrap()
    }

    pub async fn until_leading(&self) {
        eventually("this replica to lead", async || {
            (self.leader().await["leading"] == true).then_some(())
        })
        .await;
    }
}

/// What a sidecar reports, by hand.
pub struct Reports(mpsc::Sender<SidecarReport>);

impl Reports {
    pub async fn to(address: SocketAddr, namespace: &str, pod: &str) -> Self {
        let url = format!("http://{address}");
        let mut client = ReportsClient::connect(url).await.unwrap();
        let (sender, receiver) = mpsc::channel(16);
        let first = SidecarReport {
            sequence: 1,
            sidecar: Some(v1::SidecarIdentity {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                pod_uid: "u".to_owned(),
                version: "1".to_owned(),
            }),
            ..SidecarReport::default()
        };
        sender.send(first).await.unwrap();
        let answers = client.report(ReceiverStream::new(receiver)).await.unwrap();
        tokio::spawn(async move {
            let mut answers = answers.into_inner();
            while let Ok(Some(_)) = answers.message().await {}
        });
        Self(sender)
    }

    pub async fn tell(&self, report: SidecarReport) {
        self.0.send(report).await.unwrap();
    }
}

pub fn service() -> Value {
    json!({"spec": {"ports": [{"name": "http", "port": 8080}]}})
}

pub fn policy(service: &str, failures: u32) -> Value {
    json!({"spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": service}],
        "circuitBreaker": {"consecutiveFailures": failures},
    }})
}

pub async fn status(world: &World, name: &str) -> Option<TrafficPolicyStatus> {
    let object = world.api("TrafficPolicy").get(name).await.unwrap();
    serde_json::from_value(object.data["status"].clone()).ok()
}

/// Waits for a status of which this holds.
pub async fn until(
    world: &World,
    name: &str,
    what: &str,
    holds: impl Fn(&TrafficPolicyStatus) -> bool,
) -> TrafficPolicyStatus {
    eventually(what, async || {
        status(world, name).await.filter(|status| holds(status))
    })
    .await
}

pub fn reason(status: &TrafficPolicyStatus) -> &str {
    status
        .conditions
        .first()
        .map_or("", |condition| condition.reason.as_str())
}

/// The notes of the Events of a reason about an object.
pub async fn events(world: &World, about: &str, reason: &str) -> Vec<String> {
    let events: Api<DynamicObject> = world.api("Event");
    let listed = events.list(&ListParams::default()).await.unwrap();
    let wanted = listed
        .items
        .into_iter()
        .filter(|event| event.data["regarding"]["name"] == about && event.data["reason"] == reason);
    wanted
        .map(|event| event.data["note"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// `[total, applied, refused]`
pub fn counts(status: &TrafficPolicyStatus) -> [u32; 3] {
    let counts = status.sidecars.unwrap_or_default();
    [counts.total, counts.applied, counts.refused]
}

/// Waits for an Event; its note.
pub async fn event(world: &World, about: &str, reason: &str) -> String {
    eventually(&format!("an Event {reason}"), async || {
        let told = events(world, about, reason).await;
        told.into_iter().next()
    })
    .await
}

/// The version of a policy's object: it rises with each write of its status.
pub async fn version(world: &World, policy: &str) -> String {
    let object = world.api("TrafficPolicy").get(policy).await.unwrap();
    object.resource_version().unwrap()
}

/// A Service and a policy for it, with all that its status will have.
pub async fn settled(world: &World) -> TrafficPolicyStatus {
    world.apply("Service", "catalog", service()).await;
    let three = policy("catalog", 3);
    world.apply("TrafficPolicy", "catalog", three).await;
    // Until the counts have come once it may still be written.
    until(world, "catalog", "the counts", |status| {
        reason(status) == "Accepted" && status.sidecars.is_some()
    })
    .await
}

/// Takes a Service until it has a policy, and refuses that one; its version.
pub async fn refuse_policy(sidecar: &mut Sidecar, name: &str, why: &str) -> String {
    sidecar.subscribe(SERVICE_TYPE, &[name]).await;
    loop {
        let response = sidecar.receive().await;
        let with_policy = response.resources.iter().find(|resource| {
            let service: v1::Service = open(resource);
            !service.policies.is_empty()
        });
        match with_policy {
            Some(resource) => {
                let why = format!("{name}: {why}");
                sidecar.refuse(&response, &why).await;
                return resource.version.clone();
            }
            None => sidecar.acknowledge(&response).await,
        }
    }
}

/// A breaker of a caller that opens now.
pub fn opened(service: &str, endpoint: &str) -> v1::BreakerChange {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    v1::BreakerChange {
        service: service.to_owned(),
        endpoint: endpoint.to_owned(),
        to: v1::breaker_change::State::Open.into(),
        at_ms: now.as_millis() as u64,
        cause: "3 consecutive failures".to_owned(),
        ..v1::BreakerChange::default()
    }
}

/// How often each Event about an object was repeated, where it was.
pub async fn repetitions(world: &World, about: &str) -> Vec<i64> {
    let listed = world.api("Event").list(&ListParams::default()).await;
    let about = listed
        .unwrap()
        .items
        .into_iter()
        .filter(|event| event.data["regarding"]["name"] == about);
    about
        .filter_map(|event| event.data["series"]["count"].as_i64())
        .collect()
}
