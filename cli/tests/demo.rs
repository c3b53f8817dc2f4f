//! The demo shop over loopback, without a mesh: each role at an address of its
//! own, as the playground has it.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail by them

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Parser;
use http::StatusCode;
use remora::demo::client::{Call, CallError, Client};
use remora::demo::dial::Dialer;
use remora::demo::{DemoOptions, play};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: DemoOptions,
}

/// An address that no other test and no other process of the tests has.
fn address(host: u8) -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, high.max(1), low, host))
}

struct Running {
    stop: watch::Sender<bool>,
    role: JoinHandle<anyhow::Result<()>>,
    client: Client,
}

/// Starts a role, and waits until it answers.
async fn start(role: &str, host: u8, arguments: &[String]) -> Running {
    let bind = format!("--bind={}", address(host));
    let own = [String::from("demo"), role.to_owned(), bind];
    let options = Command::parse_from(own.iter().chain(arguments)).options;
    let (stop, stopped) = watch::channel(false);
    let role = tokio::spawn(play(options, stopped));
    let client = client(SocketAddr::new(address(host), 8080));
    for _ in 0..100 {
        if client.call(&Call::get("/healthz"), PATIENCE).await.is_ok() {
            return Running { stop, role, client };
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the role does not answer: {:?}", role.await);
}

impl Running {
    async fn get(&self, path: &'static str) -> (StatusCode, Value) {
        self.call(Call::get(path)).await
    }

    async fn post(&self, path: &'static str) -> (StatusCode, Value) {
        self.call(Call::post(path, "{}")).await
    }

    async fn call(&self, call: Call) -> (StatusCode, Value) {
        let answer = self.client.call(&call, PATIENCE).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    async fn end(self) {
        self.stop.send_replace(true);
        let ended = tokio::time::timeout(PATIENCE, self.role).await;
        ended.unwrap().unwrap().unwrap();
    }
}

fn client(to: SocketAddr) -> Client {
    Client::new(Dialer::new("").unwrap(), &to.to_string()).unwrap()
}

fn at(name: &str, host: u8, port: u16) -> String {
    format!("--{name}={}:{port}", address(host))
}

#[tokio::test]
async fn the_whole_shop_answers_and_the_visitor_counts_what_fails() {
    let inventory = start("inventory", 1, &[]).await;
    let catalog = start("catalog", 2, &[]).await;
    let cart = start("cart", 3, &[at("inventory", 1, 7000)]).await;
    let payment = start("payment", 4, &["--payment-version=v7".into()]).await;
    let upstreams = [
        at("catalog", 2, 8080),
        at("cart", 3, 8080),
        at("payment", 4, 8080),
    ];
    let web = start("web", 5, &upstreams).await;

    let (status, page) = web.get("/").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(page["catalog"]["products"].as_array().unwrap().len(), 20);
    assert_eq!(page["cart"]["items"][0]["stock"], 93);
    assert_eq!(web.post("/checkout").await.1["version"], "v7");
    assert_eq!(web.get("/nothing").await.0, StatusCode::NOT_FOUND);

    let visitor = start("visitor", 6, &[at("web", 5, 8080), "--rate=400".into()]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (_, stats) = visitor.get("/stats").await;
    assert_eq!(stats["started"], true);
    assert_eq!(stats["failed_idempotent"], 0, "{stats}");
    assert_eq!(stats["failed_other"], 0, "{stats}");
    let (requests, seconds) = (stats["requests"].as_f64(), stats["seconds"].as_f64());
    let rate = requests.unwrap() / seconds.unwrap();
    assert!((300.0..=410.0).contains(&rate), "{rate} a second: {stats}");

    // Payment is broken: only buying fails. The inventory is, too: the cart
    // says that it does not know.
    payment.post("/break?status=503").await;
    inventory.post("/break?status=500").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, stats) = visitor.get("/stats").await;
    assert_eq!(stats["failed_idempotent"], 0, "{stats}");
    assert!(
        stats["recent"]["failed_other"].as_u64().unwrap() > 0,
        "{stats}"
    );
    let error = &stats["errors"][0];
    assert_eq!(error["path"], "/checkout");
    assert!(
        error["what"]
            .as_str()
            .unwrap()
            .contains("payment answered 503"),
        "{error}"
    );
    assert_eq!(cart.get("/cart").await.1["items"][0]["stock"], Value::Null);
    payment.post("/break?status=0").await;
    inventory.post("/break?status=0").await;
    assert_eq!(web.post("/checkout").await.0, StatusCode::OK);
    assert_eq!(cart.get("/cart").await.1["items"][0]["stock"], 93);

    for role in [visitor, web, payment, cart, catalog, inventory] {
        role.end().await;
    }
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_then_the_role_ends() {
    let catalog = start("catalog", 11, &[]).await;
    catalog.post("/slow?ms=400").await;
    let to = SocketAddr::new(address(11), 8080);
    let other = client(to);
    let slow = tokio::spawn(async move { other.call(&Call::get("/products"), PATIENCE).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    catalog.end().await;
    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(TcpStream::connect(to).await.is_err(), "still listening");
}

/// Reads one request's head.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(bytes).unwrap()
}

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn through_a_proxy_the_target_is_absolute_and_the_host_is_the_services() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialer = Dialer::new(&format!("http://{}", proxy.local_addr().unwrap())).unwrap();
    let client = Client::new(dialer, "catalog:8080").unwrap();
    let serve = async {
        let (mut stream, _) = proxy.accept().await.unwrap();
        let head = head(&mut stream).await;
        stream.write_all(FINE).await.unwrap();
        head
    };
    let products = Call::get("/products");
    let (head, answer) = tokio::join!(serve, client.call(&products, PATIENCE));
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    assert!(
        head.starts_with("GET http://catalog:8080/products HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("host: catalog:8080\r\n"), "{head}");
}

/// Answers the first request, reads the second and closes, answers the third.
async fn closes_on_the_second(server: TcpListener) {
    let (mut stream, _) = server.accept().await.unwrap();
    head(&mut stream).await;
    stream.write_all(FINE).await.unwrap();
    head(&mut stream).await;
    drop(stream);
    let (mut stream, _) = server.accept().await.unwrap();
    head(&mut stream).await;
    stream.write_all(FINE).await.unwrap();
}

#[tokio::test]
async fn what_may_have_arrived_is_sent_again_only_if_it_is_idempotent() {
    for (second, again) in [(Call::get("/x"), true), (Call::post("/x", ""), false)] {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(server.local_addr().unwrap());
        let server = tokio::spawn(closes_on_the_second(server));
        client.call(&Call::get("/"), PATIENCE).await.unwrap();
        let result = client.call(&second, PATIENCE).await;
        assert_eq!(result.is_ok(), again, "{result:?}");
        assert_eq!(client.resent(), u64::from(again));
        server.abort();
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_timeout() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(server.local_addr().unwrap());
    let timeout = Duration::from_millis(100);
    let result = client.call(&Call::get("/"), timeout).await;
    assert!(matches!(result, Err(CallError::Timeout(_))), "{result:?}");
}
