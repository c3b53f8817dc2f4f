//! Streams and connections that break, on either side.

use std::time::Duration;

use h2::Reason;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[test]
fn a_caller_that_resets_ends_its_handler_and_its_stream_upstream() {
    run(async {
        let reset: Rc<Cell<Option<Reason>>> = Rc::default();
        let noted = Rc::clone(&reset);
        let upstream = upstream(move |_, mut respond: SendResponse<Bytes>| {
            let noted = Rc::clone(&noted);
            async move {
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                noted.set(reason.ok());
            }
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, mut stream) = client.send_request(post("/"), false).unwrap();
        until(|| relay.streams() == 1).await;
        stream.send_reset(Reason::CANCEL);
        drop(answer);
        until(|| reset.get().is_some()).await;
        assert_eq!(reset.get(), Some(Reason::CANCEL));
        relay.quiet().await;
    });
}

#[test]
fn a_caller_that_resets_in_the_middle_of_an_answer_ends_it_upstream() {
    run(async {
        let ended: Rc<Cell<bool>> = Rc::default();
        let noted = Rc::clone(&ended);
        let upstream = upstream(move |_, mut respond: SendResponse<Bytes>| {
            let noted = Rc::clone(&noted);
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                assert!(send(&mut stream, 1 << 30).await.is_err());
                noted.set(true);
            }
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        body.data().await.unwrap().unwrap();
        drop(body);
        until(|| ended.get()).await;
        relay.quiet().await;
    });
}

#[test]
fn a_connection_that_the_caller_closes_ends_everything_on_it() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let stream = TcpStream::connect(relay.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::task::spawn_local(connection);
        let answers: Vec<_> = (0..10)
            .map(|_| sender.send_request(post("/"), false).unwrap())
            .collect();
        until(|| relay.streams() == 10).await;
        driver.abort();
        drop(answers);
        relay.quiet().await;
        until(|| relay.callers.is_empty()).await;
    });
}

#[test]
fn an_answer_that_breaks_off_never_ends_cleanly() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream
                .send_data(Bytes::from_static(b"half"), false)
                .unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        let error = read(&mut answer.await.unwrap().into_body())
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        relay.quiet().await;
    });
}

#[test]
fn a_refused_stream_is_told_as_refused() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            respond.send_reset(Reason::REFUSED_STREAM);
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        assert_eq!(answer.await.unwrap().status().as_u16(), 502);
        assert!(matches!(relay.failures.borrow()[..], [SendError::Refused]));
    });
}

#[test]
fn a_reset_before_the_answer_is_told_as_broken() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            respond.send_reset(Reason::INTERNAL_ERROR);
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        assert_eq!(answer.await.unwrap().status().as_u16(), 502);
        assert!(matches!(relay.failures.borrow()[..], [SendError::Broke(_)]));
    });
}

#[test]
fn a_request_body_that_breaks_off_resets_the_stream_upstream() {
    run(async {
        let heard: Rc<RefCell<Option<h2::Error>>> = Rc::default();
        let noted = Rc::clone(&heard);
        let upstream = upstream(move |request: Request<RecvStream>, respond| {
            let noted = Rc::clone(&noted);
            async move {
                let _respond: SendResponse<Bytes> = respond;
                let error = read(&mut request.into_body()).await.unwrap_err();
                *noted.borrow_mut() = Some(error);
            }
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, mut stream) = client.send_request(post("/"), false).unwrap();
        stream
            .send_data(Bytes::from_static(b"half"), false)
            .unwrap();
        until(|| relay.streams() == 1).await;
        drop((answer, stream));
        until(|| heard.borrow().is_some()).await;
        assert_eq!(heard.take().unwrap().reason(), Some(Reason::CANCEL));
        relay.quiet().await;
    });
}

/// An upstream made of bytes: reads until `after` bytes have come, then writes
/// `says` and closes.
async fn raw_upstream(after: usize, says: Vec<u8>) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; after];
            let _ = stream.read_exact(&mut heard).await;
            let _ = stream.write_all(&says).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    address
}

async fn send_to(address: SocketAddr) -> (Connection, Result<http::StatusCode, SendError>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let connection = Connection::open(stream.into()).await.unwrap();
    let (parts, ()) = get("/").into_parts();
    let sent = forward(&connection, &parts, Incoming::Empty, &caller()).await;
    (connection, sent.map(|answer| answer.status()))
}

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

#[test]
fn a_connection_closed_without_an_answer_is_told_as_unanswered() {
    run(async {
        let address = raw_upstream(60, SETTINGS.to_vec()).await;
        let (connection, sent) = send_to(address).await;
        assert!(matches!(sent, Err(SendError::Unanswered)), "{sent:?}");
        connection.closed().await;
        assert!(!connection.is_usable());
        assert_eq!(connection.streams(), 0);
    });
}

#[test]
fn a_goaway_below_the_stream_is_told_as_refused() {
    run(async {
        let mut says = SETTINGS.to_vec();
        // GOAWAY, last stream 0, NO_ERROR.
        says.extend_from_slice(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (connection, sent) = send_to(raw_upstream(60, says).await).await;
        assert!(matches!(sent, Err(SendError::Refused)), "{sent:?}");
        assert!(!connection.is_usable());
    });
}

#[test]
fn a_goaway_above_the_stream_lets_its_answer_come() {
    run(async {
        let mut says = SETTINGS.to_vec();
        // GOAWAY, last stream 1, NO_ERROR; then HEADERS of stream 1: `:status: 200`, end.
        says.extend_from_slice(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        says.extend_from_slice(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]);
        let (connection, sent) = send_to(raw_upstream(60, says).await).await;
        assert_eq!(sent.unwrap(), 200);
        assert!(!connection.is_usable());
        connection.closed().await;
    });
}

/// The kinds and streams of the frames that `count` reads of frames give.
async fn frames(stream: &mut TcpStream, count: usize) -> Vec<(u8, u32)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        seen.push((head[3], of));
    }
    seen
}

#[test]
fn the_upstream_hears_of_a_cancelled_request_before_the_next_one_begins() {
    run(async {
        let (listener, address) = listen().await;
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut upstream, _) = listener.accept().await.unwrap();
        upstream.write_all(SETTINGS).await.unwrap();
        let connection = Connection::open(stream.into()).await.unwrap();
        let (parts, ()) = get("/").into_parts();
        let caller = caller();
        let mut first = Box::pin(forward(&connection, &parts, Incoming::Empty, &caller));
        tokio::select! {
            _ = &mut first => panic!("nobody answered"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        let mut preface = [0; 24];
        upstream.read_exact(&mut preface).await.unwrap();
        // As a limit of one would have it: the first's permit is the second's.
        drop(first);
        let second = forward(&connection, &parts, Incoming::Empty, &caller);
        tokio::select! {
            _ = second => panic!("nobody answered"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        let seen = frames(&mut upstream, 6).await;
        let of_streams: Vec<_> = seen.into_iter().filter(|(_, of)| *of > 0).collect();
        assert_eq!(of_streams, [(1, 1), (3, 1), (1, 3)]);
    });
}

#[test]
fn an_answer_that_switches_protocols_is_malformed() {
    run(async {
        let mut says = SETTINGS.to_vec();
        // HEADERS of stream 1: `:status: 101`.
        let head = [0, 0, 5, 1, 4, 0, 0, 0, 1, 0x08, 3, b'1', b'0', b'1'];
        says.extend_from_slice(&head);
        let (_connection, sent) = send_to(raw_upstream(60, says).await).await;
        assert!(matches!(sent, Err(SendError::Malformed(_))), "{sent:?}");
    });
}

#[test]
fn a_request_on_a_connection_that_was_closed_is_told_as_unsent() {
    run(async {
        let address = raw_upstream(10, Vec::new()).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let connection = Connection::open(stream.into()).await.unwrap();
        connection.closed().await;
        let (parts, ()) = get("/").into_parts();
        let sent = forward(&connection, &parts, Incoming::Empty, &caller()).await;
        assert!(matches!(sent, Err(SendError::Unsent)));
    });
}

#[test]
fn a_connection_that_we_close_is_gone_at_once_and_its_streams_break() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        })
        .await;
        let stream = TcpStream::connect(upstream).await.unwrap();
        let connection = Connection::open(stream.into()).await.unwrap();
        let sending = connection.clone();
        let sent = tokio::task::spawn_local(async move {
            let (parts, ()) = get("/").into_parts();
            forward(&sending, &parts, Incoming::Empty, &caller())
                .await
                .map(|_| ())
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(connection.streams(), 1);
        connection.close();
        assert!(!connection.is_usable());
        assert!(matches!(sent.await.unwrap(), Err(SendError::Unanswered)));
        assert_eq!(connection.streams(), 0);
        connection.closed().await;
    });
}

#[test]
fn a_drained_connection_ends_with_its_last_answer() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let stream = TcpStream::connect(upstream).await.unwrap();
        let connection = Connection::open(stream.into()).await.unwrap();
        let sending = connection.clone();
        let sent = tokio::task::spawn_local(async move {
            let (parts, ()) = get("/").into_parts();
            forward(&sending, &parts, Incoming::Empty, &caller())
                .await
                .map(|_| ())
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        connection.drain();
        assert!(!connection.is_usable());
        assert!(sent.await.unwrap().is_ok());
        connection.closed().await;
    });
}

#[test]
fn in_drain_a_caller_is_sent_away_after_its_answers() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let stream = TcpStream::connect(relay.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::task::spawn_local(connection);
        let (first, _) = sender.send_request(get("/"), true).unwrap();
        until(|| relay.streams() == 1).await;
        relay.draining.set(true);
        let (second, _) = sender.send_request(get("/"), true).unwrap();
        assert!(first.await.is_ok());
        assert!(second.await.is_ok());
        driver.await.unwrap().unwrap();
        until(|| relay.callers.is_empty()).await;
    });
}

#[test]
fn an_idle_caller_is_sent_away_when_draining_begins() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let stream = TcpStream::connect(relay.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::task::spawn_local(connection);
        let (answer, _) = sender.send_request(get("/"), true).unwrap();
        assert!(answer.await.is_ok());
        relay.quiet().await;
        relay.draining.set(true);
        relay.callers.wake();
        driver.await.unwrap().unwrap();
        until(|| relay.callers.is_empty()).await;
    });
}
