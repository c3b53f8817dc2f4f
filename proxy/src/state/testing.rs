//! Resources for tests, as a control plane would send them.

use bytes::Bytes;
use prost::Message;
use remora_proto::discovery::{DeltaDiscoveryResponse, Resource};
use remora_proto::{v1, well_known};

use crate::stream::Kind;

/// `shop/<name>` at 10.0.0.`last`, with port 8080.
pub fn service(name: &str, last: u8) -> v1::Service {
    v1::Service {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        kind: v1::service::Kind::ClusterIp.into(),
        addresses: vec![Bytes::copy_from_slice(&[10, 0, 0, last])],
        ports: vec![v1::ServicePort {
            port: 8080,
            name: "http".to_owned(),
            protocol: v1::Protocol::Http1.into(),
        }],
        ..Default::default()
    }
}

/// Breakers that trip at the first connect failure.
pub fn trip() -> v1::Trip {
    v1::Trip {
        scope: v1::trip::Scope::Endpoint.into(),
        consecutive_failures: 1,
        failures: Some(v1::Conditions {
            connect_failure: true,
            ..Default::default()
        }),
        base_ejection_ms: 1000,
        max_ejection_ms: 2000,
        honor_retry_after: true,
        probes: 1,
        successes: 1,
        max_ejected_percent: 50,
        min_endpoints: 1,
        ..Default::default()
    }
}

/// A policy with the breakers of [`trip`].
pub fn breaks_at_once() -> v1::ServicePolicy {
    v1::ServicePolicy {
        circuit_breaker: Some(v1::CircuitBreaker {
            trip: Some(trip()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The pod `shop/<pod>` at 10.1.0.`last`.
pub fn pod_service(pod: &str, last: u8) -> v1::Service {
    v1::Service {
        namespace: "shop".to_owned(),
        name: pod.to_owned(),
        kind: v1::service::Kind::Pod.into(),
        addresses: vec![Bytes::copy_from_slice(&[10, 1, 0, last])],
        pod: Some(v1::Endpoint {
            port: 0,
            target_port: 0,
            ..endpoint(pod, pod, last)
        }),
        ..Default::default()
    }
}

/// A pod of `shop/<service>` with uid `uid-<pod>` at 10.1.0.`last`:8080.
pub fn endpoint(service: &str, pod: &str, last: u8) -> v1::Endpoint {
    v1::Endpoint {
        namespace: "shop".to_owned(),
        service: service.to_owned(),
        port: 8080,
        address: Bytes::copy_from_slice(&[10, 1, 0, last]),
        target_port: 8080,
        pod: pod.to_owned(),
        pod_uid: format!("uid-{pod}"),
        ready: true,
        serving: true,
        ..Default::default()
    }
}

/// The pod `shop/web-1`, whose sidecar is under test.
pub fn workload() -> v1::Workload {
    v1::Workload {
        namespace: "shop".to_owned(),
        pod: "web-1".to_owned(),
        pod_uid: "uid-web-1".to_owned(),
        ..Default::default()
    }
}

fn resource(
    kind: Kind,
    name: String,
    version: &str,
    aliases: Vec<String>,
    value: Vec<u8>,
) -> Resource {
    Resource {
        version: version.to_owned(),
        name,
        aliases,
        resource: Some(prost_types::Any {
            type_url: kind.type_url().to_owned(),
            value,
        }),
    }
}

/// A Service resource under its proper name and aliases.
pub fn service_resource(service: &v1::Service, version: &str) -> Resource {
    let name = match &service.pod {
        Some(pod) => well_known::pod_resource_name(&pod.namespace, &pod.pod),
        None => well_known::resource_name(&service.namespace, &service.name),
    };
    let aliases = service
        .addresses
        .iter()
        .filter_map(|bytes| super::decode::names::address(bytes))
        .map(well_known::address_alias)
        .collect();
    resource(
        Kind::Service,
        name,
        version,
        aliases,
        service.encode_to_vec(),
    )
}

/// An Endpoint resource under its proper name.
pub fn endpoint_resource(endpoint: &v1::Endpoint, version: &str) -> Resource {
    let name = well_known::endpoint_name(
        &endpoint.namespace,
        &endpoint.service,
        endpoint.port as u16,
        &endpoint.pod_uid,
    );
    resource(
        Kind::Endpoint,
        name,
        version,
        Vec::new(),
        endpoint.encode_to_vec(),
    )
}

/// A Workload resource under its proper name.
pub fn workload_resource(workload: &v1::Workload, version: &str) -> Resource {
    let name = well_known::resource_name(&workload.namespace, &workload.pod);
    resource(
        Kind::Workload,
        name,
        version,
        Vec::new(),
        workload.encode_to_vec(),
    )
}

/// A response.
pub fn response(
    kind: Kind,
    nonce: &str,
    resources: Vec<Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}
