//! The routes of a Service, checked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::{HeaderName, Method};
use prost::Message;
use remora_proto::bounds::{
    MAX_ROUTE_LIST, MAX_ROUTE_MATCHES, MAX_ROUTE_PATTERN_BYTES, MAX_ROUTE_RULES, MAX_ROUTE_TEXT,
    MAX_ROUTE_WEIGHT, MAX_ROUTES_BYTES, MAX_TEXT,
};
use remora_proto::pattern::{MAX_AUTOMATON_BYTES, Pattern};
use remora_proto::v1;
use remora_proto::v1::route_match::Path;

use super::problems::Problems;
use super::{filters, label, names, policy, policy_references, trouble};
use crate::routes::config::{
    Backend, BackendReference, PathMatch, PortRoutes, RouteMatch, RouteReference, Rule,
    SessionCarrier, SessionPersistence, Text, ValueMatch,
};

/// What is counted over all routes of a Service.
#[derive(Debug, Default)]
struct Decoder {
    /// What is written several times is built once.
    patterns: HashMap<String, Arc<Pattern>>,
    pattern_bytes: usize,
    rules: usize,
    matches: usize,
}

/// All routes of a Service.
pub fn port_routes(routes: &[v1::PortRoutes], problems: &mut Problems) -> Vec<Arc<PortRoutes>> {
    let bytes: usize = routes.iter().map(Message::encoded_len).sum();
    if bytes > MAX_ROUTES_BYTES {
        problems.add(
            "routes",
            format_args!("have {bytes} bytes, at most {MAX_ROUTES_BYTES}"),
        );
        return Vec::new();
    }
    let mut decoder = Decoder::default();
    let mut ports = HashSet::new();
    let parsed = routes
        .iter()
        .enumerate()
        .map(|(at, routes)| {
            problems.within(format!("routes[{at}]"), |problems| {
                for port in &routes.ports {
                    if !ports.insert(*port) {
                        problems.add("ports", format_args!("{port} is there twice"));
                    }
                }
                Arc::new(decoder.routes(routes, problems))
            })
        })
        .collect();
    for (what, count, at_most) in [
        ("rules", decoder.rules, MAX_ROUTE_RULES),
        ("matches", decoder.matches, MAX_ROUTE_MATCHES),
    ] {
        if count > at_most {
            let problem = format_args!("have {count} {what}, at most {at_most}");
            problems.add("routes", problem);
        }
    }
    parsed
}

impl Decoder {
    fn routes(&mut self, routes: &v1::PortRoutes, problems: &mut Problems) -> PortRoutes {
        let ports = routes.ports.iter();
        let ports = ports.map(|port| problems.port("ports", *port)).collect();
        let rules = problems.list("rules", &routes.rules, MAX_ROUTE_RULES);
        self.rules += rules.len();
        let rules: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(at, rule)| {
                problems.within(format!("rules[{at}]"), |problems| self.rule(rule, problems))
            })
            .collect();
        // What is refused anyway needs no index.
        let rules = if problems.is_empty() {
            rules
        } else {
            Vec::new()
        };
        PortRoutes::new(ports, routes.grpc, rules)
    }

    fn rule(&mut self, rule: &v1::RouteRule, problems: &mut Problems) -> Rule {
        let matches = problems.list("matches", &rule.matches, MAX_ROUTE_MATCHES);
        self.matches += matches.len().max(1);
        let matches: Vec<_> = matches
            .iter()
            .enumerate()
            .map(|(at, part)| {
                problems.within(format!("matches[{at}]"), |problems| {
                    self.route_match(part, problems)
                })
            })
            .collect();
        let prefixes = match matches.as_slice() {
            // A prefix that is replaced must be one, and one alone.
            [one] => matches!(one.path, PathMatch::Prefix(_) | PathMatch::Any),
            others => others.is_empty(),
        };
        let mut cannot = (!rule.cannot.is_empty()).then(|| rule.cannot.clone());
        let filters = filters::filters(&rule.filters, prefixes, &mut cannot, problems);
        Rule {
            route: reference(rule.route.as_ref(), problems),
            matches,
            filters,
            backends: backends(&rule.backends, prefixes, problems),
            retries: rule
                .retries
                .as_ref()
                .map(|part| problems.within("retries", |problems| policy::retries(part, problems))),
            timeouts: rule.timeouts.as_ref().map(|part| {
                problems.within("timeouts", |problems| policy::timeouts(part, problems))
            }),
            rate_limits: rule
                .own_rate_limits
                .then(|| policy::rate_limits(&rule.rate_limits, problems)),
            limits: policy::limits("limits", rule.limits.as_ref(), problems),
            session: rule
                .session_persistence
                .as_ref()
                .and_then(|part| session(part, problems)),
            policies: policy_references(&rule.policies, problems),
            cannot,
            fallback: trouble::fallback(rule.fallback.as_ref(), problems),
            fault: trouble::fault(rule.fault.as_ref(), problems),
        }
    }

    fn route_match(&mut self, part: &v1::RouteMatch, problems: &mut Problems) -> RouteMatch {
        let headers = problems.list("headers", &part.headers, MAX_ROUTE_LIST);
        let headers = headers.iter().map(|header| {
            let name = policy::header_name("headers.name", &header.name, problems);
            ValueMatch {
                name: HeaderName::from_bytes(name.as_bytes()).unwrap_or(http::header::HOST),
                value: self.value("headers", header, problems),
            }
        });
        let headers = headers.collect();
        let query = problems.list("query", &part.query, MAX_ROUTE_LIST);
        let query = query.iter().map(|parameter| ValueMatch {
            name: problems.text("query.name", &parameter.name, is_text, "a parameter's name"),
            value: self.value("query", parameter, problems),
        });
        let query = query.collect();
        RouteMatch {
            path: part
                .path
                .as_ref()
                .map(|path| self.path(path, problems))
                .unwrap_or_default(),
            method: method(&part.method, problems),
            headers,
            query,
        }
    }

    fn path(&mut self, path: &Path, problems: &mut Problems) -> PathMatch {
        match path {
            Path::PathExact(path) => {
                PathMatch::Exact(problems.text("path_exact", path, is_path, "a path"))
            }
            Path::PathPrefix(prefix) => {
                let prefix = problems.text("path_prefix", prefix, is_path, "a path");
                match prefix.trim_end_matches('/') {
                    "" => PathMatch::Any,
                    prefix => PathMatch::Prefix(prefix.to_owned()),
                }
            }
            Path::PathPattern(pattern) => self
                .pattern("path_pattern", pattern, problems)
                .map_or(PathMatch::Any, PathMatch::Pattern),
            Path::GrpcMethod(call) => {
                use v1::grpc_method::{Method, Service};
                let service = call.service.as_ref().map(|service| match service {
                    Service::ServiceExact(exact) => self.name("service_exact", exact, problems),
                    Service::ServicePattern(text) => self.form("service_pattern", text, problems),
                });
                let method = call.method.as_ref().map(|method| match method {
                    Method::MethodExact(exact) => self.name("method_exact", exact, problems),
                    Method::MethodPattern(text) => self.form("method_pattern", text, problems),
                });
                match (service, method) {
                    (None, None) => PathMatch::Any,
                    (service, method) => PathMatch::Grpc { service, method },
                }
            }
        }
    }

    fn name(&self, field: &str, name: &str, problems: &mut Problems) -> Text {
        let valid = |name: &str| is_text(name) && !name.contains('/') && !name.is_empty();
        Text::Exact(problems.text(field, name, valid, "a name without a slash"))
    }

    fn form(&mut self, field: &str, text: &str, problems: &mut Problems) -> Text {
        let pattern = self.pattern(field, text, problems);
        pattern.map_or(Text::Nothing, Text::Pattern)
    }

    fn value(&mut self, field: &str, part: &v1::ValueMatch, problems: &mut Problems) -> Text {
        use v1::value_match::Value;
        match &part.value {
            Some(Value::Exact(exact)) => {
                Text::Exact(problems.text(field, exact, is_text, "a value that is not too long"))
            }
            Some(Value::Pattern(pattern)) => self.form(field, pattern, problems),
            None => Text::Nothing,
        }
    }

    fn pattern(
        &mut self,
        field: &str,
        text: &str,
        problems: &mut Problems,
    ) -> Option<Arc<Pattern>> {
        if let Some(known) = self.patterns.get(text) {
            return Some(Arc::clone(known));
        }
        if self.pattern_bytes > MAX_ROUTE_PATTERN_BYTES {
            return None;
        }
        match Pattern::parse(text) {
            Ok(pattern) => {
                self.pattern_bytes += pattern.size();
                if self.pattern_bytes > MAX_ROUTE_PATTERN_BYTES {
                    let problem = format_args!(
                        "all patterns together have more than {MAX_ROUTE_PATTERN_BYTES} bytes"
                    );
                    problems.add(field, problem);
                    return None;
                }
                let pattern = Arc::new(pattern);
                self.patterns.insert(text.to_owned(), Arc::clone(&pattern));
                Some(pattern)
            }
            Err(error) => {
                // So that not very many such are tried.
                self.pattern_bytes += MAX_AUTOMATON_BYTES;
                problems.add(field, error);
                None
            }
        }
    }
}

fn method(method: &str, problems: &mut Problems) -> Option<Method> {
    if method.is_empty() {
        return None;
    }
    let parsed = Method::from_bytes(method.as_bytes()).ok();
    let parsed = parsed.filter(|_| method.len() <= MAX_TEXT);
    if parsed.is_none() {
        let quoted = super::problems::quote(method);
        problems.add("method", format_args!("is {quoted}, must be a method"));
    }
    parsed
}

fn reference(route: Option<&v1::RouteReference>, problems: &mut Problems) -> RouteReference {
    let Some(route) = route else {
        problems.add("route", "is missing");
        return RouteReference::default();
    };
    let is_rule_name = |name: &str| name.is_empty() || names::is_subdomain(name);
    problems.within("route", |problems| RouteReference {
        kind: problems.text(
            "kind",
            &route.kind,
            |kind| matches!(kind, "HTTPRoute" | "GRPCRoute"),
            "HTTPRoute or GRPCRoute",
        ),
        namespace: label("namespace", &route.namespace, problems),
        name: problems.text("name", &route.name, names::is_subdomain, "a route's name"),
        generation: route.generation,
        rule: route.rule,
        rule_name: problems.text("rule_name", &route.rule_name, is_rule_name, "a rule's name"),
    })
}

fn backends(
    backends: &[v1::RouteBackend],
    prefixes: bool,
    problems: &mut Problems,
) -> Vec<Backend> {
    let backends = problems.list("backends", backends, MAX_ROUTE_LIST);
    let parsed = backends.iter().enumerate().map(|(at, part)| {
        problems.within(format!("backends[{at}]"), |problems| {
            let mut to = backend(part.backend.as_ref(), problems);
            Backend {
                weight: problems.number("weight", part.weight, 0..=MAX_ROUTE_WEIGHT),
                filters: filters::filters(&part.filters, prefixes, &mut to.cannot, problems),
                to,
            }
        })
    });
    parsed.collect()
}

/// Where a request or a mirror goes.
pub fn backend(part: Option<&v1::BackendReference>, problems: &mut Problems) -> BackendReference {
    let Some(part) = part else {
        problems.add("backend", "is missing");
        return BackendReference::default();
    };
    problems.within("backend", |problems| {
        if !part.cannot.is_empty() {
            // As the route named it, which need be nothing that there is.
            return BackendReference {
                service: format!("{}/{}", part.namespace, part.service).into(),
                port: u16::try_from(part.port).unwrap_or_default(),
                cannot: Some(part.cannot.clone()),
            };
        }
        let namespace = label("namespace", &part.namespace, problems);
        let service = label("service", &part.service, problems);
        BackendReference {
            service: format!("{namespace}/{service}").into(),
            port: problems.port("port", part.port),
            cannot: None,
        }
    })
}

/// One of a kind that is not known here cannot be kept: then there is none.
fn session(part: &v1::SessionPersistence, problems: &mut Problems) -> Option<SessionPersistence> {
    use v1::session_persistence::Kind;
    problems.within("session_persistence", |problems| {
        let carrier = match part.kind.as_ref()? {
            Kind::Cookie(part) => cookie(&part.name, &part.path, part.permanent, problems),
            Kind::Header(name) => {
                SessionCarrier::Header(filters::changeable("header", name, problems)?)
            }
        };
        let timeout = part.absolute_timeout_ms;
        Some(SessionPersistence {
            carrier,
            // As long as anyone may want a session to last.
            absolute_timeout: (timeout > 0).then(|| std::time::Duration::from_millis(timeout)),
        })
    })
}

/// A cookie that holds a session's token.
pub fn cookie(name: &str, path: &str, permanent: bool, problems: &mut Problems) -> SessionCarrier {
    SessionCarrier::Cookie {
        name: problems.text(
            "cookie.name",
            name,
            |name| name.len() <= MAX_TEXT && remora_proto::bounds::is_token(name),
            "a cookie's name",
        ),
        path: problems.text(
            "cookie.path",
            path,
            |path| remora_proto::bounds::is_path(path) && !path.contains(';'),
            "a path",
        ),
        permanent,
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && is_text(path)
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_ROUTE_TEXT && !text.chars().any(char::is_control)
}
