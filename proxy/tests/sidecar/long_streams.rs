//! Streams that live for long: their connections grow old, are drained and
//! replaced around them, and nobody else is kept out meanwhile.

use std::time::Duration;

use remora_proto::v1::{Outbound, ServicePolicy};
use remora_proxy::clock;

use crate::eventually;
use crate::h2_app::{App, GRPC, Received, Step, hello};
use crate::h2_client::{Client, Open};
use crate::mesh::{Mesh, policy};

/// More than a worker keeps connections to one place.
const WATCHES: usize = 40;

fn watches(request: &Received) -> Vec<Step> {
    match request.path.as_str() {
        "/watch.Watch/All" => vec![Step::Head(200, GRPC), Step::Data("first"), Step::Never],
        _ => hello(),
    }
}

fn outbound(change: impl FnOnce(&mut Outbound)) -> ServicePolicy {
    let mut policy = policy();
    change(policy.outbound.as_mut().unwrap());
    policy
}

async fn watch(client: &Client) -> Open {
    let stream = client.calling("/watch.Watch/All", &[]).await;
    let mut open = stream.head().await.unwrap();
    assert_eq!(open.answer.grpc_status(), "", "{:?}", open.answer);
    assert_eq!(open.text().await, "first");
    open
}

async fn all_are_watched_and_others_served(mesh: &Mesh, app: &App) {
    let client = mesh.client2().await;
    let mut open = Vec::new();
    for _ in 0..WATCHES {
        open.push(watch(&client).await);
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(app.in_flight(), WATCHES);
    assert!(app.accepted() >= WATCHES as u64, "{}", app.accepted());
    drop(open);
    eventually("nothing is in flight", async || {
        mesh.sidecar.outbound_stats().await["in_flight"] == 0 && app.in_flight() == 0
    })
    .await;
}

#[tokio::test]
async fn connections_with_as_many_requests_as_they_may_have_keep_nobody_out() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), watches).await;
    let policy = outbound(|outbound| outbound.max_requests_per_connection = Some(1));
    mesh.catalog(policy, &[app.address()]);
    all_are_watched_and_others_served(&mesh, &app).await;
}

#[tokio::test]
async fn connections_that_their_server_drains_keep_nobody_out() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), watches).await;
    // Each connection says GOAWAY as soon as it stands, as a server with a
    // maximal age of connections does again and again.
    app.drain();
    mesh.catalog(policy(), &[app.address()]);
    all_are_watched_and_others_served(&mesh, &app).await;
}

#[tokio::test]
async fn a_connection_of_http_2_ends_at_its_age_and_its_streams_do_not() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), watches).await;
    let policy = outbound(|outbound| outbound.max_connection_age_ms = Some(100));
    mesh.catalog(policy, &[app.address()]);
    let client = mesh.client2().await;
    let begun = clock::now();
    let _open = watch(&client).await;
    for _ in 0..60 {
        assert_eq!(client.get("/").await.status, 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // By its age, with jitter: a slow machine takes longer, and makes more.
    let most = 2 * clock::now().since(begun).as_millis() / 100;
    let accepted = app.accepted();
    assert!(
        accepted >= 5 && u128::from(accepted) <= most,
        "{accepted}, at most {most}"
    );
    assert_eq!(app.in_flight(), 1);
}
