//! Timeouts: whole request, each try, response headers, idle.

use std::time::{Duration, Instant};

use remora_proto::v1::{ServicePolicy, Timeouts};

use crate::eventually;
use crate::mesh::{Mesh, policy, retries, retrying};
use crate::upstream::{App, Reply, status};

fn within(timeouts: Timeouts) -> ServicePolicy {
    ServicePolicy {
        timeouts: Some(timeouts),
        ..policy()
    }
}

#[tokio::test]
async fn the_whole_request_ends_in_time_and_the_upstream_notices() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| Reply::Never).await;
    mesh.catalog(
        within(Timeouts {
            request_ms: Some(100),
            ..Timeouts::default()
        }),
        &[app.address()],
    );
    let began = Instant::now();
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (504, "timeout"));
    assert!(began.elapsed() < Duration::from_secs(1));
    eventually("the attempt is ended", async || app.open() == 0).await;
}

#[tokio::test]
async fn response_headers_and_per_try_end_an_attempt() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| Reply::Never).await;
    for timeouts in [
        Timeouts {
            response_headers_ms: Some(50),
            ..Timeouts::default()
        },
        Timeouts {
            per_try_ms: Some(50),
            ..Timeouts::default()
        },
    ] {
        mesh.catalog(within(timeouts), &[app.address()]);
        let answer = mesh.get("/").await;
        assert_eq!((answer.status, answer.reason()), (504, "timeout"));
    }
}

#[tokio::test]
async fn each_try_has_its_own_time_for_its_answers_body_too() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| {
        match request.header("x-remora-attempt") {
            "1" => Reply::Never,
            // Its headers at once; the rest is Reply::Raw's next answer, in time.
            _ => status(200).after_ms(300).body(&"x".repeat(2_000_000)),
        }
    })
    .await;
    let mut policy = within(Timeouts {
        per_try_ms: Some(600),
        ..Timeouts::default()
    });
    policy.retries = Some(retries(1, |retries| {
        retries.on.as_mut().unwrap().timeout = true
    }));
    mesh.catalog(policy, &[app.address()]);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.body.len()), (200, 2_000_000));
}

#[tokio::test]
async fn no_attempt_outlives_the_request_even_in_backoff() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(503).header("retry-after", "1")).await;
    let mut policy = retrying(3, |_| ());
    policy.timeouts = Some(Timeouts {
        request_ms: Some(1_500),
        ..Timeouts::default()
    });
    mesh.catalog(policy, &[app.address()]);
    let began = Instant::now();
    // The second wait would end after the deadline: the answer that is there is given.
    assert_eq!(mesh.get("/").await.status, 503);
    assert_eq!(app.count(), 2);
    assert!(began.elapsed() < Duration::from_millis(1_500));
}

#[tokio::test]
async fn a_body_on_which_nothing_moves_is_ended() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".into())
    })
    .await;
    mesh.catalog(
        within(Timeouts {
            idle_ms: Some(80),
            ..Timeouts::default()
        }),
        &[app.address()],
    );
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.whole), (200, false));
    eventually("the attempt is ended", async || app.open() == 0).await;
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_ended_and_one_that_takes_little_is_not() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| {
        // More than any socket's buffers and the sidecar's own take.
        let length = request.path.trim_start_matches('/').parse().unwrap();
        status(200).body(&"x".repeat(length))
    })
    .await;
    mesh.catalog(
        within(Timeouts {
            idle_ms: Some(1500),
            ..Timeouts::default()
        }),
        &[app.address()],
    );
    let mut silent = mesh.client().await;
    silent
        .send("GET", "catalog:8080", "/32000000", "", "")
        .await;
    // Its caller's doing, not the application's.
    eventually("it is ended", async || {
        mesh.sidecar.outbound_stats().await["cancelled"] == 1
    })
    .await;
    assert!(!silent.answer().await.whole);
    eventually("the application is let go", async || app.open() == 0).await;
    // Slower than `idle` in all, but never standing still for so long.
    let mut slow = mesh.client().await;
    slow.send("GET", "catalog:8080", "/16000000", "", "").await;
    for _ in 0..10 {
        slow.take(1_000_000).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(slow.answer().await.body.len(), 16_000_000);
}

#[tokio::test]
async fn connect_timeout_is_a_connect_failure() {
    let mesh = Mesh::start().await;
    // A listener whose queue is full answers no SYN.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(mesh.net.at(11)).unwrap();
    let _listener = socket.listen(0).unwrap();
    let mut filling = Vec::new();
    for _ in 0..4 {
        let connecting = tokio::net::TcpStream::connect(mesh.net.at(11));
        filling.push(tokio::time::timeout(Duration::from_millis(50), connecting).await);
    }
    let mut policy = policy();
    policy.outbound.as_mut().unwrap().connect_timeout_ms = 100;
    mesh.catalog(policy, &[mesh.net.at(11)]);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
}
