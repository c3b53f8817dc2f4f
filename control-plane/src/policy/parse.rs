//! From the custom resource to typed settings, once; every fault of the
//! object is reported together.

use remora_proto::v1;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bounds::{self, Span};
use super::check::{self, FieldError};
use super::forms::IntOrString;
use super::schema::{self, TrafficPolicySpec};
use super::{
    admission, attempts, balancing, conditions, health, mtls, rates, scope, trouble, units,
};
use crate::core::scope::Scope;
use crate::core::settings::{self, Settings, defaults};

/// What a policy says, typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Whom it is for, without repetition.
    pub scope: Scope,
    /// What it says.
    pub settings: Settings,
}

/// Reads the `spec` of the policy `namespace/name`.
///
/// # Errors
/// Every fault of the object, each with its field path and what is allowed.
pub fn spec(namespace: &str, name: &str, spec: &Value) -> Result<Parsed, Vec<FieldError>> {
    let (read, mut faults) = Faults::read::<TrafficPolicySpec>(spec, check::spec)?;
    of_pods(&read, &mut faults);
    of_routes(&read, spec, &mut faults);
    of_others(namespace, &read, &mut faults);
    let parsed = Parsed {
        scope: scope::read(
            namespace,
            (read.target_refs.as_ref(), read.pod_selector.as_ref()),
            spec,
            &mut faults,
        ),
        settings: Settings {
            circuit_breaker: read
                .circuit_breaker
                .map(|block| circuit_breaker(&block, &mut faults)),
            outbound: read.outbound.map(|block| outbound(&block, &mut faults)),
            retries: read.retries.map(|block| retries(block, &mut faults)),
            timeouts: read.timeouts.map(|block| timeouts(&block, &mut faults)),
            rate_limits: read
                .rate_limits
                .map(|limits| rates::limits(&format!("{namespace}/{name}"), &limits, &mut faults)),
            mtls: read.mtls.map(|block| mtls::block(&block, &mut faults)),
            admission: read
                .admission
                .map(|block| admission::block(&block, &mut faults)),
            load_balancing: read
                .load_balancing
                .map(|block| balancing::block(&block, &mut faults)),
            health_check: read
                .health_check
                .map(|block| health::block(&block, &mut faults)),
            fallback: read
                .fallback
                .map(|block| trouble::fallback(namespace, &block, &mut faults)),
            fault: read.fault.map(|block| trouble::fault(&block, &mut faults)),
        },
    };
    faults.or(parsed)
}

/// What may stand beside `podSelector`, and must.
fn of_pods(read: &TrafficPolicySpec, faults: &mut Faults) {
    if read.pod_selector.is_none() {
        return;
    }
    let blocks = [
        ("circuitBreaker", read.circuit_breaker.is_some()),
        ("outbound", read.outbound.is_some()),
        ("retries", read.retries.is_some()),
        ("timeouts", read.timeouts.is_some()),
        ("rateLimits", read.rate_limits.is_some()),
        ("admission", read.admission.is_some()),
        ("loadBalancing", read.load_balancing.is_some()),
        ("healthCheck", read.health_check.is_some()),
        ("fallback", read.fallback.is_some()),
        ("fault", read.fault.is_some()),
    ];
    for (block, _) in blocks.into_iter().filter(|(_, is_there)| *is_there) {
        faults.add(format!("spec.{block}"), schema::NOT_OF_PODS);
    }
    if read.mtls.is_none() && !faults.are_below("spec.mtls") {
        faults.add("spec.mtls", schema::MTLS_OF_PODS);
    }
}

/// What a policy for routes may not hold.
fn of_routes(read: &TrafficPolicySpec, written: &Value, faults: &mut Faults) {
    let mut targets = read.target_refs.iter().flatten();
    if !targets.any(|target| target.kind.route().is_some()) {
        return;
    }
    for field in schema::OF_SERVICES {
        let value = written.pointer(&format!("/{}", field.replace('.', "/")));
        if value.is_some_and(|value| !value.is_null()) {
            faults.add(format!("spec.{field}"), schema::NOT_OF_ROUTES);
        }
    }
    for (index, limit) in read.rate_limits.iter().flatten().enumerate() {
        if limit.enforced_at != Some(schema::EnforcedAt::Caller) {
            let field = format!("spec.rateLimits[{index}].enforcedAt");
            faults.add(field, schema::AT_CALLER);
        }
    }
}

/// A fallback is another Service than those that the policy is for.
fn of_others(namespace: &str, read: &TrafficPolicySpec, faults: &mut Faults) {
    let fallback = read.fallback.as_ref();
    let Some(backend) = fallback.and_then(|block| block.backend_ref.as_ref()) else {
        return;
    };
    let is_own = backend.namespace.as_deref().unwrap_or(namespace) == namespace;
    let mut targets = read.target_refs.iter().flatten();
    let is_target = |target: &schema::AttachRef| {
        target.kind == schema::AttachKind::Service && target.name == backend.name
    };
    if is_own && targets.any(is_target) {
        faults.add("spec.fallback.backendRef", schema::OTHER_SERVICE);
    }
}

/// The faults found so far.
pub(super) struct Faults {
    errors: Vec<FieldError>,
}

impl Faults {
    /// What can be read of a `spec`, of which `check` takes out what is at
    /// fault; the faults alone where what is left is none.
    pub(super) fn read<T: DeserializeOwned>(
        spec: &Value,
        check: fn(&mut Value) -> Vec<FieldError>,
    ) -> Result<(T, Self), Vec<FieldError>> {
        let mut value = spec.clone();
        let mut faults = Self {
            errors: check(&mut value),
        };
        match serde_json::from_value(value) {
            Ok(read) => Ok((read, faults)),
            // What is left out stands among the faults already; else serde says it.
            Err(error) => {
                if faults.errors.is_empty() {
                    faults.add("spec", error.to_string());
                }
                Err(faults.errors)
            }
        }
    }

    /// What was made of it, where nothing was at fault.
    pub(super) fn or<T>(self, parsed: T) -> Result<T, Vec<FieldError>> {
        if self.errors.is_empty() {
            Ok(parsed)
        } else {
            Err(self.errors)
        }
    }

    /// Whether something is wrong within this field.
    pub(super) fn are_below(&self, field: &str) -> bool {
        self.errors
            .iter()
            .any(|error| error.field.starts_with(field))
    }

    /// Whether what is wrong within this field is more than that it has no value: then it is
    /// given, whatever it is.
    pub(super) fn is_given(&self, field: &str) -> bool {
        let below = |error: &FieldError| {
            let rest = error.field.strip_prefix(field);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.errors
            .iter()
            .any(|error| below(error) && !error.message.starts_with(check::EMPTY))
    }

    pub(super) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError {
            field: field.into(),
            message: message.into(),
        });
    }

    /// Says of each word of a list that is not of its form where it stands and
    /// what it must be.
    pub(super) fn words(
        &mut self,
        at: &str,
        words: Option<&Vec<String>>,
        is: fn(&str) -> bool,
        what: &str,
    ) {
        for (index, word) in words.into_iter().flatten().enumerate() {
            if !is(word) {
                self.add(
                    format!("{at}[{index}]"),
                    format!("is {word:?}, must be {what}"),
                );
            }
        }
    }

    /// A duration between two bounds, in milliseconds.
    pub(super) fn duration(
        &mut self,
        field: &str,
        text: Option<&String>,
        allowed: Span,
    ) -> Option<u64> {
        let text = text?;
        match units::duration_ms(text) {
            Some(ms) if allowed.holds(ms) => return Some(ms),
            Some(_) => self.add(field, format!("is {text:?}, must be {allowed}")),
            None => self.add(
                field,
                format!("is {text:?}, must be a duration such as 250ms, 10s, 5m, {allowed}"),
            ),
        }
        None
    }

    fn conditions(&mut self, field: &str, words: &[IntOrString]) -> v1::Conditions {
        let mut read = v1::Conditions::default();
        for (index, word) in words.iter().enumerate() {
            if conditions::add(&mut read, word).is_none() {
                let word = match word {
                    IntOrString::Int(number) => number.to_string(),
                    IntOrString::String(text) => format!("{text:?}"),
                };
                let message = format!("is {word}, must be one of: {}", conditions::ALLOWED);
                self.add(format!("{field}[{index}]"), message);
            }
        }
        read
    }

    /// `base` and `max` of one object; a silent one counts as its default. One
    /// that could not be read is not silent: what it was meant to be is unknown.
    pub(super) fn ordered(
        &mut self,
        base: (&str, Option<u64>, u64),
        max: (&str, Option<u64>, u64),
    ) {
        let unread = |error: &FieldError| error.field == base.0 || error.field == max.0;
        if self.errors.iter().any(unread) {
            return;
        }
        let (base_ms, max_ms) = (base.1.unwrap_or(base.2), max.1.unwrap_or(max.2));
        if base_ms > max_ms && (base.1.is_some() || max.1.is_some()) {
            let (field, other) = if base.1.is_some() {
                (base.0, max.0)
            } else {
                (max.0, base.0)
            };
            let (base_ms, max_ms) = (units::display_ms(base_ms), units::display_ms(max_ms));
            self.add(
                field,
                format!(
                    "{} is {base_ms} and {} is {max_ms}: the first must not be longer \
                     (an unset one counts with its default; see {other})",
                    base.0, max.0
                ),
            );
        }
    }
}

fn circuit_breaker(
    block: &schema::CircuitBreaker,
    faults: &mut Faults,
) -> settings::CircuitBreaker {
    let at = "spec.circuitBreaker";
    let base = format!("{at}.baseEjection");
    let max = format!("{at}.maxEjection");
    let base_ejection_ms = faults.duration(&base, block.base_ejection.as_ref(), bounds::EJECTION);
    let max_ejection_ms = faults.duration(&max, block.max_ejection.as_ref(), bounds::EJECTION);
    faults.ordered(
        (&base, base_ejection_ms, defaults::BASE_EJECTION_MS),
        (&max, max_ejection_ms, defaults::MAX_EJECTION_MS),
    );
    let failures = block.failures.as_ref();
    settings::CircuitBreaker {
        limits: v1::Limits {
            max_connections: block.max_connections,
            max_pending_requests: block.max_pending_requests,
            max_requests: block.max_requests,
            max_retries: block.max_retries,
        },
        per_endpoint: block.per_endpoint.as_ref().map(|limits| v1::Limits {
            max_connections: limits.max_connections,
            max_pending_requests: limits.max_pending_requests,
            max_requests: limits.max_requests,
            max_retries: limits.max_retries,
        }),
        scope: block.scope.map(|scope| match scope {
            schema::Scope::Endpoint => v1::trip::Scope::Endpoint,
            schema::Scope::Service => v1::trip::Scope::Service,
        }),
        consecutive_failures: block.consecutive_failures,
        failure_rate: block.failure_rate.as_ref().map(|block| {
            let (at, window) = (format!("{at}.failureRate"), block.window.as_ref());
            attempts::rate(
                &at,
                block.threshold.as_ref(),
                window,
                block.min_requests,
                faults,
            )
        }),
        slow_call_rate: block.slow_call_rate.as_ref().map(|block| {
            let (at, window) = (format!("{at}.slowCallRate"), block.window.as_ref());
            let threshold = block.threshold.as_ref();
            let duration = format!("{at}.duration");
            settings::SlowCallRate {
                duration_ms: faults.duration(&duration, Some(&block.duration), bounds::TIMEOUT),
                rate: attempts::rate(&at, threshold, window, block.min_requests, faults),
            }
        }),
        failures: failures.map(|words| faults.conditions(&format!("{at}.failures"), words)),
        base_ejection_ms,
        max_ejection_ms,
        honor_retry_after: block.honor_retry_after,
        probes: block.probes,
        successes: block.successes,
        max_ejected_percent: block.max_ejected_percent,
        min_endpoints: block.min_endpoints,
    }
}

fn outbound(block: &schema::Outbound, faults: &mut Faults) -> settings::Outbound {
    let mut duration = |field: &str, text: &Option<String>, allowed| {
        faults.duration(&format!("spec.outbound.{field}"), text.as_ref(), allowed)
    };
    settings::Outbound {
        connect_timeout_ms: duration(
            "connectTimeout",
            &block.connect_timeout,
            bounds::CONNECT_TIMEOUT,
        ),
        idle_timeout_ms: duration("idleTimeout", &block.idle_timeout, bounds::IDLE_TIMEOUT),
        max_connection_age_ms: duration(
            "maxConnectionAge",
            &block.max_connection_age,
            bounds::CONNECTION_AGE,
        ),
        max_requests_per_connection: block.max_requests_per_connection,
    }
}

fn retries(block: schema::Retries, faults: &mut Faults) -> settings::Retries {
    let at = "spec.retries";
    let backoff = block.backoff.unwrap_or_default();
    let budget = block.budget.unwrap_or_default();
    let base = format!("{at}.backoff.base");
    let max = format!("{at}.backoff.max");
    let backoff_base_ms = faults.duration(&base, backoff.base.as_ref(), bounds::BACKOFF_BASE);
    let backoff_max_ms = faults.duration(&max, backoff.max.as_ref(), bounds::BACKOFF_MAX);
    faults.ordered(
        (&base, backoff_base_ms, defaults::BACKOFF_BASE_MS),
        (&max, backoff_max_ms, defaults::BACKOFF_MAX_MS),
    );
    let on = block.on.as_ref();
    let after = block.max_retry_after.as_ref();
    let window = budget.window.as_ref();
    for (index, method) in block.methods.iter().flatten().enumerate() {
        if !rates::is_method(method) && !is_grpc_method(method) {
            let message = format!(
                "is {method:?}, must be an HTTP method such as POST, or /package.Service/Method"
            );
            faults.add(format!("{at}.methods[{index}]"), message);
        }
    }
    settings::Retries {
        attempts: block.attempts,
        on: on.map(|words| faults.conditions(&format!("{at}.on"), words)),
        backoff_base_ms,
        backoff_max_ms,
        max_retry_after_ms: faults.duration(
            &format!("{at}.maxRetryAfter"),
            after,
            bounds::RETRY_AFTER,
        ),
        idempotency_header: block
            .idempotency_header
            .map(|name| rates::header_name(&format!("{at}.idempotencyHeader"), &name, faults)),
        methods: block.methods,
        budget_percent: budget.percent,
        budget_min_per_second: budget.min_per_second,
        budget_window_ms: faults.duration(
            &format!("{at}.budget.window"),
            window,
            bounds::BUDGET_WINDOW,
        ),
        buffer_bytes: block
            .buffer_bytes
            .and_then(|written| buffer_bytes(&written, faults)),
        hedge: block.hedge.map(|block| attempts::hedge(&block, faults)),
    }
}

fn buffer_bytes(written: &IntOrString, faults: &mut Faults) -> Option<u64> {
    let (bytes, shown) = match written {
        IntOrString::Int(number) => (u64::try_from(*number).ok(), number.to_string()),
        IntOrString::String(text) => (units::quantity_bytes(text), format!("{text:?}")),
    };
    let bytes = bytes.filter(|bytes| *bytes <= bounds::MAX_BUFFER_BYTES);
    if bytes.is_none() {
        let message = format!("is {shown}, must be bytes such as 65536 or 64KiB, at most 16MiB");
        faults.add("spec.retries.bufferBytes", message);
    }
    bytes
}

fn is_grpc_method(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };
    let mut parts = text.strip_prefix('/').unwrap_or_default().split('/');
    let (service, method) = (parts.next(), parts.next());
    service.is_some_and(part) && method.is_some_and(part) && parts.next().is_none()
}

fn timeouts(block: &schema::Timeouts, faults: &mut Faults) -> v1::Timeouts {
    let mut duration = |field: &str, text: &Option<String>| {
        let field = format!("spec.timeouts.{field}");
        faults.duration(&field, text.as_ref(), bounds::TIMEOUT)
    };
    let timeouts = v1::Timeouts {
        request_ms: duration("request", &block.request),
        per_try_ms: duration("perTry", &block.per_try),
        idle_ms: duration("idle", &block.idle),
        response_headers_ms: duration("responseHeaders", &block.response_headers),
    };
    if let (Some(per_try_ms), Some(request_ms)) = (timeouts.per_try_ms, timeouts.request_ms)
        && per_try_ms > request_ms
    {
        let message = format!(
            "is {}, must not be longer than spec.timeouts.request, which is {}",
            units::display_ms(per_try_ms),
            units::display_ms(request_ms)
        );
        faults.add("spec.timeouts.perTry", message);
    }
    timeouts
}
