//! HTTP/1.1 bodies that a caller makes to confuse or to exhaust: chunks, their
//! extensions and sizes, trailers.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::attack::{Ground, connect, exchange, listen};
use crate::mesh::policy;
use crate::tap::{Says, Tap};

const SILENCE: Duration = Duration::from_secs(2);
const CHUNKED: &str =
    "POST / HTTP/1.1\r\nHost: tapped:8080\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A ground with the service `tapped`, which answers after 150 ms.
async fn tapped() -> (Ground, Tap) {
    let ground = Ground::start().await;
    let says = Says::now("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").after_ms(150);
    let tap = Tap::start(ground.mesh.net.at(11), says).await;
    ground.mesh.endpoint("tapped", 0, tap.address(), |_| ());
    ground.mesh.service("tapped", policy());
    (ground, tap)
}

#[tokio::test]
async fn chunk_extensions_are_taken_and_never_passed_on() {
    let (ground, tap) = tapped().await;
    for extension in [
        ";evil",
        ";evil=1",
        ";evil=\"quoted;\"",
        " ; evil = 1",
        ";evil;evil2=x",
    ] {
        let body = format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n");
        let bytes = format!("{CHUNKED}{body}");
        let heard = exchange(ground.mesh.sidecar.outbound(), bytes.as_bytes(), SILENCE).await;
        // What not everybody reads alike may be refused, but is never passed on.
        let allowed: &[&[u16]] = match extension.starts_with(' ') {
            true => &[&[200], &[400]],
            false => &[&[200]],
        };
        assert!(
            allowed.contains(&&heard.statuses()[..]),
            "{extension:?}: {}",
            heard.text()
        );
    }
    assert!(tap.text().contains("hello"));
    assert!(!tap.text().contains("evil"), "{}", tap.text());
}

#[tokio::test]
async fn chunk_extensions_without_end_are_cut_off() {
    let (ground, tap) = tapped().await;
    let attack = ground.attack().await;
    // In one chunk, and in many.
    let long = format!("{CHUNKED}5;{}", "x".repeat(4 << 20));
    let many = format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(4096);
    for bytes in [long, format!("{CHUNKED}{many}")] {
        let heard = exchange(ground.mesh.sidecar.outbound(), bytes.as_bytes(), SILENCE).await;
        assert!(heard.ended, "4 MiB of chunk extensions were taken");
        assert!(!heard.statuses().contains(&200), "{}", heard.text());
    }
    let passed = tap.text().matches('a').count();
    assert!(
        passed < 256,
        "{passed} chunks passed: more than 256 KiB of extensions"
    );
    attack.end("chunk extensions", 4, 3.0).await;
}

#[tokio::test]
async fn chunks_of_one_byte_cost_no_memory() {
    let (ground, tap) = tapped().await;
    let attack = ground.attack().await;
    let bytes = format!("{CHUNKED}{}0\r\n\r\n", "1\r\na\r\n".repeat(200_000));
    let heard = exchange(ground.mesh.sidecar.outbound(), bytes.as_bytes(), SILENCE).await;
    assert_eq!(heard.statuses(), [200], "{}", heard.text());
    attack.end("200,000 chunks of one byte", 4, 10.0).await;
    drop(tap);
}

#[tokio::test]
async fn malformed_chunks_break_the_request_off() {
    let (ground, tap) = tapped().await;
    let malformed = [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello world\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0b\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nbad name: x\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: a\r\n b\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: a\nb: c\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: a\0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\nContent-Length : 5\r\n\r\n",
    ];
    let mut wrong = Vec::new();
    for body in malformed {
        let bytes = format!("{CHUNKED}{body}GET /smuggled HTTP/1.1\r\nHost: tapped:8080\r\n\r\n");
        let heard = exchange(ground.mesh.sidecar.outbound(), bytes.as_bytes(), SILENCE).await;
        if !heard.is_refusal() {
            wrong.push(format!(
                "{body:?}: {:?}, ended: {}",
                heard.statuses(),
                heard.ended
            ));
        }
    }
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
    crate::eventually("the application is told of each", async || {
        tap.connections().iter().all(|tapped| tapped.ended)
    })
    .await;
    for tapped in tap.connections() {
        let text = tapped.text();
        assert!(!text.contains("smuggled"), "{text}");
        assert!(
            !text.ends_with("0\r\n\r\n"),
            "a malformed body came whole: {text}"
        );
    }
}

#[tokio::test]
async fn leading_zeros_of_a_chunks_size_have_an_end() {
    let (ground, _tap) = tapped().await;
    let attack = ground.attack().await;
    let bytes = format!("{CHUNKED}{}", "0".repeat(1 << 20));
    let heard = exchange(ground.mesh.sidecar.outbound(), bytes.as_bytes(), SILENCE).await;
    assert!(heard.ended, "1 MiB of zeros were taken for a chunk's size");
    attack.end("zeros", 2, 2.0).await;
}

#[tokio::test]
async fn trailers_are_bounded_and_frame_nothing() {
    let (ground, tap) = tapped().await;
    let outbound = ground.mesh.sidecar.outbound();
    let body = "5\r\nhello\r\n0\r\nX-Checksum: 1\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\n\
        Host: other\r\nX-Remora-Reason: fault\r\n\r\n";
    let heard = exchange(outbound, format!("{CHUNKED}{body}").as_bytes(), SILENCE).await;
    assert!(
        matches!(heard.statuses()[..], [200 | 400]),
        "{}",
        heard.text()
    );
    for forbidden in ["content-length: 3", "gzip", "other", "fault"] {
        assert!(
            !tap.text().contains(forbidden),
            "{forbidden}: {}",
            tap.text()
        );
    }
    let attack = ground.attack().await;
    let long = format!("{CHUNKED}0\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("{CHUNKED}0\r\n{}\r\n", "X: y\r\n".repeat(100_000));
    for bytes in [long, many] {
        let heard = exchange(outbound, bytes.as_bytes(), SILENCE).await;
        assert!(heard.ended, "more than 64 KiB of trailers were taken");
        assert!(!heard.statuses().contains(&200), "{:?}", heard.statuses());
    }
    attack.end("trailers", 4, 3.0).await;
}

#[tokio::test]
async fn what_follows_a_body_is_the_next_request_and_nothing_else() {
    let ground = Ground::start().await;
    for (face, app) in ground
        .faces()
        .into_iter()
        .zip([&ground.catalog, &ground.own])
    {
        let before = app.count();
        let inner = "GET /inner HTTP/1.1\r\nHost: catalog:8080\r\n\r\n";
        let length = inner.len();
        let bytes = format!(
            "POST /1 HTTP/1.1\r\nHost: catalog:8080\r\nContent-Length: {length}\r\n\r\n{inner}\
             POST /2 HTTP/1.1\r\nHost: catalog:8080\r\nTransfer-Encoding: chunked\r\n\r\n\
             {length:x}\r\n{inner}\r\n0\r\n\r\n\
             GET /3 HTTP/1.1\r\nHost: catalog:8080\r\nContent-Length: {length}\r\n\r\n{inner}\
             GET /4 HTTP/1.1\r\nHost: catalog:8080\r\nConnection: close\r\n\r\n{inner}"
        );
        let heard = exchange(face, bytes.as_bytes(), SILENCE).await;
        assert_eq!(heard.statuses(), [200; 4]);
        assert!(heard.ended);
        let paths: Vec<_> = app.requests()[before..]
            .iter()
            .map(|request| request.path.clone())
            .collect();
        assert_eq!(paths, ["/1", "/2", "/3", "/4"]);
    }
}

#[tokio::test]
async fn identical_lengths_are_refused_or_sent_as_one() {
    let ground = Ground::start().await;
    for lengths in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: catalog:8080\r\n{lengths}\r\nhello");
        let heard = exchange(ground.faces()[0], bytes.as_bytes(), SILENCE).await;
        if heard.is_refusal() {
            continue;
        }
        assert_eq!(heard.statuses(), [200]);
        let request = ground.catalog.requests().pop().unwrap();
        let sent = request
            .headers
            .iter()
            .filter(|(name, _)| name == "content-length");
        assert_eq!(
            sent.map(|(_, value)| value.as_str()).collect::<Vec<_>>(),
            ["5"]
        );
        assert_eq!(request.body, b"hello");
    }
}

#[tokio::test]
async fn a_body_that_stays_away_ends_with_its_connection_and_with_the_idle_timeout() {
    let (ground, tap) = tapped().await;
    let mut policy = policy();
    policy.timeouts = Some(remora_proto::v1::Timeouts {
        idle_ms: Some(300),
        ..Default::default()
    });
    // It answers late, so that the silence of the caller's body comes first.
    ground.mesh.service("tapped", policy);
    let says = Says::now("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").after_ms(60_000);
    drop(tap);
    let tap = Tap::start(ground.mesh.net.at(12), says).await;
    ground.mesh.endpoint("tapped", 0, tap.address(), |_| ());
    crate::eventually("the new endpoint is used", async || {
        let mut stream = connect(ground.mesh.sidecar.outbound()).await;
        let head = "POST / HTTP/1.1\r\nHost: tapped:8080\r\nContent-Length: 100\r\n\r\nhalf";
        stream.write_all(head.as_bytes()).await.unwrap();
        let heard = listen(&mut stream, Duration::from_secs(3)).await;
        !tap.connections().is_empty() && heard.statuses() == [504] && heard.ended
    })
    .await;
    crate::eventually("the application is told", async || {
        tap.connections().iter().all(|tapped| tapped.ended)
    })
    .await;
}
