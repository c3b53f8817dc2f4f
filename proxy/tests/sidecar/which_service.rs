//! Which service a connection belongs to.

use std::net::SocketAddr;

use remora_proto::v1;
use remora_proto::well_known as names;

use crate::mesh::{Mesh, PORT, octets, policy, trip};
use crate::upstream::{App, status};

#[tokio::test]
async fn host_and_port_choose_the_service_without_case_and_with_any_of_its_names() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    for host in [
        "catalog:8080",
        "CATALOG:8080",
        "catalog.shop:8080",
        "catalog.shop.svc:8080",
        "catalog.shop.svc.cluster.local:8080",
        "Catalog.Shop.Svc.Cluster.Local.:8080",
    ] {
        let answer = mesh.client().await.get(host, "/").await;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_host_that_only_begins_like_a_service_is_not_that_service() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    for host in ["catalog.shop.example.com:8080", "catalog.shop.svc.other:80"] {
        let answer = mesh.client().await.get(host, "/").await;
        assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn absolute_form_names_the_service_and_becomes_origin_form() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    client
        .write("GET http://catalog:8080/a?b=c HTTP/1.1\r\nHost: other\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
    let request = &app.requests()[0];
    assert_eq!(
        (request.path.as_str(), request.header("host")),
        ("/a?b=c", "catalog:8080")
    );
}

#[tokio::test]
async fn a_service_is_found_by_its_cluster_address() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.endpoint("catalog", 0, app.address(), |_| ());
    let cluster_ip = mesh.net.ip(200);
    mesh.service_with("catalog", |service| {
        service.addresses = vec![octets(cluster_ip)];
    });
    let host = format!("{cluster_ip}:8080");
    assert_eq!(mesh.client().await.get(&host, "/").await.status, 200);
}

#[tokio::test]
async fn a_pod_reached_by_its_second_address_is_connected_to_there() {
    let mesh = Mesh::start().await;
    let first = App::start(mesh.net.at(10), |_| status(500)).await;
    let second = App::ok(mesh.net.at(11)).await;
    mesh.pod("db-0", &[mesh.net.ip(10), mesh.net.ip(11)], policy());
    let host = second.address().to_string();
    assert_eq!(mesh.client().await.get(&host, "/").await.status, 200);
    assert_eq!((first.count(), second.count()), (0, 1));
    let host = first.address().to_string();
    assert_eq!(mesh.client().await.get(&host, "/").await.status, 500);
}

#[tokio::test]
async fn two_ports_of_a_pod_do_not_share_connections() {
    let mesh = Mesh::start().await;
    let ip = mesh.net.ip(10);
    let http = App::ok(SocketAddr::new(ip, PORT)).await;
    let admin = App::start(SocketAddr::new(ip, 9090), |_| status(418)).await;
    mesh.pod("db-0", &[ip], policy());
    let mut client = mesh.client().await;
    for _ in 0..3 {
        let host = http.address().to_string();
        assert_eq!(client.get(&host, "/").await.status, 200);
        let host = admin.address().to_string();
        assert_eq!(client.get(&host, "/").await.status, 418);
    }
}

#[tokio::test]
async fn the_breaker_of_a_pod_reached_by_its_address_only_marks() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| status(500)).await;
    mesh.pod(
        "db-0",
        &[mesh.net.ip(10)],
        trip(|trip| trip.consecutive_failures = 2),
    );
    let host = app.address().to_string();
    for _ in 0..5 {
        assert_eq!(mesh.client().await.get(&host, "/").await.status, 500);
    }
    assert_eq!(app.count(), 5);
    let breakers = mesh.sidecar.json("/breakers").await;
    let endpoint = &breakers["services"][0]["endpoints"][0];
    assert_eq!(endpoint["state"], "would_open", "{breakers}");
}

#[tokio::test]
async fn a_service_that_appears_later_is_found_then() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    mesh.catalog(policy(), &[app.address()]);
    crate::eventually("the service is found", async || {
        mesh.get("/").await.status == 200
    })
    .await;
    mesh.control.remove(names::SERVICE_TYPE, "shop/catalog");
    crate::eventually("the service is gone", async || {
        mesh.get("/").await.status == 503
    })
    .await;
}

#[tokio::test]
async fn session_affinity_keeps_one_endpoint_for_each_source() {
    let mesh = Mesh::start().await;
    let apps = [
        App::ok(mesh.net.at(10)).await,
        App::ok(mesh.net.at(11)).await,
        App::ok(mesh.net.at(12)).await,
    ];
    for (number, app) in apps.iter().enumerate() {
        mesh.endpoint("catalog", number, app.address(), |_| ());
    }
    mesh.service_with("catalog", |service| {
        service.session_affinity_seconds = Some(10_800);
    });
    for _ in 0..20 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    let mut counts: Vec<usize> = apps.iter().map(App::count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 20]);
}

#[tokio::test]
async fn internal_traffic_policy_local_takes_no_other_nodes_endpoint() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.endpoint(
        "catalog",
        0,
        app.address(),
        |endpoint: &mut v1::Endpoint| {
            endpoint.node = "elsewhere".into();
        },
    );
    mesh.service_with("catalog", |service| service.internal_traffic_local = true);
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
}
