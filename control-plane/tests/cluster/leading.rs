//! Who leads, what the leader writes, and that another takes over.

use std::net::SocketAddr;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams};
use remora_control_plane::leader::Replica;
use remora_control_plane::policy::status::TrafficPolicyStatus;
use remora_control_plane::{Options, Running, Source, start_as};
use remora_proto::v1::reports_client::ReportsClient;
use remora_proto::v1::{self, SidecarReport};
use remora_proto::well_known::{SERVICE_TYPE, WORKLOAD_TYPE};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::sidecar::{Sidecar, fetch, open};
use crate::world::{World, eventually};

/// A replica of the control plane.
struct Plane {
    running: Running,
}

impl Plane {
    async fn start(world: &World, pod: &str) -> Self {
        let options = Options {
            sources: vec![Source::Kubernetes],
            listen: "127.0.0.1:0".parse().unwrap(),
            admin: "127.0.0.1:0".parse().unwrap(),
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

    async fn leader(&self) -> Value {
        let leader = fetch(self.running.admin, "/leader").await.1;
        serde_json::from_str(&leader).unwrap()
    }

    async fn metric(&self, name: &str) -> u64 {
        let metrics = fetch(self.running.admin, "/metrics").await.1;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the metric").trim().parse().unwrap()
    }

    async fn until_leading(&self) {
        eventually("this replica to lead", async || {
            (self.leader().await["leading"] == true).then_some(())
        })
        .await;
    }
}

/// What a sidecar reports, by hand.
struct Reports(mpsc::Sender<SidecarReport>);

impl Reports {
    async fn to(address: SocketAddr, namespace: &str, pod: &str) -> Self {
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

    async fn tell(&self, report: SidecarReport) {
        self.0.send(report).await.unwrap();
    }
}

fn service() -> Value {
    json!({"spec": {"ports": [{"name": "http", "port": 8080}]}})
}

fn policy(service: &str, failures: u32) -> Value {
    json!({"spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": service}],
        "circuitBreaker": {"consecutiveFailures": failures},
    }})
}

async fn status(world: &World, name: &str) -> Option<TrafficPolicyStatus> {
    let object = world.api("TrafficPolicy").get(name).await.unwrap();
    serde_json::from_value(object.data["status"].clone()).ok()
}

/// Waits for a status of which this holds.
async fn until(
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

fn reason(status: &TrafficPolicyStatus) -> &str {
    status
        .conditions
        .first()
        .map_or("", |condition| condition.reason.as_str())
}

/// The notes of the Events of a reason about an object.
async fn events(world: &World, about: &str, reason: &str) -> Vec<String> {
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

#[tokio::test]
async fn one_replica_leads_and_when_it_dies_the_other_does_and_the_status_stays_true() {
    let Some(world) = World::new().await else {
        return;
    };
    let one = Plane::start(&world, "plane-1").await;
    one.until_leading().await;
    let two = Plane::start(&world, "plane-2").await;
    eventually("the second to know the first", async || {
        (two.leader().await["leader"] == "plane-1").then_some(())
    })
    .await;
    assert_eq!(two.leader().await["leading"], false);
    assert_eq!(
        two.leader().await["reports_address"],
        one.running.listen.to_string()
    );
    assert_eq!(
        (
            one.metric("remora_leader ").await,
            two.metric("remora_leader ").await
        ),
        (1, 0)
    );

    world.apply("Service", "catalog", service()).await;
    world
        .apply("TrafficPolicy", "catalog", policy("catalog", 3))
        .await;
    let first = until(&world, "catalog", "the status", |status| {
        reason(status) == "Accepted"
    })
    .await;
    assert_eq!(first.ancestors.len(), 1);
    let version = async || {
        let object = world.api("TrafficPolicy").get("catalog").await.unwrap();
        object.resource_version().unwrap()
    };
    // Until the counts have come once it may still be written.
    until(&world, "catalog", "the counts", |status| {
        status.sidecars.is_some()
    })
    .await;
    let settled = version().await;

    // No goodbye: its tasks are gone as if its node was.
    drop(one);
    let begun = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    two.until_leading().await;
    let took = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() - begun;
    assert!(took < Duration::from_secs(20), "{took:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        version().await,
        settled,
        "what is right is not written again"
    );
    assert_eq!(
        two.metric("remora_status_writes_total{result=\"written\"} ")
            .await,
        0
    );

    world.delete("Service", "catalog").await;
    let gone = until(&world, "catalog", "the new leader's status", |status| {
        reason(status) == "TargetNotFound"
    })
    .await;
    assert_eq!(gone.conditions[0].status, "False");
    eventually("an Event of it", async || {
        let told = events(&world, "catalog", "TargetNotFound").await;
        (told.len() == 1).then_some(())
    })
    .await;
    // A good end hands over at once.
    let three = Plane::start(&world, "plane-3").await;
    two.running.stop().await;
    let handed = tokio::time::timeout(Duration::from_secs(3), three.until_leading());
    handed.await.expect("at once");
    // One that starts and leads has read nothing yet, and writes nothing over
    // what is right.
    three.running.stop().await;
    let settled = version().await;
    let four = Plane::start(&world, "plane-4").await;
    four.until_leading().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(version().await, settled);
    four.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn what_sidecars_refuse_and_break_off_is_in_the_status_and_in_events() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    let namespace = world.namespace.clone();
    world.apply("Service", "catalog", service()).await;
    world.pod("catalog-1", &["10.9.0.1"]).await;
    world
        .apply("TrafficPolicy", "catalog", policy("catalog", 3))
        .await;

    let id = format!("sidecar/{namespace}/web-1/u");
    let mut sidecar = Sidecar::connect_as(plane.running.listen, id).await;
    let name = format!("{namespace}/catalog");
    sidecar.subscribe(SERVICE_TYPE, &[&name]).await;
    let reports = Reports::to(plane.running.listen, &namespace, "web-1").await;
    let resource = loop {
        let response = sidecar.receive().await;
        let with_policy = response.resources.iter().find(|resource| {
            let service: v1::Service = open(resource);
            !service.policies.is_empty()
        });
        match with_policy.cloned() {
            Some(resource) => {
                let why = format!("{name}: policy.circuit_breaker: no");
                sidecar.refuse(&response, &why).await;
                break resource;
            }
            None => sidecar.acknowledge(&response).await,
        }
    };
    let counts = |status: &TrafficPolicyStatus| {
        let counts = status.sidecars.unwrap_or_default();
        [counts.total, counts.applied, counts.refused]
    };
    until(&world, "catalog", "a refusal", |status| {
        counts(status) == [1, 0, 1]
    })
    .await;
    let told = eventually("an Event of it", async || {
        let told = events(&world, "catalog", "Refused").await;
        told.into_iter().next()
    })
    .await;
    assert!(
        told.contains("policy.circuit_breaker: no") && told.contains("web-1"),
        "{told}"
    );

    let now_ms = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_millis() as u64;
    let opened = v1::BreakerChange {
        service: name.clone(),
        endpoint: "catalog-1".to_owned(),
        to: v1::breaker_change::State::Open.into(),
        at_ms: now_ms,
        cause: "3 consecutive failures".to_owned(),
        ..v1::BreakerChange::default()
    };
    let applied = v1::AppliedResource {
        type_url: SERVICE_TYPE.to_owned(),
        name: name.clone(),
        version: resource.version.clone(),
    };
    reports
        .tell(SidecarReport {
            sequence: 2,
            applied: vec![applied],
            breaker_changes: vec![opened],
            ..SidecarReport::default()
        })
        .await;
    let status = until(&world, "catalog", "it to be applied", |status| {
        counts(status) == [1, 1, 0]
    })
    .await;
    assert_eq!(status.breakers.unwrap_or_default().open, 1);
    let told = eventually("an Event of the breaker", async || {
        let told = events(&world, "catalog-1", "BreakerOpened").await;
        told.into_iter().next()
    })
    .await;
    assert!(told.ends_with("3 consecutive failures"), "{told}");
    let breakers = fetch(plane.running.admin, "/breakers").await.1;
    let breakers: Value = serde_json::from_str(&breakers).unwrap();
    assert_eq!(
        (&breakers[0]["pod"], &breakers[0]["state"]),
        (&json!("web-1"), &json!("open"))
    );
    world.let_go("catalog-1").await;
    plane.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_conflict_is_told_with_its_reason_and_a_pod_without_a_sidecar_too() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    let labelled = json!({"metadata": {"labels": {"remora.io/inject": "enabled"}}});
    world.merge("Namespace", &world.namespace, labelled).await;
    world.apply("Service", "catalog", service()).await;
    world.pod("bare-1", &["10.9.0.1"]).await;
    world
        .apply("TrafficPolicy", "a-first", policy("catalog", 3))
        .await;
    until(&world, "a-first", "the older", |status| {
        reason(status) == "Accepted"
    })
    .await;
    world
        .apply("TrafficPolicy", "b-second", policy("catalog", 4))
        .await;
    let newer = until(&world, "b-second", "the newer", |status| {
        reason(status) == "Conflicted"
    })
    .await;
    let since = newer.conditions[0].last_transition_time.clone();
    assert!(newer.conditions[0].message.contains("a-first"));
    for (about, reason) in [("b-second", "Conflicted"), ("bare-1", "NotInjected")] {
        eventually("an Event", async || {
            let told = events(&world, about, reason).await;
            (told.len() == 1).then_some(())
        })
        .await;
    }
    // Another generation, the same word: the time of the transition stays.
    world
        .apply("TrafficPolicy", "b-second", policy("catalog", 5))
        .await;
    let again = until(&world, "b-second", "the next generation", |status| {
        status.observed_generation == Some(2)
    })
    .await;
    assert_eq!(again.conditions[0].last_transition_time, since);
    world.let_go("bare-1").await;
    plane.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn every_workload_names_the_leader_and_follows_it() {
    let Some(world) = World::new().await else {
        return;
    };
    let one = Plane::start(&world, "plane-1").await;
    one.until_leading().await;
    let two = Plane::start(&world, "plane-2").await;
    let uid = world.pod("web-1", &["10.9.0.9"]).await;
    let id = format!("sidecar/{}/web-1/{uid}", world.namespace);
    let name = format!("{}/web-1", world.namespace);
    let mut sidecar = Sidecar::connect_as(two.running.listen, id).await;
    sidecar.subscribe(WORKLOAD_TYPE, &[&name]).await;
    let mut named = async |address: SocketAddr| {
        for _ in 0..20 {
            let response = sidecar.take().await;
            let workload = response.resources.first().map(open::<v1::Workload>);
            let told = workload.map(|workload| workload.reports_address);
            if told == Some(address.to_string()) {
                return;
            }
        }
        panic!("{address} was not named");
    };
    named(one.running.listen).await;
    one.running.stop().await;
    named(two.running.listen).await;
    world.let_go("web-1").await;
    two.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_lease_that_is_taken_by_force_or_deleted_is_noticed_at_once() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    let taken = json!({"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 4}});
    world.merge("Lease", "remora-control-plane", taken).await;
    let within = Duration::from_secs(1);
    let noticed = eventually("it to lead no more", async || {
        let leader = plane.leader().await;
        (leader["leading"] == false && leader["leader"] == "somebody").then_some(())
    });
    tokio::time::timeout(within, noticed)
        .await
        .expect("at once");
    // Nobody writes it on: it is taken again after its four seconds.
    plane.until_leading().await;
    world.delete("Lease", "remora-control-plane").await;
    let made_again = eventually("the Lease to be there again", async || {
        let lease = world.api("Lease").get_opt("remora-control-plane").await;
        let lease = lease.unwrap()?;
        (lease.data["spec"]["holderIdentity"] == "plane-1").then_some(())
    });
    tokio::time::timeout(within * 3, made_again)
        .await
        .expect("soon");
    plane.running.stop().await;
    let lease = world
        .api("Lease")
        .get("remora-control-plane")
        .await
        .unwrap();
    assert_eq!(lease.data["spec"]["holderIdentity"], "", "given up");
    world.end().await;
}

#[tokio::test]
async fn a_status_is_written_at_most_once_a_second_and_for_counts_once_in_five() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    world.apply("Service", "catalog", service()).await;
    world
        .apply("TrafficPolicy", "catalog", policy("catalog", 1))
        .await;
    until(&world, "catalog", "the counts", |status| {
        status.sidecars.is_some()
    })
    .await;
    let written = "remora_status_writes_total{result=\"written\"} ";
    let before = plane.metric(written).await;
    for failures in 2..40 {
        world
            .apply("TrafficPolicy", "catalog", policy("catalog", failures))
            .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until(&world, "catalog", "the last generation", |status| {
        status.observed_generation == Some(39)
    })
    .await;
    let writes = plane.metric(written).await - before;
    assert!((1..=6).contains(&writes), "{writes}");

    // Breakers that flap.
    let name = format!("{}/catalog", world.namespace);
    let reports = Reports::to(plane.running.listen, &world.namespace, "web-1").await;
    let before = plane.metric(written).await;
    for number in 0..60 {
        use v1::breaker_change::State::{Closed, Open};
        let to = if number % 2 == 0 { Open } else { Closed };
        let change = v1::BreakerChange {
            service: name.clone(),
            endpoint: format!("catalog-{}", number / 2),
            to: to.into(),
            ..v1::BreakerChange::default()
        };
        let report = SidecarReport {
            sequence: number + 2,
            breaker_changes: vec![change],
            ..SidecarReport::default()
        };
        reports.tell(report).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let writes = plane.metric(written).await - before;
    assert!(writes <= 2, "{writes} in six seconds");
    plane.running.stop().await;
    world.end().await;
}
