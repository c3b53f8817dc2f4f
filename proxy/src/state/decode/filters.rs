//! The filters of a route, checked. What a filter wants that is not known here
//! cannot be done, and what it would have processed is answered with an error:
//! so that is told apart from what is wrong.

use http::{HeaderName, HeaderValue, StatusCode};
use remora_proto::bounds::{self, MAX_CORS_LIST, MAX_LIST, MAX_ROUTE_LIST, MAX_ROUTE_TEXT};
use remora_proto::v1;
use remora_proto::v1::route_filter::Filter as Part;

use super::problems::{Problems, quote};
use super::routes;
use crate::routes::config::{
    AllowList, Cors, Filter, HeaderChanges, Mirror, Origin, PathChange, Redirect, Rewrite,
};

/// The longest time that a preflight's answer is remembered, in seconds.
const MAX_AGE_SECONDS: u32 = i32::MAX as u32;

/// `prefixes` is whether a prefix can be replaced; `cannot` takes what cannot be done.
pub fn filters(
    parts: &[v1::RouteFilter],
    prefixes: bool,
    cannot: &mut Option<String>,
    problems: &mut Problems,
) -> Vec<Filter> {
    let parts = problems.list("filters", parts, MAX_ROUTE_LIST);
    let mut parsed = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        let filter = problems.within(format!("filters[{at}]"), |problems| match &part.filter {
            Some(Part::RequestHeaders(part)) => {
                Some(Filter::RequestHeaders(header_changes(part, problems)))
            }
            Some(Part::ResponseHeaders(part)) => {
                Some(Filter::ResponseHeaders(header_changes(part, problems)))
            }
            Some(Part::Redirect(part)) => redirect(part, prefixes, problems).map(Filter::Redirect),
            Some(Part::Rewrite(part)) => rewrite(part, prefixes, problems).map(Filter::Rewrite),
            Some(Part::Mirror(part)) => Some(Filter::Mirror(mirror(part, problems))),
            Some(Part::Cors(part)) => Some(Filter::Cors(cors(part, problems))),
            None => None,
        });
        match filter {
            Some(filter) => parsed.push(filter),
            None => {
                cannot.get_or_insert_with(|| {
                    format!("filter {at} is of a kind that this sidecar does not know")
                });
            }
        }
    }
    parsed
}

fn header_changes(part: &v1::HeaderChanges, problems: &mut Problems) -> HeaderChanges {
    let fields = |field: &str, list: &[v1::Header], problems: &mut Problems| {
        let list = problems.list(field, list, MAX_LIST);
        list.iter()
            .filter_map(|header| {
                let name = changeable(field, &header.name, problems)?;
                let value = HeaderValue::from_bytes(header.value.as_bytes()).ok();
                let value = value.filter(|value| value.len() <= MAX_ROUTE_TEXT);
                if value.is_none() {
                    let quoted = quote(&header.value);
                    problems.add(field, format_args!("{quoted} is no value of a header"));
                }
                Some((name, value?))
            })
            .collect()
    };
    HeaderChanges {
        set: fields("set", &part.set, problems),
        add: fields("add", &part.add, problems),
        remove: problems
            .list("remove", &part.remove, MAX_LIST)
            .iter()
            .filter_map(|name| changeable("remove", name, problems))
            .collect(),
    }
}

/// The name of a field that a route may change.
pub fn changeable(field: &str, name: &str, problems: &mut Problems) -> Option<HeaderName> {
    let parsed = HeaderName::from_lowercase(name.as_bytes()).ok();
    let parsed = parsed.filter(|_| bounds::is_changeable_header(name));
    if parsed.is_none() {
        let quoted = quote(name);
        problems.add(field, format_args!("{quoted} is not a route's to change"));
    }
    parsed
}

fn redirect(part: &v1::Redirect, prefixes: bool, problems: &mut Problems) -> Option<Redirect> {
    let status = u16::try_from(part.status).unwrap_or_default();
    let is_known = matches!(part.scheme.as_str(), "" | "http" | "https")
        && matches!(status, 301 | 302 | 303 | 307 | 308);
    let status = StatusCode::from_u16(status).ok().filter(|_| is_known)?;
    Some(Redirect {
        is_https: part.scheme == "https",
        has_scheme: !part.scheme.is_empty(),
        hostname: hostname(&part.hostname, problems),
        path: path_change(part.path.as_ref(), prefixes, problems)?,
        port: (part.port != 0).then(|| problems.port("port", part.port)),
        status,
    })
}

fn rewrite(part: &v1::Rewrite, prefixes: bool, problems: &mut Problems) -> Option<Rewrite> {
    Some(Rewrite {
        hostname: hostname(&part.hostname, problems)
            .and_then(|host| HeaderValue::from_str(&host).ok()),
        path: path_change(part.path.as_ref(), prefixes, problems)?,
    })
}

fn hostname(name: &str, problems: &mut Problems) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    Some(problems.text("hostname", name, bounds::is_subdomain, "a host's name"))
}

/// `None` for a change that is not known here; within it for none.
fn path_change(
    part: Option<&v1::PathChange>,
    prefixes: bool,
    problems: &mut Problems,
) -> Option<Option<PathChange>> {
    use v1::path_change::Change;
    let Some(part) = part else {
        return Some(None);
    };
    let is_path = |path: &str| bounds::is_path(path) && !path.contains(['?', '#']);
    Some(Some(match part.change.as_ref()? {
        Change::Full(path) => PathChange::Full(problems.text("path.full", path, is_path, "a path")),
        Change::Prefix(path) => {
            if !prefixes {
                let problem =
                    "replaces a prefix, and the rule has another match than one by prefix";
                problems.add("path.prefix", problem);
            }
            let valid = |path: &str| path.is_empty() || is_path(path);
            PathChange::Prefix(problems.text("path.prefix", path, valid, "a path or empty"))
        }
    }))
}

fn mirror(part: &v1::Mirror, problems: &mut Problems) -> Mirror {
    let denominator = problems.number("denominator", part.denominator, 1..=u32::MAX);
    Mirror {
        backend: routes::backend(part.backend.as_ref(), problems),
        numerator: problems.number("numerator", part.numerator, 0..=denominator),
        denominator,
    }
}

fn cors(part: &v1::Cors, problems: &mut Problems) -> Cors {
    let origins = problems.list("allow_origins", &part.allow_origins, MAX_CORS_LIST);
    let origins = origins.iter().filter_map(|text| {
        let origin = origin(text);
        if origin.is_none() {
            problems.add(
                "allow_origins",
                format_args!("{} is no origin", quote(text)),
            );
        }
        origin
    });
    Cors {
        origins: origins.collect(),
        allow_credentials: part.allow_credentials,
        methods: allowed("allow_methods", &part.allow_methods, problems),
        headers: allowed("allow_headers", &part.allow_headers, problems),
        expose: allowed("expose_headers", &part.expose_headers, problems),
        max_age_seconds: problems.number(
            "max_age_seconds",
            part.max_age_seconds,
            1..=MAX_AGE_SECONDS,
        ),
    }
}

fn allowed(field: &str, list: &[String], problems: &mut Problems) -> AllowList {
    let list = problems.list(field, list, MAX_CORS_LIST);
    for text in list {
        // `*` is a token too.
        problems.text(field, text, bounds::is_token, "a token");
    }
    let listed: Vec<&str> = list
        .iter()
        .map(String::as_str)
        .filter(|text| *text != "*")
        .collect();
    AllowList {
        all: listed.len() < list.len(),
        listed: HeaderValue::from_str(&listed.join(", "))
            .ok()
            .filter(|_| !listed.is_empty()),
    }
}

/// `*`, `scheme://host` or `scheme://host:port`.
fn origin(text: &str) -> Option<Origin> {
    if text == "*" {
        return Some(Origin::Any);
    }
    let (is_https, host, port) = crate::routes::cors::parts_of(text)?;
    let (host, is_suffix) = match host.strip_prefix('*') {
        Some(rest) => (rest, true),
        None => (host, false),
    };
    (text.len() <= MAX_ROUTE_TEXT && !host.contains('*')).then(|| Origin::Of {
        is_https,
        host: host.to_ascii_lowercase(),
        is_suffix,
        port,
    })
}
