//! The custom resource as a whole: its definition, and the reading of objects.

use remora_proto::v1;
use serde_json::{Value, json};

use super::check::FieldError;
use super::definition::definition;
use super::parse::{self, Parsed};
use crate::core::objects::Target;
use crate::core::resolve::service_policy;
use crate::core::routes::RouteKind;
use crate::core::scope::{Requirement, Scope, Selector};

fn read(spec: &str) -> Result<Parsed, Vec<FieldError>> {
    let text = format!("targetRefs: [{{group: \"\", kind: Service, name: catalog}}]\n{spec}");
    let value: Value = serde_saphyr::from_str(&text).unwrap();
    parse::spec("shop", "catalog", &value)
}

fn errors(spec: &str) -> Vec<String> {
    read(spec)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_definition_has_every_field() {
    let definition = definition();
    assert_eq!(definition["metadata"]["name"], "trafficpolicies.remora.io");
    assert_eq!(definition["spec"]["scope"], "Namespaced");
    assert_eq!(definition["spec"]["names"]["shortNames"], json!(["tp"]));
    let version = &definition["spec"]["versions"][0];
    assert_eq!(version["name"], "v1alpha1");
    assert_eq!(version["subresources"]["status"], json!({}));
    let root = &version["schema"]["openAPIV3Schema"]["properties"];
    assert!(root["status"]["properties"]["conditions"].is_object());
    let spec = &root["spec"]["properties"];
    let names: Vec<&String> = spec.as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "admission",
            "circuitBreaker",
            "fallback",
            "fault",
            "healthCheck",
            "loadBalancing",
            "mtls",
            "outbound",
            "podSelector",
            "rateLimits",
            "retries",
            "targetRefs",
            "timeouts"
        ]
    );
    let breaker = &spec["circuitBreaker"]["properties"];
    assert_eq!(breaker.as_object().unwrap().len(), 17);
    assert_eq!(breaker["consecutiveFailures"]["maximum"], json!(1000));
    let retries = &spec["retries"]["properties"];
    assert_eq!(
        retries["budget"]["properties"]["percent"]["maximum"],
        json!(100)
    );
    assert_eq!(retries["bufferBytes"]["x-kubernetes-int-or-string"], true);
    every_field_is_documented(spec, "spec");
}

fn every_field_is_documented(fields: &Value, path: &str) {
    for (name, schema) in fields.as_object().unwrap() {
        let path = format!("{path}.{name}");
        assert!(
            schema["description"].is_string(),
            "{path} has no description"
        );
        for nested in [&schema["properties"], &schema["items"]["properties"]] {
            if nested.is_object() {
                every_field_is_documented(nested, &path);
            }
        }
    }
}

#[test]
fn every_error_is_reported_together_with_its_path_and_what_is_allowed() {
    let found = errors(
        "circuitBreaker: {maxRequests: -1, consecutiveFailures: 1001, nonsense: {}, failures: [5xx, 42, OOPS], baseEjection: 400s}
retries: {attempts: 11, backoff: {base: soon}, budget: {percent: 101}, bufferBytes: 17MiB, methods: [post]}
timeouts: {request: 0s}
rateLimits:
- {name: a, limit: {requests: 1, per: day}}
hedge: {}",
    );
    let fields: Vec<&str> = found
        .iter()
        .map(|error| error.split(": ").next().unwrap())
        .collect();
    for field in [
        "spec.circuitBreaker.maxRequests",
        "spec.circuitBreaker.consecutiveFailures",
        "spec.circuitBreaker.nonsense",
        "spec.circuitBreaker.failures[1]",
        "spec.circuitBreaker.failures[2]",
        "spec.circuitBreaker.baseEjection",
        "spec.retries.attempts",
        "spec.retries.backoff.base",
        "spec.retries.budget.percent",
        "spec.retries.bufferBytes",
        "spec.retries.methods[0]",
        "spec.timeouts.request",
        "spec.rateLimits[0].limit.per",
        "spec.hedge",
    ] {
        let count = fields.iter().filter(|found| **found == field).count();
        assert_eq!(count, 1, "{field} in {found:#?}");
    }
    assert_eq!(fields.len(), 14, "{found:#?}");
    let percent = found
        .iter()
        .find(|error| error.contains("percent"))
        .unwrap();
    assert_eq!(
        percent,
        "spec.retries.budget.percent: is 101, must be from 0 to 100"
    );
    let hedge = found.iter().find(|error| error.contains("hedge")).unwrap();
    assert!(
        hedge.contains("unknown field") && hedge.contains("circuitBreaker"),
        "{hedge}"
    );
}

#[test]
fn a_duration_that_cannot_be_read_is_not_compared_as_if_it_were_unset() {
    let found = errors("circuitBreaker: {baseEjection: soon, maxEjection: 1500ms}");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("baseEjection"), "{found:?}");
}

#[test]
fn an_empty_block_gives_its_defaults_an_absent_one_nothing_and_one_without_value_is_refused() {
    assert_eq!(service_policy(&read("").unwrap().settings), None);
    let policy = service_policy(
        &read("circuitBreaker: {}\nretries: {}\noutbound: {}")
            .unwrap()
            .settings,
    )
    .unwrap();
    let trip = policy.circuit_breaker.unwrap().trip.unwrap();
    assert_eq!(
        (
            trip.consecutive_failures,
            trip.base_ejection_ms,
            trip.max_ejection_ms
        ),
        (5, 10_000, 300_000)
    );
    assert_eq!(
        (
            trip.probes,
            trip.successes,
            trip.max_ejected_percent,
            trip.min_endpoints
        ),
        (1, 1, 50, 1)
    );
    assert!(trip.honor_retry_after);
    let retries = policy.retries.unwrap();
    assert_eq!(
        (
            retries.attempts,
            retries.backoff_base_ms,
            retries.backoff_max_ms
        ),
        (0, 25, 250)
    );
    assert_eq!(
        (retries.max_retry_after_ms, retries.buffer_bytes),
        (10_000, 65_536)
    );
    assert_eq!(
        retries.budget,
        Some(v1::RetryBudget {
            percent: 20,
            min_per_second: 10,
            window_ms: 10_000
        })
    );
    let outbound = policy.outbound.unwrap();
    assert_eq!(
        (outbound.connect_timeout_ms, outbound.idle_timeout_ms),
        (2_000, 60_000)
    );
    assert!(errors("circuitBreaker:")[0].contains("write {}"));
}

#[test]
fn zero_is_a_value_and_differs_from_unset() {
    let limits = |spec: &str| read(spec).unwrap().settings.circuit_breaker.unwrap().limits;
    assert_eq!(
        limits("circuitBreaker: {maxRequests: 0}").max_requests,
        Some(0)
    );
    assert_eq!(limits("circuitBreaker: {}").max_requests, None);
    assert_eq!(limits("circuitBreaker: {maxRequests: }").max_requests, None);
}

#[test]
fn the_burst_of_a_rate_is_100_ms_worth_and_at_least_one() {
    let burst = |rate: &str| {
        let spec = format!("rateLimits: [{{name: a, limit: {{{rate}}}}}]");
        read(&spec).unwrap().settings.rate_limits.unwrap()[0]
            .limit
            .burst
    };
    assert_eq!(burst("requests: 100, per: second"), 10);
    assert_eq!(burst("requests: 5, per: second"), 1);
    assert_eq!(burst("requests: 100, per: hour"), 1);
    assert_eq!(burst("requests: 0, per: second"), 0);
    assert_eq!(burst("requests: 100, per: second, burst: 3"), 3);
}

#[test]
fn a_rate_limit_is_read_whole() {
    let spec = "rateLimits:
- name: per-caller
  limit: {requests: 100, per: minute, burst: 10}
  match: {methods: [GET], path: {prefix: /x/}, headers: [{name: X-A, value: b}]}
  key: [remoteAddress, path, method, \"header:X-User\", clientIdentity]
  enforcedAt: Caller
  mode: Shadow
  maxKeys: 7";
    let limits = read(spec).unwrap().settings.rate_limits.unwrap();
    let limit = &limits[0].limit;
    assert!(limits[0].at_caller);
    assert_eq!(
        (limit.policy.as_str(), limit.per_ms, limit.max_keys),
        ("shop/catalog", 60_000, 7)
    );
    assert_eq!(limit.mode(), v1::rate_limit::Mode::Shadow);
    assert_eq!(limit.r#match.as_ref().unwrap().headers[0].name, "x-a");
    assert_eq!(
        limit.key[3].part,
        Some(v1::key_part::Part::Header("x-user".into()))
    );
    let identity = Some(v1::key_part::Part::ClientIdentity(true));
    assert_eq!(limit.key[4].part, identity);
    let found = errors(
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {path: {exact: /x, prefix: /y}}}, {name: a, limit: {requests: 1, per: second}}]",
    );
    assert!(
        found[0].starts_with("spec.rateLimits[0].match.path: "),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("spec.rateLimits[1].name: "),
        "{found:?}"
    );
}

#[test]
fn a_policy_is_for_its_own_namespace_only() {
    let targets = |text: &str| {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        parse::spec("shop", "p", &value)
    };
    let own = targets("targetRefs: [{kind: Namespace, name: shop}]").unwrap();
    assert_eq!(own.scope.targets(), [Target::Namespace]);
    assert!(targets("targetRefs: [{kind: Namespace, name: other}]").is_err());
    assert!(targets("targetRefs: [{kind: Service, name: a, namespace: other}]").is_err());
    assert!(targets("targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}]").is_err());
    assert!(targets("targetRefs: []").is_err());
    let missing = targets("retries: {}").unwrap_err();
    assert_eq!(missing[0].field, "spec");
}

#[test]
fn a_policy_may_be_for_a_route_or_for_one_rule_of_it() {
    let targets = |text: &str| {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        parse::spec("shop", "p", &value)
    };
    let group = "group: gateway.networking.k8s.io";
    let parsed = targets(&format!(
        "targetRefs: [{{{group}, kind: HTTPRoute, name: a}}, \
         {{{group}, kind: GRPCRoute, name: a, sectionName: b}}]"
    ));
    let route = |kind, rule: Option<&str>| Target::Route {
        kind,
        name: "a".into(),
        rule: rule.map(Into::into),
    };
    assert_eq!(
        parsed.unwrap().scope.targets(),
        [
            route(RouteKind::Http, None),
            route(RouteKind::Grpc, Some("b"))
        ]
    );
    let faults = targets(&format!(
        "{{targetRefs: [{{{group}, kind: HTTPRoute, name: a}}], outbound: {{}}, \
         circuitBreaker: {{maxRequests: 1, probes: 2}}, \
         rateLimits: [{{name: a, limit: {{requests: 1, per: second}}}}]}}"
    ));
    let fields: Vec<String> = faults
        .unwrap_err()
        .into_iter()
        .map(|fault| fault.field)
        .collect();
    assert_eq!(
        fields,
        [
            "spec.outbound",
            "spec.circuitBreaker.probes",
            "spec.rateLimits[0].enforcedAt"
        ]
    );
}

fn of_pods(text: &str) -> Result<Parsed, Vec<String>> {
    let value: Value = serde_saphyr::from_str(text).unwrap();
    let parsed = parse::spec("shop", "p", &value);
    parsed.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_policy_of_pods_is_read_with_its_modes() {
    let parsed = of_pods(
        "podSelector: {matchLabels: {app: catalog}, matchExpressions: [{key: track, operator: Exists}]}
mtls: {ports: {\"9090\": Strict}}",
    )
    .unwrap();
    let selector = Selector(vec![
        Requirement::In("app".to_owned(), vec!["catalog".to_owned()]),
        Requirement::Exists("track".to_owned()),
    ]);
    assert_eq!(parsed.scope, Scope::Pods(selector));
    let mtls = parsed.settings.mtls.unwrap();
    assert_eq!((mtls.mode, mtls.ports.len()), (None, 1));
    let every = of_pods("{podSelector: {}, mtls: {}}").unwrap();
    assert_eq!(every.scope, Scope::Pods(Selector::default()));
}

#[test]
fn a_policy_of_pods_has_mtls_and_no_other_block() {
    let refused = |text: &str| of_pods(text).unwrap_err();
    let both = "{podSelector: {}, targetRefs: [{kind: Service, name: a}], mtls: {}}";
    let one = "spec: must have exactly one of: targetRefs, podSelector";
    assert_eq!(refused(both), [one]);
    assert_eq!(refused("mtls: {}"), [one]);
    let silent = "spec.mtls: must be given where podSelector is";
    assert_eq!(refused("podSelector: {}"), [silent]);
    let all = refused(
        "{podSelector: {}, mtls: {}, circuitBreaker: {}, outbound: {}, retries: {}, timeouts: {}, rateLimits: [], admission: {}, loadBalancing: {}, healthCheck: {tcp: {}}, fallback: {response: {}}, fault: {}}",
    );
    let words = "is about calls to a Service: a policy with podSelector has only mtls";
    let blocks = [
        "circuitBreaker",
        "outbound",
        "retries",
        "timeouts",
        "rateLimits",
        "admission",
        "loadBalancing",
        "healthCheck",
        "fallback",
        "fault",
    ];
    assert_eq!(all, blocks.map(|block| format!("spec.{block}: {words}")));
    // What is without a value is neither there nor left out.
    let empty = refused("{podSelector: , mtls: {}}");
    assert_eq!(empty.len(), 1, "{empty:?}");
    assert!(
        empty[0].starts_with("spec.podSelector: is empty"),
        "{empty:?}"
    );
    let empty = refused("{podSelector: {}, mtls: }");
    assert_eq!(empty.len(), 1, "{empty:?}");
    assert!(empty[0].starts_with("spec.mtls: is empty"), "{empty:?}");
    let word = refused("{podSelector: {matchLabels: {a: 'b c'}}, mtls: {}}");
    assert!(
        word[0].starts_with("spec.podSelector.matchLabels.a: "),
        "{word:?}"
    );
}

proptest::proptest! {
    #[test]
    fn no_value_panics(text in "[ -~]{0,60}", number in proptest::prelude::any::<i64>()) {
        for value in [json!(text), json!(number), json!([text, number]), json!({text.as_str(): number})] {
            for field in ["circuitBreaker", "retries", "timeouts", "rateLimits", "outbound", "targetRefs", "podSelector", "mtls", "admission", "loadBalancing", "healthCheck", "fallback", "fault"] {
                let _ = parse::spec("shop", "p", &json!({field: value}));
            }
            let _ = parse::spec("shop", "p", &json!({
                "podSelector": {"matchLabels": value, "matchExpressions": [value]},
                "mtls": {"ports": value},
            }));
            let _ = parse::spec("shop", "p", &json!({
                "targetRefs": [{"kind": "Service", "name": text}],
                "retries": {"on": [value], "bufferBytes": value, "maxRetryAfter": value, "methods": [value]},
                "rateLimits": [{"name": text, "limit": {"requests": number, "per": "second"}, "key": [text]}],
            }));
        }
    }
}
