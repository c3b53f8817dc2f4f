//! What a change costs on the wire, by a count of the bytes that are sent.

use std::fmt::Write;

use prost::Message;
use remora_proto::v1;
use remora_proto::well_known::{ENDPOINT_TYPE, SERVICE_TYPE, WORKLOAD_TYPE};

use crate::client::{Plane, Sidecar, open};

const SERVICES: usize = 200;
const ENDPOINTS: usize = 10;
/// Sidecars that call one service, and as many that call another.
const CALLERS: usize = 5;
/// An Endpoint with its name, version and what the transport adds.
const MOST_BYTES: usize = 512;

/// A service, with an endpoint that is not ready where one is named.
fn service(number: usize, not_ready: Option<usize>) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}, namespace: shop}}\n\
         spec:\n  clusterIP: 10.96.0.{number}\n  ports: [{{name: http, port: 8080}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s{number}-a, namespace: shop, labels: {{kubernetes.io/service-name: s{number}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    for pod in 0..ENDPOINTS {
        let ready = not_ready != Some(pod);
        writeln!(
            text,
            "- {{addresses: [10.1.{number}.{pod}], zone: zone-1, nodeName: node-1, \
             conditions: {{ready: {ready}, serving: {ready}}}, \
             targetRef: {{kind: Pod, name: s{number}-{pod}, uid: s{number}-{pod}-uid}}}}"
        )
        .unwrap();
    }
    text
}

fn pod(deletion: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: s7-3, namespace: shop, uid: s7-3-uid{deletion}}}\n\
         spec: {{nodeName: node-1, containers: [{{name: app, ports: [{{containerPort: 8080}}]}}]}}\n\
         status: {{podIP: 10.1.7.3, podIPs: [{{ip: 10.1.7.3}}]}}\n"
    )
}

async fn plane() -> Plane {
    let mut files = vec![("pod.yaml".to_owned(), pod(""))];
    files.extend((0..SERVICES).map(|number| (format!("s{number}.yaml"), service(number, None))));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    Plane::new(&files).await
}

#[tokio::test]
async fn a_pods_change_is_one_small_resource_for_each_sidecar_that_has_it() {
    let plane = plane().await;
    let mut interested = Vec::new();
    for name in ["web-1", "web-2"] {
        let mut sidecar = Sidecar::connect(&plane, name).await;
        sidecar.subscribe(SERVICE_TYPE, &["shop/s7"]).await;
        sidecar.take().await;
        sidecar.subscribe(ENDPOINT_TYPE, &["shop/s7/*"]).await;
        assert_eq!(sidecar.take().await.resources.len(), ENDPOINTS);
        interested.push(sidecar);
    }
    let mut other = Sidecar::connect(&plane, "cart-1").await;
    other.subscribe(ENDPOINT_TYPE, &["shop/s8/*"]).await;
    other.take().await;
    other.subscribe(WORKLOAD_TYPE, &["shop/cart-1"]).await;
    other.take().await;

    plane.write(
        "pod.yaml",
        &pod(", deletionTimestamp: \"2026-01-01T00:00:00Z\""),
    );
    for sidecar in &mut interested {
        let response = sidecar.take().await;
        let endpoint: v1::Endpoint = open(&response.resources[0]);
        assert!(endpoint.draining && endpoint.pod == "s7-3", "{endpoint:?}");
        assert_eq!(response.resources.len(), 1);
        assert!(response.removed_resources.is_empty());
        let bytes = response.encoded_len();
        assert!(bytes <= MOST_BYTES, "{bytes} bytes");
        println!("a pod's change: {bytes} bytes for each sidecar that has it");
        sidecar.nothing_comes().await;
    }
    other.nothing_comes().await;
}

/// A sidecar that holds one service and its endpoints.
async fn caller(plane: &Plane, pod: &str, service: &str) -> Sidecar {
    let mut sidecar = Sidecar::connect(plane, pod).await;
    sidecar.subscribe(SERVICE_TYPE, &[service]).await;
    assert_eq!(sidecar.take().await.resources.len(), 1);
    let collection = format!("{service}/*");
    sidecar.subscribe(ENDPOINT_TYPE, &[&collection]).await;
    assert_eq!(sidecar.take().await.resources.len(), ENDPOINTS);
    sidecar
}

/// Responses, resources and bytes of endpoints that were sent so far, as the
/// metrics tell.
async fn told(plane: &Plane) -> [usize; 3] {
    let (_, metrics) = plane.fetch("/metrics").await;
    ["responses", "resources", "bytes"].map(|what| {
        let name = format!("remora_control_plane_sent_{what}_total{{type=\"Endpoint\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap().parse().unwrap()
    })
}

#[tokio::test]
async fn what_a_pod_that_is_not_ready_costs_is_what_the_metrics_tell() {
    let plane = plane().await;
    let mut interested = Vec::new();
    let mut others = Vec::new();
    for number in 0..CALLERS {
        interested.push(caller(&plane, &format!("a-{number}"), "shop/s7").await);
        others.push(caller(&plane, &format!("b-{number}"), "shop/s8").await);
    }
    let before = told(&plane).await;
    assert_eq!(before[1], 2 * CALLERS * ENDPOINTS, "resources so far");

    plane.write("s7.yaml", &service(7, Some(3)));
    let mut total = 0;
    for sidecar in &mut interested {
        let response = sidecar.take().await;
        let bytes = response.encoded_len();
        total += bytes;
        assert_eq!(
            (response.resources.len(), response.removed_resources.len()),
            (1, 0)
        );
        let endpoint: v1::Endpoint = open(&response.resources[0]);
        assert!(endpoint.pod == "s7-3" && !endpoint.ready);
        assert!(bytes <= MOST_BYTES, "{bytes} bytes");
        // And nothing after it.
        sidecar.nothing_comes().await;
    }
    for sidecar in &mut others {
        sidecar.nothing_comes().await;
    }
    let after = told(&plane).await;
    let sent: Vec<usize> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    assert_eq!(
        sent,
        [CALLERS, CALLERS, total],
        "responses, resources, bytes in all"
    );
    println!(
        "{SERVICES} services, {} endpoints, {} sidecars; one pod is not ready any more: \
         {CALLERS} sidecars get 1 response with 1 resource, {} bytes; {CALLERS} get 0 bytes",
        SERVICES * ENDPOINTS,
        2 * CALLERS,
        total / CALLERS
    );
}
