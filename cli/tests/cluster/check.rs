//! `remora check`.

use remora_control_plane::policy::definition;
use serde_json::{Value, json};

use crate::api::Api;

const CRDS: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trafficpolicies.remora.io";
const AUTHORIZATION_CRD: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/authorizationpolicies.remora.io";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/remora-system/deployments";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/remora-system/leases/remora-control-plane";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/remora-system/endpointslices";
const SECRET: &str = "/api/v1/namespaces/remora-system/secrets/remora-injector-certificate";
const SIDECARS: &str = "/api/v1/namespaces/remora-system/pods/cp-1:15114/proxy/sidecars";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

fn deployment(name: &str, ready: u32) -> Value {
    let image = format!("remora/x:{}", env!("CARGO_PKG_VERSION"));
    json!({"metadata": {"name": name}, "status": {"readyReplicas": ready},
        "spec": {"replicas": 2, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn pod(name: &str, has_sidecar: bool) -> Value {
    let init = if has_sidecar {
        json!([{"name": "remora-proxy", "restartPolicy": "Always", "env": [
            {"name": "REMORA_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}])
    } else {
        json!([])
    };
    json!({"metadata": {"namespace": "shop", "name": name, "uid": name},
        "spec": {"containers": [{"name": "app"}], "initContainers": init}, "status": {"phase": "Running"}})
}

fn sidecar(name: &str) -> Value {
    json!({"namespace": "shop", "pod": name, "pod_uid": name, "connected": true,
        "version": env!("CARGO_PKG_VERSION"), "applied": 3, "refused": [], "last_report_ms": 0})
}

/// A cluster in which all is well.
fn installed() -> Api {
    let api = Api::start();
    let mut crd = definition::definition();
    crd["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    api.get(CRDS, crd);
    let mut crd = definition::authorization();
    crd["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    api.get(AUTHORIZATION_CRD, crd);
    for name in ["remora-control-plane", "remora-injector"] {
        api.get(&format!("{DEPLOYMENTS}/{name}"), deployment(name, 2));
    }
    api.get(
        LEASE,
        json!({"spec": {"holderIdentity": "cp-1", "leaseDurationSeconds": 15,
        "renewTime": "2026-11-21T17:32:18.000000Z"}}),
    );
    api.get(&format!("{HOOKS}/remora-injector"), json!({"webhooks": [{"name": "inject.remora.io",
        "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
        "clientConfig": {"caBundle": "YQ==", "service": {"namespace": "remora-system", "name": "remora-injector"}}}]}));
    api.list(SLICES, json!([{"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]}]));
    api.forbid(SECRET);
    api.list(
        "/api/v1/pods",
        json!([pod("web-1", true), pod("web-2", true)]),
    );
    api.list(
        "/api/v1/namespaces",
        json!([{"metadata": {"name": "shop", "labels": {"remora.io/inject": "enabled"}}}]),
    );
    api.get(SIDECARS, json!([sidecar("web-1"), sidecar("web-2")]));
    api.list("/apis/remora.io/v1alpha1/trafficpolicies", json!([{"metadata": {"namespace": "shop", "name": "p", "generation": 1},
        "status": {"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 1}]}}]));
    api.list("/apis/remora.io/v1alpha1/authorizationpolicies", json!([{"metadata": {"namespace": "shop", "name": "a", "generation": 1},
        "status": {"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 1}]}}]));
    api
}

#[test]
fn an_installation_that_is_well_is_told_so() {
    let ran = installed().run(&["check"]);
    assert_eq!((ran.status, ran.error.as_str()), (0, ""), "{}", ran.out);
    assert!(
        ran.out.contains("No problems: 13 things checked, 12 fine."),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("· certificate"),
        "what may not be read is said: {}",
        ran.out
    );
    assert!(ran.out.contains("✓ sidecars"), "{}", ran.out);
}

#[test]
fn nothing_installed_is_one_error() {
    let ran = Api::start().run(&["check"]);
    assert_eq!(ran.status, 1, "{}", ran.error);
    assert!(
        ran.out
            .contains("✗ installation  nothing of Remora is in this cluster"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("1 error, 0 warnings"), "{}", ran.out);
}

#[test]
fn half_an_installation_is_an_error_for_each_missing_part_with_what_to_do() {
    let api = Api::start();
    api.get("/api/v1/namespaces/remora-system", json!({"metadata": {}}));
    let ran = api.run(&["check", "-o", "json"]);
    assert_eq!(ran.status, 1, "{}", ran.error);
    let findings = ran.json();
    let errors: Vec<&Value> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["level"] == "error")
        .collect();
    let subjects: Vec<&str> = errors
        .iter()
        .map(|one| one["subject"].as_str().unwrap())
        .collect();
    for wanted in ["crd", "control plane", "leader", "injector", "webhook"] {
        assert!(subjects.contains(&wanted), "{wanted} in {subjects:?}");
    }
    assert!(
        errors
            .iter()
            .all(|one| !one["action"].as_str().unwrap_or_default().is_empty()),
        "{}",
        ran.out
    );
}

#[test]
fn what_does_not_run_as_it_should_is_found() {
    let api = installed();
    api.forget(LEASE);
    api.get(
        LEASE,
        json!({"spec": {"holderIdentity": "cp-1", "renewTime": "2026-11-21T17:00:00.000000Z"}}),
    );
    api.forget("/api/v1/pods");
    // The API server's clock says 17:32:20.
    let mut new = pod("new-1", true);
    new["metadata"]["creationTimestamp"] = json!("2026-11-21T17:32:00Z");
    let mut own = pod("own-1", false);
    own["spec"]["containers"][0]["name"] = json!("remora-proxy");
    api.list(
        "/api/v1/pods",
        json!([
            pod("web-1", true),
            pod("web-2", true),
            pod("old-1", false),
            new,
            own
        ]),
    );
    let injector = format!("{DEPLOYMENTS}/remora-injector");
    api.forget(&injector);
    let mut scaled = deployment("remora-injector", 0);
    scaled["spec"]["replicas"] = json!(0);
    api.get(&injector, scaled);
    api.forget(SIDECARS);
    api.get(SIDECARS, json!([sidecar("web-1")]));
    let policies = "/apis/remora.io/v1alpha1/authorizationpolicies";
    api.forget(policies);
    api.list(policies, json!([{"metadata": {"namespace": "shop", "name": "a", "generation": 1},
        "status": {"conditions": [{"type": "Accepted", "status": "False", "reason": "TargetNotFound",
            "message": "there is no Service x"}]}}]));
    let ran = api.run(&["check", "-o", "json"]);
    assert_eq!(ran.status, 1);
    for wanted in [
        "AuthorizationPolicy shop/a is not in force: TargetNotFound: there is no Service x",
        "kubectl -n shop describe authorizationpolicy a",
        "cp-1 has not renewed the Lease for 32m",
        "1 sidecar not connected: shop/web-2",
        "1 sidecar not connected yet, of pods that are new or not ready: shop/new-1",
        "is named remora-proxy: shop/own-1",
        "scaled to 0",
        "kubectl -n remora-system scale deployment/remora-injector --replicas=2",
        "1 pod of namespace shop without sidecar: old-1",
    ] {
        assert!(ran.out.contains(wanted), "{wanted} in\n{}", ran.out);
    }
}

#[test]
fn before_an_installation_the_cluster_is_looked_at() {
    let api = Api::start();
    api.answer("POST", REVIEWS, 201, json!({"status": {"allowed": true}}));
    api.list(
        HOOKS,
        json!([{"metadata": {"name": "istio-sidecar-injector"}}]),
    );
    api.list("/api/v1/namespaces", json!([]));
    let ran = api.run(&["check", "--pre"]);
    assert_eq!(
        ran.status, 0,
        "a warning is no error: {}{}",
        ran.out, ran.error
    );
    assert!(
        ran.out.contains("! other meshes") && ran.out.contains("Istio"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("nothing of Remora is there yet"),
        "{}",
        ran.out
    );
    let questions = api
        .asked()
        .iter()
        .filter(|asked| asked.starts_with("POST"))
        .count();
    assert_eq!(questions, 39, "each verb on each kind of an installation");
}

#[test]
fn an_old_cluster_and_missing_rights_are_errors_before_an_installation() {
    let api = Api::start();
    api.forget("/version");
    api.get("/version", json!({"gitVersion": "v1.28.3"}));
    api.answer("POST", REVIEWS, 201, json!({"status": {"allowed": false}}));
    let ran = api.run(&["check", "--pre"]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.out.contains("v1.28.3") && ran.out.contains("no native sidecars"),
        "{}",
        ran.out
    );
    assert!(
        ran.out
            .contains("you lack: get namespaces in the whole cluster"),
        "{}",
        ran.out
    );
}
