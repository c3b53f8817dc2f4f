//! What is said of a route, in its status.

use serde_json::{Value, json};

use crate::cluster::eventually;

use super::world::{HOME, World, ours};

/// A route with a rule that can be done and one that may not be.
fn spec(parent: &str, second: &str) -> String {
    format!(
        "  parentRefs: [{{group: '', kind: Service, {parent}}}]
  rules:
    - matches: [{{path: {{type: PathPrefix, value: /a}}}}]
      backendRefs: [{{name: echo-v1, port: 80}}]
{second}"
    )
}

/// Parent, second rule, and what is said of it then.
const FAULTS: [(&str, &str, &str, &str); 11] = [
    ("name: nowhere", "", "Accepted", "False NoMatchingParent"),
    (
        "name: echo, port: 999",
        "",
        "Accepted",
        "False NoMatchingParent",
    ),
    ("name: bare", "", "Accepted", "False NoMatchingParent"),
    (
        "name: echo",
        NOWHERE,
        "ResolvedRefs",
        "False BackendNotFound",
    ),
    (
        "name: echo",
        NO_PORT,
        "ResolvedRefs",
        "False BackendNotFound",
    ),
    ("name: echo", BUCKET, "ResolvedRefs", "False InvalidKind"),
    (
        "name: echo",
        ABROAD,
        "ResolvedRefs",
        "False RefNotPermitted",
    ),
    (
        "name: echo",
        PATTERN,
        "PartiallyInvalid",
        "True UnsupportedValue",
    ),
    ("name: echo", "", "Accepted", "True Accepted"),
    ("name: echo", "", "ResolvedRefs", "True ResolvedRefs"),
    ("name: echo", "", "PartiallyInvalid", ""),
];
const NOWHERE: &str = "    - backendRefs: [{name: nowhere, port: 80}]\n";
const NO_PORT: &str = "    - backendRefs: [{name: echo-v1, port: 999}]\n";
const BUCKET: &str = "    - backendRefs: [{group: example.com, kind: Bucket, name: b}]\n";
const ABROAD: &str = "    - backendRefs: [{name: echo-v3, namespace: routes-abroad, port: 80}]\n";
const PATTERN: &str = "    - matches: [{path: {type: RegularExpression, value: '/(['}}]
      backendRefs: [{name: echo-v2, port: 80}]
";

#[test]
fn each_fault_has_its_condition_and_its_reason() {
    let Some(world) = World::make() else { return };
    for (parent, second, condition, expected) in FAULTS {
        world.write("HTTPRoute", HOME, "echo", &spec(parent, second));
        let said = world.says("HTTPRoute", HOME, "echo", condition, expected);
        assert!(
            !said.is_empty() || expected.is_empty(),
            "{parent} {second}: no message"
        );
    }
    let hosts = "  hostnames: [shop.example]\n  parentRefs";
    let hosts = spec("name: echo", "").replacen("  parentRefs", hosts, 1);
    world.write("HTTPRoute", HOME, "echo", &hosts);
    eventually(30, "hostnames are told of", || {
        let said = world.says("HTTPRoute", HOME, "echo", "Accepted", "True Accepted");
        if said.contains("hostnames are not looked at") {
            Ok(())
        } else {
            Err(said)
        }
    });
}

/// Another controller's entry for a Gateway, and its own for the Service too.
fn others() -> Value {
    let entry = |parent: Value| {
        json!({"parentRef": parent, "controllerName": "example.com/other", "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "mine",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
    };
    json!([
        entry(json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"})),
        entry(json!({"group": "", "kind": "Service", "name": "echo"})),
    ])
}

#[test]
fn entries_of_other_controllers_stay_as_they_are() {
    let Some(world) = World::make() else { return };
    let cluster = world.cluster();
    let both = spec("name: echo", "").replacen(
        "parentRefs: [",
        "parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}, ",
        1,
    );
    world.route("HTTPRoute", HOME, "echo", &both);
    let route = cluster.json(&["get", "httproute", "-n", HOME, "echo"]);
    let mut parents = others().as_array().unwrap().clone();
    parents.extend(ours(&route));
    let patch = json!({"status": {"parents": parents}}).to_string();
    let merge = [
        "patch",
        "httproute",
        "-n",
        HOME,
        "echo",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    cluster.kubectl(&merge);
    let foreign = || {
        let route = cluster.json(&["get", "httproute", "-n", HOME, "echo"]);
        let parents = route["status"]["parents"].as_array().unwrap().clone();
        let foreign: Vec<Value> = parents
            .into_iter()
            .filter(|one| one["controllerName"] == "example.com/other")
            .collect();
        (Value::from(foreign), ours(&route).len())
    };
    // Ours changes, and theirs does not.
    let changed = both.replace("name: echo-v1", "name: nowhere");
    world.write("HTTPRoute", HOME, "echo", &changed);
    world.says(
        "HTTPRoute",
        HOME,
        "echo",
        "ResolvedRefs",
        "False BackendNotFound",
    );
    assert_eq!(foreign(), (others(), 1));
    // Without a parent of ours there is no entry of ours.
    let without = changed.replace(", {group: '', kind: Service, name: echo}]", "]");
    world.write("HTTPRoute", HOME, "echo", &without);
    eventually(30, "our entry is gone", || match foreign() {
        (theirs, 0) if theirs == others() => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
