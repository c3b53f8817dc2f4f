//! waitForEndpoints, persistence and fallback where other tests look at HTTP/1 alone,
//! and at endpoints' breakers.

use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use remora_proto::v1::fallback::Action;
use remora_proto::v1::persistence::Kind;
use remora_proto::v1::trip::Scope;
use remora_proto::v1::{self, Fallback, FallbackResponse, Persistence, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::mesh::{Mesh, balancing, trip};
use crate::upstream::{App, status};
use crate::{eventually, h2_app, soon};

const WAIT: Duration = Duration::from_millis(300);

fn waiting() -> v1::ServicePolicy {
    balancing(|it| it.wait_for_endpoints_ms = 10_000)
}

async fn waited(mesh: &Mesh, began: Instant) {
    let took = began.elapsed();
    assert!(took >= WAIT && took < Duration::from_secs(9), "{took:?}");
    let name = "remora_waited_for_endpoints_total";
    assert_eq!(mesh.sidecar.counter(name, "found").await, 1);
}

#[tokio::test]
async fn the_breaker_of_a_service_has_its_fallback() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(500)).await;
    let policy = v1::ServicePolicy {
        fallback: Some(Fallback {
            when: vec!["breaker_open".into()],
            action: Some(Action::Response(FallbackResponse {
                status: 200,
                body: Bytes::from_static(b"[]"),
                ..FallbackResponse::default()
            })),
        }),
        ..trip(|trip| {
            trip.scope = Scope::Service as i32;
            trip.consecutive_failures = 2;
        })
    };
    mesh.catalog(policy, &[app.address()]);
    // An answer of the application's own is none of Remora's refusals.
    for _ in 0..2 {
        let answer = mesh.get("/").await;
        assert_eq!((answer.status, answer.reason()), (500, ""));
    }
    for _ in 0..3 {
        let answer = mesh.get("/").await;
        assert_eq!((answer.status, answer.reason()), (200, "fallback"));
        assert_eq!(answer.text(), "[]");
    }
    assert_eq!(app.count(), 2, "it is left alone");
    let name = "remora_fallbacks_total";
    assert_eq!(mesh.sidecar.counter(name, "breaker_open").await, 3);
    // What is answered so is no success of the service: the breaker stays as it is.
    let breaker = mesh.sidecar.service_breaker().await;
    assert_eq!(breaker["state"], "open");
}

#[tokio::test]
async fn a_stream_without_an_endpoint_waits_for_one_and_holds_up_no_other() {
    let mesh = Mesh::start().await;
    mesh.service("catalog", waiting());
    let app = h2_app::App::start(mesh.net.at(10), |_| h2_app::hello()).await;
    let client = mesh.client2().await;
    let began = Instant::now();
    let (one, other, ()) =
        tokio::join!(client.get("/one"), client.post("/other", b"body"), async {
            tokio::time::sleep(WAIT).await;
            mesh.endpoint("catalog", 0, app.address(), |_| ());
        });
    assert_eq!((one.status, one.text().as_str()), (200, "hello"), "{one:?}");
    assert_eq!(other.status, 200, "{other:?}");
    let posted = app.requests().into_iter().find(|it| it.path == "/other");
    assert_eq!(posted.unwrap().body, b"body");
    assert!(began.elapsed() >= WAIT && began.elapsed() < Duration::from_secs(9));
    let name = "remora_waited_for_endpoints_total";
    assert_eq!(mesh.sidecar.counter(name, "found").await, 2);
}

#[tokio::test]
async fn a_call_of_grpc_waits_for_an_endpoint_and_is_refused_in_its_own_words() {
    let mesh = Mesh::start().await;
    mesh.service("catalog", waiting());
    let app = h2_app::App::start(mesh.net.at(10), |_| h2_app::grpc(&[("grpc-status", "0")])).await;
    let client = mesh.client2().await;
    let began = Instant::now();
    let (answer, ()) = tokio::join!(client.call("/test.Echo/Say", &[]), async {
        tokio::time::sleep(WAIT).await;
        mesh.endpoint("catalog", 0, app.address(), |_| ());
    });
    assert_eq!(answer.grpc_status(), "0", "{answer:?}");
    assert_eq!(answer.text(), h2_app::MESSAGE);
    waited(&mesh, began).await;
    mesh.service("catalog", balancing(|it| it.wait_for_endpoints_ms = 200));
    mesh.remove_endpoint("catalog", 0);
    eventually("it waits in vain", async || {
        let answer = client.call("/test.Echo/Say", &[]).await;
        let is_refused = answer.grpc_status() == "14";
        if is_refused {
            answer.assert_refused_call("14", "no_endpoints");
        }
        is_refused
    })
    .await;
}

#[tokio::test]
async fn a_session_is_kept_over_http2_and_ends_with_its_endpoint_where_it_is_strict() {
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for host in 10..14 {
        apps.push(h2_app::App::start(mesh.net.at(host), |_| h2_app::hello()).await);
    }
    let addresses: Vec<_> = apps.iter().map(h2_app::App::address).collect();
    let strict = balancing(|it| {
        it.persistence = Some(Persistence {
            kind: Some(Kind::Header("x-session".into())),
            strict: true,
            absolute_timeout_ms: 0,
        });
    });
    mesh.catalog(strict, &addresses);
    let client = mesh.client2().await;
    let first = client.get("/").await;
    let session = first.header("x-session").to_owned();
    assert_ne!(session, "", "{first:?}");
    let at = apps.iter().position(|app| app.count() == 1).unwrap();
    let fields = [("x-session", session.as_str())];
    // Streams of one connection, at the same time, and of another one.
    let asked = (0..10).map(|_| client.request("GET", "/", &fields, b""));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let another = mesh.client2().await;
    assert_eq!(another.request("GET", "/", &fields, b"").await.status, 200);
    assert_eq!(apps[at].count(), 12);
    mesh.remove_endpoint("catalog", at);
    eventually("it is refused", async || {
        let answer = client.request("GET", "/", &fields, b"").await;
        (answer.status, answer.reason()) == (503, "no_endpoints")
    })
    .await;
    assert_eq!(client.get("/").await.status, 200, "without a session");
}

#[tokio::test]
async fn a_raw_connection_that_waits_is_let_go_when_its_caller_breaks_off() {
    let mesh = Mesh::start().await;
    let mut policy = crate::mesh::limits(|limits| limits.max_pending_requests = Some(1));
    policy.load_balancing = waiting().load_balancing;
    mesh.service_with("catalog", |service| {
        service.policy = Some(policy);
        service.ports[0].protocol = Protocol::Tcp as i32;
    });
    let connect = async || {
        let mut stream = TcpStream::connect(mesh.sidecar.outbound()).await.unwrap();
        let head = b"CONNECT catalog:8080 HTTP/1.1\r\nhost: catalog:8080\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = [0; 19];
        let read = stream.read_exact(&mut answer);
        soon("the tunnel", read).await.unwrap();
        stream
    };
    let is_reset = async |stream: &mut TcpStream| {
        let read = tokio::time::timeout(WAIT, stream.read(&mut [0; 1])).await;
        read.is_ok_and(|read| read.is_err())
    };
    let mut first = connect().await;
    assert!(!is_reset(&mut first).await, "it waits");
    // The one place is taken for as long as the first waits, and no longer.
    assert!(is_reset(&mut connect().await).await);
    socket2::SockRef::from(&first)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(first);
    eventually("the place is free", async || {
        !is_reset(&mut connect().await).await
    })
    .await;
}

#[tokio::test]
async fn while_one_waits_for_its_endpoint_the_others_keep_their_connections() {
    let mesh = Mesh::start().await;
    let apps = [
        App::ok(mesh.net.at(10)).await,
        App::ok(mesh.net.at(11)).await,
    ];
    let strict = balancing(|it| {
        it.wait_for_endpoints_ms = 2_000;
        it.persistence = Some(Persistence {
            kind: Some(Kind::Header("x-session".into())),
            strict: true,
            absolute_timeout_ms: 0,
        });
    });
    mesh.catalog(strict, &[apps[0].address(), apps[1].address()]);
    let session = mesh.get("/").await.header("x-session").to_owned();
    let gone = apps.iter().position(|app| app.count() == 1).unwrap();
    eventually("all is told", async || mesh.control.is_settled()).await;
    let acks = mesh.control.acks();
    mesh.remove_endpoint("catalog", gone);
    eventually("it is known", async || mesh.control.acks() > acks).await;
    let left = &apps[1 - gone];
    let fields = format!("x-session: {session}\r\n");
    let mut waiting = mesh.client().await;
    let waiting = waiting.request("GET", "catalog:8080", "/", &fields, "");
    let (waited, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(WAIT).await;
        let before = left.accepted();
        let mut client = mesh.client().await;
        for _ in 0..10 {
            assert_eq!(client.get("catalog:8080", "/").await.status, 200);
        }
        assert!(left.accepted() <= before + 1, "they share one connection");
    });
    assert_eq!((waited.status, waited.reason()), (503, "no_endpoints"));
}
