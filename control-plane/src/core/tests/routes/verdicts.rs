//! What is said of routes.

use super::*;

fn resolved(world: &World, name: &str) -> (bool, &'static str, String) {
    world.said(RouteKind::Http, name, RESOLVED_REFS)
}

fn first_backend(world: &World) -> v1::BackendReference {
    world.rule().backends[0].backend.clone().unwrap()
}

#[test]
fn a_parent_that_is_not_there_is_looked_for_until_it_is() {
    let mut world = world();
    world.apply([http("a", 1, "{}")]);
    let (accepted, reason, message) = world.said(RouteKind::Http, "a", ACCEPTED);
    assert_eq!((accepted, reason), (false, "NoMatchingParent"));
    assert!(message.contains("shop/web does not exist"), "{message}");
    let notes = world.core.notes();
    assert_eq!(notes[0].field, "spec.parentRefs[0]");
    assert_eq!(notes[0].key.to_string(), "HTTPRoute shop/a");
    for (reach, word) in [
        (Reach::Headless, "headless"),
        (Reach::ExternalName, "ExternalName"),
    ] {
        world.apply([Object::Service(service("web", reach))]);
        let (accepted, reason, message) = world.said(RouteKind::Http, "a", ACCEPTED);
        assert_eq!((accepted, reason), (false, "NoMatchingParent"));
        assert!(message.contains(word), "{message}");
    }
    world.apply([cluster_ip("web", &["10.0.0.2"])]);
    assert!(world.said(RouteKind::Http, "a", ACCEPTED).0);
    assert_eq!(world.routes("shop/web").len(), 1);
    world.delete(Kind::Service, "web");
    assert!(!world.said(RouteKind::Http, "a", ACCEPTED).0);
    world.delete(Kind::HttpRoute, "a");
    assert!(world.core.route_verdicts().is_empty());
}

#[test]
fn every_backend_that_cannot_be_taken_has_its_reason() {
    let mut tcp = service("db", Reach::ClusterIp(vec![ip("10.0.0.9")]));
    tcp.ports = vec![port("db", 80, v1::Protocol::Tcp)];
    let mut world = shop([Object::Service(tcp)]);
    for (backend, reason, word) in [
        (
            "{name: none, port: 80}",
            "BackendNotFound",
            "does not exist",
        ),
        (
            "{name: cart, port: 81}",
            "BackendNotFound",
            "no port 81; it has: 80",
        ),
        ("{name: db, port: 80}", "UnsupportedProtocol", "not HTTP"),
        (
            "{group: example.com, kind: Bucket, name: a}",
            "InvalidKind",
            "Bucket",
        ),
        (
            "{name: a, namespace: other, port: 80}",
            "RefNotPermitted",
            "ReferenceGrant",
        ),
    ] {
        world.apply([http("a", 1, &format!("{{backendRefs: [{backend}]}}"))]);
        let (status, said, message) = resolved(&world, "a");
        assert_eq!((status, said), (false, reason), "{backend}");
        assert!(message.contains(word), "{message}");
        assert!(
            message.contains("spec.rules[0].backendRefs[0]"),
            "{message}"
        );
        assert_eq!(first_backend(&world).cannot, message);
        assert!(
            world.said(RouteKind::Http, "a", ACCEPTED).0,
            "it is accepted all the same"
        );
    }
    world.apply([http("a", 1, TO_CART)]);
    assert_eq!(resolved(&world, "a").1, "ResolvedRefs");
}

#[test]
fn a_backend_that_comes_or_goes_is_noticed() {
    let mut world = shop([http("a", 1, "{backendRefs: [{name: later, port: 80}]}")]);
    assert_eq!(resolved(&world, "a").1, "BackendNotFound");
    world.apply([cluster_ip("later", &["10.0.0.7"])]);
    assert_eq!(resolved(&world, "a").1, "ResolvedRefs");
    assert_eq!(first_backend(&world).cannot, "");
    world.delete(Kind::Service, "later");
    assert_eq!(resolved(&world, "a").1, "BackendNotFound");
}

#[test]
fn a_grant_is_for_kinds_namespaces_and_names() {
    let other = Object::Service(Service {
        id: Id::new("other", "far"),
        ..service("far", Reach::ClusterIp(vec![ip("10.0.0.8")]))
    });
    let mirror = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: far, namespace: other, port: 80}}}], backendRefs: [{name: far, namespace: other, port: 80}]}";
    let mut world = shop([other, http("a", 1, mirror)]);
    let grant = |kind, namespace: &str, to: Option<&str>| {
        Object::ReferenceGrant(Box::new(Grant {
            id: Id::new("other", "g"),
            from: vec![GrantFrom {
                kind,
                namespace: namespace.into(),
            }],
            to: vec![to.map(Into::into)],
        }))
    };
    assert_eq!(resolved(&world, "a").1, "RefNotPermitted");
    for (kind, namespace, to, granted) in [
        (RouteKind::Grpc, "shop", None, false),
        (RouteKind::Http, "team", None, false),
        (RouteKind::Http, "shop", Some("near"), false),
        (RouteKind::Http, "shop", Some("far"), true),
        (RouteKind::Http, "shop", None, true),
    ] {
        world.apply([grant(kind.kind(), namespace, to)]);
        assert_eq!(
            resolved(&world, "a").0,
            granted,
            "{kind:?} {namespace} {to:?}"
        );
        assert_eq!(first_backend(&world).cannot.is_empty(), granted);
        let Some(v1::route_filter::Filter::Mirror(mirror)) = &world.rule().filters[0].filter else {
            panic!("no mirror");
        };
        assert_eq!(mirror.backend.as_ref().unwrap().cannot.is_empty(), granted);
    }
    world.core.handle([Event::Delete(Key {
        kind: Kind::ReferenceGrant,
        id: Id::new("other", "g"),
    })]);
    assert_eq!(resolved(&world, "a").1, "RefNotPermitted");
}

#[test]
fn a_rule_that_is_not_known_is_dropped_and_said_and_the_others_stay() {
    let spec = format!(
        "{{parentRefs: [{WEB}], rules: [{TO_CART}, {{name: odd, matches: [{{method: LIST}}]}}]}}"
    );
    let world = shop([as_route(route(RouteKind::Http, "a", 1, &spec))]);
    assert_eq!(world.routes("shop/web")[0].rules.len(), 1);
    assert!(world.said(RouteKind::Http, "a", ACCEPTED).0);
    let (status, reason, message) = world.said(RouteKind::Http, "a", PARTIALLY_INVALID);
    assert_eq!((status, reason), (true, "UnsupportedValue"));
    assert!(
        message.starts_with("Dropped Rule 1 (odd): spec.rules[1].matches[0].method"),
        "{message}"
    );
    assert_eq!(world.core.notes().len(), 1);
    let whole = shop([http("a", 1, TO_CART)]);
    let id = route_id(RouteKind::Http, "shop", "a");
    assert_eq!(whole.condition(&id, PARTIALLY_INVALID), None);
}

#[test]
fn what_a_filter_that_cannot_be_done_would_have_processed_gets_an_error() {
    let auth = "{matches: [{path: {value: /a}}], filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP}}], backendRefs: [{name: cart, port: 80}]}";
    let world = shop([http("a", 1, auth)]);
    let rule = world.rule();
    assert!(rule.cannot.contains("ExternalAuth"), "{}", rule.cannot);
    assert_eq!(rule.matches.len(), 1);
    assert!(rule.backends.is_empty());
    let (accepted, reason, message) = world.said(RouteKind::Http, "a", ACCEPTED);
    assert_eq!((accepted, reason), (false, "UnsupportedValue"));
    assert!(message.contains("answered with an error"), "{message}");
    let id = route_id(RouteKind::Http, "shop", "a");
    assert_eq!(
        world.condition(&id, PARTIALLY_INVALID),
        None,
        "it is wholly invalid"
    );

    let extension = "{filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Waf, name: x}}], backendRefs: [{name: cart, port: 80}]}";
    let world = shop([http("a", 1, extension)]);
    assert!(world.rule().cannot.contains("example.com/Waf x"));
    assert!(world.said(RouteKind::Http, "a", ACCEPTED).0);
    assert_eq!(resolved(&world, "a").1, "InvalidKind");

    let of_backend = "{backendRefs: [{name: cart, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Waf, name: x}}]}, {name: web, port: 80}]}";
    let world = shop([http("a", 1, of_backend)]);
    let rule = world.rule();
    let shares = rule
        .backends
        .iter()
        .map(|one| one.backend.as_ref().unwrap());
    let shares: Vec<bool> = shares.map(|to| to.cannot.contains("Waf")).collect();
    assert_eq!(
        (rule.cannot.as_str(), &shares[..]),
        ("", &[true, false][..])
    );
    assert_eq!(resolved(&world, "a").1, "InvalidKind");

    let both = "{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {}}]}";
    let world = shop([http("a", 1, both)]);
    let (accepted, reason, _) = world.said(RouteKind::Http, "a", ACCEPTED);
    assert_eq!((accepted, reason), (false, "IncompatibleFilters"));
    assert!(!world.rule().cannot.is_empty());
}

#[test]
fn that_a_redirect_is_not_mirrored_is_said() {
    let rule = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: cart, port: 80}}}, {type: RequestRedirect, requestRedirect: {}}]}";
    let world = shop([http("a", 1, rule)]);
    let (accepted, _, message) = world.said(RouteKind::Http, "a", ACCEPTED);
    assert!(accepted && message.contains("not mirrored"), "{message}");
}

#[test]
fn host_names_are_said_to_mean_nothing() {
    let spec = format!("{{parentRefs: [{WEB}], hostnames: [a.b], rules: [{TO_CART}]}}");
    let world = shop([as_route(route(RouteKind::Http, "a", 1, &spec))]);
    let (accepted, _, message) = world.said(RouteKind::Http, "a", ACCEPTED);
    assert!(
        accepted && message.contains("hostnames are not looked at"),
        "{message}"
    );
}

#[test]
fn parents_that_are_gateways_are_not_ours() {
    let spec = "{parentRefs: [{name: public}], rules: [{}]}";
    let world = shop([as_route(route(RouteKind::Http, "a", 1, spec))]);
    let verdicts = world.core.route_verdicts();
    let verdict = &verdicts[&route_id(RouteKind::Http, "shop", "a")];
    assert!(
        verdict.parents.is_empty(),
        "known, so that what was ours can go"
    );
    assert!(world.core.notes().is_empty());
}

#[test]
fn each_parent_has_conditions_of_its_own() {
    let spec = format!(
        "{{parentRefs: [{{name: public}}, {WEB}, {{group: '', kind: Service, name: none}}], rules: [{TO_CART}]}}"
    );
    let world = shop([as_route(route(RouteKind::Http, "a", 1, &spec))]);
    let verdicts = world.core.route_verdicts();
    let verdict = &verdicts[&route_id(RouteKind::Http, "shop", "a")];
    let shown: Vec<_> = verdict
        .parents
        .iter()
        .map(|one| (one.parent.index, one.conditions[0].status))
        .collect();
    assert_eq!(shown, [(1, true), (2, false)]);
}

#[test]
fn routes_beyond_what_a_sidecar_takes_are_left_out_the_newest_first() {
    let rule = "{matches: [{path: {type: RegularExpression, value: '/[a-z0-9-]{1,63}(\\.[a-z0-9-]{1,63}){0,3}/x'}}], backendRefs: [{name: cart, port: 80}]}";
    let one = route(
        RouteKind::Http,
        "r",
        1,
        &format!("{{parentRefs: [{WEB}], rules: [{rule}]}}"),
    );
    let bytes = one.says.rules[0].pattern_bytes;
    let fit = remora_proto::bounds::MAX_ROUTE_PATTERN_BYTES / bytes;
    let many = i64::try_from(fit).unwrap() + 3;
    let named = |n: i64| {
        let mut named = one.clone();
        named.id.id = Id::new("shop", &format!("r{n:0>5}"));
        named.created = Some(n);
        as_route(named)
    };
    let mut world = shop((0..many).map(named));
    assert_eq!(world.routes("shop/web")[0].rules.len(), fit);
    let newest = format!("r{:0>5}", many - 1);
    let (accepted, reason, _) = world.said(RouteKind::Http, &newest, ACCEPTED);
    assert_eq!((accepted, reason), (false, "TooManyRoutes"));
    assert!(world.said(RouteKind::Http, "r00000", ACCEPTED).0);
    for n in 0..3 {
        world.delete(Kind::HttpRoute, &format!("r{n:0>5}"));
    }
    assert!(world.said(RouteKind::Http, &newest, ACCEPTED).0);
}

#[test]
fn the_order_of_events_does_not_matter() {
    let make = |reverse: bool| {
        let mut objects = vec![
            two_ports(),
            cluster_ip("cart", &["10.0.0.1"]),
            http("a", 1, TO_CART),
            http("b", 2, "{backendRefs: [{name: none, port: 80}]}"),
            traffic_policy(
                "p",
                "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}",
                "timeouts: {request: 1s}",
            ),
        ];
        if reverse {
            objects.reverse();
        }
        let mut world = world();
        for object in objects {
            world.apply([object]);
        }
        world
    };
    let (one, other) = (make(false), make(true));
    assert_eq!(one.service("shop/web"), other.service("shop/web"));
    assert_eq!(one.core.route_verdicts(), other.core.route_verdicts());
}

#[test]
fn a_grpc_route_without_rules_has_its_ports_and_nothing_matches() {
    let spec = format!("{{parentRefs: [{WEB}]}}");
    let world = shop([
        as_route(route(RouteKind::Grpc, "g", 1, &spec)),
        http("h", 1, TO_CART),
    ]);
    let routes = world.routes("shop/web");
    assert!(routes[0].grpc && routes[0].rules.is_empty(), "{routes:?}");
    assert!(world.said(RouteKind::Grpc, "g", ACCEPTED).0);
    assert_eq!(world.said(RouteKind::Http, "h", ACCEPTED).1, "Conflicted");
}
