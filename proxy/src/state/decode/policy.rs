//! The resolved policies, checked.

use std::time::Duration;

use remora_proto::bounds::{
    MAX_ATTEMPTS, MAX_BUFFER_BYTES, MAX_CONSECUTIVE_FAILURES, MAX_HEDGES, MAX_KEYS, MAX_LIMIT,
    MAX_LIST, MAX_MIN_REQUESTS, MAX_PROBES, MAX_RATE, MAX_RATE_LIMIT_NAME, MAX_RATE_LIMITS,
    MAX_RATE_WINDOW_MS, MAX_TEXT, MIN_BUDGET_WINDOW_MS, MIN_RATE_WINDOW_MS,
};
use remora_proto::v1;

use super::problems::Problems;
use super::{balancing, health, names, trouble};
use crate::policy::config::{
    CircuitBreaker, Conditions, HeaderMatch, Hedge, HedgeAfter, KeyPart, Limits, Match, Outbound,
    PathMatch, Rate, RateLimit, Retries, RetryBudget, Scope, ServicePolicy, SlowCalls, Timeouts,
    Trip,
};

/// A service's policy.
pub fn service_policy(policy: &v1::ServicePolicy, problems: &mut Problems) -> ServicePolicy {
    ServicePolicy {
        circuit_breaker: policy.circuit_breaker.as_ref().map(|breaker| {
            problems.within("circuit_breaker", |problems| {
                circuit_breaker(breaker, problems)
            })
        }),
        outbound: policy
            .outbound
            .as_ref()
            .map(|part| problems.within("outbound", |problems| outbound(part, problems)))
            .unwrap_or_default(),
        retries: policy
            .retries
            .as_ref()
            .map(|part| problems.within("retries", |problems| retries(part, problems))),
        timeouts: policy
            .timeouts
            .as_ref()
            .map(|part| problems.within("timeouts", |problems| timeouts(part, problems)))
            .unwrap_or_default(),
        rate_limits: rate_limits(&policy.rate_limits, problems),
        load_balancing: policy
            .load_balancing
            .as_ref()
            .map(|part| balancing::load_balancing(part, problems))
            .unwrap_or_default(),
        fallback: trouble::fallback(policy.fallback.as_ref(), problems),
        fault: trouble::fault(policy.fault.as_ref(), problems),
        health_check: policy.health_check.as_ref().and_then(|part| {
            problems.within("health_check", |problems| {
                health::health_check(part, problems)
            })
        }),
    }
}

/// A list of rate limits, in the field `rate_limits`.
pub fn rate_limits(limits: &[v1::RateLimit], problems: &mut Problems) -> Vec<RateLimit> {
    problems
        .list("rate_limits", limits, MAX_RATE_LIMITS)
        .iter()
        .enumerate()
        .map(|(index, limit)| {
            problems.within(format!("rate_limits[{index}]"), |problems| {
                rate_limit(limit, problems)
            })
        })
        .collect()
}

fn circuit_breaker(breaker: &v1::CircuitBreaker, problems: &mut Problems) -> CircuitBreaker {
    CircuitBreaker {
        limits: limits("limits", breaker.limits.as_ref(), problems),
        per_endpoint: limits("per_endpoint", breaker.per_endpoint.as_ref(), problems),
        trip: breaker
            .trip
            .as_ref()
            .map(|part| problems.within("trip", |problems| trip(part, problems)))
            .unwrap_or_default(),
    }
}

/// Limits, in the field `field`.
pub fn limits(field: &str, limits: Option<&v1::Limits>, problems: &mut Problems) -> Limits {
    let Some(limits) = limits else {
        return Limits::default();
    };
    problems.within(field, |problems| {
        let mut limit = |field, value| problems.optional(field, value, 0..=MAX_LIMIT);
        Limits {
            max_connections: limit("max_connections", limits.max_connections),
            max_pending_requests: limit("max_pending_requests", limits.max_pending_requests),
            max_requests: limit("max_requests", limits.max_requests),
            max_retries: limit("max_retries", limits.max_retries),
        }
    })
}

fn trip(trip: &v1::Trip, problems: &mut Problems) -> Trip {
    let base_ejection = problems.duration("base_ejection_ms", trip.base_ejection_ms, 1);
    let max_ejection = problems.duration("max_ejection_ms", trip.max_ejection_ms, 1);
    if max_ejection < base_ejection {
        problems.add("max_ejection_ms", "is shorter than base_ejection_ms");
    }
    Trip {
        scope: match v1::trip::Scope::try_from(trip.scope) {
            Ok(v1::trip::Scope::Endpoint) => Scope::Endpoint,
            Ok(v1::trip::Scope::Service) => Scope::Service,
            Err(_) => {
                problems.add("scope", format_args!("{} is not known", trip.scope));
                Scope::Endpoint
            }
        },
        consecutive_failures: problems.number(
            "consecutive_failures",
            trip.consecutive_failures,
            0..=MAX_CONSECUTIVE_FAILURES,
        ),
        failures: trip
            .failures
            .as_ref()
            .map(|part| problems.within("failures", |problems| conditions(part, problems)))
            .unwrap_or_else(Conditions::default_failures),
        base_ejection,
        max_ejection,
        honor_retry_after: trip.honor_retry_after,
        probes: problems.number("probes", trip.probes, 1..=MAX_PROBES),
        successes: problems.number("successes", trip.successes, 1..=MAX_PROBES),
        max_ejected_percent: problems.number(
            "max_ejected_percent",
            trip.max_ejected_percent,
            0..=100,
        ),
        min_endpoints: problems.number("min_endpoints", trip.min_endpoints, 0..=MAX_LIMIT),
        failure_rate: trip.failure_rate.as_ref().map(|part| {
            problems.within("failure_rate", |problems| {
                rate(
                    part.threshold_percent,
                    part.window_ms,
                    part.min_requests,
                    problems,
                )
            })
        }),
        slow_calls: trip.slow_call_rate.as_ref().map(|part| {
            problems.within("slow_call_rate", |problems| SlowCalls {
                duration: problems.duration("duration_ms", part.duration_ms, 1),
                rate: rate(
                    part.threshold_percent,
                    part.window_ms,
                    part.min_requests,
                    problems,
                ),
            })
        }),
    }
}

fn rate(
    threshold_percent: u32,
    window_ms: u64,
    min_requests: u32,
    problems: &mut Problems,
) -> Rate {
    let window_ms = problems.number(
        "window_ms",
        window_ms,
        MIN_RATE_WINDOW_MS..=MAX_RATE_WINDOW_MS,
    );
    Rate {
        threshold_percent: problems.number("threshold_percent", threshold_percent, 1..=100),
        window: Duration::from_millis(window_ms),
        min_requests: problems.number("min_requests", min_requests, 1..=MAX_MIN_REQUESTS),
    }
}

fn conditions(conditions: &v1::Conditions, problems: &mut Problems) -> Conditions {
    let status_codes = problems
        .list("status_codes", &conditions.status_codes, MAX_LIST)
        .iter()
        .map(|code| problems.number("status_codes", *code, 100..=599) as u16)
        .collect();
    let grpc_codes = problems
        .list("grpc_codes", &conditions.grpc_codes, MAX_LIST)
        .iter()
        .map(|code| problems.number("grpc_codes", *code, 0..=16) as u8)
        .collect();
    Conditions {
        connect_failure: conditions.connect_failure,
        refused_stream: conditions.refused_stream,
        reset: conditions.reset,
        timeout: conditions.timeout,
        gateway_error: conditions.gateway_error,
        server_error: conditions.server_error,
        retriable_client_error: conditions.retriable_client_error,
        status_codes,
        grpc_codes,
    }
}

fn outbound(outbound: &v1::Outbound, problems: &mut Problems) -> Outbound {
    Outbound {
        connect_timeout: problems.duration("connect_timeout_ms", outbound.connect_timeout_ms, 1),
        idle_timeout: problems.duration("idle_timeout_ms", outbound.idle_timeout_ms, 0),
        max_requests_per_connection: problems.optional(
            "max_requests_per_connection",
            outbound.max_requests_per_connection,
            1..=u32::MAX,
        ),
        max_connection_age: outbound
            .max_connection_age_ms
            .map(|age| problems.duration("max_connection_age_ms", age, 1)),
    }
}

/// What becomes of an attempt that failed.
pub fn retries(retries: &v1::Retries, problems: &mut Problems) -> Retries {
    Retries {
        attempts: problems.number("attempts", retries.attempts, 0..=MAX_ATTEMPTS),
        on: retries
            .on
            .as_ref()
            .map(|part| problems.within("on", |problems| conditions(part, problems)))
            .unwrap_or_else(Conditions::default_retries),
        backoff_base: problems.duration("backoff_base_ms", retries.backoff_base_ms, 0),
        backoff_max: problems.duration("backoff_max_ms", retries.backoff_max_ms, 0),
        max_retry_after: problems.duration("max_retry_after_ms", retries.max_retry_after_ms, 0),
        idempotency_header: (!retries.idempotency_header.is_empty())
            .then(|| header_name("idempotency_header", &retries.idempotency_header, problems)),
        methods: methods("methods", &retries.methods, problems),
        budget: retries
            .budget
            .as_ref()
            .map(|part| problems.within("budget", |problems| budget(part, problems)))
            .unwrap_or_default(),
        buffer_bytes: problems.number("buffer_bytes", retries.buffer_bytes, 0..=MAX_BUFFER_BYTES)
            as usize,
        hedge: retries
            .hedge
            .as_ref()
            .and_then(|part| problems.within("hedge", |problems| hedge(part, problems))),
    }
}

/// One that is sent at a time that is not known here is none.
fn hedge(part: &v1::Hedge, problems: &mut Problems) -> Option<Hedge> {
    use v1::hedge::After;
    let after = match part.after? {
        After::AfterMs(after) => HedgeAfter::Fixed(problems.duration("after_ms", after, 0)),
        After::AfterPercentile(percentile) => {
            HedgeAfter::Percentile(problems.number("after_percentile", percentile, 1..=99) as u8)
        }
    };
    Some(Hedge {
        after,
        max: problems.number("max", part.max, 1..=MAX_HEDGES),
    })
}

fn budget(budget: &v1::RetryBudget, problems: &mut Problems) -> RetryBudget {
    RetryBudget {
        percent: problems.number("percent", budget.percent, 0..=100),
        min_per_second: problems.number("min_per_second", budget.min_per_second, 0..=MAX_LIMIT),
        window: problems.duration("window_ms", budget.window_ms, MIN_BUDGET_WINDOW_MS),
    }
}

/// Deadlines.
pub fn timeouts(timeouts: &v1::Timeouts, problems: &mut Problems) -> Timeouts {
    let mut timeout =
        |field, value: Option<u64>| value.map(|value| problems.duration(field, value, 0));
    Timeouts {
        request: timeout("request_ms", timeouts.request_ms),
        per_try: timeout("per_try_ms", timeouts.per_try_ms),
        idle: timeout("idle_ms", timeouts.idle_ms),
        response_headers: timeout("response_headers_ms", timeouts.response_headers_ms),
    }
}

fn rate_limit(limit: &v1::RateLimit, problems: &mut Problems) -> RateLimit {
    if limit.requests > 0 && limit.burst == 0 {
        problems.add("burst", "is 0, must be at least 1 where requests is not 0");
    }
    let key = problems
        .list("key", &limit.key, MAX_LIST)
        .iter()
        .filter_map(|part| key_part(part, problems))
        .collect();
    RateLimit {
        name: problems
            .text("name", &limit.name, is_plain, "plain text")
            .into(),
        policy: problems
            .text(
                "policy",
                &limit.policy,
                names::is_namespaced,
                "namespace/name",
            )
            .into(),
        requests: problems.number("requests", limit.requests, 0..=MAX_RATE),
        per: problems.duration("per_ms", limit.per_ms, 1),
        burst: problems.number("burst", limit.burst, 0..=MAX_RATE),
        matches: limit
            .r#match
            .as_ref()
            .map(|part| problems.within("match", |problems| request_match(part, problems)))
            .unwrap_or_default(),
        key,
        shadow: match v1::rate_limit::Mode::try_from(limit.mode) {
            Ok(mode) => mode == v1::rate_limit::Mode::Shadow,
            Err(_) => {
                problems.add("mode", format_args!("{} is not known", limit.mode));
                false
            }
        },
        max_keys: problems.number("max_keys", limit.max_keys, 1..=MAX_KEYS) as usize,
        mesh: limit.mesh,
    }
}

/// Which requests are meant.
pub fn request_match(part: &v1::Match, problems: &mut Problems) -> Match {
    let path = part.path.as_ref().map(|path| match path {
        v1::r#match::Path::PathExact(path) => {
            PathMatch::Exact(problems.text("path_exact", path, is_path, "a path"))
        }
        v1::r#match::Path::PathPrefix(path) => {
            PathMatch::Prefix(problems.text("path_prefix", path, is_path, "a path"))
        }
    });
    let headers = problems
        .list("headers", &part.headers, MAX_LIST)
        .iter()
        .map(|header| HeaderMatch {
            name: header_name("headers.name", &header.name, problems),
            exact: problems.text(
                "headers.exact",
                &header.exact,
                |value| value.len() <= MAX_TEXT && http::HeaderValue::from_str(value).is_ok(),
                "a header's value",
            ),
        })
        .collect();
    Match {
        methods: methods("methods", &part.methods, problems),
        path,
        headers,
    }
}

fn key_part(part: &v1::KeyPart, problems: &mut Problems) -> Option<KeyPart> {
    match part.part.as_ref() {
        Some(v1::key_part::Part::Header(name)) => {
            Some(KeyPart::Header(header_name("key.header", name, problems)))
        }
        Some(v1::key_part::Part::RemoteAddress(true)) => Some(KeyPart::RemoteAddress),
        Some(v1::key_part::Part::Path(true)) => Some(KeyPart::Path),
        Some(v1::key_part::Part::Method(true)) => Some(KeyPart::Method),
        Some(v1::key_part::Part::ClientIdentity(true)) => Some(KeyPart::ClientIdentity),
        // A part that this sidecar does not know must not merge buckets that
        // the policy keeps apart.
        _ => {
            problems.add("key", "has a part that is not known");
            None
        }
    }
}

fn methods(field: &str, methods: &[String], problems: &mut Problems) -> Vec<String> {
    problems
        .list(field, methods, MAX_LIST)
        .iter()
        .map(|method| {
            problems.text(
                field,
                method,
                |method| {
                    method.len() <= MAX_TEXT
                        && (is_path(method) || http::Method::from_bytes(method.as_bytes()).is_ok())
                },
                "an HTTP method or /package.Service/Method",
            )
        })
        .collect()
}

/// A header's name in lower case.
pub fn header_name(field: &str, name: &str, problems: &mut Problems) -> String {
    problems.text(
        field,
        name,
        |name| http::HeaderName::from_lowercase(name.as_bytes()).is_ok(),
        "a header's name in lower case",
    )
}

// Older control planes send names and paths beyond ASCII: what is written in
// `remora_proto::bounds` is taken here, and some more.

/// A path, with its query or without.
pub fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= MAX_TEXT && !path.chars().any(char::is_control)
}

fn is_plain(name: &str) -> bool {
    (1..=MAX_RATE_LIMIT_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
}
