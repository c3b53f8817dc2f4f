//! What a rule does with a request and its answer.

use crate::cluster::eventually;

use super::world::{HOME, World, got, kind};

const CHANGED: &str = "  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /old}}]
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {set: [{name: X-Set, value: ours}], add: [{name: x-add, value: more}], remove: [x-secret]}
        - type: ResponseHeaderModifier
          responseHeaderModifier: {set: [{name: x-seen, value: 'yes'}], remove: [content-type]}
        - type: URLRewrite
          urlRewrite: {hostname: inside.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
      backendRefs:
        - name: echo-v1
          port: 80
          filters:
            - type: RequestHeaderModifier
              requestHeaderModifier: {set: [{name: x-backend, value: first}]}
";

#[test]
fn heads_are_changed_and_paths_rewritten() {
    let Some(world) = World::make() else { return };
    world.route("HTTPRoute", HOME, "echo", CHANGED);
    world.comes_to(HOME, "http://echo/nowhere", &[], "404 no_route");
    let more = [
        "--header",
        "x-secret: 1",
        "--header",
        "x-set: theirs",
        "--header",
        "x-add: one",
    ];
    let answer = world.call(HOME, "http://echo/old/way?a=b", &more);
    let application = got(&answer);
    assert_eq!(application["path"], "/new/way?a=b", "{answer}");
    let headers = &application["headers"];
    let expected = [
        ("x-set", "ours"),
        ("x-add", "one,more"),
        ("x-backend", "first"),
        ("host", "inside.example"),
    ];
    for (name, value) in expected {
        assert_eq!(headers[name], value, "{headers}");
    }
    assert!(headers.get("x-secret").is_none(), "{headers}");
    assert_eq!(answer["headers"]["x-seen"], "yes", "{answer}");
    assert!(answer["headers"].get("content-type").is_none(), "{answer}");
}

const REDIRECTED: &str = "  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /a}}]
      filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: else.example, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]
    - matches: [{path: {type: PathPrefix, value: /port}}]
      filters: [{type: RequestRedirect, requestRedirect: {port: 8083, statusCode: STATUS, path: {type: ReplaceFullPath, replaceFullPath: /whole}}}]
    - matches: [{path: {type: PathPrefix, value: /plain}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: else.example}}]
";

#[test]
fn a_redirect_is_answered_with_its_status_and_place() {
    let Some(world) = World::make() else { return };
    for status in ["303", "307", "308"] {
        let spec = REDIRECTED.replace("STATUS", status);
        world.route("HTTPRoute", HOME, "echo", &spec);
        let expected = format!("{status} redirect");
        let answer = world.comes_to(HOME, "http://echo/port/x?q=1", &[], &expected);
        let location = &answer["headers"]["location"];
        assert_eq!(location, "http://echo:8083/whole?q=1", "{answer}");
    }
    let cases = [
        ("/a/c?d=e", "301 redirect", "https://else.example/b/c?d=e"),
        ("/plain/x", "302 redirect", "http://else.example/plain/x"),
    ];
    for (path, expected, location) in cases {
        let answer = world.call(HOME, &format!("http://echo{path}"), &[]);
        assert_eq!(kind(&answer), expected, "{answer}");
        assert_eq!(answer["headers"]["location"], location, "{answer}");
    }
}

const MIRRORED: &str = "  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
    - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: BACKEND, port: 80}SHARE}}]
      backendRefs: [{name: echo-v1, port: 80}]
";

#[test]
fn a_mirror_hears_all_or_its_share_and_never_answers() {
    let Some(world) = World::make() else { return };
    let spec = |backend: &str, share: &str| {
        let spec = MIRRORED.replace("BACKEND", backend);
        spec.replace("SHARE", share)
    };
    world.route("HTTPRoute", HOME, "echo", &spec("echo-v2", ""));
    eventually(30, "the mirror hears", || {
        let body = ["--method", "POST", "--body-bytes", "5000"];
        world.try_call(HOME, "http://echo/mirrored", &body)?;
        let heard = world.heard("echo-v2", "/mirrored");
        match heard.last() {
            Some(heard) if heard["body_bytes"] == 5000 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let counts = world.count(HOME, "http://echo/all", 100);
    assert_eq!(counts.get("200 v1"), Some(&100), "{counts:?}");
    world.in_force(HOME, "routes/echo", || {
        world.route("HTTPRoute", HOME, "echo", &spec("echo-v2", ", percent: 20"));
    });
    let counts = world.count(HOME, "http://echo/some", 200);
    assert_eq!(counts.get("200 v1"), Some(&200), "{counts:?}");
    let heard = world.heard("echo-v2", "/some").len();
    assert!((15..=70).contains(&heard), "{heard} of 200 at 20 %");
    // One that is not there is told of, and costs nothing.
    world.write("HTTPRoute", HOME, "echo", &spec("nowhere", ""));
    world.says(
        "HTTPRoute",
        HOME,
        "echo",
        "ResolvedRefs",
        "False BackendNotFound",
    );
    let counts = world.count(HOME, "http://echo/none", 100);
    assert_eq!(counts.get("200 v1"), Some(&100), "{counts:?}");
}

const CORS: &str = "  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
    - filters: [{type: CORS, cors: {allowOrigins: ['https://*.shop.example'], allowMethods: [PUT], allowHeaders: [x-a], exposeHeaders: [x-b], allowCredentials: true, maxAge: 600}}]
      backendRefs: [{name: echo-v1, port: 80}]
";

#[test]
fn a_preflight_is_answered_here_and_other_origins_get_nothing() {
    let Some(world) = World::make() else { return };
    world.route("HTTPRoute", HOME, "echo", CORS);
    let ask = |origin: &'static str| {
        [
            "--method",
            "OPTIONS",
            "--header",
            origin,
            "--header",
            "access-control-request-method: PUT",
        ]
    };
    let good = ask("origin: https://web.shop.example");
    let answer = eventually(30, "the preflight is answered", || {
        let answer = world.try_call(HOME, "http://echo/", &good)?;
        if answer["headers"]["x-remora-reason"] == "cors" {
            Ok(answer)
        } else {
            Err(answer.to_string())
        }
    });
    let headers = &answer["headers"];
    let expected = [
        ("access-control-allow-origin", "https://web.shop.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-max-age", "600"),
    ];
    for (name, value) in expected {
        assert_eq!(headers[name], value, "{headers}");
    }
    let foreign = world.call(HOME, "http://echo/", &ask("origin: https://evil.example"));
    assert!(
        foreign["headers"]
            .get("access-control-allow-origin")
            .is_none(),
        "{foreign}"
    );
    let plain = ["--header", "origin: https://web.shop.example"];
    let answer = world.call(HOME, "http://echo/", &plain);
    assert_eq!(kind(&answer), "200 v1");
    assert_eq!(
        answer["headers"]["access-control-expose-headers"], "x-b",
        "{answer}"
    );
}

const CANNOT: &str = "  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /ext}}]
      filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Magic, name: wand}}]
      backendRefs: [{name: echo-v1, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /auth}}]
      filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, http: {}, backendRef: {name: echo-v2, port: 80}}}]
      backendRefs: [{name: echo-v1, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /good}}]
      backendRefs: [{name: echo-v2, port: 80}]
";

#[test]
fn a_filter_that_cannot_be_done_is_an_error_and_not_passed_over() {
    let Some(world) = World::make() else { return };
    world.route("HTTPRoute", HOME, "echo", CANNOT);
    world.says(
        "HTTPRoute",
        HOME,
        "echo",
        "ResolvedRefs",
        "False InvalidKind",
    );
    let said = world.says(
        "HTTPRoute",
        HOME,
        "echo",
        "PartiallyInvalid",
        "True UnsupportedValue",
    );
    assert!(said.contains("ExternalAuth"), "{said}");
    world.comes_to(HOME, "http://echo/good", &[], "200 v2");
    for path in ["/ext/x", "/auth/x"] {
        let answer = world.call(HOME, &format!("http://echo{path}"), &[]);
        assert_eq!(kind(&answer), "500 no_backend", "{answer}");
    }
}
