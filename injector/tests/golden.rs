//! Pods as they are written, and what becomes of them: each `golden/*.yaml`
//! has its snapshot in `snapshots`.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail by them

use std::fmt::Write;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use remora_injector::{Decision, NamespaceFacts, Settings, apply, patch};

fn shop() -> NamespaceFacts {
    NamespaceFacts {
        name: "shop".to_owned(),
        labels: [("remora.io/inject".to_owned(), "enabled".to_owned())].into(),
    }
}

fn settings() -> Settings {
    Settings {
        image: "remora/proxy:test".to_owned(),
        ..Settings::default()
    }
}

/// With identities.
fn trusting() -> Settings {
    Settings {
        trust_domain: Some("cluster.local".to_owned()),
        control_plane: "https://remora-control-plane.remora-system.svc:15110".to_owned(),
        ..settings()
    }
}

fn pods() -> Vec<(String, Pod)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut pods: Vec<(String, Pod)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let pod = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, pod)
        })
        .collect();
    pods.sort_by(|a, b| a.0.cmp(&b.0));
    pods
}

fn named(wanted: &str) -> Pod {
    let found = pods().into_iter().find(|(name, _)| name == wanted);
    found.unwrap().1
}

/// The decision, its patch one operation a line, and the pod after it.
fn told(pod: &Pod, decision: &Decision) -> String {
    let mut text = match decision {
        Decision::Inject { .. } => "inject\n".to_owned(),
        Decision::Decline { reason, .. } => format!("decline: {reason}\n"),
        Decision::Skip { reason } => format!("skip: {reason}\n"),
    };
    for warning in decision.warnings() {
        writeln!(text, "warning: {warning}").unwrap();
    }
    let Some(patch) = decision.patch() else {
        return text;
    };
    text.push_str("\npatch:\n");
    for operation in &patch.0 {
        writeln!(text, "{}", serde_json::to_string(operation).unwrap()).unwrap();
    }
    let patched = apply(pod, patch).unwrap();
    let patched = serde_json::to_string_pretty(&patched).unwrap();
    writeln!(text, "\npod:\n{patched}").unwrap();
    text
}

#[test]
fn every_golden_pod_becomes_what_its_snapshot_says() {
    let pods = pods();
    assert!(pods.len() >= 9, "the golden pods are not found");
    for (name, pod) in pods {
        let decision = patch(&pod, &shop(), &settings());
        insta::assert_snapshot!(name.as_str(), told(&pod, &decision));
        let decision = patch(&pod, &shop(), &trusting());
        insta::assert_snapshot!(format!("identity-{name}"), told(&pod, &decision));
    }
}

#[test]
fn a_second_run_on_every_golden_pod_changes_nothing() {
    let both = [settings(), trusting()];
    let all = pods().into_iter();
    for ((name, pod), settings) in all.flat_map(|one| both.clone().map(|each| (one.clone(), each)))
    {
        let Some(first) = patch(&pod, &shop(), &settings).patch().cloned() else {
            continue;
        };
        let once = apply(&pod, &first).unwrap();
        let second = patch(&once, &shop(), &settings);
        assert!(
            second.patch().is_some_and(|patch| patch.0.is_empty()),
            "{name}: {second:?}"
        );
    }
}

#[test]
fn a_wrong_wish_that_comes_late_does_not_deny_the_sidecar() {
    let pod = named("plain");
    let first = patch(&pod, &shop(), &settings());
    let mut pod = apply(&pod, first.patch().unwrap()).unwrap();
    let annotations = pod.metadata.annotations.as_mut().unwrap();
    annotations.insert("remora.io/concurrency".to_owned(), "many".to_owned());
    let second = patch(&pod, &shop(), &settings());
    assert!(matches!(second, Decision::Inject { .. }), "{second:?}");
    assert!(second.patch().unwrap().0.is_empty(), "{second:?}");
    assert!(second.warnings()[0].contains("`many`"), "{second:?}");
}

#[test]
fn what_a_sidecar_takes_is_said_of_our_own_and_of_no_other() {
    const SAID: &str = "remora.io/mesh-protocols";
    let run = |pod: &Pod| apply(pod, patch(pod, &shop(), &settings()).patch().unwrap()).unwrap();
    let said = |pod: &Pod| pod.metadata.annotations.as_ref()?.get(SAID).cloned();

    // The author's own word does not count: he does not choose the version.
    let mut pod = named("wishes");
    let annotations = pod.metadata.annotations.as_mut().unwrap();
    annotations.insert(SAID.to_owned(), "remora-h9".to_owned());
    let injected = run(&pod);
    assert_eq!(said(&injected).as_deref(), Some("remora-h2,remora-h1"));

    // An older injector's sidecar, and a later one's.
    let mut older = injected.clone();
    older.metadata.annotations.as_mut().unwrap().remove(SAID);
    assert_eq!(said(&run(&older)), None);
    let mut later = injected;
    let annotations = later.metadata.annotations.as_mut().unwrap();
    annotations.insert(SAID.to_owned(), "remora-h3".to_owned());
    assert_eq!(said(&run(&later)).as_deref(), Some("remora-h3"));
}

#[test]
fn an_identity_is_said_by_the_injector_alone() {
    const SAID: &str = "remora.io/trust-domain";
    let run = |pod: &Pod, settings: &Settings| {
        apply(pod, patch(pod, &shop(), settings).patch().unwrap()).unwrap()
    };
    let said = |pod: &Pod| pod.metadata.annotations.as_ref()?.get(SAID).cloned();
    let mut pod = named("wishes");
    let annotations = pod.metadata.annotations.as_mut().unwrap();
    annotations.insert(SAID.to_owned(), "evil".to_owned());
    assert_eq!(said(&run(&pod, &settings())), None);
    let injected = run(&pod, &trusting());
    assert_eq!(said(&injected).as_deref(), Some("cluster.local"));

    // A sidecar of an injector without identities gets none later, nor the
    // other way round.
    let older = run(&pod, &settings());
    assert_eq!(run(&older, &trusting()), older);
    assert_eq!(run(&injected, &settings()), injected);

    // What others took away is put back.
    let mut lost = injected.clone();
    let volumes = lost.spec.as_mut().unwrap().volumes.as_mut().unwrap();
    volumes.retain(|volume| volume.name != "remora-trust");
    let names = |pod: &Pod| -> Vec<String> {
        let volumes = pod.spec.as_ref().unwrap().volumes.iter().flatten();
        volumes.map(|volume| volume.name.clone()).collect()
    };
    let again = names(&run(&lost, &trusting()));
    assert_eq!(again.len(), names(&injected).len(), "{again:?}");
}

#[test]
fn one_of_the_two_that_got_lost_is_put_back() {
    let pod = named("plain");
    let whole = apply(&pod, patch(&pod, &shop(), &settings()).patch().unwrap()).unwrap();
    for lost in [0, 1] {
        let mut pod = whole.clone();
        pod.spec
            .as_mut()
            .unwrap()
            .init_containers
            .as_mut()
            .unwrap()
            .remove(lost);
        let again = patch(&pod, &shop(), &settings());
        assert_eq!(apply(&pod, again.patch().unwrap()).unwrap(), whole);
    }
}

#[test]
fn the_pods_of_the_demo_are_injected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
    let mut injected = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        for document in text.split("\n---\n") {
            let object: serde_json::Value = serde_saphyr::from_str(document).unwrap();
            if object["kind"] != "Deployment" {
                continue;
            }
            let pod: Pod = serde_json::from_value(object["spec"]["template"].clone()).unwrap();
            let decision = patch(&pod, &shop(), &settings());
            assert!(matches!(decision, Decision::Inject { .. }), "{decision:?}");
            assert!(decision.warnings().is_empty(), "{decision:?}");
            injected += 1;
        }
    }
    assert_eq!(injected, 7);
}
