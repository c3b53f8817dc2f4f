//! Requests and answers as their heads say.

use std::sync::atomic::Ordering::Relaxed;

use super::stage::{accept, read_all, read_bytes, read_head, story, write};

const GET: &str = "GET /a?b=c HTTP/1.1\r\nAccept: */*\r\nHost: catalog:8080\r\nConnection: keep-alive, x-private\r\nX-Private: 1\r\nX-Id: 7\r\n\r\n";

#[tokio::test]
async fn a_request_and_its_answer_pass_and_both_connections_are_kept() {
    story(async |mut client, upstream, relay| {
        write(&mut client, GET).await;
        let mut server = accept(&upstream).await;
        for _ in 0..3 {
            assert_eq!(
                read_head(&mut server).await,
                "GET /a?b=c HTTP/1.1\r\naccept: */*\r\nhost: catalog:8080\r\nx-id: 7\r\nx-remora-attempt: 1\r\n\r\n"
            );
            write(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\nServer: s\r\n\r\nhello").await;
            assert_eq!(
                read_head(&mut client).await,
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver: s\r\n\r\n"
            );
            assert_eq!(read_bytes(&mut client, 5).await, b"hello");
            assert_eq!(relay.pool.borrow().len(), 1);
            write(&mut client, GET).await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_their_order() {
    story(async |mut client, upstream, _| {
        write(&mut client, "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nPOST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut server = accept(&upstream).await;
        for n in 1..4 {
            let head = read_head(&mut server).await;
            assert!(head.contains(&format!("/{n} ")), "{head}");
            if n == 2 {
                assert_eq!(read_bytes(&mut server, 3).await, b"abc");
            }
            write(&mut server, format!("HTTP/1.1 20{n} X\r\ncontent-length: 0\r\n\r\n")).await;
        }
        for n in 1..4 {
            let head = read_head(&mut client).await;
            assert!(head.starts_with(&format!("HTTP/1.1 20{n} ")), "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_in_single_bytes_is_put_together_on_both_sides() {
    story(async |mut client, upstream, _| {
        for byte in format!("\r\n{GET}").as_bytes() {
            write(&mut client, [*byte]).await;
            tokio::task::yield_now().await;
        }
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        for byte in b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" {
            write(&mut server, [*byte]).await;
            tokio::task::yield_now().await;
        }
        let head = read_head(&mut client).await;
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let mut body = Vec::new();
        while !body.ends_with(b"0\r\n\r\n") {
            body.extend(read_bytes(&mut client, 1).await);
        }
        // In how many chunks depends on what each read gave.
        let mut data = Vec::new();
        crate::http1::chunked::Chunked::default()
            .decode(&body, &mut data)
            .unwrap();
        assert_eq!(data, b"abc");
    })
    .await;
}

#[tokio::test]
async fn malformed_requests_are_refused_in_words_and_reach_nobody() {
    let malformed = [
        "GET / HTTP/1.1\nhost: a\n\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\n host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\x7fb\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1 x\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        "GET /\r\nhost: a\r\n\r\n",
        "G@T / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n",
        "GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\na",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: \r\n\r\na",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
    ];
    for request in malformed {
        story(async |mut client, _upstream, relay| {
            write(&mut client, request).await;
            let (answer, in_order) = read_all(&mut client).await;
            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
                "{request:?} {answer}"
            );
            assert!(answer.contains("x-remora-reason: bad_request\r\nconnection: close\r\n"));
            assert!(in_order, "{request:?}");
            assert_eq!(relay.bad_requests.load(Relaxed), 1);
            assert!(relay.errors.borrow().is_empty());
        })
        .await;
    }
}

#[tokio::test]
async fn heads_beyond_the_bounds_get_431() {
    for head in [
        format!(
            "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
            "x: y\r\n".repeat(256)
        ),
        format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
            "y".repeat(70_000)
        ),
        format!("GET /{}", "y".repeat(70_000)),
    ] {
        story(async |mut client, _upstream, _| {
            write(&mut client, &head).await;
            let (answer, in_order) = read_all(&mut client).await;
            assert!(answer.starts_with(b"HTTP/1.1 431 "), "{head:.40}");
            assert!(in_order);
        })
        .await;
    }
}

#[tokio::test]
async fn absolute_form_passes_in_origin_form_and_its_host_wins() {
    story(async |mut client, upstream, _| {
        write(
            &mut client,
            "GET http://catalog:8080/x?y HTTP/1.1\r\nhost: other\r\n\r\n",
        )
        .await;
        let mut server = accept(&upstream).await;
        let head = read_head(&mut server).await;
        assert!(
            head.starts_with("GET /x?y HTTP/1.1\r\nhost: catalog:8080\r\n"),
            "{head}"
        );
        write(
            &mut server,
            "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n",
        )
        .await;
        // A 204 has no length, and nothing follows it.
        assert_eq!(
            read_head(&mut client).await,
            "HTTP/1.1 204 No Content\r\n\r\n"
        );
    })
    .await;
}

#[tokio::test]
async fn head_requests_keep_the_length_and_get_no_body() {
    story(async |mut client, upstream, relay| {
        write(&mut client, "HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(
            &mut server,
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
        )
        .await;
        assert_eq!(
            read_head(&mut client).await,
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
        );
        assert_eq!(relay.pool.borrow().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn interim_answers_pass_before_the_final_one() {
    story(async |mut client, upstream, _| {
        write(
            &mut client,
            "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
        )
        .await;
        let mut server = accept(&upstream).await;
        let head = read_head(&mut server).await;
        assert!(head.contains("expect: 100-continue"), "{head}");
        write(
            &mut server,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n",
        )
        .await;
        assert_eq!(
            read_head(&mut client).await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        assert_eq!(
            read_head(&mut client).await,
            "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
        );
        write(&mut client, "ok").await;
        assert_eq!(read_bytes(&mut server, 2).await, b"ok");
        write(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert!(
            read_head(&mut client)
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_malformed_are_told_from_those_that_broke() {
    use crate::upstream::SendError;
    for (answer, malformed) in [
        ("nonsense\r\n\r\n", true),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            true,
        ),
        ("HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n", true),
        ("HTTP/1.1 200 OK\nx: a\n\n", true),
        (
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            true,
        ),
        ("HTTP/1.1 200 O", false),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", false),
    ] {
        story(async |mut client, upstream, relay| {
            write(&mut client, GET).await;
            let mut server = accept(&upstream).await;
            read_head(&mut server).await;
            write(&mut server, answer).await;
            drop(server);
            let mut head = read_head(&mut client).await;
            if head.starts_with("HTTP/1.1 103") {
                head = read_head(&mut client).await;
            }
            assert!(head.starts_with("HTTP/1.1 502"), "{answer:?} {head}");
            match &relay.errors.borrow()[..] {
                [SendError::Malformed(_)] => assert!(malformed, "{answer:?}"),
                [SendError::Broke(_)] => assert!(!malformed, "{answer:?}"),
                other => panic!("{answer:?} {other:?}"),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_malformed() {
    story(async |mut client, upstream, relay| {
        write(&mut client, GET).await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(&mut server, "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000)).await;
        loop {
            let head = read_head(&mut client).await;
            if head.starts_with("HTTP/1.1 502") {
                break;
            }
        }
        let errors = relay.errors.borrow();
        assert!(matches!(
            errors[..],
            [crate::upstream::SendError::Malformed(_)]
        ));
    })
    .await;
}

#[tokio::test]
async fn an_old_client_is_told_no_interim_answers() {
    story(async |mut client, upstream, _| {
        write(
            &mut client,
            "POST / HTTP/1.0\r\nhost: a\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
        let mut server = accept(&upstream).await;
        let head = read_head(&mut server).await;
        assert!(head.starts_with("POST / HTTP/1.0\r\nhost: a\r\n"), "{head}");
        assert_eq!(read_bytes(&mut server, 2).await, b"ok");
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";
        write(&mut server, interim).await;
        write(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    })
    .await;
}
