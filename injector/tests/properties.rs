//! What holds for every pod.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail by them

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use remora_injector::{Decision, NamespaceFacts, Settings, apply, patch};
use serde_json::{Value, json};

fn shop() -> NamespaceFacts {
    NamespaceFacts {
        name: "shop".to_owned(),
        labels: [("remora.io/inject".to_owned(), "enabled".to_owned())].into(),
    }
}

fn probe() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        (1..65536_i32).prop_map(Value::from),
        Just(json!("http")),
        Just(json!("none"))
    ];
    (port, 0..5_i32).prop_map(|(port, kind)| match kind {
        0 => json!({"httpGet": {"path": "/x", "port": port}, "timeoutSeconds": 2}),
        1 => json!({"tcpSocket": {"port": port}}),
        2 => json!({"grpc": {"port": 9000}}),
        3 => json!({"exec": {"command": ["true"]}}),
        _ => json!({"httpGet": {"host": "192.0.2.1", "port": port}}),
    })
}

fn container(prefix: &'static str) -> impl Strategy<Value = Value> {
    let probes = proptest::option::of(probe());
    (
        0..1_000_000_u32,
        probes,
        proptest::option::of(probe()),
        any::<bool>(),
    )
        .prop_map(move |(id, liveness, readiness, hook)| {
            let mut container = json!({
                "name": format!("{prefix}{id}"),
                "image": "i",
                "ports": [{"name": "http", "containerPort": 8080}],
            });
            if let Some(probe) = liveness {
                container["livenessProbe"] = probe;
            }
            if let Some(probe) = readiness {
                container["readinessProbe"] = probe;
            }
            if hook {
                container["lifecycle"] = json!({"preStop": {"httpGet": {"port": "http"}}});
            }
            container
        })
}

fn pod() -> impl Strategy<Value = Pod> {
    let annotations = proptest::option::of(proptest::collection::btree_map(
        "[a-z]{1,4}/[a-z~]{1,3}",
        "[a-z]*",
        0..3,
    ));
    let init = proptest::option::of(proptest::collection::vec(container("i"), 0..4));
    let containers = proptest::collection::vec(container("c"), 1..4);
    (annotations, init, containers).prop_map(|(annotations, init, containers)| {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
        if let Some(annotations) = annotations {
            pod["metadata"]["annotations"] = json!(annotations);
        }
        if let Some(init) = init {
            pod["spec"]["initContainers"] = json!(init);
        }
        serde_json::from_value(pod).unwrap()
    })
}

/// Runs the injector once, as the webhook would.
fn run(pod: &Pod) -> Pod {
    match patch(pod, &shop(), &Settings::default()) {
        Decision::Inject { patch, .. } => apply(pod, &patch).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn init_names(pod: &Pod) -> Vec<String> {
    let init = pod.spec.as_ref().unwrap().init_containers.as_ref();
    init.into_iter().flatten().map(|c| c.name.clone()).collect()
}

/// What the sidecar was told to serve, by path.
fn served(pod: &Pod) -> BTreeMap<String, Value> {
    let init = pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap();
    let env = init[1].env.as_ref().unwrap();
    let variable = env.iter().find(|variable| variable.name == "REMORA_PROBES");
    let text = variable
        .and_then(|v| v.value.clone())
        .unwrap_or("[]".to_owned());
    let probes: Vec<Value> = serde_json::from_str(&text).unwrap();
    probes
        .into_iter()
        .map(|p| (p["path"].as_str().unwrap().to_owned(), p))
        .collect()
}

/// Every path at the probe port that the kubelet will ask for.
fn asked(value: &Value, paths: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if map.get("port") == Some(&json!(15121)) {
                paths.extend(map["path"].as_str().map(str::to_owned));
            }
            map.values().for_each(|value| asked(value, paths));
        }
        Value::Array(all) => all.iter().for_each(|value| asked(value, paths)),
        _ => {}
    }
}

/// The same, with identities.
fn run_trusting(pod: &Pod) -> Pod {
    let settings = Settings {
        trust_domain: Some("cluster.local".to_owned()),
        ..Settings::default()
    };
    match patch(pod, &shop(), &settings) {
        Decision::Inject { patch, .. } => apply(pod, &patch).unwrap(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn twice_is_once(pod in pod()) {
        let once = run(&pod);
        prop_assert_eq!(&run(&once), &once);
        let once = run_trusting(&pod);
        prop_assert_eq!(&run_trusting(&once), &once);
    }

    #[test]
    fn ours_come_first_and_the_others_keep_their_order(pod in pod()) {
        let names = init_names(&run(&pod));
        prop_assert_eq!(&names[..2], &["remora-intercept", "remora-proxy"]);
        prop_assert_eq!(&names[2..], &init_names(&pod)[..]);
    }

    #[test]
    fn whatever_the_kubelet_asks_for_is_served(pod in pod()) {
        let once = run(&pod);
        let mut paths = Vec::new();
        asked(&serde_json::to_value(&once).unwrap(), &mut paths);
        paths.sort();
        // Once each: a path is one container's one probe.
        let served: Vec<String> = served(&once).into_keys().collect();
        paths.dedup();
        prop_assert_eq!(paths, served);
    }

    #[test]
    fn others_in_front_end_behind_and_their_probes_are_taken_over(
        pod in pod(),
        late in proptest::collection::vec((container("late"), 0..5_usize), 1..4),
    ) {
        let once = run(&pod);
        let mut changed = serde_json::to_value(&once).unwrap();
        let init = changed["spec"]["initContainers"].as_array_mut().unwrap();
        for (container, place) in late {
            let place = place.min(init.len());
            init.insert(place, container);
        }
        let changed: Pod = serde_json::from_value(changed).unwrap();
        let twice = run(&changed);
        let names = init_names(&twice);
        prop_assert_eq!(&names[..2], &["remora-intercept", "remora-proxy"]);
        let others: Vec<String> = init_names(&changed)
            .into_iter()
            .filter(|name| !name.starts_with("remora-"))
            .collect();
        prop_assert_eq!(&names[2..], &others[..]);
        let mut paths = Vec::new();
        asked(&serde_json::to_value(&twice).unwrap(), &mut paths);
        let all = served(&twice);
        for path in paths {
            prop_assert!(all.contains_key(&path), "{path}");
        }
        for (path, probe) in served(&once) {
            prop_assert_eq!(all.get(&path), Some(&probe), "what was served still is");
        }
        prop_assert_eq!(&run(&twice), &twice);
    }

    #[test]
    fn a_patch_touches_nothing_that_it_need_not(pod in pod()) {
        // The patched pod without what we add, and with the original probes, is
        // the original.
        let original = serde_json::to_value(&pod).unwrap();
        let mut patched = serde_json::to_value(run(&pod)).unwrap();
        let init = patched["spec"]["initContainers"].as_array_mut().unwrap();
        init.drain(..2);
        let annotations = patched["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.remove("remora.io/injected");
        let taken = annotations.remove("remora.io/mesh-protocols");
        prop_assert_eq!(taken, Some(json!("remora-h2,remora-h1")));
        for list in ["containers", "initContainers"] {
            let wanted = original["spec"][list].as_array().cloned().unwrap_or_default();
            let got = patched["spec"][list].as_array().cloned().unwrap_or_default();
            prop_assert_eq!(wanted.len(), got.len());
            for (wanted, got) in wanted.iter().zip(&got) {
                for field in ["name", "image", "ports"] {
                    prop_assert_eq!(&wanted[field], &got[field]);
                }
                let timeout = |c: &Value| c["livenessProbe"]["timeoutSeconds"].clone();
                prop_assert_eq!(timeout(wanted), timeout(got));
                let exec = |c: &Value| c["livenessProbe"]["exec"].clone();
                prop_assert_eq!(exec(wanted), exec(got));
            }
        }
        let wanted = original["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        prop_assert_eq!(patched["metadata"]["annotations"].as_object(), Some(&wanted));
    }
}
