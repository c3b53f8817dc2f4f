//! Attacks by HTTP/2 on streams and on the connection: each is cut off, costs
//! no more than it says here, and another caller is served meanwhile.

use std::time::Duration;

use remora_proto::v1::Protocol;

use crate::attack::{Attack, Http2Ground};
use crate::eventually;
use crate::http2_fields::{NEWEST, encode, indexed_literal};
use crate::http2_frames::{
    Peer, code, data, fields, flag, frame, get, kind, post, reset, settings, window_update,
};
use crate::mesh::{PORT, policy};

/// So long a flood may go on before it is taken to be endured for ever.
const PATIENCE: Duration = Duration::from_secs(8);

/// What is sent as number `n` of a flood.
type Bytes = fn(u32) -> Vec<u8>;

/// What a flood came to.
#[derive(Debug)]
struct Flood {
    /// Frames that the connection took.
    frames: usize,
    ended: bool,
}

/// Sends `count` times what `bytes` says, while listening.
async fn flood(peer: &mut Peer, count: u32, bytes: impl Fn(u32) -> Vec<u8>) -> Flood {
    let mut frames = 0;
    let began = std::time::Instant::now();
    for first in (0..count).step_by(100) {
        let pieces: Vec<_> = (first..count.min(first + 100)).map(&bytes).collect();
        let left = PATIENCE.saturating_sub(began.elapsed());
        let written = peer.push(&pieces.concat(), left).await;
        frames += (written / pieces[0].len().max(1)).min(pieces.len());
        if peer.ended || peer.goaway.is_some() || left.is_zero() {
            break;
        }
    }
    let ended = peer.goaway.is_some() || peer.ends_within(Duration::from_secs(1)).await;
    Flood { frames, ended }
}

/// Odd numbers: a client's streams.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// h2 warns of every acknowledgement that nobody asked for.
#[tokio::test]
async fn a_flood_says_so_in_one_line_of_the_log() {
    let ground = Http2Ground::start().await;
    let (mut peer, attack) = ground.attacker().await;
    let before = ground.mesh.sidecar.log().lines().count();
    let flooded = flood(&mut peer, 50_000, |_| {
        frame(kind::PING, flag::ACK, 0, b"unasked!")
    })
    .await;
    assert!(flooded.ended, "50,000 answers to no PING: {flooded:?}");
    attack.end("answers to no PING", 2, 5.0).await;
    let log = ground.mesh.sidecar.log();
    let said: Vec<&str> = log.lines().skip(before).collect();
    assert_eq!(said.len(), 1, "{} lines: {:?}", said.len(), said.first());
    assert!(said[0].contains("floods its connection"), "{}", said[0]);
}

#[tokio::test]
async fn rapid_resets_are_cut_off() {
    let ground = Http2Ground::start().await;
    let (mut peer, attack) = ground.attacker().await;
    let flooded = flood(&mut peer, 50_000, |n| {
        let mut bytes = get(stream(n), "/never", &[]);
        bytes.extend(reset(stream(n), code::CANCEL));
        bytes
    })
    .await;
    assert!(
        flooded.ended,
        "50,000 streams were begun and reset: {flooded:?}"
    );
    let most = ground
        .own
        .counts
        .most
        .load(std::sync::atomic::Ordering::SeqCst);
    assert!(most <= 1000, "{most} of them at the application at a time");
    attack
        .end(&format!("rapid reset, {} streams", flooded.frames), 8, 10.0)
        .await;
    eventually("nothing is left of it", async || {
        ground.own.in_flight() == 0
    })
    .await;
}

#[tokio::test]
async fn streams_that_a_client_makes_the_server_reset_are_cut_off() {
    // "MadeYouReset": the client never resets, it only provokes resets.
    let ground = Http2Ground::start().await;
    let provocations: [(&str, Bytes); 4] = [
        ("WINDOW_UPDATE of 0", |n| {
            [get(n, "/never", &[]), window_update(n, 0)].concat()
        }),
        ("WINDOW_UPDATE over 2^31-1", |n| {
            [get(n, "/never", &[]), window_update(n, 0x7fff_ffff)].concat()
        }),
        ("DATA beyond END_STREAM", |n| {
            [get(n, "/never", &[]), data(n, b"x", true)].concat()
        }),
        ("DATA beyond content-length", |n| {
            [
                post(n, "/never", &[("content-length", "1")]),
                data(n, b"xyz", true),
            ]
            .concat()
        }),
    ];
    for (what, provocation) in provocations {
        let (mut peer, attack) = ground.attacker().await;
        let flooded = flood(&mut peer, 50_000, |n| provocation(stream(n))).await;
        assert!(flooded.ended, "{what}: {flooded:?}");
        attack
            .end(&format!("{what}, {} streams", flooded.frames), 8, 10.0)
            .await;
        eventually("nothing is left of it", async || {
            ground.own.in_flight() == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_header_block_without_end_is_cut_off() {
    let ground = Http2Ground::start().await;
    let field = encode(&[("x", &"y".repeat(4000))]);
    let piece = |n: u32| match n {
        0 => frame(
            kind::HEADERS,
            flag::NONE,
            1,
            &encode(&fields("GET", "/", &[])),
        ),
        _ => frame(kind::CONTINUATION, flag::NONE, 1, &field),
    };
    let (mut peer, attack) = ground.attacker().await;
    let flooded = flood(&mut peer, 5_000, piece).await;
    assert!(flooded.ended, "20 MiB of one header block were taken");
    attack
        .end(
            &format!("CONTINUATION of 4 KiB, {} frames", flooded.frames),
            4,
            5.0,
        )
        .await;
    // Empty ones cost no bytes, so they are counted.
    let (mut peer, attack) = ground.attacker().await;
    let flooded = flood(&mut peer, 100_000, |n| match n {
        0 => piece(0),
        _ => frame(kind::CONTINUATION, flag::NONE, 1, &[]),
    })
    .await;
    assert!(
        flooded.ended,
        "100,000 empty CONTINUATION frames were taken"
    );
    attack
        .end(
            &format!("empty CONTINUATION, {} frames", flooded.frames),
            4,
            5.0,
        )
        .await;
}

#[tokio::test]
async fn a_header_block_that_unpacks_to_much_is_refused() {
    let ground = Http2Ground::start().await;
    for face in ground.faces() {
        let attack = Attack::begin_http2(&ground.mesh, face).await;
        let mut peer = Peer::client(face).await;
        let before = ground.own.requests() + ground.catalog.requests();
        // One entry of 4000 bytes, and then a byte for each further 4000.
        let mut block = encode(&fields("GET", "/bomb", &[]));
        block.extend(indexed_literal("x-bomb", &"b".repeat(3900)));
        block.extend([NEWEST; 10_000]);
        let flags = flag::END_HEADERS | flag::END_STREAM;
        peer.write(&frame(kind::HEADERS, flags, 1, &block)).await;
        let is_over = |peer: &Peer| {
            peer.ended
                || peer.goaway.is_some()
                || peer.streams.get(&1).is_some_and(|got| got.is_over())
        };
        peer.until("its end", is_over).await;
        let got = peer.streams.get(&1).cloned().unwrap_or_default();
        assert!(got.status == 431 || got.status == 0, "{got:?}");
        attack.end("a bomb of 40 MB in 14 KB", 4, 2.0).await;
        let paths = ground.own.requests() + ground.catalog.requests();
        assert!(paths >= before, "the other caller was served");
    }
}

#[tokio::test]
async fn heads_over_64_kib_or_256_fields_get_431_and_the_connection_lives() {
    let ground = Http2Ground::start().await;
    for face in ground.faces() {
        let mut peer = Peer::client(face).await;
        let long = "l".repeat(12 * 1024);
        let mut block = encode(&fields("GET", "/", &[]));
        for name in ["a", "b", "c", "d", "e", "f"] {
            block.extend(encode(&[(name, &long)]));
        }
        for (at, piece) in block.chunks(16_000).enumerate() {
            let last = (at + 1) * 16_000 >= block.len();
            let bytes = match at {
                0 => frame(kind::HEADERS, flag::END_STREAM, 1, piece),
                _ => frame(
                    kind::CONTINUATION,
                    if last { flag::END_HEADERS } else { 0 },
                    1,
                    piece,
                ),
            };
            peer.write(&bytes).await;
        }
        assert_eq!(peer.over_on(1).await.status, 431);
        let many: Vec<_> = (0..260).map(|n| format!("x-{n}")).collect();
        let extra: Vec<_> = many.iter().map(|name| (name.as_str(), "1")).collect();
        peer.write(&get(3, "/", &extra)).await;
        let got = peer.over_on(3).await;
        assert_eq!(
            (got.status, got.field("x-remora-reason")),
            (431, "bad_request")
        );
        assert_eq!(peer.ask(5, "/").await.status, 200);
    }
}

#[tokio::test]
async fn floods_of_settings_pings_and_empty_data_are_cut_off() {
    let ground = Http2Ground::start().await;
    let floods: [(&str, Bytes); 5] = [
        ("SETTINGS", |_| settings(&[])),
        ("SETTINGS with values", |n| {
            settings(&[(4, 65_535 + n % 2), (1, n % 2 * 4096)])
        }),
        ("PING", |n| {
            frame(kind::PING, flag::NONE, 0, &u64::from(n).to_be_bytes())
        }),
        ("empty DATA", |n| match n {
            0 => post(1, "/sink", &[]),
            _ => data(1, b"", false),
        }),
        ("padding only", |n| match n {
            0 => post(1, "/sink", &[]),
            _ => frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0]),
        }),
    ];
    for (what, bytes) in floods {
        let (mut peer, attack) = ground.attacker().await;
        let flooded = flood(&mut peer, 200_000, bytes).await;
        assert!(flooded.ended, "{what}: {flooded:?}");
        attack
            .end(&format!("{what}, {} frames", flooded.frames), 4, 8.0)
            .await;
    }
}

#[tokio::test]
async fn what_nobody_reads_is_not_answered_for_ever() {
    // Each asks for an answer, and the client reads none of them.
    let ground = Http2Ground::start().await;
    let floods: [(&str, Bytes); 3] = [
        ("PING", |n| {
            frame(kind::PING, flag::NONE, 0, &u64::from(n).to_be_bytes())
        }),
        ("SETTINGS", |_| settings(&[])),
        ("requests that are refused", |n| {
            get(stream(n), "/", &[("te", "gzip")])
        }),
    ];
    for (what, bytes) in floods {
        let (mut peer, attack) = ground.attacker().await;
        let all: Vec<u8> = (0..300_000).flat_map(bytes).collect();
        let _ = tokio::time::timeout(Duration::from_secs(2), peer.write(&all)).await;
        attack.end(&format!("{what}, unread"), 6, 8.0).await;
    }
}

#[tokio::test]
async fn floods_that_ask_for_no_answer_cost_little() {
    let ground = Http2Ground::start().await;
    let floods: [(&str, Bytes); 3] = [
        ("PRIORITY", |n| {
            frame(
                kind::PRIORITY,
                flag::NONE,
                stream(n % 1000),
                &[0, 0, 0, 0, 16],
            )
        }),
        ("WINDOW_UPDATE", |_| window_update(0, 1)),
        ("frames of no known type", |_| {
            frame(0xfa, flag::NONE, 0, b"unknown")
        }),
    ];
    for (what, bytes) in floods {
        let (mut peer, attack) = ground.attacker().await;
        let flooded = flood(&mut peer, 100_000, bytes).await;
        attack.end(&format!("{what}: {flooded:?}"), 4, 8.0).await;
    }
}

#[tokio::test]
async fn streams_beyond_the_allowed_number_are_refused_one_by_one() {
    let ground = Http2Ground::start().await;
    let (mut peer, attack) = ground.attacker().await;
    let allowed = *peer
        .settings
        .get(&3)
        .expect("MAX_CONCURRENT_STREAMS is told");
    assert!((100..=1000).contains(&allowed), "{allowed}");
    for n in 0..allowed {
        peer.write(&get(stream(n), "/never", &[])).await;
    }
    peer.listen(Duration::from_millis(300)).await;
    for n in allowed..allowed + 20 {
        peer.write(&get(stream(n), "/", &[])).await;
        assert_eq!(
            peer.over_on(stream(n)).await.reset,
            Some(code::REFUSED_STREAM)
        );
    }
    assert_eq!(peer.goaway, None);
    // One ends, and one more may begin.
    peer.write(&reset(1, code::CANCEL)).await;
    peer.listen(Duration::from_millis(200)).await;
    assert_eq!(peer.ask(stream(allowed + 30), "/").await.status, 200);
    attack
        .end(&format!("{allowed} streams that never end"), 32, 10.0)
        .await;
    drop(peer);
    eventually("nothing is left of them", async || {
        ground.own.in_flight() == 0
    })
    .await;
}

/// Bodies that nobody takes: as many as the window of the shared connection
/// upstream has room for (16 MiB, 512 KiB for each) with some left for others.
const STALLED: u32 = 24;

#[tokio::test]
async fn a_client_that_never_opens_its_window_holds_only_its_own_streams() {
    let ground = Http2Ground::start().await;
    let (mut peer, attack) = ground.attacker().await;
    peer.credits = false;
    // No window for any stream's body at all.
    peer.write(&settings(&[(4, 0)])).await;
    peer.listen(Duration::from_millis(100)).await;
    for n in 0..STALLED {
        peer.write(&get(stream(n), "/big/67108864", &[])).await;
    }
    peer.listen(Duration::from_secs(2)).await;
    let made = ground
        .own
        .counts
        .made
        .load(std::sync::atomic::Ordering::SeqCst);
    // Of 64 MiB each the sidecar takes what its streams' windows upstream allow,
    // 512 KiB; the application's own buffers are 400 KB for each.
    assert!(
        made <= u64::from(STALLED) << 20,
        "{made} bytes were taken for a client that takes none"
    );
    let what = format!("{STALLED} stalled bodies");
    attack.end(&what, u64::from(STALLED), 6.0).await;
    assert!(peer.streams.values().all(|got| got.body.is_empty()));
    assert_eq!(peer.goaway, None);
    // A stream without a body is not held up.
    peer.write(&frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        stream(STALLED),
        &encode(&fields("HEAD", "/", &[])),
    ))
    .await;
    assert_eq!(peer.over_on(stream(STALLED)).await.status, 200);
    drop(peer);
    eventually("nothing is left of them", async || {
        ground.own.in_flight() == 0
    })
    .await;
    let mut other = Peer::client(ground.mesh.sidecar.inbound(PORT)).await;
    assert_eq!(other.ask(1, "/big/1048576").await.body.len(), 1 << 20);
}

#[tokio::test]
async fn a_stalled_stream_ends_with_its_idle_timeout() {
    let ground = Http2Ground::start().await;
    let mut policy = policy();
    policy.timeouts = Some(remora_proto::v1::Timeouts {
        idle_ms: Some(500),
        ..Default::default()
    });
    ground.mesh.service_with("catalog", |service| {
        service.policy = Some(policy);
        service.ports[0].protocol = Protocol::Http2 as i32;
    });
    eventually("the stream is reset", async || {
        let mut peer = Peer::client(ground.mesh.sidecar.outbound()).await;
        peer.credits = false;
        peer.write(&get(1, "/big/67108864", &[])).await;
        peer.listen(Duration::from_secs(2)).await;
        let got = peer.streams[&1].clone();
        got.reset.is_some() && !got.ended && peer.goaway.is_none()
    })
    .await;
    eventually("the application is told", async || {
        ground.catalog.in_flight() == 0
    })
    .await;
}

#[tokio::test]
async fn windows_that_overflow_end_what_they_belong_to() {
    let ground = Http2Ground::start().await;
    for face in ground.faces() {
        let mut peer = Peer::client(face).await;
        peer.write(&get(1, "/never", &[])).await;
        peer.write(&window_update(1, 0x7fff_ffff)).await;
        assert_eq!(peer.over_on(1).await.reset, Some(code::FLOW_CONTROL_ERROR));
        assert_eq!(peer.ask(3, "/").await.status, 200);
        peer.write(&window_update(0, 0x7fff_ffff)).await;
        assert!(peer.ends_within(Duration::from_secs(2)).await);
        assert_eq!(peer.goaway, Some(code::FLOW_CONTROL_ERROR));
    }
}

/// Each stream may hold what its window let through; a thousand at once may not
/// each hold so much, and those who stand still make room.
#[tokio::test]
async fn a_thousand_answers_that_nobody_reads_are_bounded_and_given_up() {
    let ground = Http2Ground::start().await;
    let (mut peer, attack) = ground.attacker().await;
    let all: Vec<u8> = (0..1_000)
        .flat_map(|n| get(stream(n), "/big/3000000", &[]))
        .collect();
    peer.write(&settings(&[(4, 0x7fff_ffff)])).await;
    peer.write(&window_update(0, 0x7fff_ffff - 65_535)).await;
    peer.write(&all).await;
    eventually("they are asked for", async || ground.own.requests() > 1_000).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    attack.end("a thousand answers, unread", 128, 8.0).await;
    eventually("those that stand still are given up", async || {
        let stats = ground.mesh.sidecar.json("/stats").await;
        let ports = stats["inbound"].as_array().unwrap();
        let in_flight = ports.iter().map(|port| port["in_flight"].as_u64().unwrap());
        in_flight.sum::<u64>() <= 512
    })
    .await;
}
