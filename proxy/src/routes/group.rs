//! Matches on the same path, told apart by what else they want: where many want
//! another value of the same field, only those that want the request's are looked at.

use std::cmp::Ordering;

use http::{HeaderName, Method, header};

use super::config::{PathMatch, RouteMatch, Text};
use super::index::Entry;
use super::request::{self, View};

/// So few are looked at one after the other.
const FEW: usize = 4;
/// What is asked for each request of a group, at most.
const MAX_KEYS: usize = 8;

/// Matches by their places, each list in rising order.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    others: Vec<usize>,
    keyed: Vec<Keyed>,
}

/// Matches that want a value of the same thing.
#[derive(Clone, Debug)]
struct Keyed {
    key: Key,
    /// By rising value.
    values: Vec<(Box<[u8]>, Vec<usize>)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Key {
    Header(HeaderName),
    Query(String),
    Method,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.others.is_empty() && self.keyed.is_empty()
    }

    /// Adds a match, whose place is above all that are there.
    pub(super) fn add(&mut self, place: usize, conditions: &RouteMatch) {
        let key = match self.others.len() {
            0..FEW if self.keyed.is_empty() => None,
            _ => key_of(conditions),
        };
        let Some((key, value)) = key else {
            return self.others.push(place);
        };
        let at = self.keyed.iter().position(|keyed| keyed.key == key);
        let at = match at {
            Some(at) => at,
            None if self.keyed.len() < MAX_KEYS => {
                self.keyed.push(Keyed {
                    key,
                    values: Vec::new(),
                });
                self.keyed.len() - 1
            }
            None => return self.others.push(place),
        };
        let values = &mut self.keyed[at].values;
        match values.binary_search_by(|(known, _)| (**known).cmp(value)) {
            Ok(at) => values[at].1.push(place),
            Err(at) => values.insert(at, (value.into(), vec![place])),
        }
    }

    /// The lowest place that holds, of these and `best`.
    pub(super) fn best(
        &self,
        entries: &[Entry],
        view: &View<'_>,
        mut best: Option<usize>,
    ) -> Option<usize> {
        best = first(&self.others, entries, view, best);
        for keyed in &self.keyed {
            if let Some(places) = keyed.places(view) {
                best = first(places, entries, view, best);
            }
        }
        best
    }
}

fn first(
    places: &[usize],
    entries: &[Entry],
    view: &View<'_>,
    best: Option<usize>,
) -> Option<usize> {
    let better = places
        .iter()
        .take_while(|place| best.is_none_or(|best| **place < best));
    better
        .copied()
        .find(|place| holds(&entries[*place].conditions, view))
        .or(best)
}

/// The path of exact matches is known to hold, and of prefixes the beginning.
fn holds(conditions: &RouteMatch, view: &View<'_>) -> bool {
    if conditions.failed_beside_path(view).is_some() {
        return false;
    }
    match &conditions.path {
        PathMatch::Any | PathMatch::Exact(_) => true,
        PathMatch::Pattern(pattern) => {
            // Most that do not match differ soon.
            view.path.as_bytes().starts_with(pattern.beginning())
                && pattern.matches(view.path.as_bytes())
        }
        path @ (PathMatch::Prefix(_) | PathMatch::Grpc { .. }) => path.holds(view.path),
    }
}

/// What tells a match from its like, and the value that it wants.
fn key_of(conditions: &RouteMatch) -> Option<(Key, &[u8])> {
    let header = conditions
        .headers
        .iter()
        .find_map(|field| match &field.value {
            // Which compares without case.
            _ if field.name == header::HOST => None,
            Text::Exact(exact) => Some((Key::Header(field.name.clone()), exact.as_bytes())),
            _ => None,
        });
    let query = || {
        conditions
            .query
            .iter()
            .find_map(|field| match &field.value {
                Text::Exact(exact) => Some((Key::Query(field.name.clone()), exact.as_bytes())),
                _ => None,
            })
    };
    let method = || {
        let method = conditions.method.as_ref().map(Method::as_str)?;
        Some((Key::Method, method.as_bytes()))
    };
    header.or_else(query).or_else(method)
}

impl Keyed {
    fn places(&self, view: &View<'_>) -> Option<&[usize]> {
        match &self.key {
            Key::Header(name) => {
                let lines = view.lines(name);
                match lines.only() {
                    Some(value) => self.find(|known| known.cmp(value)),
                    None if lines.is_there() => {
                        self.find(|known| known.iter().copied().cmp(lines.joined()))
                    }
                    None => None,
                }
            }
            Key::Query(name) => {
                let value = view.parameter(name)?;
                self.find(|known| known.iter().copied().cmp(request::decoded(value)))
            }
            Key::Method => self.find(|known| known.cmp(view.method.as_bytes())),
        }
    }

    fn find(&self, compare: impl Fn(&[u8]) -> Ordering) -> Option<&[usize]> {
        let at = self.values.binary_search_by(|(known, _)| compare(known));
        at.ok().map(|at| self.values[at].1.as_slice())
    }
}
