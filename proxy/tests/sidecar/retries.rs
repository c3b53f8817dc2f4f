//! Retries: what goes again, what does not, and where to.

use std::time::{Duration, Instant};

use crate::mesh::{Mesh, policy, retrying};
use crate::upstream::{App, Reply, status};

#[tokio::test]
async fn what_never_reached_the_application_goes_elsewhere_for_every_method() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    // Nobody listens at the other two.
    let addresses = [mesh.net.at(11), mesh.net.at(12), app.address()];
    mesh.catalog(policy(), &addresses);
    for _ in 0..20 {
        assert_eq!(mesh.post("/charge", "10").await.status, 200);
    }
    assert!(app.requests().iter().all(|request| request.body == b"10"));
}

#[tokio::test]
async fn where_nobody_listens_the_caller_hears_connect_failed() {
    let mesh = Mesh::start().await;
    mesh.catalog(policy(), &[mesh.net.at(11)]);
    let answer = mesh.post("/", "x").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
}

#[tokio::test]
async fn connect_failed_from_a_sidecar_is_believed_and_a_post_with_its_body_goes_elsewhere() {
    let mesh = Mesh::start().await;
    let refusing = App::start(mesh.net.at(11), |_| {
        status(503).header("x-remora-reason", "connect_failed")
    })
    .await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.endpoint("catalog", 0, app.address(), |endpoint| {
        endpoint.sidecar = true
    });
    mesh.endpoint("catalog", 1, refusing.address(), |endpoint| {
        endpoint.sidecar = true
    });
    mesh.service("catalog", policy());
    let mut met = false;
    for _ in 0..30 {
        assert_eq!(mesh.post("/charge", "the whole body").await.status, 200);
        met |= refusing.count() > 0;
    }
    assert!(met);
    let whole = |request: &crate::upstream::Received| request.body == b"the whole body";
    assert!(app.requests().iter().all(whole));
}

#[tokio::test]
async fn without_a_block_nothing_that_was_answered_goes_again() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(503)).await;
    mesh.catalog(policy(), &[app.address()]);
    assert_eq!(mesh.get("/").await.status, 503);
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn post_that_may_have_reached_the_application_is_not_retried() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/reset" => Reply::Reset,
        _ => status(503),
    })
    .await;
    mesh.catalog(retrying(3, |_| ()), &[app.address()]);
    assert_eq!(mesh.post("/status", "x").await.status, 503);
    let answer = mesh.post("/reset", "x").await;
    assert_eq!((answer.status, answer.reason()), (502, "retries_exhausted"));
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn post_is_retried_where_the_policy_lists_it_or_the_request_carries_the_key() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.number % 2 {
        1 => Reply::Reset,
        _ => status(200),
    })
    .await;
    mesh.catalog(
        retrying(1, |retries| {
            retries.idempotency_header = "idempotency-key".into()
        }),
        &[app.address()],
    );
    let mut client = mesh.client().await;
    let key = "Idempotency-Key: 7\r\n";
    let answer = client
        .request("POST", "catalog:8080", "/", key, "body")
        .await;
    assert_eq!((answer.status, app.count()), (200, 2));
    assert_eq!(app.requests()[1].body, b"body");
    assert_eq!(app.requests()[1].header("x-remora-attempt"), "2");
    mesh.service(
        "catalog",
        retrying(1, |retries| retries.methods = vec!["POST".into()]),
    );
    crate::eventually("the method is listed", async || {
        mesh.post("/", "body").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_get_is_retried_at_another_endpoint() {
    let mesh = Mesh::start().await;
    let bad = App::start(mesh.net.at(10), |_| status(503)).await;
    let good = App::ok(mesh.net.at(11)).await;
    mesh.catalog(retrying(1, |_| ()), &[bad.address(), good.address()]);
    for _ in 0..20 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert!(bad.count() > 0);
}

#[tokio::test]
async fn the_same_endpoint_is_tried_again_when_there_is_no_other() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.number {
        1 | 2 => Reply::Reset,
        _ => status(200),
    })
    .await;
    mesh.catalog(retrying(2, |_| ()), &[app.address()]);
    assert_eq!(mesh.get("/").await.status, 200);
    let attempts: Vec<_> = app.requests();
    let numbers: Vec<&str> = attempts
        .iter()
        .map(|a| a.header("x-remora-attempt"))
        .collect();
    assert_eq!(numbers, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_body_within_the_buffer_is_replayed_and_a_larger_one_is_not() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(503)).await;
    let policy = retrying(1, |retries| retries.buffer_bytes = 1_000);
    mesh.catalog(policy, &[app.address()]);
    let (small, large) = ("s".repeat(1_000), "l".repeat(1_001));
    let mut client = mesh.client().await;
    client.request("PUT", "catalog:8080", "/", "", &small).await;
    assert_eq!(app.count(), 2);
    let answer = client.request("PUT", "catalog:8080", "/", "", &large).await;
    assert_eq!((answer.status, app.count()), (503, 3));
    let bodies: Vec<usize> = app.requests().iter().map(|r| r.body.len()).collect();
    assert_eq!(bodies, [1_000, 1_000, 1_001]);
}

#[tokio::test]
async fn over_budget_the_first_failure_is_returned() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(503)).await;
    let policy = retrying(1, |retries| {
        let budget = retries.budget.as_mut().unwrap();
        (budget.percent, budget.min_per_second, budget.window_ms) = (0, 1, 5_000);
    });
    mesh.catalog(policy, &[app.address()]);
    for _ in 0..20 {
        assert_eq!(mesh.get("/").await.status, 503);
    }
    assert_eq!(app.count(), 25, "five retries in a window of five seconds");
    let metrics = mesh.sidecar.get("/metrics").await.text();
    assert!(metrics.contains("budget_exhausted"), "{metrics}");
}

#[tokio::test]
async fn retry_after_is_honoured_up_to_its_bound() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/later" => status(503).header("retry-after", "11"),
        _ if request.header("x-remora-attempt") == "1" => status(503).header("retry-after", "1"),
        _ => status(200),
    })
    .await;
    mesh.catalog(retrying(1, |_| ()), &[app.address()]);
    let began = Instant::now();
    assert_eq!(mesh.get("/").await.status, 200);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(mesh.get("/later").await.status, 503);
    assert_eq!(app.count(), 3);
}

#[tokio::test]
async fn an_answer_that_has_begun_ends_all_retrying() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| Reply::ResetInBody).await;
    mesh.catalog(retrying(3, |_| ()), &[app.address()]);
    assert_eq!(mesh.get("/").await.status, 200);
    assert_eq!(app.count(), 1);
}
