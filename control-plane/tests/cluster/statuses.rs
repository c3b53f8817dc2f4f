//! What the leader writes: status and Events.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use remora_proto::v1::{self, SidecarReport};
use remora_proto::well_known::SERVICE_TYPE;
use serde_json::{Value, json};

use crate::replica::{
    Plane, Reports, counts, event, opened, policy, reason, refuse_policy, repetitions, service,
    settled, until,
};
use crate::sidecar::{Sidecar, fetch};
use crate::world::{World, eventually};

#[tokio::test]
async fn what_sidecars_refuse_and_break_off_is_in_the_status_and_in_events() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    let uid = world.pod("catalog-1", &["10.9.0.1"]).await;
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "catalog"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.9.0.1"],
                       "targetRef": {"kind": "Pod", "name": "catalog-1", "uid": uid}}],
    });
    world.apply("EndpointSlice", "catalog-by-hand", slice).await;
    settled(&world).await;
    let (namespace, listen) = (&world.namespace, plane.running.listen);
    let name = format!("{namespace}/catalog");
    let id = format!("sidecar/{namespace}/web-1/u");
    let mut sidecar = Sidecar::connect_as(listen, id).await;
    let reports = Reports::to(listen, namespace, "web-1").await;
    let version = refuse_policy(&mut sidecar, &name, "policy.circuit_breaker: no").await;
    until(&world, "catalog", "a refusal", |status| {
        counts(status) == [1, 0, 1]
    })
    .await;
    let told = event(&world, "catalog", "Refused").await;
    let why = told.contains("policy.circuit_breaker: no") && told.contains("web-1");
    assert!(why, "{told}");

    let applied = v1::AppliedResource {
        type_url: SERVICE_TYPE.to_owned(),
        name: name.clone(),
        version,
    };
    let report = SidecarReport {
        sequence: 2,
        applied: vec![applied],
        breaker_changes: vec![opened(&name, "catalog-1")],
        ..SidecarReport::default()
    };
    reports.tell(report).await;
    let status = until(&world, "catalog", "it to be applied", |status| {
        counts(status) == [1, 1, 0]
    })
    .await;
    assert_eq!(status.breakers.unwrap_or_default().open, 1);
    let told = event(&world, "catalog-1", "BreakerOpened").await;
    assert!(told.ends_with("3 consecutive failures"), "{told}");
    // The same again is counted in the Event that is there.
    let again = SidecarReport {
        sequence: 3,
        breaker_changes: vec![opened(&name, "catalog-1")],
        ..SidecarReport::default()
    };
    reports.tell(again).await;
    eventually("it to be counted", async || {
        (repetitions(&world, "catalog-1").await == [2]).then_some(())
    })
    .await;
    let breakers = fetch(plane.running.admin, "/breakers").await.1;
    let breakers: Value = serde_json::from_str(&breakers).unwrap();
    let shown = (&breakers[0]["pod"], &breakers[0]["state"]);
    assert_eq!(shown, (&json!("web-1"), &json!("open")));
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
        event(&world, about, reason).await;
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

#[tokio::test]
async fn an_authorization_policy_has_a_status_of_the_same_form() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    let kind = "AuthorizationPolicy";
    let target = json!([{"group": "", "kind": "Service", "name": "catalog"}]);
    let of_service = json!({"spec": {"targetRefs": target, "action": "Deny"}});
    let of_pods = json!({"spec": {"podSelector": {}, "action": "Audit"}});
    world.apply(kind, "of-service", of_service).await;
    world.apply(kind, "of-pods", of_pods).await;
    let until = async |name: &str, reason: &str| {
        eventually(&format!("{name} to be {reason}"), async || {
            let object = world.api(kind).get(name).await.unwrap();
            let status = object.data["status"].clone();
            (status["conditions"][0]["reason"] == reason).then_some(status)
        })
        .await
    };
    let missing = until("of-service", "TargetNotFound").await;
    assert_eq!(missing["ancestors"][0]["ancestorRef"]["name"], "catalog");
    event(&world, "of-service", "TargetNotFound").await;
    let accepted = until("of-pods", "Accepted").await;
    let ancestor = &accepted["ancestors"][0]["ancestorRef"];
    assert_eq!(
        (&ancestor["kind"], &ancestor["name"]),
        (&json!("Namespace"), &json!(world.namespace))
    );
    world.apply("Service", "catalog", service()).await;
    let there = until("of-service", "Accepted").await;
    assert_eq!(there["observedGeneration"], 1);
    assert_eq!(there["breakers"], Value::Null);
    plane.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_traffic_policy_of_pods_is_accepted_on_its_namespace() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    let selector = json!({"matchLabels": {"app": "nobody-yet"}});
    let spec = json!({"spec": {"podSelector": selector, "mtls": {"mode": "Strict"}}});
    world.apply("TrafficPolicy", "of-pods", spec).await;
    let status = until(&world, "of-pods", "it to be accepted", |status| {
        reason(status) == "Accepted"
    })
    .await;
    let ancestor = &status.ancestors[0].ancestor_ref;
    assert_eq!(
        (ancestor.kind.as_str(), &ancestor.name),
        ("Namespace", &world.namespace)
    );
    assert!(
        status.conditions[0].message.contains("podSelector"),
        "{status:?}"
    );
    assert_eq!(counts(&status), [0, 0, 0]);
    plane.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn what_another_leader_wrote_late_is_mended_once_this_one_has_settled() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    world.apply("Service", "catalog", service()).await;
    let policy = policy("catalog", 3);
    world.apply("TrafficPolicy", "catalog", policy).await;
    until(&world, "catalog", "it to be accepted", |status| {
        reason(status) == "Accepted"
    })
    .await;
    // As if the write of whoever led before had come in only now.
    let late = json!({"status": {"sidecars": {"applied": 7, "refused": 0, "total": 9}}});
    let api = world.api("TrafficPolicy");
    let (parameters, late) = (PatchParams::default(), Patch::Merge(&late));
    api.patch_status("catalog", &parameters, &late)
        .await
        .unwrap();
    until(&world, "catalog", "what is true", |status| {
        counts(status) == [0, 0, 0]
    })
    .await;
    plane.running.stop().await;
    world.end().await;
}
