//! What comes of reports: verdicts of probes in Endpoints, shares of limits of the whole mesh.

use std::net::SocketAddr;
use std::time::Duration;

use remora_proto::v1;
use remora_proto::v1::reports_client::ReportsClient;
use remora_proto::well_known::ENDPOINT_TYPE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Plane, Sidecar, open};
use crate::sidecar::PATIENCE;

pub const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: catalog}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: catalog-1
  namespace: shop
  uid: u1
  labels: {app: catalog}
  annotations: {remora.io/weight: "7"}
spec: {initContainers: [{name: remora-proxy}], containers: [{name: a, ports: [{containerPort: 8080}]}]}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: catalog-a, namespace: shop, labels: {kubernetes.io/service-name: catalog}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: catalog-1, uid: u1}}]
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: catalog, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  rateLimits:
  - {name: all, limit: {requests: 1000, per: second, burst: 100}, scope: Mesh, enforcedAt: Caller}
"#;

/// The reports of one pod's sidecar.
pub struct Reporter {
    sender: mpsc::Sender<v1::SidecarReport>,
    answers: tonic::Streaming<v1::ReportAcknowledgement>,
    sequence: u64,
}

/// What a sidecar sends on a stream of reports, of which this is the first.
async fn beginning(
    pod: &str,
    uid: &str,
    first: v1::SidecarReport,
) -> (
    mpsc::Sender<v1::SidecarReport>,
    ReceiverStream<v1::SidecarReport>,
) {
    let (sender, receiver) = mpsc::channel(16);
    let sidecar = v1::SidecarIdentity {
        namespace: "shop".into(),
        pod: pod.into(),
        pod_uid: uid.into(),
        version: "1".into(),
    };
    let first = v1::SidecarReport {
        sequence: 1,
        sidecar: Some(sidecar),
        ..first
    };
    sender.send(first).await.unwrap();
    (sender, ReceiverStream::new(receiver))
}

/// Begins a stream of reports over this connection; it ends with what is given back.
pub async fn first(
    channel: tonic::transport::Channel,
    pod: &str,
    uid: &str,
    token: &str,
    first: v1::SidecarReport,
) -> mpsc::Sender<v1::SidecarReport> {
    let (sender, reports) = beginning(pod, uid, first).await;
    let request = crate::tls::with_token(reports, token);
    let answers = ReportsClient::new(channel).report(request).await.unwrap();
    let mut answers = answers.into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().sequence, 1);
    tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
    sender
}

impl Reporter {
    pub async fn of(listen: SocketAddr, pod: &str, uid: &str, first: v1::SidecarReport) -> Self {
        let client = ReportsClient::connect(format!("http://{listen}")).await;
        let (sender, reports) = beginning(pod, uid, first).await;
        let answers = client.unwrap().report(reports).await;
        Self {
            sender,
            answers: answers.unwrap().into_inner(),
            sequence: 1,
        }
    }

    pub async fn say(&mut self, report: v1::SidecarReport) {
        self.sequence += 1;
        let sequence = self.sequence;
        let report = v1::SidecarReport { sequence, ..report };
        self.sender.send(report).await.unwrap();
    }

    /// A share, if one comes in this time.
    async fn share(&mut self, within: Duration) -> Option<v1::MeshShare> {
        let share = async {
            loop {
                let answer = self.answers.message().await.unwrap().unwrap();
                if let Some(share) = answer.mesh_shares.into_iter().next() {
                    return share;
                }
            }
        };
        tokio::time::timeout(within, share).await.ok()
    }
}

fn wants(share: Option<&v1::MeshShare>, asked: u64) -> v1::SidecarReport {
    let usage = v1::MeshUsage {
        policy: "shop/catalog".into(),
        name: "all".into(),
        parts_per_million: share.map_or(0, |share| share.parts_per_million),
        burst: share.map_or(0, |share| share.burst),
        grant: share.map_or(0, |share| share.grant),
        asked,
        admitted: 0,
        over_ms: 200,
    };
    v1::SidecarReport {
        mesh_limits: vec![usage],
        ..v1::SidecarReport::default()
    }
}

#[tokio::test]
async fn a_verdict_of_a_pods_own_sidecar_is_in_its_endpoint_at_once() {
    let plane = Plane::new(&[("shop.yaml", SHOP)]).await;
    let mut caller = Sidecar::connect(&plane, "web-1").await;
    caller.subscribe(ENDPOINT_TYPE, &["shop/catalog/*"]).await;
    let response = caller.take().await;
    let endpoint: v1::Endpoint = open(&response.resources[0]);
    assert_eq!(
        (endpoint.weight, endpoint.health()),
        (7, v1::Health::Unknown)
    );
    let health = |health: v1::Health| v1::SidecarReport {
        health: vec![v1::PortHealth {
            port: 8080,
            health: health.into(),
            detail: "503".into(),
        }],
        ..v1::SidecarReport::default()
    };
    let listen = plane.running.listen;
    let mut reporter = Reporter::of(listen, "catalog-1", "u1", health(v1::Health::Unhealthy)).await;
    let next = async |caller: &mut Sidecar| -> v1::Endpoint {
        let response = caller.take().await;
        open(&response.resources[0])
    };
    assert_eq!(next(&mut caller).await.health(), v1::Health::Unhealthy);
    reporter.say(health(v1::Health::Healthy)).await;
    assert_eq!(next(&mut caller).await.health(), v1::Health::Healthy);
    // Of another pod's uid nothing is known here.
    let other = health(v1::Health::Unhealthy);
    let _other = Reporter::of(listen, "catalog-1", "u2", other).await;
    // It is told, and changes nothing that callers have but to what is known of that one.
    let later = tokio::time::timeout(Duration::from_millis(300), caller.take()).await;
    if let Ok(response) = later {
        let endpoint: v1::Endpoint = open(&response.resources[0]);
        assert_ne!(endpoint.health(), v1::Health::Unhealthy);
    }
}

#[tokio::test]
async fn shares_of_a_limit_of_the_mesh_go_from_one_sidecar_to_another_by_demand() {
    let plane = Plane::new(&[("shop.yaml", SHOP)]).await;
    let listen = plane.running.listen;
    // It was there when this control plane began: before it has told, nobody has a share.
    let mut catalog = Reporter::of(listen, "catalog-1", "u1", wants(None, 0)).await;
    let mut mine = catalog.share(PATIENCE).await.expect("a share");
    assert!(
        mine.parts_per_million > 990_000 && mine.burst == 100,
        "{mine:?}"
    );
    let mut web = Reporter::of(listen, "web-1", "w", wants(None, 300)).await;
    catalog.say(wants(Some(&mine), 100)).await;
    let mut theirs = None;
    for _ in 0..50 {
        if let Some(share) = catalog.share(Duration::from_millis(50)).await {
            mine = share;
        }
        catalog.say(wants(Some(&mine), 100)).await;
        if let Some(share) = web.share(Duration::from_millis(50)).await {
            assert!(share.parts_per_million + mine.parts_per_million <= 1_000_000);
            assert!(share.burst + mine.burst <= 100);
            web.say(wants(Some(&share), 300)).await;
            if share.parts_per_million > 400_000 {
                theirs = Some(share);
                break;
            }
        }
    }
    let theirs = theirs.expect("about half of it");
    assert!(mine.parts_per_million > 300_000, "{mine:?} {theirs:?}");
    let (_, metrics) = plane.fetch("/metrics").await;
    let holders =
        "remora_control_plane_mesh_limit_holders{policy=\"shop/catalog\",limit=\"all\"} 2";
    assert!(metrics.contains(holders), "{metrics}");
}
