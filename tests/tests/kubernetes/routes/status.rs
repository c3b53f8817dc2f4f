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

#[test]
fn each_fault_has_its_condition_and_its_reason() {
    let Some(world) = World::make() else { return };
    let backend = |backend: &str| format!("    - backendRefs: [{{{backend}}}]\n");
    let pattern = "    - matches: [{path: {type: RegularExpression, value: '/(['}}]\n      backendRefs: [{name: echo-v2, port: 80}]\n";
    let cases = [
        (
            "name: nowhere",
            String::new(),
            "Accepted",
            "False NoMatchingParent",
        ),
        (
            "name: echo, port: 999",
            String::new(),
            "Accepted",
            "False NoMatchingParent",
        ),
        (
            "name: bare",
            String::new(),
            "Accepted",
            "False NoMatchingParent",
        ),
        (
            "name: echo",
            backend("name: nowhere, port: 80"),
            "ResolvedRefs",
            "False BackendNotFound",
        ),
        (
            "name: echo",
            backend("name: echo-v1, port: 999"),
            "ResolvedRefs",
            "False BackendNotFound",
        ),
        (
            "name: echo",
            backend("group: example.com, kind: Bucket, name: b"),
            "ResolvedRefs",
            "False InvalidKind",
        ),
        (
            "name: echo",
            backend("name: echo-v3, namespace: routes-abroad, port: 80"),
            "ResolvedRefs",
            "False RefNotPermitted",
        ),
        (
            "name: echo",
            pattern.to_owned(),
            "PartiallyInvalid",
            "True UnsupportedValue",
        ),
        ("name: echo", String::new(), "Accepted", "True Accepted"),
        (
            "name: echo",
            String::new(),
            "ResolvedRefs",
            "True ResolvedRefs",
        ),
        ("name: echo", String::new(), "PartiallyInvalid", ""),
    ];
    for (parent, second, condition, expected) in cases {
        world.write("HTTPRoute", HOME, "echo", &spec(parent, &second));
        let said = world.says("HTTPRoute", HOME, "echo", condition, expected);
        assert!(
            !said.is_empty() || expected.is_empty(),
            "{parent} {second}: no message"
        );
    }
    let hosts = spec("name: echo", "").replacen(
        "  parentRefs",
        "  hostnames: [shop.example]\n  parentRefs",
        1,
    );
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
