//! Raw TCP: through CONNECT to a service, and to the pod.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use remora_proto::v1::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::mesh::{Mesh, PORT, policy, trip};
use crate::{eventually, soon};

/// Serves each connection by `handle`.
async fn server<F>(address: SocketAddr, handle: fn(TcpStream) -> F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = crate::bind(address).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    })
}

/// Says hello first, then echoes until the caller ends, then says goodbye.
async fn speaks_first(mut stream: TcpStream) {
    let _ = stream.write_all(b"hello ").await;
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    let _ = stream.write_all(&heard).await;
    let _ = stream.write_all(b" bye").await;
}

async fn resets(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

async fn tunnel(mesh: &Mesh) -> TcpStream {
    let mut stream = TcpStream::connect(mesh.sidecar.outbound()).await.unwrap();
    let head = b"CONNECT inventory:8080 HTTP/1.1\r\nhost: inventory:8080\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = [0; 19];
    soon("the tunnel", stream.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK\r\n\r\n");
    stream
}

fn inventory(mesh: &Mesh, policy: remora_proto::v1::ServicePolicy, endpoints: &[SocketAddr]) {
    inventory_of(mesh, Protocol::Tcp, policy, endpoints);
}

fn inventory_of(
    mesh: &Mesh,
    protocol: Protocol,
    policy: remora_proto::v1::ServicePolicy,
    endpoints: &[SocketAddr],
) {
    for (number, address) in endpoints.iter().enumerate() {
        mesh.endpoint("inventory", number, *address, |_| ());
    }
    mesh.service_with("inventory", |service| {
        service.policy = Some(policy);
        service.ports[0].protocol = protocol as i32;
    });
}

async fn converse(stream: &mut TcpStream) -> String {
    stream.write_all(b"to be echoed").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    soon("the other's end", stream.read_to_string(&mut heard))
        .await
        .unwrap();
    heard
}

#[tokio::test]
async fn bytes_and_half_closes_pass_to_a_server_that_speaks_first() {
    let mesh = Mesh::start().await;
    let _server = server(mesh.net.at(10), speaks_first).await;
    inventory(&mesh, policy(), &[mesh.net.at(10)]);
    let mut stream = tunnel(&mesh).await;
    assert_eq!(converse(&mut stream).await, "hello to be echoed bye");
}

#[tokio::test]
async fn what_refuses_is_tried_elsewhere_and_where_all_refuse_the_caller_is_reset() {
    let mesh = Mesh::start().await;
    let _server = server(mesh.net.at(10), speaks_first).await;
    inventory(&mesh, policy(), &[mesh.net.at(11), mesh.net.at(10)]);
    for _ in 0..10 {
        let mut stream = tunnel(&mesh).await;
        assert_eq!(converse(&mut stream).await, "hello to be echoed bye");
    }
    mesh.remove_endpoint("inventory", 1);
    eventually("the one that is left refuses", async || {
        let mut stream = tunnel(&mesh).await;
        let read = soon("the end", stream.read(&mut [0; 8])).await;
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    })
    .await;
}

#[tokio::test]
async fn a_reset_before_any_byte_counts_as_a_connect_failure() {
    let mesh = Mesh::start().await;
    let _bad = server(mesh.net.at(10), resets).await;
    let _good = server(mesh.net.at(11), speaks_first).await;
    inventory(
        &mesh,
        trip(|trip| trip.consecutive_failures = 1),
        &[mesh.net.at(10), mesh.net.at(11)],
    );
    eventually("its breaker is open", async || {
        let mut stream = tunnel(&mesh).await;
        let _ = soon("the first bytes", stream.read(&mut [0; 8])).await;
        let breakers = mesh.sidecar.json("/breakers").await;
        let endpoints = breakers["services"][0]["endpoints"]
            .as_array()
            .unwrap()
            .clone();
        endpoints
            .iter()
            .any(|entry| entry["endpoint"] == "inventory-0" && entry["state"] == "open")
    })
    .await;
    for _ in 0..5 {
        let mut stream = tunnel(&mesh).await;
        assert_eq!(converse(&mut stream).await, "hello to be echoed bye");
    }
}

#[tokio::test]
async fn at_max_connections_a_raw_connection_is_refused_and_a_place_comes_free() {
    let mesh = Mesh::start().await;
    let _server = server(mesh.net.at(10), speaks_first).await;
    let policy = crate::mesh::limits(|limits| limits.max_connections = Some(1));
    inventory(&mesh, policy, &[mesh.net.at(10)]);
    let mut first = tunnel(&mesh).await;
    first.read_exact(&mut [0; 6]).await.unwrap();
    let mut second = tunnel(&mesh).await;
    assert!(soon("the refusal", second.read(&mut [0; 1])).await.is_err());
    drop(first);
    eventually("there is a place again", async || {
        let mut third = tunnel(&mesh).await;
        soon("a byte", third.read(&mut [0; 1])).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_silent_client_of_an_undeclared_port_is_refused_at_once_at_the_limit() {
    let mesh = Mesh::start().await;
    let _server = server(mesh.net.at(10), speaks_first).await;
    let policy = crate::mesh::limits(|limits| limits.max_connections = Some(1));
    inventory_of(&mesh, Protocol::Detect, policy, &[mesh.net.at(10)]);
    let mut first = tunnel(&mesh).await;
    soon("hello", first.read_exact(&mut [0; 6])).await.unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let mut second = tunnel(&mesh).await;
        let began = Instant::now();
        assert!(soon("the refusal", second.read(&mut [0; 1])).await.is_err());
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest < Duration::from_millis(500), "{fastest:?}");
}

#[tokio::test]
async fn a_server_that_speaks_first_on_an_undeclared_port_is_not_kept_waiting() {
    let mesh = Mesh::start().await;
    let address = SocketAddr::new(mesh.net.ip(2), 7000);
    let _server = server(address, speaks_first).await;
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let mut stream = TcpStream::connect(mesh.sidecar.inbound(7000))
            .await
            .unwrap();
        soon("hello", stream.read_exact(&mut [0; 6])).await.unwrap();
        fastest = fastest.min(began.elapsed());
        assert_eq!(converse(&mut stream).await, "to be echoed bye");
    }
    assert!(fastest < Duration::from_millis(250), "{fastest:?}");
}

#[tokio::test]
async fn an_application_that_refuses_gives_a_reset() {
    let mesh = Mesh::start().await;
    let mut stream = TcpStream::connect(mesh.sidecar.inbound(PORT))
        .await
        .unwrap();
    stream.write_all(b"\x00\x01binary").await.unwrap();
    let read = soon("the reset", stream.read(&mut [0; 1])).await;
    assert_eq!(
        read.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}
