//! Callers that say little, slowly or nothing, many at a time.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::attack::{Ground, connect, listen};
use crate::eventually;

/// SEMANTICS.md names no number; `callers::HEAD_TIMEOUT` is 30 s, looked at once a second.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// In explicit mode up to 10 s go by before it is clear what is spoken; an
/// HTTP/2 connection has 5 s for its end; and a busy machine has its share.
const LATE: Duration = Duration::from_secs(18);

/// A first piece, and what is added to it once a second.
const SLOW: [(&str, &str); 6] = [
    ("G", "E"),
    ("GET / HTTP/1.1\r\n", "x"),
    ("GET / HTTP/1.1\r\nHost: catalog:8080\r\n", "X: y\r\n"),
    ("\r\n", "\r\n"),
    // The beginning of HTTP/2, and silence.
    ("PRI * HT", ""),
    ("PRI * HTTP/2.0\r\n\r\n", ""),
];

#[tokio::test]
async fn a_head_that_never_ends_is_ended() {
    let ground = Ground::start().await;
    let attack = ground.attack().await;
    let mut tasks = tokio::task::JoinSet::new();
    for face in ground.faces() {
        for (first, piece) in SLOW {
            tasks.spawn(async move {
                let began = Instant::now();
                let mut stream = connect(face).await;
                stream.write_all(first.as_bytes()).await.unwrap();
                while began.elapsed() < HEAD_TIMEOUT + LATE {
                    let heard = listen(&mut stream, Duration::from_secs(1)).await;
                    if heard.ended || stream.write_all(piece.as_bytes()).await.is_err() {
                        return (face, first, Some(began.elapsed()), heard.statuses());
                    }
                }
                (face, first, None, Vec::new())
            });
        }
    }
    let mut wrong = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (face, first, ended, statuses) = done.unwrap();
        // What is no HTTP/1.1 may be refused sooner; nobody is given an answer as if it were.
        let sound = ended.is_some() && !statuses.contains(&200);
        if !sound {
            wrong.push(format!("{face} {first:?}: {ended:?}, {statuses:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        ground.catalog.count(),
        1,
        "a slow head reached an application"
    );
    attack.end("slow heads", 2, 20.0).await;
}

#[tokio::test]
async fn many_connections_that_send_nothing_cost_little_and_all_of_it_comes_back() {
    const CONNECTIONS: usize = 2_000;
    let ground = Ground::start().await;
    let process = ground.mesh.sidecar.process();
    let descriptors = process.descriptors();
    let attack = ground.attack().await;
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        held.push(connect(ground.faces()[number % 2]).await);
    }
    eventually("all are accepted", async || {
        process.descriptors() >= descriptors + CONNECTIONS
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // 16 KiB for each: the bar of a release build, and a debug build keeps it too.
    attack
        .end(
            "2,000 silent connections",
            CONNECTIONS as u64 * 16 / 1024,
            10.0,
        )
        .await;
    drop(held);
    eventually("all descriptors are back", async || {
        process.descriptors() <= descriptors + 2
    })
    .await;
}

#[tokio::test]
async fn heads_that_stop_before_their_end_are_bounded() {
    const CONNECTIONS: usize = 200;
    let ground = Ground::start().await;
    let attack = ground.attack().await;
    let head = format!(
        "GET / HTTP/1.1\r\nHost: catalog:8080\r\nX: {}",
        "x".repeat(60 * 1024)
    );
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream = connect(ground.faces()[number % 2]).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // A buffer may be twice as large as what is in it.
    attack
        .end(
            "200 heads of 60 KiB",
            CONNECTIONS as u64 * 128 / 1024 + 2,
            10.0,
        )
        .await;
}
