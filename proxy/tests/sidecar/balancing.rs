//! loadBalancing: which endpoint gets a request, by each algorithm and each wish.

use std::time::{Duration, Instant};

use remora_proto::v1::load_balancing::Algorithm;
use remora_proto::v1::{self, LoadBalancing};

use crate::eventually;
use crate::mesh::{Mesh, balancing, policy};
use crate::sidecar::Options;
use crate::upstream::{App, status};

fn by(algorithm: Algorithm) -> v1::ServicePolicy {
    balancing(|it| it.algorithm = algorithm as i32)
}

async fn apps(mesh: &Mesh, count: u8) -> Vec<App> {
    let mut apps = Vec::new();
    for number in 0..count {
        apps.push(App::ok(mesh.net.at(10 + number)).await);
    }
    apps
}

fn weighted(mesh: &Mesh, apps: &[App], weights: &[u32], policy: v1::ServicePolicy) {
    for (number, (app, weight)) in apps.iter().zip(weights).enumerate() {
        mesh.endpoint("catalog", number, app.address(), |endpoint| {
            endpoint.weight = *weight;
        });
    }
    mesh.service("catalog", policy);
}

#[tokio::test]
async fn in_turn_everybody_gets_exactly_its_share_over_all_workers() {
    let mesh = Mesh::start_with(Options {
        workers: 2,
        ..Options::default()
    })
    .await;
    let apps = apps(&mesh, 3).await;
    weighted(&mesh, &apps, &[1, 2, 3], by(Algorithm::RoundRobin));
    // Each on a connection of its own, so of both workers.
    for _ in 0..60 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    let counts: Vec<usize> = apps.iter().map(App::count).collect();
    assert_eq!(counts, [10, 20, 30]);
}

#[tokio::test]
async fn by_chance_everybody_gets_about_its_weight() {
    let mesh = Mesh::start().await;
    let apps = apps(&mesh, 2).await;
    weighted(&mesh, &apps, &[1, 3], by(Algorithm::Random));
    let mut client = mesh.client().await;
    for _ in 0..400 {
        client.get("catalog:8080", "/").await;
    }
    let first = apps[0].count();
    assert!((60..140).contains(&first), "{first} of 400");
}

#[tokio::test]
async fn of_two_the_one_with_fewer_requests_is_taken() {
    let mesh = Mesh::start().await;
    let busy = App::start(mesh.net.at(10), |request| {
        status(200).after_ms(if request.path == "/long" { 2_000 } else { 0 })
    })
    .await;
    let free = App::start(mesh.net.at(11), |request| {
        status(200).after_ms(if request.path == "/long" { 2_000 } else { 0 })
    })
    .await;
    mesh.catalog(
        by(Algorithm::LeastRequest),
        &[busy.address(), free.address()],
    );
    let mut long = mesh.client().await;
    let (first, ()) = tokio::join!(long.get("catalog:8080", "/long"), async {
        eventually("one is busy", async || busy.count() + free.count() == 1).await;
        for _ in 0..20 {
            assert_eq!(mesh.get("/").await.status, 200);
        }
    });
    assert_eq!(first.status, 200);
    let mut counts = [busy.count(), free.count()];
    counts.sort_unstable();
    assert_eq!(counts, [1, 20]);
}

fn hashed(part: v1::hash_part::Part) -> v1::ServicePolicy {
    balancing(|it| {
        it.algorithm = Algorithm::ConsistentHash as i32;
        it.hash_on = vec![v1::HashPart { part: Some(part) }];
        it.hash_load_bound_percent = 125;
    })
}

#[tokio::test]
async fn who_calls_alike_is_served_alike_and_moves_only_when_his_endpoint_leaves() {
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for number in 0..4_u8 {
        let body = number.to_string();
        let app = App::start(mesh.net.at(10 + number), move |_| status(200).body(&body)).await;
        apps.push(app);
    }
    let addresses: Vec<_> = apps.iter().map(App::address).collect();
    mesh.catalog(
        hashed(v1::hash_part::Part::Header("x-user".into())),
        &addresses,
    );
    let mut client = mesh.client().await;
    let mut owners = async || {
        let mut owners = Vec::new();
        for user in 0..40 {
            let fields = format!("x-user: user-{user}\r\n");
            let answer = client
                .request("GET", "catalog:8080", "/", &fields, "")
                .await;
            owners.push(answer.text());
        }
        owners
    };
    let before = owners().await;
    assert_eq!(before, owners().await);
    let used: std::collections::BTreeSet<&String> = before.iter().collect();
    assert!(used.len() > 2, "{used:?}");
    mesh.remove_endpoint("catalog", 0);
    eventually("the first is gone", async || {
        !owners().await.contains(&"0".to_owned())
    })
    .await;
    let after = owners().await;
    for (was, is) in before.iter().zip(&after) {
        assert!(was == "0" || was == is, "{was} became {is}");
    }
}

fn session(strict: bool) -> v1::ServicePolicy {
    balancing(|it| {
        it.persistence = Some(v1::Persistence {
            kind: Some(v1::persistence::Kind::Cookie(v1::PersistenceCookie {
                name: "s".into(),
                path: "/".into(),
                permanent: false,
            })),
            strict,
            absolute_timeout_ms: 0,
        });
    })
}

async fn with_session(mesh: &Mesh, cookie: &str) -> crate::client::Answer {
    let fields = format!("cookie: {cookie}\r\n");
    let mut client = mesh.client().await;
    client
        .request("GET", "catalog:8080", "/", &fields, "")
        .await
}

#[tokio::test]
async fn a_session_is_kept_and_a_strict_one_is_refused_when_its_endpoint_is_gone() {
    for strict in [false, true] {
        let mesh = Mesh::start().await;
        let apps = apps(&mesh, 4).await;
        let addresses: Vec<_> = apps.iter().map(App::address).collect();
        mesh.catalog(session(strict), &addresses);
        let answer = mesh.get("/").await;
        let cookie = answer.header("set-cookie").to_owned();
        let cookie = cookie.split(';').next().unwrap();
        assert!(cookie.starts_with("s="), "{cookie}");
        let at = apps.iter().position(|app| app.count() == 1).unwrap();
        for _ in 0..20 {
            assert_eq!(with_session(&mesh, cookie).await.status, 200);
        }
        assert_eq!(apps[at].count(), 21);
        mesh.remove_endpoint("catalog", at);
        if strict {
            eventually("it is refused", async || {
                let answer = with_session(&mesh, cookie).await;
                (answer.status, answer.reason()) == (503, "no_endpoints")
            })
            .await;
            assert_eq!(mesh.get("/").await.status, 200, "without a session");
        } else {
            eventually("another has it", async || {
                let answer = with_session(&mesh, cookie).await;
                assert_eq!(answer.status, 200);
                answer.header("set-cookie").starts_with("s=")
            })
            .await;
        }
    }
}

async fn pinned(mesh: &Mesh, pod: &str) -> crate::client::Answer {
    let fields = format!("x-remora-endpoint: {pod}\r\n");
    let mut client = mesh.client().await;
    client
        .request("GET", "catalog:8080", "/", &fields, "")
        .await
}

#[tokio::test]
async fn a_request_goes_to_the_pod_that_it_names_and_nowhere_else() {
    let mesh = Mesh::start().await;
    let apps = apps(&mesh, 3).await;
    let addresses: Vec<_> = apps.iter().map(App::address).collect();
    mesh.catalog(balancing(|it| it.pinning = true), &addresses);
    for _ in 0..10 {
        assert_eq!(pinned(&mesh, "catalog-1").await.status, 200);
    }
    assert_eq!(apps[1].count(), 10);
    let names = |app: &App| {
        app.requests()
            .iter()
            .any(|it| !it.header("x-remora-endpoint").is_empty())
    };
    assert!(!apps.iter().any(names), "it is stripped");
    let answer = pinned(&mesh, "catalog-9").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    assert!(answer.text().contains("catalog-9"), "{}", answer.text());
    let long = pinned(&mesh, &"x".repeat(60_000)).await;
    assert_eq!((long.status, long.reason()), (503, "no_endpoints"));
    let told = long.text().len();
    assert!(
        told < 500,
        "{told} bytes: no caller is told all that it said"
    );
    // Who asks for a certain pod, and does it badly, gets none rather than any.
    let twice = "x-remora-endpoint: catalog-1\r\nx-remora-endpoint: catalog-2\r\n";
    for fields in [twice, "x-remora-endpoint: catalög-1\r\n"] {
        let mut client = mesh.client().await;
        let answer = client.request("GET", "catalog:8080", "/", fields, "").await;
        let what = (answer.status, answer.reason());
        assert_eq!(what, (503, "no_endpoints"), "{fields}");
    }
    // Where the policy does not allow it, it counts for nothing.
    mesh.service("catalog", policy());
    eventually("it is free", async || {
        pinned(&mesh, "catalog-9").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn other_zones_are_taken_only_where_none_in_this_one_can_be() {
    let mesh = Mesh::start().await;
    mesh.workload(|workload| workload.zone = "a".into());
    let apps = apps(&mesh, 3).await;
    for (number, zone) in ["a", "b", "b"].into_iter().enumerate() {
        mesh.endpoint("catalog", number, apps[number].address(), |endpoint| {
            endpoint.hint_zones = vec![zone.into()];
        });
    }
    mesh.service("catalog", policy());
    eventually("the zone is known", async || {
        let before = apps[0].count();
        for _ in 0..10 {
            mesh.get("/").await;
        }
        apps[0].count() == before + 10
    })
    .await;
    mesh.service("catalog", balancing(|it| it.ignore_zones = true));
    eventually("zones count for nothing", async || {
        mesh.get("/").await;
        apps[1].count() > 3 && apps[2].count() > 3
    })
    .await;
    mesh.service("catalog", policy());
    mesh.remove_endpoint("catalog", 0);
    eventually("the others serve", async || {
        let before = apps[0].count();
        for _ in 0..5 {
            assert_eq!(mesh.get("/").await.status, 200);
        }
        apps[0].count() == before
    })
    .await;
}

#[tokio::test]
async fn one_that_becomes_ready_beside_others_starts_slowly() {
    let mesh = Mesh::start().await;
    let apps = apps(&mesh, 2).await;
    let policy = balancing(|it| {
        it.algorithm = Algorithm::RoundRobin as i32;
        it.slow_start_ms = 60_000;
    });
    mesh.catalog(policy, &[apps[0].address()]);
    assert_eq!(mesh.get("/").await.status, 200);
    mesh.endpoint("catalog", 1, apps[1].address(), |_| ());
    eventually("the second is used", async || {
        mesh.get("/").await;
        apps[1].count() > 0
    })
    .await;
    let before = apps[1].count();
    let mut client = mesh.client().await;
    for _ in 0..200 {
        client.get("catalog:8080", "/").await;
    }
    let share = apps[1].count() - before;
    assert!(
        (1..=40).contains(&share),
        "{share} of 200, and 100 are an even share"
    );
}

#[tokio::test]
async fn the_first_list_starts_at_once() {
    let mesh = Mesh::start().await;
    let apps = apps(&mesh, 2).await;
    let policy = balancing(|it| {
        it.algorithm = Algorithm::RoundRobin as i32;
        it.slow_start_ms = 60_000;
    });
    mesh.catalog(policy, &[apps[0].address(), apps[1].address()]);
    for _ in 0..20 {
        mesh.get("/").await;
    }
    assert_eq!((apps[0].count(), apps[1].count()), (10, 10));
}

#[tokio::test]
async fn a_request_without_an_endpoint_waits_for_one() {
    let mesh = Mesh::start().await;
    mesh.service("catalog", balancing(|it| it.wait_for_endpoints_ms = 10_000));
    let app = App::ok(mesh.net.at(10)).await;
    let began = Instant::now();
    let (answer, ()) = tokio::join!(mesh.get("/"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        mesh.endpoint("catalog", 0, app.address(), |_| ());
    });
    assert_eq!(answer.status, 200);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(9));
    let found = mesh
        .sidecar
        .counter("remora_waited_for_endpoints_total", "found")
        .await;
    assert_eq!(found, 1);
}

#[tokio::test]
async fn a_wait_ends_and_is_bounded_as_what_is_pending() {
    let mesh = Mesh::start().await;
    let mut policy = crate::mesh::limits(|limits| limits.max_pending_requests = Some(1));
    policy.load_balancing = Some(LoadBalancing {
        wait_for_endpoints_ms: 700,
        ..LoadBalancing::default()
    });
    mesh.service("catalog", policy);
    let began = Instant::now();
    let (one, other) = tokio::join!(mesh.get("/"), mesh.get("/"));
    assert!(began.elapsed() >= Duration::from_millis(700));
    let mut reasons = [one.reason(), other.reason()];
    reasons.sort_unstable();
    assert_eq!(reasons, ["no_endpoints", "overloaded"]);
}

#[tokio::test]
async fn a_named_pod_with_an_open_breaker_is_refused_and_its_retries_go_nowhere_else() {
    let mesh = Mesh::start().await;
    let bad = App::start(mesh.net.at(10), |_| status(503)).await;
    let good = App::ok(mesh.net.at(11)).await;
    let mut policy = crate::mesh::trip(|trip| trip.consecutive_failures = 3);
    policy.retries = Some(crate::mesh::retries(2, |_| ()));
    policy.load_balancing = Some(LoadBalancing {
        pinning: true,
        ..LoadBalancing::default()
    });
    mesh.catalog(policy, &[bad.address(), good.address()]);
    let answer = pinned(&mesh, "catalog-0").await;
    assert_eq!((answer.status, answer.reason()), (503, ""));
    assert_eq!((bad.count(), good.count()), (3, 0));
    let answer = pinned(&mesh, "catalog-0").await;
    assert_eq!((answer.status, answer.reason()), (503, "breaker_open"));
    assert_eq!(pinned(&mesh, "catalog-1").await.status, 200);
}

#[tokio::test]
async fn a_wait_for_an_endpoint_is_no_time_of_the_attempt() {
    let mesh = Mesh::start().await;
    let mut policy = crate::mesh::trip(|trip| trip.consecutive_failures = 1);
    policy.load_balancing = Some(LoadBalancing {
        wait_for_endpoints_ms: 10_000,
        ..LoadBalancing::default()
    });
    policy.timeouts = Some(v1::Timeouts {
        per_try_ms: Some(200),
        ..v1::Timeouts::default()
    });
    mesh.service("catalog", policy);
    let app = App::ok(mesh.net.at(10)).await;
    let (answer, ()) = tokio::join!(mesh.get("/"), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        mesh.endpoint("catalog", 0, app.address(), |_| ());
    });
    assert_eq!((answer.status, answer.reason()), (200, ""));
    let breaker = mesh.sidecar.breaker("catalog-0").await;
    assert_eq!(breaker["state"], "closed");
}

#[tokio::test]
async fn a_pod_called_by_its_address_is_kept_whatever_the_request_names_or_holds() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    let mut policy = session(true);
    policy.load_balancing.as_mut().unwrap().pinning = true;
    mesh.pod("db-0", &[app.address().ip()], policy);
    let host = app.address().to_string();
    let mut client = mesh.client().await;
    let of_another = format!("cookie: s={}\r\n", "0".repeat(42));
    for fields in [
        "",
        "x-remora-endpoint: db-0\r\n",
        "x-remora-endpoint: db-1\r\n",
        &of_another,
    ] {
        let answer = client.request("GET", &host, "/", fields, "").await;
        assert_eq!((answer.status, answer.reason()), (200, ""), "{fields}");
    }
}

#[tokio::test]
async fn a_strict_session_of_another_service_is_none_of_this_one() {
    let mesh = Mesh::start().await;
    let apps = apps(&mesh, 2).await;
    mesh.endpoint("cart", 0, apps[1].address(), |_| ());
    mesh.service("cart", session(true));
    mesh.catalog(session(true), &[apps[0].address()]);
    let answer = mesh.client().await.get("cart:8080", "/").await;
    let cookie = answer.header("set-cookie").to_owned();
    let cookie = cookie.split(';').next().unwrap();
    assert!(cookie.starts_with("s="), "{cookie}");
    let answer = with_session(&mesh, cookie).await;
    assert_eq!((answer.status, answer.reason()), (200, ""));
}
