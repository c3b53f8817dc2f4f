//! Outbound connections: reuse, ends, and servers that close them.

use crate::eventually;
use crate::mesh::{Mesh, policy};
use crate::upstream::{App, Reply, status};

fn closing_soon() -> impl Fn(&crate::upstream::Received) -> Reply {
    |_| status(200).then_close_after_ms(1)
}

#[tokio::test]
async fn a_get_on_a_connection_that_the_server_closed_goes_again_uncounted() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| {
        // The first request of each connection is answered, the second never.
        match request.number % 2 {
            1 => status(200),
            _ if request.connection == 1 => Reply::Close,
            _ => status(200),
        }
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    }
    assert_eq!((app.count(), app.accepted()), (3, 2));
    let stats = mesh.sidecar.outbound_stats().await;
    assert_eq!(stats["retries"], 0);
    let numbers: Vec<_> = app.requests();
    assert_eq!(numbers[2].header("x-remora-attempt"), "1");
}

#[tokio::test]
async fn a_post_that_may_have_reached_the_application_is_not_sent_again() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.number {
        1 => status(200),
        _ => Reply::Close,
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    let answer = client.post("catalog:8080", "/charge", "10").await;
    assert_eq!((answer.status, answer.reason()), (502, "retries_exhausted"));
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn a_connection_idle_for_a_second_carries_no_post() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    assert_eq!(client.post("catalog:8080", "/", "x").await.status, 200);
    assert_eq!(app.accepted(), 2, "the idle connection was used");
    assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    assert_eq!(app.accepted(), 2);
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_fails_nobody() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), closing_soon()).await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("catalog:8080", "/").await.status, 200);
        let post = client.post("catalog:8080", "/", "x").await;
        // The close may cross a POST on the wire, which then must not go twice.
        assert!(post.status == 200 || post.reason() == "retries_exhausted");
    }
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        status(200)
            .header("connection", "close")
            .then_close_after_ms(300)
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    for _ in 0..3 {
        let answer = client.post("catalog:8080", "/", "x").await;
        assert_eq!((answer.status, answer.header("connection")), (200, ""));
    }
    assert_eq!(app.accepted(), 3);
}

#[tokio::test]
async fn max_requests_per_connection_ends_a_connection() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    let mut policy = policy();
    policy
        .outbound
        .as_mut()
        .unwrap()
        .max_requests_per_connection = Some(2);
    mesh.catalog(policy, &[app.address()]);
    let mut client = mesh.client().await;
    for _ in 0..6 {
        assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    }
    assert_eq!(app.accepted(), 3);
}

#[tokio::test]
async fn connections_end_at_their_age_and_when_idle_for_too_long() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    let mut policy = policy();
    policy.outbound.as_mut().unwrap().max_connection_age_ms = Some(100);
    mesh.catalog(policy.clone(), &[app.address()]);
    assert_eq!(mesh.get("/").await.status, 200);
    eventually("the old connection is closed", async || app.open() == 0).await;
    let outbound = policy.outbound.as_mut().unwrap();
    (outbound.max_connection_age_ms, outbound.idle_timeout_ms) = (None, 100);
    mesh.service("catalog", policy);
    assert_eq!(mesh.get("/").await.status, 200);
    eventually("the idle connection is closed", async || app.open() == 0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_the_callers_connection_early() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| Reply::ResetInBody).await;
    mesh.catalog(policy(), &[app.address()]);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.whole), (200, false));
}
