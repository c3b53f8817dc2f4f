//! Matches, filters and what a rule bears, in words.

use std::time::Duration;

use remora_control_plane::policy::units::display_ms;
use remora_proxy::policy::config::{Limits, Retries, Timeouts};
use remora_proxy::routes::conditions::Failed;
use remora_proxy::routes::config::{
    BackendReference, Filter, HeaderChanges, PathChange, PathMatch, RouteMatch, Text, ValueMatch,
};

/// A match: all of its conditions.
pub fn of_match(one: &RouteMatch) -> String {
    let mut words: Vec<String> = Vec::new();
    if one.path != PathMatch::Any {
        words.push(path(&one.path));
    }
    words.extend(one.method.as_ref().map(|method| format!("method {method}")));
    words.extend(one.headers.iter().map(|header| named("header", header)));
    words.extend(one.query.iter().map(|query| named("query", query)));
    if words.is_empty() {
        "every request".to_owned()
    } else {
        words.join(", ")
    }
}

/// The condition of a match that does not hold.
pub fn failed(one: &RouteMatch, failed: Failed) -> String {
    let condition = match failed {
        Failed::Path => Some(path(&one.path)),
        Failed::Method => one.method.as_ref().map(|method| format!("method {method}")),
        Failed::Header(at) => one.headers.get(at).map(|header| named("header", header)),
        Failed::Query(at) => one.query.get(at).map(|query| named("query", query)),
    };
    format!("not {}", condition.unwrap_or_default())
}

fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Any => "any path".to_owned(),
        PathMatch::Exact(exact) => format!("path {exact}"),
        PathMatch::Prefix(prefix) => format!("path prefix {prefix}"),
        PathMatch::Pattern(pattern) => format!("path pattern {}", pattern.as_str()),
        PathMatch::Grpc { service, method } => {
            let part = |text: &Option<Text>| text.as_ref().map_or("*".to_owned(), self::text);
            format!("call {}/{}", part(service), part(method))
        }
    }
}

fn text(text: &Text) -> String {
    match text {
        Text::Exact(exact) => exact.clone(),
        Text::Pattern(pattern) => format!("pattern {}", pattern.as_str()),
        Text::Nothing => "what this version does not know".to_owned(),
    }
}

fn named<N: std::fmt::Display>(what: &str, one: &ValueMatch<N>) -> String {
    format!("{what} {}: {}", one.name, text(&one.value))
}

/// `shop/payment-v1:8080`
pub fn backend(one: &BackendReference) -> String {
    format!("{}:{}", one.service, one.port)
}

/// A filter.
pub fn filter(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(changes) => format!("request headers: {}", headers(changes)),
        Filter::ResponseHeaders(changes) => format!("answer's headers: {}", headers(changes)),
        Filter::Redirect(redirect) => {
            let mut words = format!("redirect {}", redirect.status.as_u16());
            if redirect.has_scheme {
                words.push_str(if redirect.is_https { " https" } else { " http" });
            }
            let host = redirect.hostname.iter().map(|host| format!(" host {host}"));
            let port = redirect.port.iter().map(|port| format!(" port {port}"));
            let path = redirect
                .path
                .iter()
                .map(|path| format!(" {}", change(path)));
            words.extend(host.chain(port).chain(path));
            words
        }
        Filter::Rewrite(rewrite) => {
            let host = rewrite.hostname.as_ref();
            let host =
                host.map(|host| format!("host {}", String::from_utf8_lossy(host.as_bytes())));
            let path = rewrite.path.as_ref().map(change);
            let words: Vec<String> = host.into_iter().chain(path).collect();
            format!("rewrite {}", words.join(", "))
        }
        Filter::Mirror(mirror) => {
            let cannot = mirror.backend.cannot.as_ref();
            let cannot = cannot.map_or(String::new(), |why| format!(", but cannot: {why}"));
            let of = if mirror.numerator == mirror.denominator {
                String::new()
            } else {
                format!(" {} of {}", mirror.numerator, mirror.denominator)
            };
            format!("mirror{of} to {}{cannot}", backend(&mirror.backend))
        }
        Filter::Cors(_) => "CORS".to_owned(),
    }
}

fn change(path: &PathChange) -> String {
    match path {
        PathChange::Full(full) => format!("path {full}"),
        PathChange::Prefix(prefix) => format!("prefix {prefix}"),
    }
}

fn headers(changes: &HeaderChanges) -> String {
    let pairs = |what: &'static str, list: &[(http::HeaderName, http::HeaderValue)]| {
        let words = list.iter().map(move |(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            format!("{what} {name}: {value}")
        });
        words.collect::<Vec<_>>()
    };
    let removed = changes.remove.iter().map(|name| format!("remove {name}"));
    let set = pairs("set", &changes.set).into_iter();
    let all = set.chain(pairs("add", &changes.add)).chain(removed);
    all.collect::<Vec<_>>().join(", ")
}

/// What is given of them.
pub fn timeouts(timeouts: &Timeouts) -> Option<String> {
    let parts = [
        ("request", timeouts.request),
        ("perTry", timeouts.per_try),
        ("idle", timeouts.idle),
        ("responseHeaders", timeouts.response_headers),
    ];
    let parts = parts
        .into_iter()
        .filter_map(|(name, length)| Some(format!("{name} {}", duration(length?))));
    let words = parts.collect::<Vec<_>>().join(", ");
    (!words.is_empty()).then_some(words)
}

/// How often, and after which wait.
pub fn retries(retries: &Retries) -> String {
    if retries.attempts == 0 {
        return "none".to_owned();
    }
    let base = duration(retries.backoff_base);
    format!("at most {}, backoff from {base}", retries.attempts)
}

/// What the rule itself is held to.
pub fn limits(limits: &Limits) -> Option<String> {
    let parts = [
        ("maxRequests", limits.max_requests),
        ("maxRetries", limits.max_retries),
    ];
    let parts = parts
        .into_iter()
        .filter_map(|(name, most)| Some(format!("{name} {}", most?)));
    let words = parts.collect::<Vec<_>>().join(", ");
    (!words.is_empty()).then_some(words)
}

fn duration(length: Duration) -> String {
    display_ms(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}
