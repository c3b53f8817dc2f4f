//! Upgrades and CONNECT.

use tokio::io::AsyncWriteExt;

use super::stage::{accept, read_all, read_bytes, read_head, settle, story, write};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";

#[tokio::test]
async fn after_101_everything_passes_raw_both_ways() {
    story(async |mut client, upstream, relay| {
        // Early bytes belong to the tunnel, and wait for it.
        write(&mut client, format!("{UPGRADE}early")).await;
        let mut server = accept(&upstream).await;
        let head = read_head(&mut server).await;
        assert_eq!(
            head,
            "GET /chat HTTP/1.1\r\nhost: a\r\nsec-websocket-key: k\r\nx-remora-attempt: 1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        );
        settle().await;
        assert!(server.try_read(&mut [0; 8]).is_err(), "sent before the answer");
        write(&mut server, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst").await;
        assert_eq!(
            read_head(&mut client).await,
            "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        );
        assert_eq!(read_bytes(&mut client, 5).await, b"first");
        assert_eq!(read_bytes(&mut server, 5).await, b"early");
        for _ in 0..3 {
            write(&mut client, "ping\r\n\r\n").await;
            assert_eq!(read_bytes(&mut server, 8).await, b"ping\r\n\r\n");
            write(&mut server, "0\r\n\r\n").await;
            assert_eq!(read_bytes(&mut client, 5).await, b"0\r\n\r\n");
        }
        // The caller's end is passed on, and the upstream may still speak.
        client.shutdown().await.unwrap();
        assert!(read_all(&mut server).await.0.is_empty());
        write(&mut server, "bye").await;
        drop(server);
        assert_eq!(read_all(&mut client).await, (b"bye".to_vec(), true));
        assert!(relay.pool.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_upstreams_end_is_the_tunnels() {
    story(async |mut client, upstream, _| {
        write(&mut client, UPGRADE).await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(
            &mut server,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        read_head(&mut client).await;
        drop(server);
        assert!(read_all(&mut client).await.0.is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_is_declined_is_an_ordinary_exchange() {
    story(async |mut client, upstream, relay| {
        for _ in 0..2 {
            write(&mut client, UPGRADE).await;
            let mut server = accept(&upstream).await;
            for _ in 0..2 {
                read_head(&mut server).await;
                write(
                    &mut server,
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                )
                .await;
                let head = read_head(&mut client).await;
                assert_eq!(head, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
                assert_eq!(read_bytes(&mut client, 2).await, b"ok");
                write(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            }
            read_head(&mut server).await;
            write(
                &mut server,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            )
            .await;
            read_head(&mut client).await;
            assert!(relay.pool.borrow().is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn h2c_is_not_asked_for_and_a_body_is_no_upgrade() {
    for (fields, body) in [
        (
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n",
            "",
        ),
        (
            "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n",
            "ab",
        ),
    ] {
        story(async |mut client, upstream, relay| {
            write(
                &mut client,
                format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n{body}"),
            )
            .await;
            let mut server = accept(&upstream).await;
            let head = read_head(&mut server).await;
            assert!(
                !head.contains("upgrade") && !head.contains("http2-settings"),
                "{head}"
            );
            assert_eq!(read_bytes(&mut server, body.len()).await, body.as_bytes());
            write(
                &mut server,
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
            )
            .await;
            // Nobody asked for it.
            assert!(read_head(&mut client).await.starts_with("HTTP/1.1 502 "));
            assert_eq!(relay.errors.borrow().len(), 1);
        })
        .await;
    }
}

#[tokio::test]
async fn connect_opens_a_tunnel_with_any_2xx() {
    story(async |mut client, upstream, _| {
        write(
            &mut client,
            "CONNECT inventory:7000 HTTP/1.1\r\nhost: inventory:7000\r\n\r\n",
        )
        .await;
        let mut server = accept(&upstream).await;
        let head = read_head(&mut server).await;
        assert_eq!(
            head,
            "CONNECT inventory:7000 HTTP/1.1\r\nhost: inventory:7000\r\nx-remora-attempt: 1\r\n\r\n"
        );
        write(
            &mut server,
            "HTTP/1.1 200 Fine\r\ncontent-length: 3\r\n\r\nraw",
        )
        .await;
        assert_eq!(read_head(&mut client).await, "HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(read_bytes(&mut client, 3).await, b"raw");
        write(&mut client, "ping").await;
        assert_eq!(read_bytes(&mut server, 4).await, b"ping");
    })
    .await;
}

#[tokio::test]
async fn connect_that_is_refused_leaves_an_ordinary_connection() {
    story(async |mut client, upstream, relay| {
        write(
            &mut client,
            "CONNECT inventory:7000 HTTP/1.1\r\nhost: inventory:7000\r\n\r\n",
        )
        .await;
        let mut server = accept(&upstream).await;
        read_head(&mut server).await;
        write(
            &mut server,
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
        )
        .await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 403 "));
        assert_eq!(read_bytes(&mut client, 2).await, b"no");
        assert_eq!(relay.pool.borrow().len(), 1);
    })
    .await;
}
