//! Routes, from files to the words.

use super::*;
use crate::cluster::explain::request::Asked;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: payment, namespace: shop}
spec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 8080}, {name: grpc, port: 7070}], selector: {app: payment}}
---
apiVersion: v1
kind: Service
metadata: {name: payment-v1, namespace: shop}
spec: {clusterIP: 10.96.0.8, ports: [{name: http, port: 8080}], selector: {app: payment, version: v1}}
---
apiVersion: v1
kind: Service
metadata: {name: payment-v2, namespace: shop}
spec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 8080}], selector: {app: payment, version: v2}}
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: shop}
spec: {clusterIP: None, ports: [{name: http, port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: payment, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: payment, port: 8080}]
  rules:
    - name: group-b
      matches: [{path: {type: PathPrefix, value: /charge}, headers: [{name: cookie, type: RegularExpression, value: '.*group=b.*'}]}]
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-group, value: b}], remove: [x-old]}}]
      backendRefs: [{name: payment-v2, port: 8080}]
    - name: charge
      matches: [{path: {type: PathPrefix, value: /charge}}, {path: {type: Exact, value: /pay}, method: POST}]
      backendRefs:
        - {name: payment-v1, port: 8080, weight: 90}
        - {name: payment-v2, port: 8080, weight: 10}
        - {name: nowhere, port: 8080, weight: 0}
      timeouts: {request: 2s, backendRequest: 500ms}
      retry: {attempts: 3, codes: [503], backoff: 10ms}
    - matches: [{path: {type: PathPrefix, value: /old}}]
      filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: shop, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: payment, port: 9}]
  rules: [{backendRefs: [{name: payment-v1, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: tills, namespace: shop, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: payment, port: 7070}]
  rules: [{matches: [{method: {service: shop.Till, method: Open}}], backendRefs: [{name: payment-v1, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ours, namespace: bank, creationTimestamp: 2026-01-03T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: payment, namespace: shop, port: 8080}]
  rules: [{backendRefs: [{name: payment, namespace: shop, port: 8080}]}]
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: charges, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: payment, sectionName: charge}]
  circuitBreaker: {maxRequests: 20}
";

fn asked(path: &str, headers: &[(&str, &str)], from: Option<&str>, port: Option<u16>) -> Asked {
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    Asked {
        path: Some(path.to_owned()),
        headers: headers.collect(),
        from: from.map(str::to_owned),
        port,
        ..Asked::default()
    }
}

fn told(service: &str, asked: &Asked) -> Result<Explanation, Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("objects.yaml"), OBJECTS).unwrap();
    let folders = [folder.path().to_owned()];
    explain(given::from_files(&folders, "shop", service)?, asked)
}

/// What people read of a request.
fn text(asked: &Asked) -> String {
    let told = told("payment", asked).unwrap();
    show_routes::way(told.request.as_ref().unwrap(), Paint::plain())
}

#[test]
fn routes_are_listed_with_what_is_wrong_and_count_for_the_exit_status() {
    let told = told("payment", &Asked::default()).unwrap();
    let text = show::text(&told, Paint::plain());
    let expected = "
Routes:
  HTTPRoute bank/ours (generation 1): in force on Service shop/payment for the callers of Namespace bank
  HTTPRoute shop/lost: not in force: NoMatchingParent: Service shop/payment has no port 9
  HTTPRoute shop/payment (generation 1): in force on Service shop/payment for all callers
    BackendNotFound: spec.rules[1].backendRefs[2]: Service shop/nowhere does not exist
  GRPCRoute shop/tills (generation 1): in force on Service shop/payment for all callers
";
    assert!(text.contains(expected), "{text}");
    assert!(!told.is_whole());
}

#[test]
fn a_request_is_told_its_rule_its_backends_and_why_no_other_rule_takes_it() {
    assert_eq!(
        text(&asked("/charge/7?card=1", &[], None, Some(8080))),
        "
Request: GET /charge/7?card=1 to port 8080, from namespace shop
  goes to one of 2 backends, by weight
  by HTTPRoute shop/payment rule charge, which takes: path prefix /charge
  backend   shop/payment-v1:8080 weight 90 (90 %)
  backend   shop/payment-v2:8080 weight 10 (10 %)
  backend   shop/nowhere:8080 weight 0 (0 %), which cannot be taken: spec.rules[1].backendRefs[2]: Service shop/nowhere does not exist
  timeouts  request 2s, perTry 500ms
  retries   at most 3, backoff from 10ms
  limits    maxRequests 20
  policies  shop/charges (generation 1)

The other rules:
  HTTPRoute shop/payment rule group-b: not header cookie: pattern .*group=b.*
  HTTPRoute shop/payment rule 2: not path prefix /old
"
    );
}

#[test]
fn a_header_decides_and_what_it_outranks_is_told() {
    let text = text(&asked(
        "/charge",
        &[("cookie", "x=1; group=b")],
        None,
        Some(8080),
    ));
    for wanted in [
        "goes to shop/payment-v2:8080\n",
        "rule group-b, which takes: path prefix /charge, header cookie: pattern .*group=b.*\n",
        "filter    request headers: set x-group: b, remove x-old\n",
        "timeouts  as the Service's\n",
        "rule charge: it matches too (path prefix /charge), and another goes before it\n",
    ] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
}

#[test]
fn a_caller_of_another_namespace_goes_by_its_own_routes() {
    let text = text(&asked("/charge", &[], Some("bank/till-1"), Some(8080)));
    assert!(
        text.contains("from namespace bank\n  goes to shop/payment:8080\n"),
        "{text}"
    );
    assert!(!text.contains("shop/payment rule"), "{text}");
}

#[test]
fn what_no_rule_takes_and_what_is_sent_elsewhere_is_told() {
    let none = text(&asked("/nothing", &[], None, Some(8080)));
    assert!(
        none.contains("goes no rule takes it: 404 (no_route)"),
        "{none}"
    );
    assert!(
        none.contains("rule charge: not path prefix /charge; not path /pay\n"),
        "{none}"
    );
    let redirect = text(&asked("/old/x", &[], None, Some(8080)));
    assert!(
        redirect.contains("goes redirect 301 prefix /new"),
        "{redirect}"
    );
    let call = text(&asked("/shop.Till/Open", &[], None, Some(7070)));
    assert!(call.contains("POST /shop.Till/Open to port 7070"), "{call}");
    assert!(call.contains("takes: call shop.Till/Open\n"), "{call}");
    let other = text(&asked("/shop.Till/Shut", &[], None, Some(7070)));
    assert!(other.contains("UNIMPLEMENTED (no_route)"), "{other}");
}

#[test]
fn what_cannot_be_told_says_what_to_write_instead() {
    let error = |service: &str, asked: &Asked| told(service, asked).unwrap_err().to_string();
    let which = error("payment", &asked("/", &[], None, None));
    assert!(
        which.contains("--port (8080, 7070)") || which.contains("--port (7070, 8080)"),
        "{which}"
    );
    let no_port = error("payment", &asked("/", &[], None, Some(1)));
    assert!(no_port.contains("has no port 1"), "{no_port}");
    let bare = error("bare", &asked("/", &[], None, None));
    assert!(bare.contains("Headless"), "{bare}");
    for text in ["not a path", "charge", "", "payment:8080"] {
        let path = error("payment", &asked(text, &[], None, Some(8080)));
        assert!(path.contains("is not a path"), "{path}");
    }
    let unrouted = told("payment-v1", &asked("/", &[], None, None)).unwrap();
    let goes = unrouted.request.unwrap().goes;
    assert!(goes.contains("no route is in force there"), "{goes}");
}

#[test]
fn programs_read_the_same() {
    let told = told("payment", &asked("/charge", &[], None, Some(8080))).unwrap();
    let json = serde_json::to_value(&told).unwrap();
    let taken = &json["request"]["taken"];
    assert_eq!(taken["rule"], "charge");
    assert_eq!(taken["backends"][0]["percent"], 90.0);
    assert_eq!(json["routes"][1]["inForce"], false);
    assert_eq!(json["routes"][1]["reason"], "NoMatchingParent");
    assert_eq!(json["request"]["others"].as_array().unwrap().len(), 2);
}

#[test]
fn a_route_of_a_file_that_cannot_be_read_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let broken = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: heavy, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: payment}]
  rules: [{backendRefs: [{name: payment-v1, port: 8080, weight: -1}, {name: payment-v2, port: '8080'}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: all, namespace: bank}
spec: {from: x}
";
    let objects = OBJECTS.split("---\n").take(4).collect::<Vec<_>>();
    let file = folder.path().join("objects.yaml");
    std::fs::write(&file, objects.join("---\n") + broken).unwrap();
    let folders = [folder.path().to_owned()];
    let given = given::from_files(&folders, "shop", "payment").unwrap();
    let told = explain(given, &Asked::default()).unwrap();
    let text = show::text(&told, Paint::plain());
    let file = file.display();
    for line in [
        format!("  HTTPRoute shop/heavy: not in force: Invalid: {file}:"),
        format!("  ReferenceGrant bank/all: not in force: Invalid: {file}:"),
        "spec.rules[0].backendRefs[0].weight must be a whole number".to_owned(),
        "spec.rules[0].backendRefs[1].port must be a whole number".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    assert!(!told.is_whole());
}

/// Policies of every level around the rule `charge`, which says something itself, and one of a
/// caller's namespace.
const LEVELS: &str = "
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: all, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  targetRefs: [{kind: Namespace, name: shop}]
  timeouts: {idle: 7m}
  retries: {budget: {percent: 7}}
  fault: {delay: {duration: 1s}}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: own, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  targetRefs: [{kind: Service, name: payment}]
  timeouts: {request: 9s, perTry: 8s, responseHeaders: 3s}
  retries: {attempts: 1, backoff: {base: 20ms}}
  circuitBreaker: {maxRequests: 500, consecutiveFailures: 3}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: route, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: payment}]
  retries: {attempts: 2, hedge: {max: 2}}
  fallback: {response: {status: 203}}
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: rule, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: payment, sectionName: group-b}]
  retries: {hedge: {after: 30ms}}
  rateLimits: [{name: few, limit: {requests: 5, per: second}, enforcedAt: Caller}]
---
apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: theirs, namespace: bank, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: ours}]
  timeouts: {request: 4s}
";

fn leveled() -> Explanation {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("objects.yaml");
    std::fs::write(file, OBJECTS.to_owned() + LEVELS).unwrap();
    let folders = [folder.path().to_owned()];
    let given = given::from_files(&folders, "shop", "payment").unwrap();
    explain(given, &Asked::default()).unwrap()
}

#[test]
fn each_field_of_a_rule_names_the_level_that_it_comes_from() {
    let told = leveled();
    let rules = told.of_rules.iter();
    let rules: Vec<_> = rules
        .map(|one| (one.route.as_str(), one.rule.as_str()))
        .collect();
    let ours = "HTTPRoute shop/payment";
    assert_eq!(
        rules,
        [
            (ours, "group-b"),
            (ours, "charge"),
            (ours, "2"),
            ("HTTPRoute bank/ours", "0")
        ]
    );
    let field = |at: usize, name: &str| {
        let mut fields = told.of_rules[at].fields.iter();
        let found = fields.find(|field| field.field == name);
        found.map(|field| (field.value.clone(), field.from.as_str(), field.is_default))
    };
    let is = |value: &str, from: &'static str| Some((Value::from(value), from, false));
    // Rule over route over Service over Namespace, and the default below them.
    assert_eq!(field(0, "retries.hedge.after"), is("30ms", "rule"));
    assert_eq!(
        field(0, "retries.hedge.max"),
        Some((2.into(), "route", false))
    );
    assert_eq!(field(0, "retries.backoff.base"), is("20ms", "own"));
    assert_eq!(
        field(0, "retries.budget.percent"),
        Some((7.into(), "all", false))
    );
    assert_eq!(
        field(0, "retries.budget.window"),
        Some(("10s".into(), "default", true))
    );
    assert!(field(0, "rateLimits").is_some());
    // What the route itself says goes before every policy.
    let route = |value: Value| Some((value, ours, false));
    assert_eq!(field(1, "retries.attempts"), route(3.into()));
    assert_eq!(field(1, "retries.backoff.base"), route("10ms".into()));
    assert_eq!(field(1, "timeouts.request"), route("2s".into()));
    assert_eq!(field(1, "timeouts.perTry"), route("500ms".into()));
    assert_eq!(field(1, "timeouts.responseHeaders"), is("3s", "own"));
    assert_eq!(field(1, "timeouts.idle"), is("7m", "all"));
    assert_eq!(
        field(1, "circuitBreaker.maxRequests"),
        Some((20.into(), "charges", false))
    );
    // What is the Service's own business, or of a block of which nobody here speaks, is not said again.
    for other in ["circuitBreaker.consecutiveFailures", "fault.delay.duration"] {
        assert_eq!(field(1, other), None, "{other}");
    }
    assert_eq!(field(2, "timeouts.request"), None);
    assert_eq!(field(3, "timeouts.request"), is("4s", "bank/theirs"));
}

#[test]
fn people_and_programs_read_the_fields_of_rules() {
    let told = leveled();
    let text = show::text(&told, Paint::plain());
    let (_, rule) = text
        .split_once("\nOn HTTPRoute shop/payment rule group-b, and all else as on the Service:\n")
        .unwrap_or_else(|| panic!("{text}"));
    let lines: Vec<Vec<&str>> = rule
        .lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["FIELD", "FROM", "VALUE"]);
    for wanted in [
        &["retries.hedge.after", "rule", "30ms"],
        &["retries.hedge.max", "route", "2"],
        &["retries.backoff.base", "own", "20ms"],
        &["retries.budget.percent", "all", "7"],
    ] {
        assert!(
            lines.iter().any(|line| line == wanted),
            "{wanted:?} in\n{rule}"
        );
    }
    let json = serde_json::to_value(&told).unwrap();
    let fields = json["ofRules"][1]["fields"].as_array().unwrap();
    let wanted = serde_json::json!({
        "field": "timeouts.request", "value": "2s", "from": "HTTPRoute shop/payment",
        "isDefault": false,
    });
    assert!(fields.contains(&wanted), "{fields:?}");
    assert_eq!(json["ofRules"][1]["rule"], "charge");
}

/// A route can take away a timeout that a policy has.
#[test]
fn a_timeout_that_the_route_takes_away_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let objects = OBJECTS.replace("timeouts: {request: 2s,", "timeouts: {request: 0s,");
    let file = folder.path().join("objects.yaml");
    std::fs::write(file, objects + LEVELS).unwrap();
    let folders = [folder.path().to_owned()];
    let given = given::from_files(&folders, "shop", "payment").unwrap();
    let told = explain(given, &Asked::default()).unwrap();
    let mut fields = told.of_rules[1].fields.iter();
    let request = fields.find(|one| one.field == "timeouts.request").unwrap();
    assert_eq!(
        (&request.value, request.is_default),
        (&"none".into(), false)
    );
    assert_eq!(request.from, "HTTPRoute shop/payment");
}
