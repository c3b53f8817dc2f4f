//! Which rule a request takes.

use remora_proto::v1::{RouteMatch, route_match::Path};

use super::stage::{Change, exactly, form, path, prefix, to};
use crate::mesh::Mesh;

#[tokio::test]
async fn the_most_exact_match_wins_whatever_the_order() {
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for (name, host) in [
        ("all", 10),
        ("a", 11),
        ("ab", 12),
        ("exact", 13),
        ("form", 14),
    ] {
        apps.push((name, mesh.version(name, host).await));
    }
    mesh.routes(vec![
        to("all"),
        to("a").when(prefix("/a")),
        to("ab").when(prefix("/a/b")),
        to("form").when(path(Path::PathPattern("/a/[0-9]+".into()))),
        to("exact").when(path(Path::PathExact("/a/b/c".into()))),
    ]);
    let mut client = mesh.client().await;
    for (asked, expected) in [
        ("/", "all"),
        ("/abc", "all"),
        ("/a", "a"),
        ("/a/", "a"),
        ("/a/x", "a"),
        ("/a/17", "form"),
        ("/a/b", "ab"),
        ("/a/b/c", "exact"),
        ("/a/b/c/d?e=/a", "ab"),
    ] {
        let before: Vec<usize> = apps.iter().map(|(_, app)| app.count()).collect();
        assert_eq!(client.get("catalog:8080", asked).await.status, 200);
        for ((name, app), before) in apps.iter().zip(before) {
            let more = usize::from(*name == expected);
            assert_eq!(app.count() - before, more, "{asked} at {name}");
        }
    }
}

#[tokio::test]
async fn headers_cookies_parameters_and_methods_tell_requests_apart() {
    let mesh = Mesh::start().await;
    let old = mesh.version("v1", 10).await;
    let new = mesh.version("v2", 11).await;
    let with = |change: fn(&mut RouteMatch)| {
        let mut one = RouteMatch::default();
        change(&mut one);
        one
    };
    mesh.routes(vec![
        to("v1"),
        to("v2")
            .when(with(|it| it.headers = vec![exactly("x-user", "me")]))
            .when(with(|it| {
                it.headers = vec![form("cookie", "(.*; ?)?group=b(;.*)?")]
            }))
            .when(with(|it| {
                it.headers = vec![exactly("host", "catalog.shop")]
            }))
            .when(with(|it| it.query = vec![exactly("version", "2 beta")]))
            .when(with(|it| it.method = "DELETE".into())),
    ]);
    let mut client = mesh.client().await;
    let host = "catalog:8080";
    for (method, host, target, headers, is_new) in [
        ("GET", host, "/", "", false),
        ("GET", host, "/", "X-User: me\r\n", true),
        ("GET", host, "/", "x-user: you\r\n", false),
        ("GET", host, "/", "x-user: me\r\nx-user: me\r\n", false),
        ("GET", host, "/", "Cookie: a=1; group=b; c=2\r\n", true),
        ("GET", host, "/", "Cookie: group=bc\r\n", false),
        ("GET", "Catalog.Shop:8080", "/", "", true),
        ("GET", host, "/?version=2+beta", "", true),
        ("GET", host, "/?version=2%20beta&version=1", "", true),
        ("GET", host, "/?version=1&version=2%20beta", "", false),
        ("DELETE", host, "/", "", true),
    ] {
        let before = (old.count(), new.count());
        client.request(method, host, target, headers, "").await;
        let after = (old.count() - before.0, new.count() - before.1);
        let expected = (usize::from(!is_new), usize::from(is_new));
        assert_eq!(after, expected, "{method} {host} {target} {headers}");
    }
}

#[tokio::test]
async fn what_no_rule_takes_is_not_found() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    mesh.routes(vec![to("v1").when(prefix("/a"))]);
    let answer = mesh.get("/b").await;
    assert_eq!((answer.status, answer.reason()), (404, "no_route"));
    let mut client = mesh.client().await;
    let answer = client.request("OPTIONS", "catalog:8080", "*", "", "").await;
    assert_eq!((answer.status, answer.reason()), (404, "no_route"));
    mesh.change_routes(vec![to("v1")]).await;
    let answer = client.request("OPTIONS", "catalog:8080", "*", "", "").await;
    assert_eq!((answer.status, app.count()), (200, 1));
    // A port without routes goes to its own endpoints, of which there are none.
    let answer = mesh.client().await.get("catalog:9090", "/").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
}

#[tokio::test]
async fn routes_that_cannot_be_taken_leave_the_last_good_ones_in_force() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    mesh.routes(vec![to("v1")]);
    assert_eq!(mesh.get("/").await.status, 200);
    mesh.change_routes(vec![to("v1").when(path(Path::PathPattern("(".into())))])
        .await;
    let nacks = mesh.control.nacks();
    assert!(
        nacks[0].contains("rules[0].matches[0].path_pattern"),
        "{nacks:?}"
    );
    assert_eq!(mesh.get("/").await.status, 200);
    assert_eq!(app.count(), 2);
}
