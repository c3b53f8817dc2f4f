//! Calls to the pod itself.

use std::net::SocketAddr;

use crate::client::Client;
use crate::eventually;
use crate::mesh::{Mesh, PORT};
use crate::upstream::{App, Reply, status};

async fn call(mesh: &Mesh, method: &str, path: &str, body: &str) -> crate::client::Answer {
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    client.request(method, "web", path, "", body).await
}

#[tokio::test]
async fn a_call_to_the_pod_reaches_the_application_unchanged_but_for_our_headers() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(2), |_| {
        status(200).header("x-remora-reason", "overloaded")
    })
    .await;
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    let headers = "x-remora-attempt: 2\r\nx-remora-reason: fault\r\nx-remora-x: 1\r\n";
    let answer = client.request("POST", "web", "/a?b", headers, "body").await;
    assert_eq!((answer.status, answer.reason()), (200, ""));
    let request = &app.requests()[0];
    assert_eq!(
        (request.path.as_str(), request.header("host")),
        ("/a?b", "web")
    );
    assert_eq!(request.header("x-remora-attempt"), "2");
    assert_eq!(request.header("x-remora-reason"), "");
    assert_eq!(request.header("x-remora-x"), "");
    assert_eq!(request.body, b"body");
}

#[tokio::test]
async fn an_application_that_refuses_is_connect_failed() {
    let mesh = Mesh::start().await;
    let answer = call(&mesh, "POST", "/", "body").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
}

#[tokio::test]
async fn an_application_that_breaks_off_is_not_connect_failed() {
    let mesh = Mesh::start().await;
    let _app = App::start(mesh.net.at(2), |_| Reply::Reset).await;
    let answer = call(&mesh, "POST", "/", "body").await;
    assert_eq!((answer.status, answer.reason()), (502, "retries_exhausted"));
}

#[tokio::test]
async fn a_put_on_a_connection_that_the_application_closed_is_sent_again_whole() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(2), |request| match request.number {
        2 => Reply::Close,
        _ => status(200),
    })
    .await;
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    for _ in 0..2 {
        let answer = client.request("PUT", "web", "/", "", "the body").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(app.requests()[2].body, b"the body");
}

#[tokio::test]
async fn each_port_of_the_pod_is_the_applications_own() {
    let mesh = Mesh::start().await;
    let _http = App::ok(mesh.net.at(2)).await;
    let _other = App::start(SocketAddr::new(mesh.net.ip(2), 7000), |_| status(418)).await;
    assert_eq!(call(&mesh, "GET", "/", "").await.status, 200);
    let mut client = Client::connect(mesh.sidecar.inbound(7000)).await;
    assert_eq!(client.get("web", "/").await.status, 418);
}

#[tokio::test]
async fn an_undeclared_port_detects_http_in_any_pieces_and_after_a_silence() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(2)).await;
    let request = b"\r\nGET /first HTTP/1.1\r\nhost: web\r\n\r\n";
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    for byte in request {
        client.write([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.status, 200);
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    tokio::time::sleep(std::time::Duration::from_millis(120)).await;
    client
        .write("GET /late HTTP/1.1\r\nhost: web\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
    let paths: Vec<String> = app.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/first", "/late"]);
    assert!(app.requests()[1].header("host") == "web");
}

#[tokio::test]
async fn what_the_caller_breaks_off_leaves_nothing_counted() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(2), |_| Reply::Never).await;
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    client.send("GET", "web", "/", "", "").await;
    eventually("it is in flight", async || app.count() == 1).await;
    drop(client);
    eventually("nothing is in flight", async || {
        let stats = mesh.sidecar.json("/stats").await;
        stats["inbound"][0]["in_flight"] == 0 && app.open() == 0
    })
    .await;
}
