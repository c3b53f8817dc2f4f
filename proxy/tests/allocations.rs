//! What a request does once for each of its kind must not allocate: in a binary of
//! its own, whose allocator counts.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its ground is missing"
)]

use http::{HeaderMap, HeaderName, HeaderValue};
use remora_proto::pattern::Pattern;
use remora_proxy::routes::config::{PathMatch, PortRoutes, RouteMatch, Rule, Text, ValueMatch};
use remora_proxy::routes::request::View;

fn exactly<N>(name: N, value: String) -> ValueMatch<N> {
    ValueMatch {
        name,
        value: Text::Exact(value),
    }
}

/// Of every kind of condition some hundreds, on a few paths.
fn matches() -> Vec<RouteMatch> {
    let pattern = |text: &str| std::sync::Arc::new(Pattern::parse(text).unwrap());
    let mut all = Vec::new();
    for at in 0..200 {
        let on = |path| RouteMatch {
            path,
            ..RouteMatch::default()
        };
        let prefix = || on(PathMatch::Prefix("/a".into()));
        all.push(on(PathMatch::Exact(format!("/exact/{at}"))));
        all.push(on(PathMatch::Prefix(format!("/prefix/{at}"))));
        all.push(on(PathMatch::Pattern(pattern(&format!(
            "/form/{at}/[a-z]+"
        )))));
        all.push(RouteMatch {
            headers: vec![exactly(
                HeaderName::from_static("x-user"),
                format!("u{at},b"),
            )],
            ..prefix()
        });
        all.push(RouteMatch {
            headers: vec![
                exactly(http::header::HOST, format!("host-{at}")),
                ValueMatch {
                    name: http::header::COOKIE,
                    value: Text::Pattern(pattern("(.*; ?)?group=b(;.*)?")),
                },
            ],
            ..prefix()
        });
        all.push(RouteMatch {
            query: vec![exactly("a b".to_owned(), format!("{at} c"))],
            ..prefix()
        });
        all.push(on(PathMatch::Grpc {
            service: Some(Text::Exact(format!("s.{at}"))),
            method: (at % 2 == 0).then(|| Text::Exact("Say".into())),
        }));
    }
    all
}

#[test]
fn finding_a_rule_never_allocates() {
    let rules = matches().into_iter().map(|one| Rule {
        matches: vec![one],
        ..Rule::default()
    });
    let routes = PortRoutes::new(vec![80], false, rules.collect());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-user", "u17"),
        ("x-user", "b"),
        ("host", "Host-18:80"),
        ("cookie", "a=1"),
        ("cookie", "group=b"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let bare = HeaderMap::new();
    let mut found = 0;
    for (path, query, headers) in [
        ("/exact/7", None, &bare),
        ("/prefix/9/a/b/c", None, &headers),
        ("/form/11/abc", None, &bare),
        ("/a/b", None, &headers),
        ("/a", Some("x=1&a%20b=19+c"), &bare),
        ("/s.20/Say", None, &bare),
        ("/s.21/Any", None, &bare),
        ("/nothing/here", Some("a=b"), &headers),
        ("*", None, &bare),
    ] {
        let view = View {
            method: "GET",
            path,
            query,
            authority: None,
            headers,
        };
        let counted = allocation_counter::measure(|| {
            found += usize::from(routes.find(&view).is_some());
        });
        assert_eq!(counted.count_total, 0, "{path}");
    }
    assert_eq!(found, 7);
    // And the counter counts.
    let counted = allocation_counter::measure(|| drop(String::with_capacity(1)));
    assert_eq!(counted.count_total, 1);
}
