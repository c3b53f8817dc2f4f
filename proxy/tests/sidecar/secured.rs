//! Mutual TLS between two sidecars: what travels in it, who is refused, and
//! what the application learns.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use remora_proto::v1::{self, InboundPort, MtlsMode, Protocol, ServicePolicy};
use remora_proxy::tls::{Alpn, ClientConfigs, TlsStream, handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::authority::{Authority, id};
use crate::client::Client;
use crate::h2_app;
use crate::mesh::{Mesh, PORT, policy};
use crate::raw::{Listening, Raw};
use crate::sidecar::{Options, Sidecar};
use crate::upstream::App;
use crate::{eventually, soon};

/// Writes down every byte between two sidecars, both ways.
pub struct Wiretap {
    listening: tokio::task::JoinHandle<()>,
    heard: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<usize>>,
    delay: Arc<Mutex<Duration>>,
}

impl Wiretap {
    pub async fn start(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = crate::bind(address).await;
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let connections = Arc::<Mutex<usize>>::default();
        let (hears, counts) = (Arc::clone(&heard), Arc::clone(&connections));
        let delay = Arc::<Mutex<Duration>>::default();
        let delays = Arc::clone(&delay);
        let listening = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                *counts.lock().unwrap() += 1;
                let hears = Arc::clone(&hears);
                let delay = *delays.lock().unwrap();
                tokio::spawn(async move {
                    let Ok(onward) = TcpStream::connect(target).await else {
                        return;
                    };
                    let (from, to) = (caller.into_split(), onward.into_split());
                    tokio::time::sleep(delay).await;
                    let sending = copy(from.0, to.1, Arc::clone(&hears));
                    let receiving = copy(to.0, from.1, hears);
                    tokio::join!(sending, receiving);
                });
            }
        });
        Self {
            listening,
            heard,
            connections,
            delay,
        }
    }

    /// From now on connections stand for so long before a byte passes.
    pub fn delay(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// Whether these bytes went over it as they are.
    pub fn heard(&self, bytes: &str) -> bool {
        let heard = self.heard.lock().unwrap();
        heard
            .windows(bytes.len())
            .any(|window| window == bytes.as_bytes())
    }

    pub fn bytes(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    heard: Arc<Mutex<Vec<u8>>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        heard.lock().unwrap().extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Both sidecars, and what listens between them. The target's pod is `web-3`, its
/// application at `.4`.
pub struct Pair {
    mesh: Mesh,
    pub target: Sidecar,
    wire: Wiretap,
    authority: Authority,
}

impl Pair {
    pub async fn start() -> Self {
        Self::start_with(Options::default(), policy()).await
    }

    async fn start_with(options: Options, policy: ServicePolicy) -> Self {
        let authority = Authority::new();
        let options = Options {
            authority: Some(authority.clone()),
            ..options
        };
        let mesh = Mesh::start_with(options.clone()).await;
        let target = mesh.beside(3, options).await;
        let wire = Wiretap::start(mesh.net.at(20), mesh.net.at(3)).await;
        mesh.secured(0, 20, 3);
        mesh.service("catalog", policy);
        Self {
            mesh,
            target,
            wire,
            authority,
        }
    }

    pub fn application(&self) -> SocketAddr {
        self.mesh.net.at(4)
    }

    /// The mode of the target's ports, and what its port speaks.
    pub async fn mode(&self, mode: MtlsMode, protocol: Protocol) {
        let before = self.mesh.control.times_sent("shop/web-3");
        self.mesh.workload_of(3, |workload| {
            workload.mtls = mode as i32;
            workload.ports = vec![InboundPort {
                port: PORT.into(),
                protocol: protocol as i32,
                mtls: mode as i32,
                ..InboundPort::default()
            }];
        });
        self.mesh.until_applied("shop/web-3", before).await;
        // It was sent; soon it is taken.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn requests_of_http1_are_encrypted_and_the_application_learns_who_asks() {
    let pair = Pair::start().await;
    let app = App::ok(pair.application()).await;
    let mut client = pair.mesh.client().await;
    for _ in 0..20 {
        let answer = client
            .request(
                "POST",
                "catalog:8080",
                "/very-secret-path",
                "x-remora-client-identity: spiffe://cluster.local/ns/shop/sa/admin\r\n\
                 X-Remora-Client-Identity: spiffe://cluster.local/ns/shop/sa/root\r\n",
                "very-secret-body",
            )
            .await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    }
    for request in app.requests() {
        let said: Vec<&str> = request
            .headers
            .iter()
            .filter(|(name, _)| name == "x-remora-client-identity")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(said, [id("web-1")]);
        assert_eq!(request.body, b"very-secret-body");
    }
    assert_eq!(pair.wire.connections(), 1, "they are multiplexed");
    assert!(pair.wire.bytes() > 2_000);
    for secret in [
        "very-secret",
        "hello",
        "HTTP/1.1",
        "remora-h2\n",
        "PRI * HTTP",
    ] {
        assert!(!pair.wire.heard(secret), "{secret} was heard");
    }
    let ok = r#"side="inbound",result="ok""#;
    assert_eq!(
        pair.target.counter("remora_tls_handshakes_total", ok).await,
        1
    );
}

#[tokio::test]
async fn http2_and_grpc_are_encrypted() {
    let pair = Pair::start().await;
    let app = h2_app::App::start(pair.application(), |_| {
        h2_app::grpc(&[("grpc-status", "0")])
    })
    .await;
    let client = pair.mesh.client2().await;
    for _ in 0..5 {
        assert_eq!(
            client.call("/shop.Catalog/Echo", &[]).await.grpc_status(),
            "0"
        );
    }
    for request in app.requests() {
        assert_eq!(request.header("x-remora-client-identity"), id("web-1"));
    }
    assert!(!pair.wire.heard("shop.Catalog") && !pair.wire.heard("PRI * HTTP"));
    assert_eq!(pair.wire.connections(), 1);
}

#[tokio::test]
async fn what_http2_cannot_carry_is_encrypted_on_a_connection_of_its_own() {
    let pair = Pair::start().await;
    let app = Listening::start(pair.application(), |mut raw| async move {
        let head = raw.head().await;
        assert!(
            head.contains("x-remora-client-identity: spiffe://"),
            "{head}"
        );
        raw.write(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n",
        )
        .await;
        raw.echo().await;
    })
    .await;
    let mut caller = Raw::connect(pair.mesh.sidecar.outbound()).await;
    caller
        .write("GET /chat HTTP/1.1\r\nhost: catalog:8080\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")
        .await;
    assert!(caller.head().await.starts_with("HTTP/1.1 101 "));
    caller.write("secret words").await;
    assert_eq!(caller.until("words").await, "secret words");
    caller.finish().await;
    assert_eq!(caller.rest().await, "bye");
    assert_eq!(app.accepted(), 1);
    assert!(!pair.wire.heard("secret words") && !pair.wire.heard("chat"));
}

/// A connection to `inventory:8080` through CONNECT.
async fn tunnel(mesh: &Mesh) -> Raw {
    let mut raw = Raw::connect(mesh.sidecar.outbound()).await;
    raw.write("CONNECT inventory:8080 HTTP/1.1\r\nhost: inventory:8080\r\n\r\n")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    raw
}

fn inventory(pair: &Pair) {
    pair.mesh
        .endpoint("inventory", 0, pair.mesh.net.at(20), |endpoint| {
            endpoint.sidecar = true;
            endpoint.mesh_protocols = vec!["remora-tcp".into()];
            endpoint.identity = id("web-3");
        });
    pair.mesh.service_with("inventory", |service| {
        service.ports[0].protocol = Protocol::Tcp as i32;
    });
}

#[tokio::test]
async fn bytes_are_encrypted_whoever_speaks_first() {
    for (mode, protocol) in [
        (MtlsMode::Permissive, Protocol::Tcp),
        (MtlsMode::Strict, Protocol::Tcp),
        (MtlsMode::Strict, Protocol::Detect),
        (MtlsMode::Permissive, Protocol::Detect),
    ] {
        let pair = Pair::start().await;
        pair.mode(mode, protocol).await;
        inventory(&pair);
        let _app = Listening::start(pair.application(), |mut raw| async move {
            raw.write("the server's greeting ").await;
            raw.echo().await;
        })
        .await;
        let mut caller = tunnel(&pair.mesh).await;
        assert_eq!(caller.until("greeting ").await, "the server's greeting ");
        let bulk = "the caller's secret ".repeat(100_000);
        let (mut reading, writing) = (String::new(), bulk.clone());
        caller.write(&writing).await;
        caller.finish().await;
        reading.push_str(&caller.rest().await);
        assert!(reading == format!("{bulk}bye"), "{mode:?} {protocol:?}");
        assert!(!pair.wire.heard("greeting") && !pair.wire.heard("secret"));
        assert!(pair.wire.bytes() > 2 * bulk.len());
    }
}

/// A sidecar whose node is busy says its hello late: the application, which
/// would speak first, must not do so in plaintext meanwhile.
#[tokio::test]
async fn a_caller_that_is_held_up_before_its_hello_hears_nothing_in_plaintext() {
    for protocol in [Protocol::Tcp, Protocol::Detect] {
        let pair = Pair::start().await;
        pair.mode(MtlsMode::Permissive, protocol).await;
        inventory(&pair);
        let _app = Listening::start(pair.application(), |mut raw| async move {
            raw.write("the server's greeting ").await;
            raw.echo().await;
        })
        .await;
        pair.wire.delay(Duration::from_millis(300));
        for _ in 0..3 {
            let mut caller = tunnel(&pair.mesh).await;
            assert_eq!(caller.until("greeting ").await, "the server's greeting ");
        }
        assert!(!pair.wire.heard("greeting"), "{protocol:?}");
        assert_eq!(pair.wire.connections(), 3, "{protocol:?}");
    }
}

#[tokio::test]
async fn whoever_is_not_who_the_endpoint_says_is_not_sent_a_byte_and_another_is_asked() {
    let pair = Pair::start().await;
    let app = App::ok(pair.application()).await;
    // The pod web-3, where web-9 is to be.
    pair.mesh.secured(1, 3, 9);
    let mut client = pair.mesh.client().await;
    for _ in 0..30 {
        let answer = client.post("catalog:8080", "/", "once").await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(app.count(), 30);
    let wrong = r#"side="outbound",result="wrong_identity""#;
    let name = "remora_tls_handshakes_total";
    assert!(pair.mesh.sidecar.counter(name, wrong).await > 0);
    assert!(pair.mesh.sidecar.log().contains("wrong_identity"));
    // Alone it is a connect failure, and nothing is sent in plaintext instead.
    pair.mesh.remove_endpoint("catalog", 0);
    eventually("the good one is gone", async || {
        pair.mesh.get("/").await.reason() == "connect_failed"
    })
    .await;
}

/// What comes back for these bytes at the target's own port, up to its end.
async fn say(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    soon("an answer or the end", async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            heard.extend_from_slice(&buffer[..read]);
            if heard.ends_with(b"hello") || heard.ends_with(b"foreign") {
                break;
            }
        }
    })
    .await;
    heard
}

fn foreign_hello() -> Vec<u8> {
    let mut config =
        rustls::ClientConfig::builder_with_provider(remora_proxy::tls::config::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "catalog.shop".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_strict_port_takes_nothing_but_mutual_tls() {
    let pair = Pair::start().await;
    let app = App::ok(pair.application()).await;
    let address = pair.target.inbound(PORT);
    let plain = b"GET / HTTP/1.1\r\nhost: a\r\nx-remora-client-identity: me\r\n\r\n".to_vec();
    let mut preface = b"\0remora-h1\n".to_vec();
    preface.extend_from_slice(&plain);
    // Permissive: as of callers without identity.
    for bytes in [&plain, &preface] {
        assert!(say(address, bytes).await.ends_with(b"hello"));
    }
    for request in app.requests() {
        assert_eq!(request.header("x-remora-client-identity"), "");
    }
    for protocol in [Protocol::Http1, Protocol::Detect, Protocol::Tcp] {
        pair.mode(MtlsMode::Strict, protocol).await;
        let before = app.accepted();
        let preface2 = b"\0remora-h2\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for bytes in [
            &plain,
            &preface,
            &preface2,
            &foreign_hello(),
            &b"\x16\x03\x01".to_vec(),
        ] {
            assert_eq!(say(address, bytes).await, b"", "{protocol:?}");
        }
        assert_eq!(app.accepted(), before);
        // While the caller's sidecar is served.
        if protocol != Protocol::Tcp {
            assert_eq!(pair.mesh.get("/").await.status, 200);
        }
    }
    let name = "remora_strict_refused_total";
    assert!(pair.target.counter(name, "plaintext").await >= 9);
    assert!(pair.target.counter(name, "foreign_tls").await >= 3);
    assert!(pair.target.log().contains("nothing but mutual TLS"));
}

#[tokio::test]
async fn an_applications_own_tls_is_relayed_where_the_port_is_permissive() {
    for protocol in [Protocol::Http1, Protocol::Detect, Protocol::Tcp] {
        let pair = Pair::start().await;
        pair.mode(MtlsMode::Permissive, protocol).await;
        let hello = foreign_hello();
        let expected = hello.len();
        let _app = Listening::start(pair.application(), move |mut raw| async move {
            let mut read = 0;
            while read < expected {
                read += raw.some().await;
            }
            raw.write("foreign").await;
        })
        .await;
        let heard = say(pair.target.inbound(PORT), &hello).await;
        assert_eq!(heard, b"foreign", "{protocol:?}");
    }
}

#[tokio::test]
async fn a_mode_that_is_not_known_is_strict() {
    let pair = Pair::start().await;
    let _app = App::ok(pair.application()).await;
    let before = pair.mesh.control.times_sent("shop/web-3");
    pair.mesh.workload_of(3, |workload| workload.mtls = 77);
    pair.mesh.until_applied("shop/web-3", before).await;
    // One that was taken a moment before it is strict is answered, and must end too.
    let plain = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    eventually("it is strict", async || {
        say(pair.target.inbound(PORT), plain).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_disabled_endpoint_is_sent_plaintext() {
    let pair = Pair::start().await;
    let _app = App::ok(pair.application()).await;
    pair.mode(MtlsMode::Disabled, Protocol::Http1).await;
    pair.mesh
        .endpoint("catalog", 0, pair.mesh.net.at(20), |endpoint| {
            endpoint.sidecar = true;
            endpoint.mesh_protocols = vec!["remora-h2".into(), "remora-h1".into()];
            endpoint.identity = id("web-3");
            endpoint.mtls = MtlsMode::Disabled as i32;
        });
    eventually("it is plaintext", async || {
        pair.mesh.get("/").await.status == 200 && pair.wire.heard("\0remora-h2\n")
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_has_an_identity_now_is_sent_no_more_plaintext() {
    let pair = Pair::start().await;
    let _app = App::ok(pair.application()).await;
    pair.mesh.meshed(policy(), &[20]);
    eventually("it is plaintext", async || {
        pair.mesh.get("/").await.status == 200 && pair.wire.heard("\0remora-h2\n")
    })
    .await;
    pair.mesh.secured(0, 20, 3);
    let plain = pair.wire.connections();
    eventually("it is encrypted", async || {
        pair.mesh.get("/").await.status == 200 && pair.wire.connections() > plain
    })
    .await;
    let before = pair.wire.heard("first-secret");
    for _ in 0..5 {
        assert_eq!(pair.mesh.get("/first-secret").await.status, 200);
    }
    assert!(!before && !pair.wire.heard("first-secret"));
}

#[tokio::test]
async fn requests_are_limited_and_logged_by_who_asks() {
    let options = Options {
        access_log: true,
        ..Options::default()
    };
    let pair = Pair::start_with(options, policy()).await;
    let _app = App::ok(pair.application()).await;
    let before = pair.mesh.control.times_sent("shop/web-3");
    pair.mesh.workload_of(3, |workload| {
        workload.ports = vec![InboundPort {
            port: PORT.into(),
            protocol: Protocol::Http1 as i32,
            rate_limits: vec![v1::RateLimit {
                name: "each".into(),
                requests: 1,
                per_ms: 3_600_000,
                burst: 2,
                key: vec![v1::KeyPart {
                    part: Some(v1::key_part::Part::ClientIdentity(true)),
                }],
                max_keys: 100,
                policy: "shop/limits".into(),
                ..v1::RateLimit::default()
            }],
            ..InboundPort::default()
        }];
    });
    pair.mesh.until_applied("shop/web-3", before).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let statuses = async |address: SocketAddr| {
        let mut client = Client::connect(address).await;
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(client.get("catalog:8080", "/").await.status);
        }
        statuses
    };
    // Another caller has another bucket: here one without identity.
    assert_eq!(
        statuses(pair.mesh.sidecar.outbound()).await,
        [200, 200, 429]
    );
    assert_eq!(statuses(pair.target.inbound(PORT)).await, [200, 200, 429]);
    eventually("the log tells who asked", async || {
        let lines = pair.target.access_log();
        lines
            .iter()
            .filter(|line| line["identity"] == id("web-1"))
            .count()
            == 3
            && lines
                .iter()
                .filter(|line| line["identity"].is_null())
                .count()
                == 3
    })
    .await;
}

#[tokio::test]
async fn requests_to_a_port_whose_sidecar_only_relays_travel_as_bytes() {
    let pair = Pair::start().await;
    let app = App::ok(pair.application()).await;
    pair.mode(MtlsMode::Strict, Protocol::Tcp).await;
    pair.mesh
        .endpoint("catalog", 0, pair.mesh.net.at(20), |endpoint| {
            endpoint.sidecar = true;
            endpoint.mesh_protocols = vec!["remora-tcp".into()];
            endpoint.identity = id("web-3");
        });
    let mut client = pair.mesh.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("catalog:8080", "/a-secret").await.status, 200);
    }
    let requests = app.requests();
    assert_eq!(requests.len(), 5);
    // Its sidecar has not looked at them.
    assert_eq!(requests[0].header("x-remora-client-identity"), "");
    assert!(!pair.wire.heard("a-secret"));
}

/// Connections of `account` to the target's port.
async fn connections(pair: &Pair, account: &str, count: usize) -> Vec<TlsStream> {
    let mutual = pair.authority.mutual(account);
    let configs = ClientConfigs::default();
    let expected = id("web-3").parse().unwrap();
    let address = pair.target.inbound(PORT);
    let mut streams = Vec::new();
    for _ in 0..count {
        let config = configs.of(&mutual, &expected, Alpn::H1).unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let shaken = handshake::connect(config, socket, address.ip()).await;
        streams.push(shaken.unwrap());
    }
    streams
}

#[tokio::test]
async fn an_idle_connection_costs_little() {
    let pair = Pair::start().await;
    let _app = App::ok(pair.application()).await;
    let warm = connections(&pair, "web-7", 50).await;
    let before = pair.target.process().resident();
    let mut streams = connections(&pair, "web-7", 500).await;
    let after = pair.target.process().resident();
    let each = after.saturating_sub(before) / 500;
    println!("an idle connection of mutual TLS: {each} bytes");
    assert!(each <= 20 * 1024, "{each}");
    let last = streams.last_mut().unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    last.write_all(request).await.unwrap();
    assert!(soon("an answer", last.read(&mut [0; 100])).await.unwrap() > 0);
    drop(warm);
}

#[tokio::test]
async fn a_caller_that_never_ends_its_handshake_is_let_go() {
    let pair = Pair::start().await;
    let mut stream = TcpStream::connect(pair.target.inbound(PORT)).await.unwrap();
    stream.write_all(&foreign_hello()[..100]).await.unwrap();
    let mut heard = [0; 10];
    let patience = std::time::Duration::from_secs(9);
    let ended = tokio::time::timeout(patience, stream.read(&mut heard));
    // Nobody is behind it: the bytes so far are the application's, which is not there.
    assert!(!matches!(ended.await.unwrap(), Ok(1..)));
}

#[tokio::test]
async fn a_caller_that_drips_its_hello_is_let_go() {
    let pair = Pair::start().await;
    pair.mode(MtlsMode::Strict, Protocol::Detect).await;
    let mut stream = TcpStream::connect(pair.target.inbound(PORT)).await.unwrap();
    let dripping = async {
        let mut heard = [0; 1];
        for byte in foreign_hello() {
            let pause = std::time::Duration::from_millis(500);
            // An end, or a reset: nothing is answered.
            if tokio::time::timeout(pause, stream.read(&mut heard))
                .await
                .is_ok()
                || stream.write_all(&[byte]).await.is_err()
            {
                return;
            }
        }
    };
    let patience = std::time::Duration::from_secs(15);
    let ended = tokio::time::timeout(patience, dripping).await;
    assert!(ended.is_ok(), "it is still heard");
}

#[tokio::test]
async fn the_applications_probes_are_answered_at_a_strict_port() {
    let options = Options {
        probes: r#"[{"path": "/probe/app/ready", "timeout_ms": 1000,
                     "http": {"port": 8080, "path": "/healthz", "scheme": "http"}}]"#,
        ..Options::default()
    };
    let pair = Pair::start_with(options, policy()).await;
    let app = App::ok(pair.application()).await;
    pair.mode(MtlsMode::Strict, Protocol::Http1).await;
    let kubelet = SocketAddr::new(pair.target.inbound(PORT).ip(), 15121);
    let mut probe = Client::connect(kubelet).await;
    assert_eq!(probe.get("web-3", "/probe/app/ready").await.status, 200);
    assert_eq!(app.requests()[0].path, "/healthz");
    assert_eq!(probe.get("web-3", "/healthz").await.status, 404);
}

#[tokio::test]
async fn a_connection_from_before_a_port_was_strict_carries_nothing_more() {
    let pair = Pair::start().await;
    let app = App::ok(pair.application()).await;
    let mut plain = Client::connect(pair.target.inbound(PORT)).await;
    assert_eq!(plain.get("web-3", "/").await.status, 200);
    pair.mode(MtlsMode::Strict, Protocol::Http1).await;
    let answer = plain.get("web-3", "/").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn raw_bytes_in_plaintext_end_when_their_port_becomes_strict() {
    let pair = Pair::start().await;
    pair.mode(MtlsMode::Permissive, Protocol::Tcp).await;
    let _app = Listening::start(pair.application(), Raw::echo).await;
    let mut plain = Raw::connect(pair.target.inbound(PORT)).await;
    plain.write("before ").await;
    assert_eq!(plain.until("before ").await, "before ");
    inventory(&pair);
    let mut secured = tunnel(&pair.mesh).await;
    secured.write("secured ").await;
    assert_eq!(secured.until("secured ").await, "secured ");
    pair.mode(MtlsMode::Strict, Protocol::Tcp).await;
    assert_eq!(plain.until_or_end("more").await, None);
    secured.write("goes on ").await;
    assert_eq!(secured.until("goes on ").await, "goes on ");
}
