//! A rule's own retries, timeouts, rate limits and limits.

use remora_proto::v1::{Conditions, Limits, RateLimit, Retries, RetryBudget, Timeouts};

use super::stage::{Change, prefix, to};
use crate::eventually;
use crate::mesh::{Mesh, retrying};
use crate::upstream::{App, Reply, status};

fn retries(attempts: u32) -> Retries {
    let mut retries = retrying(attempts, |_| ()).retries.unwrap();
    retries.on = Some(Conditions {
        status_codes: vec![500],
        ..Conditions::default()
    });
    retries
}

#[tokio::test]
async fn a_rules_retries_and_timeouts_are_instead_of_the_services() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |it| match (it.path.as_str(), it.number) {
        ("/slow", _) => Reply::Never,
        (_, number) if number % 3 == 0 => status(200),
        _ => status(500),
    })
    .await;
    mesh.serve("v1", &app);
    let mut retried = to("v1").when(prefix("/retried"));
    retried.retries = Some(retries(2));
    let mut timed = to("v1").when(prefix("/slow"));
    timed.timeouts = Some(Timeouts {
        request_ms: Some(100),
        ..Timeouts::default()
    });
    // The backend's own policy would not retry at all, the service's once.
    mesh.routes_with(vec![retried, timed, to("v1")], |service| {
        service.policy = Some(retrying(1, |retries| {
            retries.on = self::retries(1).on;
        }));
    });
    assert_eq!((mesh.get("/retried").await.status, app.count()), (200, 3));
    assert_eq!((mesh.get("/other").await.status, app.count()), (500, 5));
    let answer = mesh.get("/slow").await;
    assert_eq!((answer.status, answer.reason()), (504, "timeout"));
}

#[tokio::test]
async fn many_rules_with_retries_spend_one_budget_of_the_service() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(500)).await;
    mesh.serve("v1", &app);
    let budget = |min_per_second| {
        Some(RetryBudget {
            percent: 0,
            min_per_second,
            window_ms: 10_000,
        })
    };
    let of = |path: &str, min_per_second| {
        let mut rule = to("v1").when(prefix(path));
        let mut retries = retries(10);
        retries.budget = budget(min_per_second);
        rule.retries = Some(retries);
        rule
    };
    // Of the service 10 in its window; one rule has 20 of its own.
    let rules = vec![of("/a", 1), of("/b", 1), of("/own", 2)];
    mesh.routes_with(rules, |service| {
        service.policy = Some(retrying(1, |retries| retries.budget = budget(1)));
    });
    for _ in 0..3 {
        assert_eq!(mesh.get("/a").await.status, 500);
        assert_eq!(mesh.get("/b").await.status, 500);
    }
    assert_eq!(app.count(), 6 + 10);
    for _ in 0..4 {
        assert_eq!(mesh.get("/own").await.status, 500);
    }
    assert_eq!(app.count(), 16 + 4 + 20);
}

#[tokio::test]
async fn a_rules_rate_limit_is_instead_of_the_services_and_keeps_its_fill() {
    let mesh = Mesh::start().await;
    let _app = mesh.version("v1", 10).await;
    let limit = |requests: u32| RateLimit {
        name: "few".into(),
        policy: "shop/canary".into(),
        requests,
        per_ms: 3_600_000,
        burst: requests,
        max_keys: 100,
        ..RateLimit::default()
    };
    let rules = |requests| {
        let mut limited = to("v1").when(prefix("/limited"));
        limited.rate_limits = vec![limit(requests)];
        limited.own_rate_limits = true;
        let mut free = to("v1").when(prefix("/free"));
        free.own_rate_limits = true;
        vec![limited, free, to("v1")]
    };
    mesh.routes_with(rules(3), |service| {
        service.policy.as_mut().unwrap().rate_limits = vec![limit(1)];
    });
    for expected in [200, 200, 200, 429] {
        assert_eq!(mesh.get("/limited").await.status, expected);
    }
    for expected in [200, 429] {
        assert_eq!(mesh.get("/other").await.status, expected);
    }
    for _ in 0..5 {
        assert_eq!(mesh.get("/free").await.status, 200);
    }
    // An unrelated change of the routes refills nothing.
    let mut changed = rules(3);
    changed.push(to("v1").when(prefix("/new")));
    mesh.change_routes(changed).await;
    assert_eq!(mesh.get("/limited").await.status, 429);
}

#[tokio::test]
async fn a_rules_max_requests_counts_that_rule_alone() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |it| match it.path.as_str() {
        "/one/held" => Reply::Never,
        _ => status(200),
    })
    .await;
    mesh.serve("v1", &app);
    let mut one = to("v1").when(prefix("/one"));
    one.limits = Some(Limits {
        max_requests: Some(1),
        ..Limits::default()
    });
    mesh.routes(vec![one, to("v1")]);
    let mut held = mesh.client().await;
    held.send("GET", "catalog:8080", "/one/held", "", "").await;
    eventually("it is there", async || app.count() == 1).await;
    let answer = mesh.get("/one").await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
    assert_eq!(mesh.get("/two").await.status, 200);
    drop(held);
    eventually("its place is free again", async || {
        mesh.get("/one").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_rules_fault_fallback_and_hedge_are_instead_of_the_services() {
    use remora_proto::v1::fallback::Action;
    use remora_proto::v1::fault_abort::Kind;
    use remora_proto::v1::{Fallback, FallbackResponse, Fault, FaultAbort, Hedge, hedge::After};

    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |it| match it.path.as_str() {
        "/reset" => Reply::Reset,
        _ => status(200),
    })
    .await;
    mesh.serve("v1", &app);
    let abort = |status| Fault {
        abort: Some(FaultAbort {
            kind: Some(Kind::HttpStatus(status)),
            parts_per_million: 1_000_000,
        }),
        ..Fault::default()
    };
    let falling_back = |status| Fallback {
        when: vec!["retries_exhausted".into()],
        action: Some(Action::Response(FallbackResponse {
            status,
            ..FallbackResponse::default()
        })),
    };
    let mut faulty = to("v1").when(prefix("/faulty"));
    faulty.fault = Some(abort(418));
    let mut well = to("v1").when(prefix("/reset"));
    well.fault = Some(Fault::default());
    well.fallback = Some(falling_back(203));
    let mut hedged = to("v1").when(prefix("/hedged"));
    hedged.fault = Some(Fault::default());
    hedged.retries = Some(Retries {
        hedge: Some(Hedge {
            after: Some(After::AfterMs(50)),
            max: 1,
        }),
        ..retries(0)
    });
    mesh.routes_with(vec![faulty, well, hedged, to("v1")], |service| {
        let policy = service.policy.as_mut().unwrap();
        policy.fault = Some(abort(410));
        policy.fallback = Some(falling_back(201));
    });
    let of = async |path| {
        let answer = mesh.get(path).await;
        (answer.status, answer.reason().to_owned())
    };
    assert_eq!(of("/faulty").await, (418, "fault".to_owned()));
    assert_eq!(of("/other").await, (410, "fault".to_owned()));
    assert_eq!(app.count(), 0);
    assert_eq!(of("/reset").await, (203, "fallback".to_owned()));
    assert_eq!(of("/hedged").await, (200, String::new()));
    // Each request is counted once, by what became of it.
    let of_routes = async |class| {
        let labels = format!("class=\"{class}\"");
        mesh.sidecar
            .counter("remora_route_requests_total", &labels)
            .await
    };
    assert_eq!((of_routes("2xx").await, of_routes("5xx").await), (2, 0));
}
