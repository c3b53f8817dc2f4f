//! Applications that answer HTTP/2 as an attacker would: their answer fails,
//! and no other stream, connection or caller is harmed by more than it says here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use remora_proto::v1::Protocol;
use tokio::task::JoinHandle;

use crate::attack::{Attack, Http2Ground, declare};
use crate::http2_fields::{NEWEST, encode, indexed_literal};
use crate::http2_frames::{PREFACE, Peer, data, flag, frame, kind, reset, settings, window_update};
use crate::mesh::{Mesh, PORT, policy};

const PATIENCE: Duration = Duration::from_secs(8);

/// An application of raw frames; ends on drop.
struct Raw {
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = fn(u32) -> Vec<u8>;

/// The service `evil`, which sends what `answer` says for each stream on which
/// a request came, `times` times.
async fn evil(ground: &Http2Ground, answer: Answer, times: usize) -> Raw {
    let address = ground.mesh.net.at(11);
    let listener = crate::bind(address).await;
    let accepted: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&accepted);
    let task = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, SeqCst);
            tasks.spawn(serve(stream, answer, times));
        }
    });
    ground.mesh.endpoint("evil", 0, address, |_| ());
    ground.mesh.service_with("evil", |service| {
        service.policy = Some(policy());
        service.ports[0].protocol = Protocol::Http2 as i32;
    });
    Raw { accepted, task }
}

async fn serve(mut stream: tokio::net::TcpStream, answer: Answer, times: usize) {
    use tokio::io::AsyncReadExt;
    let mut preface = [0; PREFACE.len()];
    if stream.read_exact(&mut preface).await.is_err() || preface != PREFACE {
        return;
    }
    let mut peer = Peer::over(stream);
    peer.write(&settings(&[])).await;
    let mut answered = 0;
    while !peer.ended {
        let asked: Vec<u32> = peer
            .streams
            .iter()
            .filter(|(stream, got)| **stream > answered && got.ended)
            .map(|(stream, _)| *stream)
            .collect();
        for stream in asked {
            answered = stream;
            let once = answer(stream);
            let per_push = (64 * 1024 / once.len().max(1)).max(1);
            let many = once.repeat(times.min(per_push));
            for _ in 0..times.div_ceil(per_push) {
                peer.push(&many, PATIENCE).await;
            }
        }
        peer.listen(Duration::from_millis(2)).await;
    }
}

/// One request to `evil` on a connection of its own.
async fn ask(ground: &Http2Ground) -> crate::http2_frames::Got {
    let mut peer = Peer::client(ground.mesh.sidecar.outbound()).await;
    let request = crate::http2_frames::get(1, "/", &[(":authority", "evil:8080")]);
    peer.write(&request).await;
    let is_over = |peer: &Peer| peer.ended || peer.streams.get(&1).is_some_and(|got| got.is_over());
    peer.until("the answer's end", is_over).await;
    assert!(
        !peer.ended && peer.goaway.is_none(),
        "the caller's connection was ended"
    );
    peer.streams[&1].clone()
}

fn head(stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, &encode(fields))
}

#[tokio::test]
async fn the_raw_application_is_understood() {
    let ground = Http2Ground::start().await;
    let raw = evil(
        &ground,
        |stream| head(stream, &[(":status", "204")], true),
        1,
    )
    .await;
    assert_eq!(ask(&ground).await.status, 204);
    assert_eq!(raw.accepted.load(SeqCst), 1);
}

#[tokio::test]
async fn malformed_answers_are_failures() {
    let ground = Http2Ground::start().await;
    let answers: [(&str, Answer); 8] = [
        ("no status", |stream| head(stream, &[("x", "1")], true)),
        ("a status of letters", |stream| {
            head(stream, &[(":status", "abc")], true)
        }),
        ("connection", |stream| {
            head(stream, &[(":status", "200"), ("connection", "close")], true)
        }),
        ("transfer-encoding", |stream| {
            head(
                stream,
                &[(":status", "200"), ("transfer-encoding", "chunked")],
                true,
            )
        }),
        ("upper case", |stream| {
            head(stream, &[(":status", "200"), ("X", "1")], true)
        }),
        ("LF in a value", |stream| {
            head(
                stream,
                &[(":status", "200"), ("x", "a\nset-cookie: b")],
                true,
            )
        }),
        ("a reset", |stream| reset(stream, 2)),
        ("101, which HTTP/2 has not", |stream| {
            head(stream, &[(":status", "101")], false)
        }),
    ];
    for (what, answer) in answers {
        let raw = evil(&ground, answer, 1).await;
        // The service is the same, so a connection to the last one is gone first.
        let got = ask(&ground).await;
        assert!(
            got.status == 502 || got.status == 0 && got.reset.is_some(),
            "{what}: {got:?}"
        );
        assert_eq!(got.field("set-cookie"), "", "{what}");
        drop(raw);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_answer_unlike_its_length_is_never_whole() {
    let ground = Http2Ground::start().await;
    let answers: [(&str, Answer); 2] = [
        ("longer", |stream| {
            let head = head(
                stream,
                &[(":status", "200"), ("content-length", "2")],
                false,
            );
            [head, data(stream, b"hello", true)].concat()
        }),
        ("shorter", |stream| {
            let head = head(
                stream,
                &[(":status", "200"), ("content-length", "20")],
                false,
            );
            [head, data(stream, b"hello", true)].concat()
        }),
    ];
    for (what, answer) in answers {
        let raw = evil(&ground, answer, 1).await;
        let got = ask(&ground).await;
        assert!(got.status == 502 || got.reset.is_some(), "{what}: {got:?}");
        drop(raw);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What an application floods with, and how often.
const FLOODS: [(&str, Answer, usize); 8] = [
    ("SETTINGS", |_| settings(&[]), 100_000),
    (
        "PING",
        |_| frame(kind::PING, flag::NONE, 0, b"12345678"),
        100_000,
    ),
    ("WINDOW_UPDATE", |_| window_update(0, 1), 100_000),
    (
        "PUSH_PROMISE",
        |stream| {
            let block = [&[0, 0, 0, 2][..], &encode(&[(":method", "GET")])].concat();
            frame(kind::PUSH_PROMISE, flag::END_HEADERS, stream, &block)
        },
        1000,
    ),
    (
        "CONTINUATION",
        |stream| {
            let head = frame(
                kind::HEADERS,
                flag::NONE,
                stream,
                &encode(&[(":status", "200")]),
            );
            let more = frame(
                kind::CONTINUATION,
                flag::NONE,
                stream,
                &encode(&[("x", &"y".repeat(4000))]),
            );
            [head, more.repeat(1000)].concat()
        },
        1,
    ),
    (
        "informational answers",
        |stream| head(stream, &[(":status", "103")], false),
        50_000,
    ),
    (
        "empty DATA",
        |stream| {
            let first = head(stream, &[(":status", "200")], false);
            [first, data(stream, b"", false).repeat(50_000)].concat()
        },
        1,
    ),
    (
        "a bomb",
        |stream| {
            let mut block = encode(&[(":status", "200")]);
            block.extend(indexed_literal("x-bomb", &"b".repeat(3900)));
            block.extend([NEWEST; 10_000]);
            frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::END_STREAM,
                stream,
                &block,
            )
        },
        1,
    ),
];

#[tokio::test]
async fn floods_from_an_application_are_cut_off_or_cost_little() {
    let ground = Http2Ground::start().await;
    for (what, answer, times) in FLOODS {
        let attack = Attack::begin_http2(&ground.mesh, ground.faces()[1]).await;
        let raw = evil(&ground, answer, times).await;
        let outbound = ground.mesh.sidecar.outbound();
        let mut peer = Peer::client(outbound).await;
        peer.write(&crate::http2_frames::get(
            1,
            "/",
            &[(":authority", "evil:8080")],
        ))
        .await;
        peer.listen(Duration::from_secs(2)).await;
        assert!(
            !peer.ended && peer.goaway.is_none(),
            "{what}: the caller's connection was ended"
        );
        let got = peer.streams.get(&1).cloned().unwrap_or_default();
        assert!(!(got.ended && got.status == 200), "{what}: {got:?}");
        let told = peer.heard.values().sum::<usize>();
        assert!(told < 2_000, "{what}: {told} frames of it were passed on");
        attack
            .end(&format!("{what} from the application"), 8, 8.0)
            .await;
        drop(raw);
    }
}

#[tokio::test]
async fn informational_answers_without_end_are_a_failure() {
    let ground = Http2Ground::start().await;
    let _raw = evil(
        &ground,
        |stream| head(stream, &[(":status", "103")], false),
        100,
    )
    .await;
    let got = ask(&ground).await;
    assert_eq!(got.status, 502, "{got:?}");
    // Some, as many as an answer may have, are no fault.
    let ground = Http2Ground::start().await;
    let _raw = evil(
        &ground,
        |stream| {
            let hints = head(stream, &[(":status", "103")], false).repeat(60);
            [hints, head(stream, &[(":status", "204")], true)].concat()
        },
        1,
    )
    .await;
    assert_eq!(ask(&ground).await.status, 204);
}

#[tokio::test]
async fn requests_that_a_goaway_or_a_refused_stream_turned_away_are_sent_again() {
    let ground = Http2Ground::start().await;
    // Its first connection turns everything away, its second serves.
    let address = ground.mesh.net.at(11);
    let refusals: [(&str, Answer); 2] = [
        ("GOAWAY with last stream 0", |_| {
            frame(kind::GOAWAY, 0, 0, &[0; 8])
        }),
        ("REFUSED_STREAM", |stream| {
            reset(stream, crate::http2_frames::code::REFUSED_STREAM)
        }),
    ];
    for (what, refusal) in refusals {
        let listener = crate::bind(address).await;
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            let mut answers = vec![refusal];
            while let Ok((stream, _)) = listener.accept().await {
                let ok: Answer = |stream| head(stream, &[(":status", "204")], true);
                let answer = answers.pop().unwrap_or(ok);
                tasks.spawn(serve(stream, answer, 1));
            }
        });
        let good = ground.mesh.net.at(12);
        let listener = crate::bind(good).await;
        let other = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(serve(
                    stream,
                    |stream| head(stream, &[(":status", "204")], true),
                    1,
                ));
            }
        });
        ground.mesh.endpoint("evil", 0, address, |_| ());
        ground.mesh.endpoint("evil", 1, good, |_| ());
        ground.mesh.service_with("evil", |service| {
            service.policy = Some(policy());
            service.ports[0].protocol = Protocol::Http2 as i32;
        });
        for _ in 0..10 {
            let mut peer = Peer::client(ground.mesh.sidecar.outbound()).await;
            // For every method, since nothing reached the application.
            let fields = [(":authority", "evil:8080"), (":method", "POST")];
            peer.write(&crate::http2_frames::get(1, "/", &fields)).await;
            let got = peer.over_on(1).await;
            assert_eq!(got.status, 204, "{what}: {got:?}");
        }
        task.abort();
        other.abort();
        let _ = (task.await, other.await);
    }
}

/// As nginx ends a connection after `keepalive_requests`.
#[tokio::test]
async fn what_the_pods_own_application_turns_away_by_goaway_is_sent_again() {
    let mesh = Mesh::start().await;
    // The second request on each connection is turned away.
    let answer: Answer = |stream| match stream {
        1 => head(stream, &[(":status", "204")], true),
        _ => frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
    };
    let listener = crate::bind(mesh.net.at(2)).await;
    let application = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            tasks.spawn(serve(stream, answer, 1));
        }
    });
    declare(&mesh, Protocol::Http2);
    let mut peer = Peer::client(mesh.sidecar.inbound(PORT)).await;
    for stream in (1..20).step_by(2) {
        let fields = [(":authority", "web:8080"), (":method", "POST")];
        peer.write(&crate::http2_frames::get(stream, "/", &fields))
            .await;
        let got = peer.over_on(stream).await;
        assert_eq!(got.status, 204, "request {stream}: {got:?}");
    }
    application.abort();
}
