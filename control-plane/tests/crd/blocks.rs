//! Rates, hedges, admission, balancing, health checks, fallbacks and faults: each with every
//! field, what may stand in a place of which FULL has one, and what is wrong with them.

/// What [`super::table::FULL`] has of them, beside what stands in other blocks.
pub const FULL: &str = r#"
admission:
  maxRequests: 100
  adaptive: {minRequests: 1, maxRequests: 1000000, tolerancePercent: 200}
  priorities:
    header: X-Priority
    trusted: [{namespace: shop, identity: "spiffe://cluster.local/ns/shop/sa/web"}]
    rules:
    - priority: sheddable
      match: {methods: [GET], path: {exact: /x}, headers: [{name: x-a, value: b}]}
    - {priority: critical}
loadBalancing:
  algorithm: ConsistentHash
  consistentHash: {on: ["header:X-User", "cookie:session", sourceAddress, path, "query:id"], loadBoundPercent: 150}
  sessionPersistence: {type: Cookie, sessionName: shop, strict: true, absoluteTimeout: 1h, cookieLifetimeType: Permanent}
  pinning: true
  slowStart: {window: 10s}
  zones: Ignore
  waitForEndpoints: 5s
healthCheck:
  http: {path: "/healthz?full", expectedStatuses: [200-299, 304, "204"], expectedBody: ok}
  interval: 5s
  timeout: 500ms
  window: 3
  unhealthyThreshold: 1
  healthyThreshold: 2
fallback:
  when: [breaker_open, no_endpoints]
  response: {status: 203, headers: [{name: Content-Type, value: application/json}], body: "[]", grpcStatus: 0, grpcMessage: closed}
fault:
  delay: {duration: 100ms, percent: 10}
  abort: {status: 503, percent: 0.5}
  match: {methods: [GET], path: {exact: /x}, headers: [{name: x-a, value: b}]}
"#;

/// Places in which one of several fields stands: the object, and each field with a value.
pub const ALTERNATIVES: [(&str, &[(&str, &str)]); 6] = [
    (
        "/healthCheck",
        &[
            ("http", "{path: /}"),
            ("tcp", "{}"),
            ("grpc", "{service: shop.Catalog}"),
        ],
    ),
    (
        "/fallback",
        &[
            ("response", "{}"),
            ("backendRef", "{name: static, port: 80, namespace: shop}"),
        ],
    ),
    (
        "/fault/abort",
        &[("status", "503"), ("grpcStatus", "14"), ("reset", "true")],
    ),
    ("/fault/match/path", PATHS),
    ("/rateLimits/0/match/path", PATHS),
    ("/admission/priorities/rules/0/match/path", PATHS),
];
const PATHS: &[(&str, &str)] = &[("exact", "/x"), ("prefix", "/x")];

/// Policies that are taken.
pub const GOOD: &[&str] = &[
    "circuitBreaker: {consecutiveFailures: 0, failureRate: {}}",
    "circuitBreaker: {failureRate: {threshold: 1}, slowCallRate: {duration: 1ms, threshold: \"100%\"}}",
    "retries: {hedge: {}}",
    "retries: {hedge: {after: p1, max: 5}}",
    "retries: {hedge: {after: 1h}}",
    "rateLimits: [{name: a, limit: {requests: 1, per: second}, scope: Mesh}, {name: b, limit: {requests: 1, per: second}, scope: Pod}]",
    "{admission: {}, loadBalancing: {}, fault: {}}",
    "admission: {maxRequests: 0, adaptive: {}, priorities: {}}",
    "admission: {adaptive: {minRequests: 1000}}",
    "admission: {adaptive: {maxRequests: 4}}",
    "admission: {priorities: {trusted: [{namespace: shop}, {identity: \"spiffe://a.b/ns/shop/sa/web\"}], rules: []}}",
    "loadBalancing: {algorithm: RoundRobin, sessionPersistence: {}, slowStart: {}, zones: Prefer, waitForEndpoints: 0s}",
    "loadBalancing: {algorithm: ConsistentHash, consistentHash: {on: [path]}}",
    "loadBalancing: {sessionPersistence: {type: Header, sessionName: X-Session, absoluteTimeout: 0s}}",
    "healthCheck: {tcp: {}}",
    "healthCheck: {grpc: {}, interval: 1s, timeout: 1s}",
    "healthCheck: {http: {path: /}, timeout: 10s, window: 3}",
    "healthCheck: {http: {path: /, expectedStatuses: [200-200, 599]}, window: 100, unhealthyThreshold: 100}",
    "fallback: {response: {}}",
    "fallback: {backendRef: {name: a, port: 65535}}",
    "fallback: {backendRef: {name: catalog, namespace: other, port: 80}}",
    "{targetRefs: [{kind: Namespace, name: shop}], fallback: {backendRef: {name: shop, port: 80}}}",
    "fallback: {response: {status: 599, body: \"ü\", headers: []}, when: [timeout]}",
    "fault: {delay: {duration: 1s}, abort: {reset: true}}",
    "fault: {abort: {grpcStatus: 0, percent: 0}, match: {}}",
    "fault: {abort: {status: 200, percent: 0.0001}}",
];

/// Policies that are refused, and for which field.
pub const FAULTS: &[(&str, &str)] = &[
    (
        "spec.circuitBreaker.failureRate.threshold",
        "circuitBreaker: {failureRate: {threshold: 0%}}",
    ),
    (
        "spec.circuitBreaker.failureRate.threshold",
        "circuitBreaker: {failureRate: {threshold: 101}}",
    ),
    (
        "spec.circuitBreaker.failureRate.threshold",
        "circuitBreaker: {failureRate: {threshold: \"50\"}}",
    ),
    (
        "spec.circuitBreaker.slowCallRate.duration",
        "circuitBreaker: {slowCallRate: {}}",
    ),
    (
        "spec.circuitBreaker.slowCallRate.duration",
        "circuitBreaker: {slowCallRate: {duration: 0s}}",
    ),
    ("spec.retries.hedge.after", "retries: {hedge: {after: p0}}"),
    (
        "spec.retries.hedge.after",
        "retries: {hedge: {after: p100}}",
    ),
    ("spec.retries.hedge.after", "retries: {hedge: {after: 0ms}}"),
    ("spec.retries.hedge.after", "retries: {hedge: {after: 61m}}"),
    (
        "spec.retries.hedge.after",
        "retries: {hedge: {after: soon}}",
    ),
    (
        "spec.admission.adaptive.minRequests",
        "admission: {adaptive: {minRequests: 10, maxRequests: 9}}",
    ),
    (
        "spec.admission.adaptive.minRequests",
        "admission: {adaptive: {minRequests: 1001}}",
    ),
    (
        "spec.admission.adaptive.maxRequests",
        "admission: {adaptive: {maxRequests: 3}}",
    ),
    (
        "spec.admission.priorities.header",
        "admission: {priorities: {header: x-remora-priority}}",
    ),
    (
        "spec.admission.priorities.trusted[1]",
        "admission: {priorities: {trusted: [{namespace: a}, {}]}}",
    ),
    (
        "spec.admission.priorities.trusted[0].namespace",
        "admission: {priorities: {trusted: [{namespace: a.b}]}}",
    ),
    (
        "spec.admission.priorities.trusted[0].identity",
        "admission: {priorities: {trusted: [{identity: shop/web}]}}",
    ),
    (
        "spec.admission.priorities.rules[0].priority",
        "admission: {priorities: {rules: [{match: {}}]}}",
    ),
    (
        "spec.admission.priorities.rules[0].match.path",
        "admission: {priorities: {rules: [{priority: default, match: {path: {}}}]}}",
    ),
    (
        "spec.loadBalancing.consistentHash",
        "loadBalancing: {algorithm: ConsistentHash}",
    ),
    (
        "spec.loadBalancing.consistentHash",
        "loadBalancing: {algorithm: Random, consistentHash: {on: [path]}}",
    ),
    (
        "spec.loadBalancing.consistentHash",
        "loadBalancing: {consistentHash: {on: [path]}}",
    ),
    (
        "spec.loadBalancing.consistentHash.on[0]",
        "loadBalancing: {algorithm: ConsistentHash, consistentHash: {on: [\"header:x-remora-a\"]}}",
    ),
    (
        "spec.loadBalancing.consistentHash.on[1]",
        "loadBalancing: {algorithm: ConsistentHash, consistentHash: {on: [path, \"query:a b\"]}}",
    ),
    (
        "spec.loadBalancing.consistentHash.on[0]",
        "loadBalancing: {algorithm: ConsistentHash, consistentHash: {on: [\"cookie:\"]}}",
    ),
    (
        "spec.loadBalancing.sessionPersistence.absoluteTimeout",
        "loadBalancing: {sessionPersistence: {cookieLifetimeType: Permanent}}",
    ),
    (
        "spec.loadBalancing.sessionPersistence.absoluteTimeout",
        "loadBalancing: {sessionPersistence: {cookieLifetimeType: Permanent, absoluteTimeout: 0s}}",
    ),
    (
        "spec.loadBalancing.sessionPersistence.sessionName",
        "loadBalancing: {sessionPersistence: {sessionName: Connection}}",
    ),
    (
        "spec.loadBalancing.waitForEndpoints",
        "loadBalancing: {waitForEndpoints: 61s}",
    ),
    ("spec.healthCheck", "healthCheck: {}"),
    ("spec.healthCheck", "healthCheck: {tcp: {}, grpc: {}}"),
    (
        "spec.healthCheck.http.path",
        "healthCheck: {http: {path: healthz}}",
    ),
    (
        "spec.healthCheck.http.expectedStatuses[0]",
        "healthCheck: {http: {path: /, expectedStatuses: [299-200]}}",
    ),
    (
        "spec.healthCheck.http.expectedStatuses[1]",
        "healthCheck: {http: {path: /, expectedStatuses: [200, 2xx]}}",
    ),
    (
        "spec.healthCheck.http.expectedStatuses[0]",
        "healthCheck: {http: {path: /, expectedStatuses: [600]}}",
    ),
    (
        "spec.healthCheck.timeout",
        "healthCheck: {tcp: {}, interval: 1s, timeout: 2s}",
    ),
    (
        "spec.healthCheck.interval",
        "healthCheck: {tcp: {}, interval: 500ms}",
    ),
    (
        "spec.healthCheck.timeout",
        "healthCheck: {tcp: {}, timeout: 11s}",
    ),
    (
        "spec.healthCheck.window",
        "healthCheck: {tcp: {}, window: 2}",
    ),
    (
        "spec.healthCheck.window",
        "healthCheck: {tcp: {}, window: 4, unhealthyThreshold: 5}",
    ),
    (
        "spec.healthCheck.grpc.service",
        "healthCheck: {grpc: {service: a/b}}",
    ),
    ("spec.fallback", "fallback: {}"),
    ("spec.fallback", "fallback: {when: [timeout]}"),
    (
        "spec.fallback",
        "fallback: {response: {}, backendRef: {name: a, port: 1}}",
    ),
    (
        "spec.fallback.when[0]",
        "fallback: {when: [denied], response: {}}",
    ),
    (
        "spec.fallback.response.headers[0].name",
        "fallback: {response: {headers: [{name: Content-Length, value: \"0\"}]}}",
    ),
    (
        "spec.fallback.response.headers[0].name",
        "fallback: {response: {headers: [{name: x_Remora-reason, value: a}]}}",
    ),
    (
        "spec.fallback.response.grpcMessage",
        "fallback: {response: {grpcMessage: \"a\\nb\"}}",
    ),
    (
        "spec.fallback.backendRef",
        "{targetRefs: [{kind: Service, name: b}, {kind: Service, name: a}], fallback: {backendRef: {name: a, port: 80}}}",
    ),
    (
        "spec.fallback.backendRef.name",
        "fallback: {backendRef: {name: a.b, port: 80}}",
    ),
    (
        "spec.fallback.backendRef.namespace",
        "fallback: {backendRef: {name: a, port: 80, namespace: a-}}",
    ),
    ("spec.fault.delay.duration", "fault: {delay: {percent: 10}}"),
    ("spec.fault.abort", "fault: {abort: {}}"),
    ("spec.fault.abort", "fault: {abort: {percent: 1}}"),
    (
        "spec.fault.abort",
        "fault: {abort: {status: 503, reset: true}}",
    ),
    ("spec.fault.abort.reset", "fault: {abort: {reset: false}}"),
    (
        "spec.fault.abort.percent",
        "fault: {abort: {status: 503, percent: 100.1}}",
    ),
];

/// Every field wrong, each in its own way.
pub const ALL_WRONG: &str = r#"
circuitBreaker:
  consecutiveFailures: -1
  failureRate: {threshold: 0, window: 1ms, minRequests: 0}
  slowCallRate: {duration: 0s, threshold: 200%, window: soon, minRequests: 100001}
retries: {hedge: {after: p100, max: 6}}
rateLimits:
- {name: a, limit: {requests: 1, per: second}, scope: Cluster}
admission:
  maxRequests: 1000001
  adaptive: {minRequests: 0, maxRequests: 0, tolerancePercent: 100}
  priorities: {header: "a b", trusted: [{namespace: A, identity: web}], rules: [{priority: high}]}
loadBalancing:
  algorithm: Fastest
  consistentHash: {on: [header], loadBoundPercent: 99}
  sessionPersistence: {type: Url, sessionName: "a b", strict: 1, absoluteTimeout: 25h, cookieLifetimeType: Long}
  pinning: "yes"
  slowStart: {window: 2h}
  zones: Own
  waitForEndpoints: 2m
healthCheck:
  http: {path: x, expectedStatuses: [20], expectedBody: ""}
  interval: 1ms
  timeout: 0s
  window: 0
  unhealthyThreshold: 0
  healthyThreshold: 101
fallback:
  when: [always]
  response: {status: 100, headers: [{name: host, value: "ü"}], body: 1, grpcStatus: 17, grpcMessage: "ü"}
fault:
  delay: {duration: 2h, percent: 101}
  abort: {status: 99, percent: -1}
  match: {path: {exact: x}}
"#;

/// The fields of [`ALL_WRONG`] that must be named.
pub const WRONG: &[&str] = &[
    "circuitBreaker.consecutiveFailures",
    "circuitBreaker.failureRate.threshold",
    "circuitBreaker.failureRate.window",
    "circuitBreaker.failureRate.minRequests",
    "circuitBreaker.slowCallRate.duration",
    "circuitBreaker.slowCallRate.threshold",
    "circuitBreaker.slowCallRate.window",
    "circuitBreaker.slowCallRate.minRequests",
    "retries.hedge.after",
    "retries.hedge.max",
    "rateLimits[0].scope",
    "admission.maxRequests",
    "admission.adaptive.minRequests",
    "admission.adaptive.maxRequests",
    "admission.adaptive.tolerancePercent",
    "admission.priorities.header",
    "admission.priorities.trusted[0].namespace",
    "admission.priorities.trusted[0].identity",
    "admission.priorities.rules[0].priority",
    "loadBalancing.algorithm",
    "loadBalancing.consistentHash.on[0]",
    "loadBalancing.consistentHash.loadBoundPercent",
    "loadBalancing.sessionPersistence.type",
    "loadBalancing.sessionPersistence.sessionName",
    "loadBalancing.sessionPersistence.strict",
    "loadBalancing.sessionPersistence.absoluteTimeout",
    "loadBalancing.sessionPersistence.cookieLifetimeType",
    "loadBalancing.pinning",
    "loadBalancing.slowStart.window",
    "loadBalancing.zones",
    "loadBalancing.waitForEndpoints",
    "healthCheck.http.path",
    "healthCheck.http.expectedStatuses[0]",
    "healthCheck.http.expectedBody",
    "healthCheck.interval",
    "healthCheck.timeout",
    "healthCheck.window",
    "healthCheck.unhealthyThreshold",
    "healthCheck.healthyThreshold",
    "fallback.when[0]",
    "fallback.response.status",
    "fallback.response.headers[0].name",
    "fallback.response.headers[0].value",
    "fallback.response.body",
    "fallback.response.grpcStatus",
    "fallback.response.grpcMessage",
    "fault.delay.duration",
    "fault.delay.percent",
    "fault.abort.status",
    "fault.abort.percent",
    "fault.match.path.exact",
];
