//! The matches of all rules of a port, so laid out that a request looks at few
//! of them: built once for each configuration, and only read then.
//!
//! ```text
//!   path ─► exact: by the whole path ──────────────────── found? done
//!     │ └─► gRPC: by service, by method ───────────────────┤
//!     └───► elements, from the root down ─► patterns that begin so ─► best? done
//!                         from there up ──► prefixes, the longest first
//! ```
//!
//! All matches are in one order, that of precedence, and are named by their place
//! in it: of several lists the lowest place that holds is the answer.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::config::{PathMatch, RouteMatch, Rule, Text};
use super::group::Group;
use super::request::{self, View};

/// So many elements of a path lead to a node of their own; what has more is beside
/// the others that begin so. Without it long paths would take gigabytes.
const MAX_DEPTH: usize = 8;

/// A rule, and by which of its matches it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place among the port's rules.
    pub rule: usize,
    /// The place of the match; `None` where the rule has none and takes all.
    pub matched: Option<usize>,
}

/// Its places are in the order of precedence.
#[derive(Clone, Debug, Default)]
pub struct Index {
    entries: Vec<Entry>,
    exact: HashMap<Box<str>, Group>,
    grpc_services: HashMap<Box<str>, Group>,
    grpc_methods: HashMap<Box<str>, Group>,
    grpc_others: Group,
    /// The first is the root.
    nodes: Vec<Node>,
}

/// One match.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) conditions: RouteMatch,
    found: Found,
}

/// A path's beginning by whole elements.
#[derive(Clone, Debug, Default)]
struct Node {
    parent: Option<usize>,
    children: HashMap<Box<str>, usize>,
    /// Patterns all of whose texts begin so.
    patterns: Group,
    /// This prefix.
    prefixes: Group,
}

/// Less is first.
type Rank = (
    u8,
    Reverse<usize>,
    u8,
    Reverse<usize>,
    Reverse<usize>,
    Reverse<usize>,
);

/// The precedence of HTTPRouteMatch and GRPCRouteRule: exact before pattern before
/// prefix, the longer first; of gRPC the service's characters, then the method's.
fn rank(conditions: &RouteMatch) -> Rank {
    let of_text = |text: &Option<Text>| match text {
        Some(Text::Exact(exact)) => (0, Reverse(exact.len())),
        Some(Text::Pattern(pattern)) => (1, Reverse(pattern.as_str().len())),
        Some(Text::Nothing) | None => (2, Reverse(0)),
    };
    // The method comes after the path; as no gRPC match has one, its second text
    // stands there.
    let method = u8::from(conditions.method.is_none());
    let ((first, first_length), (second, second_length)) = match &conditions.path {
        PathMatch::Exact(_) => ((0, Reverse(0)), (method, Reverse(0))),
        PathMatch::Pattern(pattern) => {
            let length = pattern.as_str().len();
            ((1, Reverse(length)), (method, Reverse(0)))
        }
        PathMatch::Prefix(prefix) => ((2, Reverse(prefix.len())), (method, Reverse(0))),
        PathMatch::Any => ((2, Reverse(0)), (method * 2, Reverse(0))),
        PathMatch::Grpc { service, method } => (of_text(service), of_text(method)),
    };
    (
        first,
        first_length,
        second,
        second_length,
        Reverse(conditions.headers.len()),
        Reverse(conditions.query.len()),
    )
}

impl Index {
    /// Of these rules.
    pub(super) fn new(rules: &[Arc<Rule>]) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for (rule, config) in rules.iter().enumerate() {
            if config.matches.is_empty() {
                entries.push(Entry {
                    conditions: RouteMatch::default(),
                    found: Found {
                        rule,
                        matched: None,
                    },
                });
            }
            entries.extend(
                config
                    .matches
                    .iter()
                    .enumerate()
                    .map(|(at, conditions)| Entry {
                        conditions: conditions.clone(),
                        found: Found {
                            rule,
                            matched: Some(at),
                        },
                    }),
            );
        }
        // Stable: what ranks the same stays in the rules' order.
        entries.sort_by_key(|entry| rank(&entry.conditions));
        let mut index = Self {
            nodes: vec![Node::default()],
            ..Self::default()
        };
        for place in 0..entries.len() {
            index.place(&entries, place);
        }
        index.entries = entries;
        index
    }

    fn place(&mut self, entries: &[Entry], place: usize) {
        let group = match &entries[place].conditions.path {
            PathMatch::Exact(path) => self.exact.entry(path.as_str().into()).or_default(),
            PathMatch::Any => &mut self.nodes[0].prefixes,
            PathMatch::Prefix(prefix) => {
                let node = self.node(prefix);
                &mut self.nodes[node].prefixes
            }
            PathMatch::Pattern(pattern) => {
                // The last element may go on after what is known of it.
                let beginning = std::str::from_utf8(pattern.beginning()).unwrap_or_default();
                let whole = beginning.rfind('/').unwrap_or_default();
                let node = self.node(&beginning[..whole]);
                &mut self.nodes[node].patterns
            }
            PathMatch::Grpc { service, method } => match (service, method) {
                (Some(Text::Exact(service)), Some(Text::Exact(method))) => {
                    let path = format!("/{service}/{method}");
                    self.exact.entry(path.into()).or_default()
                }
                (Some(Text::Exact(service)), _) => self
                    .grpc_services
                    .entry(service.as_str().into())
                    .or_default(),
                (_, Some(Text::Exact(method))) => {
                    self.grpc_methods.entry(method.as_str().into()).or_default()
                }
                _ => &mut self.grpc_others,
            },
        };
        group.add(place, &entries[place].conditions);
    }

    /// The node of a path, made where it is not there.
    fn node(&mut self, path: &str) -> usize {
        let mut at = 0;
        for element in path.split('/').skip(1).take(MAX_DEPTH) {
            at = match self.nodes[at].children.get(element) {
                Some(child) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node {
                        parent: Some(at),
                        ..Node::default()
                    });
                    self.nodes[at].children.insert(element.into(), child);
                    child
                }
            };
        }
        at
    }

    /// The match with the highest precedence.
    pub(super) fn find(&self, view: &View<'_>) -> Option<Found> {
        let place = if view.path.starts_with('/') {
            self.find_path(view)
        } else {
            self.best(&self.nodes[0].prefixes, view, None)
        };
        place.map(|place| self.entries[place].found)
    }

    fn find_path(&self, view: &View<'_>) -> Option<usize> {
        let mut best = None;
        if let Some(group) = self.exact.get(view.path) {
            best = self.best(group, view, best);
        }
        best = self.find_call(view, best);
        if best.is_some() {
            return best;
        }
        let mut at = 0;
        best = self.best(&self.nodes[at].patterns, view, best);
        for element in view.path.split('/').skip(1) {
            let Some(child) = self.nodes[at].children.get(element) else {
                break;
            };
            at = *child;
            best = self.best(&self.nodes[at].patterns, view, best);
        }
        while best.is_none() {
            best = self.best(&self.nodes[at].prefixes, view, best);
            match self.nodes[at].parent {
                Some(parent) => at = parent,
                None => break,
            }
        }
        best
    }

    fn find_call(&self, view: &View<'_>, mut best: Option<usize>) -> Option<usize> {
        let has_names = !(self.grpc_services.is_empty() && self.grpc_methods.is_empty());
        if !has_names && self.grpc_others.is_empty() {
            return best;
        }
        let Some((service, method)) = request::grpc_method(view.path) else {
            return best;
        };
        let groups = [
            self.grpc_services.get(service),
            self.grpc_methods.get(method),
            Some(&self.grpc_others),
        ];
        for group in groups.into_iter().flatten() {
            best = self.best(group, view, best);
        }
        best
    }

    fn best(&self, group: &Group, view: &View<'_>, best: Option<usize>) -> Option<usize> {
        group.best(&self.entries, view, best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn long_paths_take_no_more_than_their_share_and_are_told_apart_to_their_end() {
        let rule = |prefix: String| {
            let path = PathMatch::Prefix(prefix);
            let matches = vec![RouteMatch {
                path,
                ..RouteMatch::default()
            }];
            Arc::new(Rule {
                matches,
                ..Rule::default()
            })
        };
        let deep = |at: usize| format!("/{at}{}", "/a".repeat(500));
        let mut rules: Vec<_> = (0..100).map(|at| rule(deep(at))).collect();
        rules.push(rule("/7/a/a".into()));
        rules.push(rule(format!("{}/b", deep(7))));
        let index = Index::new(&rules);
        assert!(index.nodes.len() <= rules.len() * MAX_DEPTH + 1);
        let headers = HeaderMap::new();
        let find = |path: &str| {
            let view = View {
                method: "GET",
                path,
                query: None,
                authority: None,
                headers: &headers,
            };
            index.find(&view).map(|found| found.rule)
        };
        assert_eq!(find(&deep(42)), Some(42));
        assert_eq!(find(&format!("{}/c", deep(7))), Some(7));
        assert_eq!(find(&format!("{}/b/c", deep(7))), Some(101));
        assert_eq!(find(&format!("{}x", deep(7))), Some(100));
        assert_eq!(find(&format!("{}x", deep(42))), None);
    }
}
