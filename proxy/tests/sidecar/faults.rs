//! Trouble on purpose.

use std::time::{Duration, Instant};

use remora_proto::v1::fault_abort::Kind;
use remora_proto::v1::{self, Fault, FaultAbort, FaultDelay};

use crate::mesh::{Mesh, policy, trip};
use crate::upstream::App;

const ALL: u32 = 1_000_000;

fn faulty(fault: Fault) -> v1::ServicePolicy {
    v1::ServicePolicy {
        fault: Some(fault),
        ..policy()
    }
}

fn aborting(kind: Kind, parts_per_million: u32) -> Fault {
    Fault {
        abort: Some(FaultAbort {
            kind: Some(kind),
            parts_per_million,
        }),
        ..Fault::default()
    }
}

fn delaying(duration_ms: u64) -> Fault {
    Fault {
        delay: Some(FaultDelay {
            duration_ms,
            parts_per_million: ALL,
        }),
        ..Fault::default()
    }
}

#[tokio::test]
async fn an_abort_is_answered_and_reaches_nobody_and_is_nobodys_failure() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    let mut policy = trip(|trip| trip.consecutive_failures = 1);
    let mut fault = aborting(Kind::HttpStatus(418), ALL);
    fault.r#match = Some(v1::Match {
        methods: vec!["GET".into()],
        ..v1::Match::default()
    });
    policy.fault = Some(fault);
    mesh.catalog(policy, &[app.address()]);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (418, "fault"));
    assert_eq!(app.count(), 0);
    assert_eq!(mesh.post("/", "x").await.status, 200, "another method");
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["state"], "closed");
    let counted = mesh.sidecar.counter("remora_faults_total", "abort").await;
    assert_eq!(counted, 1);
    let labels = "class=\"4xx\",reason=\"fault\"";
    let counted = mesh.sidecar.counter("remora_requests_total", labels).await;
    assert_eq!(counted, 1, "as what it is");
}

#[tokio::test]
async fn about_so_many_are_hit() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    let policy = faulty(aborting(Kind::HttpStatus(503), 250_000));
    mesh.catalog(policy, &[app.address()]);
    let mut client = mesh.client().await;
    let mut hit = 0;
    for _ in 0..400 {
        hit += usize::from(client.get("catalog:8080", "/").await.reason() == "fault");
    }
    assert!((60..140).contains(&hit), "{hit} of 400");
    assert_eq!(app.count(), 400 - hit);
}

#[tokio::test]
async fn a_delay_holds_a_request_within_its_time() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(faulty(delaying(300)), &[app.address()]);
    let began = Instant::now();
    assert_eq!(mesh.get("/").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    let mut policy = faulty(delaying(20_000));
    policy.timeouts = Some(v1::Timeouts {
        request_ms: Some(200),
        ..v1::Timeouts::default()
    });
    mesh.service("catalog", policy);
    let before = app.count();
    crate::eventually("its time is over first", async || {
        mesh.get("/").await.reason() == "timeout"
    })
    .await;
    assert!(app.count() < before + 10);
}

#[tokio::test]
async fn a_reset_breaks_the_connection_or_the_stream() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(faulty(aborting(Kind::Reset(true), ALL)), &[app.address()]);
    let mut client = mesh.client().await;
    client.send("GET", "catalog:8080", "/", "", "").await;
    assert!(client.is_ended().await, "not a byte of an answer");
    let client = mesh.client2().await;
    let stream = client
        .begin(crate::h2_client::head("GET", "/", &[]), true)
        .await;
    let answer = stream.unwrap().answer().await;
    assert!(answer.reset.is_some(), "{answer:?}");
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn a_call_of_grpc_gets_a_status_of_grpc() {
    let mesh = Mesh::start().await;
    mesh.catalog(
        faulty(aborting(Kind::GrpcStatus(8), ALL)),
        &[mesh.net.at(10)],
    );
    let client = mesh.client2().await;
    let answer = client.call("/test.Echo/Say", &[]).await;
    answer.assert_refused_call("8", "fault");
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (429, "fault"));
}

#[tokio::test]
async fn a_delay_is_no_time_of_any_attempt_and_nobodys_failure() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    let mut policy = trip(|trip| {
        trip.consecutive_failures = 1;
        trip.slow_call_rate = Some(v1::SlowCallRate {
            duration_ms: 200,
            threshold_percent: 1,
            window_ms: 10_000,
            min_requests: 1,
        });
    });
    policy.fault = Some(delaying(400));
    policy.timeouts = Some(v1::Timeouts {
        per_try_ms: Some(200),
        ..v1::Timeouts::default()
    });
    mesh.catalog(policy, &[app.address()]);
    for _ in 0..2 {
        let answer = mesh.get("/").await;
        assert_eq!((answer.status, answer.reason()), (200, ""));
    }
    let breaker = mesh.sidecar.breaker("catalog-0").await;
    assert_eq!(breaker["state"], "closed");
}

#[tokio::test]
async fn a_delayed_request_finds_the_limits_as_they_are_when_it_goes_on() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    let mut fault = delaying(1_500);
    fault.r#match = Some(v1::Match {
        methods: vec!["POST".into()],
        ..v1::Match::default()
    });
    let mut policy = faulty(fault);
    policy.rate_limits = vec![v1::RateLimit {
        name: "all".into(),
        policy: "shop/catalog".into(),
        requests: 4,
        per_ms: 1_000,
        burst: 1,
        max_keys: 1,
        ..v1::RateLimit::default()
    }];
    mesh.catalog(policy, &[app.address()]);
    let (delayed, between) = tokio::join!(mesh.post("/", "x"), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        mesh.get("/").await
    });
    assert_eq!(between.status, 200);
    assert_eq!(
        (delayed.status, delayed.reason()),
        (200, ""),
        "a second later"
    );
}
