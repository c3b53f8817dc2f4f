//! What a sidecar lives through with whatever control plane: it gets ready,
//! carries requests past a failing endpoint, limits and refuses as it is told.

use std::net::{Ipv4Addr, SocketAddr};

use crate::client::Client;
use crate::eventually;
use crate::mesh::PORT;
use crate::sidecar::Sidecar;
use crate::upstream::{App, status};

/// What the source holds, one after the other.
pub const WORLDS: usize = 3;

/// The endpoints' addresses are the same in every run, for they are written
/// down in what was recorded.
fn endpoint(last: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(127, 99, 1, last).into(), PORT)
}

/// The YAML of a world: at first two endpoints of `catalog`, one of which
/// always fails; then no request to it is let through; then it has one endpoint.
pub fn yaml(world: usize) -> String {
    let limit = match world {
        1 => ", maxRequests: 0",
        _ => "",
    };
    let second = match world {
        2 => "",
        _ => {
            "\n- addresses: [127.99.1.11]\n  targetRef: {kind: Pod, name: catalog-1, uid: uid-catalog-1}"
        }
    };
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{remora.io/inject: enabled}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: catalog, namespace: shop}}
spec:
  clusterIP: 10.96.0.10
  selector: {{app: catalog}}
  ports: [{{name: http, port: {PORT}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: catalog-a, namespace: shop, labels: {{kubernetes.io/service-name: catalog}}}}
addressType: IPv4
ports: [{{name: http, port: {PORT}}}]
endpoints:
- addresses: [127.99.1.10]
  targetRef: {{kind: Pod, name: catalog-0, uid: uid-catalog-0}}{second}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec:
  clusterIP: 10.96.0.11
  selector: {{app: web}}
  ports: [{{name: http, port: {PORT}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: web-1, namespace: shop, uid: uid-web-1, labels: {{app: web}}}}
spec: {{serviceAccountName: web, containers: [{{name: app, ports: [{{containerPort: {PORT}}}]}}]}}
status: {{podIP: 127.99.1.1, podIPs: [{{ip: 127.99.1.1}}]}}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {{name: catalog, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: catalog}}]
  circuitBreaker: {{consecutiveFailures: 2, baseEjection: 60s{limit}}}
  retries: {{attempts: 2, "on": [gateway-error], budget: {{percent: 100, minPerSecond: 100, window: 10s}}}}
  timeouts: {{request: 5s}}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {{name: web, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: web}}]
  rateLimits:
  - {{name: all, limit: {{requests: 2, per: hour, burst: 2}}, match: {{path: {{prefix: /}}}}, key: [method]}}
"#
    )
}

/// Everything is `shop`'s; `own` is where the sidecar's own application listens.
pub async fn live(sidecar: &Sidecar, own: SocketAddr, mut world: impl AsyncFnMut(usize)) {
    let _apps = [
        App::ok(own).await,
        App::ok(endpoint(10)).await,
        App::start(endpoint(11), |_| status(503)).await,
    ];
    let get = async |host: &str| {
        Client::connect(sidecar.outbound())
            .await
            .get(host, "/")
            .await
    };
    sidecar.until_ready().await;
    eventually("the failing endpoint's breaker is open", async || {
        assert_eq!(
            get("catalog:8080").await.status,
            200,
            "it is tried elsewhere"
        );
        sidecar.breaker("catalog-1").await["state"] == "open"
    })
    .await;
    assert_ne!(
        get("cart:8080").await.status,
        200,
        "there is no such service"
    );
    for expected in [(200, ""), (200, ""), (429, "rate_limited")] {
        let mut client = Client::connect(sidecar.inbound(PORT)).await;
        let answer = client.get("web", "/").await;
        assert_eq!((answer.status, answer.reason()), expected);
    }
    world(1).await;
    eventually("the changed policy is in force", async || {
        get("catalog:8080").await.reason() == "overloaded"
    })
    .await;
    world(2).await;
    eventually("it is in force again", async || {
        get("catalog:8080").await.status == 200
    })
    .await;
    eventually("one endpoint is left", async || {
        let config = sidecar.json("/config").await;
        let applied = config["applied"].as_array().unwrap().iter();
        applied.filter(|one| one["type"] == "Endpoint").count() == 1
    })
    .await;
    let config = sidecar.json("/config").await;
    assert_eq!(config["refused"], serde_json::json!([]));
}
