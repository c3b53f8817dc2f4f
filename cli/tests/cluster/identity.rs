//! `remora identity`: what a sidecar's answer becomes, and what is said where
//! there is none.

use serde_json::{Value, json};

use crate::api::Api;

const POD: &str = "/api/v1/namespaces/shop/pods/web-1";
const ADMIN: &str = "/api/v1/namespaces/shop/pods/web-1:15120/proxy/identity";
/// 2096, and 1970.
const FAR_MS: u64 = 4_000_000_000_000;
const PAST_MS: u64 = 1_000;

fn pod(phase: &str, sidecar: bool) -> Value {
    let sidecar = json!([{"name": "remora-proxy", "restartPolicy": "Always", "env": [
        {"name": "REMORA_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}])
    .as_array()
    .filter(|_| sidecar)
    .cloned();
    json!({
        "metadata": {"namespace": "shop", "name": "web-1", "uid": "1",
            "labels": {"pod-template-hash": "5d4f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f",
                "uid": "2", "controller": true}]},
        "spec": {"containers": [{"name": "app"}], "initContainers": sidecar},
        "status": {"phase": phase},
    })
}

fn certificate(until_ms: u64) -> Value {
    json!({"serial": "0a:1b", "sha256": "ab:cd", "not_before_ms": 0, "not_after_ms": until_ms})
}

fn told(until_ms: u64) -> Value {
    let mut root = certificate(FAR_MS);
    root["issued_own"] = json!(true);
    json!({"enabled": true, "spiffe_id": "spiffe://cluster.local/ns/shop/sa/web",
        "chain": [certificate(until_ms)], "next_renewal_ms": FAR_MS / 2, "last_error": null,
        "trust_domain": "cluster.local", "roots": [root]})
}

#[test]
fn an_identity_is_shown_to_people_and_programs() {
    let api = Api::start();
    api.get(POD, pod("Running", true));
    api.get(ADMIN, told(FAR_MS));
    let ran = api.run(&["identity", "web-1"]);
    assert_eq!((ran.status, ran.error.as_str()), (0, ""), "{}", ran.out);
    assert!(
        ran.out
            .contains("Identity       spiffe://cluster.local/ns/shop/sa/web\n"),
        "{}",
        ran.out
    );
    for arguments in [
        &["identity", "shop/web-1", "--json"][..],
        &["identity", "web-1", "-n", "shop", "-o", "json"],
    ] {
        let ran = api.run(arguments);
        assert_eq!(ran.status, 0, "{}", ran.error);
        let told = ran.json();
        assert_eq!(
            (&told["state"], &told["chain"][0]["sha256"]),
            (&json!("valid"), &json!("abcd"))
        );
        assert_eq!(told["roots"][0]["issuedOwn"], true);
        assert!(!ran.out.contains('_'), "names in camelCase: {}", ran.out);
    }
    assert_eq!(
        api.run(&["identity", "web-1", "--json", "-o", "yaml"])
            .status,
        2
    );
}

#[test]
fn an_identity_that_is_not_well_is_status_one() {
    let api = Api::start();
    api.get(POD, pod("Running", true));
    api.get(ADMIN, told(PAST_MS));
    let mut failing = told(FAR_MS);
    failing["last_error"] = json!("the CA is away");
    api.get(ADMIN, failing);
    api.get(ADMIN, json!({"enabled": false, "chain": [], "roots": []}));
    for wanted in [
        "expired",
        "the CA is away",
        "rollout restart deployment/web",
    ] {
        let ran = api.run(&["identity", "web-1"]);
        assert_eq!(ran.status, 1, "{}", ran.error);
        assert!(ran.out.contains(wanted), "{wanted}: {}", ran.out);
    }
}

#[test]
fn where_nothing_can_tell_it_is_said_why_and_what_to_do() {
    let api = Api::start();
    let said = |wanted: &str| {
        let ran = api.run(&["identity", "web-1"]);
        assert_eq!(ran.status, 2, "{}", ran.out);
        assert!(ran.error.contains(wanted), "{wanted}: {}", ran.error);
    };
    said("there is no pod web-1 in namespace shop");
    api.get(POD, pod("Running", false));
    said("web-1 has no sidecar");
    let mut declined = pod("Running", false);
    declined["metadata"]["annotations"] =
        json!({"remora.io/injected": "false: it is on the host's network (hostNetwork)"});
    api.forget(POD);
    api.get(POD, declined);
    said("declined it: it is on the host's network");
    api.forget(POD);
    api.get(POD, pod("Succeeded", true));
    said("does not run (it is Succeeded)");
    api.forget(POD);
    api.get(POD, pod("Running", true));
    // Its sidecar knows no such path.
    said("rollout restart deployment/web");
    api.answer("GET", ADMIN, 503, json!({"message": "connection refused"}));
    said("does not answer on its admin port 15120: connection refused");
    api.forget(ADMIN);
    api.forbid(ADMIN);
    said("you may not get pods/proxy in namespace shop");
    let ran = api.run(&["identity", "web-1", "-n", "bank", "shop/web-1"]);
    assert_eq!(ran.status, 2);
    let ran = api.run(&["identity", "shop/web-1", "-n", "bank"]);
    assert!(ran.status == 2 && ran.error.contains("not in namespace bank"));
}
