//! What the control plane takes, the sidecar takes: policies at the edges of the
//! schema, by way of the control plane's parser and publisher, into the
//! sidecar's decoder. A policy that passes the first and fails at the second
//! would be accepted, and keep every new pod of its target from being ready.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a test ends where its ground is missing; of the table only some is used here"
)]

#[path = "../../../control-plane/tests/crd/authorization.rs"]
mod authorization;
#[path = "../../../control-plane/tests/crd/blocks.rs"]
mod blocks;
#[path = "../../../control-plane/tests/crd/chance.rs"]
mod chance;
#[path = "../../../control-plane/tests/crd/fields.rs"]
mod fields;
#[path = "../../../control-plane/tests/crd/reference.rs"]
mod reference;
#[path = "../../../control-plane/tests/crd/table.rs"]
mod table;

use std::sync::Arc;

use prost::Message;
use remora_control_plane::core::Core;
use remora_control_plane::core::objects::{Event, Id, Object, TrafficPolicy};
use remora_control_plane::core::store::{ResourceType, Store};
use remora_control_plane::policy::parse;
use remora_control_plane::source::document::{Read, read_all};
use remora_proto::discovery;
use remora_proxy::state::decode;
use serde_json::{Value, json};

/// Characters that HTTP, a log or a count of bytes trips over.
const AWKWARD: [char; 12] = [
    'a',
    ' ',
    '\t',
    '\n',
    '\0',
    '\u{7f}',
    '\u{85}',
    'ü',
    '\u{202e}',
    '\u{1f600}',
    '"',
    '~',
];

/// An object that is good, read as from a file.
fn read(object: &Value) -> Object {
    let [placed] = &mut read_all(&object.to_string())[..] else {
        panic!("one document: {object}");
    };
    match std::mem::replace(&mut placed.read, Read::Skipped(String::new())) {
        Read::Object(object) => object,
        _ => panic!("not a good object: {object}"),
    }
}

/// A policy, read as from a cluster; none where it is refused.
fn policy(name: &str, spec: &Value) -> Option<Object> {
    let parsed = parse::spec(table::NAMESPACE, name, spec).ok()?;
    Some(Object::TrafficPolicy(Box::new(TrafficPolicy {
        id: Id::new(table::NAMESPACE, name),
        created: None,
        generation: 1,
        scope: parsed.scope,
        settings: parsed.settings,
    })))
}

/// Services `names`, all over one pod.
fn ground(names: &[String]) -> Vec<Object> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "pod-1", "namespace": table::NAMESPACE, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 9000}]}]},
        "status": {"podIP": "10.1.0.1"},
    });
    let services = names.iter().map(|name| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": table::NAMESPACE},
            "spec": {"clusterIP": "None", "selector": {"app": "a"}, "ports": [{"port": 80}]},
        })
    });
    let objects = services.chain([pod]);
    objects.map(|object| read(&object)).collect()
}

/// Why a sidecar refuses what comes of these objects.
fn refusals(objects: Vec<Object>) -> Vec<String> {
    let names: Vec<String> = objects
        .iter()
        .filter_map(|object| match object {
            Object::Service(service) => Some(service.id.to_string()),
            _ => None,
        })
        .collect();
    let store = Arc::new(Store::default());
    Core::new(store.clone(), None).handle(objects.into_iter().map(Event::Apply));
    let find = |kind, name: &str| {
        let resource = store.find(kind, name).expect("it was published");
        let whole = discovery::Resource::decode(resource.encoded.clone()).unwrap();
        whole.resource.unwrap().value
    };
    let pod = "shop/pod-1";
    let workload = find(ResourceType::Workload, pod);
    let mut refused: Vec<_> = decode::workload(pod, &workload).err().into_iter().collect();
    for name in names.into_iter().chain(["pod/shop/pod-1".to_owned()]) {
        let service = find(ResourceType::Service, &name);
        refused.extend(decode::service(&name, &service).err());
    }
    refused.iter().map(ToString::to_string).collect()
}

/// Whether the control plane takes a policy; what the sidecar says to it then.
fn is_taken(ground: &[Object], mut spec: Value, wrong: &mut Vec<String>) -> bool {
    let mut taken = false;
    for side in ["Target", "Caller"] {
        for limit in spec["rateLimits"].as_array_mut().into_iter().flatten() {
            if limit.get("enforcedAt").is_some_and(Value::is_string) {
                limit["enforcedAt"] = json!(side);
            }
        }
        let Some(policy) = policy("policy", &spec) else {
            continue;
        };
        taken = true;
        let mut objects = ground.to_vec();
        objects.push(policy);
        let refusals = refusals(objects).into_iter();
        wrong.extend(refusals.map(|refusal| format!("{refusal}: {:.2000}", spec.to_string())));
    }
    taken
}

/// Every text of the schema with awkward characters: at its end, in its middle,
/// and as many as there may be.
fn texts() -> Vec<Value> {
    let mut specs = Vec::new();
    for field in fields::all() {
        let Some(most) = field.schema["maxLength"].as_u64() else {
            continue;
        };
        let held = fields::around(&field);
        let Some(held) = held
            .pointer(&field.pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
        else {
            continue;
        };
        for awkward in AWKWARD {
            let room = (most as usize).saturating_sub(held.chars().count());
            let many = |count: usize| awkward.to_string().repeat(count);
            for text in [
                format!("{held}{awkward}"),
                format!("{awkward}{held}"),
                format!("{held}{awkward}{held}"),
                format!("{held}{}", many(room)),
                format!("{held}{}", many(room + 1)),
                format!("{held}{}z", many(room.saturating_sub(1))),
                many(most as usize),
            ] {
                specs.push(fields::with(&field, Some(json!(text))));
            }
        }
    }
    specs
}

#[test]
fn what_the_control_plane_takes_the_sidecar_takes() {
    let ground = ground(&["shop", "catalog"].map(str::to_owned));
    let mut wrong = Vec::new();
    let bad = table::bad().into_iter().chain(fields::bad());
    for spec in bad.map(|bad| bad.spec).chain(chance::policies(500)) {
        is_taken(&ground, spec, &mut wrong);
    }
    let good = fields::good().into_iter().map(|(_, spec)| spec);
    for spec in good.chain(table::good()).chain([table::largest()]) {
        assert!(is_taken(&ground, spec.clone(), &mut wrong), "{spec}");
    }
    let mut taken = 0;
    for spec in texts() {
        taken += usize::from(is_taken(&ground, spec, &mut wrong));
    }
    assert!(wrong.is_empty(), "{} are wrong: {wrong:#?}", wrong.len());
    assert!(taken > 50, "{taken} texts at the edges are taken");
}

/// Each policy is right in itself, and all of them are for the same pod.
#[test]
fn any_number_of_policies_on_one_pod_is_taken() {
    for (services, limits) in [(3, 22), (16, 32), (20, 32), (100, 32)] {
        let names: Vec<String> = (0..services).map(|at| format!("s{at}")).collect();
        let mut objects = ground(&names);
        for name in &names {
            let limit =
                |at| json!({"name": format!("n{at}"), "limit": {"requests": 1, "per": "second"}});
            let spec = json!({
                "targetRefs": [{"kind": "Service", "name": name}],
                "rateLimits": (0..limits).map(limit).collect::<Value>(),
            });
            objects.push(policy(name, &spec).expect("a good policy"));
        }
        assert_eq!(refusals(objects), [""; 0], "{services} Services");
    }
}

/// The largest policy there can be, for more Services of a pod than have room.
#[test]
fn the_largest_policies_on_one_pod_are_taken() {
    let names: Vec<String> = (0..17).map(|at| format!("s{at}")).collect();
    let mut objects = ground(&names);
    for name in &names {
        let mut spec = table::largest();
        spec["targetRefs"] = json!([{"kind": "Service", "name": name}]);
        objects.push(policy(name, &spec).expect("a good policy"));
    }
    assert_eq!(refusals(objects), [""; 0]);
}
