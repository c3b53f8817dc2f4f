//! What a hostile or broken peer meets.

use std::time::Duration;

use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn ok_relay() -> Relay {
    let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
        let _ = respond.send_response(Response::new(()), true);
    })
    .await;
    Relay::start(upstream, Kind::Application).await
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `GET http /` to `a`, without Huffman coding or indexing.
fn fields() -> Vec<u8> {
    vec![0x82, 0x86, 0x84, 0x01, 1, b'a']
}

/// Says `bytes` again and again until the connection ends; the reason of the
/// GOAWAY. A client that still writes when its connection is closed may be reset
/// before it has read that: then it is tried again.
async fn flood(relay: &Relay, bytes: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    for _ in 0..5 {
        match flood_once(relay, &bytes).await {
            Flooded::Told(reason) => return Some(reason),
            Flooded::Reset => {}
            Flooded::Endured => return None,
        }
    }
    None
}

/// What a flood came to.
enum Flooded {
    /// GOAWAY, for this reason.
    Told(u32),
    /// The connection ended.
    Reset,
    /// Nothing.
    Endured,
}

async fn flood_once(relay: &Relay, bytes: impl Fn(u32) -> Vec<u8>) -> Flooded {
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let (mut reads, mut writes) = stream.split();
    let mut heard = Vec::new();
    let listening = async {
        let mut buffer = vec![0; 65536];
        while let Ok(bytes @ 1..) = reads.read(&mut buffer).await {
            heard.extend_from_slice(&buffer[..bytes]);
        }
    };
    let speaking = async {
        for turn in 0..1_000 {
            if writes.write_all(&bytes(turn)).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await
    };
    let both = async {
        tokio::select! { () = listening => {}, () = speaking => {} }
    };
    if tokio::time::timeout(Duration::from_secs(10), both)
        .await
        .is_err()
    {
        return Flooded::Endured;
    }
    let mut at = 0;
    while let Some(head) = heard.get(at..at + 9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if head[3] == 7 {
            let reason = &heard[at + 13..at + 17];
            return Flooded::Told(u32::from_be_bytes(reason.try_into().unwrap()));
        }
        at += 9 + length;
    }
    Flooded::Reset
}

const CALM: Option<u32> = Some(11);

#[test]
fn floods_of_frames_that_carry_nothing_end_the_connection() {
    run(async {
        let relay = ok_relay().await;
        let pings = frame(6, 0, 0, &[0; 8]).repeat(100);
        let settings = frame(4, 0, 0, &[]).repeat(100);
        let priorities = frame(2, 0, 3, &[0, 0, 0, 0, 1]).repeat(100);
        let windows = frame(8, 0, 0, &[0, 0, 0, 1]).repeat(100);
        let unknown = frame(0x42, 0, 0, &[0; 8]).repeat(100);
        for flooded in [pings, settings, priorities, windows, unknown] {
            let ended = flood(&relay, |_| flooded.clone()).await;
            assert_eq!(ended, CALM, "frames of kind {}", flooded[3]);
        }
        until(|| relay.callers.is_empty()).await;
    });
}

#[test]
fn rapid_resets_end_the_connection() {
    run(async {
        let relay = ok_relay().await;
        let ended = flood(&relay, |turn| {
            (0..50)
                .flat_map(|number| {
                    let stream = (turn * 50 + number) * 2 + 1;
                    let mut both = frame(1, 5, stream, &fields());
                    both.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
                    both
                })
                .collect()
        })
        .await;
        assert_eq!(ended, CALM);
        relay.quiet().await;
    });
}

#[test]
fn continuations_without_end_end_the_connection() {
    run(async {
        let relay = ok_relay().await;
        let ended = flood(&relay, |turn| match turn {
            0 => frame(1, 0, 1, &fields()),
            _ => frame(9, 0, 1, &[]),
        })
        .await;
        assert_eq!(ended, CALM);
    });
}

#[test]
fn empty_data_without_end_ends_the_connection() {
    run(async {
        let relay = ok_relay().await;
        let ended = flood(&relay, |turn| match turn {
            0 => frame(1, 4, 1, &fields()),
            _ => frame(0, 0, 1, &[]),
        })
        .await;
        assert_eq!(ended, CALM);
    });
}

#[test]
fn a_head_that_is_too_large_is_answered_431() {
    run(async {
        let relay = ok_relay().await;
        let mut client = client(relay.address).await;
        // Before the relay's SETTINGS have come the client does not hold it back.
        let mut large = get("/");
        for number in 0..20 {
            let value = "v".repeat(4000);
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            large.headers_mut().append(name, value.parse().unwrap());
        }
        let (answer, _) = client.send_request(large, true).unwrap();
        let status = answer.await.unwrap().status();
        assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let mut many = get("/");
        for number in 0..257 {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            many.headers_mut().append(name, "v".parse().unwrap());
        }
        let (answer, _) = client.send_request(many, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert_eq!(answer.headers()["x-remora-reason"], "bad_request");
        // The connection is as good as before.
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    });
}

/// Fields as HPACK literals without indexing.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend_from_slice(name.as_bytes());
    field.push(value.len() as u8);
    field.extend_from_slice(value.as_bytes());
    field
}

/// What the relay says to a head with these fields besides the usual.
async fn answer_to(relay: &Relay, more: &[(&str, &str)]) -> Vec<u8> {
    let mut head = fields();
    for (name, value) in more {
        head.extend(literal(name, value));
    }
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(1, 5, 1, &head)).await.unwrap();
    let mut heard = Vec::new();
    let mut at = 0;
    loop {
        while heard.len() < at + 9 || heard.len() < at + 9 + length(&heard[at..]) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
        }
        let length = length(&heard[at..]);
        if heard[at + 8] == 1 {
            return heard[at..at + 9 + length].to_vec();
        }
        at += 9 + length;
    }
}

fn length(head: &[u8]) -> usize {
    u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize
}

#[test]
fn fields_of_a_connection_and_two_hosts_are_refused() {
    run(async {
        let relay = ok_relay().await;
        // `:status: 200`, to a head that is right.
        assert_eq!(answer_to(&relay, &[("host", "a")]).await[9], 0x88);
        for wrong in [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("keep-alive", "1"),
            ("proxy-connection", "1"),
            ("te", "gzip"),
        ] {
            let answer = answer_to(&relay, &[wrong]).await;
            assert_eq!((answer[3], answer[12]), (3, 1), "{wrong:?}: {answer:?}");
        }
        for wrong in [
            [("host", "a"), ("host", "a")],
            [("host", "b"), ("x-a", "1")],
        ] {
            let answer = answer_to(&relay, &wrong).await;
            // HEADERS with `:status: 400`.
            assert_eq!((answer[3], answer[9]), (1, 0x8c), "{wrong:?}: {answer:?}");
        }
        assert_eq!(relay.seen.borrow().len(), 1);
    });
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_is_refused() {
    run(async {
        let relay = ok_relay().await;
        let answer = answer_to(&relay, &[("content-length", "5")]).await;
        assert_eq!((answer[3], answer[12]), (3, 1), "{answer:?}");
    });
}

#[test]
fn a_head_that_does_not_end_and_a_preface_that_does_not_end_expire() {
    run(async {
        let relay = ok_relay().await;
        let half_preface = &PREFACE[..10];
        let mut half_head = PREFACE.to_vec();
        half_head.extend(frame(1, 0, 1, &fields()));
        let mut part_of_a_frame = PREFACE.to_vec();
        part_of_a_frame.extend(&frame(1, 5, 1, &fields())[..11]);
        let mut streams = Vec::new();
        for said in [half_preface, &half_head, &part_of_a_frame] {
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            stream.write_all(said).await.unwrap();
            streams.push(stream);
        }
        let mut idle = TcpStream::connect(relay.address).await.unwrap();
        idle.write_all(PREFACE).await.unwrap();
        until(|| relay.callers.len() == 4).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let late = clock::now().after(crate::callers::HEAD_TIMEOUT);
        relay.callers.sweep(late);
        until(|| relay.callers.len() == 1).await;
        let mut client = client(relay.address).await;
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    });
}

/// MadeYouReset: frames that are wrong make us reset streams, which then no
/// longer count as open while their handlers run.
#[test]
fn streams_that_the_caller_makes_us_reset_end_their_handlers_and_then_the_connection() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let most: Cell<usize> = Cell::default();
        let ended = flood(&relay, |turn| {
            most.set(most.get().max(relay.handling.get()));
            let first = turn * 20;
            (first..first + 20)
                .flat_map(|number| {
                    let mut both = frame(1, 5, number * 2 + 1, &fields());
                    let beyond = 0x7fff_ffffu32.to_be_bytes();
                    both.extend(frame(8, 0, number * 2 + 1, &beyond));
                    both
                })
                .collect()
        })
        .await;
        assert_eq!(ended, CALM);
        assert!(most.get() <= 2_000, "{} at once", most.get());
        relay.quiet().await;
    });
}

#[test]
fn a_head_that_unpacks_to_very_much_is_not_unpacked() {
    run(async {
        let relay = ok_relay().await;
        // One field of 3,900 bytes for the table, then the table's entry 15,000 times.
        let mut first = vec![0x82, 0x86, 0x84, 0x01, 1, b'a', 0x40, 1, b'x', 0x7f];
        let length = 3_900usize - 127;
        first.extend_from_slice(&[(length % 128) as u8 | 0x80, (length / 128) as u8]);
        first.resize(first.len() + 3_900, b'v');
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(&frame(1, 5, 1, &first)).await.unwrap();
        let mut bomb = fields();
        bomb.resize(15_000, 0xbe);
        stream.write_all(&frame(1, 5, 3, &bomb)).await.unwrap();
        let mut heard = Vec::new();
        let reading = async { while stream.read_buf(&mut heard).await.unwrap_or(0) > 0 {} };
        let _ = tokio::time::timeout(Duration::from_millis(500), reading).await;
        // The first was a request; of the second no handler heard.
        assert!(relay.seen.borrow().len() <= 1);
        // 431 on its stream, or the end of the connection.
        let calm = heard.windows(4).any(|bytes| bytes == [0, 0, 0, 11]);
        let refused = heard.windows(3).any(|bytes| bytes == b"431");
        assert!(calm || refused, "{heard:?}");
    });
}

#[test]
fn callers_without_window_hold_their_windows_and_do_not_stop_others() {
    run(async {
        let sent: Rc<Cell<usize>> = Rc::default();
        let noted = Rc::clone(&sent);
        let upstream = upstream(move |_, mut respond: SendResponse<Bytes>| {
            let noted = Rc::clone(&noted);
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                while send(&mut stream, 16 * 1024).await.is_ok() {
                    noted.set(noted.get() + 16 * 1024);
                }
            }
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(0);
        let mut client = client_with(relay.address, &builder).await;
        let mut bodies = Vec::new();
        for _ in 0..90 {
            let (answer, _) = client.send_request(get("/"), true).unwrap();
            bodies.push(answer.await.unwrap().into_body());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Each that stands still holds its stream's window and what is in hand.
        let bound = 90 * (crate::http2::settings::STREAM_WINDOW as usize + 64 * 1024);
        assert!(sent.get() <= bound, "{} of {bound}", sent.get());
        // On the same connection upstream another caller gets all that it reads.
        let mut other = super::client(relay.address).await;
        let (answer, _) = other.send_request(get("/"), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let mut read = 0;
        while read < 4 << 20 {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            read += data.len();
        }
        drop(body);
        drop(bodies);
        relay.quiet().await;
    });
}
