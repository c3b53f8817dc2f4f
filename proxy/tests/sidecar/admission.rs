//! Admission at the target: exact, by priority, and adaptive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use remora_proto::v1::{self, priority_rule::Priority};
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::eventually;
use crate::mesh::{Mesh, PORT};
use crate::upstream::{App, Reply, status};

async fn put(mesh: &Mesh, admission: v1::Admission) {
    let sent = mesh.control.times_sent("shop/web-1");
    mesh.workload(|workload| workload.admission = Some(admission));
    mesh.until_applied("shop/web-1", sent).await;
    eventually("it is in force", async || mesh.control.is_settled()).await;
}

fn by_path() -> v1::Priorities {
    let rule = |path: &str, priority: Priority| v1::PriorityRule {
        priority: priority.into(),
        r#match: Some(v1::Match {
            path: Some(v1::r#match::Path::PathPrefix(path.into())),
            ..v1::Match::default()
        }),
    };
    v1::Priorities {
        rules: vec![
            rule("/critical", Priority::Critical),
            rule("/sheddable", Priority::Sheddable),
        ],
        ..v1::Priorities::default()
    }
}

async fn call(mesh: &Mesh, path: &str) -> crate::client::Answer {
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    client.get("web", path).await
}

#[tokio::test]
async fn at_max_requests_the_next_is_refused_at_once_and_a_place_is_free_again() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(2), |request| match request.path.as_str() {
        "/slow" => Reply::Never,
        _ => status(200),
    })
    .await;
    let most = v1::Admission {
        max_requests: Some(2),
        ..v1::Admission::default()
    };
    put(&mesh, most).await;
    let address = mesh.sidecar.inbound(PORT);
    let (mut first, mut second) = (
        Client::connect(address).await,
        Client::connect(address).await,
    );
    first.send("GET", "web", "/slow", "", "").await;
    second.send("GET", "web", "/slow", "", "").await;
    eventually("both are in flight", async || app.count() == 2).await;
    let answer = call(&mesh, "/").await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
    assert_eq!(answer.header("retry-after"), "1");
    drop(first);
    eventually("the place of the one that left is free", async || {
        call(&mesh, "/").await.status == 200
    })
    .await;
    let none = v1::Admission {
        max_requests: Some(0),
        ..v1::Admission::default()
    };
    put(&mesh, none).await;
    eventually("zero refuses everything", async || {
        call(&mesh, "/").await.reason() == "overloaded"
    })
    .await;
}

/// An application of bounded concurrency: `PLACES` at a time, each for `SERVICE`.
const PLACES: usize = 20;
const SERVICE: Duration = Duration::from_millis(40);

#[derive(Default)]
struct Told {
    good: AtomicU64,
    refused: [AtomicU64; 3],
    asked: [AtomicU64; 3],
}

/// 3x overload for a while: goodput, tail and order of refusals, by sleeping alone.
#[tokio::test]
async fn adaptive_admission_keeps_goodput_tail_and_order_at_three_times_the_load() {
    let mesh = Mesh::start().await;
    let places = Arc::new(Semaphore::new(PLACES));
    let _app = bounded(&mesh, places).await;
    let adaptive = v1::Admission {
        adaptive: Some(v1::AdaptiveConcurrency {
            min_requests: 4,
            max_requests: 1000,
            tolerance_percent: 200,
        }),
        priorities: Some(by_path()),
        ..v1::Admission::default()
    };
    put(&mesh, adaptive).await;
    let capacity = PLACES as f64 / SERVICE.as_secs_f64();
    let every = Duration::from_secs_f64(1.0 / (3.0 * capacity));
    // Four at a time of the twenty that it serves: none waits.
    let (_, mut unloaded) = load(&mesh, SERVICE / 4, Duration::from_secs(4)).await;
    unloaded.sort_unstable();
    load(&mesh, every, Duration::from_secs(4)).await;
    let measured = Duration::from_secs(6);
    let (told, mut latencies) = load(&mesh, every, measured).await;
    latencies.sort_unstable();
    let goodput = told.good.load(Relaxed) as f64 / measured.as_secs_f64() / capacity;
    let p99 = |sorted: &[Duration]| sorted[sorted.len() * 99 / 100].as_secs_f64();
    let tail = p99(&latencies) / p99(&unloaded);
    let [critical, default, sheddable]: [f64; 3] = std::array::from_fn(|at| {
        told.refused[at].load(Relaxed) as f64 / told.asked[at].load(Relaxed).max(1) as f64
    });
    let seen = format!(
        "goodput {goodput:.3} of {capacity}/s, p99 x{tail:.2}, refused critical {critical:.3}, \
         default {default:.3}, sheddable {sheddable:.3}"
    );
    println!("{seen}");
    assert!(goodput >= 0.9 && tail < 3.0, "{seen}");
    assert!(critical < default && default < sheddable, "{seen}");
}

/// Waits for a place, then holds it: latency grows by waiting, not by CPU.
async fn bounded(mesh: &Mesh, places: Arc<Semaphore>) -> tokio::task::JoinHandle<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = crate::bind(mesh.net.at(2)).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let places = Arc::clone(&places);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut buffer = [0; 4096];
                loop {
                    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                        match stream.read(&mut buffer).await {
                            Ok(0) | Err(_) => return,
                            Ok(read) => seen.extend_from_slice(&buffer[..read]),
                        }
                    }
                    seen.clear();
                    {
                        let _place = places.acquire().await.unwrap();
                        tokio::time::sleep(SERVICE).await;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

/// An open loop: a request at each moment, whatever became of those before it.
async fn load(mesh: &Mesh, every: Duration, span: Duration) -> (Arc<Told>, Vec<Duration>) {
    let told = Arc::new(Told::default());
    let address = mesh.sidecar.inbound(PORT);
    let idle = Arc::new(std::sync::Mutex::new(Vec::<Client>::new()));
    let mut calls = tokio::task::JoinSet::new();
    let began = tokio::time::Instant::now();
    let mut number = 0_u32;
    while began.elapsed() < span {
        tokio::time::sleep_until(began + every * number).await;
        number += 1;
        let (told, idle) = (Arc::clone(&told), Arc::clone(&idle));
        // A fifth critical, three tenths default, half sheddable.
        let (kind, path) = match number % 10 {
            0 | 5 => (0, "/critical"),
            1 | 4 | 7 => (1, "/"),
            _ => (2, "/sheddable"),
        };
        calls.spawn(async move {
            let held = idle.lock().unwrap().pop();
            let mut client = match held {
                Some(client) => client,
                None => Client::connect(address).await,
            };
            told.asked[kind].fetch_add(1, Relaxed);
            let sent = Instant::now();
            let answer = client.get("web", path).await;
            let latency = sent.elapsed();
            if answer.status == 200 {
                told.good.fetch_add(1, Relaxed);
            } else {
                told.refused[kind].fetch_add(1, Relaxed);
            }
            idle.lock().unwrap().push(client);
            (answer.status == 200).then_some(latency)
        });
    }
    let latencies = calls.join_all().await;
    (told, latencies.into_iter().flatten().collect())
}
