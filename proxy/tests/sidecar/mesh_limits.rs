//! Limits of the whole mesh, with a control plane that gives shares as the test says.

use remora_proto::v1::{MeshShare, MeshUsage, RateLimit};

use crate::client::Client;
use crate::eventually;
use crate::mesh::{Mesh, PORT};
use crate::upstream::App;

fn limit() -> RateLimit {
    RateLimit {
        name: "all".into(),
        policy: "shop/web".into(),
        requests: 100,
        per_ms: 3_600_000,
        burst: 10,
        max_keys: 10,
        mesh: true,
        ..RateLimit::default()
    }
}

fn share(grant: u64, parts_per_million: u32, burst: u32) -> MeshShare {
    MeshShare {
        policy: "shop/web".into(),
        name: "all".into(),
        grant,
        parts_per_million,
        burst,
    }
}

fn last(mesh: &Mesh) -> Option<MeshUsage> {
    let reports = mesh.control.reports();
    let mut told = reports.iter().rev().flat_map(|report| &report.mesh_limits);
    told.next().cloned()
}

async fn admitted(mesh: &Mesh, calls: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..calls {
        let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
        let answer = client.get("web", "/").await;
        assert!(answer.status == 200 || answer.reason() == "rate_limited");
        admitted += usize::from(answer.status == 200);
    }
    admitted
}

#[tokio::test]
async fn without_a_share_it_refuses_and_a_share_is_kept_while_the_control_plane_is_away() {
    let mut mesh = Mesh::start().await;
    let _app = App::ok(mesh.net.at(2)).await;
    mesh.workload(|workload| workload.rate_limits = vec![limit()]);
    eventually("the limit is told of before there is demand", async || {
        last(&mesh).is_some_and(|told| told.burst == 0 && told.asked == 0)
    })
    .await;
    assert_eq!(admitted(&mesh, 5).await, 0, "it has no share");
    eventually("its demand is told", async || {
        let reports = mesh.control.reports();
        let told = reports.iter().flat_map(|report| &report.mesh_limits);
        told.map(|told| told.asked).sum::<u64>() == 5
    })
    .await;
    mesh.control.give(share(1, 1_000_000, 4));
    eventually("the share is acknowledged", async || {
        last(&mesh).is_some_and(|told| (told.grant, told.burst) == (1, 4))
    })
    .await;
    assert_eq!(
        admitted(&mesh, 5).await,
        0,
        "a share brings no tokens, it fills"
    );
    mesh.control.go_away();
    mesh.control.come_back();
    eventually(
        "a new stream tells of the share, which came on another",
        async || last(&mesh).is_some_and(|told| (told.grant, told.burst) == (0, 4)),
    )
    .await;
}

#[tokio::test]
async fn a_share_that_has_filled_admits_its_burst() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(2)).await;
    // Two each second: a burst is full two seconds after the share has come, and
    // while the calls are made next to nothing is added.
    let slow = RateLimit {
        requests: 4,
        per_ms: 1000,
        ..limit()
    };
    mesh.workload(|workload| workload.rate_limits = vec![slow]);
    eventually("the limit is told of", async || last(&mesh).is_some()).await;
    mesh.control.give(share(1, 500_000, 4));
    eventually("the share is acknowledged", async || {
        last(&mesh).is_some_and(|told| (told.grant, told.burst) == (1, 4))
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let began = std::time::Instant::now();
    let admitted = admitted(&mesh, 12).await;
    let most = 4 + 1 + (began.elapsed().as_secs_f64() * 2.0) as usize;
    assert!((4..=most).contains(&admitted), "{admitted} of {most}");
    assert_eq!(app.count(), admitted);
}
