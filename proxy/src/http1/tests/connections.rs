//! How connections are kept and how they end.

use tokio::io::AsyncWriteExt;

use super::stage::{accept, read_all, read_bytes, read_head, settle, story, write};
use crate::upstream::SendError;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_ends_after_its_answer_where_either_side_wants_it() {
    for (request, draining, says) in [
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            false,
            "connection: close\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: foo, Close\r\n\r\n",
            false,
            "connection: close\r\n",
        ),
        (
            "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
            false,
            "connection: close\r\n",
        ),
        (GET, true, "connection: close\r\n"),
    ] {
        story(async |mut client, upstream, relay| {
            relay.draining.set(draining);
            write(&mut client, request).await;
            let mut server = accept(&upstream).await;
            read_head(&mut server).await;
            write(&mut server, OK).await;
            let head = read_head(&mut client).await;
            assert!(head.contains(says), "{request} {head}");
            let (body, in_order) = read_all(&mut client).await;
            assert_eq!((&body[..], in_order), (&b"ok"[..], true));
        })
        .await;
    }
}

#[tokio::test]
async fn an_old_client_that_asks_for_it_keeps_its_connection() {
    story(async |mut client, upstream, _| {
        for _ in 0..2 {
            write(
                &mut client,
                "GET / HTTP/1.0\r\nhost: a\r\nconnection: Keep-Alive\r\n\r\n",
            )
            .await;
            let mut server = accept(&upstream).await;
            read_head(&mut server).await;
            write(&mut server, OK).await;
            let head = read_head(&mut client).await;
            assert_eq!(
                head,
                "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n"
            );
            assert_eq!(read_bytes(&mut client, 2).await, b"ok");
        }
    })
    .await;
}

#[tokio::test]
async fn when_the_caller_leaves_the_handler_goes_and_the_upstream_sees_it() {
    for request in [
        GET,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        story(async |mut client, upstream, relay| {
            write(&mut client, request).await;
            let mut server = accept(&upstream).await;
            read_head(&mut server).await;
            settle().await;
            assert_eq!(relay.cancelled.get(), 0);
            drop(client);
            read_all(&mut server).await;
            settle().await;
            let broke = relay.errors.borrow().len();
            assert_eq!(relay.cancelled.get() as usize + broke, 1, "{request}");
        })
        .await;
    }
}

#[tokio::test]
async fn when_the_caller_leaves_in_the_answer_the_upstream_sees_it() {
    story(async |mut client, upstream, relay| {
        write(&mut client, GET).await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(
            &mut server,
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok",
        )
        .await;
        read_head(&mut client).await;
        drop(client);
        read_all(&mut server).await;
        assert!(relay.pool.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_says_close_is_not_asked_again() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ] {
        story(async |mut client, upstream, relay| {
            write(&mut client, GET).await;
            let mut server = accept(&upstream).await;
            read_head(&mut server).await;
            write(&mut server, answer).await;
            read_head(&mut client).await;
            assert_eq!(read_bytes(&mut client, 2).await, b"ok");
            assert!(relay.pool.borrow().is_empty());
            assert!(read_all(&mut server).await.0.is_empty());
        })
        .await;
    }
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_or_spoke_unasked_is_not_usable() {
    for unasked in ["", "HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        story(async |mut client, upstream, relay| {
            write(&mut client, GET).await;
            let mut server = accept(&upstream).await;
            read_head(&mut server).await;
            write(&mut server, OK).await;
            read_head(&mut client).await;
            read_bytes(&mut client, 2).await;
            assert!(relay.pool.borrow()[0].is_usable());
            write(&mut server, unasked).await;
            if unasked.is_empty() {
                drop(server);
            }
            settle().await;
            assert!(!relay.pool.borrow()[0].is_usable());
            write(&mut client, GET).await;
            assert!(read_head(&mut client).await.starts_with("HTTP/1.1 502 "));
            assert!(matches!(relay.errors.borrow()[..], [SendError::Unsent]));
        })
        .await;
    }
}

#[tokio::test]
async fn an_upstream_that_closes_or_resets_without_a_byte_gave_no_answer() {
    for reset in [false, true] {
        story(async |mut client, upstream, relay| {
            write(&mut client, GET).await;
            let mut server = accept(&upstream).await;
            read_head(&mut server).await;
            if reset {
                crate::socket::reset_on_close(&server);
            }
            drop(server);
            assert!(read_head(&mut client).await.starts_with("HTTP/1.1 502 "));
            assert!(matches!(relay.errors.borrow()[..], [SendError::Unanswered]));
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_given_before_the_body_was_read_is_seen_though_sending_fails() {
    story(async |mut client, upstream, _| {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n";
        write(&mut client, head).await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(
            &mut server,
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
        )
        .await;
        server.shutdown().await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 403 "));
        assert_eq!(read_bytes(&mut client, 2).await, b"no");
    })
    .await;
}

/// A shared connection upstream reads the body in a task of its own.
#[tokio::test]
async fn the_callers_leaving_is_seen_though_another_task_read_the_body() {
    use http_body_util::BodyExt;
    use tokio::net::{TcpListener, TcpStream};
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let mut client = client.unwrap();
            let (read, told) = tokio::sync::oneshot::channel();
            let read = std::cell::Cell::new(Some(read));
            let serving = tokio::task::spawn_local(async move {
                let host = crate::http1::serve::Host {
                    callers: &crate::callers::Callers::default(),
                    scratch: &crate::relay::Scratch::default(),
                    draining: &std::cell::Cell::new(false),
                    bad_requests: &std::sync::atomic::AtomicU64::new(0),
                };
                let stream = crate::io::Prefixed::new(bytes::Bytes::new(), accepted.unwrap().0);
                crate::http1::serve::serve_for(host, stream, address, |request, _| {
                    let read = read.take().unwrap();
                    tokio::task::spawn_local(async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        read.send(body).unwrap();
                    });
                    std::future::pending::<http::Response<http_body_util::Empty<bytes::Bytes>>>()
                })
                .await;
            });
            write(
                &mut client,
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab",
            )
            .await;
            settle().await;
            write(&mut client, "cd").await;
            assert_eq!(told.await.unwrap(), "abcd");
            settle().await;
            assert!(!serving.is_finished());
            drop(client);
            let ended = tokio::time::timeout(std::time::Duration::from_secs(5), serving);
            ended.await.expect("nobody saw the caller leave").unwrap();
        })
        .await;
}

/// What 10,000 idle connections are made of: their sockets, and this.
#[tokio::test]
async fn an_idle_connection_is_small() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stream, _) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let host = crate::http1::serve::Host {
        callers: &crate::callers::Callers::default(),
        scratch: &crate::relay::Scratch::default(),
        draining: &std::cell::Cell::new(false),
        bad_requests: &std::sync::atomic::AtomicU64::new(0),
    };
    let stream = crate::io::Prefixed::new(bytes::Bytes::new(), stream.unwrap());
    let serving = crate::http1::serve::serve_for(host, stream, address, async |_, _| {
        // Larger than any handler: it must not be part of the connection.
        let large = [0_u8; 50_000];
        std::future::pending::<()>().await;
        http::Response::new(http_body_util::Full::new(bytes::Bytes::copy_from_slice(
            &large,
        )))
    });
    let bytes = std::mem::size_of_val(&serving);
    assert!(bytes <= 1_024, "{bytes}");
}
