//! Whether one condition of a match holds. Nothing here allocates.

use http::header;

use super::config::{PathMatch, RouteMatch, Text, ValueMatch};
use super::request::{self, View};
use http::HeaderName;

/// The condition of a match that does not hold; its place where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The path, or the service or method of gRPC.
    Path,
    /// The method.
    Method,
    /// This one of the headers.
    Header(usize),
    /// This one of the query's parameters.
    Query(usize),
}

impl Text {
    fn holds(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Pattern(pattern) => pattern.matches(text),
            Self::Nothing => false,
        }
    }

    fn holds_bytes(&self, text: impl Iterator<Item = u8>) -> bool {
        match self {
            Self::Exact(exact) => text.eq(exact.bytes()),
            Self::Pattern(pattern) => pattern.matches_bytes(text),
            Self::Nothing => false,
        }
    }
}

impl PathMatch {
    /// Whether a path meets it.
    pub fn holds(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            _ if !path.starts_with('/') => false,
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Pattern(pattern) => pattern.matches(path.as_bytes()),
            Self::Grpc { service, method } => {
                request::grpc_method(path).is_some_and(|(of_service, of_method)| {
                    let holds = |text: &Option<Text>, part: &str| {
                        text.as_ref().is_none_or(|text| text.holds(part.as_bytes()))
                    };
                    holds(service, of_service) && holds(method, of_method)
                })
            }
        }
    }
}

impl ValueMatch<HeaderName> {
    fn holds_for(&self, view: &View<'_>) -> bool {
        if self.name == header::HOST {
            let lower = |host: &[u8]| {
                let host = host.iter().map(u8::to_ascii_lowercase);
                match &self.value {
                    // Hosts compare without case.
                    Text::Exact(exact) => {
                        host.eq(exact.bytes().map(|byte| byte.to_ascii_lowercase()))
                    }
                    other => other.holds_bytes(host),
                }
            };
            return view.host().is_some_and(lower);
        }
        let lines = view.lines(&self.name);
        match lines.only() {
            Some(value) => self.value.holds(value),
            None => lines.is_there() && self.value.holds_bytes(lines.joined()),
        }
    }
}

impl ValueMatch<String> {
    fn holds_for(&self, view: &View<'_>) -> bool {
        view.parameter(&self.name)
            .is_some_and(|value| self.value.holds_bytes(request::decoded(value)))
    }
}

impl RouteMatch {
    /// The first condition that does not hold, of all but the path's.
    pub(super) fn failed_beside_path(&self, view: &View<'_>) -> Option<Failed> {
        if let Some(method) = &self.method
            && method.as_str() != view.method
        {
            return Some(Failed::Method);
        }
        let failed = self
            .headers
            .iter()
            .position(|header| !header.holds_for(view));
        if let Some(at) = failed {
            return Some(Failed::Header(at));
        }
        let failed = self
            .query
            .iter()
            .position(|parameter| !parameter.holds_for(view));
        failed.map(Failed::Query)
    }

    /// The first condition that does not hold.
    pub fn failed(&self, view: &View<'_>) -> Option<Failed> {
        if !self.path.holds(view.path) {
            return Some(Failed::Path);
        }
        self.failed_beside_path(view)
    }
}
