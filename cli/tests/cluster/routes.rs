//! `remora explain` and `remora check` on routes.

use serde_json::{Value, json};

use crate::api::Api;

const HTTP_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const GRANTS: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/bank/referencegrants";

fn service(name: &str, namespace: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 8080}]}})
}

/// A Service.
fn bare_shop() -> Api {
    let api = Api::start();
    api.get(
        "/api/v1/namespaces/shop/services/payment",
        service("payment", "shop"),
    );
    api.list(
        "/apis/remora.io/v1alpha1/namespaces/shop/trafficpolicies",
        json!([]),
    );
    api
}

/// One with a route, half of which goes to another namespace.
fn shop() -> Api {
    let api = bare_shop();
    let backend =
        |name: &str, namespace: &str| json!({"name": name, "namespace": namespace, "port": 8080});
    api.list(HTTP_ROUTES, json!([{
        "metadata": {"name": "payment", "namespace": "shop", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "payment"}], "rules": [
            {"name": "charge", "matches": [{"path": {"type": "PathPrefix", "value": "/charge"}}],
                "backendRefs": [backend("payment", "shop"), backend("till", "bank")]}]}}]));
    api.list(
        "/api/v1/namespaces/shop/services",
        json!([service("payment", "shop")]),
    );
    api.list(
        "/api/v1/namespaces/bank/services",
        json!([service("till", "bank")]),
    );
    api
}

#[test]
fn a_request_is_explained_from_what_the_cluster_has_with_the_grants_of_other_namespaces() {
    let api = shop();
    let ask = [
        "explain",
        "shop/payment",
        "--path",
        "/charge",
        "--header",
        "x-a: 1",
        "-o",
        "json",
    ];
    let ran = api.run(&ask);
    assert_eq!(ran.status, 1, "{}", ran.error);
    let told = ran.json();
    let share = |told: &Value| told["request"]["taken"]["backends"][1].clone();
    assert_eq!(
        told["routes"][0]["problems"][0]["reason"],
        "RefNotPermitted"
    );
    assert!(
        share(&told)["cannot"]
            .as_str()
            .unwrap()
            .contains("ReferenceGrant")
    );
    api.list(
        GRANTS,
        json!([{"metadata": {"name": "shop", "namespace": "bank"}, "spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Service"}]}}]),
    );
    let ran = api.run(&ask);
    assert_eq!(ran.status, 0, "{}\n{}", ran.error, ran.out);
    let told = ran.json();
    assert_eq!(share(&told)["cannot"], Value::Null);
    assert_eq!(share(&told)["percent"], 50.0);
    assert_eq!(told["routes"][0]["generation"], 3);
}

#[test]
fn who_may_not_read_routes_is_told_so_and_gets_the_rest() {
    let api = bare_shop();
    api.forbid(HTTP_ROUTES);
    api.forbid("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes");
    let ran = api.run(&["explain", "shop/payment"]);
    assert_eq!(ran.status, 0, "{}", ran.error);
    assert!(
        ran.out.contains("routes were not looked at: "),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("Service shop/payment (ClusterIP)"),
        "{}",
        ran.out
    );
}

#[test]
fn a_request_needs_its_path_and_well_formed_headers() {
    let api = shop();
    for (wrong, said) in [
        (&["--method", "GET"][..], "--path"),
        (&["--path", "/", "--header", "nonsense"], "name: value"),
        (
            &["--path", "/", "--port", "1"],
            "has no port 1; it has: 8080",
        ),
        (&["--path", "/", "--from", "a/b/c"], "name of Kubernetes"),
    ] {
        let ran = api.run(&[&["explain", "shop/payment"], wrong].concat());
        assert_eq!(ran.status, 2, "{wrong:?}: {}", ran.out);
        assert!(ran.error.contains(said), "{wrong:?}: {}", ran.error);
    }
}
