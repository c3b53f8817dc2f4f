//! Fallbacks: what is answered where Remora itself would refuse.

use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use remora_proto::v1::fallback::Action;
use remora_proto::v1::{self, Fallback, FallbackBackend, FallbackResponse, FieldValue};

use crate::eventually;
use crate::mesh::{Mesh, limits, policy};
use crate::sidecar::Options;
use crate::upstream::{App, Reply, status};

const ALL: [&str; 6] = [
    "breaker_open",
    "overloaded",
    "no_endpoints",
    "timeout",
    "retries_exhausted",
    "rate_limited",
];

fn falling_back(policy: v1::ServicePolicy, when: &[&str], action: Action) -> v1::ServicePolicy {
    v1::ServicePolicy {
        fallback: Some(Fallback {
            when: when.iter().map(|word| (*word).to_owned()).collect(),
            action: Some(action),
        }),
        ..policy
    }
}

fn answering() -> Action {
    Action::Response(FallbackResponse {
        status: 200,
        headers: vec![FieldValue {
            name: "content-type".into(),
            value: "application/json".into(),
        }],
        body: Bytes::from_static(b"[]"),
        grpc_status: 5,
        grpc_message: "try later".into(),
    })
}

fn asking(service: &str) -> Action {
    Action::Backend(FallbackBackend {
        namespace: "shop".into(),
        service: service.into(),
        port: 8080,
        cannot: String::new(),
    })
}

#[tokio::test]
async fn a_refusal_is_answered_by_the_policy_and_told_as_such() {
    let mesh = Mesh::start_with(Options {
        access_log: true,
        ..Options::default()
    })
    .await;
    mesh.service("catalog", falling_back(policy(), &ALL, answering()));
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (200, "fallback"));
    assert_eq!(answer.text(), "[]");
    assert_eq!(answer.header("content-type"), "application/json");
    let counted = mesh
        .sidecar
        .counter("remora_fallbacks_total", "no_endpoints");
    assert_eq!(counted.await, 1);
    crate::eventually("the log says both", async || {
        let log = mesh.sidecar.access_log();
        let is_it = |line: &serde_json::Value| {
            line["reason"] == "fallback" && line["instead_of"] == "no_endpoints"
        };
        log.iter().any(is_it)
    })
    .await;
    crate::eventually("the control plane is told", async || {
        let reports = mesh.control.reports();
        let usage = reports.iter().flat_map(|report| &report.usage);
        usage.map(|usage| usage.fallbacks).sum::<u64>() == 1
    })
    .await;
    let mut client = mesh.client().await;
    let head = client.request("HEAD", "catalog:8080", "/", "", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn what_is_not_listed_is_answered_as_ever() {
    let mesh = Mesh::start().await;
    let policy = falling_back(policy(), &["timeout"], answering());
    mesh.service("catalog", policy);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
}

#[tokio::test]
async fn an_answer_of_the_application_is_no_refusal() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        status(503).header("x-remora-reason", "overloaded")
    })
    .await;
    mesh.catalog(falling_back(policy(), &ALL, answering()), &[app.address()]);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, ""));
}

#[tokio::test]
async fn a_refusal_of_the_targets_sidecar_falls_back_too() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        status(503).header("x-remora-reason", "overloaded")
    })
    .await;
    mesh.endpoint("catalog", 0, app.address(), |endpoint| {
        endpoint.sidecar = true;
    });
    mesh.service("catalog", falling_back(policy(), &ALL, answering()));
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (200, "fallback"));
}

#[tokio::test]
async fn each_of_the_words_has_its_fallback() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/reset" => Reply::Reset,
        "/late" => status(200).after_ms(5_000),
        _ => status(200),
    })
    .await;
    let mut late = policy();
    late.timeouts = Some(v1::Timeouts {
        request_ms: Some(100),
        ..v1::Timeouts::default()
    });
    let full = limits(|limits| limits.max_requests = Some(0));
    let mut limited = policy();
    limited.rate_limits = vec![v1::RateLimit {
        name: "all".into(),
        policy: "shop/catalog".into(),
        requests: 0,
        per_ms: 1_000,
        max_keys: 1,
        ..v1::RateLimit::default()
    }];
    for (word, path, policy) in [
        ("retries_exhausted", "/reset", policy()),
        ("timeout", "/late", late),
        ("overloaded", "/", full),
        ("rate_limited", "/", limited),
    ] {
        mesh.catalog(falling_back(policy, &[word], answering()), &[app.address()]);
        crate::eventually(word, async || {
            mesh.get(path).await.reason() == "fallback"
                && mesh.sidecar.counter("remora_fallbacks_total", word).await > 0
        })
        .await;
    }
}

#[tokio::test]
async fn another_service_is_asked_once_with_the_requests_own_body() {
    let mesh = Mesh::start().await;
    let dead = App::start(mesh.net.at(10), |_| Reply::Reset).await;
    let standby = App::start(mesh.net.at(20), |_| status(203)).await;
    mesh.endpoint("standby", 0, standby.address(), |_| ());
    mesh.service("standby", policy());
    mesh.catalog(
        falling_back(policy(), &ALL, asking("standby")),
        &[dead.address()],
    );
    let answer = mesh.post("/charge", "the body").await;
    assert_eq!((answer.status, answer.reason()), (203, "fallback"));
    assert_eq!(standby.requests()[0].body, b"the body");
    assert_eq!((dead.count(), standby.count()), (1, 1));
    // What it answers is answered, and it is not asked again.
    drop(standby);
    let refused = mesh.post("/charge", "the body").await;
    assert_eq!(
        (refused.status, refused.reason()),
        (502, "retries_exhausted")
    );
    eventually("nothing is in flight", async || {
        mesh.sidecar.service_breaker().await["requests_in_flight"] == 0
    })
    .await;
}

#[tokio::test]
async fn after_a_timeout_another_service_has_a_moment_and_no_more() {
    let mesh = Mesh::start().await;
    let slow = App::start(mesh.net.at(10), |_| Reply::Never).await;
    let standby = App::start(mesh.net.at(20), |request| match request.path.as_str() {
        "/late" => Reply::Never,
        _ => status(200).body("standby"),
    })
    .await;
    mesh.endpoint("standby", 0, standby.address(), |_| ());
    mesh.service("standby", policy());
    let mut late = policy();
    late.timeouts = Some(v1::Timeouts {
        request_ms: Some(200),
        ..v1::Timeouts::default()
    });
    mesh.catalog(
        falling_back(late, &ALL, asking("standby")),
        &[slow.address()],
    );
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (200, "fallback"));
    let began = Instant::now();
    let answer = mesh.get("/late").await;
    assert_eq!((answer.status, answer.reason()), (504, "timeout"));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1_200), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_call_of_grpc_gets_its_status_in_trailers_alone() {
    let mesh = Mesh::start().await;
    mesh.service("catalog", falling_back(policy(), &ALL, answering()));
    let client = mesh.client2().await;
    let answer = client.call("/test.Echo/Say", &[]).await;
    assert!(answer.head_alone);
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "5"));
    assert_eq!(answer.header("grpc-message"), "try later");
    assert_eq!((answer.reason(), answer.text().as_str()), ("fallback", ""));
}
