//! The index against a naive reading of the specification.
//!
//! `REMORA_SEED` replays a run.

use std::cmp::Ordering;
use std::sync::Arc;

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use remora_proto::pattern::Pattern;

use super::config::{PathMatch, PortRoutes, RouteMatch, Rule, Text, ValueMatch};
use super::explain::Verdict;
use super::index::Found;
use super::request::View;

/// Sets of routes, each with requests of its own.
const SETS: usize = 100_000;
const REQUESTS: usize = 2;

const PATHS: [&str; 14] = [
    "/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/a//b", "//", "/b", "/b/a", "/a/b/", "/abc", "*",
    "",
];
const PREFIXES: [&str; 8] = ["", "/a", "/a/b", "/ab", "/b", "/a/b/c", "/a/", "/b/a"];
const PATTERNS: [&str; 8] = [
    "/a.*",
    "/[ab]",
    "/a/b",
    ".*",
    "/a/(b|c)/?.*",
    "/b.*",
    "(?i)/A",
    "/a|/b",
];
const VALUES: [&str; 4] = ["1", "2", "1,2", "x y"];
const VALUE_PATTERNS: [&str; 3] = ["[12]", "1.*", ".*"];
const NAMES: [&str; 3] = ["x-a", "x-b", "host"];
const METHODS: [Method; 3] = [Method::GET, Method::POST, Method::OPTIONS];
const WORDS: [&str; 3] = ["a", "ab", "b.C"];

struct Patterns {
    paths: Vec<Arc<Pattern>>,
    values: Vec<Arc<Pattern>>,
}

fn some<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

impl Patterns {
    fn new() -> Self {
        let parse = |texts: &[&str]| {
            let parsed = texts
                .iter()
                .map(|text| Arc::new(Pattern::parse(text).unwrap()));
            parsed.collect()
        };
        Self {
            paths: parse(&PATTERNS),
            values: parse(&VALUE_PATTERNS),
        }
    }

    fn text(&self, rng: &mut Rng, exact: &[&str]) -> Text {
        match rng.u8(..8) {
            0 => Text::Nothing,
            1..3 => Text::Pattern(some(rng, &self.values)),
            _ => Text::Exact(some(rng, exact).to_owned()),
        }
    }

    fn path(&self, rng: &mut Rng, grpc: bool) -> PathMatch {
        if grpc {
            let words = |rng: &mut Rng| rng.bool().then(|| self.text(rng, &WORDS));
            return match (words(rng), words(rng)) {
                (None, None) => PathMatch::Any,
                (service, method) => PathMatch::Grpc { service, method },
            };
        }
        match rng.u8(..4) {
            0 => PathMatch::Any,
            1 => PathMatch::Exact(some(rng, &PATHS[..12]).to_owned()),
            2 => PathMatch::Pattern(some(rng, &self.paths)),
            _ => match some(rng, &PREFIXES).trim_end_matches('/') {
                "" => PathMatch::Any,
                prefix => PathMatch::Prefix(prefix.to_owned()),
            },
        }
    }

    fn one_match(&self, rng: &mut Rng, grpc: bool) -> RouteMatch {
        let headers = (0..rng.usize(..3)).map(|_| ValueMatch {
            name: HeaderName::from_static(some(rng, &NAMES)),
            value: self.text(rng, &VALUES),
        });
        let headers = headers.collect();
        let query = (0..if grpc { 0 } else { rng.usize(..2) }).map(|_| ValueMatch {
            name: some(rng, &WORDS).to_owned(),
            value: self.text(rng, &VALUES),
        });
        let query = query.collect();
        RouteMatch {
            path: self.path(rng, grpc),
            method: (!grpc && rng.u8(..3) == 0).then(|| some(rng, &METHODS)),
            headers,
            query,
        }
    }

    fn routes(&self, rng: &mut Rng, most: usize) -> PortRoutes {
        let grpc = rng.u8(..4) == 0;
        let rules = (0..rng.usize(..most)).map(|_| Rule {
            matches: (0..rng.usize(..4))
                .map(|_| self.one_match(rng, grpc))
                .collect(),
            ..Rule::default()
        });
        PortRoutes::new(vec![80], grpc, rules.collect())
    }
}

struct Request {
    method: Method,
    path: String,
    query: String,
    authority: Option<&'static str>,
    headers: HeaderMap,
}

impl Request {
    fn new(rng: &mut Rng, grpc: bool) -> Self {
        let mut headers = HeaderMap::new();
        for _ in 0..rng.usize(..4) {
            let name = HeaderName::from_static(some(rng, &NAMES));
            headers.append(name, HeaderValue::from_static(some(rng, &VALUES)));
        }
        let query = (0..rng.usize(..3)).map(|_| {
            let value = some(rng, &["1", "2", "1%2C2", "x+y", "%31"]);
            format!("{}={value}", some(rng, &WORDS))
        });
        let query = query.collect::<Vec<_>>().join("&");
        Self {
            method: some(rng, &METHODS),
            path: if grpc && rng.u8(..8) > 0 {
                format!("/{}/{}", some(rng, &WORDS), some(rng, &WORDS))
            } else {
                some(rng, &PATHS).to_owned()
            },
            query,
            authority: rng.bool().then(|| some(rng, &["1", "2:80", "X y"])),
            headers,
        }
    }

    fn view(&self) -> View<'_> {
        View {
            method: self.method.as_str(),
            path: &self.path,
            query: Some(&self.query),
            authority: self.authority,
            headers: &self.headers,
        }
    }
}

/// The specification, read one sentence after the other.
mod naive {
    use super::*;

    fn text(text: &Text, value: &str) -> bool {
        match text {
            Text::Exact(exact) => exact == value,
            Text::Pattern(pattern) => pattern.matches(value.as_bytes()),
            Text::Nothing => false,
        }
    }

    fn path(condition: &PathMatch, path: &str) -> bool {
        if *condition == PathMatch::Any {
            return true;
        }
        if !path.starts_with('/') {
            return false;
        }
        match condition {
            PathMatch::Any => true,
            PathMatch::Exact(exact) => exact == path,
            PathMatch::Prefix(prefix) => {
                let elements: Vec<&str> = path.split('/').collect();
                let wanted: Vec<&str> = prefix.split('/').collect();
                elements.starts_with(&wanted)
            }
            PathMatch::Pattern(pattern) => pattern.matches(path.as_bytes()),
            PathMatch::Grpc { service, method } => match path.split('/').collect::<Vec<_>>()[..] {
                ["", of_service, of_method] => {
                    service.as_ref().is_none_or(|it| text(it, of_service))
                        && method.as_ref().is_none_or(|it| text(it, of_method))
                }
                _ => false,
            },
        }
    }

    fn header(condition: &ValueMatch<HeaderName>, request: &Request) -> bool {
        let lines = request.headers.get_all(&condition.name).iter();
        let lines: Vec<&str> = lines.map(|value| value.to_str().unwrap()).collect();
        if condition.name == "host" {
            let host = request.authority.or(lines.first().copied());
            let host = host.map(|host| host.split(':').next().unwrap().to_lowercase());
            return host.is_some_and(|host| text(&condition.value, &host));
        }
        !lines.is_empty() && text(&condition.value, &lines.join(","))
    }

    fn query(condition: &ValueMatch<String>, request: &Request) -> bool {
        let pairs = request
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let first = pairs
            .filter(|(name, _)| *name == condition.name)
            .map(|(_, value)| value)
            .next();
        first.is_some_and(|value| {
            let value = value
                .replace('+', " ")
                .replace("%2C", ",")
                .replace("%31", "1");
            text(&condition.value, &value)
        })
    }

    fn holds(conditions: &RouteMatch, request: &Request) -> bool {
        path(&conditions.path, &request.path)
            && conditions
                .method
                .as_ref()
                .is_none_or(|method| *method == request.method)
            && conditions.headers.iter().all(|it| header(it, request))
            && conditions.query.iter().all(|it| query(it, request))
    }

    fn characters(text: &Option<Text>) -> (bool, usize) {
        match text {
            Some(Text::Exact(exact)) => (true, exact.len()),
            Some(Text::Pattern(pattern)) => (false, pattern.as_str().len()),
            _ => (false, 0),
        }
    }

    /// `Greater` goes before.
    fn precedence(one: &RouteMatch, other: &RouteMatch) -> Ordering {
        let is_exact = |it: &RouteMatch| matches!(it.path, PathMatch::Exact(_));
        let pattern = |it: &RouteMatch| match &it.path {
            PathMatch::Pattern(pattern) => pattern.as_str().len(),
            _ => 0,
        };
        let prefix = |it: &RouteMatch| match &it.path {
            PathMatch::Prefix(prefix) => prefix.len(),
            _ => 0,
        };
        let call = |it: &RouteMatch| match &it.path {
            PathMatch::Grpc { service, method } => (characters(service), characters(method)),
            _ => ((false, 0), (false, 0)),
        };
        let method = |it: &RouteMatch| it.method.is_some();
        let by_path = is_exact(one)
            .cmp(&is_exact(other))
            .then(pattern(one).cmp(&pattern(other)))
            .then(prefix(one).cmp(&prefix(other)))
            .then(call(one).cmp(&call(other)));
        by_path
            .then(method(one).cmp(&method(other)))
            .then(one.headers.len().cmp(&other.headers.len()))
            .then(one.query.len().cmp(&other.query.len()))
    }

    pub(super) fn find(routes: &PortRoutes, request: &Request) -> Option<Found> {
        let all = RouteMatch::default();
        let mut best: Option<(Found, &RouteMatch)> = None;
        for (rule, config) in routes.rules.iter().enumerate() {
            let matches = config
                .matches
                .iter()
                .enumerate()
                .map(|(at, it)| (Some(at), it));
            let none = config.matches.is_empty().then_some((None, &all));
            for (matched, conditions) in matches.chain(none) {
                let is_better = |(_, held): &(Found, &RouteMatch)| {
                    precedence(conditions, held) == Ordering::Greater
                };
                if holds(conditions, request) && best.as_ref().is_none_or(is_better) {
                    best = Some((Found { rule, matched }, conditions));
                }
            }
        }
        best.map(|(found, _)| found)
    }
}

fn seed() -> u64 {
    let given = std::env::var("REMORA_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok());
    seed.unwrap_or_else(crate::random::next)
}

#[test]
fn the_index_finds_what_a_naive_reading_of_the_specification_finds() {
    let seed = seed();
    println!("REMORA_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let patterns = Patterns::new();
    let (mut found, mut missed) = (0, 0);
    for set in 0..SETS {
        // A few are large, so that values of the same field are told apart.
        let most = if set % 50 == 0 { 80 } else { 6 };
        let routes = patterns.routes(&mut rng, most);
        for _ in 0..REQUESTS {
            let request = Request::new(&mut rng, routes.grpc);
            let expected = naive::find(&routes, &request);
            let view = request.view();
            let got = routes.find(&view);
            assert_eq!(
                got, expected,
                "seed {seed}: {view:?} of {:#?}",
                routes.rules
            );
            *if got.is_some() {
                &mut found
            } else {
                &mut missed
            } += 1;
            if set % 100 == 0 {
                explanation_agrees(&routes, &view, expected);
            }
        }
    }
    // Neither always nor never, or the test would say little.
    assert!(
        found > SETS / 4 && missed > SETS / 10,
        "{found} found, {missed} not"
    );
}

fn explanation_agrees(routes: &PortRoutes, view: &View<'_>, expected: Option<Found>) {
    for (at, verdict) in routes.explain(view).into_iter().enumerate() {
        let rule = &routes.rules[at];
        match verdict {
            Verdict::Chosen { matched } => assert_eq!(Some(Found { rule: at, matched }), expected),
            Verdict::Outranked { matched: None } => assert!(rule.matches.is_empty()),
            Verdict::Outranked {
                matched: Some(matched),
            } => {
                assert_eq!(rule.matches[matched].failed(view), None);
            }
            Verdict::Failed(failed) => {
                let each = rule.matches.iter().map(|it| it.failed(view).unwrap());
                assert_eq!(each.collect::<Vec<_>>(), failed);
            }
        }
    }
}
