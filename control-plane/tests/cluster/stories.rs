//! What the control plane makes of what happens in a cluster.

use std::time::Duration;

use kube::ResourceExt;
use remora_control_plane::policy::definition::definition;
use remora_proto::v1;
use remora_proto::well_known::{ENDPOINT_TYPE, SERVICE_TYPE, address_alias};
use serde_json::{Value, json};

use crate::sidecar::{Sidecar, open};
use crate::world::{Plane, World, eventually, skipped};

/// Stops and starts parts of the cluster that `REMORA_KUBE_DIR` holds.
const KUBE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kube/kube");

/// What a Service's endpoints are, by hand, as a mirrored Service has them.
fn slice(family: &str, endpoints: &[(&str, &str, &str)]) -> Value {
    let endpoints = endpoints.iter().map(|(address, pod, uid)| {
        json!({"addresses": [address], "conditions": {"ready": true}, "zone": "z1",
               "hints": {"forZones": [{"name": "z1"}]},
               "targetRef": {"kind": "Pod", "name": pod, "uid": uid}})
    });
    let endpoints: Vec<Value> = endpoints.collect();
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "catalog"}},
        "addressType": family, "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    })
}

fn service() -> Value {
    json!({"spec": {"ipFamilyPolicy": "PreferDualStack",
                    "ports": [{"name": "http", "port": 8080}]}})
}

fn policy(failures: u32) -> Value {
    json!({"spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": "catalog"}],
        "circuitBreaker": {"consecutiveFailures": failures},
    }})
}

fn failures(service: &v1::Service) -> Option<u32> {
    let breaker = service.policy.as_ref()?.circuit_breaker.as_ref()?;
    breaker.trip.as_ref().map(|trip| trip.consecutive_failures)
}

/// The next of a resource that is as wanted; what comes before may be states
/// on the way to it.
async fn until<T: prost::Message + Default>(
    sidecar: &mut Sidecar,
    type_url: &str,
    wanted: impl Fn(&T) -> bool,
) -> T {
    for _ in 0..50 {
        let response = sidecar.take().await;
        assert_eq!(response.type_url, type_url);
        let found = response.resources.iter().map(open).find(|one| wanted(one));
        if let Some(found) = found {
            return found;
        }
    }
    panic!("it did not come");
}

#[tokio::test]
async fn a_service_and_its_pods_are_told_as_they_change() {
    let Some(world) = World::new().await else {
        return;
    };
    let namespace = &world.namespace;
    let made = world.apply("Service", "catalog", service()).await;
    let one = world.pod("catalog-1", &["10.9.0.1", "fd09::1"]).await;
    let two = world.pod("catalog-2", &["10.9.0.2", "fd09::2"]).await;
    let (pods, six) = (
        [
            ("10.9.0.1", "catalog-1", &*one),
            ("10.9.0.2", "catalog-2", &*two),
        ],
        [
            ("fd09::1", "catalog-1", &*one),
            ("fd09::2", "catalog-2", &*two),
        ],
    );
    world
        .apply("EndpointSlice", "a", slice("IPv4", &pods))
        .await;
    world.apply("EndpointSlice", "b", slice("IPv6", &six)).await;
    let outside = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    world.apply("Service", "outside", outside).await;
    let plane = world.plane().await;

    let mut sidecar = plane.sidecar().await;
    for address in made.data["spec"]["clusterIPs"].as_array().unwrap() {
        let address = address.as_str().unwrap().parse().unwrap();
        let alias = address_alias(address);
        sidecar.subscribe(SERVICE_TYPE, &[&alias]).await;
        let service: v1::Service = open(&sidecar.take().await.resources[0]);
        assert_eq!((&*service.name, &service.namespace), ("catalog", namespace));
    }
    // Of two families, each pod is one endpoint.
    let mut sidecar = plane.sidecar().await;
    let glob = format!("{namespace}/catalog/*");
    sidecar.subscribe(ENDPOINT_TYPE, &[&glob]).await;
    let endpoints = sidecar.take().await;
    let mut names: Vec<&str> = endpoints.resources.iter().map(|one| &*one.name).collect();
    names.sort_unstable();
    let mut wanted = [&one, &two].map(|uid| format!("{namespace}/catalog/8080/{uid}"));
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    let endpoint: v1::Endpoint = open(&endpoints.resources[0]);
    assert!(
        endpoint.ready && endpoint.address.len() == 4,
        "{endpoint:?}"
    );
    assert_eq!((&*endpoint.zone, endpoint.target_port), ("z1", 8080));

    // The deletion of a pod is told before its slice says anything.
    let before = remora_control_plane::clock::now();
    world.delete("Pod", "catalog-1").await;
    let draining = |endpoint: &v1::Endpoint| endpoint.draining;
    let left: v1::Endpoint = until(&mut sidecar, ENDPOINT_TYPE, draining).await;
    println!("pod deleted -> draining received: {:?}", before.elapsed());
    assert_eq!((&left.pod_uid, left.ready), (&one, false));
    world
        .apply("EndpointSlice", "a", slice("IPv4", &pods[1..]))
        .await;
    world
        .apply("EndpointSlice", "b", slice("IPv6", &six[1..]))
        .await;
    eventually("the endpoint to go", async || {
        let gone = sidecar.take().await.removed_resources;
        gone.contains(&format!("{namespace}/catalog/8080/{one}"))
            .then_some(())
    })
    .await;
    world.let_go("catalog-1").await;

    let outside = format!("Service {namespace}/outside");
    let problem = plane.problem(&outside, "spec.externalName").await;
    assert_eq!(problem["information"], true);
    assert!(plane.metric("remora_watch_events_total", "Pod").await > 2);
    assert_eq!(plane.metric("remora_watch_synced", "Pod").await, 1);
    plane.running.stop().await;
    world.let_go("catalog-2").await;
    world.end().await;
}

async fn catalog(world: &World, plane: &Plane) -> Sidecar {
    let mut sidecar = plane.sidecar().await;
    let name = format!("{}/catalog", world.namespace);
    sidecar.subscribe(SERVICE_TYPE, &[&name]).await;
    sidecar
}

#[tokio::test]
async fn a_policy_arrives_with_its_generation_and_goes() {
    let Some(world) = World::new().await else {
        return;
    };
    world.apply("Service", "catalog", service()).await;
    let plane = world.plane().await;
    let mut sidecar = catalog(&world, &plane).await;
    sidecar.take().await;
    let mut times = Vec::new();
    for generation in 1..=10 {
        let before = remora_control_plane::clock::now();
        world
            .apply("TrafficPolicy", "catalog", policy(generation))
            .await;
        let service: v1::Service = open(&sidecar.take().await.resources[0]);
        times.push(before.elapsed());
        assert_eq!(failures(&service), Some(generation));
        assert_eq!(service.policies[0].generation, i64::from(generation));
    }
    times.sort();
    println!("policy applied -> resource received: median {:?}", times[5]);
    assert!(times[5] < Duration::from_millis(500), "{times:?}");
    // What changes nothing but a label is no new generation, and tells nobody.
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    world.merge("TrafficPolicy", "catalog", labelled).await;
    sidecar.nothing_comes().await;
    world.delete("TrafficPolicy", "catalog").await;
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(service.policy, None);
    plane.running.stop().await;
    world.end().await;
}

/// The definition of an older or another version, by which everything passes.
fn lax() -> Value {
    let mut lax = definition();
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema;
    lax
}

#[tokio::test]
async fn a_broken_object_leaves_the_rest_working() {
    let Some(world) = World::new().await else {
        return;
    };
    world.define(lax()).await;
    world.apply("Service", "catalog", service()).await;
    let annotated = json!({"metadata": {"annotations": {"remora.io/opaque-ports": "all"}},
                           "spec": service()["spec"]});
    world.apply("Service", "annotated", annotated).await;
    eventually("a policy", async || {
        let applied = world.try_apply("TrafficPolicy", "catalog", policy(3)).await;
        applied.ok().map(|_| ())
    })
    .await;
    for (name, spec) in [
        ("never-good", json!({"targetRefs": "catalog"})),
        ("not-even-a-spec", json!(7)),
    ] {
        world
            .apply("TrafficPolicy", name, json!({"spec": spec}))
            .await;
    }
    let plane = world.plane().await;
    let mut sidecar = catalog(&world, &plane).await;
    let first: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(failures(&first), Some(3));

    let mut wrong = policy(4);
    wrong["spec"]["circuitBreaker"]["hedge"] = json!({});
    world.apply("TrafficPolicy", "catalog", wrong).await;
    let namespace = &world.namespace;
    let name = |what: &str| format!("TrafficPolicy {namespace}/{what}");
    plane
        .problem(&name("catalog"), "spec.circuitBreaker.hedge")
        .await;
    plane.problem(&name("never-good"), "spec.targetRefs").await;
    plane.problem(&name("not-even-a-spec"), "spec").await;
    let service = format!("Service {namespace}/annotated");
    let field = "metadata.annotations.remora.io/opaque-ports";
    let problem = plane.problem(&service, field).await;
    assert_eq!(problem.get("file"), None);
    // The last good version is in force, and the Service with the wrong
    // annotation is known all the same.
    sidecar.nothing_comes().await;
    let annotated = format!("{namespace}/annotated");
    sidecar.subscribe(SERVICE_TYPE, &[&annotated]).await;
    assert_eq!(sidecar.take().await.resources[0].name, annotated);

    world.apply("TrafficPolicy", "catalog", policy(5)).await;
    let mended: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(failures(&mended), Some(5));
    plane.no_problem(&name("catalog")).await;
    world.delete("TrafficPolicy", "never-good").await;
    plane.no_problem(&name("never-good")).await;
    plane.running.stop().await;
    world.undefine().await;
    world.end().await;
}

#[tokio::test]
async fn a_definition_that_comes_later_is_picked_up() {
    let Some(world) = World::new().await else {
        return;
    };
    world.undefine().await;
    world.apply("Service", "catalog", service()).await;
    let plane = world.plane().await;
    plane.problem("TrafficPolicy", "").await;
    let mut sidecar = catalog(&world, &plane).await;
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(service.policy, None);

    world.define(definition()).await;
    world.apply("TrafficPolicy", "catalog", policy(3)).await;
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(failures(&service), Some(3));
    plane.no_problem("TrafficPolicy").await;

    world.undefine().await;
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(service.policy, None);
    plane.problem("TrafficPolicy", "").await;
    assert_eq!(
        plane.metric("remora_watch_synced", "TrafficPolicy").await,
        1
    );
    plane.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn an_api_server_that_goes_and_comes_back_is_followed_again() {
    let Ok(folder) = std::env::var("REMORA_KUBE_DIR") else {
        skipped("no REMORA_KUBE_DIR");
        return;
    };
    let Some(world) = World::new().await else {
        return;
    };
    let server = async |command: &str| {
        let mut kube = tokio::process::Command::new(KUBE);
        kube.args([command, &folder, "kube-apiserver"]);
        let status = kube.status().await.unwrap();
        assert!(status.success(), "{command}: {status}");
    };
    world.apply("Service", "catalog", service()).await;
    world.apply("TrafficPolicy", "catalog", policy(3)).await;
    let plane = world.plane().await;
    let mut sidecar = catalog(&world, &plane).await;
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(failures(&service), Some(3));

    server("stop").await;
    plane.problem("TrafficPolicy", "").await;
    plane.problem("Pod", "").await;
    assert!(plane.metric("remora_watch_failures_total", "Pod").await > 0);
    assert_eq!(plane.metric("remora_watch_synced", "Pod").await, 0);
    assert!(plane.is_ready().await, "what is known is served on");
    let mut other = catalog(&world, &plane).await;
    let service: v1::Service = open(&other.take().await.resources[0]);
    assert_eq!(failures(&service), Some(3));

    server("start").await;
    eventually("the API server", async || {
        let applied = world.try_apply("TrafficPolicy", "catalog", policy(4)).await;
        applied.ok().map(|policy| policy.name_any())
    })
    .await;
    for kind in [
        "Namespace",
        "Service",
        "EndpointSlice",
        "Pod",
        "TrafficPolicy",
    ] {
        plane.no_problem(kind).await;
        assert_eq!(plane.metric("remora_watch_synced", kind).await, 1, "{kind}");
    }
    // Nothing was taken back meanwhile: the next to come is the change.
    let service: v1::Service = open(&other.take().await.resources[0]);
    assert_eq!(failures(&service), Some(4));
    plane.running.stop().await;
    world.end().await;
}
