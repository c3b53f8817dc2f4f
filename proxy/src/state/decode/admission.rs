//! `admission`, checked.

use remora_proto::bounds::{
    MAX_LIMIT, MAX_PORT_POLICIES, MAX_PRIORITY_RULES, MAX_TOLERANCE_PERCENT, is_label,
};
use remora_proto::spiffe::SpiffeId;
use remora_proto::v1;
use remora_proto::v1::priority_rule;

use super::policy;
use super::problems::Problems;
use crate::policy::config::admission::{
    Adaptive, Admission, Principal, Priorities, Priority, PriorityRule,
};

/// A list of them, in the field `admissions`.
pub fn admissions(parts: &[v1::Admission], problems: &mut Problems) -> Vec<Admission> {
    let parts = problems.list("admissions", parts, MAX_PORT_POLICIES);
    let parts = parts.iter().enumerate().map(|(at, part)| {
        problems.within(format!("admissions[{at}]"), |problems| {
            admission(part, problems)
        })
    });
    parts.collect()
}

/// The field `admission`, as a list of none or one.
pub fn optional(part: Option<&v1::Admission>, problems: &mut Problems) -> Vec<Admission> {
    let part = part.map(|part| problems.within("admission", |problems| admission(part, problems)));
    part.into_iter().collect()
}

fn admission(part: &v1::Admission, problems: &mut Problems) -> Admission {
    let adaptive = part
        .adaptive
        .as_ref()
        .map(|part| problems.within("adaptive", |problems| adaptive(part, problems)));
    let priorities = part
        .priorities
        .as_ref()
        .map(|part| problems.within("priorities", |problems| priorities(part, problems)));
    Admission {
        max_requests: problems.optional("max_requests", part.max_requests, 0..=MAX_LIMIT),
        adaptive,
        priorities: priorities.unwrap_or_default(),
    }
}

fn adaptive(part: &v1::AdaptiveConcurrency, problems: &mut Problems) -> Adaptive {
    let min_requests = problems.number("min_requests", part.min_requests, 1..=MAX_LIMIT);
    let max_requests = problems.number("max_requests", part.max_requests, 1..=MAX_LIMIT);
    if max_requests < min_requests {
        problems.add("max_requests", "is less than min_requests");
    }
    Adaptive {
        min_requests,
        max_requests: max_requests.max(min_requests),
        tolerance_percent: problems.number(
            "tolerance_percent",
            part.tolerance_percent,
            101..=MAX_TOLERANCE_PERCENT,
        ),
    }
}

fn priorities(part: &v1::Priorities, problems: &mut Problems) -> Priorities {
    let header =
        (!part.header.is_empty()).then(|| policy::header_name("header", &part.header, problems));
    let trusted = problems.list("trusted", &part.trusted, MAX_PRIORITY_RULES);
    let trusted = trusted
        .iter()
        .enumerate()
        .map(|(at, part)| {
            problems.within(format!("trusted[{at}]"), |problems| {
                principal(part, problems)
            })
        })
        .collect();
    let rules = problems.list("rules", &part.rules, MAX_PRIORITY_RULES);
    let rules = rules.iter().enumerate().filter_map(|(at, part)| {
        problems.within(format!("rules[{at}]"), |problems| rule(part, problems))
    });
    Priorities {
        header,
        rules: rules.collect(),
        trusted,
    }
}

fn principal(part: &v1::PrincipalMatch, problems: &mut Problems) -> Principal {
    if part.identity.is_empty() && part.namespace.is_empty() {
        problems.add("", "names nobody: identity or namespace must be given");
    }
    let is_id = |id: &str| id.parse::<SpiffeId>().is_ok();
    let mut given = |field, text: &String, valid: fn(&str) -> bool, what| {
        (!text.is_empty()).then(|| problems.text(field, text, valid, what))
    };
    Principal {
        identity: given("identity", &part.identity, is_id, "a SPIFFE id of a pod"),
        namespace: given("namespace", &part.namespace, is_label, "a namespace"),
    }
}

/// One of a priority that is not known here is passed over.
fn rule(part: &v1::PriorityRule, problems: &mut Problems) -> Option<PriorityRule> {
    let priority = match priority_rule::Priority::try_from(part.priority).ok()? {
        priority_rule::Priority::Default => Priority::Default,
        priority_rule::Priority::Critical => Priority::Critical,
        priority_rule::Priority::Sheddable => Priority::Sheddable,
    };
    let matches = part.r#match.as_ref();
    let matches = matches
        .map(|part| problems.within("match", |problems| policy::request_match(part, problems)));
    Some(PriorityRule {
        priority,
        matches: matches.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::state::decode;
    use crate::state::testing;

    fn decoded(part: v1::Admission) -> Result<Vec<Admission>, String> {
        let mut workload = testing::workload();
        workload.ports = vec![v1::InboundPort {
            port: 8080,
            admissions: vec![part],
            ..Default::default()
        }];
        decode::workload("shop/web-1", &workload.encode_to_vec())
            .map(|config| config.ports[&8080].admissions.clone())
            .map_err(|error| error.to_string())
    }

    fn whole() -> v1::Admission {
        v1::Admission {
            max_requests: Some(0),
            adaptive: Some(v1::AdaptiveConcurrency {
                min_requests: 4,
                max_requests: 1000,
                tolerance_percent: 200,
            }),
            priorities: Some(v1::Priorities {
                header: "x-priority".into(),
                trusted: vec![v1::PrincipalMatch {
                    identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
                    namespace: "shop".into(),
                }],
                rules: vec![
                    v1::PriorityRule {
                        priority: 77,
                        r#match: None,
                    },
                    v1::PriorityRule {
                        priority: priority_rule::Priority::Sheddable.into(),
                        r#match: Some(v1::Match {
                            methods: vec!["GET".into()],
                            ..Default::default()
                        }),
                    },
                ],
            }),
        }
    }

    #[test]
    fn every_field_is_read_and_zero_is_a_limit() {
        let read = decoded(whole()).unwrap();
        assert_eq!(read[0].max_requests, Some(0));
        assert_eq!(read[0].adaptive.unwrap().tolerance_percent, 200);
        let priorities = &read[0].priorities;
        assert_eq!(priorities.header.as_deref(), Some("x-priority"));
        assert_eq!(priorities.trusted[0].namespace.as_deref(), Some("shop"));
        assert_eq!(priorities.rules.len(), 1, "a later priority is passed over");
        assert_eq!(priorities.rules[0].priority, Priority::Sheddable);
        assert_eq!(decoded(v1::Admission::default()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_place() {
        type Break = fn(&mut v1::Admission);
        let adaptive: Break = |it| it.adaptive.as_mut().unwrap().tolerance_percent = 100;
        let crossed: Break = |it| it.adaptive.as_mut().unwrap().max_requests = 3;
        let floor: Break = |it| it.adaptive.as_mut().unwrap().min_requests = 0;
        let limit: Break = |it| it.max_requests = Some(MAX_LIMIT + 1);
        let header: Break = |it| it.priorities.as_mut().unwrap().header = "X-A".into();
        let nobody: Break = |it| it.priorities.as_mut().unwrap().trusted[0] = Default::default();
        let identity: Break =
            |it| it.priorities.as_mut().unwrap().trusted[0].identity = "web".into();
        for (change, place) in [
            (adaptive, "admissions[0].adaptive.tolerance_percent"),
            (crossed, "admissions[0].adaptive.max_requests"),
            (floor, "admissions[0].adaptive.min_requests"),
            (limit, "admissions[0].max_requests"),
            (header, "admissions[0].priorities.header"),
            (nobody, "admissions[0].priorities.trusted[0]"),
            (identity, "admissions[0].priorities.trusted[0].identity"),
        ] {
            let mut part = whole();
            change(&mut part);
            let error = decoded(part).unwrap_err();
            assert!(error.contains(place), "{error}, not {place}");
        }
    }
}
