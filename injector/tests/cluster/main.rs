//! The injector against a real API server, with the rights that the manifests
//! give and no others. Takes any KUBECONFIG (of an operator with all rights) of
//! a cluster that reaches this machine; says SKIPPED where there is none.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail by them

mod certificate;
mod load;
mod world;

use serde_json::json;
use world::{admin, count, is_injected, ready, said, world};

const ENABLED: (&str, &str) = ("remora.io/inject", "enabled");

#[tokio::test]
async fn pods_are_injected_as_namespace_and_pod_say() {
    let Some(mut world) = world().await else {
        return;
    };
    let running = world.injector(&[]).await;
    let (status, text) = admin(&running, "/ready").await;
    assert_eq!(status, 503, "{text}");
    world.configure(running.listen.port(), "Ignore").await;
    ready(&running).await;
    let shop = world.namespace("shop", &[ENABLED]).await;
    let quiet = world.namespace("quiet", &[]).await;
    let never = world
        .namespace("never", &[("remora.io/inject", "disabled")])
        .await;

    let (pod, warnings) = world
        .pod(&shop, json!({"generateName": "web-"}), json!({}))
        .await
        .unwrap();
    assert!(is_injected(&pod), "{pod:?}");
    assert_eq!((said(&pod), warnings), ("true", Vec::new()));

    let out = json!({"name": "out", "labels": {"remora.io/inject": "disabled"}});
    let (pod, _) = world.pod(&shop, out, json!({})).await.unwrap();
    assert!(!is_injected(&pod) && said(&pod).is_empty(), "{pod:?}");

    let (pod, warnings) = world
        .pod(&shop, json!({"name": "host"}), json!({"hostNetwork": true}))
        .await
        .unwrap();
    assert!(
        !is_injected(&pod) && said(&pod).starts_with("false: hostNetwork"),
        "{pod:?}"
    );
    assert!(warnings[0].contains("hostNetwork"), "{warnings:?}");

    let wrong = json!({"name": "wrong", "annotations": {"remora.io/concurrency": "many"}});
    let (pod, warnings) = world.pod(&shop, wrong, json!({})).await.unwrap();
    assert!(
        !is_injected(&pod) && said(&pod).contains("`many`"),
        "{pod:?}"
    );
    assert!(warnings[0].contains("`many`"), "{warnings:?}");

    let asks = |name: &str| json!({"name": name, "labels": {"remora.io/inject": "enabled"}});
    let (pod, _) = world.pod(&quiet, asks("asks"), json!({})).await.unwrap();
    assert!(is_injected(&pod), "{pod:?}");
    let silent = json!({"name": "silent"});
    let (pod, _) = world.pod(&quiet, silent, json!({})).await.unwrap();
    assert!(!is_injected(&pod), "{pod:?}");
    for namespace in [never.as_str(), "kube-system", world::SYSTEM] {
        let made = world.pod(namespace, asks("injector-asks"), json!({})).await;
        let (pod, _) = made.unwrap();
        let now = kube::api::DeleteParams::default().grace_period(0);
        world
            .pods(namespace)
            .delete("injector-asks", &now)
            .await
            .unwrap();
        assert!(
            !is_injected(&pod) && said(&pod).is_empty(),
            "{namespace}: {pod:?}"
        );
    }
    // The API server asks again about a pod that other plugins change after us
    // (a service account's token is mounted into our containers too).
    assert!(count(&running, "injected").await >= 2);
    assert_eq!(count(&running, "declined").await, 2);
    assert_eq!(count(&running, "failed").await, 0);
    running.stop().await;
    world.end().await;
}

/// A pod that the strictest standard takes.
fn restricted() -> serde_json::Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "app", "image": "app:1",
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            },
        }],
    })
}

#[tokio::test]
async fn where_pod_security_forbids_the_redirect_step_the_pod_is_made_without_it() {
    let Some(mut world) = world().await else {
        return;
    };
    let running = world.injector(&[]).await;
    world.configure(running.listen.port(), "Fail").await;
    ready(&running).await;
    for standard in ["restricted", "baseline"] {
        let enforce = ("pod-security.kubernetes.io/enforce", standard);
        let namespace = world.namespace(standard, &[ENABLED, enforce]).await;
        let (pod, warnings) = world
            .pod(&namespace, json!({"name": "app"}), restricted())
            .await
            .unwrap();
        assert!(!is_injected(&pod), "{pod:?}");
        assert!(said(&pod).contains("NET_ADMIN"), "{}", said(&pod));
        assert!(warnings[0].contains(standard), "{warnings:?}");
        // So it would have been, had the redirect step been put in.
        let mut with = restricted();
        with["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]);
        let refused = world.pod(&namespace, json!({"name": "with"}), with).await;
        assert!(refused.unwrap_err().contains("NET_ADMIN"));
    }
    let warn = ("pod-security.kubernetes.io/warn", "restricted");
    let namespace = world.namespace("warned", &[ENABLED, warn]).await;
    let made = world
        .pod(&namespace, json!({"name": "app"}), restricted())
        .await;
    assert!(is_injected(&made.unwrap().0));
    running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn pods_that_come_with_the_label_of_their_namespace_are_injected() {
    let Some(mut world) = world().await else {
        return;
    };
    let running = world.injector(&[]).await;
    world.configure(running.listen.port(), "Fail").await;
    ready(&running).await;
    let mut injected = 0;
    for round in 0..20 {
        let namespace = world.namespace(&format!("late-{round}"), &[]).await;
        let label = json!({"metadata": {"labels": {"remora.io/inject": "enabled"}}});
        let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
            kube::Api::all(world.admin.clone());
        let patch = kube::api::Patch::Merge(&label);
        namespaces
            .patch(&namespace, &Default::default(), &patch)
            .await
            .unwrap();
        let made = world
            .pod(&namespace, json!({"name": "app"}), json!({}))
            .await;
        injected += u64::from(is_injected(&made.unwrap().0));
    }
    // The API server itself may be late, and not ask. Asked, none was left out.
    assert_eq!(count(&running, "skipped").await, 0);
    assert_eq!(count(&running, "failed").await, 0);
    assert!(injected > 0 && count(&running, "injected").await >= injected);
    running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_dry_run_shows_the_sidecar_and_makes_nothing() {
    let Some(mut world) = world().await else {
        return;
    };
    let running = world.injector(&["--image=registry.test/proxy:7"]).await;
    world.configure(running.listen.port(), "Fail").await;
    ready(&running).await;
    let namespace = world.namespace("dry", &[ENABLED]).await;
    let pod = json!({"metadata": {"name": "app"}, "spec": {"containers": [{"name": "app", "image": "a:1"}]}});
    let dry = kube::api::PostParams {
        dry_run: true,
        ..Default::default()
    };
    let pods = world.pods(&namespace);
    let pod = serde_json::from_value(pod).unwrap();
    let made = pods.create(&dry, &pod).await.unwrap();
    assert!(is_injected(&made), "{made:?}");
    let init = made.spec.unwrap().init_containers.unwrap();
    assert_eq!(init[1].image.as_deref(), Some("registry.test/proxy:7"));
    assert!(pods.get_opt("app").await.unwrap().is_none());
    running.stop().await;
    world.end().await;
}
