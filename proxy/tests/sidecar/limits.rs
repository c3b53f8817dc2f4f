//! circuitBreaker's limits.

use crate::eventually;
use crate::mesh::{Mesh, breaker, limits, policy, retrying};
use crate::sidecar::Options;
use crate::upstream::{App, Reply, status};

#[tokio::test]
async fn a_limit_of_zero_refuses_everything() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(
        limits(|limits| limits.max_requests = Some(0)),
        &[app.address()],
    );
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
    mesh.service("catalog", limits(|limits| limits.max_connections = Some(0)));
    eventually("no connection may be opened", async || {
        mesh.get("/").await.text().contains("maxConnections")
    })
    .await;
    let policy = breaker(|breaker| {
        breaker.per_endpoint.as_mut().unwrap().max_connections = Some(0);
    });
    mesh.service("catalog", policy);
    eventually("no connection to an endpoint may be opened", async || {
        mesh.get("/")
            .await
            .text()
            .contains("perEndpoint.maxConnections")
    })
    .await;
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn at_max_requests_the_next_is_refused_at_once() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/slow" => Reply::Never,
        _ => status(200),
    })
    .await;
    mesh.catalog(
        limits(|limits| limits.max_requests = Some(2)),
        &[app.address()],
    );
    let (mut first, mut second) = (mesh.client().await, mesh.client().await);
    first.send("GET", "catalog:8080", "/slow", "", "").await;
    second.send("GET", "catalog:8080", "/slow", "", "").await;
    eventually("both are in flight", async || app.count() == 2).await;
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
    drop(first);
    eventually("the place of the one that left is free", async || {
        mesh.get("/").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn per_endpoint_max_requests_sends_the_rest_elsewhere_and_then_refuses() {
    let mesh = Mesh::start().await;
    let slow = |_: &_| Reply::Never;
    let apps = [
        App::start(mesh.net.at(10), slow).await,
        App::start(mesh.net.at(11), slow).await,
    ];
    let policy = breaker(|breaker| {
        breaker.per_endpoint.as_mut().unwrap().max_requests = Some(1);
    });
    mesh.catalog(policy, &[apps[0].address(), apps[1].address()]);
    let (mut first, mut second) = (mesh.client().await, mesh.client().await);
    first.send("GET", "catalog:8080", "/", "", "").await;
    second.send("GET", "catalog:8080", "/", "", "").await;
    eventually("each has one", async || {
        apps.iter().all(|app| app.count() == 1)
    })
    .await;
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
}

#[tokio::test]
async fn what_waits_for_a_connection_is_bounded_and_served_in_the_end() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(200).after_ms(300)).await;
    let policy = limits(|limits| {
        limits.max_connections = Some(1);
        limits.max_pending_requests = Some(1);
    });
    mesh.catalog(policy, &[app.address()]);
    let (mut first, mut second) = (mesh.client().await, mesh.client().await);
    first.send("GET", "catalog:8080", "/1", "", "").await;
    eventually("the first is in flight", async || app.count() == 1).await;
    second.send("GET", "catalog:8080", "/2", "", "").await;
    eventually("the second waits", async || {
        mesh.sidecar.service_breaker().await["limits"]["pending"]["in_use"] == 1
    })
    .await;
    let third = mesh.get("/3").await;
    assert_eq!((third.status, third.reason()), (503, "overloaded"));
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(second.answer().await.status, 200);
    assert_eq!((app.accepted(), app.count()), (1, 2));
}

#[tokio::test]
async fn per_endpoint_max_pending_requests_is_a_bound_too() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| Reply::Never).await;
    let policy = breaker(|breaker| {
        let limits = breaker.per_endpoint.as_mut().unwrap();
        limits.max_connections = Some(1);
        limits.max_pending_requests = Some(0);
    });
    mesh.catalog(policy, &[app.address()]);
    let mut first = mesh.client().await;
    first.send("GET", "catalog:8080", "/1", "", "").await;
    eventually("the first is in flight", async || app.count() == 1).await;
    let answer = mesh.get("/2").await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
    assert!(answer.text().contains("perEndpoint.maxPendingRequests"));
}

#[tokio::test]
async fn a_connection_that_one_worker_keeps_idle_does_not_starve_another() {
    let options = Options {
        workers: 4,
        ..Options::default()
    };
    let mesh = Mesh::start_with(options).await;
    let app = App::ok(mesh.net.at(10)).await;
    let policy = limits(|limits| limits.max_connections = Some(1));
    mesh.catalog(policy, &[app.address()]);
    // The kernel spreads the connections over the workers.
    for _ in 0..40 {
        let answer = mesh.get("/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(app.accepted() > 1, "only one worker took part");
    assert!(app.open() <= 1);
}

#[tokio::test]
async fn max_retries_bounds_the_retries_in_flight() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(503)).await;
    let mut policy = retrying(1, |_| ());
    policy.circuit_breaker = limits(|limits| limits.max_retries = Some(0)).circuit_breaker;
    mesh.catalog(policy, &[app.address()]);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason(), app.count()), (503, "", 1));
}

#[tokio::test]
async fn time_in_the_queue_is_not_held_against_the_endpoint() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| Reply::Never).await;
    let mut policy = limits(|limits| limits.max_connections = Some(1));
    policy
        .circuit_breaker
        .as_mut()
        .unwrap()
        .trip
        .as_mut()
        .unwrap()
        .consecutive_failures = 1;
    mesh.catalog(policy.clone(), &[app.address()]);
    let mut first = mesh.client().await;
    first.send("GET", "catalog:8080", "/1", "", "").await;
    eventually("the first is in flight", async || app.count() == 1).await;
    policy.timeouts = Some(remora_proto::v1::Timeouts {
        request_ms: Some(100),
        ..Default::default()
    });
    mesh.service("catalog", policy);
    eventually("the request's time ends in the queue", async || {
        let answer = mesh.get("/2").await;
        (answer.status, answer.reason()) == (504, "timeout")
    })
    .await;
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["failures"], 0);
}

#[tokio::test]
async fn limits_change_under_traffic_and_stay_exact() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/slow" => Reply::Never,
        _ => status(200),
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = mesh.client().await;
        client.send("GET", "catalog:8080", "/slow", "", "").await;
        held.push(client);
    }
    eventually("all are in flight", async || app.count() == 3).await;
    mesh.service("catalog", limits(|limits| limits.max_requests = Some(3)));
    eventually("the new limit counts those before it", async || {
        mesh.get("/").await.reason() == "overloaded"
    })
    .await;
    drop(held.pop());
    eventually("one may go", async || mesh.get("/").await.status == 200).await;
}
