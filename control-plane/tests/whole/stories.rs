//! What users and sidecars live through.

use std::time::Duration;

use remora_proto::discovery::DeltaDiscoveryRequest;
use remora_proto::v1;
use remora_proto::v1::reports_client::ReportsClient;
use remora_proto::well_known::{ENDPOINT_TYPE, SERVICE_TYPE, WORKLOAD_TYPE};

use crate::client::{PATIENCE, Plane, Sidecar, open};

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {remora.io/inject: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00::10"]
  selector: {app: catalog}
  ports: [{name: http, port: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: catalog-a, namespace: shop, labels: {kubernetes.io/service-name: catalog}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- addresses: [10.0.0.1]
  targetRef: {kind: Pod, name: catalog-1, uid: catalog-1-uid}
---
apiVersion: v1
kind: Pod
metadata: {name: catalog-1, namespace: shop, uid: catalog-1-uid, labels: {app: catalog}}
spec: {containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
"#;

fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "apiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {target}}}]\n  {spec}\n"
    )
}

fn failures(service: &v1::Service) -> Option<u32> {
    let breaker = service.policy.as_ref()?.circuit_breaker.as_ref()?;
    breaker.trip.as_ref().map(|trip| trip.consecutive_failures)
}

#[tokio::test]
async fn a_change_of_yaml_arrives_at_once() {
    let plane = Plane::new(&[("shop.yaml", SHOP)]).await;
    let mut sidecar = Sidecar::connect(&plane, "web-1").await;
    sidecar
        .subscribe(SERVICE_TYPE, &["address/fd00::10", "address/10.9.9.9"])
        .await;
    let response = sidecar.take().await;
    assert_eq!(response.removed_resources, ["address/10.9.9.9"]);
    let service: v1::Service = open(&response.resources[0]);
    assert_eq!(
        (service.name.as_str(), service.addresses.len()),
        ("catalog", 2)
    );
    assert_eq!(service.ports[0].protocol(), v1::Protocol::Http1);
    assert_eq!(service.policy, None);

    let mut times = Vec::new();
    for failures_wanted in 1..=20 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let text = policy(
            "catalog",
            "catalog",
            &format!("circuitBreaker: {{consecutiveFailures: {failures_wanted}}}"),
        );
        let before = remora_control_plane::clock::now();
        plane.write("policy.yaml", &text);
        let response = sidecar.receive().await;
        times.push(before.elapsed());
        sidecar.acknowledge(&response).await;
        let service: v1::Service = open(&response.resources[0]);
        assert_eq!(failures(&service), Some(failures_wanted));
        assert_eq!(service.policies[0].generation, i64::from(failures_wanted));
    }
    times.sort();
    println!(
        "file written -> resource received: median {:?}, slowest {:?}",
        times[10], times[19]
    );
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
    std::fs::remove_file(plane.folder.path().join("policy.yaml")).unwrap();
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(service.policy, None);
}

#[tokio::test]
async fn what_is_broken_keeps_its_last_good_version_and_names_its_place() {
    let good = policy(
        "catalog",
        "catalog",
        "circuitBreaker: {consecutiveFailures: 3}",
    );
    let plane = Plane::new(&[("shop.yaml", SHOP), ("policy.yaml", &good)]).await;
    let mut sidecar = Sidecar::connect(&plane, "web-1").await;
    sidecar.subscribe(SERVICE_TYPE, &["shop/catalog"]).await;
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(failures(&service), Some(3));

    let wrong = "circuitBreaker: {consecutiveFailures: 1001, hedge: 1}\n  retries: {budget: {percent: 200}}\n  timeouts: {request: 5x}";
    plane.write("policy.yaml", &policy("catalog", "catalog", wrong));
    let about = |field: &'static str| move |problem: &serde_json::Value| problem["field"] == field;
    let problem = plane.problem(about("spec.retries.budget.percent")).await;
    assert_eq!(problem["line"], 7);
    assert!(problem["file"].as_str().unwrap().ends_with("policy.yaml"));
    assert!(
        problem["message"]
            .as_str()
            .unwrap()
            .contains("from 0 to 100"),
        "{problem}"
    );
    plane
        .problem(about("spec.circuitBreaker.consecutiveFailures"))
        .await;
    plane.problem(about("spec.circuitBreaker.hedge")).await;
    plane.problem(about("spec.timeouts.request")).await;
    sidecar.nothing_comes().await;

    plane.write("policy.yaml", "kind: [broken");
    plane
        .problem(|problem| problem["message"].as_str().unwrap().contains("not YAML"))
        .await;
    sidecar.nothing_comes().await;

    plane.write(
        "policy.yaml",
        &policy(
            "catalog",
            "catalog",
            "circuitBreaker: {consecutiveFailures: 4}",
        ),
    );
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(failures(&service), Some(4));
    assert_eq!(plane.admin("/problems").await, serde_json::json!([]));
}

#[tokio::test]
async fn of_two_policies_the_older_is_in_force_and_a_missing_target_is_said() {
    let older = policy(
        "b-older",
        "catalog",
        "circuitBreaker: {consecutiveFailures: 3}",
    );
    let plane = Plane::new(&[("shop.yaml", SHOP), ("older.yaml", &older)]).await;
    let mut sidecar = Sidecar::connect(&plane, "web-1").await;
    sidecar
        .subscribe(SERVICE_TYPE, &["shop/catalog", "shop/cart"])
        .await;
    let response = sidecar.take().await;
    assert_eq!(response.removed_resources, ["shop/cart"]);

    plane.write(
        "newer.yaml",
        &policy(
            "a-newer",
            "catalog",
            "circuitBreaker: {consecutiveFailures: 9}",
        ),
    );
    plane.write(
        "missing.yaml",
        &policy("cart", "cart", "circuitBreaker: {consecutiveFailures: 7}"),
    );
    let says = |object: &'static str, word: &'static str| {
        move |problem: &serde_json::Value| {
            problem["object"] == object && problem["message"].as_str().unwrap().starts_with(word)
        }
    };
    let problem = plane
        .problem(says("TrafficPolicy shop/a-newer", "Conflicted"))
        .await;
    assert!(
        problem["file"].as_str().unwrap().ends_with("newer.yaml"),
        "{problem}"
    );
    let problem = plane
        .problem(says("TrafficPolicy shop/cart", "TargetNotFound"))
        .await;
    assert_eq!(
        (&problem["line"], &problem["field"]),
        (&5.into(), &"spec.targetRefs[0]".into())
    );
    sidecar.nothing_comes().await;

    plane.write("cart.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}\n");
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(
        (service.name.as_str(), failures(&service)),
        ("cart", Some(7))
    );

    std::fs::remove_file(plane.folder.path().join("older.yaml")).unwrap();
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(failures(&service), Some(9));
}

#[tokio::test]
async fn a_sidecar_that_comes_back_hears_only_what_changed() {
    let mut plane = Plane::new(&[("shop.yaml", SHOP)]).await;
    let mut sidecar = Sidecar::connect(&plane, "web-1").await;
    sidecar
        .subscribe(SERVICE_TYPE, &["address/10.96.0.10"])
        .await;
    sidecar.take().await;
    sidecar.subscribe(ENDPOINT_TYPE, &["shop/catalog/*"]).await;
    let response = sidecar.take().await;
    assert_eq!(
        response.resources[0].name,
        "shop/catalog/8080/catalog-1-uid"
    );
    let mut held = sidecar.held;

    // The control plane itself goes and comes back, with nothing changed.
    let folder = plane.folder.path().to_owned();
    plane.running.stop().await;
    plane.running = crate::client::run(&folder).await;
    let mut sidecar = Sidecar::connect(&plane, "web-1").await;
    let endpoints = held.get_mut(ENDPOINT_TYPE).unwrap();
    endpoints.insert("shop/catalog/8080/gone".to_owned(), "1".to_owned());
    for (type_url, name) in [
        (SERVICE_TYPE, "address/10.96.0.10"),
        (ENDPOINT_TYPE, "shop/catalog/*"),
    ] {
        let initial_resource_versions = held[type_url].clone();
        sidecar
            .send(DeltaDiscoveryRequest {
                type_url: type_url.into(),
                resource_names_subscribe: vec![name.into()],
                initial_resource_versions,
                ..DeltaDiscoveryRequest::default()
            })
            .await;
    }
    // Of Services nothing changed, so nothing is said.
    let endpoints = sidecar.take().await;
    assert_eq!(endpoints.resources, []);
    assert_eq!(endpoints.removed_resources, ["shop/catalog/8080/gone"]);
    sidecar.nothing_comes().await;
}

#[tokio::test]
async fn a_refused_resource_is_shown_and_not_sent_again_until_it_changes() {
    let plane = Plane::new(&[("shop.yaml", SHOP)]).await;
    let mut sidecar = Sidecar::connect(&plane, "web-1").await;
    sidecar.subscribe(SERVICE_TYPE, &["shop/catalog"]).await;
    let response = sidecar.receive().await;
    sidecar.refuse(&response, "shop/catalog: cannot").await;
    sidecar.nothing_comes().await;
    let shown = plane.admin("/sidecars").await;
    assert_eq!(shown[0]["connected"], true, "{shown}");
    assert_eq!(shown[0]["version"], "test");
    assert_eq!(shown[0]["refused"][0]["name"], "shop/catalog");
    assert_eq!(shown[0]["refused"][0]["reason"], "cannot");
    assert_eq!(shown[0]["refused"][0]["type"], "Service");

    plane.write(
        "policy.yaml",
        &policy("catalog", "catalog", "timeouts: {request: 1s}"),
    );
    let response = sidecar.take().await;
    assert_eq!(response.resources[0].name, "shop/catalog");
    sidecar.nothing_comes().await;
    assert_eq!(
        plane.admin("/sidecars").await[0]["refused"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn a_workload_is_for_its_own_pod_and_says_when_to_drain() {
    let plane = Plane::new(&[("shop.yaml", SHOP)]).await;
    let mut own = Sidecar::connect(&plane, "catalog-1").await;
    let mut other = Sidecar::connect(&plane, "web-1").await;
    own.subscribe(WORKLOAD_TYPE, &["shop/catalog-1"]).await;
    other.subscribe(WORKLOAD_TYPE, &["shop/catalog-1"]).await;
    let workload: v1::Workload = open(&own.take().await.resources[0]);
    assert!(!workload.draining);
    assert_eq!(workload.ports[0].port, 8080);
    assert_eq!(other.take().await.removed_resources, ["shop/catalog-1"]);

    let deleted = SHOP.replace(
        "uid: catalog-1-uid, labels",
        "deletionTimestamp: \"2026-01-01T00:00:00Z\", uid: catalog-1-uid, labels",
    );
    plane.write("shop.yaml", &deleted);
    let workload: v1::Workload = open(&own.take().await.resources[0]);
    assert!(workload.draining);
    other.nothing_comes().await;
}

/// What a pod takes is told to itself and to its callers; a mistake leaves the
/// last good version.
#[tokio::test]
async fn modes_of_pods_by_their_labels_arrive_at_the_pod_and_at_its_callers() {
    let of_pods = |selector: &str, mode: &str, more: &str| {
        format!(
            "apiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: pods, namespace: shop}}\n\
             spec:\n  podSelector: {selector}\n  mtls: {{mode: {mode}}}\n  {more}\n"
        )
    };
    let plane = Plane::new(&[("shop.yaml", SHOP)]).await;
    let mut own = Sidecar::connect(&plane, "catalog-1").await;
    let mut caller = Sidecar::connect(&plane, "web-1").await;
    own.subscribe(WORKLOAD_TYPE, &["shop/catalog-1"]).await;
    caller.subscribe(ENDPOINT_TYPE, &["shop/catalog/*"]).await;
    own.take().await;
    caller.take().await;
    let mut modes = async || {
        let workload: v1::Workload = open(&own.take().await.resources[0]);
        let endpoint: v1::Endpoint = open(&caller.take().await.resources[0]);
        let policies: Vec<i64> = workload.policies.iter().map(|one| one.generation).collect();
        (workload.mtls(), endpoint.mtls(), policies)
    };
    let (strict, permissive) = (v1::MtlsMode::Strict, v1::MtlsMode::Permissive);
    plane.write(
        "policy.yaml",
        &of_pods("{matchLabels: {app: catalog}}", "Strict", ""),
    );
    assert_eq!(modes().await, (strict, strict, vec![1]));
    plane.write(
        "policy.yaml",
        &of_pods("{matchLabels: {app: cart}}", "Strict", ""),
    );
    assert_eq!(modes().await, (permissive, permissive, vec![]));
    plane.write("policy.yaml", &of_pods("{}", "Strict", ""));
    assert_eq!(modes().await, (strict, strict, vec![3]));

    plane.write("policy.yaml", &of_pods("{}", "Disabled", "timeouts: {}"));
    let problem = plane.problem(|one| one["field"] == "spec.timeouts").await;
    let message = problem["message"].as_str().unwrap_or_default();
    assert!(message.contains("podSelector has only mtls"), "{problem}");
    own.nothing_comes().await;
}

#[tokio::test]
async fn a_rename_and_a_turned_link_are_seen_and_a_half_written_file_is_not() {
    let plane = Plane::new(&[]).await;
    let folder = plane.folder.path();
    let mut sidecar = Sidecar::connect(&plane, "web-1").await;
    sidecar.subscribe(SERVICE_TYPE, &["shop/catalog"]).await;
    sidecar.take().await;

    // As a ConfigMap is mounted.
    std::fs::create_dir(folder.join("..1")).unwrap();
    std::fs::write(folder.join("..1/shop.yaml"), SHOP).unwrap();
    std::os::unix::fs::symlink("..1", folder.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/shop.yaml", folder.join("shop.yaml")).unwrap();
    assert_eq!(sidecar.take().await.resources.len(), 1);
    std::fs::create_dir(folder.join("..2")).unwrap();
    std::fs::write(
        folder.join("..2/shop.yaml"),
        SHOP.replace("port: 8080}]\n---", "port: 8081}]\n---"),
    )
    .unwrap();
    std::os::unix::fs::symlink("..2", folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(service.ports[0].port, 8081);

    // As a careful editor writes.
    std::fs::write(
        folder.join(".p.yaml.swp"),
        policy("catalog", "catalog", "timeouts: {request: 1s}"),
    )
    .unwrap();
    sidecar.nothing_comes().await;
    std::fs::rename(folder.join(".p.yaml.swp"), folder.join("p.yaml")).unwrap();
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(service.policies.len(), 1);

    // As a careless one does: the file is empty for a while.
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("p.yaml")).unwrap();
    sidecar.nothing_comes().await;
    file.write_all(policy("catalog", "catalog", "timeouts: {request: 2s}").as_bytes())
        .unwrap();
    drop(file);
    let service: v1::Service = open(&sidecar.take().await.resources[0]);
    assert_eq!(
        service.policy.unwrap().timeouts.unwrap().request_ms,
        Some(2_000)
    );
}

#[tokio::test]
async fn reports_are_kept_and_shown() {
    let plane = Plane::new(&[("shop.yaml", SHOP)]).await;
    let mut client = ReportsClient::connect(format!("http://{}", plane.running.listen))
        .await
        .unwrap();
    let sidecar = v1::SidecarIdentity {
        namespace: "shop".into(),
        pod: "web-1".into(),
        pod_uid: "u".into(),
        version: "1".into(),
    };
    let report = v1::SidecarReport {
        sequence: 1,
        sidecar: Some(sidecar),
        applied: vec![v1::AppliedResource {
            type_url: SERVICE_TYPE.into(),
            name: "shop/catalog".into(),
            version: "v".into(),
        }],
        refused: vec![v1::RefusedResource {
            type_url: SERVICE_TYPE.into(),
            name: "shop/cart".into(),
            version: "v".into(),
            reason: "because".into(),
        }],
        breaker_changes: vec![v1::BreakerChange {
            service: "shop/catalog".into(),
            endpoint: "catalog-1".into(),
            to: v1::breaker_change::State::Open.into(),
            ..v1::BreakerChange::default()
        }],
        ..v1::SidecarReport::default()
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(report).await.unwrap();
    let stream = client
        .report(tokio_stream::wrappers::ReceiverStream::new(receiver))
        .await
        .unwrap();
    let mut acknowledgements = stream.into_inner();
    let acknowledgement = tokio::time::timeout(PATIENCE, acknowledgements.message());
    assert_eq!(acknowledgement.await.unwrap().unwrap().unwrap().sequence, 1);
    let shown = plane.admin("/sidecars").await;
    assert_eq!(shown[0]["applied"], 1);
    assert_eq!(shown[0]["refused"][0]["name"], "shop/cart");
    assert_eq!(shown[0]["breakers"][0]["state"], "open");
    assert!(shown[0]["last_report_ms"].is_u64());
    let (head, metrics) = plane.fetch("/metrics").await;
    assert!(
        head.contains("200")
            && metrics.contains("remora_control_plane_resources{type=\"Service\"} 2"),
        "{metrics}"
    );
    assert!(plane.fetch("/ready").await.0.contains("200"));
}
