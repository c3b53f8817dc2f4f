//! Routes at an API server: their kinds come later, others write into the same
//! status, and what is ours there goes with what it is about.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use remora_proto::v1;
use remora_proto::well_known::SERVICE_TYPE;
use serde_json::{Value, json};

use crate::replica::{Plane, Reports, counts, reason, service, until};
use crate::sidecar::{Sidecar, open};
use crate::world::{World, eventually};

const GROUP: &str = "gateway.networking.k8s.io";

/// Definitions that stand for those of Gateway API: where a cluster has these,
/// they are left as they are.
struct Definitions {
    made: Vec<String>,
}

impl Definitions {
    async fn install(world: &World) -> Self {
        let mut made = Vec::new();
        for (kind, plural) in [
            ("HTTPRoute", "httproutes"),
            ("GRPCRoute", "grpcroutes"),
            ("ReferenceGrant", "referencegrants"),
        ] {
            let name = format!("{plural}.{GROUP}");
            let definitions = world.api("CustomResourceDefinition");
            if definitions.get_opt(&name).await.unwrap().is_some() {
                continue;
            }
            let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            let definition = json!({
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {
                    "name": name,
                    "annotations": {"api-approved.kubernetes.io": "unapproved, of a test"},
                },
                "spec": {
                    "group": GROUP,
                    "scope": "Namespaced",
                    "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                    "versions": [{
                        "name": "v1", "served": true, "storage": true,
                        "subresources": {"status": {}},
                        "schema": {"openAPIV3Schema": {
                            "type": "object", "properties": {"spec": any, "status": any},
                        }},
                    }],
                },
            });
            world.define(definition).await;
            made.push(name);
        }
        Self { made }
    }

    async fn remove(self, world: &World) {
        let definitions = world.api("CustomResourceDefinition");
        for name in self.made {
            definitions
                .delete(&name, &Default::default())
                .await
                .unwrap();
            eventually("the definition to be gone", async || {
                let there = definitions.get_opt(&name).await.unwrap();
                there.is_none().then_some(())
            })
            .await;
        }
    }
}

fn route(parents: Value, weight: u32) -> Value {
    json!({"spec": {
        "parentRefs": parents,
        "rules": [{
            "name": "all",
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "backendRefs": [{"group": "", "kind": "Service", "name": "catalog", "port": 8080, "weight": weight}],
        }],
    }})
}

fn parent(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name})
}

/// An entry as another controller writes it.
fn foreign(number: u32) -> Value {
    json!({
        "controllerName": "example.com/gateway",
        "parentRef": {"group": GROUP, "kind": "Gateway", "name": "public"},
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted",
            "message": format!("round {number}"), "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    })
}

async fn parents(world: &World, name: &str) -> Vec<Value> {
    parents_of(&world.api("HTTPRoute").get(name).await.unwrap().data)
}

/// The other controller's write: careless of conflicts, careful of our entries.
async fn write_foreign(world: &World, name: &str, number: u32) {
    let api = world.api("HTTPRoute");
    loop {
        let object = api.get(name).await.unwrap();
        let mut list = parents_of(&object.data);
        list.retain(|entry| entry["controllerName"] != "example.com/gateway");
        list.insert(0, foreign(number));
        let patch = json!({
            "metadata": {"resourceVersion": object.metadata.resource_version},
            "status": {"parents": list},
        });
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        match api.patch_status(name, &parameters, &patch).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn parents_of(object: &Value) -> Vec<Value> {
    let parents = object.pointer("/status/parents");
    let parents = parents.and_then(Value::as_array);
    parents.cloned().unwrap_or_default()
}

fn condition<'a>(entry: &'a Value, kind: &str) -> &'a Value {
    let mut conditions = entry["conditions"].as_array().into_iter().flatten();
    conditions
        .find(|one| one["type"] == kind)
        .unwrap_or(&Value::Null)
}

/// The whole list, once so many entries of it are ours, and these.
async fn ours(world: &World, wanted: usize) -> (Vec<Value>, Vec<Value>) {
    eventually("our entries", async || {
        let list = parents(world, "canary").await;
        let is_ours = |one: &&Value| one["controllerName"] == "remora.io/control-plane";
        let ours: Vec<Value> = list.iter().filter(is_ours).cloned().collect();
        (ours.len() == wanted).then_some((list, ours))
    })
    .await
}

/// Both controllers have something to write, again and again.
async fn write_at_once(world: &World) {
    for round in 1..=20 {
        let parents = if round % 2 == 0 {
            json!([parent("catalog"), parent("later")])
        } else {
            json!([parent("catalog")])
        };
        world
            .apply("HTTPRoute", "canary", route(parents, round))
            .await;
        write_foreign(world, "canary", round).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn gateway_api_may_come_later_and_a_status_of_several_controllers_is_kept() {
    let Some(world) = World::new().await else {
        return;
    };
    // Ready without it, unless the cluster has it.
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    let definitions = Definitions::install(&world).await;
    world.apply("Service", "catalog", service()).await;
    let both = json!([{"group": GROUP, "kind": "Gateway", "name": "public"}, parent("catalog"), parent("later")]);
    world.apply("HTTPRoute", "canary", route(both, 7)).await;
    write_foreign(&world, "canary", 0).await;
    let (list, entries) = ours(&world, 2).await;
    assert!(list.contains(&foreign(0)), "{list:?}");
    assert_eq!(entries[0]["parentRef"], parent("catalog"));
    assert_eq!(condition(&entries[0], "Accepted")["status"], "True");
    assert_eq!(condition(&entries[0], "ResolvedRefs")["status"], "True");
    assert_eq!(condition(&entries[0], "Accepted")["observedGeneration"], 1);
    assert_eq!(
        condition(&entries[1], "Accepted")["reason"],
        "NoMatchingParent"
    );

    let id = format!("sidecar/{}/web-1/u", world.namespace);
    let mut sidecar = Sidecar::connect_as(plane.running.listen, id).await;
    let name = format!("{}/catalog", world.namespace);
    sidecar.subscribe(SERVICE_TYPE, &[&name]).await;
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(service.routes[0].rules[0].backends[0].weight, 7);

    write_at_once(&world).await;
    let (list, entries) = ours(&world, 2).await;
    assert!(list.contains(&foreign(20)) && list.len() == 3, "{list:?}");
    let generation = world.api("HTTPRoute").get("canary").await.unwrap();
    let generation = generation.metadata.generation;
    eventually("the last generation", async || {
        let (_, entries) = ours(&world, 2).await;
        let observed = condition(&entries[0], "Accepted")["observedGeneration"].as_i64();
        (observed == generation).then_some(())
    })
    .await;
    let since = condition(&entries[0], "Accepted")["lastTransitionTime"].clone();

    // Who writes the whole list as its own is put right, without a change of ours.
    let (api, all) = (
        world.api("HTTPRoute"),
        json!({"status": {"parents": [foreign(20)]}}),
    );
    let parameters = PatchParams::default();
    api.patch_status("canary", &parameters, &Patch::Merge(&all))
        .await
        .unwrap();
    let (list, _) = ours(&world, 2).await;
    assert!(list.contains(&foreign(20)), "{list:?}");

    // Named no more: what was ours is gone, and the rest is as it was.
    let gateway = json!([{"group": GROUP, "kind": "Gateway", "name": "public"}]);
    world.apply("HTTPRoute", "canary", route(gateway, 1)).await;
    let (list, _) = ours(&world, 0).await;
    assert_eq!(list, [foreign(20)]);
    assert!(since.as_str().is_some());
    let problems = crate::sidecar::fetch(plane.running.admin, "/problems")
        .await
        .1;
    assert!(!problems.contains("does not have httproutes"), "{problems}");
    plane.running.stop().await;
    world.delete("HTTPRoute", "canary").await;
    definitions.remove(&world).await;
    world.end().await;
}

#[tokio::test]
async fn a_policy_of_one_rule_has_a_status_that_names_it_and_counts_who_has_it() {
    let Some(world) = World::new().await else {
        return;
    };
    let definitions = Definitions::install(&world).await;
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    world.apply("Service", "catalog", service()).await;
    let target =
        json!({"group": GROUP, "kind": "HTTPRoute", "name": "canary", "sectionName": "all"});
    let spec = json!({"spec": {"targetRefs": [target], "timeouts": {"request": "1s"}}});
    world.apply("TrafficPolicy", "rule", spec).await;
    let missing = until(&world, "rule", "the target to be missed", |status| {
        reason(status) == "TargetNotFound"
    })
    .await;
    let ancestor = &missing.ancestors[0].ancestor_ref;
    assert_eq!(
        (ancestor.kind.as_str(), ancestor.section_name.as_deref()),
        ("HTTPRoute", Some("all"))
    );
    let parents = json!([parent("catalog")]);
    world.apply("HTTPRoute", "canary", route(parents, 1)).await;
    until(&world, "rule", "it to be in force", |status| {
        reason(status) == "Accepted"
    })
    .await;
    let id = format!("sidecar/{}/web-1/u", world.namespace);
    let mut sidecar = Sidecar::connect_as(plane.running.listen, id).await;
    let name = format!("{}/catalog", world.namespace);
    sidecar.subscribe(SERVICE_TYPE, &[&name]).await;
    let response = sidecar.take().await;
    let taken: v1::Service = open(&response.resources[0]);
    let rule = &taken.routes[0].rules[0];
    assert_eq!(rule.timeouts.and_then(|one| one.request_ms), Some(1_000));
    let reports = Reports::to(plane.running.listen, &world.namespace, "web-1").await;
    let applied = v1::AppliedResource {
        type_url: SERVICE_TYPE.to_owned(),
        name,
        version: response.resources[0].version.clone(),
    };
    let report = v1::SidecarReport {
        sequence: 2,
        applied: vec![applied],
        ..v1::SidecarReport::default()
    };
    reports.tell(report).await;
    until(&world, "rule", "the sidecar to be counted", |status| {
        counts(status) == [1, 1, 0]
    })
    .await;
    plane.running.stop().await;
    world.delete("HTTPRoute", "canary").await;
    definitions.remove(&world).await;
    world.end().await;
}
