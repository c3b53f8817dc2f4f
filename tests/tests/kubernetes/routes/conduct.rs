//! What a rule bears: time limits, retries, sessions, and the policies on it.

use serde_json::Value;

use crate::cluster::eventually;

use super::world::{HOME, World, got, kind};

fn spec(conduct: &str) -> String {
    format!(
        "  parentRefs: [{{group: '', kind: Service, name: echo}}]
  rules:
    - name: calls
      {conduct}
      backendRefs: [{{name: echo-v1, port: 80}}]
"
    )
}

#[test]
fn a_rule_ends_what_takes_too_long_and_sends_again_what_it_may() {
    let Some(world) = World::make() else { return };
    world.route(
        "HTTPRoute",
        HOME,
        "echo",
        &spec("timeouts: {request: 300ms}"),
    );
    let late = ["--header", "x-delay-ms: 2000"];
    world.comes_to(HOME, "http://echo/", &late, "504 timeout");
    let early = world.call(HOME, "http://echo/", &["--header", "x-delay-ms: 10"]);
    assert_eq!(kind(&early), "200 v1");
    let retry = "retry: {attempts: 2, codes: [503], backoff: 10ms}";
    world.route("HTTPRoute", HOME, "echo", &spec(retry));
    let fails = ["--header", "x-fail-first: 503"];
    let answer = world.comes_to(HOME, "http://echo/", &fails, "200 v1");
    assert_eq!(got(&answer)["headers"]["x-remora-attempt"], "2", "{answer}");
    // Another status is not among them, and a POST may not be sent twice.
    let other = world.call(HOME, "http://echo/", &["--header", "x-fail-first: 502"]);
    assert_eq!(other["status"], 502, "{other}");
    let post = world.call(
        HOME,
        "http://echo/",
        &[&fails[..], &["--method", "POST"]].concat(),
    );
    assert_eq!(post["status"], 503, "{post}");
    let off = spec("retry: {attempts: 0, codes: [503]}");
    world.in_force(HOME, "routes/echo", || {
        world.route("HTTPRoute", HOME, "echo", &off);
    });
    assert_eq!(world.call(HOME, "http://echo/", &fails)["status"], 503);
}

/// Both pods are of one backend: weights decide before, and are not overridden.
const SESSIONS: &str = "  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
    - sessionPersistence: {type: KIND}
      backendRefs: [{name: echo, port: 80}]
";

/// Waits until an answer gives a token; that answer, and the header that brings it back.
fn session(world: &World, given: impl Fn(&Value) -> Option<String>) -> (Value, String) {
    eventually(30, "a session is given", || {
        let answer = world.try_call(HOME, "http://echo/", &[])?;
        given(&answer)
            .map(|header| (answer.clone(), header))
            .ok_or(answer.to_string())
    })
}

#[test]
fn a_session_stays_with_its_pod_by_cookie_and_by_header() {
    let Some(world) = World::make() else { return };
    let by_cookie = |answer: &Value| {
        let given = answer["headers"]["set-cookie"].as_str()?;
        let pair = given
            .split(';')
            .next()
            .filter(|pair| pair.starts_with("stay="))?;
        Some(format!("cookie: other=1; {pair}"))
    };
    let by_header = |answer: &Value| {
        let token = answer["headers"]["x-stay"].as_str()?;
        Some(format!("x-stay: {token}"))
    };
    let cookie = SESSIONS.replace("KIND", "Cookie, cookie: {name: stay}");
    world.route("HTTPRoute", HOME, "echo", &cookie);
    let (first, header) = session(&world, by_cookie);
    for _ in 0..10 {
        let answer = world.call(HOME, "http://echo/", &["--header", &header]);
        assert_eq!(kind(&answer), kind(&first), "{answer}");
    }
    // Without the token both pods answer, at the latest when one that was slow in
    // another story is tried again.
    eventually(60, "both pods answer", || {
        let counts = world.count(HOME, "http://echo/", 100);
        if counts.len() == 2 {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    });
    let kind_of_header = SESSIONS.replace("KIND", "Header, header: {name: x-stay}");
    world.route("HTTPRoute", HOME, "echo", &kind_of_header);
    let (first, header) = session(&world, by_header);
    for _ in 0..10 {
        let answer = world.call(HOME, "http://echo/", &["--header", &header]);
        assert_eq!(kind(&answer), kind(&first), "{answer}");
    }
}

const POLICY: &str = "apiVersion: remora.io/v1alpha1
kind: TrafficPolicy
metadata: {name: calls, namespace: routes}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: echo, sectionName: calls}]
";

#[test]
fn a_policy_of_a_rule_is_in_force_for_it_alone() {
    let Some(world) = World::make() else { return };
    let other = "    - matches: [{path: {type: PathPrefix, value: /other}}]
      backendRefs: [{name: echo-v1, port: 80}]
";
    let route = format!(
        "{}{other}",
        spec("matches: [{path: {type: PathPrefix, value: /calls}}]")
    );
    world.route("HTTPRoute", HOME, "echo", &route);
    world.comes_to(HOME, "http://echo/none", &[], "404 no_route");
    world.cluster().apply(&format!(
        "{POLICY}  rateLimits: [{{name: few, limit: {{requests: 1, per: hour, burst: 1}}, enforcedAt: Caller}}]\n"
    ));
    world.comes_to(HOME, "http://echo/calls", &[], "429 rate_limited");
    let counts = world.count(HOME, "http://echo/other", 20);
    assert_eq!(counts.get("200 v1"), Some(&20), "{counts:?}");
    // What makes no sense there is refused, by name.
    let bad = format!("{POLICY}  mtls: {{mode: Strict}}\n");
    let said = world
        .cluster()
        .try_kubectl(&["apply", "-f", "-"], Some(&bad));
    assert!(said.unwrap_err().contains("mtls"));
}
