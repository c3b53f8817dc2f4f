//! The manifests agree with each other: what one names, another has. (What an
//! API server would take without a word, and what then would just not work.)

#![allow(clippy::unwrap_used)] // a test may fail by it

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../manifests")
        .join(path)
}

/// Every object of a kustomization, and of those that it names.
fn objects(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path.join("kustomization.yaml")).unwrap();
    let kustomization: Value = serde_saphyr::from_str(&text).unwrap();
    let named = kustomization["resources"].as_array().into_iter().flatten();
    let mut objects = Vec::new();
    for name in named {
        let place = path.join(name.as_str().unwrap());
        if place.is_dir() {
            objects.extend(self::objects(&place));
            continue;
        }
        let text = std::fs::read_to_string(&place).unwrap();
        let documents = text.split("\n---\n");
        objects.extend(documents.map(|text| -> Value { serde_saphyr::from_str(text).unwrap() }));
    }
    objects
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let listed = value.pointer(pointer).and_then(Value::as_array);
    listed.into_iter().flatten()
}

fn named_ports(deployment: &Value) -> BTreeSet<String> {
    let containers = list(deployment, "/spec/template/spec/containers");
    let ports = containers.flat_map(|container| list(container, "/ports"));
    ports
        .map(|port| port["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Whether the labels of a selector are a Deployment's pods'.
fn selects(selector: &Value, deployment: &Value) -> bool {
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let mut wanted = selector.as_object().unwrap().iter();
    wanted.all(|(name, value)| labels[name] == *value)
}

/// The pods that something selects, and the ports that it names of them.
fn port_users(objects: &[Value]) -> Vec<(Value, Value, String)> {
    let mut users = Vec::new();
    let mut add = |object: &Value, selector: &str, ports: Vec<&Value>| {
        let selector = object.pointer(selector).cloned().unwrap_or_default();
        for port in ports.into_iter().filter_map(Value::as_str) {
            users.push((object.clone(), selector.clone(), port.to_owned()));
        }
    };
    for service in of_kind(objects, "Service") {
        let ports = list(service, "/spec/ports").map(|port| &port["targetPort"]);
        add(service, "/spec/selector", ports.collect());
    }
    for policy in of_kind(objects, "NetworkPolicy") {
        let rules = list(policy, "/spec/ingress");
        let ports = rules.flat_map(|rule| list(rule, "/ports").map(|port| &port["port"]));
        add(policy, "/spec/podSelector/matchLabels", ports.collect());
    }
    for monitor in of_kind(objects, "PodMonitor") {
        // That of the sidecars selects every pod, by the port that only they have.
        if monitor.pointer("/spec/selector/matchLabels").is_some() {
            let ports = list(monitor, "/spec/podMetricsEndpoints").map(|one| &one["port"]);
            add(monitor, "/spec/selector/matchLabels", ports.collect());
        }
    }
    users
}

#[test]
fn every_port_that_is_named_is_there_in_every_pod_that_is_meant() {
    let mut all = objects(&folder("install"));
    all.extend(objects(&folder("components/podmonitor")));
    let deployments: Vec<&Value> = of_kind(&all, "Deployment").collect();
    assert_eq!(deployments.len(), 2);
    let users = port_users(&all);
    assert!(users.len() >= 4, "{users:?}");
    for (object, selector, port) in users {
        let meant: Vec<_> = deployments
            .iter()
            .filter(|deployment| selects(&selector, deployment))
            .collect();
        assert!(!meant.is_empty(), "{object} selects nothing");
        for deployment in meant {
            let (who, what) = (&object["metadata"]["name"], &deployment["metadata"]["name"]);
            assert!(
                named_ports(deployment).contains(&port),
                "{} {who} names the port {port}, which {what} has not",
                object["kind"]
            );
        }
    }
    for deployment in deployments {
        for container in list(deployment, "/spec/template/spec/containers") {
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                if let Some(port) = container[probe]["httpGet"]["port"].as_str() {
                    assert!(named_ports(deployment).contains(port), "{probe}: {port}");
                }
            }
        }
    }
}

/// Clusters may keep the built-in classes for kube-system.
#[test]
fn every_priority_class_is_our_own() {
    let all = objects(&folder("install"));
    let classes: Vec<&Value> = of_kind(&all, "PriorityClass")
        .map(|class| &class["metadata"]["name"])
        .collect();
    for deployment in of_kind(&all, "Deployment") {
        let class = &deployment["spec"]["template"]["spec"]["priorityClassName"];
        assert!(classes.contains(&class), "{class} of {classes:?}");
    }
}
