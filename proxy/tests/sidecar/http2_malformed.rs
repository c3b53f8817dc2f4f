//! HTTP/2 requests that are not what they should be (RFC 9113, section 8), and
//! connections that begin or end oddly.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::attack::{Http2Ground, connect, listen};
use crate::eventually;
use crate::http2_app::{Http2App, Http2Caller};
use crate::http2_fields::encode;
use crate::http2_frames::{
    PREFACE, Peer, code, data, fields, flag, frame, get, kind, post, reset, settings,
};
use crate::mesh::PORT;

#[tokio::test]
async fn the_raw_peer_is_understood_by_another_implementation() {
    let app = Http2App::start(crate::mesh::Net::next().at(9)).await;
    let mut peer = Peer::client(app.address()).await;
    let got = peer.ask(1, "/").await;
    assert_eq!(
        (got.status, got.body.as_slice(), got.ended),
        (200, &b"hello"[..], true)
    );
    assert_eq!(peer.ask(3, "/trailers/5").await.field("grpc-status"), "0");
    assert_eq!(peer.ask(5, "/big/1000000").await.body.len(), 1_000_000);
    peer.write(&get(7, "/", &[("connection", "close")])).await;
    assert_eq!(peer.over_on(7).await.reset, Some(code::PROTOCOL_ERROR));
    peer.write(&get(8, "/", &[])).await;
    assert!(peer.ends_within(Duration::from_secs(3)).await);
    assert_eq!(peer.goaway, Some(code::PROTOCOL_ERROR));
}

#[tokio::test]
async fn malformed_requests_end_their_stream_and_reach_nobody() {
    let ground = Http2Ground::start().await;
    let malformed: [(&str, &[(&str, &str)]); 22] = [
        ("connection", &[("connection", "close")]),
        ("keep-alive", &[("keep-alive", "timeout=5")]),
        ("proxy-connection", &[("proxy-connection", "keep-alive")]),
        ("transfer-encoding", &[("transfer-encoding", "chunked")]),
        ("upgrade", &[("upgrade", "h2c")]),
        ("te other than trailers", &[("te", "gzip")]),
        ("upper case", &[("X-Upper", "1")]),
        ("a space in a name", &[("x y", "1")]),
        ("a colon in a name", &[("x:y", "1")]),
        ("CR in a value", &[("x", "a\rb")]),
        ("LF in a value", &[("x", "a\nSet-Cookie: b")]),
        ("NUL in a value", &[("x", "a\0b")]),
        ("no method", &[(":method", "")]),
        ("no scheme", &[(":scheme", "")]),
        ("no path", &[(":path", "")]),
        ("an unknown pseudo-header", &[(":other", "x")]),
        ("a status", &[(":status", "200")]),
        ("CR in the path", &[(":path", "/a\r\nHost:x")]),
        ("a space in the path", &[(":path", "/a b HTTP/1.1")]),
        (
            "an authority with user",
            &[(":authority", "u@catalog:8080")],
        ),
        ("a method that is no token", &[(":method", "GE T")]),
        ("Host unlike authority", &[("host", "other:8080")]),
    ];
    let before = ground.catalog.requests() + ground.own.requests();
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for face in ground.faces() {
        for (what, extra) in malformed {
            let mut peer = Peer::client(face).await;
            peer.write(&get(1, "/malformed", extra)).await;
            let is_over =
                |peer: &Peer| peer.ended || peer.streams.get(&1).is_some_and(|got| got.is_over());
            peer.until("its end", is_over).await;
            let got = peer.streams.get(&1).cloned().unwrap_or_default();
            // `h2` decodes fields before it looks for their stream, and takes what
            // can be no field for a fault of the connection: the sender's own.
            if peer.goaway == Some(code::PROTOCOL_ERROR) {
                continue;
            }
            let sound = got.status == 400 || got.reset == Some(code::PROTOCOL_ERROR);
            if !sound || peer.goaway.is_some() || peer.ended {
                wrong.push(format!("{face} {what}: {got:?}, GOAWAY: {:?}", peer.goaway));
                continue;
            }
            asked += 1;
            if peer.ask(3, "/").await.status != 200 {
                wrong.push(format!("{face} {what}: the connection was lost"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        asked >= malformed.len(),
        "only {asked} connections lived on"
    );
    assert_eq!(
        ground.catalog.requests() + ground.own.requests() - before,
        asked
    );
}

#[tokio::test]
async fn pseudo_headers_twice_late_or_in_trailers_are_malformed() {
    let ground = Http2Ground::start().await;
    let face = ground.mesh.sidecar.inbound(PORT);
    let twice = [fields("GET", "/", &[]), vec![(":path", "/other")]].concat();
    let late = [vec![("x", "1")], fields("GET", "/", &[])].concat();
    let flags = flag::END_HEADERS | flag::END_STREAM;
    for block in [encode(&twice), encode(&late)] {
        let mut peer = Peer::client(face).await;
        peer.write(&frame(kind::HEADERS, flags, 1, &block)).await;
        let got = peer.over_on(1).await;
        assert!(
            got.status == 400 || got.reset == Some(code::PROTOCOL_ERROR),
            "{got:?}"
        );
    }
    // In trailers `h2` leaves them out: they must not pass on, and do not.
    let trailers = [(":path", "/other"), ("x", "1")];
    let mut peer = Peer::client(face).await;
    peer.write(&post(1, "/echo", &[])).await;
    peer.write(&frame(kind::HEADERS, flags, 1, &encode(&trailers)))
        .await;
    let got = peer.over_on(1).await;
    assert_eq!(got.field(":path"), "", "{got:?}");
}

#[tokio::test]
async fn a_body_unlike_its_length_is_never_whole_to_the_application() {
    let ground = Http2Ground::start().await;
    for face in ground.faces() {
        for (length, bodies) in [
            ("5", ["hel", "lo world"]),
            ("50", ["hel", "lo"]),
            ("0", ["x", "y"]),
        ] {
            let mut peer = Peer::client(face).await;
            peer.write(&post(1, "/sink", &[("content-length", length)]))
                .await;
            peer.write(&data(1, bodies[0].as_bytes(), false)).await;
            peer.write(&data(1, bodies[1].as_bytes(), true)).await;
            let got = peer.over_on(1).await;
            assert_ne!(got.status, 200, "{length}: {got:?}");
            assert_eq!(peer.ask(3, "/").await.status, 200);
        }
        for lengths in [[("content-length", "+5")], [("content-length", "5, 6")]] {
            let mut peer = Peer::client(face).await;
            peer.write(&post(1, "/sink", &lengths)).await;
            peer.write(&data(1, b"hello", true)).await;
            let got = peer.over_on(1).await;
            assert_ne!(got.status, 200, "{lengths:?}: {got:?}");
        }
    }
    eventually("nothing is left in flight", async || {
        ground.catalog.in_flight() + ground.own.in_flight() == 0
    })
    .await;
}

#[tokio::test]
async fn frames_against_the_rules_end_the_connection() {
    let ground = Http2Ground::start().await;
    let wrong: [(&str, Vec<u8>); 13] = [
        ("DATA on stream 0", data(0, b"x", false)),
        ("HEADERS on stream 0", get(0, "/", &[])),
        ("HEADERS on an even stream", get(2, "/", &[])),
        (
            "a stream that goes back",
            [get(5, "/", &[]), get(3, "/", &[])].concat(),
        ),
        ("DATA on an idle stream", data(9, b"x", false)),
        (
            "CONTINUATION from nowhere",
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, b""),
        ),
        ("PING of 7 bytes", frame(kind::PING, 0, 0, b"1234567")),
        ("SETTINGS of 5 bytes", frame(kind::SETTINGS, 0, 0, b"12345")),
        ("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, b"")),
        (
            "an initial window over 2^31-1",
            settings(&[(4, 0x8000_0000)]),
        ),
        (
            "PUSH_PROMISE from a client",
            frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        (
            "a block that is no HPACK",
            frame(kind::HEADERS, 5, 1, &[0xff; 20]),
        ),
        (
            "a frame of 1 MiB",
            frame(kind::DATA, 0, 1, &vec![0; 1 << 20]),
        ),
    ];
    for (what, bytes) in wrong {
        let mut peer = Peer::client(ground.mesh.sidecar.inbound(PORT)).await;
        peer.push(&bytes, Duration::from_secs(1)).await;
        assert!(
            peer.ends_within(Duration::from_secs(3)).await,
            "{what} was endured"
        );
        assert_ne!(peer.goaway, Some(code::NO_ERROR), "{what}");
    }
}

/// `callers::HEAD_TIMEOUT` is 30 s; in explicit mode up to 10 s go by before it
/// is clear what is spoken, 5 s are for the connection's end, the rest is late.
const SILENCE_SECONDS: u64 = 48;

#[tokio::test]
async fn a_preface_that_is_wrong_or_goes_silent_ends() {
    let ground = Http2Ground::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for face in ground.faces() {
        let beginnings: [(&str, Vec<u8>, u64); 7] = [
            (
                "half of the preface between sidecars",
                b"\0remora-h".to_vec(),
                SILENCE_SECONDS,
            ),
            (
                "garbage behind that preface",
                b"\0remora-h2\ngarbage that is no HTTP/2 at all".to_vec(),
                SILENCE_SECONDS,
            ),
            (
                "HTTP/1.1 where HTTP/2 is declared",
                b"GET / HTTP/1.0\r\n\r\n".to_vec(),
                SILENCE_SECONDS,
            ),
            ("half a preface", PREFACE[..10].to_vec(), SILENCE_SECONDS),
            ("a preface and nothing", PREFACE.to_vec(), SILENCE_SECONDS),
            (
                "a preface and half a frame",
                [PREFACE, &[0, 0, 6, 4]].concat(),
                SILENCE_SECONDS,
            ),
            (
                "another preface",
                b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
                SILENCE_SECONDS,
            ),
        ];
        for (what, bytes, seconds) in beginnings {
            tasks.spawn(async move {
                // Not a `Peer`, which would acknowledge what it hears.
                let mut stream = connect(face).await;
                stream.write_all(&bytes).await.unwrap();
                let heard = listen(&mut stream, Duration::from_secs(seconds)).await;
                (face, what, heard.ended)
            });
        }
    }
    let mut wrong = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (face, what, ended) = done.unwrap();
        if !ended {
            wrong.push(format!("{face} {what}"));
        }
    }
    assert!(wrong.is_empty(), "endured: {}", wrong.join("\n"));
}

#[tokio::test]
async fn a_client_that_says_goodbye_gets_what_it_asked_for() {
    let ground = Http2Ground::start().await;
    for face in ground.faces() {
        let mut peer = Peer::client(face).await;
        peer.write(&get(1, "/big/300000", &[])).await;
        let goaway = frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0]);
        peer.write(&goaway).await;
        let got = peer.over_on(1).await;
        assert_eq!(
            (got.status, got.body.len(), got.ended),
            (200, 300_000, true)
        );
        assert!(
            peer.ends_within(Duration::from_secs(3)).await,
            "the connection stayed"
        );
    }
}

#[tokio::test]
async fn one_callers_cancellations_never_harm_anothers_streams() {
    // All share few connections to an application that counts resets, as h2 does.
    let ground = Http2Ground::start().await;
    for face in ground.faces() {
        let mut steady = Peer::client(face).await;
        steady.write(&get(1, "/never", &[])).await;
        eventually("it is in flight", async || {
            ground.catalog.in_flight() + ground.own.in_flight() == 1
        })
        .await;
        let mut other = Http2Caller::connect(face).await;
        for round in 0..20 {
            // Each leaves with 50 requests in flight, by resets or by closing.
            let mut leaving = Peer::client(face).await;
            for n in 0..50 {
                leaving.write(&get(2 * n + 1, "/never", &[])).await;
            }
            leaving.listen(Duration::from_millis(20)).await;
            if round % 2 == 0 {
                for n in 0..50 {
                    leaving.write(&reset(2 * n + 1, code::CANCEL)).await;
                }
            }
            drop(leaving);
            let answer = other.get("/").await.expect("another caller's connection");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        steady.listen(Duration::from_millis(100)).await;
        assert!(!steady.ended && steady.goaway.is_none());
        let got = steady.streams.get(&1).cloned().unwrap_or_default();
        assert!(!got.is_over(), "a stream that lasts was ended: {got:?}");
        eventually("only the one is in flight", async || {
            ground.catalog.in_flight() + ground.own.in_flight() == 1
        })
        .await;
        drop(steady);
        eventually("nothing is in flight", async || {
            ground.catalog.in_flight() + ground.own.in_flight() == 0
        })
        .await;
    }
}

#[tokio::test]
async fn our_headers_are_stripped_both_ways_and_others_pass() {
    let ground = Http2Ground::start().await;
    for face in ground.faces() {
        let mut peer = Peer::client(face).await;
        let extra = [
            ("x-remora-reason", "fault"),
            ("x-remora-identity", "admin"),
            ("x_under", "1"),
            ("te", "trailers"),
        ];
        peer.write(&get(1, "/trailers/5", &extra)).await;
        let got = peer.over_on(1).await;
        assert_eq!((got.status, got.field("grpc-status")), (200, "0"));
        assert_eq!(got.field("x-remora-reason"), "");
        let mut caller = Http2Caller::connect(face).await;
        let answer = caller.get("/trailers/5").await.unwrap();
        assert_eq!((answer.reason.as_str(), answer.body.len()), ("", 5));
        assert_eq!(answer.trailers["grpc-status"], "0");
    }
}
