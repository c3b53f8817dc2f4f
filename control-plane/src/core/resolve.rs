//! Policies to what a sidecar does: Service over Namespace, leaf by leaf, and
//! then the defaults. [`leaves`] says of each leaf whose doing it is.

pub mod leaves;

use remora_proto::v1;

use super::objects::{Id, Name, Target, TrafficPolicy};
use super::policies::Policies;
use super::routes::RouteId;
use super::settings::trouble::FallbackBackend;
use super::settings::{
    CircuitBreaker, Fault, HealthCheck, Hedge, LoadBalancing, Outbound, Rate, RateLimit, Retries,
    Settings, SlowCallRate, defaults,
};
use crate::policy::conditions::{default_failures, default_retry_on};

/// What is in force somewhere, and whose doing it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// Leaf by leaf, without defaults.
    pub settings: Settings,
    /// Every policy that took part, most specific first.
    pub policies: Vec<v1::PolicyReference>,
    /// The policy from which `rateLimits` came.
    pub rate_limits_from: Option<v1::PolicyReference>,
}

/// What is in force on a Service, or on what no Service covers (`None`).
pub fn effective(policies: &Policies, namespace: &Name, service: Option<&Name>) -> Effective {
    let mut result = Effective::default();
    for policy in levels(policies, namespace, service) {
        let reference = reference(&policy.id, policy.generation);
        if result.settings.rate_limits.is_none() && policy.settings.rate_limits.is_some() {
            result.rate_limits_from = Some(reference.clone());
        }
        result.settings = std::mem::take(&mut result.settings).over(&policy.settings);
        // One policy may name both the Service and its Namespace.
        if !result.policies.contains(&reference) {
            result.policies.push(reference);
        }
    }
    result
}

/// The policy in force on each level, the most specific first.
pub(super) fn levels<'a>(
    policies: &'a Policies,
    namespace: &Name,
    service: Option<&Name>,
) -> impl Iterator<Item = &'a TrafficPolicy> {
    let targets = [
        service.map(|name| Target::Service(name.clone())),
        Some(Target::Namespace),
    ];
    let namespace = namespace.clone();
    let targets = targets.into_iter().flatten();
    targets.filter_map(move |target| policies.in_force(&namespace, target))
}

/// The policies in force on a rule of a route and on the route, in this order.
pub fn route_levels<'a>(
    policies: &'a Policies,
    route: &RouteId,
    rule: &Name,
) -> impl Iterator<Item = &'a TrafficPolicy> {
    let target = |rule| Target::Route {
        kind: route.kind,
        name: route.id.name.clone(),
        rule,
    };
    let of_rule = (!rule.is_empty()).then(|| target(Some(rule.clone())));
    let namespace = route.id.namespace.clone();
    let targets = of_rule.into_iter().chain([target(None)]);
    let levels = targets.collect::<Vec<_>>().into_iter();
    levels.filter_map(move |target| policies.in_force(&namespace, target))
}

/// A policy as those name it who say that it takes part.
pub fn reference(policy: &Id, generation: i64) -> v1::PolicyReference {
    v1::PolicyReference {
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        generation,
    }
}

/// What callers do, with the defaults; `None` where no block says anything.
pub fn service_policy(settings: &Settings) -> Option<v1::ServicePolicy> {
    service_policy_where(settings, |_| None)
}

/// The same, where `cannot` says why the backend of a fallback cannot be taken, if it cannot.
pub fn service_policy_where(
    settings: &Settings,
    cannot: impl Fn(&FallbackBackend) -> Option<String>,
) -> Option<v1::ServicePolicy> {
    let policy = v1::ServicePolicy {
        circuit_breaker: settings.circuit_breaker.as_ref().map(circuit_breaker),
        outbound: settings.outbound.as_ref().map(outbound),
        retries: settings.retries.as_ref().map(retries),
        timeouts: settings.timeouts,
        rate_limits: limits(settings, true),
        load_balancing: settings.load_balancing.as_ref().map(LoadBalancing::proto),
        fallback: settings.fallback.as_ref().map(|block| block.proto(cannot)),
        fault: settings.fault.as_ref().map(Fault::proto),
        health_check: settings.health_check.as_ref().map(HealthCheck::proto),
    };
    (policy != v1::ServicePolicy::default()).then_some(policy)
}

/// The rate limits that each caller's sidecar enforces.
pub fn caller_rate_limits(settings: &Settings) -> Vec<v1::RateLimit> {
    limits(settings, true)
}

/// The rate limits that the target's own sidecar enforces.
pub fn target_rate_limits(settings: &Settings) -> Vec<v1::RateLimit> {
    limits(settings, false)
}

fn limits(settings: &Settings, at_caller: bool) -> Vec<v1::RateLimit> {
    let listed = settings.rate_limits.iter().flatten();
    let here = listed.filter(
        |RateLimit {
             at_caller: caller, ..
         }| *caller == at_caller,
    );
    here.map(|limit| limit.limit.clone()).collect()
}

fn circuit_breaker(block: &CircuitBreaker) -> v1::CircuitBreaker {
    // Each object keeps base at or below max; two levels together may not.
    let max_ejection_ms = block.max_ejection_ms.unwrap_or(defaults::MAX_EJECTION_MS);
    let base_ejection_ms = block.base_ejection_ms.unwrap_or(defaults::BASE_EJECTION_MS);
    v1::CircuitBreaker {
        limits: Some(block.limits),
        per_endpoint: block.per_endpoint,
        trip: Some(v1::Trip {
            scope: block.scope.unwrap_or(v1::trip::Scope::Endpoint).into(),
            consecutive_failures: block
                .consecutive_failures
                .unwrap_or(defaults::CONSECUTIVE_FAILURES),
            failures: Some(block.failures.clone().unwrap_or_else(default_failures)),
            base_ejection_ms: base_ejection_ms.min(max_ejection_ms),
            max_ejection_ms,
            honor_retry_after: block.honor_retry_after.unwrap_or(true),
            probes: block.probes.unwrap_or(1),
            successes: block.successes.unwrap_or(1),
            max_ejected_percent: block
                .max_ejected_percent
                .unwrap_or(defaults::MAX_EJECTED_PERCENT),
            min_endpoints: block.min_endpoints.unwrap_or(defaults::MIN_ENDPOINTS),
            failure_rate: block.failure_rate.map(failure_rate),
            slow_call_rate: block.slow_call_rate.map(slow_call_rate),
        }),
    }
}

fn failure_rate(block: Rate) -> v1::FailureRate {
    let done = block.over(&defaults::RATE);
    v1::FailureRate {
        threshold_percent: done.threshold_percent.unwrap_or_default(),
        window_ms: done.window_ms.unwrap_or_default(),
        min_requests: done.min_requests.unwrap_or_default(),
    }
}

fn slow_call_rate(block: SlowCallRate) -> v1::SlowCallRate {
    let rate = failure_rate(block.rate);
    v1::SlowCallRate {
        duration_ms: block.duration_ms.unwrap_or_default(),
        threshold_percent: rate.threshold_percent,
        window_ms: rate.window_ms,
        min_requests: rate.min_requests,
    }
}

fn hedge(block: Hedge) -> v1::Hedge {
    let done = block.over(&defaults::HEDGE);
    v1::Hedge {
        after: done.after,
        max: done.max.unwrap_or_default(),
    }
}

fn outbound(block: &Outbound) -> v1::Outbound {
    v1::Outbound {
        connect_timeout_ms: block
            .connect_timeout_ms
            .unwrap_or(defaults::CONNECT_TIMEOUT_MS),
        idle_timeout_ms: block.idle_timeout_ms.unwrap_or(defaults::IDLE_TIMEOUT_MS),
        max_requests_per_connection: block.max_requests_per_connection,
        max_connection_age_ms: block.max_connection_age_ms,
    }
}

/// `retries`, with the defaults.
pub fn retries(block: &Retries) -> v1::Retries {
    let backoff_max_ms = block.backoff_max_ms.unwrap_or(defaults::BACKOFF_MAX_MS);
    let backoff_base_ms = block.backoff_base_ms.unwrap_or(defaults::BACKOFF_BASE_MS);
    v1::Retries {
        attempts: block.attempts.unwrap_or(0),
        on: Some(block.on.clone().unwrap_or_else(default_retry_on)),
        backoff_base_ms: backoff_base_ms.min(backoff_max_ms),
        backoff_max_ms,
        max_retry_after_ms: block
            .max_retry_after_ms
            .unwrap_or(defaults::MAX_RETRY_AFTER_MS),
        idempotency_header: block.idempotency_header.clone().unwrap_or_default(),
        methods: block.methods.clone().unwrap_or_default(),
        budget: Some(v1::RetryBudget {
            percent: block.budget_percent.unwrap_or(defaults::BUDGET_PERCENT),
            min_per_second: block
                .budget_min_per_second
                .unwrap_or(defaults::BUDGET_MIN_PER_SECOND),
            window_ms: block.budget_window_ms.unwrap_or(defaults::BUDGET_WINDOW_MS),
        }),
        buffer_bytes: block.buffer_bytes.unwrap_or(defaults::BUFFER_BYTES),
        hedge: block.hedge.map(hedge),
    }
}
