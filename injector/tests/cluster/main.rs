//! The injector against a real API server, with the rights that the manifests
//! give and no others. Takes any KUBECONFIG (of an operator with all rights) of
//! a cluster that reaches this machine; says SKIPPED where there is none.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail by them

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
