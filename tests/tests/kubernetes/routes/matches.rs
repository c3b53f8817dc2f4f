//! Which rule takes a request, and which backend then.

use super::world::{HOME, World, got, kind};

/// Each with the version that is to answer.
const MATCHES: &str = "  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
    - name: exact
      matches: [{path: {type: Exact, value: /one}}]
      backendRefs: [{name: echo-v1, port: 80}]
    - name: long-prefix
      matches: [{path: {type: PathPrefix, value: /one/two/}}]
      backendRefs: [{name: echo-v2, port: 80}]
    - name: pattern
      matches: [{path: {type: RegularExpression, value: '/o[a-z]+/[0-9]+'}}]
      backendRefs: [{name: echo-v1, port: 80}]
    - name: header
      matches: [{path: {type: PathPrefix, value: /h}, headers: [{name: X-Kind, value: b}, {name: x-more, type: RegularExpression, value: 'a+'}]}]
      backendRefs: [{name: echo-v2, port: 80}]
    - name: query
      matches: [{path: {type: PathPrefix, value: /q}, queryParams: [{name: v, value: '2'}]}]
      backendRefs: [{name: echo-v2, port: 80}]
    - name: method
      matches: [{path: {type: PathPrefix, value: /m}, method: DELETE}]
      backendRefs: [{name: echo-v2, port: 80}]
    - name: rest
      matches: [{path: {type: PathPrefix, value: /h}}, {path: {type: PathPrefix, value: /q}}, {path: {type: PathPrefix, value: /m}}, {path: {type: PathPrefix, value: /one}}]
      backendRefs: [{name: echo-v1, port: 80}]
";

#[test]
fn paths_headers_queries_and_methods_decide_by_precedence() {
    let Some(world) = World::make() else { return };
    world.route("HTTPRoute", HOME, "echo", MATCHES);
    // Nothing else is known of this route: so it is in force.
    world.comes_to(HOME, "http://echo/nowhere", &[], "404 no_route");
    let cases: [(&str, &[&str], &str); 13] = [
        ("/one", &[], "200 v1"),
        ("/one/two", &[], "200 v2"),
        ("/one/two/three?x=/one", &[], "200 v2"),
        ("/one/twofold", &[], "200 v1"),
        ("/other/12", &[], "200 v1"),
        ("/other/x", &[], "404 no_route"),
        (
            "/h",
            &["--header", "x-kind: b", "--header", "x-more: aaa"],
            "200 v2",
        ),
        ("/h", &["--header", "x-kind: b"], "200 v1"),
        (
            "/h",
            &["--header", "x-kind: B", "--header", "x-more: a"],
            "200 v1",
        ),
        ("/q?a=1&v=2", &[], "200 v2"),
        ("/q?v=1&v=2", &[], "200 v1"),
        ("/m", &["--method", "DELETE"], "200 v2"),
        ("/m", &["--method", "POST"], "200 v1"),
    ];
    for (path, more, expected) in cases {
        let answer = world.call(HOME, &format!("http://echo{path}"), more);
        assert_eq!(kind(&answer), expected, "{path} {more:?}: {answer}");
    }
}

fn split(first: u32, second: u32) -> String {
    format!(
        "  parentRefs: [{{group: '', kind: Service, name: echo}}]
  rules:
    - backendRefs: [{{name: echo-v1, port: 80, weight: {first}}}, {{name: echo-v2, port: 80, weight: {second}}}]
"
    )
}

#[test]
fn a_split_holds_and_a_weight_of_zero_gets_not_one_more() {
    let Some(world) = World::make() else { return };
    world.route("HTTPRoute", HOME, "echo", &split(0, 1));
    world.comes_to(HOME, "http://echo/", &[], "200 v2");
    world.in_force(HOME, "routes/echo", || {
        world.route("HTTPRoute", HOME, "echo", &split(90, 10));
    });
    let counts = world.count(HOME, "http://echo/", 10_000);
    eprintln!("90 to 10, of 10,000: {counts:?}");
    let second = counts["200 v2"];
    assert!((850..=1150).contains(&second), "{counts:?}");
    assert_eq!(counts["200 v1"] + second, 10_000, "{counts:?}");
    world.in_force(HOME, "routes/echo", || {
        world.route("HTTPRoute", HOME, "echo", &split(100, 0));
    });
    let counts = world.count(HOME, "http://echo/", 1_000);
    assert_eq!(counts.get("200 v1"), Some(&1_000), "{counts:?}");
}

#[test]
fn a_backend_that_cannot_be_taken_answers_500_by_its_share() {
    let Some(world) = World::make() else { return };
    let half = split(1, 1).replace("name: echo-v2", "name: nowhere");
    world.write("HTTPRoute", HOME, "echo", &half);
    let said = world.says(
        "HTTPRoute",
        HOME,
        "echo",
        "ResolvedRefs",
        "False BackendNotFound",
    );
    assert!(said.contains("nowhere"), "{said}");
    world.comes_to(HOME, "http://echo/", &[], "500 no_backend");
    let counts = world.count(HOME, "http://echo/", 1_000);
    let failed = counts["500 no_backend"];
    assert!((400..=600).contains(&failed), "{counts:?}");
    assert_eq!(counts["200 v1"] + failed, 1_000, "{counts:?}");
}

#[test]
fn a_grpc_route_goes_by_service_and_method() {
    let Some(world) = World::make() else { return };
    let spec = "  parentRefs: [{group: '', kind: Service, name: echo, port: 7070}]
  rules:
    - matches: [{method: {service: shop.Cart, method: Add}}]
      backendRefs: [{name: echo-v2, port: 7070}]
    - matches: [{method: {service: shop.Cart}, headers: [{name: x-kind, value: b}]}, {method: {type: RegularExpression, service: 'bank\\..*'}}]
      backendRefs: [{name: echo-v1, port: 7070}]
";
    world.route("GRPCRoute", HOME, "echo", spec);
    let url = |method: &str| format!("http://echo:7070/{method}");
    world.comes_to(HOME, &url("shop.Cart/Add"), &["--grpc"], "200 v2 grpc 0");
    let cases: [(&str, &[&str], &str); 4] = [
        (
            "shop.Cart/Remove",
            &["--header", "x-kind: b"],
            "200 v1 grpc 0",
        ),
        ("bank.Till/Open", &[], "200 v1 grpc 0"),
        ("shop.Cart/Remove", &[], "200 no_route grpc 12"),
        (
            "shop.Cart/Add",
            &["--header", "x-answer: 5"],
            "200 v2 grpc 5",
        ),
    ];
    for (method, more, expected) in cases {
        let answer = world.call(HOME, &url(method), &[&["--grpc"], more].concat());
        assert_eq!(kind(&answer), expected, "{method} {more:?}: {answer}");
    }
    // The other ports are as they were.
    let answer = world.call(HOME, "http://echo/shop.Cart/Remove", &[]);
    assert_eq!(got(&answer)["path"], "/shop.Cart/Remove");
}
