//! What a change costs on the wire, by a count of the bytes that are sent.

use std::fmt::Write;

use prost::Message;
use remora_proto::v1;
use remora_proto::well_known::{ENDPOINT_TYPE, SERVICE_TYPE, WORKLOAD_TYPE};

use crate::client::{Plane, Sidecar, open};

const SERVICES: usize = 200;
const ENDPOINTS: usize = 10;
/// An Endpoint with its name, version and what the transport adds.
const MOST_BYTES: usize = 512;

fn service(number: usize) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}, namespace: shop}}\n\
         spec:\n  clusterIP: 10.96.0.{number}\n  ports: [{{name: http, port: 8080}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s{number}-a, namespace: shop, labels: {{kubernetes.io/service-name: s{number}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    for pod in 0..ENDPOINTS {
        writeln!(
            text,
            "- {{addresses: [10.1.{number}.{pod}], zone: zone-1, nodeName: node-1, \
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

#[tokio::test]
async fn a_pods_change_is_one_small_resource_for_each_sidecar_that_has_it() {
    let mut files = vec![("pod.yaml".to_owned(), pod(""))];
    files.extend((0..SERVICES).map(|number| (format!("s{number}.yaml"), service(number))));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let plane = Plane::new(&files).await;
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
