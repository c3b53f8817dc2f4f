//! HTTP/2 through one sidecar: what passes, and that the policies mean the same
//! as for HTTP/1.

use std::time::{Duration, Instant};

use h2::Reason;
use remora_proto::v1::Timeouts;

use crate::eventually;
use crate::h2_app::{App, Says, Step, hello, status};
use crate::h2_client::{Client, head};
use crate::mesh::{Mesh, PORT, limits, policy, retries, retrying, trip};

async fn with(
    policy: remora_proto::v1::ServicePolicy,
    handler: impl Fn(&crate::h2_app::Received) -> Vec<Step> + Send + Sync + 'static,
) -> (Mesh, App, Client) {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), handler).await;
    mesh.catalog(policy, &[app.address()]);
    let client = mesh.client2().await;
    (mesh, app, client)
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
async fn streams_of_all_callers_share_one_connection_upstream() {
    let (mesh, app, client) = with(policy(), |_| {
        let mut steps = vec![Step::Wait(50)];
        steps.extend(hello());
        steps
    })
    .await;
    let other = mesh.client2().await;
    let calls = (0..100).map(|number| match number % 2 {
        0 => client.post("/orders?id=7", b"a body"),
        _ => other.post("/orders?id=7", b"a body"),
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.reason(), "");
    }
    assert_eq!((app.accepted(), app.count()), (1, 100));
    let request = &app.requests()[0];
    assert_eq!(
        (
            request.method.as_str(),
            request.path.as_str(),
            request.authority.as_str()
        ),
        ("POST", "/orders?id=7", "catalog:8080")
    );
    assert_eq!(request.body, b"a body");
    assert_eq!(request.header("x-remora-attempt"), "1");
    nothing_in_flight(&mesh).await;
}

#[tokio::test]
async fn fields_pass_in_their_order_and_ours_are_taken_off() {
    let (_mesh, app, client) = with(policy(), |_| {
        vec![
            Step::Head(200, &[("b", "1"), ("x-remora-http", "1.1"), ("a", "2")]),
            Step::Trailers(&[("c", "3"), ("x-remora-reason", "timeout")]),
        ]
    })
    .await;
    let headers = [
        ("z", "1"),
        ("x-remora-http", "1.1"),
        ("te", "trailers"),
        ("x-remora-reason", "fault"),
        ("a", "2"),
        ("x-remora-attempt", "9"),
    ];
    let answer = client.request("GET", "/", &headers, b"").await;
    let request = &app.requests()[0];
    let names: Vec<&str> = request
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["z", "te", "a", "x-remora-attempt"]);
    assert_eq!(request.header("x-remora-attempt"), "1");
    let names: Vec<&str> = answer
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(answer.trailer("c"), "3");
    assert_eq!(answer.trailer("x-remora-reason"), "");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (_mesh, app, client) = with(policy(), |_| vec![Step::Head(200, &[]), Step::Echo]).await;
    let mut stream = client.begin(head("POST", "/", &[]), false).await.unwrap();
    stream.send(b"some", false).await;
    stream.trailers(&[("x-checksum", "7"), ("x-more", "8")]);
    let answer = stream.answer().await;
    assert_eq!(answer.text(), "some");
    assert_eq!(
        (answer.trailer("x-checksum"), answer.trailer("x-more")),
        ("7", "8")
    );
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn interim_answers_pass() {
    let (_mesh, _app, client) = with(policy(), |_| {
        vec![
            Step::Interim(100, &[]),
            Step::Read,
            Step::Interim(103, &[("link", "</a.css>")]),
            Step::HeadAlone(204, &[]),
        ]
    })
    .await;
    let mut stream = client
        .begin(head("PUT", "/", &[("expect", "100-continue")]), false)
        .await
        .unwrap();
    assert_eq!(stream.interim().await.0, 100);
    stream.send(b"the body", true).await;
    let (status, headers) = stream.interim().await;
    assert_eq!(
        (status, headers["link"].to_str().unwrap()),
        (103, "</a.css>")
    );
    assert_eq!(stream.answer().await.status, 204);
}

#[tokio::test]
async fn answers_without_a_body_are_heads_alone() {
    let (_mesh, _app, client) = with(policy(), |request| match request.path.as_str() {
        "/204" => status(204),
        "/304" => vec![Step::HeadAlone(
            304,
            &[("content-length", "5"), ("etag", "7")],
        )],
        "/empty" => vec![Step::Head(200, &[("content-length", "0")]), Step::End],
        _ => vec![Step::HeadAlone(200, &[("content-length", "5")])],
    })
    .await;
    let answer = client.request("HEAD", "/", &[], b"").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, "5"));
    assert!(answer.head_alone);
    for (path, status, length) in [("/204", 204, ""), ("/304", 304, "5"), ("/empty", 200, "0")] {
        let answer = client.get(path).await;
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (status, length)
        );
        assert_eq!((answer.body.len(), answer.broke.as_deref()), (0, None));
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    const LENGTH: usize = 8 << 20;
    let (_mesh, app, client) = with(policy(), |request| match request.method.as_str() {
        "GET" => vec![Step::Head(200, &[]), Step::Bytes(LENGTH), Step::End],
        _ => vec![
            Step::Read,
            Step::Head(200, &[("content-length", "8388608")]),
            Step::Bytes(LENGTH),
            Step::End,
        ],
    })
    .await;
    let body: Vec<u8> = (0..LENGTH).map(|at| (at / 7) as u8).collect();
    let answer = client.post("/", &body).await;
    assert_eq!((answer.status, answer.body.len()), (200, LENGTH));
    assert!(app.requests()[0].body == body);
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.body.len()), (200, LENGTH));
}

#[tokio::test]
async fn max_requests_is_exact_over_streams_with_cancellations() {
    const MOST: usize = 5;
    let policy = limits(|limits| limits.max_requests = Some(MOST as u32));
    let (mesh, app, client) = with(policy, |request| match request.path.as_str() {
        "/never" => vec![Step::Never],
        _ => vec![Step::Wait(3), Step::HeadAlone(200, &[])],
    })
    .await;
    let mut refused = 0;
    for round in 0..20 {
        let calls = (0..20).map(|number| {
            let client = &client;
            async move {
                if (number + round) % 4 == 0 {
                    let stream = client
                        .begin(head("GET", "/never", &[]), true)
                        .await
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(number % 5)).await;
                    stream.reset(Reason::CANCEL);
                    return 0;
                }
                let answer = client.get("/").await;
                if answer.status == 503 {
                    assert_eq!(answer.reason(), "overloaded");
                    return 1;
                }
                assert_eq!(answer.status, 200);
                0
            }
        });
        refused += futures_util::future::join_all(calls)
            .await
            .into_iter()
            .sum::<u32>();
    }
    assert!(refused > 0);
    // A stream that is cancelled may reach the application together with the
    // one that takes its place.
    assert!(app.most_in_flight() <= 2 * MOST, "{}", app.most_in_flight());
    nothing_in_flight(&mesh).await;
    // Not one place is lost.
    let held: Vec<_> = {
        let calls = (0..MOST).map(|_| client.begin(head("GET", "/never", &[]), true));
        futures_util::future::join_all(calls).await
    };
    eventually("all places are taken", async || {
        mesh.sidecar.service_breaker().await["requests_in_flight"] == MOST
    })
    .await;
    assert_eq!(client.get("/").await.reason(), "overloaded");
    drop(held);
    nothing_in_flight(&mesh).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn max_connections_counts_shared_connections_and_requests_queue_for_streams() {
    let mesh = Mesh::start().await;
    let says = Says {
        streams: 2,
        ..Says::default()
    };
    let app = App::start_saying(mesh.net.at(10), says, |_| {
        vec![Step::Wait(100), Step::HeadAlone(200, &[])]
    })
    .await;
    let policy = limits(|limits| {
        limits.max_connections = Some(1);
        limits.max_pending_requests = Some(3);
    });
    mesh.catalog(policy, &[app.address()]);
    let client = mesh.client2().await;
    // So that the application has said how many it takes.
    assert_eq!(client.get("/").await.status, 200);
    let calls = (0..8).map(|_| client.get("/"));
    let answers = futures_util::future::join_all(calls).await;
    let good = answers.iter().filter(|answer| answer.status == 200).count();
    let refused = answers
        .iter()
        .filter(|answer| answer.reason() == "overloaded")
        .count();
    assert_eq!((good, refused), (5, 3), "two at once, three in the queue");
    assert_eq!((app.accepted(), app.most_in_flight()), (1, 2));
    nothing_in_flight(&mesh).await;
}

#[tokio::test]
async fn more_connections_are_opened_only_at_the_stream_limit() {
    let mesh = Mesh::start().await;
    let says = Says {
        streams: 10,
        ..Says::default()
    };
    let app = App::start_saying(mesh.net.at(10), says, |_| {
        vec![Step::Wait(100), Step::HeadAlone(200, &[])]
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let client = mesh.client2().await;
    assert_eq!(client.get("/").await.status, 200);
    for (calls, connections) in [(10, 1), (30, 3), (30, 3)] {
        let calls = (0..calls).map(|_| client.get("/"));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        assert_eq!(app.accepted(), connections);
    }
}

#[tokio::test]
async fn consecutive_failures_by_status_and_by_reset_open_the_breaker() {
    for kind in ["status", "reset", "reset in body"] {
        let mesh = Mesh::start().await;
        let bad = App::start(mesh.net.at(10), move |_| match kind {
            "status" => status(503),
            "reset" => vec![Step::Reset(Reason::INTERNAL_ERROR)],
            _ => vec![
                Step::Head(200, &[]),
                Step::Data("some"),
                Step::Wait(5),
                Step::Reset(Reason::INTERNAL_ERROR),
            ],
        })
        .await;
        let good = App::start(mesh.net.at(11), |_| hello()).await;
        let policy = trip(|trip| trip.consecutive_failures = 3);
        mesh.catalog(policy, &[bad.address(), good.address()]);
        let client = mesh.client2().await;
        eventually("three failed", async || {
            let answer = client.get("/").await;
            match kind {
                "status" => assert!(matches!(answer.status, 200 | 503), "{answer:?}"),
                "reset" if answer.status != 200 => {
                    assert_eq!((answer.status, answer.reason()), (502, "retries_exhausted"));
                }
                "reset" => {}
                _ => assert!(
                    answer.text() == "hello" || answer.reset.is_some(),
                    "{answer:?}"
                ),
            }
            bad.count() == 3
        })
        .await;
        for _ in 0..30 {
            assert_eq!(client.get("/").await.status, 200);
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
async fn a_refused_stream_is_sent_again_for_post_without_any_block() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.number % 3 {
        0 => hello(),
        _ => vec![Step::Reset(Reason::REFUSED_STREAM)],
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let client = mesh.client2().await;
    for _ in 0..10 {
        assert_eq!(client.post("/", b"the whole body").await.status, 200);
    }
    let requests = app.requests();
    let whole = requests
        .iter()
        .filter(|request| request.body == b"the whole body");
    assert_eq!((whole.count(), app.count()), (10, 30));
    // More often than twice is nobody's gain.
    let refusing = App::start(mesh.net.at(12), |_| {
        vec![Step::Reset(Reason::REFUSED_STREAM)]
    })
    .await;
    mesh.endpoint("catalog", 0, refusing.address(), |_| ());
    eventually("the new address is used", async || {
        let before = refusing.count();
        let answer = client.post("/", b"x").await;
        answer.status != 200
            && answer.reason() == "retries_exhausted"
            && refusing.count() - before == 3
    })
    .await;
}

#[tokio::test]
async fn a_stream_above_the_last_one_of_goaway_is_sent_again_for_post() {
    let mesh = Mesh::start().await;
    let refusing = crate::h2_raw::GoAway::start(mesh.net.at(11)).await;
    let app = App::start(mesh.net.at(10), |_| hello()).await;
    mesh.catalog(policy(), &[app.address(), refusing.address()]);
    let client = mesh.client2().await;
    let mut met = 0;
    for _ in 0..30 {
        let answer = client.post("/", b"the whole body").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        met = refusing.refused();
    }
    assert!(met > 0);
    assert!(
        app.requests()
            .iter()
            .all(|request| request.body == b"the whole body")
    );
}

#[tokio::test]
async fn an_upstream_that_drains_loses_no_request() {
    let (_mesh, app, client) = with(policy(), |_| {
        vec![Step::Wait(20), Step::Read, Step::HeadAlone(200, &[])]
    })
    .await;
    let calls = (0..200).map(|number| {
        let (client, app) = (&client, &app);
        async move {
            tokio::time::sleep(Duration::from_millis(number)).await;
            if number == 60 {
                app.drain();
            }
            client.post("/", b"x").await.status
        }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(app.accepted() > 1);
}

#[tokio::test]
async fn a_body_within_the_buffer_is_replayed_with_its_trailers_and_a_larger_one_is_not() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| {
        match request.header("x-remora-attempt") {
            "1" => status(503),
            _ => status(200),
        }
    })
    .await;
    mesh.catalog(
        retrying(1, |retries| retries.buffer_bytes = 1_000),
        &[app.address()],
    );
    let client = mesh.client2().await;
    for (length, last) in [(1_000, 200), (1_001, 503)] {
        let mut stream = client.begin(head("PUT", "/", &[]), false).await.unwrap();
        stream.send(&vec![b'x'; length], false).await;
        stream.trailers(&[("x-end", "yes")]);
        assert_eq!(stream.answer().await.status, last, "{length}");
    }
    let requests = app.requests();
    let bodies: Vec<usize> = requests.iter().map(|request| request.body.len()).collect();
    assert_eq!(bodies, [1_000, 1_000, 1_001]);
    for request in &requests {
        assert_eq!(request.trailers.as_ref().unwrap()["x-end"], "yes");
    }
}

#[tokio::test]
async fn a_reset_is_retried_for_what_is_safe_and_never_for_post() {
    let policy = retrying(1, |_| ());
    let (_mesh, app, client) = with(policy, |request| match request.header("x-remora-attempt") {
        "1" => vec![Step::Reset(Reason::INTERNAL_ERROR)],
        _ => hello(),
    })
    .await;
    assert_eq!(client.get("/").await.status, 200);
    let answer = client.post("/", b"x").await;
    assert_eq!((answer.status, answer.reason()), (502, "retries_exhausted"));
    assert_eq!(app.count(), 3);
}

#[tokio::test]
async fn timeouts_end_the_attempt_and_the_upstream_hears_of_it() {
    for (field, timeouts) in [
        (
            "request",
            Timeouts {
                request_ms: Some(80),
                ..Timeouts::default()
            },
        ),
        (
            "perTry",
            Timeouts {
                per_try_ms: Some(80),
                ..Timeouts::default()
            },
        ),
        (
            "responseHeaders",
            Timeouts {
                response_headers_ms: Some(80),
                ..Timeouts::default()
            },
        ),
        (
            "idle",
            Timeouts {
                idle_ms: Some(80),
                ..Timeouts::default()
            },
        ),
    ] {
        let mut policy = policy();
        policy.timeouts = Some(timeouts);
        let (mesh, app, client) = with(policy, |_| vec![Step::Never]).await;
        let began = Instant::now();
        let answer = client.get("/").await;
        assert_eq!(
            (answer.status, answer.reason()),
            (504, "timeout"),
            "{field}"
        );
        assert!(answer.text().contains(field), "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(1));
        eventually("the stream is reset", async || {
            app.resets() == [Reason::CANCEL]
        })
        .await;
        nothing_in_flight(&mesh).await;
    }
}

#[tokio::test]
async fn per_try_is_followed_by_a_retry_and_the_request_by_none() {
    let mut policy = retrying(3, |retries| retries.on.as_mut().unwrap().timeout = true);
    policy.timeouts = Some(Timeouts {
        per_try_ms: Some(60),
        request_ms: Some(150),
        ..Timeouts::default()
    });
    let (_mesh, app, client) = with(policy, |request| match request.path.as_str() {
        "/once" if request.header("x-remora-attempt") == "2" => hello(),
        _ => vec![Step::Never],
    })
    .await;
    assert_eq!(client.get("/once").await.status, 200);
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.reason()), (504, "timeout"));
    assert_eq!(app.count(), 5);
}

#[tokio::test]
async fn a_body_on_which_nothing_moves_either_way_is_ended_and_one_that_moves_is_not() {
    let mut policy = policy();
    policy.timeouts = Some(Timeouts {
        idle_ms: Some(150),
        ..Timeouts::default()
    });
    let (mesh, app, client) = with(policy, |request| match request.path.as_str() {
        "/half" => vec![Step::Head(200, &[]), Step::Data("half"), Step::Never],
        "/slow" => {
            let mut steps = vec![Step::Head(200, &[])];
            for _ in 0..6 {
                steps.extend([Step::Data("x"), Step::Wait(60)]);
            }
            steps.push(Step::End);
            steps
        }
        _ => vec![Step::Head(200, &[]), Step::Read, Step::End],
    })
    .await;
    let answer = client.get("/half").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "half"));
    assert!(answer.reset.is_some(), "{answer:?}");
    eventually("the stream is reset", async || {
        app.resets() == [Reason::CANCEL]
    })
    .await;
    assert_eq!(client.get("/slow").await.text(), "xxxxxx");
    // The request moves, the answer does not.
    let stream = client
        .begin(head("POST", "/upload", &[]), false)
        .await
        .unwrap();
    let mut open = stream.head().await.unwrap();
    for _ in 0..6 {
        open.send(b"x", false).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    open.send(b"x", true).await;
    assert_eq!(open.rest().await.broke, None);
    nothing_in_flight(&mesh).await;
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_ended_by_idle() {
    let mut policy = policy();
    policy.timeouts = Some(Timeouts {
        idle_ms: Some(150),
        ..Timeouts::default()
    });
    let (mesh, app, _client) = with(policy, |_| {
        vec![Step::Head(200, &[]), Step::Bytes(4 << 20), Step::End]
    })
    .await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let client = Client::connect_with(mesh.sidecar.outbound(), b"", &builder).await;
    let stream = client.begin(head("GET", "/", &[]), true).await.unwrap();
    let open = stream.head().await.unwrap();
    nothing_in_flight(&mesh).await;
    assert_eq!(app.in_flight(), 0);
    assert!(open.rest().await.reset.is_some());
}

#[tokio::test]
async fn an_early_answer_comes_through_while_the_body_is_still_being_sent() {
    let (mesh, app, client) = with(policy(), |_| vec![Step::HeadAlone(413, &[])]).await;
    let mut stream = client.begin(head("POST", "/", &[]), false).await.unwrap();
    stream.send(b"some", false).await;
    let answer = stream.answer().await;
    assert_eq!(answer.status, 413);
    nothing_in_flight(&mesh).await;
    assert_eq!(client.get("/").await.status, 413);
    assert_eq!(app.accepted(), 1, "the connection is whole");
}

#[tokio::test]
async fn a_caller_that_leaves_is_no_failure_and_the_upstream_hears_of_it() {
    let policy = trip(|trip| trip.consecutive_failures = 1);
    let (mesh, app, client) = with(policy, |request| match request.path.as_str() {
        "/in-body" => vec![Step::Head(200, &[]), Step::Data("some"), Step::Never],
        _ => vec![Step::Never],
    })
    .await;
    for path in ["/before", "/in-body"] {
        let stream = client.begin(head("GET", path, &[]), true).await.unwrap();
        eventually("it is in flight", async || app.in_flight() == 1).await;
        stream.reset(Reason::CANCEL);
        nothing_in_flight(&mesh).await;
    }
    let gone = mesh.client2().await;
    let _stream = gone.begin(head("GET", "/", &[]), true).await.unwrap();
    eventually("it is in flight", async || app.in_flight() == 1).await;
    drop(gone);
    nothing_in_flight(&mesh).await;
    eventually("the upstream hears", async || {
        app.resets() == [Reason::CANCEL; 3]
    })
    .await;
    assert_eq!(mesh.sidecar.breaker("catalog-0").await["failures"], 0);
    let stats = mesh.sidecar.outbound_stats().await;
    assert_eq!(stats["cancelled"], 3);
}

#[tokio::test]
async fn unknown_services_and_bad_hosts_are_told_in_http2() {
    let mesh = Mesh::start().await;
    let client = mesh.client2().await;
    let mut request = head("GET", "/", &[]);
    *request.uri_mut() = "http://nowhere:8080/".parse().unwrap();
    let answer = client.begin(request, true).await.unwrap().answer().await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    let answer = client
        .request("GET", "/", &[("host", "other:8080")], b"")
        .await;
    assert_eq!((answer.status, answer.reason()), (400, "bad_request"));
}

#[tokio::test]
async fn inbound_ports_speak_http2() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(2), |_| {
        vec![Step::Head(200, &[("x-a", "1")]), Step::Echo]
    })
    .await;
    let client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    let answer = client.post("/path", b"a body").await;
    assert_eq!(
        (answer.status, answer.header("x-a"), answer.text().as_str()),
        (200, "1", "a body")
    );
    assert_eq!(app.requests()[0].authority, "catalog:8080");
    assert_eq!(app.requests()[0].path, "/path");
}

#[tokio::test]
async fn a_pooled_connection_that_the_server_closed_is_not_the_callers_problem() {
    let (_mesh, app, client) = with(policy(), |request| match request.number {
        3 => vec![Step::Kill],
        _ => hello(),
    })
    .await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/").await.status, 200);
    // It goes again on a new connection, not as a retry, because it is safe.
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!((app.accepted(), app.count()), (2, 4));
}

#[tokio::test]
async fn a_change_of_policy_leaves_streams_alone() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| vec![Step::Head(200, &[]), Step::Echo]).await;
    mesh.catalog(policy(), &[app.address()]);
    let client = mesh.client2().await;
    let stream = client.begin(head("POST", "/", &[]), false).await.unwrap();
    let mut open = stream.head().await.unwrap();
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < Duration::from_secs(3) {
        let policy = match number % 3 {
            0 => limits(|limits| limits.max_requests = Some(number)),
            1 => policy(),
            _ => {
                let mut policy = policy();
                policy.timeouts = Some(Timeouts {
                    request_ms: Some(1),
                    idle_ms: Some(1),
                    ..Timeouts::default()
                });
                policy.retries = Some(retries(1, |_| ()));
                policy
            }
        };
        mesh.service("catalog", policy);
        let text = format!("message {number}");
        open.send(text.as_bytes(), false).await;
        assert_eq!(open.text().await, text);
        number += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    open.send(b"last", true).await;
    let answer = open.rest().await;
    assert_eq!((answer.text().as_str(), answer.broke), ("last", None));
}
