//! `admission`, read.

use remora_proto::v1;

use super::authorization::words;
use super::parse::Faults;
use super::rates::{header_name, match_block};
use super::schema;
use crate::core::settings::admission::{Adaptive, Admission, Priorities};
use crate::core::settings::defaults;

const AT: &str = "spec.admission";

/// The block, typed.
pub(super) fn block(block: &schema::Admission, faults: &mut Faults) -> Admission {
    Admission {
        max_requests: block.max_requests,
        adaptive: block.adaptive.as_ref().map(|block| adaptive(block, faults)),
        priorities: block
            .priorities
            .as_ref()
            .map(|block| priorities(block, faults)),
    }
}

fn adaptive(block: &schema::Adaptive, faults: &mut Faults) -> Adaptive {
    let at = format!("{AT}.adaptive");
    let least = block
        .min_requests
        .unwrap_or(defaults::ADAPTIVE_MIN_REQUESTS);
    let most = block
        .max_requests
        .unwrap_or(defaults::ADAPTIVE_MAX_REQUESTS);
    let is_read = ["minRequests", "maxRequests"]
        .iter()
        .all(|field| !faults.is_given(&format!("{at}.{field}")));
    if least > most && is_read {
        let (field, message) = if block.min_requests.is_some() {
            let message = format!("is {least}, must not be more than maxRequests, which is {most}");
            ("minRequests", message)
        } else {
            let message = format!(
                "is {most}, must not be less than minRequests, which is {least} where it is not given"
            );
            ("maxRequests", message)
        };
        faults.add(format!("{at}.{field}"), message);
    }
    Adaptive {
        min_requests: block.min_requests,
        max_requests: block.max_requests,
        tolerance_percent: block.tolerance_percent,
    }
}

fn priorities(block: &schema::Priorities, faults: &mut Faults) -> Priorities {
    let at = format!("{AT}.priorities");
    let trusted = block.trusted.as_ref().map(|list| {
        let list = list.iter().enumerate();
        list.map(|(index, one)| trusted(&format!("{at}.trusted[{index}]"), one, faults))
            .collect()
    });
    let rules = block.rules.as_ref().map(|list| {
        let rules = list.iter().enumerate().map(|(index, rule)| {
            let at = format!("{at}.rules[{index}].match");
            let matches = rule.matches.as_ref();
            v1::PriorityRule {
                priority: priority(rule.priority).into(),
                r#match: matches.map(|block| match_block(&at, block, faults)),
            }
        });
        rules.collect()
    });
    let header = block.header.as_ref();
    Priorities {
        header: header.map(|name| header_name(&format!("{at}.header"), name, faults)),
        trusted,
        rules,
    }
}

fn trusted(at: &str, one: &schema::Trusted, faults: &mut Faults) -> v1::PrincipalMatch {
    let (namespace, identity) = (one.namespace.as_ref(), one.identity.as_ref());
    if namespace.is_none() && identity.is_none() && !faults.is_given(at) {
        faults.add(at, schema::TRUSTS_SOMEBODY);
    }
    if let Some(name) = namespace.filter(|name| !words::is_namespace(name)) {
        let message = format!("is {name:?}, must be {}", words::NAMESPACE);
        faults.add(format!("{at}.namespace"), message);
    }
    if let Some(id) = identity.filter(|id| !words::is_whole_identity(id)) {
        let message = format!("is {id:?}, must be {}", words::WHOLE_IDENTITY);
        faults.add(format!("{at}.identity"), message);
    }
    v1::PrincipalMatch {
        identity: identity.cloned().unwrap_or_default(),
        namespace: namespace.cloned().unwrap_or_default(),
    }
}

fn priority(priority: schema::Priority) -> v1::priority_rule::Priority {
    match priority {
        schema::Priority::Critical => v1::priority_rule::Priority::Critical,
        schema::Priority::Default => v1::priority_rule::Priority::Default,
        schema::Priority::Sheddable => v1::priority_rule::Priority::Sheddable,
    }
}

/// As a policy writes it.
pub fn word(priority: v1::priority_rule::Priority) -> &'static str {
    match priority {
        v1::priority_rule::Priority::Critical => "critical",
        v1::priority_rule::Priority::Default => "default",
        v1::priority_rule::Priority::Sheddable => "sheddable",
    }
}
