//! The hop between two sidecars: one connection for many callers, and the
//! application cannot tell.

use std::future::Future;
use std::time::{Duration, Instant};

use h2::Reason;
use remora_proto::v1::{RateLimit, ServicePolicy, Timeouts};

use crate::client::Client;
use crate::eventually;
use crate::h2_app::{self, GRPC, MESSAGE, Step};
use crate::h2_client::head;
use crate::mesh::{Mesh, policy, trip};
use crate::raw::{Between, Listening, Raw};
use crate::sidecar::{Options, Sidecar};
use crate::upstream::{App, Reply, status};

/// Both sidecars, and what stands between them. The application is at `.4`.
struct Pair {
    mesh: Mesh,
    target: Sidecar,
    between: Between,
}

impl Pair {
    async fn start(policy: ServicePolicy) -> Self {
        Self::start_with(policy, Options::default()).await
    }

    async fn start_with(policy: ServicePolicy, options: Options) -> Self {
        let mesh = Mesh::start_with(options.clone()).await;
        let target = mesh.beside(3, options).await;
        let between = Between::start(mesh.net.at(20), mesh.net.at(3)).await;
        mesh.meshed(policy, &[20]);
        Self {
            mesh,
            target,
            between,
        }
    }

    fn application(&self) -> std::net::SocketAddr {
        self.mesh.net.at(4)
    }

    async fn nothing_is_left(&self) {
        eventually("nothing is in flight", async || {
            let inbound = &self.target.json("/stats").await["inbound"][0];
            self.mesh.sidecar.outbound_stats().await["in_flight"] == 0 && inbound["in_flight"] == 0
        })
        .await;
    }
}

/// An application that answers each request with these bytes, and shows what it got.
async fn showing(
    address: std::net::SocketAddr,
    end: &'static str,
    answer: &'static str,
) -> (Listening, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (show, shown) = tokio::sync::mpsc::unbounded_channel();
    let app = Listening::start(address, move |mut raw| {
        let show = show.clone();
        async move {
            while let Some(seen) = raw.until_or_end(end).await {
                let _ = show.send(seen);
                raw.write(answer).await;
            }
        }
    })
    .await;
    (app, shown)
}

#[tokio::test]
async fn many_callers_share_one_connection_for_each_worker() {
    for workers in [1, 2] {
        let options = Options {
            workers,
            ..Options::default()
        };
        let pair = Pair::start_with(policy(), options).await;
        let app = App::start(pair.application(), |_| status(200).after_ms(20)).await;
        let mut callers = Vec::new();
        for _ in 0..40 {
            callers.push(pair.mesh.client().await);
        }
        let calls = callers.into_iter().map(|mut client| async move {
            for _ in 0..5 {
                let answer = client.post("catalog:8080", "/", "a body").await;
                assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
                assert_eq!(answer.version, "HTTP/1.1");
            }
        });
        futures_util::future::join_all(calls).await;
        // HTTP/2 callers take the same one.
        assert_eq!(app.count(), 200);
        let opened = pair.between.accepted() as usize;
        assert!(opened >= 1 && opened <= workers, "{opened} for {workers}");
        for beginning in pair.between.beginnings() {
            assert!(beginning.starts_with("\0remora-h2\n"), "{beginning:?}");
        }
        pair.nothing_is_left().await;
    }
}

#[tokio::test]
async fn the_application_sees_what_the_caller_sent() {
    let pair = Pair::start(policy()).await;
    let answer = "HTTP/1.1 201 Made So\r\nx-b: 1\r\nx-remora-http: 1.1\r\nx-a: 2\r\n\
                  x-remora-reason: connect_failed\r\ncontent-length: 4\r\nx-c: 3\r\n\r\nmade";
    let (_app, mut shown) = showing(pair.application(), "the body", answer).await;
    let mut caller = Raw::connect(pair.mesh.sidecar.outbound()).await;
    caller
        .write(
            "PUT /path/%7Eodd?q=a%20b&c HTTP/1.1\r\nz: 1\r\nHost: Catalog:8080\r\nb: 2\r\n\
             x-remora-http: 1.0\r\na: 3\r\nX-Remora-Identity: admin\r\nte: trailers\r\n\
             connection: keep-alive, x-mine\r\nx-mine: 1\r\ncookie: a=1; b=2\r\n\
             x-remora-attempt: 7\r\nx-remora-reason: fault\r\ncontent-length: 8\r\nlast: 4\r\n\r\nthe body",
        )
        .await;
    let seen = shown.recv().await.unwrap();
    let expected = "PUT /path/%7Eodd?q=a%20b&c HTTP/1.1\r\nz: 1\r\nhost: Catalog:8080\r\nb: 2\r\n\
                    a: 3\r\nte: trailers\r\ncookie: a=1; b=2\r\ncontent-length: 8\r\nlast: 4\r\n\
                    x-remora-attempt: 1\r\n\r\nthe body";
    let lines = |text: &str| -> Vec<String> {
        // What concerns the hop is the hop's, and names have no case.
        let lines = text
            .lines()
            .filter(|line| !line.to_lowercase().starts_with("connection:"));
        lines
            .map(|line| match line.split_once(": ") {
                Some((name, value)) => format!("{}: {value}", name.to_lowercase()),
                None => line.to_owned(),
            })
            .collect()
    };
    assert_eq!(lines(&seen), lines(expected));
    let answer = caller.until("made").await;
    let expected =
        "HTTP/1.1 201 Created\r\nx-b: 1\r\nx-a: 2\r\ncontent-length: 4\r\nx-c: 3\r\n\r\nmade";
    assert_eq!(lines(&answer)[1..], lines(expected)[1..]);
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(pair.between.beginnings().len(), 1);
}

#[tokio::test]
async fn the_marker_of_a_request_is_believed_from_sidecars_alone() {
    let pair = Pair::start(policy()).await;
    let app = h2_app::App::start(pair.application(), |_| h2_app::hello()).await;
    let marker = [("x-remora-http", "1.1")];
    // Through both: HTTP/2 stays HTTP/2.
    let client = pair.mesh.client2().await;
    let answer = client.request("GET", "/", &marker, b"").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Straight to the target's port, without the preface.
    let client = crate::h2_client::Client::connect(pair.mesh.net.at(3)).await;
    let answer = client.request("GET", "/", &marker, b"").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // The preface at the outbound port is nobody's.
    for request in app.requests() {
        assert_eq!(request.header("x-remora-http"), "");
    }
    assert_eq!(app.count(), 2);
    let mut forger = Raw::connect(pair.mesh.sidecar.outbound()).await;
    forger
        .write("\0remora-h1\nGET / HTTP/1.1\r\nhost: catalog:8080\r\n\r\n")
        .await;
    let answer = forger.rest().await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn what_http2_cannot_carry_takes_a_connection_of_its_own() {
    let pair = Pair::start(policy()).await;
    let (_app, mut shown) = showing(
        pair.application(),
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    for request in [
        "GET / HTTP/1.0\r\nhost: catalog:8080\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: catalog:8080\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: catalog:8080\r\n\r\n",
    ] {
        let before = pair.between.beginnings().len();
        let mut caller = Raw::connect(pair.mesh.sidecar.outbound()).await;
        caller.write(request).await;
        caller.until("ok").await;
        let seen = shown.recv().await.unwrap();
        assert_eq!(seen.lines().next(), request.lines().next());
        assert!(!seen.contains("x-remora-http"), "{seen}");
        // One that is idle may be used again.
        let beginnings = pair.between.beginnings();
        assert!(
            beginnings[before..]
                .iter()
                .all(|one| one.starts_with("\0remora-h1\n")),
            "{beginnings:?}"
        );
    }
    assert!(
        pair.between
            .beginnings()
            .iter()
            .all(|one| one.starts_with("\0remora-h1\n"))
    );
    pair.nothing_is_left().await;
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_of_protocols_gets_plain_connections() {
    let pair = Pair::start(policy()).await;
    pair.mesh
        .endpoint("catalog", 0, pair.mesh.net.at(20), |endpoint| {
            endpoint.sidecar = true
        });
    // To either protocol this is no answer, but the question has been put.
    let _app = Listening::start(pair.application(), |mut raw| async move {
        raw.until_or_end("\r\n\r\n").await;
    })
    .await;
    eventually("the endpoint is there", async || {
        pair.mesh.get("/").await;
        pair.between.accepted() > 0
    })
    .await;
    pair.mesh.client2().await.get("/").await;
    let beginnings = pair.between.beginnings();
    for one in ["GET / HTTP/1.1", "PRI * HTTP/2.0"] {
        assert!(beginnings.iter().any(|seen| seen == one), "{beginnings:?}");
    }
    assert!(
        !beginnings.iter().any(|seen| seen.starts_with('\0')),
        "{beginnings:?}"
    );
}

#[tokio::test]
async fn an_endpoint_that_takes_one_connection_each_gets_no_multiplexing() {
    let pair = Pair::start(policy()).await;
    let at = pair.mesh.net.at(20);
    pair.mesh.endpoint("catalog", 0, at, |endpoint| {
        endpoint.sidecar = true;
        endpoint.mesh_protocols = vec!["remora-h1".into()];
    });
    let _app = App::ok(pair.application()).await;
    eventually("the change is in force", async || {
        assert_eq!(pair.mesh.get("/").await.status, 200);
        let beginnings = pair.between.beginnings();
        beginnings.last().unwrap().starts_with("\0remora-h1\n")
    })
    .await;
}

#[tokio::test]
async fn connect_failed_from_the_target_makes_the_caller_resend_every_method() {
    let mesh = Mesh::start().await;
    let _one = mesh.beside(3, Options::default()).await;
    let two = mesh.beside(5, Options::default()).await;
    // The first one's application does not listen.
    let app = App::ok(mesh.net.at(6)).await;
    mesh.meshed(trip(|trip| trip.consecutive_failures = 1_000), &[3, 5]);
    let mut client = mesh.client().await;
    let mut met = false;
    for _ in 0..30 {
        let answer = client
            .post("catalog:8080", "/charge", "the whole body")
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        met |= app.requests().last().unwrap().header("x-remora-attempt") == "2";
    }
    assert!(met);
    assert_eq!(app.count(), 30);
    assert!(
        app.requests()
            .iter()
            .all(|request| request.body == b"the whole body")
    );
    assert!(mesh.sidecar.breaker("catalog-0").await["failures"].as_u64() > Some(0));
    drop(app);
    drop(two);
    // Where there is no other, the caller hears it.
    let answer = mesh.post("/", "x").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
    let call = mesh.client2().await.call("/test.Echo/Say", &[]).await;
    call.assert_refused_call("14", "connect_failed");
}

#[tokio::test]
async fn who_is_refused_by_the_only_endpoint_is_served_by_the_one_that_comes_a_moment_later() {
    let mesh = Mesh::start().await;
    let _old = mesh.beside(3, Options::default()).await;
    let _new = mesh.beside(5, Options::default()).await;
    // The application of the old one does not listen any more.
    let app = App::ok(mesh.net.at(6)).await;
    mesh.meshed(policy(), &[3]);
    let mut client = mesh.client().await;
    let answer = client.post("catalog:8080", "/charge", "x").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
    let mut again = 0;
    for _ in 0..10 {
        mesh.remove_endpoint("catalog", 1);
        until_known(&mesh, 1).await;
        let comes = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            mesh.meshed(policy(), &[3, 5]);
        };
        let (answer, ()) = tokio::join!(client.post("catalog:8080", "/charge", "x"), comes);
        assert_eq!(answer.status, 200, "{answer:?}");
        let last = app.requests().pop().unwrap();
        again += usize::from(last.header("x-remora-attempt") != "1");
        until_known(&mesh, 2).await;
    }
    assert_eq!(app.count(), 10);
    assert!(again >= 5, "{again} met the old one first");
}

/// Completes when the caller has so many endpoints of the catalog.
async fn until_known(mesh: &Mesh, count: usize) {
    crate::eventually("so many endpoints are known", async || {
        let service = mesh.sidecar.service_breaker().await;
        service["endpoints"].as_array().map(Vec::len) == Some(count)
    })
    .await;
}

#[tokio::test]
async fn what_the_target_refuses_is_told_with_its_reason_and_is_no_failure() {
    let pair = Pair::start(trip(|trip| trip.consecutive_failures = 1)).await;
    let app = App::ok(pair.application()).await;
    let taken = pair.mesh.control.acks();
    let limit = RateLimit {
        name: "few".into(),
        policy: "shop/catalog".into(),
        requests: 1,
        per_ms: 3_600_000,
        burst: 1,
        max_keys: 10,
        ..RateLimit::default()
    };
    pair.mesh
        .workload_of(3, |workload| workload.rate_limits = vec![limit]);
    eventually("the limit has come", async || {
        pair.mesh.control.acks() > taken
    })
    .await;
    assert_eq!(pair.mesh.get("/").await.status, 200);
    let answer = pair.mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (429, "rate_limited"));
    assert_ne!(answer.header("retry-after"), "");
    assert_eq!((answer.header("ratelimit-limit"), app.count()), ("1", 1));
    let call = pair.mesh.client2().await.call("/test.Echo/Say", &[]).await;
    call.assert_refused_call("8", "rate_limited");
    assert_eq!(pair.mesh.sidecar.breaker("catalog-0").await["failures"], 0);
}

#[tokio::test]
async fn an_application_that_breaks_off_is_a_failure_of_the_endpoint() {
    let pair = Pair::start(trip(|trip| trip.consecutive_failures = 1_000)).await;
    let _app = App::start(pair.application(), |request| match request.path.as_str() {
        "/reset" => Reply::Reset,
        _ => Reply::ResetInBody,
    })
    .await;
    let answer = pair.mesh.get("/reset").await;
    assert_eq!((answer.status, answer.reason()), (502, "retries_exhausted"));
    let answer = pair.mesh.get("/in-body").await;
    assert_eq!((answer.status, answer.whole), (200, false));
    assert_eq!(pair.mesh.sidecar.breaker("catalog-0").await["failures"], 2);
    pair.nothing_is_left().await;
}

#[tokio::test]
async fn interim_answers_pass_the_hop_and_never_to_http_1_0() {
    let pair = Pair::start(policy()).await;
    let _app = Listening::start(pair.application(), |mut raw| async move {
        loop {
            let Some(head) = raw.until_or_end("\r\n\r\n").await else {
                return;
            };
            if head.contains("HTTP/1.1") {
                assert!(head.contains("expect: 100-continue"), "{head}");
                raw.write("HTTP/1.1 100 Continue\r\n\r\n").await;
                raw.until("body").await;
            }
            raw.write("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
                .await;
            raw.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let mut caller = Raw::connect(pair.mesh.sidecar.outbound()).await;
    for _ in 0..3 {
        caller
            .write("PUT / HTTP/1.1\r\nhost: catalog:8080\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
            .await;
        let head = caller.head().await;
        assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
        caller.write("body").await;
        let head = caller.head().await;
        assert!(
            head.starts_with("HTTP/1.1 103 ") && head.contains("link: </a.css>"),
            "{head}"
        );
        let head = caller.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        caller.until("ok").await;
    }
    let mut caller = Raw::connect(pair.mesh.sidecar.outbound()).await;
    caller
        .write("GET / HTTP/1.0\r\nhost: catalog:8080\r\n\r\n")
        .await;
    let answer = caller.rest().await;
    assert!(
        answer.contains(" 200 ") && !answer.contains(" 103 "),
        "{answer}"
    );
}

#[tokio::test]
async fn trailers_pass_the_hop_both_ways() {
    let pair = Pair::start(policy()).await;
    let answer = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
                  5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n";
    let (_app, mut shown) = showing(pair.application(), "x-end: yes\r\n\r\n", answer).await;
    let mut caller = Raw::connect(pair.mesh.sidecar.outbound()).await;
    for _ in 0..2 {
        caller
            .write(
                "POST / HTTP/1.1\r\nhost: catalog:8080\r\nte: trailers\r\ntrailer: x-end\r\n\
                 transfer-encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\nx-end: yes\r\n\r\n",
            )
            .await;
        let seen = shown.recv().await.unwrap();
        assert!(
            seen.contains("4\r\nsome\r\n0\r\nx-end: yes\r\n\r\n"),
            "{seen}"
        );
        assert!(seen.contains("transfer-encoding: chunked"), "{seen}");
        let answer = caller.until("x-sum: 7\r\n\r\n").await;
        assert!(answer.contains("5\r\nhello\r\n0\r\nx-sum: 7"), "{answer}");
        assert!(answer.contains("trailer: x-sum"), "{answer}");
    }
    assert_eq!(pair.between.accepted(), 1);
}

#[tokio::test]
async fn answers_without_a_body_and_empty_ones_pass_the_hop() {
    let pair = Pair::start(policy()).await;
    let app = App::start(pair.application(), |request| match request.path.as_str() {
        "/204" => status(204),
        "/304" => status(304).header("etag", "7"),
        "/empty" => status(200).body(""),
        "/chunked" => {
            Reply::Raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into())
        }
        _ => status(200).body("not sent to HEAD"),
    })
    .await;
    let mut client = pair.mesh.client().await;
    for _ in 0..3 {
        let head = client.request("HEAD", "catalog:8080", "/", "", "").await;
        assert_eq!((head.status, head.header("content-length")), (200, "16"));
        assert_eq!(client.get("catalog:8080", "/204").await.status, 204);
        let answer = client.get("catalog:8080", "/304").await;
        assert_eq!((answer.status, answer.header("etag")), (304, "7"));
        let answer = client.get("catalog:8080", "/empty").await;
        assert_eq!(
            (answer.status, answer.header("content-length"), answer.whole),
            (200, "0", true)
        );
        let answer = client.get("catalog:8080", "/chunked").await;
        assert_eq!(
            (answer.status, answer.body.len(), answer.whole),
            (200, 0, true)
        );
    }
    // An empty request body: with a length, without, in chunks.
    for framing in [
        "content-length: 0\r\n",
        "",
        "transfer-encoding: chunked\r\n",
    ] {
        let end = if framing.contains("chunked") {
            "0\r\n\r\n"
        } else {
            ""
        };
        client
            .write(format!(
                "POST / HTTP/1.1\r\nhost: catalog:8080\r\n{framing}\r\n{end}"
            ))
            .await;
        assert_eq!(client.answer().await.status, 200, "{framing:?}");
        let request = app.requests().pop().unwrap();
        assert_eq!((request.method.as_str(), request.body.len()), ("POST", 0));
        if framing.starts_with("content-length") {
            assert_eq!(request.header("content-length"), "0");
        }
    }
    pair.nothing_is_left().await;
}

#[tokio::test]
async fn large_bodies_pass_the_hop_by_length_and_in_chunks() {
    const LENGTH: usize = 8 << 20;
    let pair = Pair::start(policy()).await;
    let body: String = (0..LENGTH)
        .map(|at| char::from(b'a' + (at / 7 % 26) as u8))
        .collect();
    let answer = body.clone();
    let app = App::start(pair.application(), move |request| match request.path.as_str() {
        "/chunks" => Reply::Raw(format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{LENGTH:x}\r\n{answer}\r\n0\r\n\r\n"
        )),
        _ => status(200).body(&answer),
    })
    .await;
    let mut client = pair.mesh.client().await;
    let got = client.post("catalog:8080", "/length", &body).await;
    assert!(got.whole && got.body == body.as_bytes());
    assert!(app.requests()[0].body == body.as_bytes());
    assert_eq!(
        app.requests()[0].header("content-length"),
        LENGTH.to_string()
    );
    client
        .write(format!(
            "POST /chunks HTTP/1.1\r\nhost: catalog:8080\r\ntransfer-encoding: chunked\r\n\r\n{LENGTH:x}\r\n{body}\r\n0\r\n\r\n"
        ))
        .await;
    let got = client.answer().await;
    assert!(got.whole && got.body == body.as_bytes());
    assert!(app.requests()[1].body == body.as_bytes());
    assert_eq!(app.requests()[1].header("transfer-encoding"), "chunked");
    pair.nothing_is_left().await;
}

#[tokio::test]
async fn http_1_0_callers_get_no_chunks_with_and_without_keep_alive() {
    let pair = Pair::start(policy()).await;
    let _app = App::start(pair.application(), |request| match request.path.as_str() {
        "/length" => status(200),
        _ => Reply::Raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n".into()),
    })
    .await;
    let mut client = pair.mesh.client().await;
    for _ in 0..3 {
        client
            .write("GET /length HTTP/1.0\r\nhost: catalog:8080\r\nconnection: keep-alive\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(
            (answer.version.as_str(), answer.header("connection")),
            ("HTTP/1.0", "keep-alive")
        );
    }
    // Only the end of the connection can end what has no length.
    client
        .write("GET / HTTP/1.0\r\nhost: catalog:8080\r\nconnection: keep-alive\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.text().as_str(), answer.header("transfer-encoding")),
        ("abc", "")
    );
    assert_ne!(answer.header("connection"), "keep-alive");
    let mut client = pair.mesh.client().await;
    client
        .write("GET /length HTTP/1.0\r\nhost: catalog:8080\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "hello");
    assert!(client.is_ended().await);
}

#[tokio::test]
async fn grpc_passes_the_hop_with_its_trailers_deadline_and_streams() {
    let pair = Pair::start(trip(|trip| {
        trip.consecutive_failures = 1_000;
        trip.failures.as_mut().unwrap().grpc_codes = vec![14];
    }))
    .await;
    let app = h2_app::App::start(pair.application(), |request| match request.path.as_str() {
        "/test.Echo/Both" => vec![Step::Head(200, GRPC), Step::Echo],
        "/test.Echo/Fail" => h2_app::grpc(&[("grpc-status", "14"), ("grpc-message", "no")]),
        "/test.Echo/Die" => vec![
            Step::Head(200, GRPC),
            Step::Data(MESSAGE),
            Step::Wait(20),
            Step::Kill,
        ],
        "/test.Echo/Never" => vec![Step::Never],
        "/test.Echo/Reset" => vec![Step::Reset(Reason::INTERNAL_ERROR)],
        _ => h2_app::grpc(&[("grpc-status", "0")]),
    })
    .await;
    let client = pair.mesh.client2().await;
    let answer = client
        .call("/test.Echo/Say", &[("grpc-timeout", "900m")])
        .await;
    assert_eq!(
        (answer.text().as_str(), answer.grpc_status()),
        (MESSAGE, "0")
    );
    assert_ne!(app.requests()[0].header("grpc-timeout"), "900m");
    assert_eq!(app.requests()[0].header("x-remora-attempt"), "1");
    let answer = client.call("/test.Echo/Fail", &[]).await;
    assert_eq!(
        (
            answer.trailer("grpc-status"),
            answer.trailer("grpc-message")
        ),
        ("14", "no")
    );
    let mut open = client
        .calling("/test.Echo/Both", &[])
        .await
        .head()
        .await
        .unwrap();
    for _ in 0..20 {
        open.send(MESSAGE.as_bytes(), false).await;
        assert_eq!(open.text().await, MESSAGE);
    }
    open.send(b"", true).await;
    assert_eq!(open.rest().await.broke, None);
    assert_eq!(pair.mesh.sidecar.breaker("catalog-0").await["failures"], 1);
    let answer = client.call("/test.Echo/Die", &[]).await;
    assert_eq!(
        (answer.text().as_str(), answer.grpc_status()),
        (MESSAGE, "14")
    );
    client
        .call("/test.Echo/Never", &[("grpc-timeout", "80m")])
        .await
        .assert_refused_call("4", "timeout");
    client
        .call("/test.Echo/Reset", &[])
        .await
        .assert_refused_call("14", "retries_exhausted");
    eventually("failures are known", async || {
        pair.mesh.sidecar.breaker("catalog-0").await["failures"] == 4
    })
    .await;
    assert_eq!(pair.between.accepted(), 1);
    pair.nothing_is_left().await;
}

#[tokio::test]
async fn a_caller_that_leaves_frees_everything_and_harms_nobody_else() {
    let pair = Pair::start(trip(|trip| trip.consecutive_failures = 1)).await;
    let app = App::start(pair.application(), |request| match request.path.as_str() {
        "/never" => Reply::Never,
        _ => status(200),
    })
    .await;
    for _ in 0..3 {
        let mut leaving = Vec::new();
        for _ in 0..50 {
            let mut client = pair.mesh.client().await;
            client.send("GET", "catalog:8080", "/never", "", "").await;
            leaving.push(client);
        }
        let client2 = pair.mesh.client2().await;
        let stream = client2.begin(head("GET", "/never", &[]), true).await;
        eventually("all are there", async || app.count() % 52 == 50).await;
        drop((leaving, stream, client2));
        pair.nothing_is_left().await;
        assert_eq!(pair.mesh.get("/").await.status, 200);
        assert_eq!(pair.mesh.post("/", "x").await.status, 200);
    }
    assert_eq!(pair.between.accepted(), 1, "the shared connection lives");
    assert_eq!(pair.mesh.sidecar.breaker("catalog-0").await["failures"], 0);
    eventually("the application hears", async || app.open() <= 2).await;
}

#[tokio::test]
async fn a_target_that_is_killed_under_load_fails_nothing_idempotent() {
    let mesh = Mesh::start().await;
    let mut one = mesh.beside(3, Options::default()).await;
    let _two = mesh.beside(5, Options::default()).await;
    let apps = [
        App::start(mesh.net.at(4), |_| status(200).after_ms(5)).await,
        App::start(mesh.net.at(6), |_| status(200).after_ms(5)).await,
    ];
    mesh.meshed(policy(), &[3, 5]);
    let load = (0..20).map(|_| async {
        let mut client = mesh.client().await;
        for number in 0..60 {
            let answer = client.get("catalog:8080", &format!("/{number}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
    let kill = async {
        eventually("both are used", async || {
            apps.iter().all(|app| app.count() > 50)
        })
        .await;
        one.kill();
    };
    tokio::join!(futures_util::future::join_all(load), kill);
}

/// The first of two targets drains and ends under this load.
async fn drained_under(
    mesh: &Mesh,
    load: impl Future<Output = ()>,
    counts: impl Fn() -> [usize; 2],
) {
    let mut one = mesh.beside(3, Options::default()).await;
    let _two = mesh.beside(5, Options::default()).await;
    mesh.meshed(policy(), &[3, 5]);
    let drain = async {
        eventually("both are used", async || {
            counts().iter().all(|count| *count > 50)
        })
        .await;
        mesh.workload_of(3, |workload| workload.draining = true);
        eventually("it drains", async || one.get("/ready").await.status == 503).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        mesh.remove_endpoint("catalog", 0);
        eventually("nothing comes any more", async || {
            let before = counts()[0];
            tokio::time::sleep(Duration::from_millis(50)).await;
            counts()[0] == before
        })
        .await;
        let began = Instant::now();
        one.terminate();
        assert!(one.ended().await);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "something was left"
        );
    };
    tokio::join!(load, drain);
}

#[tokio::test]
async fn a_target_that_drains_and_ends_loses_no_post_of_http_1() {
    let mesh = Mesh::start().await;
    let apps = [
        App::start(mesh.net.at(4), |_| status(200).after_ms(5)).await,
        App::start(mesh.net.at(6), |_| status(200).after_ms(5)).await,
    ];
    let load = (0..20).map(|caller| {
        let mesh = &mesh;
        async move {
            let mut client = mesh.client().await;
            eventually("the service is there", async || {
                client.get("catalog:8080", "/").await.status == 200
            })
            .await;
            for number in 0..80 {
                let old = "POST / HTTP/1.0\r\nhost: catalog:8080\r\nconnection: keep-alive\r\n\
                           content-length: 1\r\n\r\nx";
                let answer = match caller % 2 {
                    0 => client.post("catalog:8080", "/", "x").await,
                    _ => {
                        client.write(old).await;
                        client.answer().await
                    }
                };
                assert_eq!(answer.status, 200, "{caller}, {number}: {answer:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let load = async {
        futures_util::future::join_all(load).await;
    };
    drained_under(&mesh, load, || [apps[0].count(), apps[1].count()]).await;
}

#[tokio::test]
async fn a_target_that_drains_and_ends_loses_no_call_of_http_2() {
    let mesh = Mesh::start().await;
    let handler = |_: &h2_app::Received| {
        let mut steps = vec![Step::Wait(5)];
        steps.extend(h2_app::grpc(&[("grpc-status", "0")]));
        steps
    };
    let apps = [
        h2_app::App::start(mesh.net.at(4), handler).await,
        h2_app::App::start(mesh.net.at(6), handler).await,
    ];
    let load = (0..20).map(|_| {
        let mesh = &mesh;
        async move {
            let client = mesh.client2().await;
            eventually("the service is there", async || {
                client.get("/").await.status == 200
            })
            .await;
            for number in 0..80 {
                let answer = client.call("/test.Echo/Say", &[]).await;
                assert_eq!(answer.grpc_status(), "0", "{number}: {answer:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let load = async {
        futures_util::future::join_all(load).await;
    };
    drained_under(&mesh, load, || [apps[0].count(), apps[1].count()]).await;
}

#[tokio::test]
async fn a_draining_target_says_goaway_and_connection_close() {
    let pair = Pair::start(policy()).await;
    let _app = App::ok(pair.application()).await;
    assert_eq!(pair.mesh.get("/").await.status, 200);
    pair.mesh
        .workload_of(3, |workload| workload.draining = true);
    eventually("it drains", async || {
        pair.target.get("/ready").await.status == 503
    })
    .await;
    // The connection that stands is given up without a request lost.
    for _ in 0..5 {
        assert_eq!(pair.mesh.post("/", "x").await.status, 200);
    }
    assert!(pair.between.accepted() > 1);
    let mut caller = Client::connect(pair.mesh.net.at(3)).await;
    let answer = caller.get("web", "/").await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    // An answer that came over the hop keeps the caller's own connection.
    let mut caller = pair.mesh.client().await;
    for _ in 0..3 {
        let answer = caller.get("catalog:8080", "/").await;
        assert_eq!((answer.status, answer.header("connection")), (200, ""));
    }
}

#[tokio::test]
async fn timeouts_of_the_caller_end_the_work_at_the_target() {
    let mut policy = policy();
    policy.timeouts = Some(Timeouts {
        request_ms: Some(100),
        ..Timeouts::default()
    });
    let pair = Pair::start(policy).await;
    let app = App::start(pair.application(), |_| Reply::Never).await;
    let answer = pair.mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (504, "timeout"));
    eventually("the application hears", async || app.open() == 0).await;
    pair.nothing_is_left().await;
    assert_eq!(pair.between.accepted(), 1);
}

#[tokio::test]
async fn a_stream_outlives_changes_of_policy_over_the_hop() {
    let pair = Pair::start(policy()).await;
    let _app = h2_app::App::start(pair.application(), |_| {
        vec![Step::Head(200, GRPC), Step::Echo]
    })
    .await;
    let client = pair.mesh.client2().await;
    let mut open = client
        .calling("/test.Echo/Both", &[])
        .await
        .head()
        .await
        .unwrap();
    for number in 0..40 {
        match number % 3 {
            0 => pair
                .mesh
                .service("catalog", trip(|trip| trip.consecutive_failures = 1)),
            1 => pair
                .mesh
                .workload_of(3, |workload| workload.rate_limits.clear()),
            _ => pair.mesh.service(
                "catalog",
                crate::mesh::limits(|limits| limits.max_requests = Some(number)),
            ),
        }
        open.send(MESSAGE.as_bytes(), false).await;
        assert_eq!(open.text().await, MESSAGE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    open.send(b"", true).await;
    assert_eq!(open.rest().await.broke, None);
    pair.nothing_is_left().await;
}
