//! Leaves of Services.

use super::super::service_policy;
use super::*;
use crate::core::objects::{Id, Target};
use crate::core::scope::Scope;
use crate::policy::parse;

const COMPLETE: &str = "
circuitBreaker:
  maxConnections: 1
  maxPendingRequests: 2
  maxRequests: 3
  maxRetries: 4
  perEndpoint: {maxConnections: 5, maxPendingRequests: 6, maxRequests: 7, maxRetries: 8}
  scope: Service
  consecutiveFailures: 9
  failureRate: {threshold: 10%, window: 20s, minRequests: 5}
  slowCallRate: {duration: 2s, threshold: 30%, window: 40s, minRequests: 6}
  failures: [5xx, reset, 429, UNAVAILABLE]
  baseEjection: 3s
  maxEjection: 1m
  honorRetryAfter: false
  probes: 2
  successes: 3
  maxEjectedPercent: 40
  minEndpoints: 2
outbound: {connectTimeout: 1s, idleTimeout: 30s, maxRequestsPerConnection: 50, maxConnectionAge: 5m}
retries:
  attempts: 3
  on: [gateway-error, connect-failure]
  backoff: {base: 10ms, max: 100ms}
  maxRetryAfter: 1s
  idempotencyHeader: idempotency-key
  methods: [POST]
  budget: {percent: 10, minPerSecond: 5, window: 20s}
  bufferBytes: 1024
  hedge: {after: p90, max: 2}
timeouts: {request: 5s, perTry: 1s, idle: 5m, responseHeaders: 2s}
rateLimits:
- name: one
  limit: {requests: 100, per: second, burst: 10}
  match: {methods: [GET], path: {prefix: /a/}, headers: [{name: x-a, value: b}]}
  key: [remoteAddress, path, method, 'header:x-user']
  scope: Mesh
  enforcedAt: Caller
  mode: Shadow
  maxKeys: 5
admission:
  maxRequests: 11
  adaptive: {minRequests: 2, maxRequests: 12, tolerancePercent: 150}
  priorities:
    header: x-priority
    trusted: [{namespace: shop, identity: spiffe://a/ns/shop/sa/web}]
    rules: [{priority: critical, match: {methods: [GET]}}]
loadBalancing:
  algorithm: ConsistentHash
  consistentHash: {on: ['header:x-user', path], loadBoundPercent: 130}
  sessionPersistence: {type: Cookie, sessionName: s, strict: true, absoluteTimeout: 1h, cookieLifetimeType: Permanent}
  pinning: true
  slowStart: {window: 11s}
  zones: Ignore
  waitForEndpoints: 2s
healthCheck:
  http: {path: /healthz, expectedStatuses: [200-299, 304], expectedBody: ok}
  interval: 5s
  timeout: 2s
  window: 4
  unhealthyThreshold: 2
  healthyThreshold: 3
fallback:
  when: [timeout]
  response: {status: 203, headers: [{name: a, value: b}], body: '[]', grpcStatus: 5, grpcMessage: m}
fault:
  delay: {duration: 1s, percent: 0.5}
  abort: {status: 503, percent: 20}
  match: {path: {prefix: /a/}}
";

fn policy(name: &str, created: i64, target: Target, spec: &str) -> TrafficPolicy {
    let mut value: Value = serde_saphyr::from_str(spec).unwrap();
    value["targetRefs"] = json!([{"kind": "Namespace", "name": "shop"}]);
    let parsed = parse::spec("shop", name, &value).unwrap();
    TrafficPolicy {
        id: Id::new("shop", name),
        created: Some(created),
        generation: 1,
        scope: Scope::Targets(vec![target]),
        settings: parsed.settings,
    }
}

fn catalog() -> Target {
    Target::Service("catalog".into())
}

fn explained(given: Vec<TrafficPolicy>) -> Vec<Leaf> {
    let mut policies = Policies::default();
    for policy in given {
        policies.apply(policy);
    }
    leaves(&policies, &"shop".into(), Some(&"catalog".into()))
}

fn flat(value: &Value, path: &str, into: &mut Vec<(String, Value)>) {
    match value {
        // What one level's block replaces as a whole is one leaf.
        Value::Object(fields)
            if !["healthCheck.http", "fallback.response", "fault.match"].contains(&path) =>
        {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                flat(value, &format!("{path}{dot}{name}"), into);
            }
        }
        leaf => into.push((path.to_owned(), leaf.clone())),
    }
}

#[test]
fn what_a_policy_writes_is_what_is_shown() {
    let shown = explained(vec![policy("whole", 1, catalog(), COMPLETE)]);
    let mut shown: Vec<_> = shown
        .into_iter()
        .inspect(|leaf| assert_eq!(leaf.from.as_ref().unwrap().name, "whole"))
        .map(|leaf| (leaf.field.to_owned(), leaf.value))
        .collect();
    let mut written = Vec::new();
    flat(&serde_saphyr::from_str(COMPLETE).unwrap(), "", &mut written);
    // Conditions are shown in an order of their own.
    for (field, value) in shown.iter_mut().chain(&mut written) {
        let is_set = ["circuitBreaker.failures", "retries.on"].contains(&field.as_str());
        if let (true, Value::Array(words)) = (is_set, value) {
            words.sort_by_key(Value::to_string);
        }
    }
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    written.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(shown, written);
}

#[test]
fn each_leaf_names_the_policy_that_it_came_from() {
    let shown = explained(vec![
        policy(
            "own",
            2,
            catalog(),
            "retries: {attempts: 2}\ncircuitBreaker: {baseEjection: 1m}",
        ),
        policy("newer", 3, catalog(), "retries: {attempts: 9}"),
        policy(
            "general",
            1,
            Target::Namespace,
            "retries: {attempts: 5, budget: {percent: 7}}\n\
             circuitBreaker: {baseEjection: 1s, maxEjection: 20s}",
        ),
    ]);
    let leaf = |field: &str| {
        let leaf = shown.iter().find(|leaf| leaf.field == field).unwrap();
        let from = leaf.from.as_ref().map(|from| from.name.as_str());
        (leaf.value.clone(), from)
    };
    assert_eq!(leaf("retries.attempts"), (json!(2), Some("own")));
    assert_eq!(leaf("retries.budget.percent"), (json!(7), Some("general")));
    assert_eq!(leaf("retries.budget.window"), (json!("10s"), None));
    assert_eq!(
        leaf("circuitBreaker.baseEjection"),
        (json!("20s"), Some("own")),
        "what is done, not what is written: base never exceeds max"
    );
    assert_eq!(
        leaf("circuitBreaker.maxEjection"),
        (json!("20s"), Some("general"))
    );
    assert!(!shown.iter().any(|leaf| leaf.field.starts_with("outbound")));
    assert!(explained(Vec::new()).is_empty());
}

#[test]
fn the_defaults_shown_are_those_that_sidecars_get() {
    for spec in [
        "{}",
        "circuitBreaker: {}\noutbound: {}\nretries: {}\ntimeouts: {}",
        "circuitBreaker: {perEndpoint: {}, maxEjection: 1m}",
        "retries: {backoff: {max: 1s}, hedge: {}}",
        "circuitBreaker: {failureRate: {}, slowCallRate: {duration: 1s}}",
        "loadBalancing: {sessionPersistence: {}, slowStart: {}}\nadmission: {adaptive: {}}",
        "healthCheck: {tcp: {}, unhealthyThreshold: 5}\nfault: {delay: {duration: 1s}}",
        "fallback: {backendRef: {name: a, port: 80}}\nfault: {abort: {reset: true}}",
        COMPLETE,
    ] {
        let settings = policy("one", 1, catalog(), spec).settings;
        assert_eq!(
            service_policy(&with_defaults(&settings)),
            service_policy(&settings),
            "{spec}"
        );
    }
}
