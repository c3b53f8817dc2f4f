//! Which way one request takes, and why no other: by the sidecars' own matcher.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use remora_proxy::routes::config::{Filter, PortRoutes, Rule};
use remora_proxy::routes::explain::Verdict;
use remora_proxy::routes::request::View;
use serde::Serialize;

use super::routes::Called;
use super::words;
use crate::cluster::error::Error;

/// What Remora's own answers say in `x-remora-reason`: no rule matches.
const NO_ROUTE: &str = "no_route";
/// A rule matches, and leads nowhere.
const NO_BACKEND: &str = "no_backend";

/// What is asked about one request.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Asked {
    /// Tell which way a request of this path takes (`/charge?card=1`; of gRPC: `/shop.Cart/Add`).
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Its method (default: GET; of gRPC: POST).
    #[arg(long, value_name = "METHOD", requires = "path")]
    pub method: Option<Method>,
    /// One of its headers; may be given several times.
    #[arg(long = "header", value_name = "NAME: VALUE", requires = "path", value_parser = parse_header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Who sends it (`web-1`, `shop/web-1`): a pod whose namespace may have routes of its own for
    /// the Service (default: a pod of the Service's namespace).
    #[arg(long, value_name = "POD", requires = "path")]
    pub from: Option<String>,
    /// The Service's port that it goes to (default: the one that has routes).
    #[arg(long, value_name = "PORT", requires = "path", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
}

/// `name: value`.
fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let read = || {
        let (name, value) = text.split_once(':')?;
        let name: HeaderName = name.trim().parse().ok()?;
        Some((name, HeaderValue::from_str(value.trim()).ok()?))
    };
    read().ok_or_else(|| format!("{text:?} is not a header: write 'name: value'"))
}

/// The way that a request takes.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// The request, in words.
    pub asked: String,
    /// What becomes of it, in words.
    pub goes: String,
    /// The rule that takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
    /// Why the others do not.
    pub others: Vec<Other>,
}

/// The rule that takes it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// `HTTPRoute shop/payment`
    pub route: String,
    /// The rule's name, or its place from 0.
    pub rule: String,
    /// By which match.
    pub matched: String,
    /// What is done with it, in this order.
    pub filters: Vec<String>,
    /// Where it may go.
    pub backends: Vec<Share>,
    /// Its time limits, where the rule has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<String>,
    /// What is sent again, where the rule has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<String>,
    /// Limits of the rule alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<String>,
    /// Rate limits that are in the place of the Service's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limits: Option<Vec<String>>,
    /// The policies of the rule and its route, the most specific first.
    pub policies: Vec<String>,
}

/// A backend.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// `shop/payment-v1:8080`
    pub backend: String,
    /// Its weight.
    pub weight: u32,
    /// Of a hundred requests so many.
    pub percent: f64,
    /// Why it cannot be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cannot: Option<String>,
    /// What is done with requests to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
}

/// A rule that does not take it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Other {
    /// `HTTPRoute shop/payment`
    pub route: String,
    /// The rule's name, or its place from 0.
    pub rule: String,
    /// Why not.
    pub why: String,
}

/// The way of a request from a namespace to a Service.
///
/// # Errors
/// When the request or the port is none.
pub fn way(service: &Called, asked: &Asked, from: &str) -> Result<Way, Error> {
    let path = asked.path.as_deref().unwrap_or("/");
    let parsed = path.parse().ok();
    // A word alone would be taken for a host without a path.
    let uri = parsed.filter(|uri: &Uri| uri.path().starts_with('/') || path == "*");
    let uri = uri.ok_or_else(|| {
        Error::Usage(format!(
            "{path:?} is not a path: it begins with /, and is percent-encoded"
        ))
    })?;
    let port = port(service, asked.port)?;
    let routes = service
        .routes
        .iter()
        .find(|routes| routes.ports.contains(&port));
    let is_grpc = routes.is_some_and(|routes| routes.grpc);
    let method = asked.method.clone();
    let method = method.unwrap_or(if is_grpc { Method::POST } else { Method::GET });
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        headers.append(name, value.clone());
    }
    if !headers.contains_key(http::header::HOST)
        && let Ok(host) = HeaderValue::from_str(&service.service.name)
    {
        headers.insert(http::header::HOST, host);
    }
    let words = format!("{method} {path} to port {port}, from namespace {from}");
    let Some(routes) = routes else {
        let goes = if service.ports.contains(&(port, true)) {
            "as without routes: the port carries bytes, not HTTP"
        } else {
            "to the Service's own endpoints: no route is in force there"
        };
        return Ok(Way {
            asked: words,
            goes: goes.to_owned(),
            taken: None,
            others: Vec::new(),
        });
    };
    let view = View {
        method: method.as_str(),
        path: uri.path(),
        query: uri.query(),
        authority: None,
        headers: &headers,
    };
    Ok(told(routes, &view, words))
}

/// The port that is meant.
fn port(service: &Called, wanted: Option<u16>) -> Result<u16, Error> {
    let name = &service.service;
    let listed = || {
        let ports = service.ports.iter().map(|(port, _)| port.to_string());
        ports.collect::<Vec<_>>().join(", ")
    };
    if let Some(wanted) = wanted {
        let is_there = service.ports.iter().any(|(port, _)| *port == wanted);
        let none = || Error::Usage(format!("{name} has no port {wanted}; it has: {}", listed()));
        return is_there.then_some(wanted).ok_or_else(none);
    }
    let only = match service.routes.as_slice() {
        [] => service.ports.first().map(|(port, _)| *port),
        [one] => one.ports.first().copied(),
        _ => None,
    };
    only.ok_or_else(|| {
        let ports = listed();
        Error::Usage(format!(
            "{name} has several ports with routes of their own: name one with --port ({ports})"
        ))
    })
}

fn told(routes: &PortRoutes, view: &View<'_>, asked: String) -> Way {
    let nothing = if routes.grpc {
        format!("no rule takes it: UNIMPLEMENTED ({})", NO_ROUTE)
    } else {
        format!("no rule takes it: 404 ({})", NO_ROUTE)
    };
    let mut way = Way {
        asked,
        goes: nothing,
        taken: None,
        others: Vec::new(),
    };
    let verdicts = routes.explain(view);
    for (rule, verdict) in routes.rules.iter().zip(verdicts) {
        let matched = |at: Option<usize>| {
            let found = at.and_then(|at| rule.matches.get(at));
            found.map_or("every request".to_owned(), words::of_match)
        };
        let why = match verdict {
            Verdict::Chosen { matched: at } => {
                way.goes = goes(rule, routes.grpc);
                way.taken = Some(taken(rule, matched(at)));
                continue;
            }
            Verdict::Outranked { matched: at } => {
                format!(
                    "it matches too ({}), and another goes before it",
                    matched(at)
                )
            }
            Verdict::Failed(failed) => {
                let each = rule.matches.iter().zip(failed);
                let each = each.map(|(one, failed)| words::failed(one, failed));
                each.collect::<Vec<_>>().join("; ")
            }
        };
        way.others.push(Other {
            route: route_of(rule),
            rule: rule.route.rule_label(),
            why,
        });
    }
    way
}

fn route_of(rule: &Rule) -> String {
    let route = &rule.route;
    format!("{} {}/{}", route.kind, route.namespace, route.name)
}

/// What becomes of what a rule takes.
fn goes(rule: &Rule, grpc: bool) -> String {
    let refused = if grpc { "UNAVAILABLE" } else { "500" };
    if let Some(why) = &rule.cannot {
        return format!("{refused} ({}), because {why}", NO_BACKEND);
    }
    let mut filters = rule.filters.iter();
    let redirect = filters.find(|filter| matches!(filter, Filter::Redirect(_)));
    if let Some(redirect) = redirect {
        return words::filter(redirect);
    }
    let weighted = rule.backends.iter().filter(|one| one.weight > 0);
    match weighted.collect::<Vec<_>>().as_slice() {
        [] => format!(
            "{refused} ({}): the rule has no backend with a weight",
            NO_BACKEND
        ),
        [one] if one.to.cannot.is_some() => {
            let why = one.to.cannot.as_deref().unwrap_or_default();
            format!("{refused} ({}), because {why}", NO_BACKEND)
        }
        [one] => format!("to {}", words::backend(&one.to)),
        several => format!("to one of {} backends, by weight", several.len()),
    }
}

fn taken(rule: &Rule, matched: String) -> Taken {
    let total: u64 = rule.backends.iter().map(|one| u64::from(one.weight)).sum();
    let backends = rule.backends.iter().map(|one| Share {
        backend: words::backend(&one.to),
        weight: one.weight,
        percent: percent(one.weight, total),
        cannot: one.to.cannot.clone(),
        filters: one.filters.iter().map(words::filter).collect(),
    });
    let rate_limits = rule.rate_limits.as_ref();
    let policies = rule.policies.iter();
    Taken {
        route: route_of(rule),
        rule: rule.route.rule_label(),
        matched,
        filters: rule.filters.iter().map(words::filter).collect(),
        backends: backends.collect(),
        timeouts: rule.timeouts.as_ref().and_then(words::timeouts),
        retries: rule.retries.as_ref().map(words::retries),
        limits: words::limits(&rule.limits),
        rate_limits: rate_limits
            .map(|limits| limits.iter().map(|limit| limit.name.to_string()).collect()),
        policies: policies
            .map(|one| {
                format!(
                    "{}/{} (generation {})",
                    one.namespace, one.name, one.generation
                )
            })
            .collect(),
    }
}

/// To a tenth.
fn percent(weight: u32, total: u64) -> f64 {
    if total == 0 {
        return 0.0;
    }
    let tenths = (u64::from(weight) * 1000 + total / 2) / total;
    #[allow(clippy::cast_precision_loss, reason = "at most a thousand")]
    let tenths = tenths as f64;
    tenths / 10.0
}
