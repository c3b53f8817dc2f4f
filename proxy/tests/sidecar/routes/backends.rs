//! Backends: when they are subscribed to, and whose policy counts.

use std::time::{Duration, Instant};

use remora_proto::well_known as names;

use super::stage::{Change, prefix, to};
use crate::mesh::{Mesh, limits, policy, trip};
use crate::sidecar::Options;
use crate::upstream::{App, Reply, status};

#[tokio::test]
async fn backends_come_with_the_service_that_leads_to_them() {
    let mesh = Mesh::start().await;
    let (one, two) = (mesh.version("v1", 10).await, mesh.version("v2", 11).await);
    mesh.routes(vec![to("v1"), to("v2").when(prefix("/two"))]);
    assert_eq!(mesh.get("/").await.status, 200);
    // Nobody asked for it yet, and it is here.
    assert_eq!(mesh.control.times_sent("shop/v2"), 1);
    assert_eq!(mesh.get("/two").await.status, 200);
    assert_eq!((one.count(), two.count()), (1, 1));
    // What no route leads to any more is no longer wanted.
    mesh.change_routes(vec![to("v1")]).await;
    let is_held = async |name: &str| {
        let config = mesh.sidecar.json("/config").await;
        let applied = config["applied"].as_array().unwrap().clone();
        applied.iter().any(|resource| resource["name"] == name)
    };
    crate::eventually("it is dropped", async || !is_held("shop/v2").await).await;
    assert!(is_held("shop/v1").await);
}

#[tokio::test]
async fn a_backend_that_is_not_known_is_waited_for_and_then_there_are_no_endpoints() {
    let mesh = Mesh::start().await;
    mesh.routes(vec![to("later")]);
    let began = Instant::now();
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    assert!(began.elapsed() < Duration::from_secs(3));
    let app = mesh.version("later", 10).await;
    crate::eventually("it has arrived", async || mesh.get("/").await.status == 200).await;
    mesh.remove_endpoint("later", 0);
    crate::eventually("it has no endpoints", async || {
        mesh.get("/").await.reason() == "no_endpoints"
    })
    .await;
    assert!(app.count() > 0);
    mesh.control.remove(names::SERVICE_TYPE, "shop/later");
    assert_eq!(mesh.get("/").await.status, 503);
}

#[tokio::test]
async fn a_backends_own_limits_count_direct_and_routed_calls_together() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| Reply::Never).await;
    mesh.endpoint("v1", 0, app.address(), |_| ());
    mesh.service("v1", limits(|limits| limits.max_requests = Some(2)));
    mesh.routes(vec![to("v1")]);
    let mut direct = mesh.client().await;
    direct.send("GET", "v1:8080", "/", "", "").await;
    let mut routed = mesh.client().await;
    routed.send("GET", "catalog:8080", "/", "", "").await;
    crate::eventually("both are there", async || app.count() == 2).await;
    for host in ["v1:8080", "catalog:8080"] {
        let answer = mesh.client().await.get(host, "/").await;
        assert_eq!(
            (answer.status, answer.reason()),
            (503, "overloaded"),
            "{host}"
        );
    }
    drop((direct, routed));
    crate::eventually("all is given back", async || {
        let breakers = mesh.sidecar.json("/breakers").await;
        let services = breakers["services"].as_array().unwrap();
        services
            .iter()
            .all(|it| it["limits"]["requests"]["in_use"] == 0)
    })
    .await;
}

#[tokio::test]
async fn a_backends_breakers_learn_from_routed_calls_by_its_own_policy() {
    let mesh = Mesh::start().await;
    let bad = App::start(mesh.net.at(10), |_| status(500)).await;
    let good = App::ok(mesh.net.at(11)).await;
    mesh.endpoint("v1", 0, bad.address(), |_| ());
    mesh.endpoint("v1", 1, good.address(), |_| ());
    mesh.service("v1", trip(|trip| trip.consecutive_failures = 1));
    // The service that is called has another policy, without a breaker.
    mesh.routes(vec![to("v1")]);
    let mut client = mesh.client().await;
    for _ in 0..40 {
        client.get("catalog:8080", "/").await;
    }
    assert_eq!((bad.count(), good.count()), (1, 39));
    let breakers = mesh.sidecar.json("/breakers").await;
    let services = breakers["services"].as_array().unwrap();
    let backend = services
        .iter()
        .find(|it| it["service"] == "shop/v1")
        .unwrap();
    let states = backend["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["state"]);
    assert_eq!(
        states.filter(|state| **state == "open").count(),
        1,
        "{backend}"
    );
}

#[tokio::test]
async fn a_backends_service_breaker_holds_for_routed_calls() {
    let mesh = Mesh::start().await;
    let bad = App::start(mesh.net.at(10), |_| status(500)).await;
    mesh.endpoint("v1", 0, bad.address(), |_| ());
    let of_service = trip(|trip| {
        trip.scope = remora_proto::v1::trip::Scope::Service.into();
        trip.consecutive_failures = 2;
    });
    mesh.service("v1", of_service);
    mesh.routes(vec![to("v1")]);
    for expected in [500, 500, 503] {
        assert_eq!(mesh.get("/").await.status, expected);
    }
    assert_eq!(mesh.get("/").await.reason(), "breaker_open");
    let direct = mesh.client().await.get("v1:8080", "/").await;
    assert_eq!(direct.reason(), "breaker_open", "one count");
    assert_eq!(bad.count(), 2);
}

#[tokio::test]
async fn the_access_log_names_route_rule_and_backend() {
    let mesh = Mesh::start_with(Options {
        access_log: true,
        ..Options::default()
    })
    .await;
    let _app = mesh.version("v1", 10).await;
    mesh.routes(vec![to("v1").when(prefix("/a"))]);
    assert_eq!(mesh.get("/a").await.status, 200);
    assert_eq!(mesh.get("/b").await.status, 404);
    crate::eventually("both are logged", async || {
        mesh.sidecar.access_log().len() == 2
    })
    .await;
    let lines = mesh.sidecar.access_log();
    assert_eq!(lines[0]["route"], "shop/canary");
    assert_eq!(
        (&lines[0]["rule"], &lines[0]["backend"]),
        (&"v1".into(), &"shop/v1:8080".into())
    );
    assert_eq!(lines[0]["service"], "shop/catalog");
    assert_eq!(
        (&lines[1]["route"], &lines[1]["reason"]),
        (&serde_json::Value::Null, &"no_route".into())
    );
    let stats = mesh.sidecar.json("/stats").await;
    assert_eq!(stats["routes"][0]["backends"][0]["classes"][1], 1);
    mesh.service("v1", policy());
}

#[tokio::test]
async fn an_upgrade_goes_by_its_rule_and_becomes_a_tunnel() {
    let mesh = Mesh::start().await;
    let raw = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello";
    let app = App::start(mesh.net.at(10), move |_| Reply::Raw(raw.into())).await;
    mesh.serve("v1", &app);
    mesh.routes(vec![to("v1")]);
    let mut client = mesh.client().await;
    let headers = "connection: upgrade\r\nupgrade: x\r\n";
    client.send("GET", "catalog:8080", "/", headers, "").await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(app.count(), 1);
}
