//! A POST that nothing makes safe is never delivered twice, at whichever moment its
//! application breaks off, with retries on for everything; where it is made safe, it
//! is sent again. Deliveries are counted by the application.
//!
//! Each path is one request and says what becomes of its first delivery; a second one
//! would be answered 200.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use h2::Reason;
use remora_proto::v1::{Conditions, RetryBudget, ServicePolicy};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::h2_app::{self, GRPC, MESSAGE, Step};
use crate::mesh::{Mesh, retrying, trip};
use crate::sidecar::{Options, Sidecar};

/// Of each kind so many requests.
const ROUNDS: usize = 12;
/// Where an exchange over HTTP/1.1 is broken off.
const MOMENTS: [&str; 7] = [
    "head",
    "body",
    "end",
    "interim",
    "in-answers-head",
    "answers-head",
    "in-answer",
];
/// In which manner.
const MANNERS: [&str; 2] = ["reset", "close"];
const BODY: &str = "a body of some length, which is sent in two pieces";
const KEY: &str = "idempotency-key";

/// Retries of everything that there is, as often as is asked for.
fn on_everything() -> ServicePolicy {
    let mut policy = retrying(3, |retries| {
        retries.on = Some(Conditions {
            connect_failure: true,
            refused_stream: true,
            reset: true,
            timeout: true,
            gateway_error: true,
            server_error: true,
            retriable_client_error: true,
            status_codes: vec![404],
            grpc_codes: (1..=16).collect(),
        });
        retries.idempotency_header = KEY.into();
        retries.budget = Some(RetryBudget {
            percent: 100,
            min_per_second: 1_000,
            window_ms: 10_000,
        });
    });
    // That no endpoint is ever shut is not what keeps a request from being sent again.
    policy.circuit_breaker = trip(|trip| trip.consecutive_failures = 1_000).circuit_breaker;
    policy
}

/// How often each path came to the application, at whichever endpoint.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<HashMap<String, u32>>>);

impl Deliveries {
    /// Counts one; whether it is the first.
    fn first(&self, path: &str) -> bool {
        let mut all = self.0.lock().unwrap();
        let count = all.entry(path.to_owned()).or_default();
        *count += 1;
        *count == 1
    }

    fn of(&self, path: &str) -> u32 {
        self.0.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

/// An application of HTTP/1.1 that breaks off as the path says; ends on drop.
struct Breaking(JoinHandle<()>);

impl Drop for Breaking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Breaking {
    async fn start(address: std::net::SocketAddr, deliveries: Deliveries) -> Self {
        let listener = crate::bind(address).await;
        Self(tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let deliveries = deliveries.clone();
                tasks.spawn(async move {
                    let mut stream = stream;
                    let manner = serve(&mut stream, &deliveries).await;
                    if manner == "reset" {
                        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    }
                });
            }
        }))
    }
}

/// Serves a connection until it ends; in which manner.
async fn serve(stream: &mut TcpStream, deliveries: &Deliveries) -> &'static str {
    let mut seen: Vec<u8> = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                return "close";
            }
        };
        let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let mut parts = path.trim_start_matches('/').split('/');
        let moment = parts.next().unwrap_or_default();
        let manner = parts.next().unwrap_or_default();
        let manner = MANNERS
            .into_iter()
            .find(|it| *it == manner)
            .unwrap_or("close");
        let moment = if deliveries.first(&path) {
            moment
        } else {
            "well"
        };
        seen.drain(..end);
        let (wanted, said): (usize, &[u8]) = match moment {
            "head" => (0, b""),
            "body" => (length / 2, b""),
            "end" => (length, b""),
            "interim" => (length, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
            "in-answers-head" => (length, b"HTTP/1.1 200 OK\r\ncontent-le"),
            "answers-head" => (length, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
            "in-answer" => (length, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel"),
            "unavailable" => (length, b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"),
            _ => (length, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        };
        while seen.len() < wanted {
            if !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                return "close";
            }
        }
        seen.drain(..wanted);
        let _ = stream.write_all(said).await;
        if !matches!(moment, "well" | "unavailable" | "idle") {
            // What was said arrives before the end.
            tokio::time::sleep(Duration::from_millis(u64::from(!said.is_empty()) * 5)).await;
            return manner;
        }
        if moment == "idle" {
            // Whoever sends on it now meets the end.
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..2_000))).await;
            return manner;
        }
    }
}

/// One POST whose body comes in two pieces; the status, 0 where there was none.
async fn post(sidecar: std::net::SocketAddr, path: &str, headers: &str) -> u16 {
    let mut client = crate::client::Client::connect(sidecar).await;
    let (first, second) = BODY.split_at(BODY.len() / 2);
    let length = BODY.len();
    client
        .write(format!(
            "POST {path} HTTP/1.1\r\nhost: catalog:8080\r\n{headers}content-length: {length}\r\n\r\n{first}"
        ))
        .await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    client.write(second).await;
    loop {
        let answer = client.answer_to("POST").await;
        if !(100..200).contains(&answer.status) {
            return answer.status;
        }
    }
}

/// Whether a retry may still follow where it is broken off there.
fn is_before_the_answer(moment: &str) -> bool {
    !matches!(moment, "answers-head" | "in-answer")
}

async fn every_moment(sidecar: std::net::SocketAddr, deliveries: &Deliveries) {
    for moment in MOMENTS.into_iter().chain(["unavailable"]) {
        for manner in MANNERS {
            for round in 0..ROUNDS {
                let path = format!("/{moment}/{manner}/{round}");
                let status = post(sidecar, &path, "").await;
                assert_eq!(deliveries.of(&path), 1, "{path}: {status}");
                let path = format!("/{moment}/{manner}/{round}/safe");
                let status = post(sidecar, &path, &format!("{KEY}: {round}\r\n")).await;
                let again = is_before_the_answer(moment);
                assert_eq!(
                    deliveries.of(&path),
                    1 + u32::from(again),
                    "{path}: {status}"
                );
                assert_eq!(status, 200, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn over_http1_no_unrepeatable_post_is_delivered_twice_and_every_repeatable_one_is_sent_again()
{
    let mesh = Mesh::start().await;
    let deliveries = Deliveries::default();
    let addresses = [mesh.net.at(10), mesh.net.at(11)];
    let _first = Breaking::start(addresses[0], deliveries.clone()).await;
    let _second = Breaking::start(addresses[1], deliveries.clone()).await;
    mesh.catalog(on_everything(), &addresses);
    every_moment(mesh.sidecar.outbound(), &deliveries).await;
}

#[tokio::test]
async fn where_nobody_listens_every_post_goes_elsewhere_once() {
    let mesh = Mesh::start().await;
    let deliveries = Deliveries::default();
    let addresses = [mesh.net.at(10), mesh.net.at(11)];
    let _app = Breaking::start(addresses[0], deliveries.clone()).await;
    mesh.catalog(on_everything(), &addresses);
    for round in 0..ROUNDS {
        let path = format!("/well/{round}");
        assert_eq!(post(mesh.sidecar.outbound(), &path, "").await, 200);
        assert_eq!(deliveries.of(&path), 1);
    }
}

#[tokio::test]
async fn what_is_accepted_and_reset_or_closed_while_idle_is_not_sent_twice() {
    let mesh = Mesh::start().await;
    let deliveries = Deliveries::default();
    let address = mesh.net.at(10);
    let _app = Breaking::start(address, deliveries.clone()).await;
    // This one takes connections and breaks them off at once, or after a moment.
    let listener = crate::bind(mesh.net.at(11)).await;
    let breaking = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..500))).await;
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            });
        }
    });
    mesh.catalog(on_everything(), &[address, mesh.net.at(11)]);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8 {
        let (sidecar, deliveries) = (mesh.sidecar.outbound(), deliveries.clone());
        callers.spawn(async move {
            for round in 0..ROUNDS * 6 {
                let path = format!("/idle/{}/{caller}/{round}", MANNERS[round % 2]);
                let status = post(sidecar, &path, "").await;
                let count = deliveries.of(&path);
                assert!(count <= 1, "{path}: {status}, {count} times");
                assert!(
                    count == 1 || status != 200,
                    "{path}: {status}, never delivered"
                );
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    breaking.abort();
}

/// The steps that a path of HTTP/2 asks for.
fn steps(path: &str) -> Vec<Step> {
    let moment = path
        .trim_start_matches('/')
        .split('/')
        .nth(1)
        .unwrap_or_default();
    let grpc: h2_app::Fields = &[("grpc-status", "14")];
    match moment {
        "head-killed" => vec![Step::Kill],
        "head-reset" => vec![Step::Reset(Reason::INTERNAL_ERROR)],
        "head-cancelled" => vec![Step::Reset(Reason::CANCEL)],
        "body-killed" => vec![Step::Wait(1), Step::Kill],
        "body-reset" => vec![Step::Wait(1), Step::Reset(Reason::INTERNAL_ERROR)],
        "end-killed" => vec![Step::Read, Step::Kill],
        "end-reset" => vec![Step::Read, Step::Reset(Reason::INTERNAL_ERROR)],
        "interim-reset" => vec![
            Step::Read,
            Step::Interim(103, &[]),
            Step::Reset(Reason::INTERNAL_ERROR),
        ],
        "unavailable" => h2_app::status(503),
        "only-status" => vec![Step::Read, Step::HeadAlone(200, grpc)],
        "trailers" => h2_app::grpc_empty(grpc),
        "answers-head-killed" => vec![
            Step::Read,
            Step::Head(200, GRPC),
            Step::Wait(30),
            Step::Kill,
        ],
        "in-answer-reset" => vec![
            Step::Read,
            Step::Head(200, GRPC),
            Step::Data(MESSAGE),
            Step::Wait(30),
            Step::Reset(Reason::INTERNAL_ERROR),
        ],
        _ => h2_app::grpc(&[("grpc-status", "0")]),
    }
}

/// With those of plain HTTP/2 and of gRPC alike; then those of gRPC alone, and those
/// after which no retry follows.
const MOMENTS_OF_HTTP2: [&str; 13] = [
    "head-killed",
    "head-reset",
    "head-cancelled",
    "body-killed",
    "body-reset",
    "end-killed",
    "end-reset",
    "interim-reset",
    "unavailable",
    "only-status",
    "trailers",
    "answers-head-killed",
    "in-answer-reset",
];

fn application(deliveries: &Deliveries) -> impl Fn(&h2_app::Received) -> Vec<Step> + use<> {
    let deliveries = deliveries.clone();
    move |request| {
        if deliveries.first(&request.path) {
            steps(&request.path)
        } else {
            steps("/well")
        }
    }
}

async fn every_moment_of_http2(mesh: &Mesh, deliveries: &Deliveries, is_grpc: bool) {
    let client = mesh.client2().await;
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        if is_grpc {
            let answer = client.call(path, headers).await;
            return answer.status == 200 && answer.grpc_status() == "0";
        }
        let answer = client.request("POST", path, headers, BODY.as_bytes()).await;
        answer.status == 200 && answer.broke.is_none()
    };
    for (at, moment) in MOMENTS_OF_HTTP2.into_iter().enumerate() {
        let follows = at < 9 || (is_grpc && at < 11);
        for round in 0..ROUNDS {
            let path = format!("/test.Pay/{moment}/{round}");
            let _ = ask(&path, &[]).await;
            assert_eq!(deliveries.of(&path), 1, "{path}");
            if follows {
                let path = format!("/test.Pay/{moment}/{round}/safe");
                let is_good = ask(&path, &[(KEY, "7")]).await;
                assert_eq!(deliveries.of(&path), 2, "{path}");
                assert!(is_good, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn over_http2_and_grpc_no_unrepeatable_call_is_delivered_twice() {
    for is_grpc in [false, true] {
        let mesh = Mesh::start().await;
        let deliveries = Deliveries::default();
        let first = h2_app::App::start(mesh.net.at(10), application(&deliveries)).await;
        let second = h2_app::App::start(mesh.net.at(11), application(&deliveries)).await;
        mesh.catalog(on_everything(), &[first.address(), second.address()]);
        every_moment_of_http2(&mesh, &deliveries, is_grpc).await;
    }
}

/// A second sidecar in front of the application, which is at `.4`.
async fn pair() -> (Mesh, Sidecar) {
    let mesh = Mesh::start().await;
    let target = mesh.beside(3, Options::default()).await;
    mesh.meshed(on_everything(), &[3]);
    (mesh, target)
}

#[tokio::test]
async fn between_two_sidecars_no_unrepeatable_post_is_delivered_twice() {
    let (mesh, _target) = pair().await;
    let deliveries = Deliveries::default();
    let _app = Breaking::start(mesh.net.at(4), deliveries.clone()).await;
    every_moment(mesh.sidecar.outbound(), &deliveries).await;
}

#[tokio::test]
async fn between_two_sidecars_no_unrepeatable_call_of_http2_or_grpc_is_delivered_twice() {
    for is_grpc in [false, true] {
        let (mesh, _target) = pair().await;
        let deliveries = Deliveries::default();
        let _app = h2_app::App::start(mesh.net.at(4), application(&deliveries)).await;
        every_moment_of_http2(&mesh, &deliveries, is_grpc).await;
    }
}

#[tokio::test]
async fn a_post_is_sent_again_where_the_policy_lists_it() {
    let mesh = Mesh::start().await;
    let deliveries = Deliveries::default();
    let address = mesh.net.at(10);
    let _app = Breaking::start(address, deliveries.clone()).await;
    let mut policy = on_everything();
    policy.retries.as_mut().unwrap().methods = vec!["POST".into()];
    mesh.catalog(policy, &[address]);
    for moment in MOMENTS.into_iter().filter(|it| is_before_the_answer(it)) {
        let path = format!("/{moment}/reset/0");
        assert_eq!(
            post(mesh.sidecar.outbound(), &path, "").await,
            200,
            "{path}"
        );
        assert_eq!(deliveries.of(&path), 2, "{path}");
    }
}
