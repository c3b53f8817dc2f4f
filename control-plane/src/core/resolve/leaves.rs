//! What is in force on a Service, leaf field by leaf field, each with whose
//! doing it is: for people to read. Values are written as a policy writes them.

mod blocks;

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
    let mut settings = Settings::default();
    let mut said = Vec::new();
    for policy in levels {
        let reference = reference(&policy.id, policy.generation);
        said.push((reference, listed(&policy.settings)));
        settings = settings.over(&policy.settings);
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
mod tests {
    use super::super::service_policy;
    use super::*;
    use crate::core::objects::{Id, Target};
    use crate::core::scope::Scope;
    use crate::policy::parse;

    const COMPLETE: &str = "
circuitBreaker:
  maxConnections: 1
  maxPendingRequests: 2
  maxRequests: 3
  maxRetries: 4
  perEndpoint: {maxConnections: 5, maxPendingRequests: 6, maxRequests: 7, maxRetries: 8}
  scope: Service
  consecutiveFailures: 9
  failureRate: {threshold: 10%, window: 20s, minRequests: 5}
  slowCallRate: {duration: 2s, threshold: 30%, window: 40s, minRequests: 6}
  failures: [5xx, reset, 429, UNAVAILABLE]
  baseEjection: 3s
  maxEjection: 1m
  honorRetryAfter: false
  probes: 2
  successes: 3
  maxEjectedPercent: 40
  minEndpoints: 2
outbound: {connectTimeout: 1s, idleTimeout: 30s, maxRequestsPerConnection: 50, maxConnectionAge: 5m}
retries:
  attempts: 3
  on: [gateway-error, connect-failure]
  backoff: {base: 10ms, max: 100ms}
  maxRetryAfter: 1s
  idempotencyHeader: idempotency-key
  methods: [POST]
  budget: {percent: 10, minPerSecond: 5, window: 20s}
  bufferBytes: 1024
  hedge: {after: p90, max: 2}
timeouts: {request: 5s, perTry: 1s, idle: 5m, responseHeaders: 2s}
rateLimits:
- name: one
  limit: {requests: 100, per: second, burst: 10}
  match: {methods: [GET], path: {prefix: /a/}, headers: [{name: x-a, value: b}]}
  key: [remoteAddress, path, method, 'header:x-user']
  scope: Mesh
  enforcedAt: Caller
  mode: Shadow
  maxKeys: 5
admission:
  maxRequests: 11
  adaptive: {minRequests: 2, maxRequests: 12, tolerancePercent: 150}
  priorities:
    header: x-priority
    trusted: [{namespace: shop, identity: spiffe://a/ns/shop/sa/web}]
    rules: [{priority: critical, match: {methods: [GET]}}]
loadBalancing:
  algorithm: ConsistentHash
  consistentHash: {on: ['header:x-user', path], loadBoundPercent: 130}
  sessionPersistence: {type: Cookie, sessionName: s, strict: true, absoluteTimeout: 1h, cookieLifetimeType: Permanent}
  pinning: true
  slowStart: {window: 11s}
  zones: Ignore
  waitForEndpoints: 2s
healthCheck:
  http: {path: /healthz, expectedStatuses: [200-299, 304], expectedBody: ok}
  interval: 5s
  timeout: 2s
  window: 4
  unhealthyThreshold: 2
  healthyThreshold: 3
fallback:
  when: [timeout]
  response: {status: 203, headers: [{name: a, value: b}], body: '[]', grpcStatus: 5, grpcMessage: m}
fault:
  delay: {duration: 1s, percent: 0.5}
  abort: {status: 503, percent: 20}
  match: {path: {prefix: /a/}}
";

    fn policy(name: &str, created: i64, target: Target, spec: &str) -> TrafficPolicy {
        let mut value: Value = serde_saphyr::from_str(spec).unwrap();
        value["targetRefs"] = json!([{"kind": "Namespace", "name": "shop"}]);
        let parsed = parse::spec("shop", name, &value).unwrap();
        TrafficPolicy {
            id: Id::new("shop", name),
            created: Some(created),
            generation: 1,
            scope: Scope::Targets(vec![target]),
            settings: parsed.settings,
        }
    }

    fn catalog() -> Target {
        Target::Service("catalog".into())
    }

    fn explained(given: Vec<TrafficPolicy>) -> Vec<Leaf> {
        let mut policies = Policies::default();
        for policy in given {
            policies.apply(policy);
        }
        leaves(&policies, &"shop".into(), Some(&"catalog".into()))
    }

    fn flat(value: &Value, path: &str, into: &mut Vec<(String, Value)>) {
        match value {
            // What one level's block replaces as a whole is one leaf.
            Value::Object(fields)
                if !["healthCheck.http", "fallback.response", "fault.match"].contains(&path) =>
            {
                for (name, value) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    flat(value, &format!("{path}{dot}{name}"), into);
                }
            }
            leaf => into.push((path.to_owned(), leaf.clone())),
        }
    }

    #[test]
    fn what_a_policy_writes_is_what_is_shown() {
        let shown = explained(vec![policy("whole", 1, catalog(), COMPLETE)]);
        let mut shown: Vec<_> = shown
            .into_iter()
            .inspect(|leaf| assert_eq!(leaf.from.as_ref().unwrap().name, "whole"))
            .map(|leaf| (leaf.field.to_owned(), leaf.value))
            .collect();
        let mut written = Vec::new();
        flat(&serde_saphyr::from_str(COMPLETE).unwrap(), "", &mut written);
        // Conditions are shown in an order of their own.
        for (field, value) in shown.iter_mut().chain(&mut written) {
            let is_set = ["circuitBreaker.failures", "retries.on"].contains(&field.as_str());
            if let (true, Value::Array(words)) = (is_set, value) {
                words.sort_by_key(Value::to_string);
            }
        }
        shown.sort_by(|a, b| a.0.cmp(&b.0));
        written.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(shown, written);
    }

    #[test]
    fn each_leaf_names_the_policy_that_it_came_from() {
        let shown = explained(vec![
            policy(
                "own",
                2,
                catalog(),
                "retries: {attempts: 2}\ncircuitBreaker: {baseEjection: 1m}",
            ),
            policy("newer", 3, catalog(), "retries: {attempts: 9}"),
            policy(
                "general",
                1,
                Target::Namespace,
                "retries: {attempts: 5, budget: {percent: 7}}\n\
                 circuitBreaker: {baseEjection: 1s, maxEjection: 20s}",
            ),
        ]);
        let leaf = |field: &str| {
            let leaf = shown.iter().find(|leaf| leaf.field == field).unwrap();
            let from = leaf.from.as_ref().map(|from| from.name.as_str());
            (leaf.value.clone(), from)
        };
        assert_eq!(leaf("retries.attempts"), (json!(2), Some("own")));
        assert_eq!(leaf("retries.budget.percent"), (json!(7), Some("general")));
        assert_eq!(leaf("retries.budget.window"), (json!("10s"), None));
        assert_eq!(
            leaf("circuitBreaker.baseEjection"),
            (json!("20s"), Some("own")),
            "what is done, not what is written: base never exceeds max"
        );
        assert_eq!(
            leaf("circuitBreaker.maxEjection"),
            (json!("20s"), Some("general"))
        );
        assert!(!shown.iter().any(|leaf| leaf.field.starts_with("outbound")));
        assert!(explained(Vec::new()).is_empty());
    }

    #[test]
    fn the_defaults_shown_are_those_that_sidecars_get() {
        for spec in [
            "{}",
            "circuitBreaker: {}\noutbound: {}\nretries: {}\ntimeouts: {}",
            "circuitBreaker: {perEndpoint: {}, maxEjection: 1m}",
            "retries: {backoff: {max: 1s}, hedge: {}}",
            "circuitBreaker: {failureRate: {}, slowCallRate: {duration: 1s}}",
            "loadBalancing: {sessionPersistence: {}, slowStart: {}}\nadmission: {adaptive: {}}",
            "healthCheck: {tcp: {}, unhealthyThreshold: 5}\nfault: {delay: {duration: 1s}}",
            "fallback: {backendRef: {name: a, port: 80}}\nfault: {abort: {reset: true}}",
            COMPLETE,
        ] {
            let settings = policy("one", 1, catalog(), spec).settings;
            assert_eq!(
                service_policy(&with_defaults(&settings)),
                service_policy(&settings),
                "{spec}"
            );
        }
    }
}
