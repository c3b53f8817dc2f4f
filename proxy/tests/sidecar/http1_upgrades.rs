//! Upgrades and CONNECT that are not what they seem: nothing passes raw before
//! both sides have agreed to it.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::attack::{Ground, connect, exchange, listen};
use crate::mesh::policy;
use crate::tap::{Says, Tap};

const SILENCE: Duration = Duration::from_millis(800);
const HEAD: &str =
    "GET /chat HTTP/1.1\r\nHost: tapped:8080\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

/// The services `tapped`, which says so on each connection.
async fn tapped(says: Says) -> (Ground, Tap) {
    let ground = Ground::start().await;
    let tap = Tap::start(ground.mesh.net.at(11), says).await;
    ground.mesh.endpoint("tapped", 0, tap.address(), |_| ());
    ground.mesh.service("tapped", policy());
    (ground, tap)
}

#[tokio::test]
async fn an_upgrade_carries_bytes_both_ways_and_ends_with_either_side() {
    let (ground, tap) = tapped(Says::now(format!("{SWITCHING}welcome ")).then_echoes()).await;
    let mut stream = connect(ground.mesh.sidecar.outbound()).await;
    stream.write_all(HEAD.as_bytes()).await.unwrap();
    let heard = listen(&mut stream, SILENCE).await;
    assert!(heard.text().starts_with("HTTP/1.1 101"), "{}", heard.text());
    assert!(
        heard.text().to_lowercase().contains("upgrade: echo\r\n"),
        "{}",
        heard.text()
    );
    assert!(
        heard.text().ends_with("\r\n\r\nwelcome "),
        "{}",
        heard.text()
    );
    stream
        .write_all(b"GET / HTTP/1.1\r\n\r\n\0\xff")
        .await
        .unwrap();
    let heard = listen(&mut stream, SILENCE).await;
    assert_eq!(heard.bytes, b"GET / HTTP/1.1\r\n\r\n\0\xff");
    drop(stream);
    crate::eventually("the application is told", async || {
        tap.connections()[0].ended
    })
    .await;
    crate::eventually("nothing is in flight", async || {
        let stats = ground.mesh.sidecar.json("/stats").await;
        let services = stats["outbound"].as_array().unwrap().clone();
        services.iter().all(|service| service["in_flight"] == 0)
    })
    .await;
}

#[tokio::test]
async fn what_is_sent_before_the_101_waits_for_it() {
    let (ground, tap) = tapped(Says::now(SWITCHING).after_ms(300).then_echoes()).await;
    let mut stream = connect(ground.mesh.sidecar.outbound()).await;
    stream
        .write_all(format!("{HEAD}EARLY").as_bytes())
        .await
        .unwrap();
    stream.write_all(b" AND LATER").await.unwrap();
    let heard = listen(&mut stream, SILENCE).await;
    assert!(
        heard.text().ends_with("\r\n\r\nEARLY AND LATER"),
        "{}",
        heard.text()
    );
    let tapped = &tap.connections()[0];
    let before = String::from_utf8_lossy(&tapped.bytes[..tapped.before_answer]).into_owned();
    assert!(
        before.ends_with("\r\n\r\n"),
        "forwarded before the 101: {before}"
    );
}

#[tokio::test]
async fn much_that_is_sent_before_the_101_is_not_buffered() {
    let (ground, _tap) = tapped(Says::now(SWITCHING).after_ms(60_000)).await;
    let attack = ground.attack().await;
    let mut stream = connect(ground.mesh.sidecar.outbound()).await;
    stream.write_all(HEAD.as_bytes()).await.unwrap();
    let flood = vec![b'x'; 64 << 20];
    let writing = tokio::time::timeout(Duration::from_secs(2), stream.write_all(&flood));
    assert!(
        !matches!(writing.await, Ok(Ok(()))),
        "64 MiB were taken before the 101"
    );
    attack.end("early data", 2, 3.0).await;
}

#[tokio::test]
async fn a_200_to_an_upgrade_is_an_ordinary_answer() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    let (ground, tap) = tapped(Says::now(answer).then_echoes()).await;
    let outbound = ground.mesh.sidecar.outbound();
    // What follows is a request to another service, and not for the application.
    let next = "GET /next HTTP/1.1\r\nHost: catalog:8080\r\n\r\n";
    let heard = exchange(outbound, format!("{HEAD}{next}").as_bytes(), SILENCE).await;
    assert!(
        matches!(heard.statuses()[..], [200] | [200, 200]),
        "{}",
        heard.text()
    );
    assert!(!tap.text().contains("/next"), "{}", tap.text());
    let heard = exchange(
        outbound,
        format!("{HEAD}\0\x01raw bytes\r\n\r\n").as_bytes(),
        SILENCE,
    )
    .await;
    assert!(
        matches!(heard.statuses()[..], [200] | [200, 400]),
        "{}",
        heard.text()
    );
    assert!(
        heard.ended,
        "bytes that are no request left the connection open"
    );
    assert!(!tap.text().contains("raw bytes"), "{}", tap.text());
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_failure() {
    let (ground, tap) = tapped(Says::now(format!("{SWITCHING}raw")).then_echoes()).await;
    let request = "GET / HTTP/1.1\r\nHost: tapped:8080\r\n\r\n";
    let bytes = format!("{request}{request}");
    let heard = exchange(ground.mesh.sidecar.outbound(), bytes.as_bytes(), SILENCE).await;
    assert!(!heard.statuses().contains(&101), "{}", heard.text());
    assert!(!heard.text().contains("raw"), "{}", heard.text());
    assert_eq!(heard.statuses()[0], 502, "{}", heard.text());
    let heads = tap.connections();
    assert!(
        heads
            .iter()
            .all(|one| one.text().matches("get /").count() == 1)
    );
}

#[tokio::test]
async fn a_101_to_another_protocol_than_was_asked_for_is_a_failure() {
    let other = SWITCHING.replace("echo", "other");
    let (ground, _tap) = tapped(Says::now(other).then_echoes()).await;
    let heard = exchange(ground.mesh.sidecar.outbound(), HEAD.as_bytes(), SILENCE).await;
    assert_eq!(heard.statuses(), [502], "{}", heard.text());
}

#[tokio::test]
async fn an_upgrade_to_h2c_is_taken_out_and_the_request_goes_on() {
    let ground = Ground::start().await;
    for (face, app) in ground
        .faces()
        .into_iter()
        .zip([&ground.catalog, &ground.own])
    {
        let bytes = "GET / HTTP/1.1\r\nHost: catalog:8080\r\nConnection: Upgrade, HTTP2-Settings\r\n\
            Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        let heard = exchange(face, bytes.as_bytes(), SILENCE).await;
        assert_eq!(heard.statuses(), [200], "{}", heard.text());
        let request = app.requests().pop().unwrap();
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(request.header(name), "", "{name} passed");
        }
        assert!(
            !request
                .header("connection")
                .to_lowercase()
                .contains("upgrade")
        );
    }
}

#[tokio::test]
async fn a_connect_to_nothing_takes_nothing_that_follows_for_a_request() {
    let ground = Ground::start().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: catalog:8080\r\n\r\n";
    for authority in [
        "nothing:8080",
        "catalog",
        "catalog:99999",
        "/x",
        "http://catalog:8080/",
    ] {
        let bytes = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n{smuggled}");
        let heard = exchange(ground.mesh.sidecar.outbound(), bytes.as_bytes(), SILENCE).await;
        let [status] = heard.statuses()[..] else {
            panic!("{authority}: {}", heard.text());
        };
        assert!(
            matches!(status, 400 | 502 | 503),
            "{authority}: {}",
            heard.text()
        );
        assert!(heard.ended, "{authority}: {}", heard.text());
    }
    assert_eq!(ground.reached(), 0);
}

#[tokio::test]
async fn a_connect_whose_head_is_doubtful_opens_nothing() {
    let ground = Ground::start().await;
    for head in [
        "CONNECT catalog:8080 HTTP/1.1\r\nHost: catalog:8080\r\nContent-Length: 5\r\n\r\nhello",
        "CONNECT catalog:8080 HTTP/1.1\r\nHost: catalog:8080\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "CONNECT catalog:8080 HTTP/1.1\r\nHost: catalog:8080\r\nHost: other\r\n\r\n",
        "CONNECT catalog:8080 HTTP/1.1\r\nHost: catalog:8080\r\nX: a\r\n b\r\n\r\n",
        "CONNECT user@catalog:8080 HTTP/1.1\r\nHost: catalog:8080\r\n\r\n",
        "CONNECT catalog:8080 HTTP/1.1\nHost: catalog:8080\n\n",
    ] {
        let heard = exchange(ground.mesh.sidecar.outbound(), head.as_bytes(), SILENCE).await;
        assert!(heard.is_refusal(), "{head:?}: {}", heard.text());
    }
    assert_eq!(ground.reached(), 0);
}

#[tokio::test]
async fn a_connect_that_is_not_agreed_to_passes_nothing_raw() {
    // The pod's application says 200 to a CONNECT as to anything else.
    let ground = Ground::start().await;
    let raw = "\0\x01raw bytes";
    let bytes = format!("CONNECT elsewhere:1 HTTP/1.1\r\nHost: elsewhere:1\r\n\r\n{raw}");
    let [outbound, _] = ground.faces();
    let heard = exchange(outbound, bytes.as_bytes(), SILENCE).await;
    assert!(!heard.statuses().contains(&200), "{}", heard.text());
    // Behind the outbound side: a refusal by the application is one to the caller.
    let refusing = Tap::start(
        ground.mesh.net.at(12),
        Says::now("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
    )
    .await;
    ground
        .mesh
        .endpoint("refusing", 0, refusing.address(), |_| ());
    ground.mesh.service("refusing", policy());
    let bytes = bytes.replace("elsewhere:1", "refusing:8080");
    let heard = exchange(outbound, bytes.as_bytes(), SILENCE).await;
    // In explicit mode the tunnel is the sidecar's own, and the bytes are the
    // endpoint's to judge: what comes back is what it says.
    assert!(
        heard
            .statuses()
            .first()
            .is_some_and(|status| *status == 200 || *status == 403)
    );
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks_and_no_upgrade() {
    let chunked = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let (ground, tap) = tapped(Says::now(chunked)).await;
    let outbound = ground.mesh.sidecar.outbound();
    for keep in ["", "Connection: keep-alive\r\n"] {
        let bytes = format!("GET / HTTP/1.0\r\nHost: tapped:8080\r\n{keep}\r\n");
        let heard = exchange(outbound, bytes.as_bytes(), SILENCE).await;
        let text = heard.text().to_lowercase();
        assert!(text.ends_with("\r\n\r\nhello world"), "{text}");
        assert!(!text.contains("transfer-encoding"), "{text}");
        assert!(heard.ended, "its end is the connection's: {text}");
    }
    let upgrade = HEAD.replace("HTTP/1.1", "HTTP/1.0");
    exchange(outbound, upgrade.as_bytes(), SILENCE).await;
    assert!(!tap.text().contains("upgrade: echo"), "{}", tap.text());
}

#[tokio::test]
async fn an_upgrade_that_ends_gives_its_place_back_at_once() {
    let (ground, _tap) = tapped(Says::now(SWITCHING).then_echoes()).await;
    let limited = crate::mesh::limits(|limits| limits.max_requests = Some(1));
    // A service is known once it was called.
    let mut stream = connect(ground.mesh.sidecar.outbound()).await;
    stream.write_all(HEAD.as_bytes()).await.unwrap();
    drop((listen(&mut stream, SILENCE).await, stream));
    ground.mesh.service("tapped", limited);
    crate::eventually("the limit is in force", async || {
        in_use(&ground).await.1 == 1
    })
    .await;
    let mut slowest = Duration::ZERO;
    for number in 0..60 {
        let before = seen(&ground).await;
        let mut stream = connect(ground.mesh.sidecar.outbound()).await;
        stream.write_all(HEAD.as_bytes()).await.unwrap();
        let heard = match number % 3 {
            // Before, at and after the 101.
            0 => Vec::new(),
            _ => {
                let mut heard = vec![0; 12];
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard)
                    .await
                    .unwrap();
                heard
            }
        };
        if number % 3 == 2 {
            stream
                .write_all(b"some bytes that nobody reads back")
                .await
                .unwrap();
        }
        assert!(
            heard.is_empty() || heard == b"HTTP/1.1 101",
            "{number}: {heard:?}"
        );
        drop(stream);
        // One that left before it was answered may not have been read yet.
        crate::eventually("it was seen", async || seen(&ground).await > before).await;
        let began = std::time::Instant::now();
        crate::eventually("its place is free", async || in_use(&ground).await.0 == 0).await;
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

/// Requests to `tapped` that were answered, or whose caller left.
async fn seen(ground: &Ground) -> u64 {
    let stats = ground.mesh.sidecar.json("/stats").await;
    let services = stats["outbound"].as_array().unwrap();
    let mut tapped = services
        .iter()
        .filter(|service| service["service"] == "shop/tapped");
    tapped.next().map_or(0, |service| {
        service["requests"].as_u64().unwrap() + service["cancelled"].as_u64().unwrap()
    })
}

/// Requests in flight to `tapped`, and how many may be.
async fn in_use(ground: &Ground) -> (u64, u64) {
    let breakers = ground.mesh.sidecar.json("/breakers").await;
    let services = breakers["services"].as_array().unwrap();
    let tapped = services
        .iter()
        .find(|service| service["service"] == "shop/tapped");
    let Some(tapped) = tapped else {
        return (0, 0);
    };
    let requests = &tapped["limits"]["requests"];
    (
        requests["in_use"].as_u64().unwrap_or(0),
        requests["max"].as_u64().unwrap_or(0),
    )
}
