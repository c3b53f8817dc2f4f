//! Flow control is end to end: who reads slowly holds up who writes, and the
//! sidecar holds no more than its named bounds in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::attack::{Ground, Http2Ground};
use crate::http2_app::{Http2Caller, long};
use crate::http2_frames::{code, get, reset};
use crate::mesh::policy;
use crate::process::MIB;
use crate::upstream::App;

/// The body of each of these stories.
const BODY: u64 = 64 * MIB;
/// What a sidecar may hold of one HTTP/1.1 body: a read and a write buffer.
const HELD_HTTP1: u64 = 1;
/// What it may hold of one HTTP/2 body: the windows of both its sides, 1 MiB
/// upstream and what the caller's connection has not taken.
const HELD_HTTP2: u64 = 4;
/// A slow reader takes nothing for so long.
const STALL: Duration = Duration::from_secs(1);

/// An HTTP/1.1 application with a body of 64 MiB, or one that reads no body.
struct Http1Body {
    /// Bytes written, or read.
    moved: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What it does with a connection.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Writes 64 MiB.
    Writes,
    /// Reads nothing of the body until this is over.
    ReadsNothing,
}

async fn http1_body(address: std::net::SocketAddr, does: Does) -> Http1Body {
    let listener = crate::bind(address).await;
    let moved: Arc<AtomicU64> = Arc::default();
    let count = Arc::clone(&moved);
    let task = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tasks.spawn(async move {
                let mut seen = Vec::new();
                while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
                    if !matches!(stream.read_buf(&mut seen).await, Ok(read) if read > 0) {
                        return;
                    }
                }
                if does == Does::ReadsNothing {
                    return std::future::pending().await;
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let piece = vec![b'x'; 64 * 1024];
                while count.load(SeqCst) < BODY && stream.write_all(&piece).await.is_ok() {
                    count.fetch_add(piece.len() as u64, SeqCst);
                }
            });
        }
    });
    Http1Body { moved, task }
}

/// What the kernel's socket buffers on a body's way may hold.
const KERNEL: u64 = 24 * MIB;

#[tokio::test]
async fn a_slow_reader_by_http_1_holds_up_the_application() {
    let ground = Ground::start().await;
    let app = http1_body(ground.mesh.net.at(11), Does::Writes).await;
    ground
        .mesh
        .endpoint("bodies", 0, ground.mesh.net.at(11), |_| ());
    ground.mesh.service("bodies", policy());
    let attack = ground.attack().await;
    let mut stream = TcpStream::connect(ground.mesh.sidecar.outbound())
        .await
        .unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: bodies:8080\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(STALL).await;
    let stalled = app.moved.load(SeqCst);
    assert!(
        stalled < KERNEL,
        "{stalled} bytes of a body that nobody reads were taken"
    );
    tokio::time::sleep(STALL).await;
    assert_eq!(
        app.moved.load(SeqCst),
        stalled,
        "more was taken while nobody read"
    );
    // Slowly, and then all of it.
    let mut buffer = vec![0; 256 * 1024];
    let mut read = 0;
    while read < BODY {
        read += stream.read(&mut buffer).await.unwrap() as u64;
        if read < MIB {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    attack
        .end("64 MiB to a slow reader by HTTP/1.1", HELD_HTTP1, 10.0)
        .await;
}

#[tokio::test]
async fn a_slow_application_by_http_1_holds_up_the_caller() {
    let ground = Ground::start().await;
    let _app = http1_body(ground.mesh.net.at(11), Does::ReadsNothing).await;
    ground
        .mesh
        .endpoint("bodies", 0, ground.mesh.net.at(11), |_| ());
    ground.mesh.service("bodies", policy());
    let attack = ground.attack().await;
    let mut streams = Vec::new();
    for framing in ["Content-Length: 67108864", "Transfer-Encoding: chunked"] {
        let mut stream = TcpStream::connect(ground.mesh.sidecar.outbound())
            .await
            .unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: bodies:8080\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let piece = [b"10000\r\n".as_slice(), &vec![b'x'; 65_536], b"\r\n"].concat();
        let mut written = 0;
        let writing = async {
            while written < BODY && stream.write_all(&piece).await.is_ok() {
                written += piece.len() as u64;
            }
        };
        let _ = tokio::time::timeout(STALL, writing).await;
        assert!(
            written < KERNEL,
            "{written} bytes of a body that nobody reads were taken"
        );
        streams.push(stream);
    }
    // Retries keep what may be sent again: 64 KiB.
    attack
        .end(
            "two bodies to an application that reads nothing",
            HELD_HTTP1 + 1,
            5.0,
        )
        .await;
}

#[tokio::test]
async fn a_slow_reader_by_http_2_holds_up_the_application() {
    let ground = Http2Ground::start().await;
    let (mut peer, attack) = ground.attacker().await;
    peer.credits = false;
    peer.write(&get(1, &format!("/big/{BODY}"), &[])).await;
    peer.listen(STALL).await;
    let made = &ground.own.counts.made;
    let stalled = made.load(SeqCst);
    assert!(
        stalled <= HELD_HTTP2 * MIB,
        "{stalled} bytes were taken for a window of 64 KiB"
    );
    assert_eq!(peer.streams[&1].body.len(), 65_535);
    peer.listen(STALL).await;
    assert_eq!(
        made.load(SeqCst),
        stalled,
        "more was taken while nobody read"
    );
    // Another stream of the same connection's other client goes on; this one too, later.
    let mut caller = Http2Caller::connect(ground.mesh.sidecar.inbound(crate::mesh::PORT)).await;
    let answer = caller.get(&format!("/big/{BODY}")).await.unwrap();
    assert_eq!(answer.body.len() as u64, BODY);
    peer.write(&reset(1, code::CANCEL)).await;
    attack
        .end("64 MiB to a slow reader by HTTP/2", HELD_HTTP2, 10.0)
        .await;
    crate::eventually("the application is told", async || {
        ground.own.in_flight() == 0
    })
    .await;
}

#[tokio::test]
async fn a_slow_application_by_http_2_holds_up_the_caller() {
    let ground = Http2Ground::start().await;
    let attack = crate::attack::Attack::begin_http2(
        &ground.mesh,
        ground.mesh.sidecar.inbound(crate::mesh::PORT),
    )
    .await;
    for face in ground.faces() {
        let mut caller = Http2Caller::connect(face).await;
        let made: Arc<AtomicU64> = Arc::default();
        let body = long(BODY, Arc::clone(&made));
        let sending =
            tokio::spawn(async move { caller.send("POST", "/unread", body).await.is_ok() });
        tokio::time::sleep(STALL).await;
        let stalled = made.load(SeqCst);
        assert!(
            stalled <= HELD_HTTP2 * MIB,
            "{stalled} bytes were taken that nobody reads"
        );
        tokio::time::sleep(STALL / 2).await;
        assert_eq!(made.load(SeqCst), stalled);
        sending.abort();
    }
    attack
        .end(
            "64 MiB to an application that reads nothing, by HTTP/2",
            2 * HELD_HTTP2,
            10.0,
        )
        .await;
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once_and_whole() {
    let ground = Http2Ground::start().await;
    for face in ground.faces() {
        let mut caller = Http2Caller::connect(face).await;
        let made: Arc<AtomicU64> = Arc::default();
        let response = caller
            .send("POST", "/echo", long(16 * MIB, Arc::clone(&made)))
            .await
            .unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len() as u64, 16 * MIB);
        let response = caller
            .send("POST", "/sink", long(16 * MIB, made))
            .await
            .unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "read");
    }
}

#[tokio::test]
async fn a_burst_of_bodies_is_given_back() {
    let ground = Ground::start().await;
    let app = App::start(ground.mesh.net.at(11), |_| {
        crate::upstream::status(200).body(&"x".repeat(1 << 20))
    })
    .await;
    ground.mesh.endpoint("burst", 0, app.address(), |_| ());
    ground.mesh.service("burst", policy());
    let process = ground.mesh.sidecar.process();
    let before = process.resident();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let outbound = ground.mesh.sidecar.outbound();
        tasks.spawn(async move {
            let mut client = crate::client::Client::connect(outbound).await;
            let answer = client.get("burst:8080", "/").await;
            assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
            client
        });
    }
    let clients = tasks.join_all().await;
    let after = process.resident();
    println!("before {before}, after 200 bodies of 1 MiB with connections kept {after}");
    // 16 KiB for each connection and its upstream's, and 8 MiB that a debug
    // build's allocator keeps.
    assert!(
        after < before + 200 * 32 * 1024 + 8 * MIB,
        "{before} -> {after}"
    );
    drop(clients);
}
