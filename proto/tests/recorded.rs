//! An exchange as the version before `Workload.reports_address` put it on the
//! wire, byte by byte: it reads today as it was meant then, so a sidecar and a
//! control plane of neighbouring versions understand each other. The recording
//! is never made anew; a later version adds one of its own.

#![allow(clippy::unwrap_used)] // a test may fail by it

use prost::Message;
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource};
use remora_proto::{v1, well_known};

const RECORDED: &str = include_str!("recorded/0.1.0.txt");
/// A field that this version does not know: number 2000, the bytes `new`.
const UNKNOWN: &[u8] = &[0x82, 0x7d, 3, b'n', b'e', b'w'];

/// The bytes of a name's line, in hexadecimal digits.
fn recorded(name: &str) -> Vec<u8> {
    let mut lines = RECORDED.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let digits = line.unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn reads<T: Message + Default + PartialEq + std::fmt::Debug>(name: &str, meant: &T) {
    let mut bytes = recorded(name);
    assert_eq!(T::decode(&*bytes).as_ref(), Ok(meant), "{name}");
    // What a newer version adds is passed over.
    bytes.extend_from_slice(UNKNOWN);
    assert_eq!(T::decode(&*bytes).as_ref(), Ok(meant), "{name}, newer");
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn policies() -> Vec<v1::PolicyReference> {
    vec![v1::PolicyReference {
        namespace: "shop".into(),
        name: "catalog".into(),
        generation: 7,
    }]
}

fn limits(first: u32) -> v1::Limits {
    v1::Limits {
        max_connections: Some(first),
        max_pending_requests: Some(first + 1),
        max_requests: Some(0),
        max_retries: Some(first + 3),
    }
}

fn conditions() -> v1::Conditions {
    v1::Conditions {
        status_codes: vec![429],
        grpc_codes: vec![14],
        ..v1::Conditions::default()
    }
}

fn rate_limit() -> v1::RateLimit {
    v1::RateLimit {
        name: "per-caller".into(),
        policy: "shop/catalog".into(),
        requests: 100,
        per_ms: 1_000,
        burst: 10,
        r#match: Some(v1::Match {
            methods: texts(&["GET"]),
            path: Some(v1::r#match::Path::PathPrefix("/x/".into())),
            headers: Vec::new(),
        }),
        key: vec![v1::KeyPart {
            part: Some(v1::key_part::Part::Header("x-user".into())),
        }],
        mode: v1::rate_limit::Mode::Shadow.into(),
        max_keys: 10_000,
    }
}

fn policy() -> v1::ServicePolicy {
    v1::ServicePolicy {
        circuit_breaker: Some(v1::CircuitBreaker {
            limits: Some(limits(100)),
            per_endpoint: Some(limits(10)),
            trip: Some(v1::Trip {
                scope: v1::trip::Scope::Service.into(),
                consecutive_failures: 5,
                failures: Some(conditions()),
                base_ejection_ms: 10_000,
                max_ejection_ms: 300_000,
                honor_retry_after: true,
                probes: 1,
                successes: 2,
                max_ejected_percent: 50,
                min_endpoints: 1,
            }),
        }),
        outbound: Some(v1::Outbound {
            connect_timeout_ms: 2_000,
            idle_timeout_ms: 60_000,
            max_requests_per_connection: Some(1_000),
            max_connection_age_ms: Some(600_000),
        }),
        retries: Some(v1::Retries {
            attempts: 2,
            on: Some(conditions()),
            backoff_base_ms: 25,
            backoff_max_ms: 250,
            max_retry_after_ms: 10_000,
            idempotency_header: "idempotency-key".into(),
            methods: texts(&["POST"]),
            budget: Some(v1::RetryBudget {
                percent: 20,
                min_per_second: 10,
                window_ms: 10_000,
            }),
            buffer_bytes: 65_536,
        }),
        timeouts: Some(v1::Timeouts {
            request_ms: Some(5_000),
            per_try_ms: Some(1_000),
            idle_ms: Some(300_000),
            response_headers_ms: Some(1_000),
        }),
        rate_limits: vec![rate_limit()],
    }
}

fn service() -> v1::Service {
    v1::Service {
        namespace: "shop".into(),
        name: "catalog".into(),
        kind: v1::service::Kind::ClusterIp.into(),
        addresses: vec![vec![10, 96, 0, 1].into()],
        ports: vec![v1::ServicePort {
            port: 8080,
            name: "http".into(),
            protocol: v1::Protocol::Http1.into(),
        }],
        policy: Some(policy()),
        policies: policies(),
        session_affinity_seconds: Some(60),
        internal_traffic_local: true,
        pod: None,
    }
}

fn endpoint() -> v1::Endpoint {
    v1::Endpoint {
        namespace: "shop".into(),
        service: "catalog".into(),
        port: 8080,
        address: vec![10, 1, 0, 1].into(),
        target_port: 80,
        pod: "catalog-1".into(),
        pod_uid: "u1".into(),
        node: "n1".into(),
        zone: "z1".into(),
        weight: 1,
        ready: true,
        draining: true,
        serving: true,
        hint_zones: texts(&["z1", "z2"]),
        sidecar: true,
        mesh_protocols: texts(&["remora-h2", "remora-h1"]),
    }
}

fn workload() -> v1::Workload {
    v1::Workload {
        namespace: "shop".into(),
        pod: "catalog-1".into(),
        pod_uid: "u1".into(),
        service_account: "default".into(),
        node: "n1".into(),
        zone: "z1".into(),
        addresses: vec![vec![10, 1, 0, 1].into()],
        draining: true,
        ports: vec![v1::InboundPort {
            port: 80,
            protocol: v1::Protocol::Grpc.into(),
            rate_limits: vec![rate_limit()],
        }],
        policies: policies(),
        rate_limits: vec![rate_limit()],
        // Not said then: reports go to where the stream is.
        reports_address: String::new(),
    }
}

fn report() -> v1::SidecarReport {
    let [type_url, name, version] =
        [well_known::SERVICE_TYPE, "shop/catalog", "a1"].map(Into::into);
    let applied = v1::AppliedResource {
        type_url,
        name,
        version,
    };
    v1::SidecarReport {
        sequence: 9,
        sidecar: Some(v1::SidecarIdentity {
            namespace: "shop".into(),
            pod: "web-1".into(),
            pod_uid: "u2".into(),
            version: "0.1.0".into(),
        }),
        applied: vec![applied.clone()],
        dropped: vec![applied],
        refused: vec![v1::RefusedResource {
            type_url: well_known::WORKLOAD_TYPE.into(),
            name: "shop/web-1".into(),
            version: "b2".into(),
            reason: "ports: too many".into(),
        }],
        breaker_changes: vec![v1::BreakerChange {
            service: "shop/catalog".into(),
            endpoint: "catalog-1".into(),
            from: v1::breaker_change::State::HalfOpen.into(),
            to: v1::breaker_change::State::Open.into(),
            at_ms: 1_700_000_000_000,
            cause: "5 consecutive failures".into(),
        }],
        usage: vec![v1::ServiceUsage {
            service: "shop/catalog".into(),
            requests: 5,
            failures: 4,
            retries: 3,
            rate_limited: 2,
        }],
    }
}

fn request() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: well_known::node_id("shop", "web-1", "u2"),
            user_agent_version: "0.1.0".into(),
            ..Node::default()
        }),
        type_url: well_known::SERVICE_TYPE.into(),
        resource_names_subscribe: texts(&["address/10.96.0.1"]),
        resource_names_unsubscribe: texts(&["shop/cart"]),
        initial_resource_versions: [("shop/catalog".to_owned(), "a1".to_owned())].into(),
        response_nonce: "3".into(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn response() -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: well_known::SERVICE_TYPE.into(),
        nonce: "4".into(),
        removed_resources: texts(&["shop/cart"]),
        resources: vec![Resource {
            name: "shop/catalog".into(),
            version: "a1".into(),
            aliases: texts(&["address/10.96.0.1"]),
            ..Resource::default()
        }],
        ..DeltaDiscoveryResponse::default()
    }
}

#[test]
fn an_older_exchange_reads_as_it_was_meant() {
    reads("service", &service());
    reads("endpoint", &endpoint());
    reads("workload", &workload());
    reads("report", &report());
    reads("request", &request());
    reads("response", &response());
}
