//! Hedges: a second attempt elsewhere beside one that is late.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use remora_proto::v1::{self, Hedge, ServicePolicy, hedge::After};

use crate::eventually;
use crate::h2_app::{self, Step};
use crate::mesh::{Mesh, retrying};
use crate::upstream::{App, Reply, status};

fn hedging(after: After, max: u32, change: impl FnOnce(&mut v1::Retries)) -> ServicePolicy {
    retrying(0, |retries| {
        retries.hedge = Some(Hedge {
            after: Some(after),
            max,
        });
        change(retries);
    })
}

/// Two applications, of which the one that gets the first request is slow.
async fn one_slow(mesh: &Mesh, policy: ServicePolicy, slow: fn() -> Reply) -> [App; 2] {
    let seen = Arc::new(AtomicUsize::new(0));
    let mut apps = Vec::new();
    for host in [10, 11] {
        let seen = Arc::clone(&seen);
        let app = App::start(mesh.net.at(host), move |_| {
            match seen.fetch_add(1, SeqCst) {
                0 => slow(),
                _ => status(200).body("second"),
            }
        });
        apps.push(app.await);
    }
    mesh.catalog(policy, &[apps[0].address(), apps[1].address()]);
    apps.try_into().ok().unwrap()
}

#[tokio::test]
async fn the_first_good_answer_wins_and_the_other_is_cancelled() {
    let mesh = Mesh::start().await;
    let policy = hedging(After::AfterMs(50), 1, |_| ());
    let apps = one_slow(&mesh, policy, || status(200).after_ms(20_000)).await;
    let began = Instant::now();
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "second"));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!((apps[0].count(), apps[1].count()), (1, 1), "elsewhere");
    let numbers: Vec<String> = apps
        .iter()
        .flat_map(App::requests)
        .map(|request| request.header("x-remora-attempt").to_owned())
        .collect();
    assert!(numbers.contains(&"1".to_owned()) && numbers.contains(&"2".to_owned()));
    assert_eq!(mesh.sidecar.counter("remora_hedges_total", "won").await, 1);
    eventually("nothing is in flight", async || {
        let breaker = mesh.sidecar.service_breaker().await;
        breaker["requests_in_flight"] == 0
    })
    .await;
    // The one that was cancelled is no failure of its endpoint.
    for name in ["catalog-0", "catalog-1"] {
        assert_eq!(mesh.sidecar.breaker(name).await["state"], "closed");
    }
}

#[tokio::test]
async fn a_bad_answer_waits_for_the_other_one() {
    let mesh = Mesh::start().await;
    let policy = hedging(After::AfterMs(50), 1, |_| ());
    let _apps = one_slow(&mesh, policy, || status(503).after_ms(100)).await;
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "second"));
}

#[tokio::test]
async fn where_all_are_bad_the_last_is_answered_and_there_are_no_more_attempts_than_one_and_the_hedges()
 {
    let mesh = Mesh::start().await;
    let app = |host| App::start(mesh.net.at(host), |_| status(503).after_ms(150));
    let apps = [app(10).await, app(11).await, app(12).await, app(13).await];
    let addresses: Vec<_> = apps.iter().map(App::address).collect();
    mesh.catalog(hedging(After::AfterMs(20), 2, |_| ()), &addresses);
    assert_eq!(mesh.get("/").await.status, 503);
    let attempts: usize = apps.iter().map(App::count).sum();
    assert_eq!(attempts, 3);
}

#[tokio::test]
async fn only_what_may_be_sent_twice_is_hedged() {
    let mesh = Mesh::start().await;
    let app = |host| App::start(mesh.net.at(host), |_| status(200).after_ms(150));
    let apps = [app(10).await, app(11).await];
    let addresses = [apps[0].address(), apps[1].address()];
    mesh.catalog(hedging(After::AfterMs(20), 1, |_| ()), &addresses);
    assert_eq!(mesh.post("/charge", "10").await.status, 200);
    let count = || apps.iter().map(App::count).sum::<usize>();
    assert_eq!(count(), 1);
    let listed = hedging(After::AfterMs(20), 1, |it| it.methods = vec!["POST".into()]);
    mesh.service("catalog", listed);
    eventually("the method is listed", async || {
        let before = count();
        assert_eq!(mesh.post("/charge", "the whole body").await.status, 200);
        count() == before + 2
    })
    .await;
    let bodies = apps.iter().flat_map(App::requests);
    let mut bodies = bodies
        .map(|request| request.body)
        .filter(|body| body.len() > 2);
    assert!(bodies.all(|body| body == b"the whole body"));
}

#[tokio::test]
async fn without_another_endpoint_or_budget_there_is_no_hedge() {
    let mesh = Mesh::start().await;
    let app = |host| App::start(mesh.net.at(host), |_| status(200).after_ms(100));
    let apps = [app(10).await, app(11).await];
    mesh.catalog(hedging(After::AfterMs(20), 1, |_| ()), &[apps[0].address()]);
    assert_eq!(mesh.get("/").await.status, 200);
    let counter = async |outcome| mesh.sidecar.counter("remora_hedges_total", outcome).await;
    assert_eq!(counter("no_endpoint").await, 1);
    let none = hedging(After::AfterMs(20), 1, |retries| {
        let budget = retries.budget.as_mut().unwrap();
        (budget.percent, budget.min_per_second) = (0, 0);
    });
    mesh.catalog(none, &[apps[0].address(), apps[1].address()]);
    eventually("the budget refuses", async || {
        assert_eq!(mesh.get("/").await.status, 200);
        counter("no_budget").await > 0
    })
    .await;
    assert_eq!(counter("won").await + counter("lost").await, 0);
}

/// Over HTTP/2, with a method of gRPC that the policy lists.
#[tokio::test]
async fn a_call_of_grpc_is_hedged_too() {
    let mesh = Mesh::start().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let mut apps = Vec::new();
    for host in [10, 11] {
        let seen = Arc::clone(&seen);
        let app = h2_app::App::start(mesh.net.at(host), move |_| {
            match seen.fetch_add(1, SeqCst) {
                0 => vec![Step::Read, Step::Wait(20_000)],
                _ => h2_app::grpc(&[("grpc-status", "0")]),
            }
        });
        apps.push(app.await);
    }
    let policy = hedging(After::AfterMs(50), 1, |retries| {
        retries.methods = vec!["/test.Echo/Say".into()];
    });
    mesh.catalog(policy, &[apps[0].address(), apps[1].address()]);
    let client = mesh.client2().await;
    let began = Instant::now();
    let answer = client.call("/test.Echo/Say", &[]).await;
    assert_eq!(answer.grpc_status(), "0");
    assert_eq!(answer.text(), h2_app::MESSAGE);
    assert!(began.elapsed() < Duration::from_secs(10));
    let attempts: usize = apps.iter().map(h2_app::App::count).sum();
    assert_eq!(attempts, 2);
    eventually("the slow one is cancelled", async || {
        apps.iter().any(|app| !app.resets().is_empty())
    })
    .await;
}

/// The bar: 2% of calls a hundred times slower.
#[tokio::test]
async fn a_tail_is_cut_at_least_fivefold_for_at_most_six_percent_more_attempts() {
    const REQUESTS: usize = 2_000;
    let mesh = Mesh::start().await;
    let numbers = Arc::new(AtomicUsize::new(0));
    let mut apps = Vec::new();
    for host in 10..14 {
        let numbers = Arc::clone(&numbers);
        let app = App::start(mesh.net.at(host), move |_| {
            // Primes to each other, so that a hedge is slow as seldom as any.
            match numbers.fetch_add(1, SeqCst) % 50 {
                7 => status(200).after_ms(1_000),
                _ => status(200).after_ms(10),
            }
        });
        apps.push(app.await);
    }
    let addresses: Vec<_> = apps.iter().map(App::address).collect();
    let measure = async |wanted: usize| {
        let mut latencies = Vec::new();
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let outbound = mesh.sidecar.outbound();
            clients.spawn(async move {
                let mut client = crate::client::Client::connect(outbound).await;
                let mut latencies = Vec::new();
                for _ in 0..wanted / 20 {
                    let began = Instant::now();
                    assert_eq!(client.get("catalog:8080", "/").await.status, 200);
                    latencies.push(began.elapsed());
                }
                latencies
            });
        }
        while let Some(of_client) = clients.join_next().await {
            latencies.extend(of_client.unwrap());
        }
        latencies.sort_unstable();
        latencies[latencies.len() * 99 / 100]
    };
    mesh.catalog(retrying(0, |_| ()), &addresses);
    let before = measure(REQUESTS).await;
    let sent = mesh.control.acks();
    mesh.service("catalog", hedging(After::AfterPercentile(95), 1, |_| ()));
    eventually("it hedges", async || mesh.control.acks() > sent).await;
    // Until a hundred are known there is none.
    measure(400).await;
    let attempts = numbers.load(SeqCst);
    let after = measure(REQUESTS).await;
    let attempts = numbers.load(SeqCst) - attempts;
    println!("p99 {before:?} -> {after:?}, {attempts} attempts for {REQUESTS} requests");
    assert!(before >= after * 5, "{before:?} -> {after:?}");
    assert!(attempts * 100 <= REQUESTS * 106, "{attempts} attempts");
}

#[tokio::test]
async fn the_services_own_affinity_is_kept() {
    let mesh = Mesh::start().await;
    let policy = hedging(After::AfterMs(50), 1, |_| ());
    let apps = one_slow(&mesh, policy.clone(), || {
        status(200).body("first").after_ms(500)
    })
    .await;
    mesh.service_with("catalog", |service| {
        service.policy = Some(policy);
        service.session_affinity_seconds = Some(10_800);
    });
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "first"));
    assert_eq!(apps[0].count() + apps[1].count(), 1);
}
