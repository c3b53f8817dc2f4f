//! The control plane: away, back, wrong; and endpoints that come and go.

use remora_proto::well_known as names;

use crate::eventually;
use crate::mesh::{Mesh, limits, policy};
use crate::sidecar::{Options, Sidecar};
use crate::upstream::{App, status};

#[tokio::test]
async fn a_resource_that_is_refused_leaves_the_last_good_one_and_says_why() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    assert_eq!(mesh.get("/").await.status, 200);
    mesh.control
        .put_garbage(names::SERVICE_TYPE, "shop/catalog");
    eventually("it is refused", async || !mesh.control.nacks().is_empty()).await;
    assert!(mesh.control.nacks()[0].contains("shop/catalog"));
    assert_eq!(mesh.get("/").await.status, 200);
    let config = mesh.sidecar.json("/config").await;
    assert_eq!(config["refused"][0]["name"], "shop/catalog", "{config}");
    mesh.service("catalog", limits(|limits| limits.max_requests = Some(0)));
    eventually("the mended one is in force", async || {
        mesh.get("/").await.reason() == "overloaded"
    })
    .await;
    let config = mesh.sidecar.json("/config").await;
    assert_eq!(
        config["refused"].as_array().map(Vec::len),
        Some(0),
        "{config}"
    );
}

/// Without a good version before it there is nothing to go on with: the pod
/// waits, and says for what.
#[tokio::test]
async fn a_pod_whose_first_workload_is_refused_says_why_it_is_not_ready() {
    let mesh = Mesh::start().await;
    let options = Options {
        host: 21,
        ..Options::default()
    };
    let sidecar = Sidecar::start(mesh.net, &mesh.control.url(), options).await;
    mesh.workload_of(21, |workload| workload.node = "no node".into());
    eventually("/ready says why", async || {
        let answer = sidecar.get("/ready").await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        answer.status == 503 && text.contains("was refused: node: is \"no node\"")
    })
    .await;
    eventually("the log says why", async || {
        let log = sidecar.log();
        let mut lines = log.lines();
        lines.any(|line| line.contains("not ready") && line.contains("was refused: node"))
    })
    .await;
    assert!(!sidecar.log().contains("has not sent"));
    mesh.workload_of(21, |_| ());
    sidecar.until_ready().await;
}

#[tokio::test]
async fn traffic_flows_while_the_control_plane_is_away_and_changes_come_when_it_is_back() {
    let mut mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    let mut client = mesh.client().await;
    assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    mesh.control.go_away();
    for _ in 0..20 {
        assert_eq!(client.get("catalog:8080", "/").await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(mesh.sidecar.get("/ready").await.status, 200);
    let sent = mesh.control.times_sent("shop/web-1");
    let new = App::start(mesh.net.at(11), |_| status(201)).await;
    mesh.endpoint("catalog", 1, new.address(), |_| ());
    mesh.remove_endpoint("catalog", 0);
    mesh.control.come_back();
    eventually("the changes are in force", async || {
        client.get("catalog:8080", "/").await.status == 201
    })
    .await;
    assert!(mesh.control.streams() >= 2);
    let held = mesh.control.reconnected_with();
    assert!(held.contains(&"shop/catalog".to_owned()), "{held:?}");
    assert_eq!(
        mesh.control.times_sent("shop/web-1"),
        sent,
        "it was sent again: {held:?} {}",
        mesh.sidecar.log()
    );
}

#[tokio::test]
async fn without_a_control_plane_it_stays_unready_and_says_why() {
    let net = crate::mesh::Net::next();
    let url = format!("http://{}:15110", net.ip(1));
    let sidecar = crate::sidecar::Sidecar::start(net, &url, Default::default()).await;
    let answer = sidecar.get("/ready").await;
    assert_eq!(answer.status, 503);
    eventually("it says why", async || {
        sidecar.log().to_lowercase().contains("control plane")
    })
    .await;
}

#[tokio::test]
async fn zero_endpoints_answer_at_once_and_a_new_one_is_used_by_the_next_pick() {
    let mesh = Mesh::start().await;
    mesh.service("catalog", policy());
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    let app = App::ok(mesh.net.at(10)).await;
    mesh.endpoint("catalog", 0, app.address(), |_| ());
    eventually("the endpoint is used", async || {
        mesh.get("/").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_terminating_endpoint_gets_nothing_new_while_another_serves() {
    let mesh = Mesh::start().await;
    let leaving = App::ok(mesh.net.at(10)).await;
    let staying = App::start(mesh.net.at(11), |_| status(201)).await;
    mesh.endpoint("catalog", 0, leaving.address(), |endpoint| {
        (endpoint.ready, endpoint.draining) = (false, true);
    });
    mesh.endpoint("catalog", 1, staying.address(), |_| ());
    mesh.service("catalog", policy());
    for _ in 0..20 {
        assert_eq!(mesh.get("/").await.status, 201);
    }
    mesh.remove_endpoint("catalog", 1);
    eventually("only the terminating one is left", async || {
        mesh.get("/").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn one_bad_endpoint_does_not_stop_the_others() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.endpoint("catalog", 1, mesh.net.at(11), |endpoint| {
        endpoint.address = vec![1, 2, 3].into();
    });
    mesh.catalog(policy(), &[app.address()]);
    eventually("the good one serves", async || {
        mesh.get("/").await.status == 200
    })
    .await;
    eventually("the bad one is named", async || {
        mesh.control
            .nacks()
            .iter()
            .any(|nack| nack.contains("uid-catalog-1"))
    })
    .await;
}

#[tokio::test]
async fn load_is_spread_over_all_endpoints_and_away_from_the_slow_one() {
    let mesh = Mesh::start().await;
    let fast = [
        App::ok(mesh.net.at(10)).await,
        App::ok(mesh.net.at(11)).await,
    ];
    let slow = App::start(mesh.net.at(12), |_| status(200).after_ms(40)).await;
    let addresses = [fast[0].address(), fast[1].address(), slow.address()];
    mesh.catalog(policy(), &addresses);
    for _ in 0..100 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert!(fast.iter().all(|app| app.count() >= 20));
    assert!((1..20).contains(&slow.count()), "{}", slow.count());
}
