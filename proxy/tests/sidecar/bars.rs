//! What is promised of breakers, retries and budgets together.

use std::time::{Duration, Instant};

use remora_proto::v1::ServicePolicy;

use crate::mesh::{Mesh, policy, retries, trip};
use crate::upstream::{App, status};

fn careful() -> ServicePolicy {
    let mut policy = trip(|trip| trip.consecutive_failures = 5);
    policy.retries = Some(retries(2, |retries| {
        let on = retries.on.as_mut().unwrap();
        on.server_error = true;
        // The share alone, so that it can be told from the least.
        retries.budget.as_mut().unwrap().min_per_second = 1;
    }));
    policy
}

async fn apps(mesh: &Mesh, good: u8, bad: u8) -> Vec<App> {
    let mut apps = Vec::new();
    for number in 0..good + bad {
        let is_bad = number < bad;
        let app = App::start(mesh.net.at(10 + number), move |_| {
            status(if is_bad { 500 } else { 200 })
        });
        apps.push(app.await);
    }
    apps
}

fn attempts(apps: &[App]) -> usize {
    apps.iter().map(App::count).sum()
}

/// GETs one after the other for so long; how many there were, and how many failed.
async fn get_for(mesh: &Mesh, span: Duration) -> (usize, usize) {
    let mut client = mesh.client().await;
    let (mut requests, mut failed) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < span {
        let answer = client.get("catalog:8080", "/").await;
        requests += 1;
        failed += usize::from(answer.status != 200);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (requests, failed)
}

#[tokio::test]
async fn half_of_ten_endpoints_failing_is_not_seen_from_the_second_second_on() {
    let mesh = Mesh::start().await;
    let apps = apps(&mesh, 5, 5).await;
    let addresses: Vec<_> = apps.iter().map(App::address).collect();
    mesh.catalog(careful(), &addresses);
    let (first, failed_first) = get_for(&mesh, Duration::from_secs(1)).await;
    let before = attempts(&apps);
    let (later, failed) = get_for(&mesh, Duration::from_secs(5)).await;
    let extra = attempts(&apps) - before - later;
    println!(
        "{first} requests in the first second, {failed_first} failed; then {later}, {failed} failed, {extra} extra attempts"
    );
    assert!(failed * 1000 < later.max(1000), "{failed} of {later}");
    let all = attempts(&apps);
    assert!(
        all * 100 <= (first + later) * 120,
        "{all} for {first} + {later}"
    );
}

#[tokio::test]
async fn all_endpoints_failing_cost_no_more_than_a_fifth_more_attempts() {
    let mesh = Mesh::start().await;
    let apps = apps(&mesh, 0, 10).await;
    let addresses: Vec<_> = apps.iter().map(App::address).collect();
    mesh.catalog(careful(), &addresses);
    let (requests, _) = get_for(&mesh, Duration::from_secs(5)).await;
    let attempts = attempts(&apps);
    println!("{attempts} attempts for {requests} requests");
    // What the budget lets pass at least: one each second of its window.
    assert!(
        attempts <= requests * 120 / 100 + 10,
        "{attempts} for {requests}"
    );
}

#[tokio::test]
async fn all_endpoints_refusing_are_answered_at_once_and_keep_nobody_busy() {
    let mesh = Mesh::start().await;
    let addresses: Vec<_> = (10..20).map(|host| mesh.net.at(host)).collect();
    mesh.catalog(policy(), &addresses);
    mesh.get("/").await;
    let busy = mesh.sidecar.process().processor_time();
    for _ in 0..20 {
        let began = Instant::now();
        let answer = mesh.get("/").await;
        assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "the connect timeout"
        );
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = mesh.sidecar.process().processor_time() - busy;
    assert!(busy < Duration::from_millis(500), "{busy:?}");
    let attempts = mesh
        .sidecar
        .counter("remora_resends_total", "catalog")
        .await;
    assert!(attempts <= 42, "{attempts} resends for 21 requests");
}
