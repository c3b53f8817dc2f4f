//! Whose calls a route is for.

use super::world::{ABROAD, HOME, World, install, kind, uninstall};
use crate::cluster::eventually;

fn to(parent: &str, backend: &str) -> String {
    format!(
        "  parentRefs: [{{group: '', kind: Service, {parent}}}]
  rules: [{{backendRefs: [{{{backend}, port: 80}}]}}]
"
    )
}

#[test]
fn a_parent_may_be_one_port_by_number_or_by_name() {
    let Some(world) = World::make() else { return };
    world.route(
        "HTTPRoute",
        HOME,
        "by-port",
        &to("name: echo, port: 80", "name: echo-v1"),
    );
    let by_name = to("name: echo, sectionName: alt", "name: echo-v2");
    world.route("HTTPRoute", HOME, "by-name", &by_name);
    for _ in 0..3 {
        world.comes_to(HOME, "http://echo/", &[], "200 v1");
        world.comes_to(HOME, "http://echo:8081/", &[], "200 v2");
    }
    let counts = world.count(HOME, "http://echo/", 50);
    assert_eq!(counts.get("200 v1"), Some(&50), "{counts:?}");
    let counts = world.count(HOME, "http://echo:8081/", 50);
    assert_eq!(counts.get("200 v2"), Some(&50), "{counts:?}");
}

#[test]
fn calls_to_a_pods_own_address_are_not_routed() {
    let Some(world) = World::make() else { return };
    world.route(
        "HTTPRoute",
        HOME,
        "echo",
        &to("name: echo", "name: echo-v1"),
    );
    world.comes_to(HOME, "http://echo/", &[], "200 v1");
    let pod = world.cluster().json(&["get", "pod", "-n", HOME, "echo-v2"]);
    let ip = pod["status"]["podIP"].as_str().unwrap().to_owned();
    let named = ["--header", "host: echo"];
    let answer = world.call(HOME, &format!("http://{ip}:8080/"), &named);
    assert_eq!(kind(&answer), "200 v2", "{answer}");
    // Nor those to a Service without an address of its own.
    let counts = world.count(HOME, "http://bare:8080/", 20);
    assert!(
        counts.keys().all(|kind| kind.starts_with("200")),
        "{counts:?}"
    );
}

#[test]
fn a_consumer_route_is_for_the_callers_of_its_namespace_alone() {
    let Some(world) = World::make() else { return };
    let url = format!("http://echo.{HOME}/");
    world.route(
        "HTTPRoute",
        HOME,
        "echo",
        &to("name: echo", "name: echo-v1"),
    );
    world.comes_to(HOME, &url, &[], "200 v1");
    world.comes_to(ABROAD, &url, &[], "200 v1");
    // Its own Service needs no grant.
    let consumer = to(&format!("name: echo, namespace: {HOME}"), "name: echo-v3");
    world.route("HTTPRoute", ABROAD, "echo", &consumer);
    world.comes_to(ABROAD, &url, &[], "200 v3");
    let counts = world.count(HOME, &url, 50);
    assert_eq!(counts.get("200 v1"), Some(&50), "{counts:?}");
    world
        .cluster()
        .kubectl(&["delete", "httproute", "-n", ABROAD, "echo"]);
    world.comes_to(ABROAD, &url, &[], "200 v1");
}

#[test]
fn a_backend_in_another_namespace_needs_a_grant_that_is_there() {
    let Some(world) = World::make() else { return };
    let foreign = format!("name: echo-v3, namespace: {ABROAD}");
    world.write("HTTPRoute", HOME, "echo", &to("name: echo", &foreign));
    world.says(
        "HTTPRoute",
        HOME,
        "echo",
        "ResolvedRefs",
        "False RefNotPermitted",
    );
    world.comes_to(HOME, "http://echo/", &[], "500 no_backend");
    let grant = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: home, namespace: {ABROAD}}}\n\
         spec:\n  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {HOME}}}]\n  \
         to: [{{group: '', kind: Service, name: echo-v3}}]\n"
    );
    world.cluster().apply(&grant);
    world.says(
        "HTTPRoute",
        HOME,
        "echo",
        "ResolvedRefs",
        "True ResolvedRefs",
    );
    world.comes_to(HOME, "http://echo/", &[], "200 v3");
    world
        .cluster()
        .kubectl(&["delete", "referencegrant", "-n", ABROAD, "home"]);
    world.comes_to(HOME, "http://echo/", &[], "500 no_backend");
}

#[test]
fn on_one_port_a_grpc_route_comes_before_an_http_route() {
    let Some(world) = World::make() else { return };
    world.route(
        "HTTPRoute",
        HOME,
        "http",
        &to("name: echo", "name: echo-v1"),
    );
    let grpc = "  parentRefs: [{group: '', kind: Service, name: echo, port: 7070}]
  rules: [{backendRefs: [{name: echo-v2, port: 7070}]}]
";
    world.route("GRPCRoute", HOME, "grpc", grpc);
    world.comes_to(HOME, "http://echo:7070/a.B/C", &["--grpc"], "200 v2 grpc 0");
    // Of this one nothing was written, so nothing but its words tells that it was judged anew.
    eventually(30, "the other says on which port it is not", || {
        let said = world.says("HTTPRoute", HOME, "http", "Accepted", "True Accepted");
        if said.contains("not on port 7070") {
            Ok(())
        } else {
            Err(said)
        }
    });
    let only = to("name: echo, port: 7070", "name: echo-v1");
    world.write("HTTPRoute", HOME, "only", &only);
    world.says("HTTPRoute", HOME, "only", "Accepted", "False Conflicted");
    world.comes_to(HOME, "http://echo/", &[], "200 v1");
}

#[test]
fn without_the_definitions_calls_go_on_and_with_them_routes_are_found_again() {
    let Some(world) = World::make() else { return };
    let restarts = || {
        let label = "app.kubernetes.io/name=remora-control-plane";
        let pods = world.cluster().pods("remora-system", label);
        let counts = pods
            .iter()
            .map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].clone());
        counts.collect::<Vec<_>>()
    };
    let before = restarts();
    world.route(
        "HTTPRoute",
        HOME,
        "echo",
        &to("name: echo", "name: echo-v1"),
    );
    world.comes_to(HOME, "http://echo/", &[], "200 v1");
    uninstall(world.cluster());
    // The route is gone with its definition: both versions answer again.
    world.comes_to(HOME, "http://echo/", &[], "200 v2");
    let counts = world.count(HOME, "http://echo/", 100);
    assert!(
        counts.keys().all(|kind| kind.starts_with("200")),
        "{counts:?}"
    );
    assert!(install(world.cluster(), "standard"));
    world.route(
        "HTTPRoute",
        HOME,
        "echo",
        &to("name: echo", "name: echo-v1"),
    );
    world.comes_to(HOME, "http://echo/", &[], "200 v1");
    let counts = world.count(HOME, "http://echo/", 100);
    assert_eq!(counts.get("200 v1"), Some(&100), "{counts:?}");
    assert_eq!(restarts(), before);
    assert!(install(world.cluster(), "experimental"));
    world.says("HTTPRoute", HOME, "echo", "Accepted", "True Accepted");
}
