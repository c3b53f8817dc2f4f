//! Rate limits, at the target and at the caller.

use remora_proto::v1::{KeyPart, Match, RateLimit, key_part::Part, rate_limit::Mode};

use crate::client::{Answer, Client};
use crate::eventually;
use crate::mesh::{Mesh, PORT, policy};
use crate::upstream::App;

fn limit(name: &str, burst: u32) -> RateLimit {
    RateLimit {
        name: name.into(),
        policy: "shop/web".into(),
        requests: burst,
        per_ms: 3_600_000,
        burst,
        max_keys: 10_000,
        ..RateLimit::default()
    }
}

async fn mesh(limits: Vec<RateLimit>) -> (Mesh, App) {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(2)).await;
    put(&mesh, limits);
    eventually("the limits have come", async || {
        mesh.control.times_sent("shop/web-1") > 1 && mesh.control.acks() > 1
    })
    .await;
    (mesh, app)
}

fn put(mesh: &Mesh, limits: Vec<RateLimit>) {
    mesh.workload(|workload| workload.rate_limits = limits);
}

async fn call(mesh: &Mesh, path: &str, headers: &str) -> Answer {
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    client.request("GET", "web", path, headers, "").await
}

#[tokio::test]
async fn over_the_limit_is_429_with_all_that_the_caller_needs() {
    let (mesh, app) = mesh(vec![limit("all", 2)]).await;
    for _ in 0..2 {
        assert_eq!(call(&mesh, "/", "").await.status, 200);
    }
    let answer = call(&mesh, "/", "").await;
    assert_eq!((answer.status, answer.reason()), (429, "rate_limited"));
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(answer.header("ratelimit-limit"), "2");
    assert_eq!(answer.header("ratelimit-remaining"), "0");
    assert!(!answer.header("ratelimit-reset").is_empty());
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn a_change_of_any_field_keeps_the_buckets_fill() {
    let (mesh, _app) = mesh(vec![limit("all", 3)]).await;
    for _ in 0..3 {
        assert_eq!(call(&mesh, "/", "").await.status, 200);
    }
    let sent = mesh.control.times_sent("shop/web-1");
    let mut changed = limit("all", 3);
    changed.requests = 4;
    put(&mesh, vec![changed, limit("other", 100)]);
    mesh.until_applied("shop/web-1", sent).await;
    for _ in 0..10 {
        assert_eq!(call(&mesh, "/", "").await.status, 429);
    }
}

#[tokio::test]
async fn no_limit_is_debited_unless_all_admit() {
    let mut narrow = limit("narrow", 1);
    narrow.r#match = Some(Match {
        path: Some(remora_proto::v1::r#match::Path::PathPrefix(
            "/narrow".into(),
        )),
        ..Match::default()
    });
    let (mesh, _app) = mesh(vec![limit("wide", 3), narrow]).await;
    assert_eq!(call(&mesh, "/narrow", "").await.status, 200);
    for _ in 0..5 {
        assert_eq!(call(&mesh, "/narrow", "").await.status, 429);
    }
    for _ in 0..2 {
        assert_eq!(
            call(&mesh, "/", "").await.status,
            200,
            "the wide one was debited"
        );
    }
    assert_eq!(call(&mesh, "/", "").await.status, 429);
}

#[tokio::test]
async fn each_key_has_its_own_bucket_and_those_without_share_one() {
    let mut by_user = limit("by-user", 1);
    by_user.key = vec![KeyPart {
        part: Some(Part::Header("x-user".into())),
    }];
    let (mesh, _app) = mesh(vec![by_user]).await;
    for headers in ["x-user: a\r\n", "x-user: b\r\n", ""] {
        assert_eq!(call(&mesh, "/", headers).await.status, 200);
        assert_eq!(call(&mesh, "/", headers).await.status, 429);
    }
}

#[tokio::test]
async fn shadow_counts_and_lets_through() {
    let mut shadow = limit("shadow", 1);
    shadow.mode = Mode::Shadow as i32;
    let (mesh, _app) = mesh(vec![shadow]).await;
    for _ in 0..5 {
        assert_eq!(call(&mesh, "/", "").await.status, 200);
    }
    let metrics = mesh.sidecar.get("/metrics").await.text();
    assert!(metrics.contains("would_limit"), "{metrics}");
}

#[tokio::test]
async fn a_limit_at_the_caller_is_one_for_all_workers() {
    let options = crate::sidecar::Options {
        workers: 4,
        ..Default::default()
    };
    let mesh = Mesh::start_with(options).await;
    let app = App::ok(mesh.net.at(10)).await;
    let mut policy = policy();
    policy.rate_limits = vec![limit("at-caller", 10)];
    mesh.catalog(policy, &[app.address()]);
    let mut limited = 0;
    for _ in 0..30 {
        limited += usize::from(mesh.get("/").await.reason() == "rate_limited");
    }
    assert_eq!((limited, app.count()), (20, 10));
}
