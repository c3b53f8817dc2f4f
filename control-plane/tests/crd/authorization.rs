//! AuthorizationPolicies, good and bad, and what the control plane says to them.

use remora_control_plane::policy::authorization::parse;
use remora_control_plane::policy::definition;
use serde_json::{Value, json};

use super::fields::{self, Field};

/// All fields of `spec`.
pub fn fields() -> Vec<Field> {
    let definition = definition::authorization();
    fields::of(&definition::part_of(&definition, "spec"))
}

/// The object with this `spec`.
pub fn object(namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "remora.io/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "policy", "namespace": namespace},
        "spec": spec,
    })
}

/// With a target and an action where it has none.
fn spec(text: &str) -> Value {
    let mut spec: Value = serde_saphyr::from_str(text).unwrap();
    let fields = spec.as_object_mut().unwrap();
    if !fields.contains_key("podSelector") && !fields.contains_key("targetRefs") {
        let target = json!([{"group": "", "kind": "Service", "name": "cart"}]);
        fields.insert("targetRefs".to_owned(), target);
    }
    fields.entry("action").or_insert(json!("Allow"));
    spec
}

/// Policies that are taken.
pub fn good() -> Vec<Value> {
    let texts = [
        "{}",
        "action: Deny",
        "action: Audit",
        "podSelector: {}",
        "podSelector: {matchLabels: {app.kubernetes.io/name: cart, empty: ''}}",
        "podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: DoesNotExist}]}",
        "targetRefs: [{kind: Service, name: a}, {kind: Service, name: b}]",
        "from: [{identities: [shop/web]}]",
        "from: [{identities: ['spiffe://cluster.local/ns/shop/sa/web', a/b.c], namespaces: [shop]}, {namespaces: [x]}]",
        "to: [{methods: [GET, M-SEARCH], paths: [/, /*, /a, /a/, /a/*, /a.b/..c, /%20], grpcMethods: [a.B/C, a.B/*], ports: [1, 65535]}]",
        "to: [{paths: [\"/it's\", '/a:b@c,(d)=!$&+', /%C3%A9/*]}]",
    ];
    let mut good: Vec<Value> = texts.into_iter().map(spec).collect();
    good.push(largest());
    good
}

/// Every list at its bound, so that no rule costs more than it may.
fn largest() -> Value {
    let many = |count: usize, value: &str| json!(vec![value; count]);
    let long = format!("/{}/*", "a".repeat(1_000));
    let from = json!({
        "identities": many(32, "spiffe://cluster.local/ns/shop/sa/web"),
        "namespaces": many(64, "shop"),
    });
    let to = json!({
        "methods": many(32, "GET"), "paths": many(32, &long),
        "grpcMethods": many(64, "shop.Cart/Add"), "ports": vec![8080; 32],
    });
    json!({
        "podSelector": {"matchLabels": {"app": "cart"}},
        "action": "Deny", "from": vec![from; 16], "to": vec![to; 16],
    })
}

/// Policies that are refused, and for which field.
pub fn bad() -> Vec<(&'static str, Value)> {
    let texts = [
        (
            "spec",
            "{podSelector: {}, targetRefs: [{kind: Service, name: a}]}",
        ),
        ("spec.action", "action: Permit"),
        ("spec.targetRefs", "targetRefs: []"),
        (
            "spec.targetRefs[0].kind",
            "targetRefs: [{kind: HTTPRoute, name: a}]",
        ),
        (
            "spec.targetRefs[0].group",
            "targetRefs: [{group: apps, kind: Service, name: a}]",
        ),
        ("spec.from", "from: []"),
        ("spec.to", "to: []"),
        ("spec.from[0]", "from: [{}]"),
        ("spec.to[0]", "to: [{}]"),
        ("spec.from[0].identities", "from: [{identities: []}]"),
        ("spec.from[0].identities[0]", "from: [{identities: [web]}]"),
        (
            "spec.from[0].identities[0]",
            "from: [{identities: ['https://a/ns/b/sa/c']}]",
        ),
        (
            "spec.from[0].identities[0]",
            "from: [{identities: ['spiffe://a/b']}]",
        ),
        (
            "spec.from[0].identities[0]",
            "from: [{identities: ['*/web']}]",
        ),
        ("spec.from[0].namespaces[0]", "from: [{namespaces: [Shop]}]"),
        (
            "spec.from[0].namespaces[0]",
            "from: [{namespaces: ['a.b']}]",
        ),
        ("spec.from[0].users", "from: [{users: [a]}]"),
        ("spec.to[0].hosts", "to: [{hosts: [a]}]"),
        ("spec.to[0].methods[0]", "to: [{methods: [get]}]"),
        ("spec.to[0].methods", "to: [{methods: []}]"),
        ("spec.to[0].paths[0]", "to: [{paths: [a]}]"),
        ("spec.to[0].paths[0]", "to: [{paths: [/a//b]}]"),
        ("spec.to[0].paths[0]", "to: [{paths: [/a/../b]}]"),
        ("spec.to[0].paths[0]", "to: [{paths: [/a/.]}]"),
        ("spec.to[0].paths[0]", "to: [{paths: [/a*]}]"),
        ("spec.to[0].paths[0]", "to: [{paths: [/a/*/b]}]"),
        ("spec.to[0].paths[0]", "to: [{paths: [/a%2Fb]}]"),
        ("spec.to[0].paths[0]", "to: [{paths: [/%61]}]"),
        ("spec.to[0].paths[0]", "to: [{paths: ['/a;b']}]"),
        ("spec.to[0].paths[0]", "to: [{paths: ['/a?b']}]"),
        ("spec.to[0].paths[0]", "to: [{paths: ['/a#b']}]"),
        ("spec.to[0].grpcMethods[0]", "to: [{grpcMethods: [/a.B/C]}]"),
        ("spec.to[0].grpcMethods[0]", "to: [{grpcMethods: [a.B]}]"),
        ("spec.to[0].ports[0]", "to: [{ports: [0]}]"),
        ("spec.to[0].ports[0]", "to: [{ports: [65536]}]"),
        (
            "spec.podSelector.matchLabels.a",
            "podSelector: {matchLabels: {a: 'b c'}}",
        ),
        (
            "spec.podSelector.matchExpressions[0]",
            "podSelector: {matchExpressions: [{key: a, operator: In}]}",
        ),
        (
            "spec.podSelector.matchExpressions[0]",
            "podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
        ),
        (
            "spec.podSelector.matchExpressions[0].operator",
            "podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}",
        ),
    ];
    let bad = texts.into_iter().map(|(field, text)| (field, spec(text)));
    bad.chain([("spec", json!({"action": "Allow"}))])
        .chain([("spec.action", json!({"podSelector": {}}))])
        .collect()
}

fn faults(spec: &Value) -> Vec<String> {
    let faults = parse::spec("shop", spec).err().unwrap_or_default();
    faults.into_iter().map(|fault| fault.field).collect()
}

#[test]
fn every_good_policy_is_taken() {
    for spec in good() {
        assert_eq!(faults(&spec), [""; 0], "{spec}");
    }
}

#[test]
fn every_bad_policy_is_refused_for_the_field_that_is_wrong() {
    for (field, spec) in bad() {
        assert!(
            faults(&spec).iter().any(|found| found == field),
            "{field}: {:?} of {spec}",
            faults(&spec)
        );
    }
}

/// Its own namespace, and no other.
#[test]
fn a_policy_is_for_its_own_namespace_only() {
    let other = spec("targetRefs: [{kind: Namespace, name: other}]");
    assert_eq!(faults(&other), ["spec.targetRefs[0].name"]);
    let own = spec("targetRefs: [{kind: Namespace, name: shop}]");
    assert_eq!(faults(&own), [""; 0]);
    let null = json!({"podSelector": null, "action": "Allow"});
    assert_eq!(faults(&null), ["spec.podSelector"]);
}
