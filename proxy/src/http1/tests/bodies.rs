//! Bodies: their framing, their size, who waits for whom.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stage::{accept, read_all, read_bytes, read_head, story, write};
use crate::callers::ANSWER_STALL;
use crate::clock;

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

/// Bytes that show when something is lost or swapped.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_the_same_time() {
    const SIZE: usize = 3_000_000;
    for chunked in [false, true] {
        story(async |mut client, upstream, relay| {
            let framing = if chunked {
                "transfer-encoding: chunked".to_owned()
            } else {
                format!("content-length: {SIZE}")
            };
            let body = if chunked {
                let mut body = Vec::new();
                for piece in pattern(SIZE).chunks(70_001) {
                    body.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                    body.extend(piece);
                    body.extend(b"\r\n");
                }
                body.extend(b"0\r\n\r\n");
                body
            } else {
                pattern(SIZE)
            };
            let (mut from_client, mut to_client) = client.split();
            let asking = async {
                let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n");
                to_client.write_all(head.as_bytes()).await.unwrap();
                to_client.write_all(&body).await.unwrap();
            };
            let serving = async {
                let mut server = accept(&upstream).await;
                read_head(&mut server).await;
                write(
                    &mut server,
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n"),
                )
                .await;
                // Sends back what comes, as it comes.
                let (mut read, mut written) = (Vec::new(), 0);
                let mut buffer = vec![0; 50_000];
                while written < SIZE {
                    let count = server.read(&mut buffer).await.unwrap();
                    read.extend_from_slice(&buffer[..count]);
                    let more = decoded(&read, chunked);
                    server.write_all(&more[written..]).await.unwrap();
                    written = more.len();
                }
                while chunked && !read.ends_with(b"0\r\n\r\n") {
                    read.push(server.read_u8().await.unwrap());
                }
                server
            };
            let hearing = async {
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\n") {
                    answer.push(from_client.read_u8().await.unwrap());
                }
                let mut body = vec![0; SIZE];
                from_client.read_exact(&mut body).await.unwrap();
                body
            };
            let ((), _server, heard) = tokio::join!(asking, serving, hearing);
            assert!(heard == pattern(SIZE));
            assert_eq!(relay.pool.borrow().len(), 1);
        })
        .await;
    }
}

/// The data in what an upstream was sent.
fn decoded(read: &[u8], chunked: bool) -> Vec<u8> {
    if !chunked {
        return read.to_vec();
    }
    let mut data = Vec::new();
    crate::http1::chunked::Chunked::default()
        .decode(read, &mut data)
        .unwrap();
    data
}

#[tokio::test]
async fn chunks_and_trailers_pass_and_extensions_do_not() {
    story(async |mut client, upstream, relay| {
        let body = "3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\nhost: evil\r\n\r\n";
        write(&mut client, format!("{CHUNKED}{body}")).await;
        let mut server = accept(&upstream).await;
        let head = read_head(&mut server).await;
        assert!(
            head.contains("\r\ntransfer-encoding: chunked\r\n"),
            "{head}"
        );
        // In one read, and so in one chunk.
        let sent = "5\r\nabcde\r\n0\r\nx-sum: 5\r\n\r\n";
        assert_eq!(read_bytes(&mut server, sent.len()).await, sent.as_bytes());
        write(
            &mut server,
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n{body}"
            ),
        )
        .await;
        let head = read_head(&mut client).await;
        assert_eq!(
            head,
            "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(read_bytes(&mut client, sent.len()).await, sent.as_bytes());
        assert_eq!(relay.pool.borrow().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_malformed_chunk_is_the_callers_fault_and_never_reaches_the_upstream() {
    story(async |mut client, upstream, relay| {
        write(&mut client, format!("{CHUNKED}3\r\nabcXX")).await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        let (body, _) = read_all(&mut server).await;
        assert!(!body.ends_with(b"0\r\n\r\n"));
        let (answer, in_order) = read_all(&mut client).await;
        assert!(answer.starts_with(b"HTTP/1.1 502 ") && in_order);
        let errors = relay.errors.borrow();
        assert!(matches!(
            errors[..],
            [crate::upstream::SendError::Caller(_)]
        ));
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_becomes_chunks() {
    story(async |mut client, upstream, relay| {
        write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(&mut server, "HTTP/1.0 200 OK\r\n\r\nhello").await;
        let head = read_head(&mut client).await;
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert_eq!(read_bytes(&mut client, 10).await, b"5\r\nhello\r\n");
        drop(server);
        assert_eq!(read_bytes(&mut client, 5).await, b"0\r\n\r\n");
        assert!(relay.pool.borrow().is_empty());
        write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        read_head(&mut accept(&upstream).await).await;
    })
    .await;
}

#[tokio::test]
async fn an_old_client_gets_no_chunks_and_learns_by_a_reset_of_what_broke() {
    for whole in [true, false] {
        story(async |mut client, upstream, _| {
            write(&mut client, "GET / HTTP/1.0\r\n\r\n").await;
            let mut server = accept(&upstream).await;
            let head = read_head(&mut server).await;
            assert_eq!(head, "GET / HTTP/1.0\r\nx-remora-attempt: 1\r\n\r\n");
            let end = if whole { "0\r\n\r\n" } else { "" };
            write(
                &mut server,
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n{end}"),
            )
            .await;
            assert_eq!(
                read_head(&mut client).await,
                "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n"
            );
            assert_eq!(read_bytes(&mut client, 5).await, b"hello");
            drop(server);
            let (rest, in_order) = read_all(&mut client).await;
            assert!(rest.is_empty());
            assert_eq!(in_order, whole);
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    for (answer, seen) in [
        ("content-length: 10\r\n\r\nhello", &b"hello"[..]),
        (
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"5\r\nhello\r\n",
        ),
        (
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nX",
            b"5\r\nhello\r\n",
        ),
    ] {
        story(async |mut client, upstream, relay| {
            write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let mut server = accept(&upstream).await;
            read_head(&mut server).await;
            write(&mut server, format!("HTTP/1.1 200 OK\r\n{answer}")).await;
            if answer.ends_with('X') {
                // Malformed at once: nothing of that read may be counted on.
                let (all, _) = read_all(&mut client).await;
                assert!(!all.ends_with(b"0\r\n\r\n"));
                return;
            }
            read_head(&mut client).await;
            assert_eq!(read_bytes(&mut client, seen.len()).await, seen);
            drop(server);
            assert!(read_all(&mut client).await.0.is_empty());
            assert!(relay.pool.borrow().is_empty());
        })
        .await;
    }
}

#[tokio::test]
async fn more_than_the_length_says_is_not_passed_on_and_ends_the_connection_upstream() {
    story(async |mut client, upstream, relay| {
        write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(
            &mut server,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        )
        .await;
        read_head(&mut client).await;
        assert_eq!(read_bytes(&mut client, 2).await, b"ok");
        assert!(relay.pool.borrow().is_empty());
        // The next answer is that of a new connection.
        write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut second = accept(&upstream).await;
        read_head(&mut second).await;
        write(
            &mut second,
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 404 "));
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_upstream() {
    story(async |mut client, upstream, _| {
        write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(
            &mut server,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await;
        let mut sent = 0_usize;
        let piece = [&b"10000\r\n"[..], &[b'x'; 65_536], b"\r\n"].concat();
        while sent < 100_000_000 {
            match tokio::time::timeout(Duration::from_millis(300), server.write_all(&piece)).await {
                Ok(written) => written.unwrap(),
                Err(_) => break,
            }
            sent += piece.len();
        }
        // What the sockets of both connections hold, and little more.
        assert!(sent < 30_000_000, "{sent}");
        read_head(&mut client).await;
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_passes_and_its_connection_upstream_is_not_kept() {
    story(async |mut client, upstream, relay| {
        write(
            &mut client,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345",
        )
        .await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(
            &mut server,
            "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno",
        )
        .await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 413 "));
        assert_eq!(read_bytes(&mut client, 2).await, b"no");
        assert!(relay.pool.borrow().is_empty());
        // The rest of the body is no request.
        write(&mut client, "67890GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let head = read_head(&mut accept(&upstream).await).await;
        assert!(head.starts_with("GET /next "), "{head}");
    })
    .await;
}

#[tokio::test]
async fn a_small_unread_body_is_drained_and_a_large_one_ends_the_connection() {
    for (size, kept) in [(1_000, true), (10_000_000, false)] {
        story(async |mut client, _upstream, relay| {
            relay.answers_itself.set(true);
            let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n");
            write(&mut client, head).await;
            let (mut from, mut to) = client.split();
            let sending = async {
                // Breaks off where the other side closes.
                let _ = to.write_all(&vec![b'x'; size]).await;
                let _ = to.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
                if !kept {
                    let _ = to.shutdown().await;
                }
            };
            let reading = async {
                let mut all = Vec::new();
                while !(kept && all.windows(4).filter(|four| four == b"own\n").count() == 2) {
                    let mut buffer = [0; 1000];
                    match from.read(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(count) => all.extend_from_slice(&buffer[..count]),
                    }
                }
                String::from_utf8(all).unwrap()
            };
            let ((), answers) = tokio::join!(sending, reading);
            let count = answers.matches("HTTP/1.1 200 OK\r\n").count();
            assert_eq!(count, if kept { 2 } else { 1 }, "{answers}");
        })
        .await;
    }
}

#[tokio::test]
async fn who_was_not_told_to_continue_gets_its_answer_and_no_second_chance() {
    story(async |mut client, _upstream, relay| {
        relay.answers_itself.set(true);
        write(
            &mut client,
            "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 30\r\n\r\n",
        )
        .await;
        let head = read_head(&mut client).await;
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(read_bytes(&mut client, 4).await, b"own\n");
        // A body, or a request? Nobody can know.
        write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(read_all(&mut client).await.0.is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up_in_the_end() {
    story(async |mut client, upstream, relay| {
        write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(&mut server, "HTTP/1.1 200 OK\r\n\r\n").await;
        let piece = vec![b'x'; 64 * 1024];
        // Until nothing moves any more, however long the sockets take to fill:
        // how much they hold, and how fast, is the kernel's to say.
        let mut fill = async || loop {
            let before = relay.stands_at();
            let writing = server.write(&piece);
            match tokio::time::timeout(Duration::from_millis(300), writing).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return false,
                Err(_) if before.is_some() && relay.stands_at() == before => return true,
                Err(_) => {}
            }
        };
        assert!(fill().await, "the answer stands still");
        let now = clock::now();
        let sweep = |at| {
            relay.callers.sweep(at);
            relay.stands_at()
        };
        sweep(now);
        let stood = sweep(now.after(ANSWER_STALL / 2));
        // It takes some: all begins anew. A socket says that it has room only
        // once a good part of it is free.
        while relay.stands_at() == stood {
            read_bytes(&mut client, 64 * 1024).await;
        }
        assert!(fill().await);
        let mut later = now.after(ANSWER_STALL);
        let mut stood = sweep(later);
        assert!(fill().await, "it was given up although the caller takes it");
        // What a slow machine still had under way counts as taken.
        loop {
            later = later.after(ANSWER_STALL);
            match sweep(later) {
                at if at == stood => break,
                at => stood = at,
            }
            assert!(fill().await, "it was given up although the caller takes it");
        }
        let writing = async { while server.write(&piece).await.is_ok() {} };
        let given_up = tokio::time::timeout(Duration::from_secs(10), writing).await;
        assert!(given_up.is_ok(), "it is held for ever");
    })
    .await;
}
