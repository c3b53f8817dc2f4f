//! What is in force on the rules of a Service's routes, where that is more than what is on the
//! Service: rule over route over Service over Namespace, and over them what the route itself says
//! of timeouts and retries.

use remora_proto::v1;
use serde_json::Value;

use super::{Leaf, listed, said_by};
use crate::core::index::Index;
use crate::core::objects::Id;
use crate::core::resolve::{levels, reference, route_levels};
use crate::core::routes::rule::with_retry;
use crate::core::routes::{Route, RouteId, Rule};
use crate::core::settings::{Retries, Settings};

/// The rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleLeaves {
    /// The route.
    pub route: RouteId,
    /// The rule's name, or its place where it has none.
    pub rule: String,
    /// Every leaf of the blocks in which the rule, its route, or a policy of one of them speaks;
    /// all else is as on the Service.
    pub leaves: Vec<RuleLeaf>,
}

/// A leaf of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleLeaf {
    /// What is in force, and by which policy.
    pub leaf: Leaf,
    /// The route itself says it, and no policy.
    pub by_route: bool,
}

/// The rules of all routes that name the Service as their parent and say something of it.
pub fn of_service(index: &Index, service: &Id) -> Vec<RuleLeaves> {
    let routes = index.routes.of_parent(service);
    let rules = routes.flat_map(|route| {
        let rules = route.says.rules.iter().enumerate();
        rules.map(move |(place, rule)| (route, place, rule))
    });
    let leaves = rules.map(|(route, place, rule)| RuleLeaves {
        route: route.id.clone(),
        rule: match &*rule.name {
            "" => place.to_string(),
            name => name.to_owned(),
        },
        leaves: of_rule(index, service, route, rule),
    });
    leaves.filter(|rule| !rule.leaves.is_empty()).collect()
}

fn of_rule(index: &Index, service: &Id, route: &Route, rule: &Rule) -> Vec<RuleLeaf> {
    let policies = &index.policies;
    let own = || route_levels(policies, &route.id, &rule.name);
    let general = levels(policies, &service.namespace, Some(&service.name));
    let all: Vec<_> = own().chain(general).collect();
    let mut merged = Settings::default();
    for policy in &all {
        merged = merged.over(&policy.settings);
    }
    let written = written(rule, merged.retries.unwrap_or_default());
    let by_route: Vec<_> = listed(&written)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    let mut said: Vec<_> = own().flat_map(|policy| listed(&policy.settings)).collect();
    said.extend(listed(&written));
    let itself = (reference(&route.id.id, route.generation), &written);
    let of_policies = all
        .iter()
        .map(|policy| (reference(&policy.id, policy.generation), &policy.settings));
    let leaves = said_by([itself].into_iter().chain(of_policies));
    let mut leaves: Vec<RuleLeaf> = leaves
        .into_iter()
        .filter(|leaf| is_of_rule(leaf.field, &said))
        .map(|leaf| RuleLeaf {
            by_route: by_route.contains(&leaf.field),
            leaf,
        })
        .collect();
    without_time(rule, &mut leaves);
    leaves
}

/// Of a breaker a rule has limits of its own and nothing else; of every other block all.
fn is_of_rule(field: &str, said: &[(&str, Value)]) -> bool {
    match block(field) {
        "circuitBreaker" => said.iter().any(|(one, _)| *one == field),
        of => said.iter().any(|(one, _)| block(one) == of),
    }
}

fn block(field: &str) -> &str {
    field.split('.').next().unwrap_or(field)
}

/// What the route itself says of a rule, as a policy would, over these retries of policies.
fn written(rule: &Rule, of_policies: Retries) -> Settings {
    let mut settings = Settings::default();
    if let Some(retry) = &rule.retry {
        let done = with_retry(of_policies.clone(), rule);
        settings.retries = Some(Retries {
            attempts: done.attempts,
            on: done
                .on
                .filter(|_| retry.codes.is_some() || of_policies.on.is_none()),
            backoff_base_ms: retry.backoff_ms,
            backoff_max_ms: done
                .backoff_max_ms
                .filter(|max| of_policies.backoff_max_ms != Some(*max)),
            ..Retries::default()
        });
    }
    if let Some(timeouts) = rule.timeouts {
        settings.timeouts = Some(v1::Timeouts {
            request_ms: timeouts.request.flatten(),
            per_try_ms: timeouts.backend_request.flatten(),
            ..v1::Timeouts::default()
        });
    }
    settings
}

/// A route can say that there is none of a timeout that a policy has: no policy can.
fn without_time(rule: &Rule, leaves: &mut Vec<RuleLeaf>) {
    let written = rule.timeouts.unwrap_or_default();
    for (field, says) in [
        ("timeouts.request", written.request),
        ("timeouts.perTry", written.backend_request),
    ] {
        if says != Some(None) {
            continue;
        }
        leaves.retain(|one| one.leaf.field != field);
        let leaf = Leaf {
            field,
            value: "none".into(),
            from: None,
        };
        leaves.push(RuleLeaf {
            leaf,
            by_route: true,
        });
    }
}
