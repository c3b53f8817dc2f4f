//! Which rule a request takes, and why not the others: for people.

use super::conditions::Failed;
use super::config::{PathMatch, PortRoutes, RouteMatch, Text};
use super::index::Found;
use super::request::View;

/// Why a rule is not the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Chosen {
        /// The place of the match; `None`: it has none, and takes all.
        matched: Option<usize>,
    },
    /// It matches too, and another goes before it.
    Outranked {
        /// The place of its first match that holds.
        matched: Option<usize>,
    },
    /// None of its matches holds: of each the first condition that does not.
    Failed(Vec<Failed>),
}

impl PortRoutes {
    /// The rule that a request takes.
    pub fn find(&self, view: &View<'_>) -> Option<Found> {
        self.index.find(view)
    }

    /// What becomes of each rule for a request, in their order.
    pub fn explain(&self, view: &View<'_>) -> Vec<Verdict> {
        let found = self.find(view);
        let verdicts = self.rules.iter().enumerate().map(|(at, rule)| {
            if let Some(found) = found.filter(|found| found.rule == at) {
                return Verdict::Chosen {
                    matched: found.matched,
                };
            }
            if rule.matches.is_empty() {
                return Verdict::Outranked { matched: None };
            }
            let failed: Vec<_> = rule.matches.iter().map(|of| of.failed(view)).collect();
            match failed.iter().position(Option::is_none) {
                Some(at) => Verdict::Outranked { matched: Some(at) },
                None => Verdict::Failed(failed.into_iter().flatten().collect()),
            }
        });
        verdicts.collect()
    }
}

impl RouteMatch {
    /// What a condition wants, in words: `header x-user: "me"`.
    pub fn wants(&self, condition: Failed) -> String {
        let text = |text: &Text| match text {
            Text::Exact(exact) => format!("{exact:?}"),
            Text::Pattern(pattern) => format!("of the form {}", pattern.as_str()),
            Text::Nothing => "what is not known here".to_owned(),
        };
        let part = |what: &str, of: &Option<Text>| match of {
            Some(of) => format!(" {what} {}", text(of)),
            None => String::new(),
        };
        match condition {
            Failed::Path => match &self.path {
                PathMatch::Any => "any path".to_owned(),
                PathMatch::Exact(exact) => format!("path {exact}"),
                PathMatch::Prefix(prefix) => format!("path {prefix} and what is below"),
                PathMatch::Pattern(pattern) => format!("path of the form {}", pattern.as_str()),
                PathMatch::Grpc { service, method } => {
                    format!(
                        "a call:{}{}",
                        part("service", service),
                        part("method", method)
                    )
                }
            },
            Failed::Method => {
                let method = self.method.as_ref().map_or("any", http::Method::as_str);
                format!("method {method}")
            }
            Failed::Header(at) => self.headers.get(at).map_or_else(String::new, |header| {
                format!("header {}: {}", header.name, text(&header.value))
            }),
            Failed::Query(at) => self.query.get(at).map_or_else(String::new, |parameter| {
                format!("query {}: {}", parameter.name, text(&parameter.value))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::config::{Rule, ValueMatch};
    use http::HeaderMap;

    #[test]
    fn each_rule_that_is_not_taken_says_what_it_wanted() {
        let by = |conditions: RouteMatch| Rule {
            matches: vec![conditions],
            ..Rule::default()
        };
        let path = |path: &str| RouteMatch {
            path: PathMatch::Prefix(path.into()),
            ..RouteMatch::default()
        };
        let user = ValueMatch {
            name: http::HeaderName::from_static("x-user"),
            value: Text::Exact("me".into()),
        };
        let with_user = RouteMatch {
            headers: vec![user],
            ..path("/a")
        };
        let rules = vec![
            by(path("/b")),
            by(with_user),
            by(path("/a")),
            Rule::default(),
        ];
        let routes = PortRoutes::new(vec![80], false, rules);
        let headers = HeaderMap::new();
        let view = View {
            method: "GET",
            path: "/a/x",
            query: None,
            authority: None,
            headers: &headers,
        };
        let verdicts = routes.explain(&view);
        let wanted = |at: usize| match &verdicts[at] {
            Verdict::Failed(failed) => routes.rules[at].matches[0].wants(failed[0]),
            other => format!("{other:?}"),
        };
        assert_eq!(wanted(0), "path /b and what is below");
        assert_eq!(wanted(1), "header x-user: \"me\"");
        assert_eq!(verdicts[2], Verdict::Chosen { matched: Some(0) });
        assert_eq!(verdicts[3], Verdict::Outranked { matched: None });
    }
}
