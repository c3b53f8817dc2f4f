//! Routes, resolved for each Service and for whom.

mod consumers;
mod verdicts;

use serde_json::{Value, json};

use super::*;
use crate::core::routes::verdict::{ACCEPTED, PARTIALLY_INVALID, RESOLVED_REFS, RouteCondition};
use crate::core::routes::{Grant, GrantFrom, Route, RouteId, RouteKind};
use crate::gateway;
use crate::policy::parse;

fn route_id(kind: RouteKind, namespace: &str, name: &str) -> RouteId {
    RouteId {
        kind,
        id: Id::new(namespace, name),
    }
}

/// A route of Namespace shop, made `created` seconds after the epoch.
fn route(kind: RouteKind, name: &str, created: i64, spec: &str) -> Route {
    route_in("shop", kind, name, created, spec)
}

fn route_in(namespace: &str, kind: RouteKind, name: &str, created: i64, spec: &str) -> Route {
    let id = route_id(kind, namespace, name);
    let spec = json!({"spec": serde_saphyr::from_str::<Value>(spec).unwrap()});
    let (says, _) = gateway::route::read(&id, &spec);
    Route {
        id,
        created: Some(created),
        generation: 1,
        says,
    }
}

fn as_route(route: Route) -> Object {
    Object::Route(Box::new(route))
}

/// An HTTPRoute of the Service web with one rule.
fn http(name: &str, created: i64, rule: &str) -> Object {
    let spec = format!("{{parentRefs: [{WEB}], rules: [{rule}]}}");
    as_route(route(RouteKind::Http, name, created, &spec))
}

const WEB: &str = "{group: '', kind: Service, name: web}";
const TO_CART: &str = "{backendRefs: [{name: cart, port: 80}]}";

fn traffic_policy(name: &str, target: &str, rest: &str) -> Object {
    let text = format!("{{targetRefs: [{target}], {rest}}}");
    let spec: Value = serde_saphyr::from_str(&text).unwrap();
    let parsed = parse::spec("shop", name, &spec).unwrap();
    as_object(TrafficPolicy {
        id: Id::new("shop", name),
        created: None,
        generation: 1,
        scope: parsed.scope,
        settings: parsed.settings,
    })
}

/// With the Services web and cart, and what else there is.
fn shop(more: impl IntoIterator<Item = Object>) -> World {
    let mut world = world();
    world.apply([
        cluster_ip("web", &["10.0.0.2"]),
        cluster_ip("cart", &["10.0.0.1"]),
    ]);
    world.apply(more);
    world
}

impl World {
    fn routes(&self, service: &str) -> Vec<v1::PortRoutes> {
        self.service(service).unwrap().routes
    }

    /// The one rule of the one set of routes of `shop/web`.
    fn rule(&self) -> v1::RouteRule {
        let routes = self.routes("shop/web");
        assert_eq!((routes.len(), routes[0].rules.len()), (1, 1), "{routes:?}");
        routes[0].rules[0].clone()
    }

    /// Of the ports the names of the routes, rule by rule.
    fn on_ports(&self, service: &str) -> Vec<(Vec<u32>, Vec<String>)> {
        shown(&self.routes(service))
    }

    fn condition(&self, id: &RouteId, kind: &str) -> Option<RouteCondition> {
        let verdicts = self.core.route_verdicts();
        let mut conditions = verdicts[id].parents[0].conditions.iter();
        conditions.find(|one| one.kind == kind).cloned()
    }

    /// Reason and message of one condition of a route of Namespace shop.
    fn said(&self, kind: RouteKind, name: &str, condition: &str) -> (bool, &'static str, String) {
        let id = route_id(kind, "shop", name);
        let found = self.condition(&id, condition).unwrap();
        (found.status, found.reason, found.message)
    }
}

fn shown(routes: &[v1::PortRoutes]) -> Vec<(Vec<u32>, Vec<String>)> {
    let names = |routes: &v1::PortRoutes| {
        let rules = routes.rules.iter();
        rules
            .map(|rule| rule.route.as_ref().unwrap().name.clone())
            .collect()
    };
    routes
        .iter()
        .map(|one| (one.ports.clone(), names(one)))
        .collect()
}

fn two_ports() -> Object {
    let mut web = service("web", Reach::ClusterIp(vec![ip("10.0.0.2")]));
    web.ports = vec![
        port("http", 80, v1::Protocol::Http1),
        port("admin", 81, v1::Protocol::Detect),
        port("db", 5432, v1::Protocol::Tcp),
    ];
    Object::Service(web)
}

#[test]
fn the_oldest_route_comes_first_and_a_rule_names_its_route() {
    let world = shop([
        http("newer", 2, TO_CART),
        http(
            "older",
            1,
            "{name: canary, backendRefs: [{name: cart, port: 80, weight: 3}]}",
        ),
        http("also-newer", 2, TO_CART),
    ]);
    let names = ["older", "also-newer", "newer"].map(str::to_owned).to_vec();
    assert_eq!(world.on_ports("shop/web"), [(vec![80], names)]);
    let rule = world.routes("shop/web")[0].rules[0].clone();
    let reference = rule.route.unwrap();
    assert_eq!(
        (reference.kind.as_str(), reference.namespace.as_str()),
        ("HTTPRoute", "shop")
    );
    assert_eq!((reference.generation, reference.rule), (1, 0));
    assert_eq!(reference.rule_name, "canary");
    let backend = rule.backends[0].clone();
    assert_eq!(backend.weight, 3);
    let backend = backend.backend.unwrap();
    assert_eq!(
        (
            backend.service.as_str(),
            backend.port,
            backend.cannot.as_str()
        ),
        ("cart", 80, "")
    );
    assert!(world.routes("shop/cart").is_empty());
    assert!(world.core.notes().is_empty());
}

#[test]
fn a_parent_means_its_port_by_number_or_by_name_or_both() {
    let of = |name: &str, part: &str| {
        let spec = format!(
            "{{parentRefs: [{{group: '', kind: Service, name: web{part}}}], rules: [{TO_CART}]}}"
        );
        as_route(route(RouteKind::Http, name, 1, &spec))
    };
    let mut world = shop([two_ports()]);
    for (part, ports) in [
        ("", vec![80, 81]),
        (", port: 81", vec![81]),
        (", sectionName: http", vec![80]),
        (", sectionName: admin, port: 81", vec![81]),
    ] {
        world.apply([of("a", part)]);
        let on: Vec<_> = world.on_ports("shop/web");
        assert_eq!(on, [(ports, vec!["a".to_owned()])], "{part}");
    }
    for (part, reason) in [
        (", port: 82", "NoMatchingParent"),
        (", sectionName: admin, port: 80", "NoMatchingParent"),
        (", sectionName: none", "NoMatchingParent"),
        (", port: 5432", "UnsupportedProtocol"),
    ] {
        world.apply([of("a", part)]);
        assert!(world.routes("shop/web").is_empty(), "{part}");
        let said = world.said(RouteKind::Http, "a", ACCEPTED);
        assert_eq!((said.0, said.1), (false, reason), "{part}: {}", said.2);
    }
    // Ports with other routes are sent apart.
    world.apply([of("a", ""), of("b", ", port: 81")]);
    let both = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(
        world.on_ports("shop/web"),
        [(vec![80], vec!["a".to_owned()]), (vec![81], both)]
    );
}

#[test]
fn a_grpc_route_has_its_port_before_every_http_route() {
    let grpc = |part: &str| {
        let spec = format!(
            "{{parentRefs: [{{group: '', kind: Service, name: web{part}}}], rules: [{TO_CART}]}}"
        );
        as_route(route(RouteKind::Grpc, "g", 9, &spec))
    };
    let mut world = shop([two_ports(), http("h", 1, TO_CART), grpc(", port: 81")]);
    let name = |name: &str| vec![name.to_owned()];
    assert_eq!(
        world.on_ports("shop/web"),
        [(vec![80], name("h")), (vec![81], name("g"))]
    );
    assert!(world.routes("shop/web")[1].grpc && !world.routes("shop/web")[0].grpc);
    let (accepted, _, message) = world.said(RouteKind::Http, "h", ACCEPTED);
    assert!(accepted && message.contains("not on port 81"), "{message}");
    world.apply([grpc("")]);
    assert_eq!(world.on_ports("shop/web"), [(vec![80, 81], name("g"))]);
    let (accepted, reason, _) = world.said(RouteKind::Http, "h", ACCEPTED);
    assert_eq!((accepted, reason), (false, "Conflicted"));
    world.delete(Kind::GrpcRoute, "g");
    assert_eq!(world.on_ports("shop/web"), [(vec![80, 81], name("h"))]);
    assert!(world.said(RouteKind::Http, "h", ACCEPTED).0);
}

const OF_ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}";
const OF_RULE: &str =
    "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a, sectionName: canary}";

/// With a route that says something itself, and policies of it and of its parent.
fn layered() -> World {
    let rule = "{name: canary, timeouts: {request: 7s, backendRequest: 0s}, retry: {codes: [500], backoff: 1s}, backendRefs: [{name: cart, port: 80}]}";
    shop([
        http("a", 1, rule),
        traffic_policy(
            "service",
            "{kind: Service, name: web}",
            "retries: {attempts: 9, methods: [POST], budget: {percent: 50}}, timeouts: {request: 1s, perTry: 1s, idle: 9s}",
        ),
        traffic_policy(
            "route",
            OF_ROUTE,
            "retries: {methods: [PATCH]}, timeouts: {responseHeaders: 3s}, circuitBreaker: {maxRequests: 5, maxRetries: 1}, rateLimits: [{name: r, limit: {requests: 1, per: second}, enforcedAt: Caller}]",
        ),
    ])
}

#[test]
fn the_routes_own_timeouts_and_retries_win_over_policies() {
    let world = layered();
    let rule = world.rule();
    let retries = rule.retries.unwrap();
    assert_eq!(
        retries.attempts, 1,
        "the route's default, since it has retry"
    );
    let on = retries.on.unwrap();
    assert_eq!(on.status_codes, [500]);
    assert!(on.connect_failure && on.refused_stream && !on.reset && !on.gateway_error);
    assert!(!on.timeout, "attempts have no end of their own");
    assert_eq!(
        (retries.backoff_base_ms, retries.backoff_max_ms),
        (1_000, 1_000)
    );
    assert_eq!(retries.methods, ["PATCH"]);
    assert_eq!(retries.budget.unwrap().percent, 50);
    assert_eq!(
        rule.timeouts,
        Some(v1::Timeouts {
            request_ms: Some(7_000),
            per_try_ms: None,
            idle_ms: Some(9_000),
            response_headers_ms: Some(3_000),
        })
    );
}

#[test]
fn of_policies_the_rules_wins_over_the_routes_and_each_is_counted() {
    let mut world = layered();
    let rule = world.rule();
    let limits = rule.limits.unwrap();
    assert_eq!(
        (limits.max_requests, limits.max_retries),
        (Some(5), Some(1))
    );
    assert!(rule.own_rate_limits);
    assert_eq!(rule.rate_limits[0].name, "r");
    let names = |rule: &v1::RouteRule| -> Vec<String> {
        rule.policies.iter().map(|one| one.name.clone()).collect()
    };
    assert_eq!(names(&rule), ["route"]);
    world.apply([traffic_policy(
        "rule",
        OF_RULE,
        "circuitBreaker: {maxRequests: 2}, rateLimits: []",
    )]);
    let rule = world.rule();
    assert_eq!(names(&rule), ["rule", "route"]);
    let limits = rule.limits.unwrap();
    assert_eq!(
        (limits.max_requests, limits.max_retries),
        (Some(2), Some(1))
    );
    assert!(rule.own_rate_limits && rule.rate_limits.is_empty());
    // They take part in the Service's resource, and so are counted.
    let held = world.store.find(ResourceType::Service, "shop/web").unwrap();
    let mut taking: Vec<_> = held.policies.iter().map(|id| id.name.to_string()).collect();
    taking.sort();
    assert_eq!(taking, ["route", "rule", "service"]);
    world.delete(Kind::TrafficPolicy, "rule");
    world.delete(Kind::TrafficPolicy, "route");
    let rule = world.rule();
    assert!(rule.limits.is_none() && !rule.own_rate_limits && rule.policies.is_empty());
}

#[test]
fn what_neither_route_nor_policy_says_is_left_to_the_service() {
    let world = shop([
        http("a", 1, TO_CART),
        traffic_policy(
            "service",
            "{kind: Service, name: web}",
            "retries: {attempts: 9}, timeouts: {request: 1s}",
        ),
    ]);
    let rule = world.rule();
    assert_eq!((rule.retries, rule.timeouts), (None, None));
}

#[test]
fn a_retry_without_codes_is_of_what_was_not_processed_or_as_policies_say() {
    let mut world = shop([http(
        "a",
        1,
        "{retry: {attempts: 3}, backendRefs: [{name: cart, port: 80}]}",
    )]);
    let on = world.rule().retries.unwrap().on.unwrap();
    assert!(on.connect_failure && on.refused_stream && !on.reset && !on.gateway_error);
    world.apply([traffic_policy(
        "service",
        "{kind: Service, name: web}",
        "retries: {'on': [reset]}",
    )]);
    let retries = world.rule().retries.unwrap();
    assert_eq!(retries.attempts, 3);
    let on = retries.on.unwrap();
    assert!(on.reset && !on.connect_failure);
}

#[test]
fn an_attempt_that_the_route_bounds_is_followed_by_the_next() {
    let world = shop([http(
        "a",
        1,
        "{retry: {codes: [500]}, timeouts: {backendRequest: 1s}, backendRefs: [{name: cart, port: 80}]}",
    )]);
    let on = world.rule().retries.unwrap().on.unwrap();
    assert!(on.timeout && !on.reset);
}

#[test]
fn policies_of_routes_are_judged_by_what_is_there() {
    let mut world = shop([
        traffic_policy("first", OF_ROUTE, "timeouts: {request: 1s}"),
        traffic_policy("second", OF_ROUTE, "timeouts: {request: 2s}"),
        traffic_policy("rule", OF_RULE, "timeouts: {request: 3s}"),
    ]);
    let reasons = world.reasons();
    assert!(
        reasons
            .values()
            .all(|reason| *reason == Reason::TargetNotFound),
        "{reasons:?}"
    );
    world.apply([http("a", 1, TO_CART)]);
    let reasons = world.reasons();
    assert_eq!(reasons["first"], Reason::Accepted);
    assert_eq!(reasons["second"], Reason::Conflicted);
    assert_eq!(
        reasons["rule"],
        Reason::TargetNotFound,
        "no rule of this name"
    );
    world.apply([http(
        "a",
        1,
        "{name: canary, backendRefs: [{name: cart, port: 80}]}",
    )]);
    assert_eq!(world.reasons()["rule"], Reason::Accepted);
    assert_eq!(world.rule().timeouts.unwrap().request_ms, Some(3_000));
    let gateway = "{parentRefs: [{name: public}], rules: [{}]}";
    world.apply([as_route(route(RouteKind::Http, "a", 1, gateway))]);
    assert_eq!(
        world.reasons()["first"],
        Reason::TargetNotFound,
        "no call goes by it"
    );
}

/// The cost of a change, as a stream pays it.
#[test]
fn a_change_of_one_route_of_a_thousand_costs_one_resource() {
    let many = (0..1_000).map(|n| {
        let rule = format!(
            "{{matches: [{{path: {{value: /p{n}}}}}], backendRefs: [{{name: cart, port: 80}}]}}"
        );
        http(&format!("r{n:0>4}"), n, &rule)
    });
    let mut world = shop(many);
    let mailbox = Arc::new(Mailbox::of("shop"));
    let names = ["shop/web", "shop/cart"].map(Name::from);
    for name in &names {
        world.store.watch(ResourceType::Service, name, &mailbox);
    }
    let changed = "{matches: [{path: {value: /changed}}], backendRefs: [{name: cart, port: 80}]}";
    world.apply([http("r0500", 500, changed)]);
    let told = mailbox.take();
    assert_eq!(told.len(), 1, "{told:?}");
    let bytes = world
        .store
        .find(ResourceType::Service, "shop/web")
        .unwrap()
        .encoded
        .len();
    println!("1,000 routes: {bytes} bytes");
    assert!((50_000..200_000).contains(&bytes), "{bytes}");
    let untouched = |world: &World| {
        world
            .store
            .find(ResourceType::Service, "shop/cart")
            .unwrap()
    };
    let before = untouched(&world);
    world.delete(Kind::HttpRoute, "r0500");
    assert_eq!(mailbox.take().len(), 1);
    assert!(Arc::ptr_eq(&before, &untouched(&world)));
    assert_eq!(world.routes("shop/web")[0].rules.len(), 999);
}
