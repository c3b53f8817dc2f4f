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
    let labels = "class=\"2xx\",reason=\"fallback\"";
    let counted = mesh.sidecar.counter("remora_requests_total", labels);
    assert_eq!(counted.await, 1, "as what it is");
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
    let answer = put(&mesh, "").await;
    assert_eq!((answer.status, answer.reason()), (203, "fallback"));
    assert_eq!(standby.requests()[0].body, b"the body");
    assert_eq!((dead.count(), standby.count()), (1, 1));
    // What it answers is answered, and it is not asked again.
    drop(standby);
    let refused = put(&mesh, "").await;
    assert_eq!(
        (refused.status, refused.reason()),
        (502, "retries_exhausted")
    );
    eventually("nothing is in flight", async || {
        mesh.sidecar.service_breaker().await["requests_in_flight"] == 0
    })
    .await;
}

async fn put(mesh: &Mesh, headers: &str) -> crate::client::Answer {
    let mut client = mesh.client().await;
    let (host, body) = ("catalog:8080", "the body");
    client.request("PUT", host, "/", headers, body).await
}

/// Behind another Service may be the same application, or another that charges the
/// same card.
#[tokio::test]
async fn what_may_have_been_done_is_asked_of_no_other_service_unless_it_is_safe() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/late" => Reply::Never,
        _ => Reply::Reset,
    })
    .await;
    let standby = App::ok(mesh.net.at(20)).await;
    mesh.endpoint("standby", 0, standby.address(), |_| ());
    mesh.service("standby", policy());
    let mut careful = crate::mesh::retrying(0, |retries| {
        retries.idempotency_header = "idempotency-key".into();
    });
    careful.timeouts = Some(v1::Timeouts {
        request_ms: Some(300),
        ..v1::Timeouts::default()
    });
    mesh.catalog(
        falling_back(careful, &ALL, asking("standby")),
        &[app.address()],
    );
    let reset = mesh.post("/charge", "x").await;
    assert_eq!((reset.status, reset.reason()), (502, "retries_exhausted"));
    let late = mesh.post("/late", "x").await;
    assert_eq!((late.status, late.reason()), (504, "timeout"));
    assert_eq!((app.count(), standby.count()), (2, 0));

    let (host, key) = ("catalog:8080", "idempotency-key: 7\r\n");
    let mut client = mesh.client().await;
    let safe = client.request("POST", host, "/charge", key, "x").await;
    assert_eq!((safe.status, safe.reason()), (200, "fallback"));
    mesh.remove_endpoint("catalog", 0);
    crate::eventually("what reached nobody is asked there", async || {
        let answer = mesh.post("/charge", "x").await;
        (answer.status, answer.reason()) == (200, "fallback")
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

#[tokio::test]
async fn the_service_that_a_fallback_asks_is_known_before_it_is_needed() {
    let mut mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/reset" => Reply::Reset,
        _ => status(200),
    })
    .await;
    let standby = App::start(mesh.net.at(20), |_| status(203)).await;
    mesh.endpoint("standby", 0, standby.address(), |_| ());
    mesh.service("standby", policy());
    mesh.catalog(
        falling_back(policy(), &ALL, asking("standby")),
        &[app.address()],
    );
    assert_eq!(mesh.get("/").await.status, 200);
    let endpoint =
        remora_proto::well_known::endpoint_name("shop", "standby", 8080, "uid-standby-0");
    crate::eventually("its endpoints have come", async || {
        mesh.control.times_sent(&endpoint) > 0 && mesh.control.is_settled()
    })
    .await;
    mesh.control.go_away();
    let answer = mesh.get("/reset").await;
    assert_eq!((answer.status, answer.reason()), (203, "fallback"));
}

#[tokio::test]
async fn no_answer_of_a_policy_is_taken_for_a_tunnel() {
    let mesh = Mesh::start().await;
    mesh.service("catalog", falling_back(policy(), &ALL, answering()));
    let mut client = mesh.client().await;
    let (host, answer) = ("catalog:8080", client.get("catalog:8080", "/").await);
    assert_eq!((answer.status, answer.reason()), (200, "fallback"));
    let head = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    client.write(head).await;
    let answer = client.answer_to("CONNECT").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
}

#[tokio::test]
async fn the_breaker_of_the_service_that_is_asked_learns_how_it_went() {
    let mesh = Mesh::start().await;
    let standby = App::start(mesh.net.at(20), |_| status(500)).await;
    mesh.endpoint("standby", 0, standby.address(), |_| ());
    let tripping = crate::mesh::trip(|trip| {
        trip.scope = v1::trip::Scope::Service as i32;
        trip.consecutive_failures = 1;
    });
    mesh.service("standby", tripping);
    mesh.service("catalog", falling_back(policy(), &ALL, asking("standby")));
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (500, "fallback"));
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    assert_eq!(standby.count(), 1);
}

#[tokio::test]
async fn a_service_whose_endpoints_all_refuse_has_every_attempt_failed() {
    let mesh = Mesh::start().await;
    let nobody = [mesh.net.at(10), mesh.net.at(11)];
    mesh.catalog(
        falling_back(policy(), &["retries_exhausted"], answering()),
        &nobody,
    );
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (200, "fallback"));
    let told = mesh
        .sidecar
        .counter("remora_fallbacks_total", "connect_failed");
    assert_eq!(told.await, 1);
}

/// It may name another port, or stand in for one endpoint that was slow.
#[tokio::test]
async fn a_fallback_to_the_service_itself_needs_no_second_place_there() {
    let mesh = Mesh::start().await;
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let app = App::start(mesh.net.at(10), move |_| {
        match seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Reply::Never,
            _ => status(203),
        }
    })
    .await;
    let mut narrow = limits(|limits| limits.max_requests = Some(1));
    narrow.timeouts = Some(v1::Timeouts {
        request_ms: Some(200),
        ..v1::Timeouts::default()
    });
    mesh.catalog(
        falling_back(narrow, &["timeout"], asking("catalog")),
        &[app.address()],
    );
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (203, "fallback"));
}

#[tokio::test]
async fn the_pod_that_a_request_names_is_none_of_the_service_that_its_fallback_asks() {
    let mesh = Mesh::start().await;
    let standby = App::start(mesh.net.at(20), |_| status(203)).await;
    mesh.endpoint("standby", 0, standby.address(), |_| ());
    let balancing = v1::LoadBalancing {
        pinning: true,
        ..v1::LoadBalancing::default()
    };
    let mut pinning = policy();
    pinning.load_balancing = Some(balancing.clone());
    mesh.service("standby", pinning);
    let mut full = limits(|limits| limits.max_requests = Some(0));
    full.load_balancing = Some(balancing);
    mesh.catalog(
        falling_back(full, &ALL, asking("standby")),
        &[mesh.net.at(10)],
    );
    let mut client = mesh.client().await;
    let (host, pin) = ("catalog:8080", "x-remora-endpoint: catalog-0\r\n");
    let answer = client.request("GET", host, "/", pin, "").await;
    assert_eq!((answer.status, answer.reason()), (203, "fallback"));
}
