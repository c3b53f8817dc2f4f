//! The webhook over real TLS on loopback: what it answers, to whom it does
//! not, and how it ends.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail by them

mod hostile;
mod world;

use std::time::Duration;

use remora_injector::clock;
use serde_json::json;
use world::{
    admin, cluster, dial, dial_at, leaf, pod, put_certificate, ready_world, review, sender, until,
    world,
};

#[tokio::test]
async fn pods_are_injected_over_both_versions_of_http() {
    let world = ready_world().await;
    for protocol in ["http/1.1", "h2"] {
        let mut sender = sender(dial(&world, protocol).await).await;
        for _ in 0..3 {
            let answer = sender
                .review("shop", pod(json!({"generateName": "web-"})))
                .await;
            assert!(answer.is_injected(), "{protocol}: {answer:?}");
            assert_eq!(answer.warnings(), "null");
        }
        let out = pod(json!({"name": "x", "labels": {"remora.io/inject": "disabled"}}));
        let answer = sender.review("shop", out).await;
        assert_eq!(answer.patch(), None);
        let answer = sender.review("strict", pod(json!({"name": "x"}))).await;
        assert!(!answer.is_injected() && answer.warnings().contains("NET_ADMIN"));
        let response = sender
            .post(review("shop", json!({"spec": 7})))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert!(String::from_utf8_lossy(response.body()).contains("cannot be read"));
    }
    let (_, metrics) = admin(world.running.admin, "/metrics").await;
    for line in [
        "remora_injections_total{result=\"injected\"} 6",
        "remora_injections_total{result=\"declined\"} 2",
        "remora_injections_total{result=\"skipped\"} 2",
        "remora_injections_total{result=\"failed\"} 2",
        "remora_injection_duration_seconds_count 12",
        "remora_injector_connections_total 2",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let cluster = world.cluster.lock().unwrap();
    assert!(cluster.asked.is_empty(), "{:?}", cluster.asked);
}

#[tokio::test]
async fn a_namespace_that_is_not_known_yet_is_asked_for() {
    let world = ready_world().await;
    {
        let enabled = Some(json!({"remora.io/inject": "enabled"}));
        let mut cluster = world.cluster.lock().unwrap();
        cluster.named.insert("new".to_owned(), enabled.clone());
        // The watch has told of it before it was labelled.
        cluster.named.insert("quiet".to_owned(), enabled);
        cluster.named.insert("mute".to_owned(), None);
    }
    let mut sender = sender(dial(&world, "http/1.1").await).await;
    for namespace in ["new", "quiet"] {
        let answer = sender.review(namespace, pod(json!({"name": "x"}))).await;
        assert!(answer.is_injected(), "{namespace}: {answer:?}");
    }
    let begun = clock::now();
    let answer = sender.review("mute", pod(json!({"name": "x"}))).await;
    assert!(
        answer.patch().is_none() && answer.warnings().contains("mute"),
        "{answer:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    for namespace in ["gone", "../../secrets", ""] {
        let answer = sender.review(namespace, pod(json!({"name": "x"}))).await;
        assert_eq!(answer.patch(), None);
        assert!(answer.warnings().contains("namespace"), "{answer:?}");
    }
    let asked = world.cluster.lock().unwrap().asked.clone();
    assert_eq!(asked, ["new", "quiet", "mute", "gone"]);
}

#[tokio::test]
async fn it_is_ready_when_it_knows_the_cluster_and_lets_pods_through_before() {
    let cluster = cluster();
    cluster.lock().unwrap().version = None;
    let world = world(cluster, &[]).await;
    until("all but the version", async || {
        let (status, text) = admin(world.running.admin, "/ready").await;
        status == 503 && text == "not there yet: kubernetes_version\n"
    })
    .await;
    assert_eq!(admin(world.running.admin, "/live").await.0, 200);
    let mut sender = sender(dial(&world, "h2").await).await;
    let answer = sender.review("shop", pod(json!({"name": "x"}))).await;
    assert!(
        answer.patch().is_none() && answer.warnings().contains("version"),
        "{answer:?}"
    );

    world.cluster.lock().unwrap().version = Some("v1.28.9-eks-1".to_owned());
    until("the version", async || {
        admin(world.running.admin, "/ready").await.0 == 200
    })
    .await;
    let answer = sender.review("shop", pod(json!({"name": "x"}))).await;
    assert!(
        !answer.is_injected() && answer.warnings().contains("1.28"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn settings_reach_the_sidecar() {
    let flags = [
        "--image=registry.test/proxy:7",
        "--image-pull-policy=Always",
        "--control-plane=http://plane:1",
        "--sidecar-cpu-limit=3",
        "--system-namespace=quiet",
    ];
    let world = world(cluster(), &flags).await;
    until("readiness", async || {
        admin(world.running.admin, "/ready").await.0 == 200
    })
    .await;
    let mut sender = sender(dial(&world, "http/1.1").await).await;
    let answer = sender.review("shop", pod(json!({"name": "x"}))).await;
    let patch = answer.patch().unwrap().to_string();
    for part in [
        "registry.test/proxy:7",
        "Always",
        "http://plane:1",
        "\"cpu\":\"3\"",
    ] {
        assert!(patch.contains(part), "{part} in {patch}");
    }
    let asks = pod(json!({"name": "x", "labels": {"remora.io/inject": "enabled"}}));
    assert_eq!(sender.review("quiet", asks).await.patch(), None);
}

#[tokio::test]
async fn a_new_certificate_is_served_and_no_connection_is_dropped() {
    let world = ready_world().await;
    let stream = dial(&world, "http/1.1").await;
    let first = leaf(&stream);
    let mut old = sender(stream).await;
    let good = pod(json!({"name": "x"}));
    assert!(old.review("shop", good.clone()).await.is_injected());

    // Half of a change, and what is none: the last good one stays.
    let key = world.folder.path().join("tls.key");
    let other = world
        .authority
        .issue(&["x.y".to_owned()], clock::since_epoch());
    std::fs::write(&key, other.unwrap().key).unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(leaf(&dial(&world, "h2").await), first);
    std::fs::remove_file(&key).unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(leaf(&dial(&world, "h2").await), first);

    put_certificate(world.folder.path(), &world.authority);
    until("the new certificate", async || {
        leaf(&dial(&world, "h2").await) != first
    })
    .await;
    assert!(old.review("shop", good).await.is_injected());
}

#[tokio::test]
async fn at_the_end_reviews_are_taken_until_all_have_heard_of_it() {
    let world = ready_world().await;
    let mut one = sender(dial(&world, "http/1.1").await).await;
    let mut two = sender(dial(&world, "h2").await).await;
    let good = pod(json!({"name": "x"}));
    assert!(one.review("shop", good.clone()).await.is_injected());
    assert!(two.review("shop", good.clone()).await.is_injected());
    let (address, admin_address) = (world.running.listen, world.running.admin);
    let stop = world.running.stop();
    let meanwhile = async {
        until("unreadiness", async || {
            let (status, text) = admin(admin_address, "/ready").await;
            (status, text.as_str()) == (503, "ending\n")
        })
        .await;
        // On an old connection, which is asked to close, and on a new one.
        let response = one.post(review("shop", good.clone())).await.unwrap();
        assert_eq!(response.headers()["connection"], "close");
        let mut new = sender(dial_at(address, &world.authority, "h2").await).await;
        assert!(new.review("shop", good.clone()).await.is_injected());
        // A review that has begun is answered, however late it ends.
        hostile::slow_review(address, &world.authority, Duration::from_millis(600)).await
    };
    let (told, ()) = tokio::join!(meanwhile, stop);
    assert!(told.starts_with("HTTP/1.1 200 OK"), "{told}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert!(two.post("x").await.is_err());
}
