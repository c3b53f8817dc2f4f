//! The two directions of an exchange do not wait for each other: what the
//! caller sends goes on while it takes nothing of the answer, and the answer
//! comes while the application takes nothing of the request. A caller that
//! writes all before it reads would otherwise stand still for ever.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use crate::h2_app::{App, GRPC, Step};
use crate::h2_client::head;
use crate::mesh::{Mesh, PORT, policy};
use crate::process::MIB;
use crate::raw::Listening;
use crate::soon;
use crate::upgrades::Way;

/// More than all sockets on the way hold.
const BODY: usize = 48 * MIB as usize;

/// An HTTP/1.1 application that writes and reads at the same time, each as far
/// as the other side lets it; ends on drop.
struct Duplex(JoinHandle<()>);

impl Drop for Duplex {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Duplex {
    /// Says `says` and [`BODY`] bytes; reads as many, or none before it has
    /// written all but the last byte.
    async fn start(address: std::net::SocketAddr, says: String, reads: bool) -> Self {
        let listener = crate::bind(address).await;
        Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let says = says.clone();
                connections.spawn(async move {
                    until_head_ends(&mut stream).await;
                    let (mut read, mut write) = stream.split();
                    let writing = async {
                        write.write_all(says.as_bytes()).await.unwrap();
                        write.write_all(&vec![b'a'; BODY - 1]).await.unwrap();
                    };
                    if reads {
                        tokio::join!(writing, take(&mut read, BODY));
                    } else {
                        writing.await;
                        take(&mut read, BODY).await;
                    }
                    write.write_all(b"a").await.unwrap();
                });
            }
        }))
    }
}

async fn until_head_ends(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn take(from: &mut (impl AsyncReadExt + Unpin), mut left: usize) {
    let mut buffer = vec![0; 256 * 1024];
    while left > 0 {
        let most = left.min(buffer.len());
        let read = from.read(&mut buffer[..most]).await.unwrap();
        assert_ne!(read, 0, "it ended {left} bytes early");
        left -= read;
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 50331648\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: catalog:8080\r\ncontent-length: 50331648\r\n\r\n";

#[tokio::test]
async fn an_upload_by_http_1_goes_on_while_the_caller_takes_nothing() {
    for way in Way::both(policy()).await {
        let _app = Duplex::start(way.application(), ANSWER.to_owned(), true).await;
        let mut caller = TcpStream::connect(way.mesh.sidecar.outbound())
            .await
            .unwrap();
        caller.write_all(POST.as_bytes()).await.unwrap();
        let body = vec![b'c'; BODY];
        soon("all is written", caller.write_all(&body))
            .await
            .unwrap();
        assert!(until_head_ends(&mut caller).await.contains("200 OK"));
        soon("all is read", take(&mut caller, BODY)).await;
        way.nothing_is_left().await;
    }
}

#[tokio::test]
async fn an_answer_by_http_1_comes_while_the_application_takes_nothing() {
    for way in Way::both(policy()).await {
        let _app = Duplex::start(way.application(), ANSWER.to_owned(), false).await;
        let mut caller = TcpStream::connect(way.mesh.sidecar.outbound())
            .await
            .unwrap();
        caller.write_all(POST.as_bytes()).await.unwrap();
        let (mut read, mut write) = caller.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(&vec![b'c'; BODY]).await.unwrap();
            write
        });
        soon("all but the last is read", take(&mut read, BODY - 1)).await;
        let write = soon("all is written", writing).await.unwrap();
        soon("all is read", take(&mut read, 1)).await;
        drop(write);
        way.nothing_is_left().await;
    }
}

#[tokio::test]
async fn a_tunnel_carries_one_way_while_the_other_stands_still() {
    let ways = [
        (
            "GET /chat HTTP/1.1\r\nhost: catalog:8080\r\nconnection: upgrade\r\nupgrade: bytes\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: bytes\r\n\r\n",
        ),
        (
            "CONNECT catalog:8080 HTTP/1.1\r\nhost: catalog:8080\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ),
    ];
    for (asks, says) in ways {
        let mesh = Mesh::start().await;
        let _app = Duplex::start(mesh.net.at(2), says.to_owned(), true).await;
        let mut caller = TcpStream::connect(mesh.sidecar.inbound(PORT))
            .await
            .unwrap();
        caller.write_all(asks.as_bytes()).await.unwrap();
        until_head_ends(&mut caller).await;
        let body = vec![b'c'; BODY];
        soon("all is written", caller.write_all(&body))
            .await
            .unwrap();
        soon("all is read", take(&mut caller, BODY)).await;
    }
}

#[tokio::test]
async fn a_stream_of_http_2_is_sent_while_the_caller_takes_nothing() {
    for way in Way::both(policy()).await {
        let app = App::start(way.application(), |_| {
            vec![
                Step::Head(200, GRPC),
                Step::BytesAndRead(BODY),
                Step::Trailers(&[("grpc-status", "0")]),
            ]
        })
        .await;
        let client = way.mesh.client2().await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let stream = client
            .begin(head("POST", "/chat.Chat/Both", &fields), false)
            .await
            .unwrap();
        let mut open = stream.head().await.unwrap();
        let body = Bytes::from(vec![b'c'; BODY]);
        open.send(&body, true).await;
        crate::eventually("all has been read", async || app.requests().len() == 1).await;
        assert_eq!(app.requests()[0].body.len(), BODY);
        let answer = open.rest().await;
        assert_eq!(
            (answer.body.len(), answer.trailer("grpc-status")),
            (BODY, "0")
        );
        way.nothing_is_left().await;
    }
}

#[tokio::test]
async fn a_caller_that_breaks_off_while_nobody_takes_its_body_is_missed() {
    for way in Way::both(policy()).await {
        // Reads nothing but the head, and answers nothing or a beginning.
        let _app = Listening::start(way.application(), |mut raw| async move {
            if raw.head().await.contains("/answers") {
                raw.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome")
                    .await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        for path in ["/", "/answers"] {
            let mut caller = TcpStream::connect(way.mesh.sidecar.outbound())
                .await
                .unwrap();
            let head = POST.replace("/ ", &format!("{path} "));
            caller.write_all(head.as_bytes()).await.unwrap();
            let body = vec![b'c'; BODY];
            let writing = caller.write_all(&body);
            let stalled = tokio::time::timeout(Duration::from_millis(700), writing).await;
            assert!(stalled.is_err(), "somebody took the body");
            assert_eq!(way.mesh.sidecar.outbound_stats().await["in_flight"], 1);
            caller.set_zero_linger().unwrap();
            drop(caller);
            way.nothing_is_left().await;
            let stats = way.mesh.sidecar.outbound_stats().await;
            assert_eq!(stats["failures"], 0, "{path} {stats}");
        }
    }
}
