//! What a policy for routes may hold: what is about a request on its way to the
//! Service, and nothing about endpoints, connections, or the target's side.

use kube::core::{Reason, Rule};

/// Blocks and fields that are for Services and Namespaces alone.
pub const OF_SERVICES: [&str; 20] = [
    "outbound",
    "mtls",
    "admission",
    "loadBalancing",
    "healthCheck",
    "circuitBreaker.maxConnections",
    "circuitBreaker.maxPendingRequests",
    "circuitBreaker.perEndpoint",
    "circuitBreaker.scope",
    "circuitBreaker.consecutiveFailures",
    "circuitBreaker.failureRate",
    "circuitBreaker.slowCallRate",
    "circuitBreaker.failures",
    "circuitBreaker.baseEjection",
    "circuitBreaker.maxEjection",
    "circuitBreaker.honorRetryAfter",
    "circuitBreaker.probes",
    "circuitBreaker.successes",
    "circuitBreaker.maxEjectedPercent",
    "circuitBreaker.minEndpoints",
];
/// Why they may not be in a policy for routes.
pub const NOT_OF_ROUTES: &str = "is not for routes: a policy with an HTTPRoute or GRPCRoute as target has only retries, \
     timeouts, rateLimits, fallback, fault, circuitBreaker.maxRequests and circuitBreaker.maxRetries";
/// Who counts the requests of a route.
pub const AT_CALLER: &str = "must have enforcedAt: Caller where a target is a route: the sidecar of the pod that is called does not see routes";

/// Whether the policy has a route as target.
const HAS_ROUTE: &str =
    "has(self.targetRefs) && self.targetRefs.exists(t, t.kind in ['HTTPRoute', 'GRPCRoute'])";

/// For each of [`OF_SERVICES`].
pub fn not_of_routes(field: &str) -> Rule {
    let mut is_there = String::new();
    let mut path = "self".to_owned();
    for part in field.split('.') {
        path = format!("{path}.{part}");
        let and = if is_there.is_empty() { "" } else { " && " };
        is_there = format!("{is_there}{and}has({path})");
    }
    Rule::new(format!("!({is_there} && {HAS_ROUTE})"))
        .message(NOT_OF_ROUTES)
        .field_path(format!(".{field}"))
        .reason(Reason::FieldValueForbidden)
}

/// For `rateLimits`.
pub fn at_caller() -> Rule {
    let all = "self.rateLimits.all(l, has(l.enforcedAt) && l.enforcedAt == 'Caller')";
    Rule::new(format!("!has(self.rateLimits) || {all} || !({HAS_ROUTE})"))
        .message(AT_CALLER)
        .field_path(".rateLimits")
}
