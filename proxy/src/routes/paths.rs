//! Other paths and hosts for a request: of rewrites and redirects.

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Uri, Version};

use super::config::{PathChange, PathMatch, Redirect, Rewrite, RouteMatch};
use super::request::View;

/// A request's path and query with another path.
pub fn changed(change: &PathChange, matched: Option<&RouteMatch>, view: &View<'_>) -> String {
    let path = match change {
        PathChange::Full(path) => path.clone(),
        PathChange::Prefix(replacement) => {
            let prefix = match matched.map(|matched| &matched.path) {
                Some(PathMatch::Prefix(prefix)) => prefix.as_str(),
                _ => "",
            };
            let rest = view.path.strip_prefix(prefix).unwrap_or(view.path);
            let path = format!("{}{rest}", replacement.trim_end_matches('/'));
            match path.as_str() {
                "" => "/".to_owned(),
                _ => path,
            }
        }
    };
    match view.query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

/// Changes a request's host and path.
pub fn rewrite(rewrite: &Rewrite, matched: Option<&RouteMatch>, parts: &mut Parts) {
    if let Some(change) = &rewrite.path
        && parts.uri.path().starts_with('/')
    {
        let path = changed(change, matched, &View::of(parts));
        let mut of_uri = parts.uri.clone().into_parts();
        // What was valid apart is so together; were it not, the path stays.
        if let Ok(path) = PathAndQuery::from_maybe_shared(path) {
            of_uri.path_and_query = Some(path);
            if let Ok(uri) = Uri::from_parts(of_uri) {
                parts.uri = uri;
            }
        }
    }
    if let Some(host) = &rewrite.hostname {
        set_host(host, parts);
    }
}

fn set_host(host: &HeaderValue, parts: &mut Parts) {
    if parts.version != Version::HTTP_2 || parts.headers.contains_key(header::HOST) {
        parts.headers.insert(header::HOST, host.clone());
    }
    if parts.uri.authority().is_some() {
        let mut of_uri = parts.uri.clone().into_parts();
        if let Ok(authority) = Authority::try_from(host.as_bytes()) {
            of_uri.authority = Some(authority);
            if let Ok(uri) = Uri::from_parts(of_uri) {
                parts.uri = uri;
            }
        }
    }
}

/// Where a redirect sends the caller. `port` is that of the Service.
pub fn location(
    redirect: &Redirect,
    matched: Option<&RouteMatch>,
    view: &View<'_>,
    port: u16,
) -> Option<HeaderValue> {
    let path = match (&redirect.path, view.query) {
        (Some(change), _) => changed(change, matched, view),
        // `OPTIONS *` has no path, and no URI either.
        (None, _) if !view.path.starts_with('/') => "/".to_owned(),
        (None, Some(query)) => format!("{}?{query}", view.path),
        (None, None) => view.path.to_owned(),
    };
    let host = match &redirect.hostname {
        Some(host) => Some(host.as_str()),
        None => view.host().and_then(|host| std::str::from_utf8(host).ok()),
    };
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        // An old caller that names no host: by the path alone, which two slashes at
        // its beginning would make a host (RFC 3986, section 4.2).
        let path = format!("/{}", path.trim_start_matches(['/', '\\']));
        return HeaderValue::from_str(&path).ok();
    };
    let (scheme, own) = match redirect.is_https {
        true => ("https", 443),
        false => ("http", 80),
    };
    let called = if redirect.has_scheme { own } else { port };
    let port = redirect.port.unwrap_or(called);
    let location = match port == own {
        true => format!("{scheme}://{host}{path}"),
        false => format!("{scheme}://{host}:{port}{path}"),
    };
    HeaderValue::from_str(&location).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, StatusCode};

    fn parts(uri: &str, host: Option<&'static str>) -> Parts {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        if let Some(host) = host {
            let host = HeaderValue::from_static(host);
            request.headers_mut().insert(header::HOST, host);
        }
        request.into_parts().0
    }

    fn by_prefix(prefix: &str) -> RouteMatch {
        let path = match prefix.trim_end_matches('/') {
            "" => PathMatch::Any,
            prefix => PathMatch::Prefix(prefix.to_owned()),
        };
        RouteMatch {
            path,
            ..RouteMatch::default()
        }
    }

    #[test]
    fn a_prefix_is_replaced_as_the_table_of_the_specification_says() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar?a=b", "/", "/xyz", "/xyz/foo/bar?a=b"),
        ] {
            let mut parts = parts(path, None);
            let change = Rewrite {
                path: Some(PathChange::Prefix(replacement.to_owned())),
                ..Rewrite::default()
            };
            rewrite(&change, Some(&by_prefix(prefix)), &mut parts);
            let got = parts.uri.path_and_query().unwrap().as_str();
            assert_eq!(got, expected, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_host_is_rewritten_wherever_it_stands() {
        let change = Rewrite {
            hostname: Some(HeaderValue::from_static("other.example")),
            path: Some(PathChange::Full("/x".into())),
        };
        let mut old = parts("/a?b", Some("catalog:8080"));
        rewrite(&change, None, &mut old);
        assert_eq!(old.headers[header::HOST], "other.example");
        assert_eq!(old.uri, "/x?b");
        let mut new = parts("http://catalog:8080/a", None);
        new.version = Version::HTTP_2;
        rewrite(&change, None, &mut new);
        assert_eq!(new.uri, "http://other.example/x");
        assert!(!new.headers.contains_key(header::HOST));
    }

    #[test]
    fn a_location_has_the_port_only_where_it_is_not_the_schemes_own() {
        let plain = Redirect {
            is_https: false,
            has_scheme: false,
            hostname: None,
            path: None,
            port: None,
            status: StatusCode::FOUND,
        };
        let https = Redirect {
            is_https: true,
            has_scheme: true,
            ..plain.clone()
        };
        let request = parts("/a/b?c", Some("Catalog:8080"));
        let of = |redirect: &Redirect, port| {
            let location = location(redirect, Some(&by_prefix("/a")), &View::of(&request), port);
            location.unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(of(&plain, 8080), "http://Catalog:8080/a/b?c");
        assert_eq!(of(&plain, 80), "http://Catalog/a/b?c");
        assert_eq!(of(&https, 8080), "https://Catalog/a/b?c");
        let mut change = https.clone();
        (change.port, change.hostname) = (Some(8443), Some("example.com".into()));
        change.path = Some(PathChange::Prefix("/z".into()));
        assert_eq!(of(&change, 80), "https://example.com:8443/z/b?c");
        change.port = Some(443);
        assert_eq!(of(&change, 80), "https://example.com/z/b?c");
        for (uri, host) in [("//evil.com/a", None), ("//evil.com/a", Some(""))] {
            let request = parts(uri, host);
            let location = location(&plain, None, &View::of(&request), 80);
            assert_eq!(location.unwrap(), "/evil.com/a", "{host:?}");
        }
    }
}
