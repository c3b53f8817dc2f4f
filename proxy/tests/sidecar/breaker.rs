//! The trip: open, half-open, floor, and what is never counted.

use crate::eventually;
use crate::mesh::{Mesh, limits, trip};
use crate::upstream::{App, Reply, status};
use remora_proto::v1::trip::Scope;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_the_change_is_told() {
    let mesh = Mesh::start().await;
    let bad = App::start(mesh.net.at(10), |_| status(500)).await;
    let good = App::ok(mesh.net.at(11)).await;
    mesh.catalog(
        trip(|trip| trip.consecutive_failures = 3),
        &[bad.address(), good.address()],
    );
    eventually("three failed", async || {
        mesh.get("/").await;
        bad.count() == 3
    })
    .await;
    for _ in 0..30 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert_eq!(bad.count(), 3);
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["state"], "open");
    let breakers = mesh.sidecar.json("/breakers").await;
    let change = &breakers["changes"][0];
    assert_eq!(
        (&change["from"], &change["to"]),
        (&"closed".into(), &"open".into())
    );
    eventually("the control plane is told", async || {
        let reports = mesh.control.reports();
        reports
            .iter()
            .any(|report| !report.breaker_changes.is_empty())
    })
    .await;
}

#[tokio::test]
async fn half_open_admits_one_probe_which_closes_it() {
    let mesh = Mesh::start().await;
    let healed = Arc::new(AtomicBool::new(false));
    let is_healed = Arc::clone(&healed);
    let bad = App::start(mesh.net.at(10), move |_| match is_healed.load(SeqCst) {
        false => status(500),
        true => status(200),
    })
    .await;
    let good = App::ok(mesh.net.at(11)).await;
    let policy = trip(|trip| {
        trip.consecutive_failures = 1;
        (trip.base_ejection_ms, trip.max_ejection_ms) = (200, 400);
    });
    mesh.catalog(policy, &[bad.address(), good.address()]);
    eventually("it is open", async || {
        mesh.get("/").await;
        mesh.sidecar.breaker("catalog-0").await["state"] == "open"
    })
    .await;
    healed.store(true, SeqCst);
    eventually("it is closed again", async || {
        assert_eq!(mesh.get("/").await.status, 200);
        mesh.sidecar.breaker("catalog-0").await["state"] == "closed"
    })
    .await;
}

#[tokio::test]
async fn the_last_endpoint_is_never_ejected() {
    let mesh = Mesh::start().await;
    let apps = [
        App::start(mesh.net.at(10), |_| status(500)).await,
        App::start(mesh.net.at(11), |_| status(500)).await,
    ];
    let policy = trip(|trip| {
        trip.consecutive_failures = 1;
        trip.max_ejected_percent = 100;
    });
    mesh.catalog(policy, &[apps[0].address(), apps[1].address()]);
    for _ in 0..20 {
        let answer = mesh.get("/").await;
        assert_eq!((answer.status, answer.reason()), (500, ""));
    }
    let mut states = Vec::new();
    for name in ["catalog-0", "catalog-1"] {
        let state = mesh.sidecar.breaker(name).await["state"].clone();
        states.push(state.as_str().unwrap().to_owned());
    }
    states.sort();
    assert_eq!(states, ["open", "would_open"]);
}

#[tokio::test]
async fn the_breaker_of_a_service_answers_breaker_open() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(500)).await;
    let policy = trip(|trip| {
        trip.scope = Scope::Service as i32;
        trip.consecutive_failures = 2;
    });
    mesh.catalog(policy, &[app.address()]);
    for _ in 0..2 {
        assert_eq!(mesh.get("/").await.status, 500);
    }
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "breaker_open"));
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn what_remora_refused_closes_no_breaker_of_a_service() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(500)).await;
    let policy = trip(|trip| {
        trip.scope = Scope::Service as i32;
        trip.consecutive_failures = 1;
        (trip.base_ejection_ms, trip.max_ejection_ms) = (100, 200);
    });
    mesh.catalog(policy.clone(), &[app.address()]);
    assert_eq!(mesh.get("/").await.status, 500);
    mesh.remove_endpoint("catalog", 0);
    eventually("a probe meets no endpoint", async || {
        mesh.get("/").await.reason() == "no_endpoints"
    })
    .await;
    let state = mesh.sidecar.service_breaker().await["state"].clone();
    assert_ne!(state, "closed");
}

#[tokio::test]
async fn a_client_error_and_a_cancelled_request_are_no_failures() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/slow" => Reply::Never,
        _ => status(429),
    })
    .await;
    let good = App::ok(mesh.net.at(11)).await;
    mesh.catalog(
        trip(|trip| trip.consecutive_failures = 1),
        &[app.address(), good.address()],
    );
    for _ in 0..10 {
        mesh.get("/").await;
        let mut client = mesh.client().await;
        client.send("GET", "catalog:8080", "/slow", "", "").await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    for name in ["catalog-0", "catalog-1"] {
        let breaker = mesh.sidecar.breaker(name).await;
        assert_eq!(
            (&breaker["state"], &breaker["failures"]),
            (&"closed".into(), &0.into())
        );
    }
}

#[tokio::test]
async fn a_body_that_the_caller_breaks_off_is_not_held_against_the_endpoint() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(trip(|trip| trip.consecutive_failures = 1), &[app.address()]);
    let head = "POST / HTTP/1.1\r\nhost: catalog:8080\r\n";
    let mut client = mesh.client().await;
    client
        .write(format!("{head}content-length: 100\r\n\r\nsome"))
        .await;
    eventually("it is in flight", async || {
        mesh.sidecar.outbound_stats().await["in_flight"] == 1
    })
    .await;
    drop(client);
    eventually("it is told as cancelled", async || {
        mesh.sidecar.outbound_stats().await["cancelled"] == 1
    })
    .await;
    let client = mesh.client2().await;
    let request = crate::h2_client::head("POST", "/", &[]);
    let mut stream = client.begin(request, false).await.unwrap();
    stream.send(b"some", false).await;
    eventually("it is in flight too", async || {
        mesh.sidecar.outbound_stats().await["in_flight"] == 1
    })
    .await;
    stream.reset(h2::Reason::CANCEL);
    eventually("both are told as cancelled", async || {
        mesh.sidecar.outbound_stats().await["cancelled"] == 2
    })
    .await;
    let stats = mesh.sidecar.outbound_stats().await;
    assert_eq!(stats["failures"], 0, "{stats}");
    let mut client = mesh.client().await;
    client
        .write(format!(
            "{head}transfer-encoding: chunked\r\n\r\n4\r\nsome\r\nnonsense\r\n"
        ))
        .await;
    let answer = client.answer().await;
    assert!(matches!(answer.status, 0 | 400), "{answer:?}");
    eventually("nothing is in flight", async || {
        mesh.sidecar.outbound_stats().await["in_flight"] == 0
    })
    .await;
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["failures"], 0);
    assert_eq!(mesh.get("/").await.status, 200);
}

#[tokio::test]
async fn what_the_targets_sidecar_refused_is_no_failure_but_a_broken_application_is() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| {
        let reason = request.path.trim_start_matches('/');
        let code = if reason == "retries_exhausted" {
            502
        } else {
            503
        };
        status(code).header("x-remora-reason", reason)
    })
    .await;
    mesh.endpoint("catalog", 0, app.address(), |endpoint| {
        endpoint.sidecar = true
    });
    mesh.service("catalog", trip(|trip| trip.consecutive_failures = 100));
    for reason in ["overloaded", "rate_limited"] {
        let answer = mesh.get(&format!("/{reason}")).await;
        assert_eq!((answer.status, answer.reason()), (503, reason));
    }
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["failures"], 0);
    assert_eq!(mesh.get("/retries_exhausted").await.status, 502);
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["failures"], 1);
}

#[tokio::test]
async fn an_answer_to_a_request_from_before_the_trip_changes_nothing() {
    let mesh = Mesh::start().await;
    let handler = |request: &crate::upstream::Received| match request.path.as_str() {
        "/slow" => status(200).after_ms(300),
        _ => status(500),
    };
    let apps = [
        App::start(mesh.net.at(10), handler).await,
        App::start(mesh.net.at(11), handler).await,
    ];
    mesh.catalog(
        trip(|trip| trip.consecutive_failures = 1),
        &[apps[0].address(), apps[1].address()],
    );
    let mut slow = [mesh.client().await, mesh.client().await];
    for client in &mut slow {
        client.send("GET", "catalog:8080", "/slow", "", "").await;
    }
    eventually("each has a slow one", async || {
        apps.iter().all(|app| app.count() == 1)
    })
    .await;
    assert_eq!(mesh.get("/").await.status, 500);
    let mut open = None;
    for name in ["catalog-0", "catalog-1"] {
        if mesh.sidecar.breaker(name).await["state"] == "open" {
            open = Some(name);
        }
    }
    for client in &mut slow {
        assert_eq!(client.answer().await.status, 200);
    }
    let breaker = mesh.sidecar.breaker(open.unwrap()).await;
    assert_eq!(breaker["state"], "open");
}

#[tokio::test]
async fn breakers_and_limits_outlive_a_change_of_policy() {
    let mesh = Mesh::start().await;
    let bad = App::start(mesh.net.at(10), |_| status(500)).await;
    let good = App::ok(mesh.net.at(11)).await;
    let policy = trip(|trip| trip.consecutive_failures = 1);
    mesh.catalog(policy.clone(), &[bad.address(), good.address()]);
    eventually("it is open", async || {
        mesh.get("/").await;
        mesh.sidecar.breaker("catalog-0").await["state"] == "open"
    })
    .await;
    let mut changed = policy;
    changed.circuit_breaker.as_mut().unwrap().limits =
        limits(|limits| limits.max_requests = Some(77))
            .circuit_breaker
            .unwrap()
            .limits;
    mesh.service("catalog", changed);
    eventually("the change is in force", async || {
        mesh.sidecar.service_breaker().await["limits"]["requests"]["max"] == 77
    })
    .await;
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["state"], "open");
}
