//! Requests that are not what they should be.

use crate::mesh::{Mesh, policy};
use crate::upstream::App;

const HOST: &str = "host: catalog:8080\r\n";

async fn mesh() -> (Mesh, App) {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    (mesh, app)
}

#[tokio::test]
async fn malformed_requests_get_400_and_reach_nobody() {
    let (mesh, app) = mesh().await;
    let malformed = [
        format!("GET / HTTP/1.1\r\n{HOST}folded: a\r\n b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{HOST}space before : a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{HOST}x: a\rb\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{HOST}x: a\0b\r\n\r\n"),
        format!("G@T / HTTP/1.1\r\n{HOST}\r\n"),
        format!("GET / HTTP/1.1 extra\r\n{HOST}\r\n"),
        format!("GET / HTTP/9.1\r\n{HOST}\r\n"),
        format!("POST / HTTP/1.1\r\n{HOST}content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        format!("POST / HTTP/1.1\r\n{HOST}content-length: +1\r\n\r\na"),
        format!("POST / HTTP/1.1\r\n{HOST}content-length: 1, 2\r\n\r\na"),
        format!("POST / HTTP/1.1\r\n{HOST}transfer-encoding: identity\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{HOST}transfer-encoding: chunked, x\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.0\r\n{HOST}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{HOST}host: other\r\n\r\n"),
    ];
    for request in malformed {
        let mut client = mesh.client().await;
        client.write(&request).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, "bad_request"),
            "{request:?}"
        );
        assert!(client.is_ended().await, "{request:?}");
    }
    assert_eq!(app.count(), 0);
    let stats = mesh.sidecar.json("/stats").await;
    assert_eq!(stats["bad_requests"], 15);
}

#[tokio::test]
async fn a_malformed_request_on_a_kept_connection_gets_its_reason_too() {
    let (mesh, app) = mesh().await;
    let mut client = mesh.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    }
    client
        .write(format!("GET / HTTP/1.1\r\n{HOST}bad name: 1\r\n\r\n"))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (400, "bad_request"));
    assert!(client.is_ended().await);
    assert_eq!(app.count(), 3);
}

#[tokio::test]
async fn a_request_with_both_framings_is_refused() {
    let (mesh, app) = mesh().await;
    for framing in [
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
    ] {
        let mut client = mesh.client().await;
        client
            .write(format!(
                "POST / HTTP/1.1\r\n{HOST}{framing}\r\n5\r\nwhole\r\n0\r\n\r\n"
            ))
            .await;
        // RFC 9112, section 6.3: such a message is perhaps an attempt to smuggle.
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"));
        assert!(client.is_ended().await);
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn heads_up_to_the_bounds_pass_and_larger_ones_get_431() {
    let (mesh, app) = mesh().await;
    let fields = |count: usize| {
        (0..count)
            .map(|n| format!("x-{n}: 1\r\n"))
            .collect::<String>()
    };
    let long = |bytes: usize| format!("x-long: {}\r\n", "l".repeat(bytes));
    // The harness adds the host.
    let mut client = mesh.client().await;
    for headers in [fields(255), long(64_000)] {
        let answer = client
            .request("GET", "catalog:8080", "/", &headers, "")
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for headers in [fields(256), long(66_000)] {
        let mut client = mesh.client().await;
        let answer = client
            .request("GET", "catalog:8080", "/", &headers, "")
            .await;
        assert_eq!((answer.status, answer.reason()), (431, "bad_request"));
    }
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn empty_lines_before_a_request_are_skipped_and_pieces_are_put_together() {
    let (mesh, _app) = mesh().await;
    let mut client = mesh.client().await;
    let request = format!("\r\n\r\nGET / HTTP/1.1\r\n{HOST}\r\n");
    for byte in request.as_bytes() {
        client.write([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn requests_in_a_row_on_one_connection_are_each_answered() {
    let (mesh, app) = mesh().await;
    let mut client = mesh.client().await;
    client
        .write(format!("GET / HTTP/1.1\r\n{HOST}\r\n").repeat(5))
        .await;
    for _ in 0..5 {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(app.count(), 5);
}

#[tokio::test]
async fn an_upstream_that_answers_nonsense_is_an_upstream_that_failed() {
    use crate::upstream::Reply;
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/long" => Reply::Raw(format!(
            "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
            "l".repeat(200_000)
        )),
        _ => Reply::Raw("this is not HTTP\r\n\r\n".into()),
    })
    .await;
    mesh.catalog(policy(), &[app.address()]);
    for path in ["/", "/long"] {
        let answer = mesh.get(path).await;
        assert_eq!((answer.status, answer.reason()), (502, "retries_exhausted"));
    }
}
