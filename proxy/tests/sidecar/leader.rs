//! Reports go to the replica of the control plane that leads.

use std::net::SocketAddr;
use std::time::Duration;

use remora_proto::well_known as names;

use crate::control::Control;
use crate::eventually;
use crate::mesh::{Mesh, limits, policy};

/// A second control plane, and the mesh's Workload naming it.
async fn with_leader() -> (Mesh, Control) {
    let mesh = Mesh::start().await;
    let leader = Control::start(SocketAddr::new(mesh.net.ip(200), 15110));
    name(&mesh, leader.url().strip_prefix("http://").unwrap());
    (mesh, leader)
}

fn name(mesh: &Mesh, address: &str) {
    mesh.workload(|workload| workload.reports_address = address.to_owned());
}

/// First reports carry who reports and all that is in force.
fn first_reports(control: &Control) -> usize {
    let reports = control.reports();
    let first = reports.iter().filter(|report| report.sidecar.is_some());
    first.count()
}

fn tells_of(control: &Control, resource: &str) -> bool {
    let mut applied = control
        .reports()
        .into_iter()
        .flat_map(|report| report.applied);
    applied.any(|applied| applied.name == resource)
}

#[tokio::test]
async fn reports_follow_the_leader_and_the_first_one_there_tells_everything() {
    let mesh = Mesh::start().await;
    mesh.catalog(policy(), &[mesh.net.at(10)]);
    mesh.get("/").await;
    eventually("the stream's own control plane is told", async || {
        tells_of(&mesh.control, "shop/catalog")
    })
    .await;
    let leader = Control::start(SocketAddr::new(mesh.net.ip(200), 15110));
    name(&mesh, leader.url().strip_prefix("http://").unwrap());
    eventually("the leader is told of all", async || {
        tells_of(&leader, "shop/catalog") && tells_of(&leader, "shop/web-1")
    })
    .await;
    let reports = leader.reports();
    let sidecar = reports[0].sidecar.clone().unwrap_or_default();
    assert_eq!((sidecar.pod.as_str(), reports[0].sequence), ("web-1", 1));
    assert_eq!(leader.streams(), 0, "the configuration stays where it was");

    let before = mesh.control.reports().len();
    mesh.service("catalog", limits(|limits| limits.max_requests = Some(7)));
    let told = leader.reports().len();
    eventually("the next change goes there too", async || {
        leader.reports().len() > told
    })
    .await;
    assert_eq!(mesh.control.reports().len(), before);

    name(&mesh, "");
    eventually("without a leader they go their own way", async || {
        first_reports(&mesh.control) == 2
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_is_gone_is_done_without_until_it_is_back() {
    let (mesh, mut leader) = with_leader().await;
    eventually("the leader is told", async || first_reports(&leader) == 1).await;
    let own = first_reports(&mesh.control);
    leader.go_away();
    eventually("reports go their own way", async || {
        first_reports(&mesh.control) == own + 1
    })
    .await;
    leader.come_back();
    eventually("they go to the leader again", async || {
        first_reports(&leader) == 2
    })
    .await;
    let quiet = mesh.control.reports().len();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(mesh.control.reports().len(), quiet, "and nowhere else");
}

#[tokio::test]
async fn a_leader_that_never_answers_does_not_keep_reports_back() {
    let mesh = Mesh::start().await;
    let own = first_reports(&mesh.control);
    // Nobody listens there.
    name(&mesh, &format!("{}:15110", mesh.net.ip(201)));
    eventually("reports go their own way", async || {
        first_reports(&mesh.control) > own && tells_of(&mesh.control, "shop/web-1")
    })
    .await;
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_with_its_reason() {
    let (mesh, leader) = with_leader().await;
    eventually("the leader is told", async || first_reports(&leader) == 1).await;
    name(&mesh, "remora-control-plane:15110");
    eventually("it is refused", async || {
        let nacks = mesh.control.nacks();
        nacks
            .iter()
            .any(|nack| nack.contains("reports_address: is"))
    })
    .await;
    let refused = |control: &Control| {
        let mut refused = control
            .reports()
            .into_iter()
            .flat_map(|report| report.refused);
        refused.any(|refused| refused.type_url == names::WORKLOAD_TYPE)
    };
    eventually("the last good leader hears of it", async || {
        refused(&leader)
    })
    .await;
    assert_eq!(mesh.sidecar.get("/ready").await.status, 200);
}
