//! What passes through, what is taken off, what is put on.

use crate::eventually;
use crate::mesh::{Mesh, policy};
use crate::upstream::{App, Reply, status};

#[tokio::test]
async fn requests_and_answers_pass_on_kept_connections() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        status(201).header("x-answer", "yes").body("made")
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    for _ in 0..10 {
        let answer = client.post("catalog:8080", "/orders", "a body").await;
        assert_eq!((answer.status, answer.text().as_str()), (201, "made"));
        assert_eq!((answer.header("x-answer"), answer.reason()), ("yes", ""));
    }
    assert_eq!(app.accepted(), 1);
    let request = &app.requests()[9];
    assert_eq!(request.body, b"a body");
    assert_eq!(request.header("x-remora-attempt"), "1");
}

#[tokio::test]
async fn our_headers_from_the_caller_are_stripped_and_forwarded_ones_pass() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    let ours = "x-remora-attempt: 9\r\nx-remora-reason: fault\r\nX-Remora-Identity: admin\r\n";
    let theirs = "x-forwarded-for: 10.1.1.1\r\n";
    let headers = format!("{ours}{theirs}");
    let mut client = mesh.client().await;
    let answer = client
        .request("GET", "catalog:8080", "/", &headers, "")
        .await;
    assert_eq!(answer.status, 200);
    let request = &app.requests()[0];
    assert_eq!(request.header("x-remora-attempt"), "1");
    assert_eq!(request.header("x-remora-reason"), "");
    assert_eq!(request.header("x-remora-identity"), "");
    assert_eq!(request.header("x-forwarded-for"), "10.1.1.1");
}

#[tokio::test]
async fn a_reason_from_an_application_without_sidecar_is_stripped() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        status(503).header("x-remora-reason", "connect_failed")
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, ""));
    assert_eq!(app.count(), 1, "it was not believed, so not resent");
}

#[tokio::test]
async fn upgrade_to_h2c_and_what_concerns_one_connection_are_removed() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    let headers = "connection: upgrade, http2-settings, x-mine\r\nupgrade: h2c\r\n\
                   http2-settings: AAA\r\nx-mine: 1\r\nte: trailers\r\nkeep-alive: timeout=5\r\n";
    let mut client = mesh.client().await;
    let answer = client
        .request("GET", "catalog:8080", "/", headers, "")
        .await;
    assert_eq!(answer.status, 200);
    let request = &app.requests()[0];
    for name in ["upgrade", "http2-settings", "x-mine", "keep-alive"] {
        assert_eq!(request.header(name), "", "{name}");
    }
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_an_error_of_the_upstream() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        Reply::Raw("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".into())
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (502, "retries_exhausted"));
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/204" => status(204),
        "/304" => status(304),
        _ => status(200).body("not sent to HEAD"),
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    for _ in 0..3 {
        let head = client.request("HEAD", "catalog:8080", "/", "", "").await;
        assert_eq!((head.status, head.header("content-length")), (200, "16"));
        assert_eq!(client.get("catalog:8080", "/204").await.status, 204);
        assert_eq!(client.get("catalog:8080", "/304").await.status, 304);
    }
    assert_eq!(app.accepted(), 1);
    let stats = mesh.sidecar.outbound_stats().await;
    assert_eq!(
        (&stats["in_flight"], &stats["cancelled"]),
        (&0.into(), &0.into())
    );
}

#[tokio::test]
async fn a_chunked_body_passes_both_ways() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        Reply::Raw(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
                .into(),
        )
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    for _ in 0..2 {
        client
            .write(
                "POST / HTTP/1.1\r\nhost: catalog:8080\r\ntransfer-encoding: chunked\r\n\r\n\
                 4;extension=1\r\nwiki\r\n0\r\n\r\n",
            )
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "abcde"));
    }
    assert_eq!(app.requests()[1].body, b"wiki");
}

#[tokio::test]
async fn http_1_0_callers_are_served_without_chunks() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        Reply::Raw(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".into(),
        )
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    client
        .write("GET / HTTP/1.0\r\nhost: catalog:8080\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
    assert_eq!(answer.header("transfer-encoding"), "");
    assert_eq!(answer.version, "HTTP/1.0");
}

#[tokio::test]
async fn an_early_answer_comes_through_while_the_body_is_still_being_sent() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| Reply::Early(413)).await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    client
        .write("POST / HTTP/1.1\r\nhost: catalog:8080\r\ncontent-length: 1000000\r\n\r\nsome")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "early"));
    drop(client);
    eventually("nothing is in flight", async || {
        mesh.sidecar.outbound_stats().await["in_flight"] == 0
    })
    .await;
    // The connection on which a body was never ended carries nothing else.
    assert_eq!(mesh.get("/").await.status, 413);
    assert_eq!(app.accepted(), 2);
}

#[tokio::test]
async fn a_caller_that_waits_for_100_continue_gets_it() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    client
        .write("PUT / HTTP/1.1\r\nhost: catalog:8080\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 100);
    client.write("body").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(app.requests()[0].body, b"body");
}
