//! What filters do to requests and answers.

use remora_proto::v1::route_filter::Filter;
use remora_proto::v1::{
    Header, HeaderChanges, PathChange, Redirect, Rewrite, RouteFilter, path_change::Change as Path,
};

use super::stage::{Change, prefix, prefix_change, set, to};
use crate::mesh::Mesh;
use crate::upstream::{App, status};

#[tokio::test]
async fn fields_of_requests_and_answers_are_changed_by_the_rule_and_then_by_the_backend() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        status(200).header("x-secret", "1").header("x-kept", "2")
    })
    .await;
    mesh.serve("v1", &app);
    let changes = HeaderChanges {
        remove: vec!["x-secret".into()],
        ..set(&[("x-by", "rule")])
    };
    let request = HeaderChanges {
        add: vec![Header {
            name: "x-list".into(),
            value: "b".into(),
        }],
        remove: vec!["x-gone".into()],
        ..set(&[("x-who", "rule"), ("x-rule", "1")])
    };
    let mut rule = to("v1")
        .filter(Filter::RequestHeaders(request))
        .filter(Filter::ResponseHeaders(changes));
    for filter in [
        Filter::RequestHeaders(set(&[("x-who", "backend")])),
        Filter::ResponseHeaders(set(&[("x-by", "backend")])),
    ] {
        rule.backends[0].filters.push(RouteFilter {
            filter: Some(filter),
        });
    }
    mesh.routes(vec![rule]);
    let mut client = mesh.client().await;
    let headers = "x-list: a\r\nx-gone: 1\r\nx-who: me\r\n";
    let answer = client
        .request("GET", "catalog:8080", "/", headers, "")
        .await;
    assert_eq!((answer.status, answer.header("x-by")), (200, "backend"));
    assert_eq!(
        (answer.header("x-secret"), answer.header("x-kept")),
        ("", "2")
    );
    let request = &app.requests()[0];
    assert_eq!(
        (request.header("x-who"), request.header("x-rule")),
        ("backend", "1")
    );
    assert_eq!(request.header("x-gone"), "");
    let list = request.headers.iter().filter(|(name, _)| name == "x-list");
    assert_eq!(
        list.map(|(_, value)| value.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(request.header("host"), "catalog:8080");
}

#[tokio::test]
async fn no_filter_touches_what_frames_a_message_or_is_ours() {
    let mesh = Mesh::start().await;
    let _app = mesh.version("v1", 10).await;
    mesh.routes(vec![to("v1")]);
    assert_eq!(mesh.get("/").await.status, 200);
    for name in [
        "content-length",
        "transfer-encoding",
        "host",
        "x-remora-reason",
        "connection",
    ] {
        let filter = Filter::ResponseHeaders(set(&[(name, "1")]));
        mesh.change_routes(vec![to("v1").filter(filter)]).await;
        let nacks = mesh.control.nacks();
        assert!(nacks.last().unwrap().contains(name), "{nacks:?}");
    }
}

#[tokio::test]
async fn host_and_path_are_rewritten_and_the_query_stays() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    let rewrite = Rewrite {
        hostname: "other.example".into(),
        path: prefix_change("/new"),
    };
    let full = Rewrite {
        hostname: String::new(),
        path: Some(PathChange {
            change: Some(Path::Full("/fixed".into())),
        }),
    };
    mesh.routes(vec![
        to("v1")
            .when(prefix("/old"))
            .filter(Filter::Rewrite(rewrite)),
        to("v1").when(prefix("/full")).filter(Filter::Rewrite(full)),
    ]);
    for (path, expected) in [
        ("/old/a?b=c", "/new/a?b=c"),
        ("/old", "/new"),
        ("/full/x?y", "/fixed?y"),
    ] {
        assert_eq!(mesh.get(path).await.status, 200);
        assert_eq!(app.requests().last().unwrap().path, expected);
    }
    let hosts: Vec<_> = app
        .requests()
        .iter()
        .map(|it| it.header("host").to_owned())
        .collect();
    assert_eq!(hosts, ["other.example", "other.example", "catalog:8080"]);
}

#[tokio::test]
async fn a_redirect_is_answered_here_with_every_status() {
    let mesh = Mesh::start().await;
    let redirect = |status| Redirect {
        status,
        ..Redirect::default()
    };
    let rules = [301, 302, 303, 307, 308].into_iter().map(|status| {
        let filter = Filter::Redirect(Redirect {
            hostname: "example.com".into(),
            scheme: "https".into(),
            path: prefix_change("/to"),
            ..redirect(status)
        });
        let mut rule = to("v1").when(prefix(&format!("/{status}"))).filter(filter);
        rule.backends.clear();
        rule
    });
    let mut rules: Vec<_> = rules.collect();
    rules.push(to("v1").filter(Filter::Redirect(redirect(302))));
    mesh.routes(rules);
    for status in [301, 302, 303, 307, 308] {
        let answer = mesh.get(&format!("/{status}/a?b")).await;
        assert_eq!((answer.status, answer.reason()), (status, "redirect"));
        assert_eq!(answer.header("location"), "https://example.com/to/a?b");
        assert!(answer.whole && answer.body.is_empty());
    }
    let answer = mesh.get("/x").await;
    assert_eq!(answer.header("location"), "http://catalog:8080/x");
    let stats = mesh.sidecar.outbound_stats().await;
    assert_eq!(
        (&stats["requests"], &stats["failures"]),
        (&6.into(), &0.into())
    );
}

#[tokio::test]
async fn what_remora_answers_itself_is_changed_as_an_answer_of_the_backend() {
    let mesh = Mesh::start().await;
    let changes = || Filter::ResponseHeaders(set(&[("cache-control", "no-store")]));
    let redirect = Filter::Redirect(Redirect {
        status: 301,
        ..Redirect::default()
    });
    let mut elsewhere = to("v1")
        .when(prefix("/old"))
        .filter(redirect)
        .filter(changes());
    elsewhere.backends.clear();
    let mut nowhere = to("v1").filter(changes());
    nowhere.backends.clear();
    mesh.routes(vec![elsewhere, nowhere]);
    for (path, status) in [("/old", 301), ("/", 500)] {
        let answer = mesh.get(path).await;
        assert_eq!(
            (answer.status, answer.header("cache-control")),
            (status, "no-store")
        );
    }
}

#[tokio::test]
async fn a_filter_that_is_not_known_here_is_answered_500_and_so_is_a_rule_that_cannot() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    let mut unknown = to("v1").when(prefix("/unknown"));
    unknown.filters.push(RouteFilter::default());
    let mut cannot = to("v1").when(prefix("/cannot"));
    cannot.cannot = "ExtensionRef is not known".into();
    mesh.routes(vec![unknown, cannot, to("v1")]);
    for path in ["/unknown", "/cannot"] {
        let answer = mesh.get(path).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (500, "no_backend"),
            "{path}"
        );
    }
    assert_eq!((mesh.get("/").await.status, app.count()), (200, 1));
}

#[tokio::test]
async fn over_http2_requests_are_changed_as_over_http1() {
    let mesh = Mesh::start().await;
    let app = crate::h2_app::App::start(mesh.net.at(10), |_| crate::h2_app::hello()).await;
    mesh.endpoint("v1", 0, app.address(), |_| ());
    mesh.service("v1", crate::mesh::policy());
    let rewrite = Rewrite {
        hostname: "other.example".into(),
        path: prefix_change("/new"),
    };
    let to_v1 = to("v1")
        .when(prefix("/old"))
        .filter(Filter::RequestHeaders(set(&[("x-rule", "1")])))
        .filter(Filter::ResponseHeaders(set(&[("x-by", "rule")])))
        .filter(Filter::Rewrite(rewrite));
    let elsewhere = Filter::Redirect(Redirect {
        status: 308,
        port: 8443,
        scheme: "https".into(),
        ..Redirect::default()
    });
    mesh.routes(vec![to_v1, to("v1").filter(elsewhere)]);
    let client = mesh.client2().await;
    let answer = client.post("/old/a?b", b"body").await;
    assert_eq!(
        (answer.status, answer.header("x-by"), answer.text().as_str()),
        (200, "rule", "hello")
    );
    let request = &app.requests()[0];
    assert_eq!(
        (request.path.as_str(), request.authority.as_str()),
        ("/new/a?b", "other.example")
    );
    assert_eq!(
        (request.header("x-rule"), request.body.as_slice()),
        ("1", &b"body"[..])
    );
    let answer = client.get("/x").await;
    assert_eq!((answer.status, answer.reason()), (308, "redirect"));
    assert_eq!(answer.header("location"), "https://catalog:8443/x");
}
