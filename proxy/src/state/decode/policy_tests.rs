//! What the sections of a policy say, decoded: every field there, and every one wrong.

use prost::Message;

use super::*;
use crate::answer::Reason;
use crate::policy::config::balancing::{Algorithm, HashPart};
use crate::policy::config::health::Probe;
use crate::policy::config::trouble::{AbortKind, FallbackAction};
use crate::policy::config::{HedgeAfter, ServicePolicy};
use crate::routes::config::SessionCarrier;
use crate::state::testing;

fn decode(policy: v1::ServicePolicy) -> Result<ServicePolicy, String> {
    let mut sent = testing::service("web", 7);
    sent.policy = Some(policy);
    super::service("shop/web", &sent.encode_to_vec())
        .map(|config| config.policy)
        .map_err(|error| error.to_string())
}

fn rates() -> v1::ServicePolicy {
    v1::ServicePolicy {
        circuit_breaker: Some(v1::CircuitBreaker {
            trip: Some(v1::Trip {
                consecutive_failures: 0,
                failure_rate: Some(v1::FailureRate {
                    threshold_percent: 50,
                    window_ms: 10_000,
                    min_requests: 20,
                }),
                slow_call_rate: Some(v1::SlowCallRate {
                    duration_ms: 1000,
                    threshold_percent: 60,
                    window_ms: 5000,
                    min_requests: 7,
                }),
                ..testing::trip()
            }),
            ..Default::default()
        }),
        retries: Some(v1::Retries {
            hedge: Some(v1::Hedge {
                after: Some(v1::hedge::After::AfterPercentile(95)),
                max: 2,
            }),
            budget: Some(v1::RetryBudget {
                percent: 20,
                min_per_second: 10,
                window_ms: 10_000,
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn balancing() -> v1::LoadBalancing {
    let part = |part| v1::HashPart { part: Some(part) };
    v1::LoadBalancing {
        algorithm: v1::load_balancing::Algorithm::ConsistentHash.into(),
        hash_on: vec![
            part(v1::hash_part::Part::Header("x-user".to_owned())),
            part(v1::hash_part::Part::Cookie("session".to_owned())),
            part(v1::hash_part::Part::SourceAddress(true)),
            part(v1::hash_part::Part::Path(true)),
            part(v1::hash_part::Part::Query("id".to_owned())),
        ],
        hash_load_bound_percent: 125,
        persistence: Some(v1::Persistence {
            kind: Some(v1::persistence::Kind::Cookie(v1::PersistenceCookie {
                name: "s".to_owned(),
                path: "/".to_owned(),
                permanent: true,
            })),
            strict: true,
            absolute_timeout_ms: 60_000,
        }),
        pinning: true,
        slow_start_ms: 30_000,
        ignore_zones: true,
        wait_for_endpoints_ms: 500,
    }
}

fn fallback() -> v1::Fallback {
    v1::Fallback {
        when: ["breaker_open", "timeout", "denied", "of_a_later_version"]
            .map(str::to_owned)
            .to_vec(),
        action: Some(v1::fallback::Action::Response(v1::FallbackResponse {
            status: 200,
            headers: vec![v1::FieldValue {
                name: "content-type".to_owned(),
                value: "application/json".to_owned(),
            }],
            body: Bytes::from_static(b"[]"),
            grpc_status: 14,
            grpc_message: "later".to_owned(),
        })),
    }
}

fn fault(kind: v1::fault_abort::Kind) -> v1::Fault {
    v1::Fault {
        delay: Some(v1::FaultDelay {
            duration_ms: 100,
            parts_per_million: 100_000,
        }),
        abort: Some(v1::FaultAbort {
            kind: Some(kind),
            parts_per_million: 1000,
        }),
        r#match: Some(v1::Match {
            methods: vec!["GET".to_owned()],
            ..Default::default()
        }),
    }
}

fn health() -> v1::HealthCheck {
    v1::HealthCheck {
        kind: Some(v1::health_check::Kind::Http(v1::HttpCheck {
            path: "/healthz?full=1".to_owned(),
            expected_statuses: vec![v1::StatusRange {
                first: 200,
                last: 204,
            }],
            expected_body: "ok".to_owned(),
        })),
        interval_ms: 10_000,
        timeout_ms: 1000,
        window: 4,
        unhealthy_threshold: 3,
        healthy_threshold: 1,
    }
}

#[test]
fn rates_and_hedges_say_what_was_sent() {
    let policy = decode(rates()).unwrap();
    let trip = policy.circuit_breaker.unwrap().trip;
    assert_eq!(
        trip.consecutive_failures, 0,
        "failures in a row alone never"
    );
    let failures = trip.failure_rate.unwrap();
    assert_eq!(failures.threshold_percent, 50);
    assert_eq!(failures.window, Duration::from_secs(10));
    assert_eq!(failures.min_requests, 20);
    let slow = trip.slow_calls.unwrap();
    assert_eq!(slow.duration, Duration::from_secs(1));
    assert_eq!(slow.rate.min_requests, 7);
    let hedge = policy.retries.unwrap().hedge.unwrap();
    assert_eq!(hedge.after, HedgeAfter::Percentile(95));
    assert_eq!(hedge.max, 2);
}

#[test]
fn balancing_and_trouble_say_what_was_sent() {
    let policy = decode(v1::ServicePolicy {
        load_balancing: Some(balancing()),
        fallback: Some(fallback()),
        fault: Some(fault(v1::fault_abort::Kind::Reset(true))),
        health_check: Some(health()),
        ..Default::default()
    })
    .unwrap();
    let Algorithm::ConsistentHash(hash) = policy.load_balancing.algorithm else {
        panic!("another algorithm");
    };
    assert_eq!(hash.load_bound_percent, 125);
    assert_eq!(hash.on[0], HashPart::Header("x-user".to_owned()));
    assert_eq!(hash.on[4], HashPart::Query("id".to_owned()));
    let persistence = policy.load_balancing.persistence.unwrap();
    assert!(persistence.strict);
    let is_cookie = matches!(persistence.session.carrier, SessionCarrier::Cookie { .. });
    assert!(is_cookie);
    assert!(policy.load_balancing.pinning && policy.load_balancing.ignore_zones);
    assert_eq!(policy.load_balancing.slow_start, Duration::from_secs(30));
    let wait = policy.load_balancing.wait_for_endpoints;
    assert_eq!(wait, Duration::from_millis(500));

    let fallback = policy.fallback.unwrap();
    assert_eq!(
        fallback.when,
        [Reason::BreakerOpen, Reason::Timeout],
        "a word that is none of the six is passed over"
    );
    let FallbackAction::Response(response) = &fallback.action else {
        panic!("another action");
    };
    assert_eq!(
        (response.status.as_u16(), &response.body[..]),
        (200, &b"[]"[..])
    );
    let fault = policy.fault.unwrap();
    assert_eq!(fault.delay.unwrap().parts_per_million, 100_000);
    assert_eq!(fault.abort.unwrap().kind, AbortKind::Reset);
    assert_eq!(fault.matches.methods, ["GET"]);
    let health = policy.health_check.unwrap();
    let Probe::Http(http) = health.probe else {
        panic!("another probe");
    };
    assert_eq!(http.path, "/healthz?full=1");
    assert_eq!(http.expected_statuses, [200..=204]);
}

#[test]
fn what_a_later_version_says_is_passed_over_where_it_may_be() {
    let mut hedge = rates();
    hedge.retries.as_mut().unwrap().hedge = Some(v1::Hedge {
        after: None,
        max: 1,
    });
    assert_eq!(decode(hedge).unwrap().retries.unwrap().hedge, None);
    let policy = decode(v1::ServicePolicy {
        fallback: Some(v1::Fallback::default()),
        fault: Some(v1::Fault {
            abort: Some(v1::FaultAbort::default()),
            ..Default::default()
        }),
        health_check: Some(v1::HealthCheck::default()),
        load_balancing: Some(v1::LoadBalancing {
            persistence: Some(v1::Persistence::default()),
            ..Default::default()
        }),
        ..Default::default()
    })
    .unwrap();
    assert_eq!(policy.fallback, None);
    assert_eq!(policy.fault.unwrap().abort, None);
    assert_eq!(policy.health_check, None);
    assert_eq!(policy.load_balancing, Default::default());
}

#[test]
fn every_problem_of_rates_and_balancing_is_told_by_its_field() {
    let mut policy = rates();
    let trip = policy.circuit_breaker.as_mut().unwrap();
    let trip = trip.trip.as_mut().unwrap();
    trip.failure_rate = Some(v1::FailureRate {
        threshold_percent: 0,
        window_ms: 999,
        min_requests: 0,
    });
    trip.slow_call_rate = Some(v1::SlowCallRate {
        duration_ms: 0,
        threshold_percent: 101,
        window_ms: 3_600_001,
        min_requests: 100_001,
    });
    policy.retries.as_mut().unwrap().hedge = Some(v1::Hedge {
        after: Some(v1::hedge::After::AfterPercentile(100)),
        max: 6,
    });
    let mut balancing = balancing();
    balancing.hash_on[0].part = None;
    balancing.hash_load_bound_percent = 99;
    balancing.wait_for_endpoints_ms = 60_001;
    balancing.persistence.as_mut().unwrap().kind =
        Some(v1::persistence::Kind::Header("content-length".to_owned()));
    policy.load_balancing = Some(balancing);
    let error = decode(policy).unwrap_err();
    for field in [
        "trip.failure_rate.threshold_percent: is 0",
        "trip.failure_rate.window_ms: is 999",
        "trip.failure_rate.min_requests: is 0",
        "trip.slow_call_rate.duration_ms: is 0",
        "trip.slow_call_rate.threshold_percent: is 101",
        "trip.slow_call_rate.window_ms: is 3600001",
        "trip.slow_call_rate.min_requests: is 100001",
        "retries.hedge.after_percentile: is 100",
        "retries.hedge.max: is 6",
        "load_balancing.hash_on[0]: is not known",
        "load_balancing.hash_load_bound_percent: is 99",
        "load_balancing.wait_for_endpoints_ms: is 60001",
        "load_balancing.persistence.header",
    ] {
        assert!(error.contains(field), "{field} is not in: {error}");
    }
    for balancing in [
        v1::LoadBalancing {
            algorithm: 99,
            ..Default::default()
        },
        v1::LoadBalancing {
            algorithm: v1::load_balancing::Algorithm::ConsistentHash.into(),
            hash_load_bound_percent: 125,
            ..Default::default()
        },
    ] {
        let policy = v1::ServicePolicy {
            load_balancing: Some(balancing),
            ..Default::default()
        };
        assert!(decode(policy).is_err());
    }
}

#[test]
fn every_problem_of_trouble_and_probes_is_told_by_its_field() {
    let mut fallback = fallback();
    if let Some(v1::fallback::Action::Response(response)) = &mut fallback.action {
        response.status = 199;
        response.headers[0].name = "transfer-encoding".to_owned();
        response.headers.push(v1::FieldValue {
            name: "x-a".to_owned(),
            value: "a\nb".to_owned(),
        });
        response.body = Bytes::from(vec![b'x'; bounds::MAX_FALLBACK_BODY + 1]);
        response.grpc_status = 17;
    }
    let mut fault = fault(v1::fault_abort::Kind::HttpStatus(600));
    fault.delay.as_mut().unwrap().duration_ms = bounds::MAX_FAULT_DELAY_MS + 1;
    fault.abort.as_mut().unwrap().parts_per_million = 1_000_001;
    let mut health = health();
    health.timeout_ms = 10_001;
    health.window = 2;
    health.healthy_threshold = 0;
    if let Some(v1::health_check::Kind::Http(http)) = &mut health.kind {
        http.path = "a b".to_owned();
        http.expected_statuses[0].first = 299;
    }
    let error = decode(v1::ServicePolicy {
        fallback: Some(fallback),
        fault: Some(fault),
        health_check: Some(health),
        ..Default::default()
    })
    .unwrap_err();
    for field in [
        "fallback.response.status: is 199",
        "fallback.response.headers.name",
        "fallback.response.headers.value",
        "fallback.response.body: has 16385 bytes",
        "fallback.response.grpc_status: is 17",
        "fault.delay.duration_ms",
        "fault.abort.http_status: is 600",
        "fault.abort.parts_per_million: is 1000001",
        "health_check.timeout_ms: is longer than interval_ms",
        "health_check.unhealthy_threshold: is more than window",
        "health_check.healthy_threshold: is 0",
        "health_check.http.path",
        "health_check.http.expected_statuses: ends before it begins",
    ] {
        assert!(error.contains(field), "{field} is not in: {error}");
    }
}

#[test]
fn a_rule_has_a_fallback_and_a_fault_of_its_own() {
    let mut sent = testing::service("web", 7);
    sent.routes = vec![v1::PortRoutes {
        ports: vec![8080],
        grpc: false,
        rules: vec![v1::RouteRule {
            route: Some(v1::RouteReference {
                kind: "HTTPRoute".to_owned(),
                namespace: "shop".to_owned(),
                name: "canary".to_owned(),
                ..Default::default()
            }),
            fallback: Some(v1::Fallback {
                when: vec!["no_endpoints".to_owned()],
                action: Some(v1::fallback::Action::Backend(v1::FallbackBackend {
                    namespace: "shop".to_owned(),
                    service: "static".to_owned(),
                    port: 80,
                    cannot: String::new(),
                })),
            }),
            fault: Some(fault(v1::fault_abort::Kind::GrpcStatus(14))),
            ..Default::default()
        }],
    }];
    let config = super::service("shop/web", &sent.encode_to_vec()).unwrap();
    let rule = &config.routes[0].rules[0];
    let FallbackAction::Backend(backend) = &rule.fallback.as_ref().unwrap().action else {
        panic!("another action");
    };
    assert_eq!((&*backend.service, backend.port), ("shop/static", 80));
    let abort = rule.fault.as_ref().unwrap().abort.unwrap();
    assert_eq!(abort.kind, AbortKind::Grpc(14));
}
