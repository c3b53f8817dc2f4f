//! Raw TCP: through CONNECT to a service, and to the pod.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use remora_proto::v1::hash_part::Part;
use remora_proto::v1::load_balancing::Algorithm;
use remora_proto::v1::{HashPart, LoadBalancing, Protocol};
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

fn balanced(change: impl FnOnce(&mut LoadBalancing)) -> remora_proto::v1::ServicePolicy {
    let mut balancing = LoadBalancing::default();
    change(&mut balancing);
    remora_proto::v1::ServicePolicy {
        load_balancing: Some(balancing),
        ..policy()
    }
}

/// Says which one it is.
async fn numbered(address: SocketAddr) -> JoinHandle<()> {
    let listener = crate::bind(address).await;
    let last = match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(&[last]).await;
                let _ = stream.read(&mut [0; 1]).await;
            });
        }
    })
}

async fn which(mesh: &Mesh) -> u8 {
    let mut stream = tunnel(mesh).await;
    let mut one = [0; 1];
    soon("its number", stream.read_exact(&mut one))
        .await
        .unwrap();
    one[0]
}

#[tokio::test]
async fn raw_connections_are_balanced_as_the_policy_says() {
    let mesh = Mesh::start().await;
    let hosts = [10, 11, 12];
    let addresses = hosts.map(|host| mesh.net.at(host));
    let mut servers = Vec::new();
    for address in addresses {
        servers.push(numbered(address).await);
    }
    let in_turn = balanced(|it| it.algorithm = Algorithm::RoundRobin as i32);
    inventory(&mesh, in_turn, &addresses);
    let mut counts = [0; 3];
    for _ in 0..30 {
        counts[usize::from(which(&mesh).await - 10)] += 1;
    }
    assert_eq!(counts, [10; 3]);
    let by_source = balanced(|it| {
        it.algorithm = Algorithm::ConsistentHash as i32;
        it.hash_load_bound_percent = 1000;
        it.hash_on = vec![HashPart {
            part: Some(Part::SourceAddress(true)),
        }];
    });
    inventory(&mesh, by_source, &addresses);
    eventually("one source has one endpoint", async || {
        let first = which(&mesh).await;
        let mut same = true;
        for _ in 0..6 {
            same &= which(&mesh).await == first;
        }
        same
    })
    .await;
}

#[tokio::test]
async fn the_one_with_fewer_open_connections_is_taken() {
    let mesh = Mesh::start().await;
    let addresses = [mesh.net.at(10), mesh.net.at(11)];
    let _servers = (numbered(addresses[0]).await, numbered(addresses[1]).await);
    let policy = balanced(|it| it.algorithm = Algorithm::LeastRequest as i32);
    inventory(&mesh, policy, &addresses);
    let mut open = Vec::new();
    let mut counts = [0; 2];
    for _ in 0..20 {
        let mut stream = tunnel(&mesh).await;
        let mut one = [0; 1];
        soon("its number", stream.read_exact(&mut one))
            .await
            .unwrap();
        counts[usize::from(one[0] - 10)] += 1;
        open.push(stream);
    }
    assert_eq!(counts, [10, 10]);
}

#[tokio::test]
async fn a_raw_connection_without_an_endpoint_waits_for_one() {
    let mesh = Mesh::start().await;
    inventory(&mesh, balanced(|it| it.wait_for_endpoints_ms = 10_000), &[]);
    let _server = numbered(mesh.net.at(10)).await;
    let (number, ()) = tokio::join!(which(&mesh), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        mesh.endpoint("inventory", 0, mesh.net.at(10), |_| ());
    });
    assert_eq!(number, 10);
}

#[tokio::test]
async fn per_endpoint_max_connections_sends_raw_connections_elsewhere() {
    let mesh = Mesh::start().await;
    let addresses = [mesh.net.at(10), mesh.net.at(11)];
    let _servers = (numbered(addresses[0]).await, numbered(addresses[1]).await);
    let policy = crate::mesh::breaker(|breaker| {
        breaker.per_endpoint.as_mut().unwrap().max_connections = Some(1);
    });
    inventory(&mesh, policy, &addresses);
    let mut numbers = Vec::new();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = tunnel(&mesh).await;
        let mut one = [0; 1];
        soon("its number", stream.read_exact(&mut one))
            .await
            .unwrap();
        numbers.push(one[0]);
        open.push(stream);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [10, 11]);
    let mut third = tunnel(&mesh).await;
    assert!(soon("the refusal", third.read(&mut [0; 1])).await.is_err());
}

#[tokio::test]
async fn the_breaker_of_a_service_opens_by_connections_that_fail() {
    let mesh = Mesh::start().await;
    let policy = trip(|trip| {
        trip.scope = remora_proto::v1::trip::Scope::Service as i32;
        trip.consecutive_failures = 2;
    });
    inventory(&mesh, policy, &[mesh.net.at(10)]);
    eventually("it is open", async || {
        let mut stream = tunnel(&mesh).await;
        let _ = soon("the end", stream.read(&mut [0; 1])).await;
        let breakers = mesh.sidecar.json("/breakers").await;
        breakers["services"][0]["state"] == "open"
    })
    .await;
    let _server = numbered(mesh.net.at(10)).await;
    let mut stream = tunnel(&mesh).await;
    assert!(soon("the refusal", stream.read(&mut [0; 1])).await.is_err());
}
