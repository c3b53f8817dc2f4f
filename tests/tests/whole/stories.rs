//! What users of a whole mesh live through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::mesh::{Mesh, policy, raw, until};

/// Refuses every request, at the caller.
const REFUSE: &str = "circuitBreaker: {maxRequests: 0}";
/// Refuses none that these tests send.
const ADMIT: &str = "circuitBreaker: {maxRequests: 1000}";
/// A change must take effect within this (median); the aim is 200 ms.
const MAX_PROPAGATION: Duration = Duration::from_secs(1);
/// How long what must not change is watched.
const WATCH: Duration = Duration::from_millis(500);
/// Callers at the same time, and the pause of each between its calls.
const CALLERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(2);

async fn is_refused(mesh: &Mesh) -> bool {
    let (status, head, body) = mesh.call("/").await;
    match status {
        200 => false,
        503 => {
            assert!(
                head.contains("x-remora-reason: overloaded"),
                "{head}\n{body}"
            );
            true
        }
        other => panic!("status {other}: {head}\n{body}"),
    }
}

#[tokio::test]
async fn a_request_goes_through_both_sidecars() {
    let mesh = Mesh::start(0).await;
    let (status, head, body) = mesh.call("/products").await;
    assert_eq!(status, 200, "{head}");
    assert!(body.contains("/products"), "{body}");
    let stats = mesh.sidecar_says("/stats").await;
    let catalog = stats["outbound"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["service"] == "shop/catalog");
    assert_eq!(catalog.unwrap()["requests"], json!(1), "{stats}");
    let sidecars = mesh.plane_says("/sidecars").await;
    let mut pods: Vec<_> = sidecars
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["pod"].clone())
        .collect();
    pods.sort_by_key(Value::to_string);
    assert_eq!(pods, ["catalog-1", "web-1"], "{sidecars}");
}

#[tokio::test]
async fn a_changed_policy_takes_effect_at_once() {
    let mesh = Mesh::start(1).await;
    assert!(!is_refused(&mesh).await);
    let mut times = Vec::new();
    for change in 0..10 {
        let refuse = change % 2 == 0;
        mesh.write_policy(if refuse { REFUSE } else { ADMIT });
        let took = until("the policy has its effect", async || {
            is_refused(&mesh).await == refuse
        });
        times.push(took.await);
    }
    times.sort();
    println!(
        "policy written -> in effect: median {:?}, slowest {:?}",
        times[5], times[9]
    );
    assert!(times[5] < MAX_PROPAGATION, "{times:?}");
}

#[tokio::test]
async fn broken_yaml_is_named_and_changes_nothing() {
    let mesh = Mesh::start(2).await;
    mesh.write_policy(REFUSE);
    until("the good policy is in force", async || {
        is_refused(&mesh).await
    })
    .await;

    let unknown = policy("circuitBreaker: {maxRequests: 1000, hedge: 1}");
    for (text, field) in [
        (unknown.as_str(), Some("spec.circuitBreaker.hedge")),
        ("kind: [broken\n", None),
    ] {
        mesh.write("policy.yaml", text);
        let mut problem = Value::Null;
        until("the problem is told", async || {
            let problems = mesh.plane_says("/problems").await;
            let told = problems.as_array().unwrap().first().cloned();
            problem = told.unwrap_or_default();
            field.is_none_or(|field| problem["field"] == field) && !problem.is_null()
        })
        .await;
        assert!(
            problem["file"].as_str().unwrap().ends_with("policy.yaml"),
            "{problem}"
        );
        assert!(problem["line"].as_u64().unwrap() > 0, "{problem}");
        assert!(
            !problem["message"].as_str().unwrap().is_empty(),
            "{problem}"
        );
        let begin = Instant::now();
        while begin.elapsed() < WATCH {
            assert!(
                is_refused(&mesh).await,
                "a broken policy changed what is in force"
            );
        }
    }
    mesh.write_policy(ADMIT);
    until("the mended policy is in force", async || {
        !is_refused(&mesh).await
    })
    .await;
    assert_eq!(mesh.plane_says("/problems").await, json!([]));
}

#[tokio::test]
async fn without_its_control_plane_the_mesh_goes_on() {
    let mut mesh = Mesh::start(3).await;
    mesh.call("/").await;
    let load = Load::start(&mesh);
    tokio::time::sleep(Duration::from_millis(500)).await;
    mesh.kill_plane();
    let killed_at = load.requests();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let without = load.requests() - killed_at;
    mesh.write_policy("retries: {attempts: 1}");
    mesh.revive_plane();
    let took = until("changes flow again", async || {
        let config = mesh.sidecar_says("/config").await;
        let applied = config["applied"].as_array().unwrap().iter();
        let mut policies =
            applied.flat_map(|resource| resource["policies"].as_array().into_iter().flatten());
        policies.any(|policy| policy["name"] == "catalog")
    })
    .await;
    let (requests, failed) = load.stop().await;
    println!(
        "{requests} requests, {without} of them without a control plane, {} failed; changes flow {took:?} after its return",
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(without > 100, "only {without} requests");
}

#[tokio::test]
async fn a_malformed_request_is_refused_and_harms_nobody_else() {
    let mut mesh = Mesh::start(4).await;
    for bytes in [
        "GET http://catalog:8080/ HTTP/1.1\r\nhost: catalog:8080\r\nno colon here\r\n\r\n",
        "POST http://catalog:8080/ HTTP/1.1\r\nhost: catalog:8080\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
        "GET http://catalog:8080/ HTTP/9.9\r\n\r\n",
    ] {
        let answer = raw(mesh.outbound(), bytes.as_bytes()).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{bytes:?} -> {answer:?}"
        );
        assert_eq!(mesh.call("/").await.0, 200);
    }
    assert!(mesh.sidecar_lives());
}

/// Callers that call without end, and remember what failed.
struct Load {
    running: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    callers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(mesh: &Mesh) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let requests = Arc::new(AtomicU64::new(0));
        let to = mesh.outbound();
        let callers = (0..CALLERS).map(|_| {
            let (running, requests) = (running.clone(), requests.clone());
            tokio::spawn(async move {
                let mut failed = Vec::new();
                let request =
                    b"GET http://catalog:8080/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                while running.load(Relaxed) {
                    match raw(to, request).await {
                        Some(answer) if answer.starts_with("HTTP/1.1 200") => {}
                        other => failed.push(format!("{other:?}")),
                    }
                    requests.fetch_add(1, Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                failed
            })
        });
        let callers = callers.collect();
        Self {
            running,
            requests,
            callers,
        }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// How many were sent, and what failed.
    async fn stop(self) -> (u64, Vec<String>) {
        self.running.store(false, Relaxed);
        let mut failed = Vec::new();
        for caller in self.callers {
            failed.extend(caller.await.unwrap());
        }
        (self.requests.load(Relaxed), failed)
    }
}
