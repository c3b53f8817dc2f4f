//! Which priority a request has. Pure.

use crate::policy::config::admission::{Admission, Principal, Priorities, Priority};
use crate::policy::rate_limit::{Facts, matches};
use crate::tls::Peer;

/// What the first of `admissions` says that says anything: by the header, of a
/// caller who is trusted; else by its rules. `caller` is who has shown to be there.
pub fn of(admissions: &[Admission], facts: &impl Facts, caller: Option<&Peer>) -> Priority {
    let said = admissions
        .iter()
        .find_map(|admission| by(&admission.priorities, facts, caller));
    said.unwrap_or_default()
}

fn by(priorities: &Priorities, facts: &impl Facts, caller: Option<&Peer>) -> Option<Priority> {
    let named = priorities
        .header
        .as_ref()
        .and_then(|name| facts.header(name))
        .and_then(Priority::from_word)
        .filter(|_| caller.is_some_and(|caller| is_trusted(&priorities.trusted, caller)));
    named.or_else(|| {
        let mut rules = priorities.rules.iter();
        let rule = rules.find(|rule| matches(&rule.matches, facts))?;
        Some(rule.priority)
    })
}

fn is_trusted(trusted: &[Principal], caller: &Peer) -> bool {
    trusted.iter().any(|principal| {
        let given =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        given(&principal.identity, caller.id.as_str())
            && given(&principal.namespace, caller.id.namespace())
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::policy::config::admission::PriorityRule;
    use crate::policy::config::{Match, PathMatch};

    struct Request {
        path: &'static str,
        said: Option<&'static str>,
    }

    impl Facts for Request {
        fn method(&self) -> &str {
            "GET"
        }

        fn path(&self) -> &str {
            self.path
        }

        fn header(&self, name: &str) -> Option<&[u8]> {
            self.said
                .filter(|_| name == "x-priority")
                .map(str::as_bytes)
        }

        fn remote_address(&self) -> Option<IpAddr> {
            None
        }

        fn client_identity(&self) -> Option<&str> {
            None
        }
    }

    fn admissions(trusted: Vec<Principal>) -> Vec<Admission> {
        let rule = |path: &str, priority| PriorityRule {
            priority,
            matches: Match {
                path: Some(PathMatch::Prefix(path.to_owned())),
                ..Match::default()
            },
        };
        vec![
            Admission::default(),
            Admission {
                priorities: Priorities {
                    header: Some("x-priority".to_owned()),
                    trusted,
                    rules: vec![
                        rule("/pay", Priority::Critical),
                        rule("/", Priority::Sheddable),
                    ],
                },
                ..Admission::default()
            },
        ]
    }

    fn peer(namespace: &str) -> std::sync::Arc<Peer> {
        let id = format!("spiffe://cluster.local/ns/{namespace}/sa/web");
        Peer::new(id.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_none_is_default() {
        let request = |path| Request { path, said: None };
        let admissions = admissions(Vec::new());
        assert_eq!(of(&admissions, &request("/pay"), None), Priority::Critical);
        assert_eq!(of(&admissions, &request("/x"), None), Priority::Sheddable);
        assert_eq!(
            of(&admissions[..1], &request("/x"), None),
            Priority::Default
        );
    }

    #[test]
    fn the_header_is_believed_of_those_who_are_trusted_alone() {
        let of_shop = Principal {
            identity: None,
            namespace: Some("shop".to_owned()),
        };
        let one = Principal {
            identity: Some("spiffe://cluster.local/ns/shop/sa/web".to_owned()),
            namespace: Some("other".to_owned()),
        };
        let said = |said| Request {
            path: "/x",
            said: Some(said),
        };
        let (shop, other) = (peer("shop"), peer("other"));
        let trusting = admissions(vec![of_shop]);
        let asked = |admissions: &[Admission], word, caller: Option<&Peer>| {
            of(admissions, &said(word), caller)
        };
        assert_eq!(
            asked(&trusting, "critical", Some(&shop)),
            Priority::Critical
        );
        assert_eq!(asked(&trusting, "default", Some(&shop)), Priority::Default);
        for (word, caller) in [
            ("critical", Some(&*other)),
            ("critical", None),
            ("CRITICAL", Some(&*shop)),
            ("", Some(&*shop)),
        ] {
            assert_eq!(
                asked(&trusting, word, caller),
                Priority::Sheddable,
                "{word}"
            );
        }
        let both = admissions(vec![one]);
        assert_eq!(asked(&both, "critical", Some(&shop)), Priority::Sheddable);
        assert_eq!(
            asked(&admissions(vec![]), "critical", Some(&shop)),
            Priority::Sheddable
        );
    }
}
