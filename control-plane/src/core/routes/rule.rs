//! One rule as the sidecars of a parent's callers get it: its backends looked
//! up, and the policies of rule, route, Service and Namespace merged leaf by
//! leaf. What the route itself says of timeouts and retries wins over them.

use remora_proto::v1;

use super::references::{self, RefReason, Unresolved, backend};
use super::{Filter, Route, Rule};
use crate::core::index::Index;
use crate::core::objects::Id;
use crate::core::resolve::{self, Effective};
use crate::core::settings::{Retries, Settings, defaults};

/// A rule, resolved.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// As it is sent.
    pub rule: v1::RouteRule,
    /// What it names and cannot have.
    pub unresolved: Vec<Unresolved>,
    /// Bytes of the automata of its patterns.
    pub pattern_bytes: usize,
}

/// The rule at `place` of a route; `None` where it is dropped. `of_parent` is
/// what is in force on the Service that is the parent.
pub fn resolve(
    index: &Index,
    parent: &Id,
    of_parent: &Effective,
    route: &Route,
    place: usize,
) -> Option<Resolved> {
    let rule = route.says.rules.get(place)?;
    let mut unresolved = Vec::new();
    let mut resolved = v1::RouteRule {
        route: Some(reference(route, rule, place)),
        matches: rule.matches.clone(),
        ..v1::RouteRule::default()
    };
    if let Some(fault) = &rule.fault {
        // What it matches is known, and must not go on as if it had no filter.
        if !fault.of_filters {
            return None;
        }
        resolved.cannot = fault.fault.message.clone();
        return Some(Resolved {
            rule: resolved,
            unresolved,
            pattern_bytes: rule.pattern_bytes,
        });
    }
    let mut filters = |filters: &[Filter], cannot: &mut Vec<String>| -> Vec<v1::RouteFilter> {
        let filters = filters.iter();
        filters
            .filter_map(|one| filter(index, (parent, route), one, &mut unresolved, cannot))
            .collect()
    };
    let mut cannot = Vec::new();
    resolved.filters = filters(&rule.filters, &mut cannot);
    resolved.cannot = cannot.join("; ");
    let of_backends = rule.backends.iter().map(|one| {
        let mut cannot = Vec::new();
        (filters(&one.filters, &mut cannot), cannot.join("; "))
    });
    let of_backends: Vec<_> = of_backends.collect();
    for (one, (filters, cannot)) in rule.backends.iter().zip(of_backends) {
        let (mut reference, fault) = backend(index, parent, route, &one.backend);
        unresolved.extend(fault);
        // Such a filter would have processed its share alone.
        if reference.cannot.is_empty() {
            reference.cannot = cannot;
        }
        resolved.backends.push(v1::RouteBackend {
            backend: Some(reference),
            weight: one.weight,
            filters,
        });
    }
    resolved.session_persistence = rule.session_persistence.clone();
    conduct(index, of_parent, route, rule, &mut resolved);
    Some(Resolved {
        rule: resolved,
        unresolved,
        pattern_bytes: rule.pattern_bytes,
    })
}

/// The policies that take part in a Service: its own, and those of the rules of
/// its routes.
pub fn all_policies(service: &v1::Service) -> Vec<v1::PolicyReference> {
    let mut all = service.policies.clone();
    let rules = service.routes.iter().flat_map(|routes| &routes.rules);
    for policy in rules.flat_map(|rule| &rule.policies) {
        if !all.contains(policy) {
            all.push(policy.clone());
        }
    }
    all
}

fn reference(route: &Route, rule: &Rule, place: usize) -> v1::RouteReference {
    v1::RouteReference {
        kind: route.id.kind.as_str().to_owned(),
        namespace: route.id.id.namespace.to_string(),
        name: route.id.id.name.to_string(),
        generation: route.generation,
        rule: u32::try_from(place).unwrap_or(u32::MAX),
        rule_name: rule.name.to_string(),
    }
}

fn filter(
    index: &Index,
    (parent, route): (&Id, &Route),
    filter: &Filter,
    unresolved: &mut Vec<Unresolved>,
    cannot: &mut Vec<String>,
) -> Option<v1::RouteFilter> {
    match filter {
        Filter::Plain(plain) => Some(plain.clone()),
        Filter::Mirror {
            backend: written,
            numerator,
            denominator,
        } => {
            let (reference, fault) = backend(index, parent, route, written);
            unresolved.extend(fault);
            Some(v1::RouteFilter {
                filter: Some(v1::route_filter::Filter::Mirror(v1::Mirror {
                    backend: Some(reference),
                    denominator: *denominator,
                    numerator: *numerator,
                })),
            })
        }
        Filter::Extension { shown, field } => {
            let message = format!("{field}: {shown} is of a kind that is not known to Remora");
            cannot.push(message.clone());
            unresolved.push(Unresolved {
                reason: RefReason::InvalidKind,
                message,
            });
            None
        }
    }
}

/// What becomes of a request beside where it goes.
fn conduct(
    index: &Index,
    of_parent: &Effective,
    route: &Route,
    rule: &Rule,
    resolved: &mut v1::RouteRule,
) {
    let mut own = Settings::default();
    for policy in resolve::route_levels(&index.policies, &route.id, &rule.name) {
        own = own.over(&policy.settings);
        let reference = resolve::reference(&policy.id, policy.generation);
        if !resolved.policies.contains(&reference) {
            resolved.policies.push(reference);
        }
    }
    let merged = || own.clone().over(&of_parent.settings);
    if own.retries.is_some() || rule.retry.is_some() {
        let retries = merged().retries.unwrap_or_default();
        resolved.retries = Some(resolve::retries(&with_retry(retries, rule)));
    }
    if own.timeouts.is_some() || rule.timeouts.is_some() {
        let mut timeouts = merged().timeouts.unwrap_or_default();
        let written = rule.timeouts.unwrap_or_default();
        if let Some(request_ms) = written.request {
            timeouts.request_ms = request_ms;
        }
        if let Some(per_try_ms) = written.backend_request {
            timeouts.per_try_ms = per_try_ms;
        }
        resolved.timeouts = Some(timeouts);
    }
    resolved.own_rate_limits = own.rate_limits.is_some();
    resolved.rate_limits = resolve::caller_rate_limits(&own);
    if own.fallback.is_some() {
        let fallback = merged().fallback.unwrap_or_default();
        resolved.fallback = Some(fallback.proto(references::cannot(index, None)));
    }
    if own.fault.is_some() {
        resolved.fault = Some(merged().fault.unwrap_or_default().proto());
    }
    let limits = own.circuit_breaker.map(|breaker| v1::Limits {
        max_requests: breaker.limits.max_requests,
        max_retries: breaker.limits.max_retries,
        ..v1::Limits::default()
    });
    resolved.limits = limits.filter(|limits| *limits != v1::Limits::default());
}

/// The route's own `retry` over what policies say.
pub(in crate::core) fn with_retry(mut retries: Retries, rule: &Rule) -> Retries {
    let Some(written) = &rule.retry else {
        return retries;
    };
    retries.attempts = Some(written.attempts);
    if written.codes.is_some() || retries.on.is_none() {
        // What the backend has not processed, and nothing else unless it is said; of
        // an attempt that the route itself bounds it is, in `timeouts.backendRequest`.
        let bounded = rule.timeouts.and_then(|of| of.backend_request.flatten());
        retries.on = Some(v1::Conditions {
            connect_failure: true,
            refused_stream: true,
            timeout: bounded.is_some(),
            status_codes: written.codes.clone().unwrap_or_default(),
            ..v1::Conditions::default()
        });
    }
    if let Some(base) = written.backoff_ms {
        // The longest wait is at least the first.
        let max = retries.backoff_max_ms.unwrap_or(defaults::BACKOFF_MAX_MS);
        retries.backoff_base_ms = Some(base);
        retries.backoff_max_ms = Some(max.max(base));
    }
    retries
}
