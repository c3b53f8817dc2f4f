//! `remora authorize`: from what a cluster has to what a caller would get.

use serde_json::{Value, json};

use crate::api::Api;

const BASE: &str = "/api/v1/namespaces/shop";
const POLICIES: &str = "/apis/remora.io/v1alpha1/namespaces/shop/authorizationpolicies";

fn pod(sidecar: bool) -> Value {
    let name = if sidecar { "remora-proxy" } else { "other" };
    json!({
        "metadata": {"namespace": "shop", "name": "cart-1", "uid": "1", "labels": {"app": "cart"},
            "annotations": {"remora.io/trust-domain": "cluster.local"}},
        "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": name,
            "restartPolicy": "Always", "env": [
                {"name": "REMORA_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    })
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "generation": 1}, "spec": spec})
}

fn shop() -> Api {
    let api = Api::start();
    api.get(&format!("{BASE}/pods/cart-1"), pod(true));
    api.list(
        &format!("{BASE}/services"),
        json!([{"metadata": {"namespace": "shop", "name": "cart"},
            "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "cart"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}]),
    );
    api.list(
        "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
        json!([]),
    );
    api.list(
        "/apis/remora.io/v1alpha1/namespaces/shop/trafficpolicies",
        json!([policy(
            "strict",
            json!({
            "targetRefs": [{"kind": "Service", "name": "cart"}], "mtls": {"mode": "Strict"}})
        )]),
    );
    api
}

fn target() -> Value {
    json!([{"kind": "Service", "name": "cart"}])
}

#[test]
fn what_is_for_a_pod_and_what_a_caller_gets_is_told() {
    let api = shop();
    api.list(
        POLICIES,
        json!([
            policy(
                "cart",
                json!({"targetRefs": target(), "action": "Allow",
                "from": [{"identities": ["shop/web"]}], "to": [{"methods": ["GET"]}]})
            ),
            policy(
                "elsewhere",
                json!({"podSelector": {"matchLabels": {"app": "web"}}, "action": "Deny"})
            ),
        ]),
    );
    let ran = api.run(&["authorize", "cart-1"]);
    assert_eq!((ran.status, ran.error.as_str()), (0, ""), "{}", ran.out);
    assert!(ran.out.contains("shop/cart"), "{}", ran.out);
    assert!(!ran.out.contains("elsewhere"), "{}", ran.out);
    assert!(ran.out.contains("8080   Strict"), "{}", ran.out);

    let ran = api.run(&["authorize", "shop/cart-1", "--from", "shop/web"]);
    assert_eq!(ran.status, 0, "{}", ran.error);
    assert!(
        ran.out.contains("may pass   Allow shop/cart"),
        "{}",
        ran.out
    );
    let ran = api.run(&[
        "authorize",
        "cart-1",
        "--from",
        "shop/web",
        "--method",
        "POST",
        "-o",
        "json",
    ]);
    assert_eq!(ran.status, 1, "{}", ran.error);
    let told = ran.json();
    assert_eq!(told["ports"][0]["outcome"]["passes"], false);
    assert_eq!(told["from"], "spiffe://cluster.local/ns/shop/sa/web");
    // Without an identity the port itself refuses.
    let ran = api.run(&["authorize", "cart-1", "--path", "/"]);
    assert!(
        ran.status == 1 && ran.out.contains("(Strict)"),
        "{}",
        ran.out
    );
}

#[test]
fn a_policy_that_cannot_be_read_and_a_pod_that_nothing_guards_are_told() {
    let api = shop();
    api.list(
        POLICIES,
        json!([policy(
            "wrong",
            json!({"targetRefs": target(), "action": "Allow", "to": [{}]})
        )]),
    );
    let ran = api.run(&["authorize", "cart-1"]);
    assert_eq!(ran.status, 1, "{}", ran.error);
    assert!(
        ran.out.contains("wrong: spec.to[0] must have"),
        "{}",
        ran.out
    );

    api.forget(&format!("{BASE}/pods/cart-1"));
    api.get(&format!("{BASE}/pods/cart-1"), pod(false));
    let ran = api.run(&["authorize", "cart-1"]);
    assert!(
        ran.status == 2 && ran.error.contains("has no sidecar"),
        "{}",
        ran.error
    );
    let ran = api.run(&["authorize", "absent"]);
    assert!(
        ran.status == 2 && ran.error.contains("no pod absent"),
        "{}",
        ran.error
    );
}

#[test]
fn who_cannot_be_an_identity_is_said_before_the_cluster_is_asked() {
    let api = Api::start();
    for nobody in ["web", "spiffe://cluster.local/web", "Shop/web"] {
        let ran = api.run(&["authorize", "shop/absent", "--from", nobody]);
        assert_eq!(ran.status, 2, "{}", ran.error);
        assert!(
            ran.error.contains("--from") && ran.error.contains(nobody),
            "{}",
            ran.error
        );
    }
    assert!(api.asked().is_empty(), "{:?}", api.asked());
}
