//! What comes by the stream, from bytes to checked types, with what it allocates.

#![allow(clippy::expect_used)] // a benchmark that cannot be set up must say so and end

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use prost::Message;
use remora_proto::v1;
use remora_proxy::state::decode;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn rate_limit(name: &str) -> v1::RateLimit {
    v1::RateLimit {
        name: name.to_owned(),
        policy: "shop/catalog".to_owned(),
        requests: 100,
        per_ms: 1_000,
        burst: 10,
        key: vec![v1::KeyPart {
            part: Some(v1::key_part::Part::RemoteAddress(true)),
        }],
        max_keys: 10_000,
        ..Default::default()
    }
}

fn policy() -> v1::ServicePolicy {
    let conditions = v1::Conditions {
        connect_failure: true,
        reset: true,
        timeout: true,
        server_error: true,
        ..Default::default()
    };
    v1::ServicePolicy {
        circuit_breaker: Some(v1::CircuitBreaker {
            limits: Some(v1::Limits {
                max_requests: Some(100),
                ..Default::default()
            }),
            per_endpoint: None,
            trip: Some(v1::Trip {
                consecutive_failures: 5,
                failures: Some(conditions.clone()),
                base_ejection_ms: 10_000,
                max_ejection_ms: 300_000,
                honor_retry_after: true,
                probes: 1,
                successes: 1,
                max_ejected_percent: 50,
                min_endpoints: 1,
                ..Default::default()
            }),
        }),
        outbound: None,
        retries: Some(v1::Retries {
            attempts: 2,
            on: Some(conditions),
            backoff_base_ms: 25,
            backoff_max_ms: 250,
            max_retry_after_ms: 10_000,
            budget: Some(v1::RetryBudget {
                percent: 20,
                min_per_second: 10,
                window_ms: 10_000,
            }),
            buffer_bytes: 65_536,
            ..Default::default()
        }),
        timeouts: Some(v1::Timeouts {
            request_ms: Some(5_000),
            ..Default::default()
        }),
        rate_limits: vec![rate_limit("callers")],
        ..Default::default()
    }
}

fn service(policy: Option<v1::ServicePolicy>) -> Vec<u8> {
    v1::Service {
        namespace: "shop".to_owned(),
        name: "catalog".to_owned(),
        kind: v1::service::Kind::ClusterIp.into(),
        addresses: vec![Bytes::from_static(&[10, 96, 0, 10])],
        ports: vec![v1::ServicePort {
            port: 8080,
            name: "http".to_owned(),
            protocol: v1::Protocol::Http1.into(),
        }],
        policy,
        ..Default::default()
    }
    .encode_to_vec()
}

#[divan::bench]
fn service_without_policy(bencher: Bencher) {
    let bytes = service(None);
    decode::service("shop/catalog", &bytes).expect("a good resource");
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench(|| decode::service("shop/catalog", black_box(&bytes)).is_ok());
}

#[divan::bench]
fn service_with_every_policy(bencher: Bencher) {
    let bytes = service(Some(policy()));
    decode::service("shop/catalog", &bytes).expect("a good resource");
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench(|| decode::service("shop/catalog", black_box(&bytes)).is_ok());
}

#[divan::bench]
fn endpoint(bencher: Bencher) {
    let bytes = v1::Endpoint {
        namespace: "shop".to_owned(),
        service: "catalog".to_owned(),
        port: 8080,
        address: Bytes::from_static(&[10, 1, 0, 7]),
        target_port: 8080,
        pod: "catalog-1".to_owned(),
        pod_uid: "5e9c1f0a-0000-4000-8000-000000000001".to_owned(),
        node: "node-1".to_owned(),
        zone: "zone-a".to_owned(),
        ready: true,
        serving: true,
        ..Default::default()
    }
    .encode_to_vec();
    let name = "shop/catalog/8080/5e9c1f0a-0000-4000-8000-000000000001";
    decode::endpoint(name, &bytes).expect("a good resource");
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench(|| decode::endpoint(name, black_box(&bytes)).is_ok());
}

#[divan::bench]
fn workload(bencher: Bencher) {
    let bytes = v1::Workload {
        namespace: "shop".to_owned(),
        pod: "web-1".to_owned(),
        pod_uid: "5e9c1f0a-0000-4000-8000-000000000002".to_owned(),
        addresses: vec![Bytes::from_static(&[10, 1, 0, 2])],
        ports: vec![v1::InboundPort {
            port: 8080,
            protocol: v1::Protocol::Http1.into(),
            rate_limits: vec![rate_limit("callers")],
            ..Default::default()
        }],
        ..Default::default()
    }
    .encode_to_vec();
    decode::workload("shop/web-1", &bytes).expect("a good resource");
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench(|| decode::workload("shop/web-1", black_box(&bytes)).is_ok());
}

#[divan::bench]
fn a_resource_that_is_refused(bencher: Bencher) {
    let bytes = service(Some(policy()));
    bencher.bench(|| decode::service("shop/cart", black_box(&bytes)).is_err());
}
