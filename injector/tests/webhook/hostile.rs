//! Whoever reaches the webhook may send anything.

use std::net::SocketAddr;
use std::time::Duration;

use remora_injector::certificate::make::Authority;
use remora_injector::clock;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{HOST, admin, dial, dial_at, pod, ready_world, review, sender};

/// Sends a review in two halves with a pause in between; what comes back.
pub async fn slow_review(address: SocketAddr, authority: &Authority, pause: Duration) -> String {
    let mut stream = dial_at(address, authority, "http/1.1").await;
    let body = review("shop", pod(json!({"name": "x"})));
    let length = body.len();
    let head = format!(
        "POST /inject HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    let (first, second) = body.split_at(length / 2);
    stream.write_all((head + first).as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(pause).await;
    // It may have been refused meanwhile.
    let _ = stream.write_all(second.as_bytes()).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn what_is_no_review_is_refused_and_the_connection_stays() {
    let world = ready_world().await;
    for protocol in ["http/1.1", "h2"] {
        let mut sender = sender(dial(&world, protocol).await).await;
        for (method, path, body, status) in [
            ("POST", "/inject", "", 400),
            ("POST", "/inject", "not JSON", 400),
            ("POST", "/inject", "{}", 400),
            (
                "POST",
                "/inject",
                r#"{"apiVersion":"v1","kind":"Pod"}"#,
                400,
            ),
            ("GET", "/inject", "", 405),
            ("POST", "/", "{}", 404),
            ("POST", "/metrics", "{}", 404),
        ] {
            let response = sender.send(method, path, body).await.unwrap();
            assert_eq!(
                response.status(),
                status,
                "{protocol} {method} {path} {body}"
            );
            assert!(!response.body().is_empty());
        }
        let answer = sender.review("shop", pod(json!({"name": "x"}))).await;
        assert!(answer.is_injected());
    }
    let (_, metrics) = admin(world.running.admin, "/metrics").await;
    let line = "remora_injector_refused_requests_total 14";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_huge_body_is_refused() {
    let world = ready_world().await;
    for protocol in ["http/1.1", "h2"] {
        // By its length where that is told, else as it comes. HTTP/1.1 may
        // close before all is sent, and the sender then see only that.
        let mut sender = sender(dial(&world, protocol).await).await;
        let response = sender.post(vec![b' '; 5 * 1024 * 1024]).await;
        assert!(
            response.is_err() || response.unwrap().status() == 413,
            "{protocol}"
        );
    }
    let mut stream = dial(&world, "http/1.1").await;
    let head =
        format!("POST /inject HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 65_536, " ".repeat(65_536));
    for _ in 0..80 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 413"),
        "{text}"
    );
    let mut sender = sender(dial(&world, "h2").await).await;
    let answer = sender.review("shop", pod(json!({"name": "x"}))).await;
    assert!(answer.is_injected());
}

#[tokio::test]
async fn who_is_slow_is_not_waited_for_by_others() {
    let world = ready_world().await;
    let address = world.running.listen;
    let slow = slow_review(address, &world.authority, Duration::from_secs(7));
    let others = async {
        // Silent, half a handshake, plain HTTP, and none of TLS at all.
        let mut held = Vec::new();
        for bytes in [
            b"".as_slice(),
            b"\x16\x03\x01\x02",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0\0",
        ] {
            for _ in 0..25 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(bytes).await.unwrap();
                held.push(stream);
            }
        }
        let begun = clock::now();
        let mut sender = sender(dial(&world, "http/1.1").await).await;
        let answer = sender.review("shop", pod(json!({"name": "x"}))).await;
        assert!(answer.is_injected());
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        // A handshake has 5 s.
        let mut byte = [0; 64];
        let end = held[0].read(&mut byte);
        let end = tokio::time::timeout(Duration::from_secs(8), end)
            .await
            .unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    };
    let (slow, ()) = tokio::join!(slow, others);
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    let (_, metrics) = admin(world.running.admin, "/metrics").await;
    let line = "remora_injector_handshake_failures_total 100";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn two_thousand_reviews_on_one_connection_are_all_answered() {
    let world = ready_world().await;
    let stream = dial(&world, "h2").await;
    let crate::world::Sender::Two(sender) = sender(stream).await else {
        panic!("HTTP/2 was not agreed on");
    };
    let all = (0..2000).map(|_| {
        let mut sender = crate::world::Sender::Two(sender.clone());
        async move {
            sender
                .review("shop", pod(json!({"name": "x"})))
                .await
                .is_injected()
        }
    });
    let all = futures_util::future::join_all(all).await;
    assert!(all.into_iter().all(|injected| injected));
}
