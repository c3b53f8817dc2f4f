//! Flow control from end to end, and the socket that takes nothing.

use std::time::Duration;

use http::Response;

use super::*;
use crate::http2::settings;

const MIB: usize = 1 << 20;

#[test]
fn large_bodies_pass_both_ways_at_once() {
    run(async {
        let upstream = upstream(|request: Request<RecvStream>, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            let receiving = async {
                let mut bytes = 0;
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    bytes += data.len();
                }
                assert_eq!(bytes, 64 * MIB);
            };
            let sending = async {
                send(&mut stream, 64 * MIB).await.unwrap();
                stream.send_data(Bytes::new(), true).unwrap();
            };
            tokio::join!(receiving, sending);
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(MIB as u32);
        let mut client = client_with(relay.address, &builder).await;
        let (answer, mut stream) = client.send_request(post("/"), false).unwrap();
        let sending = tokio::task::spawn_local(async move {
            send(&mut stream, 64 * MIB).await.unwrap();
            stream.send_data(Bytes::new(), true).unwrap();
        });
        let mut body = answer.await.unwrap().into_body();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            bytes += data.len();
        }
        assert_eq!(bytes, 64 * MIB);
        sending.await.unwrap();
        relay.quiet().await;
    });
}

/// How much an upstream can send while its reader reads nothing.
#[test]
fn a_slow_reader_holds_no_more_than_its_window() {
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
        let mut client = client(relay.address).await;
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let mut last = 0;
        until(|| {
            let before = std::mem::replace(&mut last.clone(), sent.get());
            last == before && sent.get() > 0
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        last = sent.get();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(last, sent.get(), "it still sends");
        // The window of the relay, the window of the client, and one piece in hand.
        let bound = settings::STREAM_WINDOW as usize + 65_535 + 64 * 1024;
        assert!(last <= bound, "{last} of {bound}");
        // And then it goes on.
        for _ in 0..200 {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert!(sent.get() > last + MIB);
        drop(body);
        relay.quiet().await;
    });
}

#[test]
fn an_upload_that_nobody_reads_waits_and_others_pass_it() {
    run(async {
        let upstream = upstream(|request: Request<RecvStream>, mut respond| async move {
            if request.uri().path() == "/stall" {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            } else {
                respond.send_response(Response::new(()), true).unwrap();
            }
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let sent: Rc<Cell<usize>> = Rc::default();
        let mut uploads = Vec::new();
        for _ in 0..8 {
            let (answer, mut stream) = client.send_request(post("/stall"), false).unwrap();
            let sent = Rc::clone(&sent);
            uploads.push(tokio::task::spawn_local(async move {
                let _answer = answer;
                while send(&mut stream, 16 * 1024).await.is_ok() {
                    sent.set(sent.get() + 16 * 1024);
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The relay's window, the upstream's (1 MiB) and what is in hand.
        let each = settings::CALLER_STREAM_WINDOW as usize + MIB + 128 * 1024;
        assert!(sent.get() <= 8 * each, "{} of {}", sent.get(), 8 * each);
        for _ in 0..20 {
            let (answer, _) = client.send_request(get("/"), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        for upload in uploads {
            upload.abort();
        }
        relay.quiet().await;
    });
}

#[test]
fn a_socket_that_takes_nothing_stops_its_streams_and_then_they_go_on() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            send(&mut stream, 4 * MIB).await.unwrap();
            stream.send_data(Bytes::new(), true).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        // A client with room for everything that does not read its socket.
        let stream = TcpStream::connect(relay.address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 30);
        builder.initial_connection_window_size(1 << 30);
        let (mut sender, mut connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        let answers: Vec<_> = (0..8)
            .map(|_| sender.send_request(get("/"), true).unwrap().0)
            .collect();
        // The requests go out, and nothing is read.
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            assert!(std::pin::Pin::new(&mut connection).poll(cx).is_pending());
            if polls == 2 {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::spawn_local(connection);
        for answer in answers {
            let body = read(&mut answer.await.unwrap().into_body()).await.unwrap();
            assert_eq!(body.len(), 4 * MIB);
        }
        relay.quiet().await;
    });
}
