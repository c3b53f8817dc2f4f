//! HTTP/1.1 heads that two readers could understand differently: all are
//! refused, on both sides, in our own words, and reach nobody.

use std::time::Duration;

use crate::attack::{Ground, exchange};
use crate::client::Client;
use crate::upstream::{App, status};

/// A connection on which nothing comes for so long is taken to be silent.
const SILENCE: Duration = Duration::from_secs(2);

const GET: &str = "GET / HTTP/1.1\r\n";
const POST: &str = "POST / HTTP/1.1\r\n";
const HOST: &str = "Host: catalog:8080\r\n";

/// Every one of these, at both sides, is refused and its connection closed;
/// what follows it on the connection is never taken for a request.
async fn assert_refused(requests: impl IntoIterator<Item = Vec<u8>>) {
    let ground = Ground::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for request in requests {
        for face in ground.faces() {
            let mut bytes = request.clone();
            bytes.extend(format!("GET /smuggled HTTP/1.1\r\n{HOST}\r\n").bytes());
            let request = String::from_utf8_lossy(&request).into_owned();
            tasks.spawn(async move { (face, request, exchange(face, &bytes, SILENCE).await) });
        }
    }
    let mut wrong = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (face, request, heard) = done.unwrap();
        if !heard.is_refusal() {
            let (statuses, ended) = (heard.statuses(), heard.ended);
            wrong.push(format!("{face} {request:?}: {statuses:?}, ended: {ended}"));
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
    let reached = ground.reached();
    assert_eq!(
        reached, 0,
        "of what was refused {reached} reached an application"
    );
}

/// A request with these whole lines after its host.
fn with(lines: &str) -> Vec<u8> {
    format!("{POST}{HOST}{lines}\r\n").into_bytes()
}

#[tokio::test]
async fn two_ways_to_tell_a_bodys_end_are_refused() {
    let framings = [
        // RFC 9112, section 6.3: it ought to be handled as an error.
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nX: y\r\nContent-Length: 0\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 5,\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: -0\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5a\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: \r\n",
        "Content-Length: \"5\"\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 18446744073709551621\r\n",
        "Content-Length: 99999999999999999999999999999999\r\n",
    ];
    assert_refused(framings.map(with)).await;
}

#[tokio::test]
async fn a_transfer_encoding_that_does_not_end_in_chunked_is_refused() {
    let codings = [
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked\x0b\r\n",
        "Transfer-Encoding: chunk ed\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: ,\r\n",
    ];
    assert_refused(codings.map(with)).await;
}

#[tokio::test]
async fn chunks_from_an_http_1_0_client_are_refused() {
    let request = format!("POST / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_refused([request.into_bytes()]).await;
}

#[tokio::test]
async fn fields_whose_name_or_end_is_in_doubt_are_refused() {
    let fields = [
        "Transfer-Encoding : chunked\r\n",
        "Content-Length : 5\r\n",
        "X\t: y\r\n",
        ": y\r\n",
        "no colon\r\n",
        "X y: z\r\n",
        "X(y): z\r\n",
        "X\x7fy: z\r\n",
        "X\u{e4}: z\r\n",
        // obs-fold, RFC 9112, section 5.2
        "X: a\r\n b\r\n",
        "X: a\r\n\tContent-Length: 5\r\n",
        "X: a\r\n \r\n",
        // a bare LF and a bare CR, sections 2.2 and 2.2
        "X: a\nContent-Length: 5\r\n",
        "X: a\n",
        "X: a\r\n\n",
        "X: a\rContent-Length: 5\r\n",
        "X: a\r\r\n",
        "X\r: a\r\n",
        "X: a\0b\r\n",
        "X\0: a\r\n",
        "X: a\x01b\r\n",
        "X: a\x7fb\r\n",
    ];
    let mut requests: Vec<_> = fields.map(with).into();
    // The first field is folded into the request line.
    requests.push(format!("{GET} {HOST}\r\n").into_bytes());
    requests.push(format!("{GET}\t{HOST}{HOST}\r\n").into_bytes());
    // The head ends with a bare LF.
    requests.push(format!("{GET}{HOST}\n").into_bytes());
    assert_refused(requests).await;
}

#[tokio::test]
async fn request_lines_that_are_not_of_one_form_are_refused() {
    let lines = [
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.1\r",
        "GET / HTTP/1.1\r\r\n",
        "GET  / HTTP/1.1\r\n",
        "GET /  HTTP/1.1\r\n",
        "GET / HTTP/1.1 \r\n",
        " GET / HTTP/1.1\r\n",
        "GET\t/ HTTP/1.1\r\n",
        "GET /\t HTTP/1.1\r\n",
        "GET /a b HTTP/1.1\r\n",
        "GET /a\0b HTTP/1.1\r\n",
        "GET /a\rb HTTP/1.1\r\n",
        "GET /a\x7fb HTTP/1.1\r\n",
        "GET HTTP/1.1\r\n",
        "GET / http/1.1\r\n",
        "GET / HTTP/1.2\r\n",
        "GET / HTTP/2.0\r\n",
        "GET / HTTP/0.9\r\n",
        "GET / HTTP/1.10\r\n",
        "GET / HTTP/11\r\n",
        "GET / HTTP/1\r\n",
        "GET / HTTP/1.1, HTTP/1.1\r\n",
        "GE(T / HTTP/1.1\r\n",
        "G\0T / HTTP/1.1\r\n",
        "GET relative HTTP/1.1\r\n",
        "GET * HTTP/1.1\r\n",
        "GET http:///x HTTP/1.1\r\n",
    ];
    assert_refused(lines.map(|line| format!("{line}{HOST}\r\n").into_bytes())).await;
}

#[tokio::test]
async fn a_host_that_is_none_or_more_than_one_is_refused() {
    let hosts = [
        "",
        "Host: catalog:8080\r\nHost: catalog:8080\r\n",
        "Host: catalog:8080\r\nHost: other\r\n",
        "Host: catalog:8080, other\r\n",
        "Host: cat alog\r\n",
        "Host: catalog/path\r\n",
        "Host: user@catalog:8080\r\n",
        "Host: catalog:port\r\n",
        "Host: catalog:99999\r\n",
        "Host: catalog:80:80\r\n",
        "Host: [::1\r\n",
        "Host: catalog#a\r\n",
        "Host: catalog?a\r\n",
        "Host: cata\\log\r\n",
        "Host: cat\"alog\r\n",
        "Host: <catalog>\r\n",
    ];
    assert_refused(hosts.map(|host| format!("{GET}{host}\r\n").into_bytes())).await;
}

#[tokio::test]
async fn the_preface_of_http_2_in_the_middle_of_a_connection_is_refused() {
    let ground = Ground::start().await;
    for face in ground.faces() {
        let bytes = format!(
            "GET / HTTP/1.1\r\n{HOST}\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
        );
        let heard = exchange(face, bytes.as_bytes(), SILENCE).await;
        assert_eq!(heard.statuses(), [200, 400], "{}", heard.text());
        assert!(heard.text().contains("x-remora-reason: bad_request"));
        assert!(heard.ended);
    }
    assert_eq!(ground.reached(), 2);
}

#[tokio::test]
async fn what_is_refused_behind_a_good_request_leaves_its_answer_whole() {
    let ground = Ground::start().await;
    let slow = App::start(ground.mesh.net.at(11), |_| {
        status(200)
            .after_ms(100)
            .body(&"a long answer ".repeat(20_000))
    })
    .await;
    ground.mesh.endpoint("slow", 0, slow.address(), |_| ());
    ground.mesh.service("slow", crate::mesh::policy());
    let mut client = ground.mesh.client().await;
    client
        .write("GET / HTTP/1.1\r\nHost: slow:8080\r\n\r\nGET / HTTP/1.1\r\nbad name: 1\r\n\r\n")
        .await;
    let good = client.answer().await;
    assert_eq!((good.status, good.whole), (200, true));
    assert_eq!(good.body.len(), 14 * 20_000);
    let refusal = client.answer().await;
    assert_eq!((refusal.status, refusal.reason()), (400, "bad_request"));
    assert!(client.is_ended().await);
}

#[tokio::test]
async fn a_hundred_requests_in_one_write_are_answered_in_order() {
    let ground = Ground::start().await;
    let app = App::start(ground.mesh.net.at(11), |request| {
        status(200).body(&request.path).after_ms(request.number % 3)
    })
    .await;
    ground.mesh.endpoint("orders", 0, app.address(), |_| ());
    ground.mesh.service("orders", crate::mesh::policy());
    let mut client = ground.mesh.client().await;
    let requests: String = (0..100)
        .map(|n| match n % 2 {
            0 => format!("GET /{n} HTTP/1.1\r\nHost: orders:8080\r\n\r\n"),
            _ => format!(
                "POST /{n} HTTP/1.1\r\nHost: orders:8080\r\nContent-Length: 18\r\n\r\nGET /x HTTP/1.1\r\n\r"
            ),
        })
        .collect();
    client.write(requests).await;
    for n in 0..100 {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (200, format!("/{n}")));
    }
    assert_eq!(app.count(), 100);
}

#[tokio::test]
async fn empty_lines_before_a_request_are_skipped_but_not_for_ever() {
    let ground = Ground::start().await;
    for face in ground.faces() {
        let mut client = Client::connect(face).await;
        // Also between two requests, as old clients do after a body.
        for _ in 0..3 {
            client.write("\r\n\r\n").await;
            assert_eq!(client.get("catalog:8080", "/").await.status, 200);
        }
        let attack = ground.attack().await;
        let flood = "\r\n".repeat(512 * 1024);
        let heard = exchange(face, flood.as_bytes(), Duration::from_secs(3)).await;
        assert!(heard.ended, "1 MiB of empty lines were taken");
        attack.end("empty lines", 2, 2.0).await;
    }
}

#[tokio::test]
async fn odd_but_sound_heads_pass_untouched() {
    let ground = Ground::start().await;
    let headers = "X_under_score: 1\r\nx!#$%&'*+-.^_`|~: tokens\r\nEmpty:\r\nx-high: \u{e4}\u{f6}\r\n\
        X-Spaces:  \t in \t between  \t \r\nX-Twice: 1\r\nX-Twice: 2\r\nX-Forwarded-For: 10.0.0.1\r\n";
    for (face, app) in ground
        .faces()
        .into_iter()
        .zip([&ground.catalog, &ground.own])
    {
        let mut client = Client::connect(face).await;
        let ours = "X-Remora-Reason: fault\r\nX-REMORA-IDENTITY: admin\r\nx-remora-http: 1.1\r\n";
        let answer = client
            .request(
                "GET",
                "catalog:8080",
                "/a%2e/../b?c=[]{}|",
                &format!("{headers}{ours}"),
                "",
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let request = app.requests().pop().unwrap();
        assert_eq!(request.path, "/a%2e/../b?c=[]{}|");
        assert_eq!(request.header("x_under_score"), "1");
        assert_eq!(request.header("x!#$%&'*+-.^_`|~"), "tokens");
        assert_eq!(request.header("x-high"), "\u{e4}\u{f6}");
        assert_eq!(request.header("x-spaces"), "in \t between");
        assert_eq!(request.header("x-forwarded-for"), "10.0.0.1");
        let names: Vec<_> = request
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names.iter().filter(|name| **name == "x-twice").count(), 2);
        assert!(names.contains(&"empty"));
        for ours in ["x-remora-reason", "x-remora-identity", "x-remora-http"] {
            assert!(!names.contains(&ours), "{ours} passed");
        }
    }
}
