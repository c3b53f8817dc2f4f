//! Who may call, checked. What cannot be understood whole is not taken at all:
//! half of a rule that shuts would leave open.

use std::collections::BTreeSet;

use remora_proto::spiffe::SpiffeId;
use remora_proto::v1::{self, authorization, path_rule};

use super::names;
use super::problems::{Problems, quote};
use crate::normalize::{self, Ambiguity};
use crate::policy::authorize::{
    Action, CallerMatch, GrpcMethod, PathRule, RequestMatch, Rule, Rules,
};

/// Authorizations of one workload.
pub const MAX_AUTHORIZATIONS: usize = 1024;
/// Entries of `from`, and of `to`.
pub const MAX_MATCHES: usize = 64;
/// Entries of one list in them.
pub const MAX_WORDS: usize = 256;
/// Bytes of a path, or of a method of gRPC.
const MAX_BYTES: usize = 1024;

/// Those of a workload, in the field `authorizations`.
pub fn rules(list: &[v1::Authorization], problems: &mut Problems) -> Rules {
    let list = problems.list("authorizations", list, MAX_AUTHORIZATIONS);
    let rules = list.iter().enumerate().map(|(index, one)| {
        problems.within(format!("authorizations[{index}]"), |problems| {
            rule(one, problems)
        })
    });
    Rules::new(rules.collect::<Vec<_>>())
}

fn rule(one: &v1::Authorization, problems: &mut Problems) -> Rule {
    let (namespace, name) = one.policy.as_ref().map_or(("", ""), |policy| {
        (policy.namespace.as_str(), policy.name.as_str())
    });
    if !names::is_label(namespace) || !names::is_subdomain(name) {
        let policy = quote(&format!("{namespace}/{name}"));
        problems.add(
            "policy",
            format_args!("is {policy}, must be a policy's name"),
        );
    }
    let action = match authorization::Action::try_from(one.action) {
        Ok(authorization::Action::Allow) => Action::Allow,
        Ok(authorization::Action::Deny) => Action::Deny,
        Ok(authorization::Action::Audit) => Action::Audit,
        Ok(authorization::Action::Unspecified) | Err(_) => {
            problems.add("action", format_args!("{} is not known", one.action));
            Action::Deny
        }
    };
    Rule {
        policy: format!("{namespace}/{name}").into(),
        action,
        from: each("from", &one.from, MAX_MATCHES, problems, caller),
        to: each("to", &one.to, MAX_MATCHES, problems, request),
        ports: ports(&one.ports, super::MAX_PORTS, problems),
        place: 0,
    }
}

fn each<T, R>(
    field: &str,
    list: &[T],
    most: usize,
    problems: &mut Problems,
    read: impl Fn(&T, &mut Problems) -> R,
) -> Vec<R> {
    let list = problems.list(field, list, most).iter().enumerate();
    let read = list.map(|(index, one)| {
        problems.within(format!("{field}[{index}]"), |problems| read(one, problems))
    });
    read.collect()
}

fn caller(from: &v1::CallerMatch, problems: &mut Problems) -> CallerMatch {
    if from.identities.is_empty() && from.namespaces.is_empty() {
        problems.add("", EMPTY);
    }
    CallerMatch {
        identities: each(
            "identities",
            &from.identities,
            MAX_WORDS,
            problems,
            |id, problems| {
                let valid = |id: &str| id.parse::<SpiffeId>().is_ok();
                problems.text("", id, valid, "a SPIFFE id")
            },
        ),
        namespaces: each(
            "namespaces",
            &from.namespaces,
            MAX_WORDS,
            problems,
            |name, problems| problems.text("", name, names::is_label, "a namespace"),
        ),
    }
}

/// What a later version says in fields that are not known here looks like this.
const EMPTY: &str = "has no field that is known here";

fn request(to: &v1::RequestMatch, problems: &mut Problems) -> RequestMatch {
    let lists = [
        to.methods.len(),
        to.paths.len(),
        to.grpc_methods.len(),
        to.ports.len(),
    ];
    if lists == [0; 4] {
        problems.add("", EMPTY);
    }
    RequestMatch {
        methods: each(
            "methods",
            &to.methods,
            MAX_WORDS,
            problems,
            |method, problems| {
                let valid = |method: &str| {
                    method.len() <= MAX_BYTES && http::Method::from_bytes(method.as_bytes()).is_ok()
                };
                problems.text("", method, valid, "an HTTP method")
            },
        ),
        paths: each("paths", &to.paths, MAX_WORDS, problems, path),
        grpc_methods: each(
            "grpc_methods",
            &to.grpc_methods,
            MAX_WORDS,
            problems,
            |text, problems| grpc_method(text, problems),
        ),
        ports: ports(&to.ports, MAX_WORDS, problems),
    }
}

fn path(rule: &v1::PathRule, problems: &mut Problems) -> PathRule {
    let what = "a path in its normal form";
    match &rule.rule {
        Some(path_rule::Rule::Exact(path)) => {
            PathRule::Exact(problems.text("exact", path, is_normal, what))
        }
        Some(path_rule::Rule::Prefix(path)) => {
            let valid = |path: &str| path.is_empty() || (is_normal(path) && !path.ends_with('/'));
            PathRule::Prefix(problems.text("prefix", path, valid, what))
        }
        None => {
            problems.add("", EMPTY);
            PathRule::Prefix(String::new())
        }
    }
}

/// What differs from its normal form would never be matched. What no request can
/// have because it is refused may stand there: it opens nothing, and shuts nothing
/// that is open.
fn is_normal(path: &str) -> bool {
    path.len() <= MAX_BYTES
        && match normalize::normalize(path) {
            Ok(normal) => normal == path,
            Err(Ambiguity::Utf8 | Ambiguity::Lookalike | Ambiguity::Twice) => path.is_ascii(),
            Err(_) => false,
        }
}

fn grpc_method(text: &str, problems: &mut Problems) -> GrpcMethod {
    let is_word = |text: &str| {
        let mark = |byte: u8| byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
        !text.is_empty() && text.len() <= MAX_BYTES && text.bytes().all(mark)
    };
    let parts = text
        .split_once('/')
        .filter(|(service, method)| is_word(service) && (*method == "*" || is_word(method)));
    let Some((service, method)) = parts else {
        let quoted = quote(text);
        let what = "package.Service/Method or package.Service/*";
        problems.add("", format_args!("is {quoted}, must be {what}"));
        return GrpcMethod {
            service: String::new(),
            method: None,
        };
    };
    GrpcMethod {
        service: service.to_owned(),
        method: (method != "*").then(|| method.to_owned()),
    }
}

fn ports(list: &[u32], most: usize, problems: &mut Problems) -> BTreeSet<u16> {
    let list = problems.list("ports", list, most).iter();
    list.map(|port| problems.port("ports", *port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(change: impl FnOnce(&mut v1::Authorization)) -> v1::Authorization {
        let mut one = v1::Authorization {
            policy: Some(v1::PolicyReference {
                namespace: "shop".into(),
                name: "rule".into(),
                generation: 1,
            }),
            action: authorization::Action::Allow.into(),
            ..v1::Authorization::default()
        };
        change(&mut one);
        one
    }

    fn problems_of(one: v1::Authorization) -> Vec<String> {
        let mut problems = Problems::default();
        let _ = rules(&[one], &mut problems);
        problems
            .finish(())
            .err()
            .map_or_else(Vec::new, |error| error.problems)
    }

    fn exact(path: &str) -> v1::PathRule {
        v1::PathRule {
            rule: Some(path_rule::Rule::Exact(path.into())),
        }
    }

    #[test]
    fn a_whole_rule_is_read() {
        let one = authorization(|one| {
            one.from.push(v1::CallerMatch {
                identities: vec!["spiffe://cluster.local/ns/shop/sa/web".into()],
                namespaces: vec!["shop".into()],
            });
            one.to.push(v1::RequestMatch {
                methods: vec!["GET".into()],
                paths: vec![
                    exact("/a%20b"),
                    v1::PathRule {
                        rule: Some(path_rule::Rule::Prefix(String::new())),
                    },
                ],
                grpc_methods: vec!["shop.Cart/Add".into(), "shop.Cart/*".into()],
                ports: vec![8080],
            });
            one.ports = vec![8080, 9090];
        });
        let mut problems = Problems::default();
        let read = rules(&[one], &mut problems);
        assert_eq!(problems.finish(()), Ok(()));
        let rule = &read.all()[0];
        assert_eq!((&*rule.policy, rule.action), ("shop/rule", Action::Allow));
        assert_eq!(rule.ports, BTreeSet::from([8080, 9090]));
        assert_eq!(rule.to[0].grpc_methods[1].method, None);
        assert!(read.names_paths() && read.names_methods());
    }

    #[test]
    fn what_is_not_known_whole_is_refused_with_its_path() {
        let to = |to: v1::RequestMatch| authorization(|one| one.to = vec![to]);
        for (one, problem) in [
            (
                authorization(|one| one.action = 0),
                "authorizations[0].action: 0 is not known",
            ),
            (
                authorization(|one| one.action = 9),
                "authorizations[0].action: 9 is not known",
            ),
            (
                authorization(|one| one.policy = None),
                "authorizations[0].policy: is",
            ),
            (
                authorization(|one| one.from = vec![v1::CallerMatch::default()]),
                "authorizations[0].from[0]: has no field",
            ),
            (
                to(v1::RequestMatch::default()),
                "authorizations[0].to[0]: has no field",
            ),
            (
                to(v1::RequestMatch {
                    paths: vec![v1::PathRule::default()],
                    ..v1::RequestMatch::default()
                }),
                "authorizations[0].to[0].paths[0]: has no field",
            ),
            (
                to(v1::RequestMatch {
                    paths: vec![exact("/a//b")],
                    ..v1::RequestMatch::default()
                }),
                "authorizations[0].to[0].paths[0].exact: is \"/a//b\"",
            ),
            (
                to(v1::RequestMatch {
                    grpc_methods: vec!["Add".into()],
                    ..v1::RequestMatch::default()
                }),
                "authorizations[0].to[0].grpc_methods[0]: is \"Add\"",
            ),
            (
                to(v1::RequestMatch {
                    ports: vec![0],
                    ..v1::RequestMatch::default()
                }),
                "authorizations[0].to[0].ports: is 0",
            ),
            (
                authorization(|one| {
                    one.from = vec![v1::CallerMatch {
                        identities: vec!["web".into()],
                        namespaces: vec!["Shop".into()],
                    }];
                }),
                "authorizations[0].from[0].identities[0]: is \"web\"",
            ),
        ] {
            let found = problems_of(one);
            assert!(
                found
                    .first()
                    .is_some_and(|first| first.starts_with(problem)),
                "{found:?}"
            );
        }
    }
}
