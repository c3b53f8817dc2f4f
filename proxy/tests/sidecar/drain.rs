//! Readiness, drain, the end.

use std::time::{Duration, Instant};

use crate::client::Client;
use crate::eventually;
use crate::mesh::{Mesh, PORT, policy};
use crate::sidecar::Options;
use crate::upstream::{App, Reply, status};

#[tokio::test]
async fn a_deleted_pod_drains_and_no_request_is_lost() {
    let mesh = Mesh::start().await;
    let _app = App::ok(mesh.net.at(2)).await;
    let mut kept = Client::connect(mesh.sidecar.inbound(PORT)).await;
    assert_eq!(kept.post("web", "/", "x").await.status, 200);
    mesh.workload(|workload| workload.draining = true);
    eventually("it is not ready any more", async || {
        mesh.sidecar.get("/ready").await.status == 503
    })
    .await;
    // A connection that was idle is not closed under a POST; its answer says to go elsewhere.
    let answer = kept.post("web", "/", "x").await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert!(kept.is_ended().await);
    let mut new = Client::connect(mesh.sidecar.inbound(PORT)).await;
    let answer = new.get("web", "/").await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
}

#[tokio::test]
async fn in_drain_an_application_that_refuses_is_connect_failed() {
    let mesh = Mesh::start().await;
    mesh.workload(|workload| workload.draining = true);
    eventually("it drains", async || {
        mesh.sidecar.get("/ready").await.status == 503
    })
    .await;
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    let answer = client.post("web", "/", "x").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
}

#[tokio::test]
async fn sigterm_ends_it_as_soon_as_nothing_is_in_flight() {
    let mut mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(200).after_ms(1000)).await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    client.send("GET", "catalog:8080", "/", "", "").await;
    eventually("it is in flight", async || app.count() == 1).await;
    let began = Instant::now();
    mesh.sidecar.terminate();
    // Who watches it sees why it is still there.
    eventually("it says that it drains", async || {
        mesh.sidecar.get("/ready").await.status == 503
    })
    .await;
    assert_eq!(mesh.sidecar.get("/live").await.status, 200);
    assert_eq!(client.answer().await.status, 200);
    assert!(mesh.sidecar.ended().await);
    assert!(began.elapsed() < Duration::from_secs(3));
    let log = mesh.sidecar.log();
    assert_eq!(log.matches("draining: not ready").count(), 1, "{log}");
}

#[tokio::test]
async fn sigterm_waits_no_longer_than_the_drain_timeout() {
    let options = Options {
        drain_timeout: "300ms",
        ..Options::default()
    };
    let mut mesh = Mesh::start_with(options).await;
    let app = App::start(mesh.net.at(10), |_| Reply::Never).await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    client.send("GET", "catalog:8080", "/", "", "").await;
    eventually("it is in flight", async || app.count() == 1).await;
    let began = Instant::now();
    mesh.sidecar.terminate();
    assert!(mesh.sidecar.ended().await);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3));
}

#[tokio::test]
async fn drain_by_the_admin_endpoint_is_post_only() {
    let mesh = Mesh::start().await;
    assert_eq!(mesh.sidecar.get("/drain").await.status, 405);
    assert_eq!(mesh.sidecar.get("/ready").await.status, 200);
    let mut client = Client::connect(mesh.sidecar.admin()).await;
    let answer = client.request("POST", "admin", "/drain", "", "").await;
    assert_eq!(answer.status, 202);
    assert_eq!(mesh.sidecar.get("/ready").await.status, 503);
    assert_eq!(mesh.sidecar.get("/live").await.status, 200);
}
