//! From files to the answer.

use std::path::PathBuf;

use super::*;

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {clusterIP: 10.96.0.7, ports: [{port: 8080}], selector: {app: catalog}}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: example.com}
";
const POLICIES: &str = "
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: defaults, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  targetRefs: [{kind: Namespace, name: shop}]
  timeouts: {request: 5s}
  outbound: {connectTimeout: 1s}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: catalog, namespace: shop, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  timeouts: {request: 2s}
  retries: {attempts: 2, on: [gateway-error, 429]}
  rateLimits:
  - {name: per-caller, limit: {requests: 100, per: second}, key: [remoteAddress], match: {methods: [GET], path: {prefix: /a/}}, mode: Shadow}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: newer, namespace: shop, creationTimestamp: 2026-01-03T00:00:00Z}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  retries: {attempts: 9}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: wrong, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  retries: {attempts: 99}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: elsewhere, namespace: bank}
spec:
  targetRefs: [{kind: Namespace, name: bank}]
  timeouts: {request: 1s}
";

/// Of pods: of some of the Service's, of all of them, of none, and one that is wrong.
const OF_PODS: &str = "
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: canaries, namespace: shop}
spec:
  podSelector: {matchLabels: {app: catalog}, matchExpressions: [{key: track, operator: In, values: [a, b]}]}
  mtls: {mode: Strict, ports: {\"9090\": Permissive}}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: every, namespace: shop}
spec: {podSelector: {}, mtls: {}}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: webs, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, mtls: {mode: Strict}}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: retrying, namespace: shop}
spec: {podSelector: {}, mtls: {}, retries: {}}
";

fn explained(name: &str) -> Result<Explanation, Error> {
    explained_with(name, "")
}

fn explained_with(name: &str, more: &str) -> Result<Explanation, Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("services.yaml"), SERVICES).unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/policies.yml"), POLICIES).unwrap();
    std::fs::write(folder.path().join(".hidden.yaml"), "[").unwrap();
    std::fs::write(folder.path().join("more.yaml"), more).unwrap();
    let folders = [folder.path().to_owned()];
    let given = given::from_files(&folders, "shop", name)?;
    explain(given, &request::Asked::default())
}

#[test]
fn each_field_names_its_policy_and_what_is_not_in_force_its_reason() {
    let told = explained("catalog").unwrap();
    let policies: Vec<_> = told
        .policies
        .iter()
        .map(|one| (one.name.as_str(), one.by.as_slice()))
        .collect();
    assert_eq!(
        policies,
        [("catalog", &["Service"][..]), ("defaults", &["Namespace"])]
    );
    let field = |name: &str| {
        let field = told
            .fields
            .iter()
            .find(|field| field.field == name)
            .unwrap();
        (field.value.clone(), field.from.as_str())
    };
    assert_eq!(field("timeouts.request"), ("2s".into(), "catalog"));
    assert_eq!(field("outbound.connectTimeout"), ("1s".into(), "defaults"));
    assert_eq!(field("outbound.idleTimeout"), ("1m".into(), "default"));
    let reasons: Vec<_> = told
        .not_in_force
        .iter()
        .map(|one| (one.policy.as_str(), one.reason.as_str()))
        .collect();
    assert_eq!(reasons, [("wrong", "Invalid"), ("newer", "Conflicted")]);
    assert!(told.not_in_force[0].message.contains("policies.yml"));
    assert!(
        told.not_in_force[0]
            .message
            .contains("spec.retries.attempts")
    );
}

#[test]
fn people_read_a_table() {
    let text = show::text(&explained("catalog").unwrap(), Paint::plain());
    for wanted in [
        "Service shop/catalog (ClusterIP)\n",
        "Policies: catalog (by Service, generation 1), defaults (by Namespace, generation 1)\n",
        "retries.attempts ",
        "catalog    gateway-error, 429\n",
        "rateLimits[per-caller] ",
        "100 per second, burst 10, for each remoteAddress (at most 10000), only methods GET path prefix /a/, shadow",
        "Not set by any policy, so without effect: circuitBreaker, mtls, admission, loadBalancing, healthCheck, fallback, fault\n",
        "TrafficPolicy newer: Conflicted: the older TrafficPolicy shop/catalog is in force",
    ] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
}

#[test]
fn policies_of_its_pods_are_told_beside_it_where_they_may_select_them() {
    let told = explained_with("catalog", OF_PODS).unwrap();
    let of_pods: Vec<_> = told
        .of_pods
        .iter()
        .map(|one| (one.name.as_str(), one.selects_all, one.selector.as_str()))
        .collect();
    assert_eq!(
        of_pods,
        [
            ("canaries", false, "app=catalog,track in (a,b)"),
            ("every", true, "")
        ]
    );
    let broken = &told.not_in_force[0];
    assert_eq!(broken.policy, "retrying");
    assert!(
        broken.message.contains("spec.retries is about calls"),
        "{broken:?}"
    );
    let text = show::text(&told, Paint::plain());
    for wanted in [
        "Of its pods (podSelector), where of each port the strictest mode counts:\n",
        "canaries (generation 1)   with app=catalog,track in (a,b)   mtls.mode Strict, mtls.ports 9090 Permissive\n",
        "every (generation 1)      all ",
        "Not set by any policy, so without effect: circuitBreaker, admission, loadBalancing, healthCheck, fallback, fault\n",
    ] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
    assert!(!text.contains("webs"), "{text}");
    let outside = explained_with("outside", OF_PODS).unwrap();
    assert!(outside.of_pods.is_empty());
}

#[test]
fn a_service_that_no_policy_can_reach_says_so_and_one_that_is_not_there_too() {
    let text = show::text(&explained("outside").unwrap(), Paint::plain());
    assert!(text.contains("no policy applies"), "{text}");
    let error = explained("absent").unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("absent"));
    let nowhere = [PathBuf::from("/nowhere/at/all")];
    assert!(given::from_files(&nowhere, "shop", "catalog").is_err());
    assert!(given::parse_source("dir").is_err());
    assert_eq!(given::parse_source("files:a").unwrap(), PathBuf::from("a"));
}

#[test]
fn a_folder_that_is_marked_is_not_read_here_either() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("services.yaml"), SERVICES).unwrap();
    let sub = folder.path().join("stages");
    std::fs::create_dir(&sub).unwrap();
    std::fs::write(sub.join("policies.yaml"), POLICIES).unwrap();
    let folders = [folder.path().to_owned()];
    let policies = || {
        let given = given::from_files(&folders, "shop", "catalog").unwrap();
        let told = explain(given, &request::Asked::default()).unwrap();
        told.policies.len()
    };
    assert_eq!(policies(), 2);
    std::fs::write(sub.join(".remora-ignore"), "").unwrap();
    assert_eq!(policies(), 0);
}
