//! `remora status`, `top`, `explain`, `version`: what a cluster's answers become.

use serde_json::{Value, json};

use crate::api::Api;

const PODS: &str = "/api/v1/namespaces/shop/pods";
const SYSTEM_PODS: &str = "/api/v1/namespaces/remora-system/pods";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/remora-system/leases/remora-control-plane";
const POLICIES: &str = "/apis/remora.io/v1alpha1/namespaces/shop/trafficpolicies";

fn pod(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "uid": name},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app"}], "initContainers": [{"name": "remora-proxy", "restartPolicy": "Always", "env": [
            {"name": "REMORA_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]},
        "status": {"phase": "Running"}})
}

fn sidecar(name: &str, refused: Value) -> Value {
    json!({"namespace": "shop", "pod": name, "pod_uid": name, "connected": true, "version": "0.1.0",
        "applied": 7, "refused": refused, "last_report_ms": 1_000})
}

fn shop(refused: Value) -> Api {
    let api = Api::start();
    api.list(PODS, json!([pod("web-1"), pod("web-2")]));
    api.get(LEASE, json!({"spec": {"holderIdentity": "cp-1"}}));
    api.get(
        "/api/v1/namespaces/shop",
        json!({"metadata": {"name": "shop"}}),
    );
    api.get(
        &format!("{SYSTEM_PODS}/cp-1:15114/proxy/sidecars"),
        json!([sidecar("web-1", json!([])), sidecar("web-2", refused)]),
    );
    api
}

#[test]
fn sidecars_in_sync_are_shown_and_the_status_is_zero() {
    let ran = shop(json!([])).run(&["status"]);
    assert_eq!((ran.status, ran.error.as_str()), (0, ""), "{}", ran.out);
    assert!(
        ran.out
            .starts_with("NAMESPACE   POD     CONNECTED   IN SYNC"),
        "{}",
        ran.out
    );
    assert_eq!(ran.out.matches("yes (7)").count(), 2, "{}", ran.out);
}

#[test]
fn a_refusal_is_shown_with_its_reason_and_the_status_is_one() {
    let refused = json!([{"type": "Service", "name": "shop/x", "version": "1", "reason": "no\u{1b}[2J good"}]);
    let api = shop(refused);
    let ran = api.run(&["status"]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.out
            .contains("shop/web-2 refused Service shop/x: no\u{fffd}[2J good"),
        "{}",
        ran.out
    );
    let ran = api.run(&["status", "web-1", "-o", "json"]);
    assert_eq!(ran.status, 0, "only what is shown counts");
    assert_eq!(ran.json().as_array().unwrap().len(), 1);
    assert_eq!(ran.json()[0]["state"], "inSync");
    assert_eq!(
        api.run(&["status", "--context", "bank", "shop/web-1"])
            .status,
        0
    );
    assert_eq!(
        api.run(&["status", "--context", "bank", "shop"]).status,
        2,
        "pods of bank cannot be had"
    );
}

#[test]
fn waiting_ends_with_what_is_waited_for_or_with_its_time() {
    let api = shop(json!([{"type": "Service", "name": "shop/x"}]));
    assert_eq!(api.run(&["status", "--wait", "100ms"]).status, 1);
    let good = json!([sidecar("web-1", json!([])), sidecar("web-2", json!([]))]);
    api.answer(
        "GET",
        &format!("{SYSTEM_PODS}/cp-1:15114/proxy/sidecars"),
        200,
        good,
    );
    assert_eq!(api.run(&["status", "--wait", "20s"]).status, 0);
}

#[test]
fn where_the_leader_does_not_answer_another_replica_is_asked() {
    let api = shop(json!([]));
    let leader = format!("{SYSTEM_PODS}/cp-1:15114/proxy/sidecars");
    api.forget(&leader);
    api.answer(
        "GET",
        &leader,
        503,
        json!({"message": "dial tcp: connection refused"}),
    );
    api.list(
        SYSTEM_PODS,
        json!([{"metadata": {"name": "cp-2"}, "status": {"phase": "Running"}}]),
    );
    api.get(
        &format!("{SYSTEM_PODS}/cp-2:15114/proxy/sidecars"),
        json!([sidecar("web-1", json!([]))]),
    );
    let ran = api.run(&["status"]);
    assert!(
        ran.error.contains("cp-2 was asked") && ran.error.contains("connection refused"),
        "{}",
        ran.error
    );
    assert_eq!(ran.status, 1, "web-2 is not known there");
}

#[test]
fn what_is_not_there_or_not_allowed_is_status_two_and_says_what_to_check() {
    let api = shop(json!([]));
    api.forget(LEASE);
    api.list(SYSTEM_PODS, json!([]));
    let ran = api.run(&["status"]);
    assert_eq!(ran.status, 2);
    assert!(ran.error.contains("is Remora installed?"), "{}", ran.error);
    api.forget(PODS);
    api.forbid(PODS);
    let ran = api.run(&["status"]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.error
            .contains("you may not list pods in namespace shop"),
        "{}",
        ran.error
    );
    let ran = api.run(&["status", "../secrets"]);
    assert_eq!(ran.status, 2);
    assert!(ran.error.contains("not a name"), "{}", ran.error);
}

#[test]
fn long_lists_are_read_page_by_page() {
    let api = shop(json!([]));
    api.forget(PODS);
    api.get(
        PODS,
        json!({"metadata": {"continue": "a/b="}, "items": [pod("web-1")]}),
    );
    api.get(PODS, json!({"metadata": {}, "items": [pod("web-2")]}));
    let ran = api.run(&["status", "-o", "json"]);
    assert_eq!(
        ran.json().as_array().unwrap().len(),
        2,
        "{}{}",
        ran.out,
        ran.error
    );
    assert!(
        api.asked()
            .contains(&format!("GET {PODS}?limit=500&continue=a%2Fb%3D")),
        "{:?}",
        api.asked()
    );
}

#[test]
fn top_reads_twice_and_gives_rates() {
    let api = Api::start();
    api.list(PODS, json!([pod("web-1"), pod("web-2")]));
    api.get(
        "/api/v1/namespaces/shop",
        json!({"metadata": {"name": "shop"}}),
    );
    let stats = |uptime_ms: u64, requests: u64| {
        json!({"uptime_ms": uptime_ms, "outbound": [], "inbound": [{"port": 8080, "requests": requests,
            "failures": 0, "latency_bounds_ms": [1.0], "latency_counts": [requests, 0]}]})
    };
    let admin = |name: &str, path: &str| format!("{PODS}/{name}:15120/proxy{path}");
    api.get(&admin("web-1", "/stats"), stats(1_000, 100));
    api.get(&admin("web-1", "/stats"), stats(3_000, 700));
    api.get(
        &admin("web-1", "/breakers"),
        json!({"services": [], "changes": []}),
    );
    api.answer(
        "GET",
        &admin("web-2", "/stats"),
        503,
        json!({"message": "refused"}),
    );
    let ran = api.run(&["top", "-o", "json"]);
    assert_eq!(ran.status, 0, "{}", ran.error);
    let rows = ran.json();
    assert_eq!(rows[0]["inbound"]["requestsPerSecond"], 300.0);
    assert_eq!(rows[1]["error"], "does not answer");
    let ran = api.run(&["top", "--once"]);
    assert!(ran.out.contains("web-2   does not answer"), "{}", ran.out);
    let ran = api.run(&["top"]);
    assert_eq!(ran.status, 2, "no terminal");
    assert!(ran.error.contains("--once"), "{}", ran.error);
}

#[test]
fn explain_reads_the_service_and_its_namespaces_policies() {
    let api = Api::start();
    api.get(
        "/api/v1/namespaces/shop/services/catalog",
        json!({"metadata": {"name": "catalog"}, "spec": {"clusterIP": "10.96.0.7"}}),
    );
    let policy = |name: &str, day: u32, spec: Value| json!({"metadata": {"name": name, "generation": 4, "creationTimestamp": format!("2026-01-0{day}T00:00:00Z")}, "spec": spec});
    let target = json!([{"kind": "Service", "name": "catalog"}]);
    let first = policy(
        "first",
        1,
        json!({"targetRefs": target, "retries": {"attempts": 2}}),
    );
    api.list(POLICIES, json!([first.clone()]));
    let ran = api.run(&["explain", "catalog", "-o", "json"]);
    assert_eq!(ran.status, 0, "{}", ran.error);
    assert!(ran.out.contains("\"isDefault\"") && ran.out.contains("\"notInForce\""));
    assert_camel_case(&ran.json());
    let fields = ran.json()["fields"].clone();
    let attempts = fields
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["field"] == "retries.attempts")
        .unwrap()
        .clone();
    assert_eq!(
        (&attempts["value"], &attempts["from"]),
        (&json!(2), &json!("first"))
    );
    assert_eq!(ran.json()["policies"][0]["generation"], 4);
    api.forget(POLICIES);
    api.list(
        POLICIES,
        json!([
            first,
            policy("second", 2, json!({"targetRefs": target})),
            policy(
                "wrong",
                3,
                json!({"targetRefs": target, "retries": {"attempts": 99}})
            )
        ]),
    );
    let ran = api.run(&["explain", "shop/catalog"]);
    assert_eq!(ran.status, 1, "{}", ran.out);
    assert!(
        ran.out.contains("second: Conflicted") && ran.out.contains("wrong: Invalid"),
        "{}",
        ran.out
    );
    let ran = api.run(&["explain", "absent"]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.error.contains("no Service absent in namespace shop"),
        "{}",
        ran.error
    );
}

#[test]
fn versions_of_all_parts_are_told_where_they_are_known() {
    let api = shop(json!([]));
    let image = json!({"containers": [{"name": "c", "image": "remora/control-plane:0.1.0"}]});
    api.list(
        SYSTEM_PODS,
        json!([{"metadata": {"name": "cp-1"}, "spec": image, "status": {"phase": "Running"}}]),
    );
    let ran = api.run(&["version", "-o", "json"]);
    assert_eq!(ran.status, 0, "{}", ran.error);
    let wanted = json!({"client": env!("CARGO_PKG_VERSION"), "kubernetes": "v1.34.4",
        "controlPlane": {"0.1.0": 1}, "sidecars": {"0.1.0": 2}});
    assert_eq!(ran.json(), wanted);
    api.forget(LEASE);
    api.forget(SYSTEM_PODS);
    api.list(SYSTEM_PODS, json!([]));
    let ran = api.run(&["version"]);
    assert_eq!(ran.status, 0, "{}", ran.error);
    assert!(
        ran.out
            .ends_with("control plane:  none\nsidecars:       unknown\n"),
        "{}",
        ran.out
    );
}

/// The names of every object, all the way down.
fn assert_camel_case(value: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                assert!(!name.contains('_'), "{name}");
                assert_camel_case(value);
            }
        }
        Value::Array(items) => items.iter().for_each(assert_camel_case),
        _ => {}
    }
}

#[test]
fn what_programs_read_has_names_in_camel_case() {
    let refused = json!([{"type": "Service", "name": "shop/x", "version": "1", "reason": "no"}]);
    let api = shop(refused);
    for command in ["status", "version", "check"] {
        let ran = api.run(&[command, "-o", "json"]);
        assert_camel_case(&ran.json());
    }
    let demo = concat!("files:", env!("CARGO_MANIFEST_DIR"), "/../manifests/demo");
    let ran = api.run(&[
        "explain", "catalog", "-n", "shop", "--source", demo, "-o", "json",
    ]);
    assert_camel_case(&ran.json());
}

#[test]
fn a_namespace_that_is_not_there_is_said_and_one_that_may_not_be_seen_is_believed() {
    let api = shop(json!([]));
    for command in [
        &["status", "-n", "absent"][..],
        &["top", "--once", "-n", "absent"],
        &["check", "-n", "absent"],
    ] {
        let ran = api.run(command);
        assert_eq!(ran.status, 2, "{command:?}: {}", ran.out);
        assert!(
            ran.error.contains("no such namespace: absent"),
            "{command:?}: {}",
            ran.error
        );
    }
    api.forget("/api/v1/namespaces/shop");
    api.forbid("/api/v1/namespaces/shop");
    let ran = api.run(&["status", "-n", "shop"]);
    assert_eq!(ran.status, 0, "{}", ran.error);
}
