use proptest::prelude::*;

use super::*;
use crate::policy::config::{KeyPart, PathMatch, Scope};
use crate::state::testing;

fn decode_service(service: &v1::Service) -> Result<ServiceConfig, DecodeError> {
    let name = testing::service_resource(service, "1").name;
    super::service(&name, &service.encode_to_vec())
}

fn full_policy() -> v1::ServicePolicy {
    v1::ServicePolicy {
        circuit_breaker: Some(v1::CircuitBreaker {
            limits: Some(v1::Limits {
                max_requests: Some(0),
                ..Default::default()
            }),
            per_endpoint: None,
            trip: Some(v1::Trip {
                scope: v1::trip::Scope::Service.into(),
                consecutive_failures: 3,
                failures: Some(v1::Conditions {
                    status_codes: vec![429],
                    grpc_codes: vec![14],
                    ..Default::default()
                }),
                ..testing::trip()
            }),
        }),
        rate_limits: vec![v1::RateLimit {
            name: "per-caller".to_owned(),
            policy: "shop/web".to_owned(),
            requests: 10,
            per_ms: 1000,
            burst: 1,
            r#match: Some(v1::Match {
                methods: vec!["GET".to_owned()],
                path: Some(v1::r#match::Path::PathPrefix("/x/".to_owned())),
                headers: Vec::new(),
            }),
            key: vec![v1::KeyPart {
                part: Some(v1::key_part::Part::Header("x-user".to_owned())),
            }],
            mode: v1::rate_limit::Mode::Shadow.into(),
            max_keys: 10,
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn a_service_says_what_was_sent() {
    let mut sent = testing::service("web", 7);
    sent.policy = Some(full_policy());
    sent.session_affinity_seconds = Some(10);
    let config = decode_service(&sent).unwrap();
    assert_eq!(config.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(config.port(8080).unwrap().protocol, Protocol::Http1);
    assert_eq!(config.session_affinity, Some(Duration::from_secs(10)));
    let breaker = config.policy.circuit_breaker.unwrap();
    assert_eq!(breaker.limits.max_requests, Some(0), "zero is not unset");
    assert_eq!(breaker.limits.max_connections, None);
    assert_eq!(breaker.trip.scope, Scope::Service);
    assert_eq!(breaker.trip.failures.status_codes, [429]);
    let limit = &config.policy.rate_limits[0];
    assert_eq!(
        limit.matches.path,
        Some(PathMatch::Prefix("/x/".to_owned()))
    );
    assert_eq!(limit.key, [KeyPart::Header("x-user".to_owned())]);
    assert!(limit.shadow);
}

#[test]
fn every_problem_is_reported_with_its_path() {
    let mut sent = testing::service("web", 7);
    let mut policy = full_policy();
    if let Some(trip) = policy
        .circuit_breaker
        .as_mut()
        .and_then(|part| part.trip.as_mut())
    {
        trip.consecutive_failures = 1001;
        trip.max_ejected_percent = 101;
        trip.max_ejection_ms = u64::MAX;
    }
    policy.rate_limits[0].burst = 0;
    policy.rate_limits[0].key[0].part = None;
    sent.policy = Some(policy);
    sent.ports[0].port = 70_000;
    sent.addresses.push(Bytes::from_static(&[1, 2, 3]));
    let text = decode_service(&sent).unwrap_err().to_string();
    for expected in [
        "policy.circuit_breaker.trip.consecutive_failures: is 1001, must be 0 to 1000",
        "policy.circuit_breaker.trip.max_ejected_percent: is 101, must be 0 to 100",
        "policy.circuit_breaker.trip.max_ejection_ms",
        "policy.rate_limits[0].burst",
        "policy.rate_limits[0].key",
        "ports[0].port: is 70000, must be 1 to 65535",
        "addresses: has 3 bytes, must be 4 or 16",
    ] {
        assert!(text.contains(expected), "{expected} is not in: {text}");
    }
}

#[test]
fn a_resource_under_another_name_is_refused() {
    let sent = testing::service("web", 7).encode_to_vec();
    let error = super::service("shop/cart", &sent).unwrap_err().to_string();
    assert!(error.contains("describes shop/web"), "{error}");
    let endpoint = testing::endpoint("web", "web-1", 1).encode_to_vec();
    assert!(super::endpoint("shop/web/8080/uid-web-2", &endpoint).is_err());
    assert!(super::endpoint("shop/web/8080/uid-web-1", &endpoint).is_ok());
    let workload = testing::workload().encode_to_vec();
    assert!(super::workload("shop/web-2", &workload).is_err());
    assert!(super::workload("shop/web-1", &workload).is_ok());
}

#[test]
fn hostile_names_are_refused_and_shown_escaped() {
    let mut sent = testing::service("web", 7);
    sent.namespace = format!("a\n\u{1b}[2J{}", "x".repeat(500));
    let error = super::service("shop/web", &sent.encode_to_vec()).unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains('\u{1b}'), "{text}");
    assert!(text.len() < 400, "{text}");
}

#[test]
fn a_pod_service_has_its_pod() {
    let sent = testing::pod_service("web-1", 1);
    let config = decode_service(&sent).unwrap();
    let pod = config.pod.unwrap();
    assert_eq!(pod.address, "10.1.0.1:0".parse().unwrap());
    assert_eq!(pod.weight, 1, "unset is 1");

    let mut without = sent.clone();
    without.pod = None;
    let error = super::service("pod/shop/web-1", &without.encode_to_vec());
    assert!(error.unwrap_err().to_string().contains("pod: is missing"));

    let mut with_port = sent;
    with_port.pod.as_mut().unwrap().target_port = 80;
    assert!(decode_service(&with_port).is_err());
}

#[test]
fn an_endpoint_without_uid_is_known_by_its_address() {
    let mut sent = testing::endpoint("web", "web-1", 1);
    sent.pod_uid.clear();
    let config = super::endpoint("shop/web/8080/10.1.0.1", &sent.encode_to_vec()).unwrap();
    assert_eq!(config.member(), "10.1.0.1");
}

#[test]
fn what_an_endpoints_sidecar_takes_is_read_and_later_words_are_passed_over() {
    let decoded = |names: &[&str]| {
        let mut sent = testing::endpoint("web", "web-1", 1);
        sent.mesh_protocols = names.iter().map(|name| (*name).to_owned()).collect();
        super::endpoint("shop/web/8080/uid-web-1", &sent.encode_to_vec()).map(|config| config.mesh)
    };
    assert_eq!(decoded(&[]).unwrap(), MeshProtocols::default());
    let later = decoded(&["remora-h4", "remora-h2", "remora-tcp"]).unwrap();
    assert_eq!(
        later,
        MeshProtocols {
            h2: true,
            h1: false,
            tcp: true,
        }
    );
    let both = decoded(&["remora-h1", "remora-h2"]).unwrap();
    let expected = MeshProtocols {
        h2: true,
        h1: true,
        tcp: false,
    };
    assert_eq!(both, expected);
    let many = decoded(&["remora-h2"; MAX_MESH_PROTOCOLS + 1]).unwrap_err();
    assert!(many.to_string().contains("mesh_protocols"), "{many}");

    let mut direct = testing::pod_service("web-1", 1);
    direct.pod.as_mut().unwrap().mesh_protocols = vec!["remora-h1".to_owned()];
    let pod = decode_service(&direct).unwrap().pod.unwrap();
    assert_eq!(
        pod.mesh,
        MeshProtocols {
            h2: false,
            h1: true,
            tcp: false,
        }
    );
}

#[test]
fn the_list_of_problems_is_bounded() {
    let mut sent = testing::service("web", 7);
    sent.addresses = vec![Bytes::new(); 10_000];
    let error = decode_service(&sent).unwrap_err();
    assert_eq!(error.problems.len(), problems::MAX_PROBLEMS);
    assert!(error.omitted > 0 && error.omitted < 100);
}

#[test]
fn workload_ports_are_unique() {
    let mut sent = testing::workload();
    let port = v1::InboundPort {
        port: 8080,
        ..Default::default()
    };
    sent.ports = vec![port.clone(), port];
    let error = super::workload("shop/web-1", &sent.encode_to_vec());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("8080 is there twice")
    );
}

#[test]
fn reports_go_to_an_address_or_to_where_the_stream_is() {
    let mut sent = testing::workload();
    let mut decode = |address: &str| {
        sent.reports_address = address.to_owned();
        super::workload("shop/web-1", &sent.encode_to_vec())
    };
    assert_eq!(decode("").unwrap().reports_address, None);
    for good in ["10.0.0.7:15110", "[fd00::7]:15110"] {
        let config = decode(good).unwrap();
        assert_eq!(config.reports_address.unwrap().to_string(), good);
    }
    for bad in [
        "remora:15110",
        "10.0.0.7",
        "10.0.0.7:0",
        "0.0.0.0:15110",
        "[::]:15110",
        "224.0.0.1:15110",
        "http://10.0.0.7:15110",
        " ",
    ] {
        let error = decode(bad).unwrap_err().to_string();
        assert!(error.contains("reports_address: is"), "{bad}: {error}");
    }
}

/// Every text that the bounds allow to be written, and some that they do not.
fn texts() -> impl Strategy<Value = [String; 4]> {
    let long = remora_proto::bounds::MAX_TEXT;
    [
        proptest::string::string_regex("[ -~ü\n]{1,64}").unwrap(),
        proptest::string::string_regex(&format!("/[!-~]{{0,{long}}}|/[ü\n]")).unwrap(),
        proptest::string::string_regex(&format!("[\t -~]{{0,{long}}}|[ü\n]")).unwrap(),
        proptest::string::string_regex("[!#$%&'*+.^_`|~0-9a-z-]{1,128}|[ü\n]").unwrap(),
    ]
}

proptest! {
    /// What a control plane may publish is taken: the forms that it holds
    /// policies to allow nothing that is refused here.
    #[test]
    fn what_the_bounds_allow_is_taken([name, path, value, header] in texts()) {
        use remora_proto::bounds;
        let mut sent = testing::service("web", 7);
        let mut policy = full_policy();
        let limit = &mut policy.rate_limits[0];
        limit.name.clone_from(&name);
        limit.r#match = Some(v1::Match {
            methods: vec![path.clone()],
            path: Some(v1::r#match::Path::PathExact(path.clone())),
            headers: vec![v1::HeaderMatch { name: header.clone(), exact: value.clone() }],
        });
        sent.policy = Some(policy);
        let allowed = bounds::is_rate_limit_name(&name)
            && bounds::is_path(&path)
            && bounds::is_method(&path)
            && bounds::is_header_value(&value)
            && bounds::is_header_name(&header);
        let taken = decode_service(&sent);
        prop_assert!(!allowed || taken.is_ok(), "{:?}", taken);
    }

    #[test]
    fn no_bytes_make_it_panic(name in ".{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = super::service(&name, &bytes);
        let _ = super::endpoint(&name, &bytes);
        let _ = super::workload(&name, &bytes);
    }

    #[test]
    fn a_damaged_resource_never_makes_it_panic(at in 0_usize..400, to in any::<u8>()) {
        let mut sent = testing::service("web", 7);
        sent.policy = Some(full_policy());
        let mut bytes = sent.encode_to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = super::service("shop/web", &bytes);
    }
}

fn with_rule(change: impl FnOnce(&mut v1::RouteRule)) -> v1::Service {
    let mut rule = v1::RouteRule {
        route: Some(v1::RouteReference {
            kind: "HTTPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: "canary".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    change(&mut rule);
    let mut service = testing::service("web", 7);
    service.routes = vec![v1::PortRoutes {
        ports: vec![8080],
        grpc: false,
        rules: vec![rule],
    }];
    service
}

fn filter(filter: v1::route_filter::Filter) -> v1::RouteFilter {
    v1::RouteFilter {
        filter: Some(filter),
    }
}

#[test]
fn everything_that_is_wrong_with_routes_is_told_at_once() {
    use v1::route_filter::Filter;
    use v1::route_match::Path;
    let sent = with_rule(|rule| {
        rule.matches = vec![
            v1::RouteMatch {
                path: Some(Path::PathPattern("(".to_owned())),
                method: "G ET".to_owned(),
                ..Default::default()
            },
            v1::RouteMatch {
                path: Some(Path::PathExact("a".to_owned())),
                headers: vec![v1::ValueMatch {
                    name: "X-Upper".to_owned(),
                    value: None,
                }],
                ..Default::default()
            },
        ];
        rule.filters = vec![
            filter(Filter::RequestHeaders(v1::HeaderChanges {
                remove: vec!["x-remora-reason".to_owned(), "content-length".to_owned()],
                ..Default::default()
            })),
            filter(Filter::Rewrite(v1::Rewrite {
                hostname: "a b".to_owned(),
                path: Some(v1::PathChange {
                    change: Some(v1::path_change::Change::Prefix("/x".to_owned())),
                }),
            })),
            filter(Filter::Mirror(v1::Mirror {
                backend: None,
                denominator: 0,
                numerator: 1,
            })),
        ];
        rule.backends = vec![v1::RouteBackend {
            backend: None,
            weight: 1_000_001,
            filters: Vec::new(),
        }];
    });
    let error = decode_service(&sent).unwrap_err().to_string();
    for part in [
        "matches[0].path_pattern",
        "matches[0].method",
        "matches[1].path_exact",
        "matches[1].headers.name",
        "filters[0].remove: \"x-remora-reason\"",
        "\"content-length\"",
        "filters[1].hostname",
        "filters[1].path.prefix",
        "filters[2].denominator",
        "filters[2].backend",
        "backends[0].backend",
        "backends[0].weight",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    let mut twice = with_rule(|_| ());
    twice.routes.push(twice.routes[0].clone());
    let error = decode_service(&twice).unwrap_err().to_string();
    assert!(error.contains("8080 is there twice"), "{error}");
}

#[test]
fn what_a_later_version_says_of_a_route_is_answered_and_not_passed_over() {
    let sent = with_rule(|rule| {
        rule.filters = vec![v1::RouteFilter::default()];
        rule.backends = vec![v1::RouteBackend {
            backend: Some(v1::BackendReference {
                namespace: "shop".to_owned(),
                service: "v1".to_owned(),
                port: 80,
                cannot: String::new(),
            }),
            weight: 1,
            filters: vec![v1::RouteFilter::default()],
        }];
    });
    let config = decode_service(&sent).unwrap();
    let rule = &config.routes[0].rules[0];
    assert!(rule.cannot.is_some() && rule.backends[0].to.cannot.is_some());
    // A condition that is not known matches nothing.
    let sent = with_rule(|rule| {
        rule.matches = vec![v1::RouteMatch {
            headers: vec![v1::ValueMatch {
                name: "x-a".to_owned(),
                value: None,
            }],
            ..Default::default()
        }];
    });
    let config = decode_service(&sent).unwrap();
    let mut headers = http::HeaderMap::new();
    headers.insert("x-a", http::HeaderValue::from_static(""));
    let view = crate::routes::request::View {
        method: "GET",
        path: "/",
        query: None,
        authority: None,
        headers: &headers,
    };
    assert_eq!(config.routes[0].find(&view), None);
}

#[test]
fn routes_are_bounded() {
    let rules = |count: usize, matches: usize| {
        let mut sent = with_rule(|rule| rule.matches = vec![v1::RouteMatch::default(); matches]);
        let rule = sent.routes[0].rules[0].clone();
        sent.routes[0].rules = vec![rule; count];
        decode_service(&sent)
    };
    assert!(rules(bounds::MAX_ROUTE_RULES, 1).is_ok());
    assert!(rules(bounds::MAX_ROUTE_RULES + 1, 1).is_err());
    let error = rules(2, bounds::MAX_ROUTE_MATCHES / 2 + 1).unwrap_err();
    assert!(error.to_string().contains("matches, at most"), "{error}");
    let large = with_rule(|rule| rule.cannot = "x".repeat(bounds::MAX_ROUTES_BYTES));
    let error = decode_service(&large).unwrap_err();
    assert!(error.to_string().contains("bytes, at most"), "{error}");
    // Each pattern may be, and all together need too much.
    let pattern = |at| format!("/{at}/[a-z]{{1,99}}(-[a-z]{{1,99}}){{0,3}}");
    let size = remora_proto::pattern::Pattern::parse(&pattern(100))
        .unwrap()
        .size();
    let enough = bounds::MAX_ROUTE_PATTERN_BYTES / size + 1;
    let patterns = with_rule(|rule| {
        let matches = (100..100 + enough).map(|at| v1::RouteMatch {
            path: Some(v1::route_match::Path::PathPattern(pattern(at))),
            ..Default::default()
        });
        rule.matches = matches.collect();
    });
    let error = decode_service(&patterns).unwrap_err();
    assert!(
        error.to_string().contains("all patterns together"),
        "{error}"
    );
    let mut headless = with_rule(|_| ());
    headless.kind = v1::service::Kind::Headless.into();
    assert!(decode_service(&headless).is_err());
}
