use remora_proto::v1::{
    self, grpc_method, path_change, route_filter, route_match, session_persistence, value_match,
};
use serde_json::{Value, json};

use super::*;
use crate::core::objects::Id;
use crate::core::routes::{FaultReason, Retry, RouteTimeouts};

fn id(kind: RouteKind) -> RouteId {
    RouteId {
        kind,
        id: Id::new("shop", "a"),
    }
}

fn spec(text: &str) -> Value {
    json!({"spec": serde_saphyr::from_str::<Value>(text).unwrap()})
}

fn http(text: &str) -> (Says, Vec<String>) {
    let (says, faults) = read(&id(RouteKind::Http), &spec(text));
    (says, faults.into_iter().map(|fault| fault.field).collect())
}

/// The one rule with these fields.
fn rule_of(fields: &str) -> Rule {
    let (mut says, faults) = http(&format!("rules: [{fields}]"));
    assert!(faults.is_empty(), "{faults:?}");
    says.rules.remove(0)
}

fn plain(filter: &Filter) -> &route_filter::Filter {
    match filter {
        Filter::Plain(plain) => plain.filter.as_ref().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_match_is_read() {
    let (says, faults) = http(
        "
parentRefs:
- {group: '', kind: Service, name: catalog, port: 80, sectionName: http}
- {group: core, kind: Service, namespace: other, name: web}
- {kind: Gateway, name: public}
- {name: public-too, sectionName: https}
hostnames: [a.example.com]
rules:
- name: first
  matches:
  - path: {type: Exact, value: /a}
    method: GET
    headers: [{name: X-A, value: b}, {type: RegularExpression, name: x-c, value: 'd+'}, {name: x-a, value: second}]
    queryParams: [{name: Q, value: '1'}, {type: RegularExpression, name: r, value: '.*'}]
  - path: {value: /p/}
  - path: {type: RegularExpression, value: '/r/[0-9]+'}
  - {}
",
    );
    assert!(faults.is_empty(), "{faults:?}");
    assert!(says.fault.is_none());
    assert!(says.remarks[0].contains("hostnames are not looked at"));
    let parents: Vec<_> = says
        .parents
        .iter()
        .map(|one| (one.index, &*one.name))
        .collect();
    assert_eq!(
        parents,
        [(0, "catalog"), (1, "web")],
        "Gateways are not ours"
    );
    assert_eq!(says.parents[0].port, Some(80));
    assert_eq!(says.parents[0].section_name.as_deref(), Some("http"));
    let rule = &says.rules[0];
    assert!(rule.fault.is_none() && &*rule.name == "first");
    assert!(rule.pattern_bytes > 0);
    let [exact, prefix, pattern, every] = &rule.matches[..] else {
        panic!("{rule:?}");
    };
    assert_eq!(
        exact.path,
        Some(route_match::Path::PathExact("/a".to_owned()))
    );
    assert_eq!(exact.method, "GET");
    let headers: Vec<_> = exact.headers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(headers, ["x-a", "x-c"], "of equal names the first counts");
    assert_eq!(
        exact.headers[0].value,
        Some(value_match::Value::Exact("b".to_owned()))
    );
    assert_eq!(
        exact.headers[1].value,
        Some(value_match::Value::Pattern("d+".to_owned()))
    );
    let query: Vec<_> = exact.query.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(query, ["Q", "r"], "names of parameters have their case");
    assert_eq!(
        prefix.path,
        Some(route_match::Path::PathPrefix("/p".to_owned()))
    );
    let text = "/r/[0-9]+".to_owned();
    assert_eq!(pattern.path, Some(route_match::Path::PathPattern(text)));
    assert_eq!(
        every.path,
        Some(route_match::Path::PathPrefix("/".to_owned()))
    );
}

#[test]
fn a_route_without_rules_is_one_rule_for_every_call() {
    let (says, _) = http("parentRefs: []");
    assert_eq!(says.rules.len(), 1);
    let every = v1::RouteMatch {
        path: Some(route_match::Path::PathPrefix("/".to_owned())),
        ..v1::RouteMatch::default()
    };
    assert_eq!(says.rules[0].matches, [every]);
    let (says, _) = read(&id(RouteKind::Grpc), &spec("parentRefs: []"));
    assert!(says.rules.is_empty(), "a GRPCRoute may have none");
}

#[test]
fn the_matches_of_grpc_are_read() {
    let text = "
rules:
- matches:
  - method: {service: shop.Catalog, method: List}
  - method: {type: RegularExpression, service: 'shop\\..*'}
  - headers: [{name: a, value: b}]
- {}
";
    let (says, faults) = read(&id(RouteKind::Grpc), &spec(text));
    assert!(faults.is_empty(), "{faults:?}");
    let path = |at: usize| match &says.rules[0].matches[at].path {
        Some(route_match::Path::GrpcMethod(method)) => method.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        path(0).service,
        Some(grpc_method::Service::ServiceExact(
            "shop.Catalog".to_owned()
        ))
    );
    assert_eq!(
        path(0).method,
        Some(grpc_method::Method::MethodExact("List".to_owned()))
    );
    assert!(matches!(
        path(1).service,
        Some(grpc_method::Service::ServicePattern(_))
    ));
    assert_eq!(path(1).method, None);
    assert_eq!(says.rules[0].matches[2].path, None);
    assert!(says.rules[1].matches.is_empty(), "everything");
}

#[test]
fn every_filter_is_read_in_the_order_written() {
    let rule = rule_of(
        "{matches: [{path: {value: /old}}], filters: [
          {type: CORS, cors: {allowOrigins: ['https://*.a.b'], allowCredentials: true, allowMethods: [GET], allowHeaders: [X-A, x-a], exposeHeaders: ['*'], maxAge: 60}},
          {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: a}], add: [{name: x-add, value: b}], remove: [X-Gone]}},
          {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}},
          {type: URLRewrite, urlRewrite: {hostname: b.c, path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}},
          {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, percent: 5}},
          {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, fraction: {numerator: 1, denominator: 1000}}},
          {type: ExtensionRef, extensionRef: {group: example.com, kind: Waf, name: x}}]}",
    );
    assert_eq!(rule.fault, None);
    let [
        cors,
        request,
        response,
        rewrite,
        mirror,
        fraction,
        extension,
    ] = &rule.filters[..]
    else {
        panic!("{:?}", rule.filters);
    };
    let route_filter::Filter::Cors(cors) = plain(cors) else {
        panic!("{cors:?}");
    };
    assert_eq!(cors.allow_headers, ["x-a"]);
    assert_eq!((cors.max_age_seconds, cors.allow_credentials), (60, true));
    let route_filter::Filter::RequestHeaders(changes) = plain(request) else {
        panic!("{request:?}");
    };
    assert_eq!(
        (changes.set[0].name.as_str(), changes.set[0].value.as_str()),
        ("x-set", "a")
    );
    assert_eq!(
        (changes.add[0].name.as_str(), changes.remove[0].as_str()),
        ("x-add", "x-gone")
    );
    assert!(matches!(
        plain(response),
        route_filter::Filter::ResponseHeaders(_)
    ));
    let route_filter::Filter::Rewrite(rewrite) = plain(rewrite) else {
        panic!("{rewrite:?}");
    };
    assert_eq!(rewrite.hostname, "b.c");
    let change = rewrite.path.as_ref().unwrap().change.clone();
    assert_eq!(change, Some(path_change::Change::Prefix("/".to_owned())));
    let share = |filter: &Filter| match filter {
        Filter::Mirror {
            numerator,
            denominator,
            ..
        } => (*numerator, *denominator),
        other => panic!("{other:?}"),
    };
    assert_eq!((share(mirror), share(fraction)), ((5, 100), (1, 1000)));
    assert!(matches!(extension, Filter::Extension { shown, .. } if shown == "example.com/Waf x"));
    let redirect = rule_of(
        "{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: a.b, port: 8443, path: {type: ReplaceFullPath, replaceFullPath: /x}}}]}",
    );
    let route_filter::Filter::Redirect(redirect) = plain(&redirect.filters[0]) else {
        panic!("{redirect:?}");
    };
    assert_eq!(
        (redirect.status, redirect.port, redirect.scheme.as_str()),
        (302, 8443, "https")
    );
}

#[test]
fn backends_have_weights_and_filters_of_their_own() {
    let rule = rule_of(
        "{backendRefs: [{name: a, port: 80}, {name: b, namespace: other, port: 81, weight: 0,
          filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}]},
          {group: example.com, kind: Bucket, name: c}]}",
    );
    let shown: Vec<_> = rule
        .backends
        .iter()
        .map(|one| (&*one.backend.name, one.weight, one.filters.len()))
        .collect();
    assert_eq!(shown, [("a", 1, 0), ("b", 0, 1), ("c", 1, 0)]);
    assert!(rule.backends[0].backend.is_service());
    assert!(!rule.backends[2].backend.is_service());
}

#[test]
fn timeouts_retries_and_sessions_are_read() {
    let rule = rule_of(
        "{timeouts: {request: 10s, backendRequest: 0s}, retry: {codes: [503, 500, 503], backoff: 100ms},
          sessionPersistence: {absoluteTimeout: 1h, cookie: {name: s, path: /a, lifetimeType: Permanent}}}",
    );
    assert_eq!(
        rule.timeouts,
        Some(RouteTimeouts {
            request: Some(Some(10_000)),
            backend_request: Some(None),
        }),
        "0s is none, and is said"
    );
    assert_eq!(
        rule.retry,
        Some(Retry {
            attempts: 1,
            codes: Some(vec![503, 500]),
            backoff_ms: Some(100),
        })
    );
    let session = rule.session_persistence.unwrap();
    assert_eq!(session.absolute_timeout_ms, 3_600_000);
    let Some(session_persistence::Kind::Cookie(cookie)) = session.kind else {
        panic!("{session:?}");
    };
    assert_eq!((cookie.name.as_str(), cookie.path.as_str()), ("s", "/a"));
    assert!(cookie.permanent);
    let header = rule_of("{sessionPersistence: {type: Header, header: {name: X-S}}}");
    let kind = header.session_persistence.unwrap().kind;
    assert_eq!(
        kind,
        Some(session_persistence::Kind::Header("x-s".to_owned()))
    );
    let (says, _) = http("rules: [{sessionPersistence: {}}, {sessionPersistence: {type: Cookie}}]");
    let names = says.rules.iter().map(|rule| {
        match rule
            .session_persistence
            .as_ref()
            .and_then(|one| one.kind.clone())
        {
            Some(session_persistence::Kind::Cookie(cookie)) => cookie.name,
            other => panic!("{other:?}"),
        }
    });
    let names: Vec<String> = names.collect();
    assert!(
        names[0].starts_with("remora-") && names[0] != names[1],
        "{names:?}"
    );
}

/// Each with whether it is of filters.
const NOT_KNOWN: &[(&str, bool)] = &[
    ("matches: [{path: {type: Glob, value: /a}}]", false),
    ("matches: [{method: LIST}]", false),
    (
        "matches: [{headers: [{type: Near, name: a, value: b}]}]",
        false,
    ),
    (
        "matches: [{path: {type: RegularExpression, value: '('}}]",
        false,
    ),
    ("timeouts: {request: 99999h}", false),
    ("sessionPersistence: {type: Token}", false),
    (
        "sessionPersistence: {type: Header, header: {name: Host}}",
        false,
    ),
    (
        "sessionPersistence: {type: Header, header: {name: x_remora_a}}",
        false,
    ),
    ("filters: [{type: Teapot}]", true),
    (
        "filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP}}]",
        true,
    ),
    (
        "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300}}]",
        true,
    ),
    (
        "filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]",
        true,
    ),
    (
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-remora-reason, value: a}]}}]",
        true,
    ),
    (
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}]",
        true,
    ),
    (
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Transfer-Encoding]}}]",
        true,
    ),
    (
        "backendRefs: [{name: a, port: 1, filters: [{type: CORS, cors: {}}]}]",
        true,
    ),
];

#[test]
fn what_is_not_known_is_of_that_rule_alone_and_no_fault_of_form() {
    for (fields, of_filters) in NOT_KNOWN {
        let (says, faults) = http(&format!("rules: [{{{fields}}}, {{}}]"));
        assert!(faults.is_empty(), "{fields}: {faults:?}");
        let fault = says.rules[0]
            .fault
            .as_ref()
            .unwrap_or_else(|| panic!("{fields}"));
        assert_eq!(fault.of_filters, *of_filters, "{fields}");
        assert_eq!(
            fault.fault.reason,
            FaultReason::UnsupportedValue,
            "{fields}"
        );
        assert!(fault.fault.message.contains("spec.rules[0]"), "{fields}");
        assert_eq!(says.rules[1].fault, None, "{fields}");
    }
    let (says, faults) = read(
        &id(RouteKind::Grpc),
        &spec("rules: [{filters: [{type: URLRewrite, urlRewrite: {}}]}]"),
    );
    assert!(faults.is_empty() && says.rules[0].fault.is_some());
}

/// Each takes its time to be built, or to be refused.
#[test]
fn how_many_patterns_are_built_is_bounded() {
    let one = |text: &str| json!({"path": {"type": "RegularExpression", "value": text}});
    let many = |text: &str| {
        let matches = vec![one(text); 64];
        let rules = vec![json!({"matches": matches}); 2];
        read(&id(RouteKind::Http), &json!({"spec": {"rules": rules}})).0
    };
    let refused = many("/((a|b)*a(a|b){18})");
    let message = |says: &Says| says.rules[0].fault.clone().unwrap().fault.message;
    assert_eq!(message(&refused).matches("too complex").count(), 1);
    let large = many("/[a-z0-9-]{1,63}([.][a-z0-9-]{1,63}){0,15}");
    let bytes: usize = large.rules.iter().map(|rule| rule.pattern_bytes).sum();
    let most = remora_proto::bounds::MAX_ROUTE_PATTERN_BYTES;
    let step = remora_proto::pattern::MAX_AUTOMATON_BYTES;
    assert!(bytes <= most + 2 * step, "{bytes}");
}

#[test]
fn of_more_retries_than_can_be_done_those_are_done_that_can_and_that_is_said() {
    let (says, faults) = http("rules: [{retry: {attempts: 100}}]");
    assert!(faults.is_empty() && says.rules[0].fault.is_none());
    assert_eq!(says.rules[0].retry.as_ref().unwrap().attempts, 10);
    let remark = "spec.rules[0].retry.attempts is 100, of which 10 are done";
    assert_eq!(says.remarks, [remark]);
}

#[test]
fn filters_that_cannot_stand_together_are_incompatible() {
    for filters in [
        "[{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {}}]",
        "[{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}]",
        "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [A]}}]",
    ] {
        let rule = rule_of(&format!("{{filters: {filters}}}"));
        let fault = rule.fault.unwrap();
        assert_eq!(
            fault.fault.reason,
            FaultReason::IncompatibleFilters,
            "{filters}"
        );
        assert!(fault.of_filters);
    }
    let same = "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}, {name: A, value: c}]}}]";
    let rule = rule_of(&format!("{{filters: {same}}}"));
    assert_eq!(rule.fault, None);
    let route_filter::Filter::RequestHeaders(changes) = plain(&rule.filters[0]) else {
        panic!("{rule:?}");
    };
    assert_eq!(changes.set.len(), 1, "the first of equal names counts");
    assert_eq!(changes.set[0].value, "b");
}

const NOT_OF_ITS_FORM: &[(&str, &str)] = &[
    ("rules: 3", "spec.rules"),
    ("rules: [7]", "spec.rules[0]"),
    ("rulez: []", "spec.rulez"),
    ("rules: [{macthes: []}]", "spec.rules[0].macthes"),
    (
        "rules: [{matches: [{path: {value: a}}]}]",
        "spec.rules[0].matches[0].path.value",
    ),
    (
        "rules: [{matches: [{path: {value: /a//b}}]}]",
        "spec.rules[0].matches[0].path.value",
    ),
    (
        "rules: [{matches: [{headers: [{name: a}]}]}]",
        "spec.rules[0].matches[0].headers[0].value",
    ),
    (
        "rules: [{matches: [{headers: [{name: 'a b', value: c}]}]}]",
        "spec.rules[0].matches[0].headers[0].name",
    ),
    (
        "rules: [{filters: [{type: URLRewrite}]}]",
        "spec.rules[0].filters[0].urlRewrite",
    ),
    (
        "rules: [{filters: [{type: URLRewrite, urlRewrite: {}, cors: {}}]}]",
        "spec.rules[0].filters[0].cors",
    ),
    (
        "rules: [{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}]",
        "spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch",
    ),
    (
        "rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]}]",
        "spec.rules[0].backendRefs",
    ),
    (
        "rules: [{backendRefs: [{name: a}]}]",
        "spec.rules[0].backendRefs[0].port",
    ),
    (
        "rules: [{backendRefs: [{name: a, port: 80, weight: 1000001}]}]",
        "spec.rules[0].backendRefs[0].weight",
    ),
    (
        "rules: [{backendRefs: [{name: a, port: 0}]}]",
        "spec.rules[0].backendRefs[0].port",
    ),
    (
        "rules: [{timeouts: {request: soon}}]",
        "spec.rules[0].timeouts.request",
    ),
    (
        "rules: [{timeouts: {request: 1s, backendRequest: 2s}}]",
        "spec.rules[0].timeouts.backendRequest",
    ),
    (
        "rules: [{retry: {codes: [200]}}]",
        "spec.rules[0].retry.codes[0]",
    ),
    (
        "rules: [{sessionPersistence: {type: Header}}]",
        "spec.rules[0].sessionPersistence.header",
    ),
    (
        "rules: [{sessionPersistence: {cookie: {lifetimeType: Permanent}}}]",
        "spec.rules[0].sessionPersistence.absoluteTimeout",
    ),
    ("rules: [{name: a}, {name: a}]", "spec.rules[1].name"),
    (
        "parentRefs: [{kind: Service, group: ''}]",
        "spec.parentRefs[0].name",
    ),
    (
        "parentRefs: [{kind: Service, group: '', name: a}, {kind: Service, group: '', name: a}]",
        "spec.parentRefs[1]",
    ),
    (
        "rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 1, fraction: {numerator: 1}}}]}]",
        "spec.rules[0].filters[0].requestMirror",
    ),
];

#[test]
fn what_is_not_of_its_form_is_said_with_its_field() {
    for (text, field) in NOT_OF_ITS_FORM {
        let (says, faults) = http(text);
        assert!(faults.iter().any(|one| one == field), "{text}: {faults:?}");
        let judged = says.fault.is_some() || says.rules.iter().any(|rule| rule.fault.is_some());
        assert!(judged, "of a cluster it is refused too: {text}");
    }
}

#[test]
fn no_object_can_make_reading_fail() {
    for odd in [
        json!(null),
        json!([]),
        json!({"spec": null}),
        json!({"spec": {"rules": [null, [], {"matches": [null], "filters": [1], "backendRefs": {}}]}}),
        json!({"spec": {"parentRefs": [null, {"name": "\u{202e}"}], "rules": "x".repeat(100_000)}}),
        json!({"spec": {"rules": vec![json!({"matches": vec![json!({}); 65]}); 17]}}),
    ] {
        for kind in [RouteKind::Http, RouteKind::Grpc] {
            let (says, faults) = read(&id(kind), &odd);
            assert!(!faults.is_empty(), "{odd}");
            assert!(says.rules.len() <= MAX_RULES);
        }
    }
}
