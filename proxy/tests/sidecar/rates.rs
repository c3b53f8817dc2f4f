//! Breakers that open by a share of calls: failed, or slow.

use crate::eventually;
use crate::mesh::{Mesh, trip};
use crate::upstream::{App, status};
use remora_proto::v1::trip::Scope;
use remora_proto::v1::{FailureRate, SlowCallRate};

fn failure_rate(min_requests: u32) -> FailureRate {
    FailureRate {
        threshold_percent: 50,
        window_ms: 10_000,
        min_requests,
    }
}

/// Never two failures in a row, and half of all failing.
#[tokio::test]
async fn a_share_of_failures_opens_and_the_cause_is_told_in_words() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.number % 2 {
        0 => status(500),
        _ => status(200),
    })
    .await;
    let policy = trip(|trip| {
        trip.scope = Scope::Service as i32;
        trip.consecutive_failures = 0;
        trip.failure_rate = Some(failure_rate(10));
    });
    mesh.catalog(policy, &[app.address()]);
    for number in 1..=10 {
        let expected = if number % 2 == 0 { 500 } else { 200 };
        assert_eq!(mesh.get("/").await.status, expected, "{number}");
    }
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "breaker_open"));
    assert_eq!(app.count(), 10);
    let cause = "5 of 10 calls failed within 10s (50%, threshold 50%)";
    let text = answer.text();
    assert!(text.contains(cause), "{text}");
    let breakers = mesh.sidecar.json("/breakers").await;
    assert_eq!(breakers["changes"][0]["cause"], cause);
    eventually("the control plane is told", async || {
        let reports = mesh.control.reports();
        let mut changes = reports.iter().flat_map(|report| &report.breaker_changes);
        changes.any(|change| change.cause == cause)
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_answers_late_is_left_alone() {
    let mesh = Mesh::start().await;
    let slow = App::start(mesh.net.at(10), |_| status(200).after_ms(60)).await;
    let good = App::ok(mesh.net.at(11)).await;
    let policy = |min_requests| {
        let mut policy = trip(|trip| {
            trip.consecutive_failures = 0;
            trip.slow_call_rate = Some(SlowCallRate {
                duration_ms: 50,
                threshold_percent: 100,
                window_ms: 60_000,
                min_requests,
            });
        });
        // Each gets its turn, however slow it is.
        policy.load_balancing = Some(remora_proto::v1::LoadBalancing {
            algorithm: remora_proto::v1::load_balancing::Algorithm::RoundRobin as i32,
            ..Default::default()
        });
        policy
    };
    mesh.catalog(policy(5), &[slow.address(), good.address()]);
    eventually("it is open", async || {
        assert_eq!(mesh.get("/").await.status, 200);
        mesh.sidecar.breaker("catalog-0").await["state"] == "open"
    })
    .await;
    assert_eq!(slow.count(), 5);
    let cause = &mesh.sidecar.breaker("catalog-0").await["cause"];
    assert_eq!(
        cause,
        "5 of 5 calls took longer than 50ms within 60s (100%, threshold 100%)"
    );
    for _ in 0..10 {
        mesh.get("/").await;
    }
    assert_eq!(slow.count(), 5);
}
