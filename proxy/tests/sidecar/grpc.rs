//! gRPC through one sidecar: its statuses, deadlines and streams, and that
//! Remora answers it in its own words.

use std::time::{Duration, Instant};

use h2::Reason;
use remora_proto::v1::{RateLimit, ServicePolicy, Timeouts};

use crate::eventually;
use crate::h2_app::{App, Fields, GRPC, MESSAGE, Received, Step, grpc, grpc_empty};
use crate::h2_client::Client;
use crate::mesh::{Mesh, PORT, limits, policy, retrying, trip};

const OK: Fields = &[("grpc-status", "0")];
const UNAVAILABLE: Fields = &[("grpc-status", "14"), ("grpc-message", "not now")];
const NOT_FOUND: Fields = &[("grpc-status", "5")];
const ECHO: &str = "/test.Echo/Say";

async fn with(
    policy: ServicePolicy,
    handler: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static,
) -> (Mesh, App, Client) {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), handler).await;
    mesh.catalog(policy, &[app.address()]);
    let client = mesh.client2().await;
    (mesh, app, client)
}

fn trailers_only(fields: Fields) -> Vec<Step> {
    vec![Step::Read, Step::HeadAlone(200, fields)]
}

fn codes(policy: &mut ServicePolicy, codes: &[u32], methods: &[&str]) {
    let retries = policy.retries.as_mut().unwrap();
    retries.on.as_mut().unwrap().grpc_codes = codes.to_vec();
    retries.methods = methods.iter().map(|method| (*method).to_owned()).collect();
}

async fn nothing_in_flight(mesh: &Mesh) {
    eventually("nothing is in flight", async || {
        let stats = mesh.sidecar.outbound_stats().await;
        let breaker = mesh.sidecar.service_breaker().await;
        stats["in_flight"] == 0 && breaker["requests_in_flight"] == 0
    })
    .await;
}

#[tokio::test]
async fn unary_calls_pass_with_their_status_and_details() {
    let (_mesh, app, client) = with(policy(), |request| match request.path.as_str() {
        "/test.Echo/Fail" => grpc(&[
            ("grpc-status", "5"),
            ("grpc-message", "no%20such"),
            ("x-detail-bin", "AQI="),
        ]),
        "/test.Echo/Only" => {
            trailers_only(&[("content-type", "application/grpc"), ("grpc-status", "7")])
        }
        _ => grpc(OK),
    })
    .await;
    let answer = client.call(ECHO, &[("x-user", "u")]).await;
    assert_eq!((answer.status, answer.trailer("grpc-status")), (200, "0"));
    assert_eq!(answer.text(), MESSAGE);
    let request = &app.requests()[0];
    assert_eq!(request.body, MESSAGE.as_bytes());
    assert_eq!(
        (request.header("te"), request.header("x-user")),
        ("trailers", "u")
    );
    let answer = client.call("/test.Echo/Fail", &[]).await;
    assert_eq!(
        (
            answer.trailer("grpc-status"),
            answer.trailer("grpc-message")
        ),
        ("5", "no%20such")
    );
    assert_eq!(answer.trailer("x-detail-bin"), "AQI=");
    let answer = client.call("/test.Echo/Only", &[]).await;
    assert_eq!(
        (answer.header("grpc-status"), answer.head_alone),
        ("7", true)
    );
}

#[tokio::test]
async fn streams_of_every_kind_pass_message_by_message() {
    let (mesh, _app, client) = with(policy(), |request| match request.path.as_str() {
        "/test.Echo/Server" => {
            let mut steps = vec![Step::Read, Step::Head(200, GRPC)];
            for _ in 0..5 {
                steps.extend([Step::Data(MESSAGE), Step::Wait(20)]);
            }
            steps.push(Step::Trailers(OK));
            steps
        }
        "/test.Echo/Client" => grpc(OK),
        _ => vec![Step::Head(200, GRPC), Step::Echo],
    })
    .await;
    let answer = client.call("/test.Echo/Server", &[]).await;
    assert_eq!(
        (answer.text(), answer.grpc_status()),
        (MESSAGE.repeat(5), "0")
    );
    let mut stream = client.calling("/test.Echo/Client", &[]).await;
    for _ in 0..5 {
        stream.send(MESSAGE.as_bytes(), false).await;
    }
    stream.send(b"", true).await;
    assert_eq!(stream.answer().await.grpc_status(), "0");
    let stream = client.calling("/test.Echo/Both", &[]).await;
    let mut open = stream.head().await.unwrap();
    for number in 0..50 {
        let message = format!("\0\0\0\0\x02{number:02}");
        open.send(message.as_bytes(), false).await;
        assert_eq!(open.text().await, message);
    }
    open.send(b"", true).await;
    assert_eq!(open.rest().await.broke, None);
    nothing_in_flight(&mesh).await;
}

#[tokio::test]
async fn what_remora_answers_is_trailers_only() {
    let overloaded = limits(|limits| limits.max_requests = Some(0));
    let (mesh, app, client) = with(overloaded, |_| vec![Step::Never]).await;
    client
        .call(ECHO, &[])
        .await
        .assert_refused_call("14", "overloaded");

    mesh.service("empty", policy());
    let answer = to(&client, "empty:8080").await;
    answer.assert_refused_call("14", "no_endpoints");
    to(&client, "nowhere:8080")
        .await
        .assert_refused_call("14", "no_endpoints");

    let mut late = policy();
    late.timeouts = Some(Timeouts {
        request_ms: Some(50),
        ..Timeouts::default()
    });
    mesh.service("late", late);
    mesh.endpoint("late", 0, app.address(), |_| ());
    to(&client, "late:8080")
        .await
        .assert_refused_call("4", "timeout");

    mesh.service("closed", policy());
    mesh.endpoint("closed", 0, mesh.net.at(99), |_| ());
    to(&client, "closed:8080")
        .await
        .assert_refused_call("14", "connect_failed");

    let resetting = App::start(mesh.net.at(11), |_| {
        vec![Step::Reset(Reason::INTERNAL_ERROR)]
    })
    .await;
    mesh.service("resetting", policy());
    mesh.endpoint("resetting", 0, resetting.address(), |_| ());
    to(&client, "resetting:8080")
        .await
        .assert_refused_call("14", "retries_exhausted");

    let mut open = trip(|trip| {
        trip.consecutive_failures = 1;
        trip.scope = remora_proto::v1::trip::Scope::Service as i32;
    });
    open.outbound = policy().outbound;
    mesh.service("open", open);
    mesh.endpoint("open", 0, resetting.address(), |_| ());
    to(&client, "open:8080")
        .await
        .assert_refused_call("14", "retries_exhausted");
    to(&client, "open:8080")
        .await
        .assert_refused_call("14", "breaker_open");
}

async fn to(client: &Client, authority: &str) -> crate::h2_client::Answer {
    let headers = [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    ];
    let mut head = crate::h2_client::head("POST", ECHO, &headers);
    *head.uri_mut() = format!("http://{authority}{ECHO}").parse().unwrap();
    let mut stream = client.begin(head, false).await.unwrap();
    stream.send(MESSAGE.as_bytes(), true).await;
    stream.answer().await
}

#[tokio::test]
async fn a_call_that_is_refused_for_its_head_is_told_in_its_own_words() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| grpc(OK)).await;
    mesh.catalog(policy(), &[app.address()]);
    let client = mesh.client2().await;
    let names: Vec<String> = (0..300).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    for wrong in [many.as_slice(), &[("host", "another.example")]] {
        let answer = client.call("/shop.Catalog/Get", wrong).await;
        answer.assert_refused_call("13", "bad_request");
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn a_rate_limit_is_resource_exhausted_at_both_ends() {
    let limit = RateLimit {
        name: "few".into(),
        policy: "shop/catalog".into(),
        requests: 1,
        per_ms: 3_600_000,
        burst: 1,
        max_keys: 100,
        ..RateLimit::default()
    };
    let mut policy = policy();
    policy.rate_limits = vec![limit.clone()];
    let (mesh, app, client) = with(policy, |_| grpc(OK)).await;
    assert_eq!(client.call(ECHO, &[]).await.grpc_status(), "0");
    let answer = client.call(ECHO, &[]).await;
    answer.assert_refused_call("8", "rate_limited");
    assert_ne!(answer.header("retry-after"), "");
    assert_eq!((answer.header("ratelimit-limit"), app.count()), ("1", 1));

    let _own = App::start(mesh.net.at(2), |_| grpc(OK)).await;
    let taken = mesh.control.acks();
    mesh.workload(|workload| workload.rate_limits = vec![limit]);
    eventually("the limit has come", async || mesh.control.acks() > taken).await;
    let inbound = Client::connect(mesh.sidecar.inbound(PORT)).await;
    assert_eq!(inbound.call(ECHO, &[]).await.grpc_status(), "0");
    inbound
        .call(ECHO, &[])
        .await
        .assert_refused_call("8", "rate_limited");
}

#[tokio::test]
async fn failures_in_trailers_in_trailers_only_and_by_a_missing_status_open_the_breaker() {
    for kind in [
        "trailers",
        "no message",
        "trailers-only",
        "missing",
        "reset",
    ] {
        let mesh = Mesh::start().await;
        let bad = App::start(mesh.net.at(10), move |_| match kind {
            "trailers" => grpc(UNAVAILABLE),
            "no message" => grpc_empty(UNAVAILABLE),
            "trailers-only" => {
                trailers_only(&[("content-type", "application/grpc"), ("grpc-status", "14")])
            }
            "missing" => vec![
                Step::Read,
                Step::Head(200, GRPC),
                Step::Data(MESSAGE),
                Step::End,
            ],
            _ => vec![
                Step::Head(200, GRPC),
                Step::Wait(5),
                Step::Reset(Reason::INTERNAL_ERROR),
            ],
        })
        .await;
        let good = App::start(mesh.net.at(11), |_| grpc(OK)).await;
        let policy = trip(|trip| {
            trip.consecutive_failures = 3;
            trip.failures.as_mut().unwrap().grpc_codes = vec![2, 4, 13, 14, 15];
        });
        mesh.catalog(policy, &[bad.address(), good.address()]);
        let client = mesh.client2().await;
        eventually("three failed", async || {
            client.call(ECHO, &[]).await;
            bad.count() == 3
        })
        .await;
        for _ in 0..30 {
            assert_eq!(client.call(ECHO, &[]).await.grpc_status(), "0");
        }
        assert_eq!(bad.count(), 3, "{kind}");
        assert_eq!(
            mesh.sidecar.breaker("catalog-0").await["state"],
            "open",
            "{kind}"
        );
    }
}

#[tokio::test]
async fn codes_that_are_not_listed_and_calls_that_are_cancelled_are_no_failures() {
    let policy = trip(|trip| {
        trip.consecutive_failures = 1;
        trip.failures.as_mut().unwrap().grpc_codes = vec![2, 4, 13, 14, 15];
    });
    let (mesh, app, client) = with(policy, |request| match request.path.as_str() {
        "/test.Echo/Exhausted" => grpc(&[("grpc-status", "8")]),
        "/test.Echo/NotFound" => {
            trailers_only(&[("content-type", "application/grpc"), ("grpc-status", "5")])
        }
        "/test.Echo/Never" => vec![Step::Head(200, GRPC), Step::Data(MESSAGE), Step::Never],
        _ => grpc(OK),
    })
    .await;
    for method in ["Say", "Exhausted", "NotFound"] {
        client.call(&format!("/test.Echo/{method}"), &[]).await;
    }
    let stream = client.calling("/test.Echo/Never", &[]).await;
    let mut open = stream.head().await.unwrap();
    assert_eq!(open.text().await, MESSAGE);
    drop(open);
    eventually("the application hears", async || {
        app.resets() == [Reason::CANCEL]
    })
    .await;
    nothing_in_flight(&mesh).await;
    let breaker = mesh.sidecar.breaker("catalog-0").await;
    assert_eq!(
        (&breaker["state"], &breaker["failures"]),
        (&"closed".into(), &0.into())
    );
    assert_eq!(mesh.sidecar.outbound_stats().await["cancelled"], 1);
}

#[tokio::test]
async fn a_cancelled_call_does_not_interrupt_a_row_of_failures() {
    let policy = trip(|trip| {
        trip.consecutive_failures = 2;
        trip.failures.as_mut().unwrap().grpc_codes = vec![14];
        trip.min_endpoints = 1;
    });
    let (mesh, app, client) = with(policy, |request| match request.path.as_str() {
        "/test.Echo/Never" => vec![Step::Head(200, GRPC), Step::Never],
        _ => grpc(UNAVAILABLE),
    })
    .await;
    client.call(ECHO, &[]).await;
    let stream = client.calling("/test.Echo/Never", &[]).await;
    drop(stream.head().await.unwrap());
    eventually("the application hears", async || {
        app.resets() == [Reason::CANCEL]
    })
    .await;
    client.call(ECHO, &[]).await;
    // The only endpoint is kept, and marked.
    assert_eq!(
        mesh.sidecar.breaker("catalog-0").await["state"],
        "would_open"
    );
}

#[tokio::test]
async fn a_status_is_retried_only_where_codes_and_method_are_listed() {
    let mut policy = retrying(2, |_| ());
    codes(&mut policy, &[14], &[]);
    let handler = |request: &Received| match request.header("x-remora-attempt") {
        "1" if request.path.ends_with("Only") => {
            trailers_only(&[("content-type", "application/grpc"), ("grpc-status", "14")])
        }
        "1" => grpc_empty(UNAVAILABLE),
        _ => grpc(OK),
    };
    let (mesh, app, client) = with(policy.clone(), handler).await;
    assert_eq!(
        client.call(ECHO, &[]).await.grpc_status(),
        "14",
        "the method is not listed"
    );
    assert_eq!(app.count(), 1);
    codes(&mut policy, &[14], &[ECHO, "/test.Echo/Only"]);
    mesh.service("catalog", policy.clone());
    eventually("it is listed", async || {
        client.call(ECHO, &[]).await.grpc_status() == "0"
    })
    .await;
    let before = app.count();
    let answer = client.call("/test.Echo/Only", &[]).await;
    assert_eq!(
        (answer.trailer("grpc-status"), app.count() - before),
        ("0", 2)
    );
    assert_eq!(app.requests().last().unwrap().body, MESSAGE.as_bytes());
    // Another method is not.
    assert_eq!(
        client.call("/test.Echo/Other", &[]).await.grpc_status(),
        "14"
    );
    // Another code is not.
    codes(&mut policy, &[8], &[ECHO]);
    mesh.service("catalog", policy);
    eventually("it is not listed", async || {
        client.call(ECHO, &[]).await.grpc_status() == "14"
    })
    .await;
}

#[tokio::test]
async fn nothing_is_retried_once_a_message_has_been_given_on() {
    let mut policy = retrying(2, |_| ());
    codes(&mut policy, &[14], &[ECHO]);
    let (_mesh, app, client) = with(policy, |_| grpc(UNAVAILABLE)).await;
    let answer = client.call(ECHO, &[]).await;
    assert_eq!(
        (answer.text().as_str(), answer.grpc_status()),
        (MESSAGE, "14")
    );
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn a_head_is_held_for_a_moment_only_and_never_where_the_request_goes_on() {
    let mut policy = retrying(2, |_| ());
    codes(&mut policy, &[14], &[ECHO]);
    let (_mesh, app, client) = with(policy, |request| match request.header("x-kind") {
        "stream" => vec![
            Step::Head(200, GRPC),
            Step::Wait(300),
            Step::Trailers(UNAVAILABLE),
        ],
        _ => vec![
            Step::Read,
            Step::Head(200, GRPC),
            Step::Wait(300),
            Step::Trailers(UNAVAILABLE),
        ],
    })
    .await;
    let mut stream = client.calling(ECHO, &[]).await;
    stream.send(MESSAGE.as_bytes(), true).await;
    let began = Instant::now();
    let open = stream.head().await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_millis(150), "{took:?}");
    assert_eq!(open.rest().await.grpc_status(), "14");
    assert_eq!(app.count(), 1, "the head was given on");
    let stream = client.calling(ECHO, &[("x-kind", "stream")]).await;
    let open = stream.head().await.unwrap();
    assert_eq!(open.rest().await.grpc_status(), "14");
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn grpc_timeout_is_honoured_and_shortened_for_the_next_hop() {
    let mut policy = retrying(1, |retries| retries.on.as_mut().unwrap().timeout = true);
    codes(&mut policy, &[], &[ECHO]);
    policy.timeouts = Some(Timeouts {
        per_try_ms: Some(100),
        request_ms: Some(1_000),
        ..Timeouts::default()
    });
    let (mesh, app, client) = with(policy, |request| match request.path.as_str() {
        ECHO if request.header("x-remora-attempt") == "1" => vec![Step::Never],
        "/test.Echo/Never" => vec![Step::Never],
        _ => grpc(OK),
    })
    .await;
    assert_eq!(
        client
            .call(ECHO, &[("grpc-timeout", "800m")])
            .await
            .grpc_status(),
        "0"
    );
    let left: Vec<u64> = app
        .requests()
        .iter()
        .map(|request| micros(request.header("grpc-timeout")))
        .collect();
    assert!(left[0] <= 800_000 && left[0] > 700_000, "{left:?}");
    assert!(left[1] <= 700_000 && left[1] > 500_000, "{left:?}");
    // The policy's, where it is earlier; the caller's, where that is.
    client
        .call("/test.Echo/Other", &[("grpc-timeout", "5S")])
        .await;
    assert!(micros(app.requests()[2].header("grpc-timeout")) <= 1_000_000);
    let began = Instant::now();
    let answer = client
        .call("/test.Echo/Never", &[("grpc-timeout", "60m")])
        .await;
    answer.assert_refused_call("4", "timeout");
    assert!(began.elapsed() < Duration::from_millis(100 + 400));
    nothing_in_flight(&mesh).await;
    // What is malformed limits nothing and passes as it is.
    let mut policy = crate::mesh::policy();
    policy.timeouts = None;
    mesh.service("catalog", policy);
    eventually("there is no limit", async || {
        client
            .call("/test.Echo/Other", &[("grpc-timeout", "soon")])
            .await;
        app.requests().last().unwrap().header("grpc-timeout") == "soon"
    })
    .await;
}

fn micros(value: &str) -> u64 {
    let (digits, unit) = value.split_at(value.len() - 1);
    let amount: u64 = digits.parse().unwrap();
    match unit {
        "n" => amount / 1_000,
        "u" => amount,
        "m" => amount * 1_000,
        "S" => amount * 1_000_000,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn after_the_head_of_a_stream_the_request_is_over_and_idle_governs_both_ways() {
    let mut policy = policy();
    policy.timeouts = Some(Timeouts {
        request_ms: Some(100),
        per_try_ms: Some(100),
        response_headers_ms: Some(100),
        idle_ms: Some(250),
    });
    let (mesh, app, client) = with(policy, |request| match request.path.as_str() {
        "/test.Echo/Server" => {
            let mut steps = vec![Step::Head(200, GRPC)];
            for _ in 0..6 {
                steps.extend([Step::Wait(100), Step::Data(MESSAGE)]);
            }
            steps.push(Step::Trailers(OK));
            steps
        }
        "/test.Echo/Upload" => vec![Step::Head(200, GRPC), Step::Read, Step::Trailers(OK)],
        _ => vec![Step::Head(200, GRPC), Step::Data(MESSAGE), Step::Never],
    })
    .await;
    let answer = client.call("/test.Echo/Server", &[]).await;
    assert_eq!((answer.text().len(), answer.grpc_status()), (60, "0"));
    let mut open = client
        .calling("/test.Echo/Upload", &[])
        .await
        .head()
        .await
        .unwrap();
    for _ in 0..6 {
        open.send(MESSAGE.as_bytes(), false).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    open.send(b"", true).await;
    assert_eq!(open.rest().await.grpc_status(), "0");
    let began = Instant::now();
    let answer = client.call("/test.Echo/Silent", &[]).await;
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(240) && took < Duration::from_secs(1),
        "{took:?}"
    );
    assert_eq!(answer.text(), MESSAGE);
    // Told in gRPC's own words: a reset would be taken for something else.
    assert_eq!(
        (answer.grpc_status(), answer.trailer("x-remora-reason")),
        ("4", "timeout"),
        "{answer:?}"
    );
    eventually("the application hears", async || {
        app.resets() == [Reason::CANCEL]
    })
    .await;
    nothing_in_flight(&mesh).await;
}

#[tokio::test]
async fn an_application_that_dies_in_a_stream_is_unavailable() {
    let policy = trip(|trip| trip.consecutive_failures = 1);
    let (mesh, _app, client) = with(policy, |_| {
        vec![
            Step::Head(200, GRPC),
            Step::Data(MESSAGE),
            Step::Wait(20),
            Step::Kill,
        ]
    })
    .await;
    let answer = client.call(ECHO, &[]).await;
    assert_eq!(answer.text(), MESSAGE);
    assert_eq!(
        (answer.grpc_status(), answer.trailer("x-remora-reason")),
        ("14", "retries_exhausted"),
        "{answer:?}"
    );
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["failures"], 1);
}

#[tokio::test]
async fn refused_and_drained_streams_are_sent_again_without_any_block() {
    let (_mesh, app, client) = with(policy(), |request| match request.number % 2 {
        1 => vec![Step::Reset(Reason::REFUSED_STREAM)],
        _ => grpc(OK),
    })
    .await;
    for _ in 0..5 {
        assert_eq!(client.call(ECHO, &[]).await.grpc_status(), "0");
    }
    assert_eq!(app.count(), 10);
}

#[tokio::test]
async fn a_probe_of_a_breaker_is_judged_by_the_calls_end() {
    let mesh = Mesh::start().await;
    let bad = App::start(mesh.net.at(10), |request| match request.number {
        1 | 2 => grpc_empty(UNAVAILABLE),
        _ => grpc(OK),
    })
    .await;
    let good = App::start(mesh.net.at(11), |_| grpc(NOT_FOUND)).await;
    let policy = trip(|trip| {
        trip.consecutive_failures = 1;
        (trip.base_ejection_ms, trip.max_ejection_ms) = (200, 300);
        trip.failures.as_mut().unwrap().grpc_codes = vec![14];
    });
    mesh.catalog(policy, &[bad.address(), good.address()]);
    let client = mesh.client2().await;
    eventually("it is closed again", async || {
        client.call(ECHO, &[]).await;
        bad.count() >= 3 && mesh.sidecar.breaker("catalog-0").await["state"] == "closed"
    })
    .await;
    let changes = mesh.sidecar.json("/breakers").await["changes"].clone();
    let to: Vec<&str> = changes
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["to"].as_str().unwrap())
        .collect();
    assert_eq!(to, ["open", "half_open", "open", "half_open", "closed"]);
}
