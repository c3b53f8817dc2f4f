//! Finding the rule of a request among a thousand routes on one Service, with what
//! that allocates; and reading such routes from bytes.

#![allow(clippy::expect_used)] // a benchmark that cannot be set up must say so and end

use divan::{AllocProfiler, Bencher, black_box};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use remora_proto::v1::route_match::Path;
use remora_proto::v1::{self, RouteMatch, ValueMatch, value_match};
use remora_proxy::routes::request::View;
use remora_proxy::state::{ServiceConfig, decode};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const ROUTES: usize = 1_000;

fn main() {
    divan::main();
}

/// How the thousand differ.
const KINDS: [&str; 6] = ["exact", "prefix", "pattern", "header", "query", "mixed"];

fn one_match(kind: &str, at: usize) -> RouteMatch {
    let path = |path| RouteMatch {
        path: Some(path),
        ..RouteMatch::default()
    };
    let value = |name: &str| ValueMatch {
        name: name.to_owned(),
        value: Some(value_match::Value::Exact(format!("value-{at}"))),
    };
    match kind {
        "exact" => path(Path::PathExact(format!("/api/v1/service-{at}/items"))),
        "prefix" => path(Path::PathPrefix(format!("/api/v1/service-{at}"))),
        "pattern" => path(Path::PathPattern(format!("/api/v1/service-{at}/[a-z]+"))),
        "header" => RouteMatch {
            headers: vec![value("x-tenant")],
            ..path(Path::PathPrefix("/api".to_owned()))
        },
        "query" => RouteMatch {
            query: vec![value("tenant")],
            ..path(Path::PathPrefix("/api".to_owned()))
        },
        _ => one_match(KINDS[at % 5], at),
    }
}

fn service(kind: &str) -> Vec<u8> {
    let rules = (0..ROUTES).map(|at| v1::RouteRule {
        route: Some(v1::RouteReference {
            kind: "HTTPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: format!("route-{at}"),
            ..Default::default()
        }),
        matches: vec![one_match(kind, at)],
        ..Default::default()
    });
    let service = v1::Service {
        namespace: "shop".to_owned(),
        name: "catalog".to_owned(),
        routes: vec![v1::PortRoutes {
            ports: vec![80],
            grpc: false,
            rules: rules.collect(),
        }],
        ..Default::default()
    };
    service.encode_to_vec()
}

fn decoded(bytes: &[u8]) -> ServiceConfig {
    decode::service("shop/catalog", bytes).expect("good routes")
}

/// One request for each of the routes, in turn.
#[divan::bench(args = KINDS, sample_size = 1_000)]
fn find_among_1000(bencher: Bencher, kind: &str) {
    let config = decoded(&service(kind));
    let routes = &config.routes[0];
    let requests: Vec<(String, String, HeaderMap)> = (0..ROUTES)
        .map(|at| {
            let mut headers = HeaderMap::new();
            for name in ["host", "accept", "user-agent", "x-request-id", "cookie"] {
                headers.insert(name, HeaderValue::from_static("something"));
            }
            let value = format!("value-{at}").parse().expect("a value");
            headers.insert("x-tenant", value);
            let path = format!("/api/v1/service-{at}/items");
            (path, format!("a=b&tenant=value-{at}"), headers)
        })
        .collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % ROUTES;
        let (path, query, headers) = &requests[at];
        let view = View {
            method: "GET",
            path,
            query: Some(query),
            authority: None,
            headers,
        };
        let found = routes.find(black_box(&view));
        assert!(found.is_some());
        found
    });
}

/// One that none of them takes.
#[divan::bench(args = KINDS)]
fn miss_among_1000(bencher: Bencher, kind: &str) {
    let config = decoded(&service(kind));
    let headers = HeaderMap::new();
    let view = View {
        method: "GET",
        path: "/api/v2/nothing/here",
        query: Some("a=b"),
        authority: None,
        headers: &headers,
    };
    bencher.bench_local(|| {
        let found = config.routes[0].find(black_box(&view));
        assert!(found.is_none());
        found
    });
}

#[divan::bench(args = KINDS, sample_count = 10)]
fn read_1000(bencher: Bencher, kind: &str) {
    let bytes = service(kind);
    bencher.bench_local(|| decoded(black_box(&bytes)).routes.len());
}
