//! Who may call the pod, and every way that is known of walking around it.

use remora_proto::v1::authorization::Action;
use remora_proto::v1::{self, path_rule};

use crate::authority::{Authority, id};
use crate::client::Client;
use crate::h2_app;
use crate::h2_client;
use crate::http2_frames::Peer;
use crate::mesh::{Mesh, PORT, policy};
use crate::raw::{Listening, Raw};
use crate::sidecar::{Options, Sidecar};
use crate::upstream::App;
use crate::{eventually, soon};

fn rule(action: Action, change: impl FnOnce(&mut v1::Authorization)) -> v1::Authorization {
    let name = format!("{action:?}").to_lowercase();
    let mut rule = v1::Authorization {
        policy: Some(v1::PolicyReference {
            namespace: "shop".into(),
            name,
            generation: 1,
        }),
        action: action.into(),
        ..v1::Authorization::default()
    };
    change(&mut rule);
    rule
}

fn prefix(path: &str) -> v1::PathRule {
    v1::PathRule {
        rule: Some(path_rule::Rule::Prefix(path.into())),
    }
}

fn deny_path(path: &str) -> v1::Authorization {
    rule(Action::Deny, |rule| {
        rule.to.push(v1::RequestMatch {
            paths: vec![prefix(path)],
            ..v1::RequestMatch::default()
        });
    })
}

fn of_methods(action: Action, methods: &[&str]) -> v1::Authorization {
    rule(action, |rule| {
        rule.to.push(v1::RequestMatch {
            methods: methods.iter().map(ToString::to_string).collect(),
            ..v1::RequestMatch::default()
        });
    })
}

fn allow(accounts: &[&str]) -> v1::Authorization {
    rule(Action::Allow, |rule| {
        rule.from.push(v1::CallerMatch {
            identities: accounts.iter().map(|account| id(account)).collect(),
            namespaces: Vec::new(),
        });
    })
}

/// Puts rules in force at a pod.
async fn enforce(mesh: &Mesh, host: u8, rules: Vec<v1::Authorization>) {
    let name = format!("shop/web-{host}");
    let before = mesh.control.times_sent(&name);
    let acks = mesh.control.acks();
    mesh.workload_of(host, |workload| workload.authorizations = rules);
    mesh.until_applied(&name, before).await;
    eventually("it is taken", async || mesh.control.acks() > acks).await;
    // Taken by the stream; the workers see it in the same moment or the next.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

/// A sidecar whose pod has an application of HTTP/1, and these rules.
async fn guarded(rules: Vec<v1::Authorization>) -> (Mesh, App) {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(2)).await;
    enforce(&mesh, 1, rules).await;
    (mesh, app)
}

/// The status line's number for a request that is written as it stands.
async fn say(mesh: &Mesh, bytes: impl AsRef<[u8]>) -> u16 {
    let mut raw = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    raw.write(bytes).await;
    let head = raw.until_or_end("\r\n\r\n").await.unwrap_or_default();
    head.split(' ')
        .nth(1)
        .map_or(0, |status| status.parse().unwrap())
}

async fn get(mesh: &Mesh, target: &str) -> u16 {
    say(mesh, format!("GET {target} HTTP/1.1\r\nhost: web\r\n\r\n")).await
}

#[tokio::test]
async fn without_rules_paths_pass_untouched() {
    let (mesh, app) = guarded(Vec::new()).await;
    for path in ["/a//b", "/%2e%2e/x", "/a;b", "/a%2Fb", "/%41"] {
        assert_eq!(get(&mesh, path).await, 200, "{path}");
    }
    let paths: Vec<String> = app.requests().into_iter().map(|one| one.path).collect();
    assert_eq!(paths, ["/a//b", "/%2e%2e/x", "/a;b", "/a%2Fb", "/%41"]);
}

#[tokio::test]
async fn no_other_writing_of_a_path_leads_around_a_deny() {
    let (mesh, app) = guarded(vec![deny_path("/admin")]).await;
    for target in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/admin?x",
        "//admin",
        "/./admin",
        "/a/../admin",
        "/a/%2e%2e/admin",
        "/a/.%2E/admin",
        "/%61dmin",
        "/adm%69n/x",
        "/../admin",
        "/admin/../admin",
        "http://web/admin",
        "http://WEB:8080//admin/x",
        "///a/..//admin",
        "/admin/.",
    ] {
        assert_eq!(get(&mesh, target).await, 403, "{target}");
    }
    // What servers read in more than one way.
    for target in [
        "/a%2Fadmin",
        "/a/..%2Fadmin",
        "/a%5C..%5Cadmin",
        "/a\\..\\admin",
        "/admin;x",
        "/;/admin",
        "/a/..;/admin",
        "/%252e%252e/admin",
        "/admin%00",
        "/admin%0a",
        "/%61dmin%3Bx",
        "/%EF%BC%8Fadmin",
        "/a/%E2%80%A5/admin",
        "/%c0%af/admin",
        "/a/%ff",
        "/admin%",
    ] {
        assert_eq!(get(&mesh, target).await, 400, "{target}");
    }
    // What is no target at all, or cannot be one.
    for target in [
        "/admin#x",
        "/#/../admin",
        "/\u{e9}/../admin",
        "/a\0/../admin",
        "*",
        "admin",
    ] {
        let status = get(&mesh, target).await;
        assert!(matches!(status, 0 | 400), "{target:?}: {status}");
    }
    assert_eq!(app.count(), 0);
    let denied = r#"action="deny",policy="shop/deny""#;
    assert_eq!(
        mesh.sidecar
            .counter("remora_authorization_total", denied)
            .await,
        17
    );
}

#[tokio::test]
async fn what_is_let_through_arrives_as_it_was_judged() {
    let (mesh, app) = guarded(vec![deny_path("/admin")]).await;
    // The query is its own.
    for (target, arrives) in [
        ("/a//b/./c?q=//../%2F;#", ""),
        ("/a//b/./c?q=//../%2F;", "/a/b/c?q=//../%2F;"),
        ("/%7Eadmin", "/~admin"),
        ("/Admin", "/Admin"),
        ("/administrator", "/administrator"),
        ("/admin/../x", "/x"),
        ("http://web//y", "/y"),
        ("/a%20b", "/a%20b"),
    ] {
        let before = app.count();
        let status = get(&mesh, target).await;
        if arrives.is_empty() {
            assert_eq!((status, app.count()), (400, before), "{target}");
        } else {
            assert_eq!(status, 200, "{target}");
            assert_eq!(app.requests()[before].path, arrives);
        }
    }
}

#[tokio::test]
async fn no_host_leads_around_a_deny() {
    let (mesh, app) = guarded(vec![deny_path("/admin")]).await;
    for host in [
        "web",
        "WEB",
        "wEb.ShOp",
        "web:8080",
        "web.",
        "web.shop.svc.cluster.local.:8080",
        "other",
        "[::1]:1",
    ] {
        let request = format!("GET /admin HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(say(&mesh, request).await, 403, "{host}");
    }
    let request = "GET http://other./admin HTTP/1.1\r\nhost: web\r\n\r\n";
    assert_eq!(say(&mesh, request).await, 403);
    // Two are none.
    let request = "GET / HTTP/1.1\r\nhost: web\r\nhost: web\r\n\r\n";
    assert_eq!(say(&mesh, request).await, 400);
    let request = "GET /admin HTTP/1.0\r\n\r\n";
    assert_eq!(say(&mesh, request).await, 403);
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn no_header_leads_around_a_method() {
    let (mesh, app) = guarded(vec![of_methods(Action::Deny, &["DELETE"])]).await;
    let post = |headers: &str| {
        format!("POST / HTTP/1.1\r\nhost: web\r\n{headers}content-length: 0\r\n\r\n")
    };
    for headers in [
        "X-HTTP-Method-Override: DELETE\r\n",
        "x-http-method-override: delete\r\n",
        "X-HTTP-Method:   DELETE  \r\n",
        "X-Method-Override: PUT, DELETE\r\n",
        "X-Method-Override: PUT\r\nX-Method-Override: DELETE\r\n",
        "X-HTTP-Method-Override: PUT\r\nX-HTTP-Method: DELETE\r\n",
        // To an application behind CGI, WSGI or the like it is the same name.
        "X_HTTP_Method_Override: DELETE\r\n",
        "X-HTTP_Method: DELETE\r\n",
    ] {
        assert_eq!(say(&mesh, post(headers)).await, 403, "{headers}");
    }
    assert_eq!(say(&mesh, post("X-HTTP-Method: \u{e9}\r\n")).await, 400);
    assert_eq!(say(&mesh, post("X-HTTP-Method: A,B,C,D,E\r\n")).await, 400);
    for method in ["DELETE", "delete", "Delete"] {
        let request = format!("{method} / HTTP/1.1\r\nhost: web\r\n\r\n");
        assert_eq!(say(&mesh, request).await, 403, "{method}");
    }
    assert_eq!(app.count(), 0);
    assert_eq!(
        say(&mesh, post("X-HTTP-Method-Override: PUT\r\n")).await,
        200
    );

    // What is allowed must be all that is asked for.
    enforce(&mesh, 1, vec![of_methods(Action::Allow, &["POST"])]).await;
    assert_eq!(
        say(&mesh, post("X-HTTP-Method-Override: DELETE\r\n")).await,
        403
    );
    assert_eq!(
        say(
            &mesh,
            "post / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n"
        )
        .await,
        403
    );
    assert_eq!(
        say(&mesh, post("X-HTTP-Method-Override: POST\r\n")).await,
        200
    );
    assert_eq!(say(&mesh, post("")).await, 200);
}

#[tokio::test]
async fn http2_is_judged_by_the_same_rules() {
    let mesh = Mesh::start().await;
    let app = h2_app::App::start(mesh.net.at(2), |_| h2_app::hello()).await;
    enforce(
        &mesh,
        1,
        vec![deny_path("/admin"), deny_path("/shop.Cart/Drop")],
    )
    .await;
    let client = h2_client::Client::connect(mesh.sidecar.inbound(PORT)).await;
    for path in ["/admin", "//admin", "/a/../admin", "/%61dmin/x", "/admin?x"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.reason()), (403, "denied"), "{path}");
        // `host` beside `:authority` decides nothing, whatever it says.
        let answer = client
            .request("GET", path, &[("host", "elsewhere")], b"")
            .await;
        assert_ne!(answer.status, 200, "{path}");
    }
    for path in ["/a%2Fadmin", "/admin;x", "/a%5Cadmin", "/%EF%BC%8Fadmin"] {
        let answer = client.get(path).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, "bad_request"),
            "{path}"
        );
    }
    client
        .call("/shop.Cart/Drop", &[])
        .await
        .assert_refused_call("7", "denied");
    client
        .call("//shop.Cart/Dro%70", &[])
        .await
        .assert_refused_call("7", "denied");
    assert_eq!(app.count(), 0);
    assert_eq!(client.get("/a//b").await.status, 200);
    assert_eq!(app.requests()[0].path, "/a/b");
}

#[tokio::test]
async fn a_fragment_leads_around_no_rule() {
    let mesh = Mesh::start().await;
    let app = h2_app::App::start(mesh.net.at(2), |_| h2_app::hello()).await;
    let refused = ["/admin#x", "/admin?a#b", "/admin/x#/../../a", "//admin#"];
    // A target has none. HTTP/1 refuses it; of HTTP/2 nobody gets more than what
    // stands before it, neither the rules nor the application.
    let carried = [
        ("/a#/admin", "/a"),
        ("/#/../admin", "/"),
        ("#/admin", "/"),
        ("/a?b#c", "/a?b"),
    ];
    let mut arrived = Vec::new();
    for rules in [vec![deny_path("/admin")], Vec::new()] {
        let denied = if rules.is_empty() { 200 } else { 403 };
        enforce(&mesh, 1, rules).await;
        let mut peer = Peer::client(mesh.sidecar.inbound(PORT)).await;
        let mut streams = (1..).step_by(2);
        for (path, arrives) in carried {
            let got = peer.ask(streams.next().unwrap(), path).await;
            assert_eq!(got.status, 200, "{path}: {got:?}");
            arrived.push(arrives.to_owned());
        }
        for path in refused {
            let got = peer.ask(streams.next().unwrap(), path).await;
            assert_eq!(got.status, denied, "{path}: {got:?}");
            if denied == 200 {
                arrived.push(path.split('#').next().unwrap().to_owned());
            }
        }
        for path in carried.map(|(path, _)| path).into_iter().chain(refused) {
            assert_eq!(get(&mesh, path).await, 400, "{path}");
        }
    }
    let paths: Vec<String> = app.requests().into_iter().map(|one| one.path).collect();
    assert_eq!(paths, arrived);
}

#[tokio::test]
async fn what_is_asked_next_on_a_connection_feels_a_new_policy() {
    let (mesh, app) = guarded(Vec::new()).await;
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    assert_eq!(client.get("web", "/").await.status, 200);
    enforce(&mesh, 1, vec![rule(Action::Deny, |_| ())]).await;
    let answer = client.post("web", "/", "the body").await;
    assert_eq!((answer.status, answer.reason()), (403, "denied"));
    assert!(!answer.text().contains("shop/deny"), "{}", answer.text());
    enforce(&mesh, 1, Vec::new()).await;
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    assert_eq!(client.get("web", "/").await.status, 200);
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn an_audit_is_counted_and_logged_and_refuses_nothing() {
    let mesh = Mesh::start_with(Options {
        access_log: true,
        ..Options::default()
    })
    .await;
    let _app = App::ok(mesh.net.at(2)).await;
    let audit = v1::Authorization {
        action: Action::Audit.into(),
        ..deny_path("/secret")
    };
    enforce(&mesh, 1, vec![audit, deny_path("/admin")]).await;
    for _ in 0..3 {
        assert_eq!(get(&mesh, "/secret\"x").await, 200);
    }
    assert_eq!(get(&mesh, "/other").await, 200);
    assert_eq!(get(&mesh, "/admin").await, 403);
    let audits = r#"action="audit""#;
    assert_eq!(
        mesh.sidecar
            .counter("remora_authorization_total", audits)
            .await,
        0
    );
    for _ in 0..3 {
        assert_eq!(get(&mesh, "/secret/x").await, 200);
    }
    assert_eq!(
        mesh.sidecar
            .counter("remora_authorization_total", audits)
            .await,
        3
    );
    assert_eq!(
        mesh.sidecar
            .log()
            .matches("an Audit policy matches")
            .count(),
        1
    );
    eventually("it is logged", async || {
        let lines = mesh.sidecar.access_log();
        lines
            .iter()
            .any(|line| line["reason"] == "denied" && line["status"] == 403)
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_is_not_understood_is_refused_and_the_last_good_one_stays() {
    let (mesh, app) = guarded(vec![deny_path("/admin")]).await;
    let unknown = v1::Authorization {
        action: 9,
        ..deny_path("/admin")
    };
    mesh.workload_of(1, |workload| workload.authorizations = vec![unknown]);
    eventually("it is refused", async || !mesh.control.nacks().is_empty()).await;
    let nacks = mesh.control.nacks();
    assert!(
        nacks[0].contains("authorizations[0].action: 9 is not known"),
        "{nacks:?}"
    );
    assert_eq!(get(&mesh, "/admin").await, 403);
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn raw_connections_are_judged_once_and_end_when_they_may_be_no_longer() {
    let mesh = Mesh::start().await;
    let app = Listening::start(mesh.net.at(2), Raw::echo).await;
    let mut standing = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    standing.write("\x01\x02hello").await;
    assert_eq!(standing.until("hello").await, "\x01\x02hello");
    // Of a connection that is not HTTP an Allow with methods is none.
    enforce(&mesh, 1, vec![of_methods(Action::Allow, &["GET"])]).await;
    assert_eq!(standing.rest().await, "", "it is reset");
    let before = app.accepted();
    let mut refused = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    refused.write("\x01\x02hello").await;
    assert_eq!(refused.rest().await, "");
    // Who is silent may still speak HTTP, and the application is not asked before.
    let mut silent = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    assert!(silent.is_silent_for(200).await);
    assert_eq!(app.accepted(), before);
    silent.write("\x01\x02hello").await;
    assert_eq!(silent.rest().await, "");
    assert_eq!(app.accepted(), before);
    let denied = r#"action="deny",policy="""#;
    assert_eq!(
        mesh.sidecar
            .counter("remora_authorization_total", denied)
            .await,
        3
    );

    enforce(
        &mesh,
        1,
        vec![deny_path("/never"), of_methods(Action::Deny, &["GET"])],
    )
    .await;
    let mut denied = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    denied.write("\x01\x02hello").await;
    assert_eq!(denied.rest().await, "");
    enforce(&mesh, 1, Vec::new()).await;
    let mut again = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    again.write("\x01\x02hello").await;
    assert_eq!(again.until("hello").await, "\x01\x02hello");
}

#[tokio::test]
async fn who_was_silent_is_served_when_it_speaks_http() {
    let (mesh, _app) = guarded(vec![of_methods(Action::Allow, &["GET"])]).await;
    let mut raw = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    assert!(raw.is_silent_for(200).await);
    raw.write("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
}

/// Two sidecars with identities; the target's pod is `web-3`, its application at `.4`.
async fn pair(rules: Vec<v1::Authorization>) -> (Mesh, Sidecar, App) {
    let options = Options {
        authority: Some(Authority::new()),
        ..Options::default()
    };
    let mesh = Mesh::start_with(options.clone()).await;
    let target = mesh.beside(3, options).await;
    let app = App::ok(mesh.net.at(4)).await;
    mesh.secured(0, 3, 3);
    mesh.service("catalog", policy());
    enforce(&mesh, 3, rules).await;
    (mesh, target, app)
}

#[tokio::test]
async fn a_caller_is_who_its_certificate_says_and_no_header_changes_that() {
    let (mesh, target, app) = pair(vec![allow(&["web-1"])]).await;
    assert_eq!(mesh.get("/").await.status, 200);
    assert_eq!(
        app.requests()[0].header("x-remora-client-identity"),
        id("web-1")
    );

    // Without a certificate, whatever it says of itself.
    let mut client = Client::connect(target.inbound(PORT)).await;
    let claims = format!(
        "x-remora-client-identity: {}\r\nx-forwarded-client-cert: {0}\r\n",
        id("web-1")
    );
    let answer = client.request("GET", "web", "/", &claims, "").await;
    assert_eq!((answer.status, answer.reason()), (403, "denied"));
    let mut raw = Raw::connect(target.inbound(PORT)).await;
    raw.write(format!(
        "\0remora-h1\nGET / HTTP/1.1\r\nhost: web\r\n{claims}\r\n"
    ))
    .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 403 "));

    // Another account is another caller; the caller's sidecar passes the answer on
    // and does not hold it against the endpoint.
    enforce(&mesh, 3, vec![allow(&["web-2"])]).await;
    for _ in 0..10 {
        let answer = mesh.get("/").await;
        assert_eq!((answer.status, answer.reason()), (403, "denied"));
    }
    assert_eq!(mesh.sidecar.outbound_stats().await["failures"], 0);
    let by_namespace = rule(Action::Allow, |rule| {
        rule.from.push(v1::CallerMatch {
            identities: Vec::new(),
            namespaces: vec!["shop".into()],
        });
    });
    enforce(&mesh, 3, vec![by_namespace, deny_path("/admin")]).await;
    assert_eq!(mesh.get("/x").await.status, 200);
    // What the caller's sidecar carries in its own HTTP/2 is judged as what it is.
    for path in ["/admin", "//admin", "/a/%2e%2e/admin"] {
        let mut client = mesh.client().await;
        let answer = client.get("catalog:8080", path).await;
        assert_eq!((answer.status, answer.reason()), (403, "denied"), "{path}");
    }
    assert_eq!(mesh.get("/a%2Fadmin").await.status, 400);
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn raw_connections_have_an_identity_too() {
    let (mesh, _target, app) = pair(vec![allow(&["web-1"])]).await;
    drop(app);
    let _app = Listening::start(mesh.net.at(4), Raw::echo).await;
    mesh.endpoint("inventory", 0, mesh.net.at(3), |endpoint| {
        endpoint.sidecar = true;
        endpoint.mesh_protocols = vec!["remora-tcp".into()];
        endpoint.identity = id("web-3");
    });
    mesh.service_with("inventory", |service| {
        service.ports[0].protocol = v1::Protocol::Tcp as i32;
    });
    let tunnel = async || {
        let mut raw = Raw::connect(mesh.sidecar.outbound()).await;
        raw.write("CONNECT inventory:8080 HTTP/1.1\r\nhost: inventory:8080\r\n\r\n")
            .await;
        assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
        raw.write("\x01hello").await;
        raw
    };
    let mut raw = tunnel().await;
    assert_eq!(raw.until("hello").await, "\x01hello");
    enforce(&mesh, 3, vec![allow(&["web-2"])]).await;
    assert_eq!(soon("it is reset", raw.rest()).await, "");
    assert_eq!(tunnel().await.rest().await, "");
}
