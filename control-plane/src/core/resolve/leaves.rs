//! What is in force on a Service, leaf field by leaf field, each with whose
//! doing it is: for people to read. Values are written as a policy writes them.

mod blocks;
pub mod rule;

use remora_proto::v1;
use serde_json::{Map, Value, json};

use super::{levels, reference, route_levels};
use crate::core::objects::{Name, TrafficPolicy};
use crate::core::policies::Policies;
use crate::core::routes::RouteId;
use crate::core::settings::{
    CircuitBreaker, Outbound, RateLimit, Retries, Settings, SlowCallRate, defaults,
};
use crate::policy::conditions::{default_failures, default_retry_on, words};
use crate::policy::mtls;
use crate::policy::units::display_ms;

/// One leaf field.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Its path below `spec`: `retries.budget.percent`.
    pub field: &'static str,
    /// What is in force, as a policy would write it; durations with their unit.
    pub value: Value,
    /// The policy from which it comes; `None` is the default of a block that
    /// some policy has.
    pub from: Option<v1::PolicyReference>,
}

/// Every leaf that is in force on a Service, or on what no Service covers.
/// A block that no policy has is not among them: it does nothing.
pub fn leaves(policies: &Policies, namespace: &Name, service: Option<&Name>) -> Vec<Leaf> {
    merged(levels(policies, namespace, service))
}

/// The same of a rule of a route, or of a route: what its own policies say. Of what they do not,
/// the parent's policies count.
pub fn leaves_of_route(policies: &Policies, route: &RouteId, rule: &Name) -> Vec<Leaf> {
    merged(route_levels(policies, route, rule))
}

fn merged<'a>(levels: impl Iterator<Item = &'a TrafficPolicy>) -> Vec<Leaf> {
    let levels = levels.map(|policy| {
        let reference = reference(&policy.id, policy.generation);
        (reference, &policy.settings)
    });
    said_by(levels)
}

/// The leaves of what these levels say together, the most specific first.
fn said_by<'a>(levels: impl Iterator<Item = (v1::PolicyReference, &'a Settings)>) -> Vec<Leaf> {
    let mut settings = Settings::default();
    let mut said = Vec::new();
    for (reference, says) in levels {
        said.push((reference, listed(says)));
        settings = settings.over(says);
    }
    listed(&with_defaults(&settings))
        .into_iter()
        .map(|(field, value)| {
            let says = |of: &[(&str, Value)]| of.iter().any(|(said, _)| *said == field);
            // Of modes the strictest is in force, whoever says it.
            let is_mode = |of: &[(&str, Value)]| {
                field.starts_with("mtls.") && of.contains(&(field, value.clone()))
            };
            let from = said.iter().find(|(_, listed)| is_mode(listed));
            let from = from.or_else(|| said.iter().find(|(_, listed)| says(listed)));
            Leaf {
                field,
                value,
                from: from.map(|(policy, _)| policy.clone()),
            }
        })
        .collect()
}

/// The defaults filled in where a block is there, as [`super::service_policy`]
/// does it.
pub fn with_defaults(settings: &Settings) -> Settings {
    let breaker = CircuitBreaker {
        scope: Some(v1::trip::Scope::Endpoint),
        consecutive_failures: Some(defaults::CONSECUTIVE_FAILURES),
        failures: Some(default_failures()),
        base_ejection_ms: Some(defaults::BASE_EJECTION_MS),
        max_ejection_ms: Some(defaults::MAX_EJECTION_MS),
        honor_retry_after: Some(true),
        probes: Some(1),
        successes: Some(1),
        max_ejected_percent: Some(defaults::MAX_EJECTED_PERCENT),
        min_endpoints: Some(defaults::MIN_ENDPOINTS),
        ..CircuitBreaker::default()
    };
    let breaker = |block: &CircuitBreaker| CircuitBreaker {
        failure_rate: block.failure_rate.map(|_| defaults::RATE),
        slow_call_rate: block.slow_call_rate.map(|_| SlowCallRate {
            duration_ms: None,
            rate: defaults::RATE,
        }),
        ..breaker.clone()
    };
    let outbound = Outbound {
        connect_timeout_ms: Some(defaults::CONNECT_TIMEOUT_MS),
        idle_timeout_ms: Some(defaults::IDLE_TIMEOUT_MS),
        ..Outbound::default()
    };
    let retries = Retries {
        attempts: Some(0),
        on: Some(default_retry_on()),
        backoff_base_ms: Some(defaults::BACKOFF_BASE_MS),
        backoff_max_ms: Some(defaults::BACKOFF_MAX_MS),
        max_retry_after_ms: Some(defaults::MAX_RETRY_AFTER_MS),
        budget_percent: Some(defaults::BUDGET_PERCENT),
        budget_min_per_second: Some(defaults::BUDGET_MIN_PER_SECOND),
        budget_window_ms: Some(defaults::BUDGET_WINDOW_MS),
        buffer_bytes: Some(defaults::BUFFER_BYTES),
        ..Retries::default()
    };
    let retries = |block: &Retries| Retries {
        hedge: block.hedge.map(|_| defaults::HEDGE),
        ..retries.clone()
    };
    // A block's own defaults count only where some policy has the block.
    let general = Settings {
        circuit_breaker: settings.circuit_breaker.as_ref().map(breaker),
        outbound: settings.outbound.as_ref().map(|_| outbound),
        retries: settings.retries.as_ref().map(retries),
        ..Settings::default()
    };
    let mut done = settings.clone().over(&general);
    done.admission = done.admission.map(|block| block.complete());
    done.load_balancing = done.load_balancing.map(|block| block.complete());
    done.health_check = done.health_check.map(|block| block.complete());
    done.fallback = done.fallback.map(|block| block.complete());
    done.fault = done.fault.map(|block| block.complete());
    if let Some(mtls) = &mut done.mtls {
        mtls.mode.get_or_insert(v1::MtlsMode::Permissive);
    }
    // Two levels together may have a first that is longer than the last.
    if let Some(breaker) = &mut done.circuit_breaker {
        breaker.base_ejection_ms = breaker.base_ejection_ms.min(breaker.max_ejection_ms);
    }
    if let Some(retries) = &mut done.retries {
        retries.backoff_base_ms = retries.backoff_base_ms.min(retries.backoff_max_ms);
    }
    done
}

/// The leaves that are set, in the order in which the schema has them.
pub fn listed(settings: &Settings) -> Vec<(&'static str, Value)> {
    let mut list = List(Vec::new());
    if let Some(block) = &settings.circuit_breaker {
        list.circuit_breaker(block);
    }
    if let Some(block) = &settings.outbound {
        list.duration("outbound.connectTimeout", block.connect_timeout_ms);
        list.duration("outbound.idleTimeout", block.idle_timeout_ms);
        list.value(
            "outbound.maxRequestsPerConnection",
            block.max_requests_per_connection,
        );
        list.duration("outbound.maxConnectionAge", block.max_connection_age_ms);
    }
    if let Some(block) = &settings.retries {
        list.retries(block);
    }
    if let Some(block) = &settings.timeouts {
        list.duration("timeouts.request", block.request_ms);
        list.duration("timeouts.perTry", block.per_try_ms);
        list.duration("timeouts.idle", block.idle_ms);
        list.duration("timeouts.responseHeaders", block.response_headers_ms);
    }
    if let Some(limits) = &settings.rate_limits {
        let limits: Value = limits.iter().map(rate_limit).collect();
        list.value("rateLimits", Some(limits));
    }
    if let Some(block) = &settings.mtls {
        list.value("mtls.mode", block.mode.map(mtls::word));
        let ports = block.ports.iter();
        let ports: Map<String, Value> = ports
            .map(|(port, mode)| (port.to_string(), mtls::word(*mode).into()))
            .collect();
        list.value("mtls.ports", Some(ports).filter(|ports| !ports.is_empty()));
    }
    if let Some(block) = &settings.admission {
        list.admission(block);
    }
    if let Some(block) = &settings.load_balancing {
        list.load_balancing(block);
    }
    if let Some(block) = &settings.health_check {
        list.health_check(block);
    }
    if let Some(block) = &settings.fallback {
        list.fallback(block);
    }
    if let Some(block) = &settings.fault {
        list.fault(block);
    }
    list.0
}

struct List(Vec<(&'static str, Value)>);

impl List {
    fn value(&mut self, field: &'static str, value: Option<impl Into<Value>>) {
        self.0.extend(value.map(|value| (field, value.into())));
    }

    fn duration(&mut self, field: &'static str, ms: Option<u64>) {
        self.value(field, ms.map(display_ms));
    }

    fn conditions(&mut self, field: &'static str, conditions: Option<&v1::Conditions>) {
        self.value(field, conditions.map(|conditions| json!(words(conditions))));
    }

    fn circuit_breaker(&mut self, block: &CircuitBreaker) {
        let limits = &block.limits;
        self.value("circuitBreaker.maxConnections", limits.max_connections);
        self.value(
            "circuitBreaker.maxPendingRequests",
            limits.max_pending_requests,
        );
        self.value("circuitBreaker.maxRequests", limits.max_requests);
        self.value("circuitBreaker.maxRetries", limits.max_retries);
        if let Some(limits) = &block.per_endpoint {
            let at = "circuitBreaker.perEndpoint.maxConnections";
            self.value(at, limits.max_connections);
            let at = "circuitBreaker.perEndpoint.maxPendingRequests";
            self.value(at, limits.max_pending_requests);
            let at = "circuitBreaker.perEndpoint.maxRequests";
            self.value(at, limits.max_requests);
            let at = "circuitBreaker.perEndpoint.maxRetries";
            self.value(at, limits.max_retries);
        }
        let scope = block.scope.map(|scope| match scope {
            v1::trip::Scope::Endpoint => "Endpoint",
            v1::trip::Scope::Service => "Service",
        });
        self.value("circuitBreaker.scope", scope);
        self.value(
            "circuitBreaker.consecutiveFailures",
            block.consecutive_failures,
        );
        if let Some(rate) = block.failure_rate {
            let at = "circuitBreaker.failureRate.threshold";
            self.value(
                at,
                rate.threshold_percent.map(|percent| format!("{percent}%")),
            );
            self.duration("circuitBreaker.failureRate.window", rate.window_ms);
            self.value("circuitBreaker.failureRate.minRequests", rate.min_requests);
        }
        if let Some(SlowCallRate { duration_ms, rate }) = block.slow_call_rate {
            self.duration("circuitBreaker.slowCallRate.duration", duration_ms);
            let at = "circuitBreaker.slowCallRate.threshold";
            self.value(
                at,
                rate.threshold_percent.map(|percent| format!("{percent}%")),
            );
            self.duration("circuitBreaker.slowCallRate.window", rate.window_ms);
            self.value("circuitBreaker.slowCallRate.minRequests", rate.min_requests);
        }
        self.conditions("circuitBreaker.failures", block.failures.as_ref());
        self.duration("circuitBreaker.baseEjection", block.base_ejection_ms);
        self.duration("circuitBreaker.maxEjection", block.max_ejection_ms);
        self.value("circuitBreaker.honorRetryAfter", block.honor_retry_after);
        self.value("circuitBreaker.probes", block.probes);
        self.value("circuitBreaker.successes", block.successes);
        self.value(
            "circuitBreaker.maxEjectedPercent",
            block.max_ejected_percent,
        );
        self.value("circuitBreaker.minEndpoints", block.min_endpoints);
    }

    fn retries(&mut self, block: &Retries) {
        self.value("retries.attempts", block.attempts);
        self.conditions("retries.on", block.on.as_ref());
        self.duration("retries.backoff.base", block.backoff_base_ms);
        self.duration("retries.backoff.max", block.backoff_max_ms);
        self.duration("retries.maxRetryAfter", block.max_retry_after_ms);
        let header = block.idempotency_header.as_deref();
        self.value("retries.idempotencyHeader", header);
        self.value("retries.methods", block.methods.clone());
        self.value("retries.budget.percent", block.budget_percent);
        self.value("retries.budget.minPerSecond", block.budget_min_per_second);
        self.duration("retries.budget.window", block.budget_window_ms);
        self.value("retries.bufferBytes", block.buffer_bytes);
        if let Some(block) = block.hedge {
            let after = block.after.map(|after| match after {
                v1::hedge::After::AfterMs(ms) => display_ms(ms),
                v1::hedge::After::AfterPercentile(percentile) => format!("p{percentile}"),
            });
            self.value("retries.hedge.after", after);
            self.value("retries.hedge.max", block.max);
        }
    }
}

/// One limit, complete, as a policy writes it.
fn rate_limit(limit: &RateLimit) -> Value {
    let RateLimit { at_caller, limit } = limit;
    let per = match limit.per_ms {
        1_000 => "second",
        60_000 => "minute",
        _ => "hour",
    };
    let mode = match limit.mode() {
        v1::rate_limit::Mode::Enforce => "Enforce",
        v1::rate_limit::Mode::Shadow => "Shadow",
    };
    let mut written = json!({
        "name": limit.name,
        "limit": {"requests": limit.requests, "per": per, "burst": limit.burst},
        "key": limit.key.iter().filter_map(key_part).collect::<Vec<_>>(),
        "scope": if limit.mesh { "Mesh" } else { "Pod" },
        "enforcedAt": if *at_caller { "Caller" } else { "Target" },
        "mode": mode,
        "maxKeys": limit.max_keys,
    });
    if let Some(matches) = &limit.r#match {
        written["match"] = match_block(matches);
    }
    written
}

fn key_part(part: &v1::KeyPart) -> Option<String> {
    use v1::key_part::Part;
    Some(match part.part.as_ref()? {
        Part::Header(name) => format!("header:{name}"),
        Part::RemoteAddress(_) => "remoteAddress".to_owned(),
        Part::Path(_) => "path".to_owned(),
        Part::Method(_) => "method".to_owned(),
        Part::ClientIdentity(_) => "clientIdentity".to_owned(),
    })
}

fn match_block(block: &v1::Match) -> Value {
    use v1::r#match::Path;
    let mut written = json!({});
    if !block.methods.is_empty() {
        written["methods"] = json!(block.methods);
    }
    match &block.path {
        Some(Path::PathExact(path)) => written["path"] = json!({"exact": path}),
        Some(Path::PathPrefix(path)) => written["path"] = json!({"prefix": path}),
        None => {}
    }
    if !block.headers.is_empty() {
        let headers = block.headers.iter();
        let headers = headers.map(|header| json!({"name": header.name, "value": header.exact}));
        written["headers"] = headers.collect();
    }
    written
}

#[cfg(test)]
mod tests;
