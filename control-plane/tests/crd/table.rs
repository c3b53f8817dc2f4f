//! Policies, good and bad, each written as a user would. The namespace is
//! `shop`; without `targetRefs` of its own a policy is for the Service catalog.

use serde_json::{Value, json};

use super::blocks;

/// The namespace of every object here.
pub const NAMESPACE: &str = "shop";

/// A policy that is refused, and where.
pub struct Bad {
    /// What follows `spec:`.
    pub spec: Value,
    /// The field that must be named.
    pub field: String,
    /// What an API server says to it.
    pub server: Server,
}

/// What an API server says to a bad policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    /// It names the same field.
    SameField,
    /// It names what holds the field.
    Names(&'static str),
    /// It cannot see the fault, and keeps what is wrong as it stands: the
    /// control plane refuses the policy, and says so in its status.
    Keeps,
}

/// An object of kind TrafficPolicy.
pub fn object(name: &str, namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "remora.io/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// What follows `spec:`, with a target where it is for nothing.
pub fn spec(text: &str) -> Value {
    let mut spec: Value = serde_saphyr::from_str(text).unwrap();
    if let Some(fields) = spec
        .as_object_mut()
        .filter(|spec| !spec.contains_key("podSelector"))
    {
        fields
            .entry("targetRefs")
            .or_insert(json!([{"group": "", "kind": "Service", "name": "catalog"}]));
    }
    spec
}

/// Every field, each with a value of its own.
pub fn full() -> String {
    format!("{FULL_OF_OLD}{}", blocks::FULL)
}

/// The rest is in [`blocks::FULL`]. The Service is called as its
/// namespace, so that the target may be of either kind.
pub const FULL_OF_OLD: &str = r#"
targetRefs: [{group: "", kind: Service, name: shop}]
circuitBreaker:
  maxConnections: 100
  maxPendingRequests: 100
  maxRequests: 100
  maxRetries: 10
  perEndpoint: {maxConnections: 20, maxPendingRequests: 20, maxRequests: 20, maxRetries: 2}
  scope: Endpoint
  consecutiveFailures: 5
  failureRate: {threshold: 50%, window: 10s, minRequests: 20}
  slowCallRate: {duration: 1s, threshold: 80, window: 20s, minRequests: 30}
  failures: [5xx, connect-failure, 429, "503", UNAVAILABLE]
  baseEjection: 10s
  maxEjection: 300s
  honorRetryAfter: true
  probes: 1
  successes: 1
  maxEjectedPercent: 50
  minEndpoints: 1
outbound: {connectTimeout: 2s, idleTimeout: 60s, maxRequestsPerConnection: 1000, maxConnectionAge: 10m}
retries:
  attempts: 2
  "on": [connect-failure, refused-stream, reset, gateway-error, 503, CANCELLED]
  backoff: {base: 25ms, max: 250ms}
  maxRetryAfter: 10s
  idempotencyHeader: Idempotency-Key
  methods: [POST, /shop.Catalog/List]
  budget: {percent: 20, minPerSecond: 10, window: 10s}
  bufferBytes: 64KiB
  hedge: {after: 50ms, max: 2}
timeouts: {request: 5s, perTry: 1s, idle: 5m, responseHeaders: 1s}
mtls: {mode: Strict, ports: {"9090": Permissive, "65535": Disabled}}
rateLimits:
- name: per-caller
  limit: {requests: 100, per: second, burst: 10}
  match: {methods: [GET], path: {exact: /x}, headers: [{name: x-a, value: b}]}
  key: [remoteAddress, path, method, "header:X-User", clientIdentity]
  scope: Mesh
  enforcedAt: Target
  mode: Enforce
  maxKeys: 10000
- name: api
  limit: {requests: 10, per: hour}
  match: {path: {prefix: /api/}}
"#;

/// The same of a policy of pods.
pub const FULL_OF_PODS: &str = r#"
podSelector:
  matchLabels: {app.kubernetes.io/name: catalog, empty: ""}
  matchExpressions:
  - {key: track, operator: NotIn, values: [canary, ""]}
  - {key: tier, operator: Exists}
mtls: {mode: Strict, ports: {"9090": Permissive, "65535": Disabled}}
"#;

/// The same of a policy of routes.
pub const FULL_OF_ROUTES: &str = r#"
targetRefs:
- {group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop, sectionName: canary}
- {group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}
circuitBreaker: {maxRequests: 100, maxRetries: 10}
retries: {attempts: 2, "on": [503], budget: {percent: 20}, hedge: {after: p95}}
timeouts: {request: 5s, perTry: 1s, idle: 5m, responseHeaders: 1s}
rateLimits:
- {name: a, limit: {requests: 100, per: second}, enforcedAt: Caller, scope: Mesh}
fallback: {when: [timeout], response: {body: "[]"}}
fault: {delay: {duration: 1s}, abort: {status: 503, percent: 0.1}, match: {methods: [GET]}}
"#;

/// Policies that are taken.
pub fn good() -> Vec<Value> {
    let full = full();
    let texts = [
        &full,
        FULL_OF_PODS,
        FULL_OF_ROUTES,
        "targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: a}, {kind: Service, name: a}]",
        "{targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: a}], circuitBreaker: {}, rateLimits: []}",
        "{}",
        "{podSelector: {}, mtls: {}}",
        "{podSelector: {}, mtls: {ports: {\"8080\": Strict}}}",
        "{podSelector: {matchLabels: {}, matchExpressions: []}, mtls: {mode: Disabled}}",
        "{podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: DoesNotExist}]}, mtls: {mode: Strict}}",
        // A leaf that is not given is no targetRefs.
        "{podSelector: {}, targetRefs: , mtls: {}}",
        "targetRefs: [{kind: Service, name: catalog}, {kind: Service, name: cart}]",
        "targetRefs: [{kind: Namespace, name: shop}, {kind: Service, name: shop}]",
        // A block that is present and empty gives its defaults.
        "{circuitBreaker: {}, outbound: {}, retries: {}, timeouts: {}, rateLimits: []}",
        "circuitBreaker: {perEndpoint: {}}",
        "mtls: {}",
        "mtls: {mode: , ports: {}}",
        "mtls: {ports: {\"1\": Strict}}",
        "retries: {backoff: {}, budget: {}}",
        // A leaf without a value is one that is not given.
        "circuitBreaker: {maxRequests: , failures: , baseEjection: , scope: }",
        "{rateLimits: , retries: {\"on\": , bufferBytes: }}",
        // Zero is a value.
        "circuitBreaker: {maxConnections: 0, maxPendingRequests: 0, maxRequests: 0, maxRetries: 0, minEndpoints: 0, maxEjectedPercent: 0}",
        "retries: {attempts: 0, maxRetryAfter: 0s, bufferBytes: 0, budget: {percent: 0, minPerSecond: 0}}",
        "rateLimits: [{name: none, limit: {requests: 0, per: second}}]",
        "circuitBreaker: {maxRequests: 5.0}",
        // Pairs: equal, and against the other's default.
        "circuitBreaker: {baseEjection: 10s, maxEjection: 10s}",
        "circuitBreaker: {baseEjection: 300s}",
        "circuitBreaker: {baseEjection: 5m}",
        "circuitBreaker: {maxEjection: 10s}",
        "circuitBreaker: {baseEjection: 1s, maxEjection: 1500ms}",
        "circuitBreaker: {baseEjection: 24h, maxEjection: 24h}",
        "circuitBreaker: {baseEjection: 1ms, maxEjection: 1ms}",
        "retries: {backoff: {base: 250ms}}",
        "retries: {backoff: {max: 25ms}}",
        "retries: {backoff: {base: 1m, max: 10m}}",
        "timeouts: {request: 1s, perTry: 1s}",
        "timeouts: {perTry: 24h}",
        // Durations of several parts, in any order, with zeros before.
        "timeouts: {request: 1m30s, idle: 1h1m1s1ms, responseHeaders: 00010s, perTry: 1s1s}",
        "timeouts: {request: 86400s, idle: 1ms}",
        "outbound: {connectTimeout: 5m, idleTimeout: 24h, maxConnectionAge: 100ms}",
        "retries: {budget: {window: 1s}}",
        "retries: {budget: {window: 60m}}",
        // Sizes.
        "retries: {bufferBytes: 16777216}",
        "retries: {bufferBytes: 16MiB}",
        "retries: {bufferBytes: 16Mi}",
        "retries: {bufferBytes: 16384KiB}",
        "retries: {bufferBytes: 16M}",
        "retries: {bufferBytes: 10kB}",
        "retries: {bufferBytes: 10KB}",
        "retries: {bufferBytes: \"16777216\"}",
        "retries: {bufferBytes: 0GiB}",
        "retries: {bufferBytes: 100B}",
        // Words.
        "circuitBreaker: {failures: [gateway-error, refused-stream, retriable-4xx, 200, 599, \"200\", UNAUTHENTICATED]}",
        "circuitBreaker: {failures: [5xx, 5xx]}",
        "circuitBreaker: {failures: []}",
        "retries: {\"on\": [timeout, \"5xx\", retriable-4xx, DEADLINE_EXCEEDED]}",
        "retries: {methods: [POST, M-SEARCH, /Service/Method, /a.b_c.D/E]}",
        "rateLimits: [{name: a, limit: {requests: 1, per: minute}, key: [\"header:x-user\", \"header:X-REMOTE\", path]}]",
        "rateLimits: [{name: a, limit: {requests: 1, per: hour}, match: {}}]",
        "rateLimits: [{name: a, limit: {requests: 1, per: hour}, match: {headers: [{name: \"!#$%&'*+-.^_`|~09Az\", value: \"\"}]}}]",
        "rateLimits: [{name: a b, limit: {requests: 1, per: second}, match: {path: {exact: \"/%C3%BC?a=~\"}, headers: [{name: a, value: \"a\\t b~\"}]}}]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}}, {name: A, limit: {requests: 1, per: second}}]",
    ];
    let texts = texts.into_iter().chain(blocks::GOOD.iter().copied());
    texts.map(spec).collect()
}

/// Policies that are refused: words, units, and faults of two fields. Types,
/// bounds and presence of every single field are in [`super::fields`].
pub fn bad() -> Vec<Bad> {
    let mut bad: Vec<Bad> = FAULTS
        .iter()
        .chain(blocks::FAULTS)
        .map(|(field, text)| Bad {
            spec: spec(text),
            field: (*field).to_owned(),
            server: Server::SameField,
        })
        .collect();
    // A list by name: an API server names the entry, and the key in its message.
    bad.push(Bad {
        spec: spec("rateLimits: [{name: a, limit: {requests: 1, per: second}}, {name: a, limit: {requests: 1, per: second}}]"),
        field: "spec.rateLimits[1].name".to_owned(),
        server: Server::Names("spec.rateLimits[1]"),
    });
    // The rule is the list's: which entry it is stands in no message.
    bad.push(Bad {
        spec: spec("targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}]"),
        field: "spec.targetRefs[1]".to_owned(),
        server: Server::Names("spec.targetRefs"),
    });
    // The rule is the map's.
    for port in ["0", "65536", "080", "http", "-1", "+1", ""] {
        bad.push(Bad {
            spec: spec(&format!("mtls: {{ports: {{{port:?}: Strict}}}}")),
            field: format!("spec.mtls.ports.{port}"),
            server: Server::Names("spec.mtls.ports"),
        });
    }
    bad.push(Bad {
        spec: spec("mtls: {ports: {\"80\": Loose}}"),
        field: "spec.mtls.ports.80".to_owned(),
        server: Server::SameField,
    });
    bad.extend(of_pods());
    bad.extend(of_routes());
    // No rule of a schema sees the object's own namespace.
    bad.push(Bad {
        spec: spec("fallback: {backendRef: {name: catalog, namespace: shop, port: 80}}"),
        field: "spec.fallback.backendRef".to_owned(),
        server: Server::Keeps,
    });
    bad.push(Bad {
        spec: spec("targetRefs: [{group: \"\", kind: Namespace, name: other}]"),
        field: "spec.targetRefs[0].name".to_owned(),
        server: Server::Keeps,
    });
    bad
}

/// Policies of pods that are refused.
fn of_pods() -> Vec<Bad> {
    let same = |field: &str, text: &str| Bad {
        spec: spec(text),
        field: field.to_owned(),
        server: Server::SameField,
    };
    let both = "{podSelector: {}, targetRefs: [{kind: Service, name: a}], mtls: {}}";
    let mut bad = vec![
        same("spec", both),
        same("spec.mtls", "podSelector: {}"),
        same(
            "spec.podSelector.matchExpressions[0]",
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}, mtls: {}}",
        ),
        same(
            "spec.podSelector.matchExpressions[0]",
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}, mtls: {}}",
        ),
        same(
            "spec.podSelector.matchExpressions[0].operator",
            "{podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}, mtls: {}}",
        ),
        Bad {
            spec: json!({"mtls": {}}),
            field: "spec".to_owned(),
            server: Server::SameField,
        },
        // An entry of a map stands in brackets there.
        Bad {
            spec: spec("{podSelector: {matchLabels: {a: 'b c'}}, mtls: {}}"),
            field: "spec.podSelector.matchLabels.a".to_owned(),
            server: Server::Names("spec.podSelector.matchLabels[a]"),
        },
    ];
    for (block, value) in [
        ("circuitBreaker", "{}"),
        ("outbound", "{idleTimeout: 1s}"),
        ("retries", "{attempts: 0}"),
        ("timeouts", "{}"),
        ("rateLimits", "[]"),
        (
            "rateLimits",
            "[{name: a, limit: {requests: 1, per: second}}]",
        ),
        ("admission", "{}"),
        ("loadBalancing", "{}"),
        ("healthCheck", "{tcp: {}}"),
        ("fallback", "{response: {}}"),
        ("fault", "{}"),
    ] {
        let text = format!("{{podSelector: {{}}, mtls: {{}}, {block}: {value}}}");
        bad.push(same(&format!("spec.{block}"), &text));
    }
    bad
}

/// Policies of routes that are refused.
fn of_routes() -> Vec<Bad> {
    let route = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]";
    let bad = |field: &str, server: Server, rest: &str| Bad {
        spec: spec(&format!("{{{route}, {rest}}}")),
        field: field.to_owned(),
        server,
    };
    let mut all = vec![
        bad("spec.outbound", Server::SameField, "outbound: {}"),
        bad("spec.mtls", Server::SameField, "mtls: {mode: Strict}"),
        bad("spec.admission", Server::SameField, "admission: {}"),
        bad("spec.loadBalancing", Server::SameField, "loadBalancing: {}"),
        bad(
            "spec.healthCheck",
            Server::SameField,
            "healthCheck: {tcp: {}}",
        ),
        bad(
            "spec.rateLimits[1].enforcedAt",
            Server::Names("spec.rateLimits"),
            "rateLimits: [{name: a, limit: {requests: 1, per: second}, enforcedAt: Caller}, \
             {name: b, limit: {requests: 1, per: second}}]",
        ),
        bad(
            "spec.rateLimits[0].enforcedAt",
            Server::Names("spec.rateLimits"),
            "rateLimits: [{name: a, limit: {requests: 1, per: second}, enforcedAt: Target}]",
        ),
    ];
    for (field, value) in [
        ("maxConnections", "1"),
        ("maxPendingRequests", "1"),
        ("perEndpoint", "{}"),
        ("scope", "Service"),
        ("consecutiveFailures", "3"),
        ("failures", "[5xx]"),
        ("failureRate", "{}"),
        ("slowCallRate", "{duration: 1s}"),
        ("baseEjection", "1s"),
        ("maxEjection", "100s"),
        ("honorRetryAfter", "true"),
        ("probes", "1"),
        ("successes", "1"),
        ("maxEjectedPercent", "50"),
        ("minEndpoints", "1"),
    ] {
        all.push(bad(
            &format!("spec.circuitBreaker.{field}"),
            Server::SameField,
            &format!("circuitBreaker: {{maxRequests: 1, {field}: {value}}}"),
        ));
    }
    // The same rule of a route twice.
    all.push(Bad {
        spec: spec(
            "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a, sectionName: b}, \
             {group: gateway.networking.k8s.io, kind: HTTPRoute, name: a, sectionName: b}]",
        ),
        field: "spec.targetRefs[1]".to_owned(),
        server: Server::Names("spec.targetRefs"),
    });
    all
}

/// Every list full, every text as long as it may be (but for the values of
/// headers: an object has 1.5 MiB). No rule may be too dear for it.
pub fn largest() -> Value {
    let mut largest = spec(&full());
    let name = |index: usize, length: usize| format!("{index:0>2}{}", "a".repeat(length - 2));
    let many =
        |count: usize, make: &dyn Fn(usize) -> Value| -> Value { (0..count).map(make).collect() };
    largest["targetRefs"] = many(
        16,
        &|index| json!({"group": "", "kind": "Service", "name": name(index, 253)}),
    );
    let words = many(64, &|_| json!("FAILED_PRECONDITION"));
    largest["circuitBreaker"]["failures"] = words.clone();
    largest["retries"]["on"] = words;
    largest["retries"]["methods"] = many(64, &|index| json!(format!("/{}/m", name(index, 253))));
    largest["retries"]["idempotencyHeader"] = json!(name(0, 128));
    largest["timeouts"]["request"] = json!("00000h00000m00000s00009s");
    let matches = |value: usize| {
        json!({
            "methods": many(16, &|_| json!("A".repeat(32))),
            "path": {"prefix": format!("/{}", "a".repeat(1023))},
            "headers": many(16, &|index| json!({"name": name(index, 128), "value": "v".repeat(value)})),
        })
    };
    let limit = |index: usize| {
        json!({
            "name": name(index, 63),
            "limit": {"requests": 1, "per": "second"},
            "key": many(8, &|index| json!(format!("header:{}", name(index, 128)))),
            "match": matches(512),
        })
    };
    largest["rateLimits"] = many(32, &limit);
    let priorities = &mut largest["admission"]["priorities"];
    priorities["rules"] = many(
        16,
        &|_| json!({"priority": "critical", "match": matches(512)}),
    );
    let account = format!(
        "spiffe://{}/ns/{}/sa/{}",
        "t".repeat(255),
        "n".repeat(63),
        "s".repeat(253)
    );
    priorities["trusted"] = many(
        32,
        &|_| json!({"namespace": "n".repeat(63), "identity": account}),
    );
    largest["loadBalancing"]["consistentHash"]["on"] =
        many(8, &|index| json!(format!("header:{}", name(index, 128))));
    let http = &mut largest["healthCheck"]["http"];
    http["expectedStatuses"] = many(16, &|_| json!("200-299"));
    http["path"] = json!(format!("/{}", "a".repeat(1023)));
    http["expectedBody"] = json!("b".repeat(1024));
    let response = &mut largest["fallback"]["response"];
    response["body"] = json!("b".repeat(16 * 1024));
    response["headers"] = many(
        16,
        &|index| json!({"name": name(index, 128), "value": "v".repeat(1024)}),
    );
    largest["fault"]["match"] = matches(1024);
    largest
}

const FAULTS: &[(&str, &str)] = &[
    ("spec.targetRefs", "targetRefs: []"),
    (
        "spec.targetRefs[0].group",
        "targetRefs: [{group: apps, kind: Service, name: a}]",
    ),
    (
        "spec.targetRefs[0].group",
        "targetRefs: [{kind: HTTPRoute, name: a}]",
    ),
    (
        "spec.targetRefs[0].group",
        "targetRefs: [{group: gateway.networking.k8s.io, kind: Service, name: a}]",
    ),
    (
        "spec.targetRefs[0].sectionName",
        "targetRefs: [{kind: Service, name: a, sectionName: b}]",
    ),
    (
        "spec.targetRefs[0].kind",
        "targetRefs: [{group: gateway.networking.k8s.io, kind: TLSRoute, name: a}]",
    ),
    (
        "spec.targetRefs[0].kind",
        "targetRefs: [{kind: service, name: a}]",
    ),
    (
        "spec.targetRefs[0].namespace",
        "targetRefs: [{kind: Service, name: a, namespace: other}]",
    ),
    // Words.
    (
        "spec.circuitBreaker.failures[1]",
        "circuitBreaker: {failures: [5xx, 42]}",
    ),
    (
        "spec.circuitBreaker.failures[0]",
        "circuitBreaker: {failures: [600]}",
    ),
    (
        "spec.circuitBreaker.failures[0]",
        "circuitBreaker: {failures: [\"600\"]}",
    ),
    (
        "spec.circuitBreaker.failures[0]",
        "circuitBreaker: {failures: [\"0429\"]}",
    ),
    (
        "spec.circuitBreaker.failures[0]",
        "circuitBreaker: {failures: [-429]}",
    ),
    (
        "spec.circuitBreaker.failures[0]",
        "circuitBreaker: {failures: [OK]}",
    ),
    (
        "spec.circuitBreaker.failures[0]",
        "circuitBreaker: {failures: [unavailable]}",
    ),
    (
        "spec.circuitBreaker.failures[0]",
        "circuitBreaker: {failures: [\"\"]}",
    ),
    (
        "spec.circuitBreaker.failures[0]",
        "circuitBreaker: {failures: [4xx]}",
    ),
    ("spec.retries.on[0]", "retries: {\"on\": [connect_failure]}"),
    (
        "spec.retries.on[1]",
        "retries: {\"on\": [reset, \"reset \"]}",
    ),
    ("spec.retries.on[0]", "retries: {\"on\": [199]}"),
    ("spec.circuitBreaker.scope", "circuitBreaker: {scope: Mesh}"),
    ("spec.retries.methods[0]", "retries: {methods: [post]}"),
    (
        "spec.retries.methods[1]",
        "retries: {methods: [POST, /Method]}",
    ),
    ("spec.retries.methods[0]", "retries: {methods: [/a/b/c]}"),
    ("spec.retries.methods[0]", "retries: {methods: [/a//b]}"),
    ("spec.retries.methods[0]", "retries: {methods: [\"\"]}"),
    ("spec.retries.methods[0]", "retries: {methods: [\"P OST\"]}"),
    (
        "spec.retries.idempotencyHeader",
        "retries: {idempotencyHeader: \"a b\"}",
    ),
    (
        "spec.retries.idempotencyHeader",
        "retries: {idempotencyHeader: \"a:\"}",
    ),
    (
        "spec.retries.idempotencyHeader",
        "retries: {idempotencyHeader: X-Remora-Attempt}",
    ),
    // Durations.
    (
        "spec.circuitBreaker.baseEjection",
        "circuitBreaker: {baseEjection: 5d}",
    ),
    (
        "spec.circuitBreaker.baseEjection",
        "circuitBreaker: {baseEjection: 10S}",
    ),
    (
        "spec.circuitBreaker.baseEjection",
        "circuitBreaker: {baseEjection: 10 s}",
    ),
    (
        "spec.circuitBreaker.baseEjection",
        "circuitBreaker: {baseEjection: 100000ms}",
    ),
    ("spec.timeouts.request", "timeouts: {request: 1s1s1s1s1s}"),
    ("spec.timeouts.request", "timeouts: {request: \"\"}"),
    ("spec.timeouts.request", "timeouts: {request: 24h1ms}"),
    ("spec.timeouts.request", "timeouts: {request: 0s}"),
    (
        "spec.timeouts.request",
        "timeouts: {request: 99999h99999h99999h99999h}",
    ),
    // Two fields.
    (
        "spec.circuitBreaker.baseEjection",
        "circuitBreaker: {baseEjection: 11s, maxEjection: 10s}",
    ),
    (
        "spec.circuitBreaker.baseEjection",
        "circuitBreaker: {baseEjection: 301s}",
    ),
    (
        "spec.circuitBreaker.maxEjection",
        "circuitBreaker: {maxEjection: 9s}",
    ),
    (
        "spec.retries.backoff.base",
        "retries: {backoff: {base: 2s, max: 1s}}",
    ),
    (
        "spec.retries.backoff.base",
        "retries: {backoff: {base: 251ms}}",
    ),
    (
        "spec.retries.backoff.max",
        "retries: {backoff: {max: 24ms}}",
    ),
    (
        "spec.timeouts.perTry",
        "timeouts: {request: 1s, perTry: 1001ms}",
    ),
    // Sizes.
    ("spec.retries.bufferBytes", "retries: {bufferBytes: 17MiB}"),
    ("spec.retries.bufferBytes", "retries: {bufferBytes: 17M}"),
    ("spec.retries.bufferBytes", "retries: {bufferBytes: 16778k}"),
    (
        "spec.retries.bufferBytes",
        "retries: {bufferBytes: 16385Ki}",
    ),
    ("spec.retries.bufferBytes", "retries: {bufferBytes: 1GiB}"),
    (
        "spec.retries.bufferBytes",
        "retries: {bufferBytes: 999999999999GiB}",
    ),
    (
        "spec.retries.bufferBytes",
        "retries: {bufferBytes: 16777217}",
    ),
    (
        "spec.retries.bufferBytes",
        "retries: {bufferBytes: \"16777217\"}",
    ),
    ("spec.retries.bufferBytes", "retries: {bufferBytes: -1}"),
    ("spec.retries.bufferBytes", "retries: {bufferBytes: 1.5MiB}"),
    ("spec.retries.bufferBytes", "retries: {bufferBytes: 64kib}"),
    ("spec.retries.bufferBytes", "retries: {bufferBytes: 64K}"),
    ("spec.retries.bufferBytes", "retries: {bufferBytes: KiB}"),
    // Rates.
    (
        "spec.rateLimits[0].limit.per",
        "rateLimits: [{name: a, limit: {requests: 1, per: day}}]",
    ),
    (
        "spec.rateLimits[0].match.path",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {path: {exact: /x, prefix: /y}}}]",
    ),
    (
        "spec.rateLimits[0].match.path",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {path: {}}}]",
    ),
    (
        "spec.rateLimits[0].match.path.exact",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {path: {exact: x}}}]",
    ),
    (
        "spec.rateLimits[0].match.path.prefix",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {path: {prefix: \" /\"}}}]",
    ),
    (
        "spec.rateLimits[0].match.methods[0]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {methods: [get]}}]",
    ),
    (
        "spec.rateLimits[0].match.methods[0]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {methods: [/a/b]}}]",
    ),
    (
        "spec.rateLimits[0].match.headers[0].name",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {headers: [{name: \"a b\", value: c}]}}]",
    ),
    (
        "spec.rateLimits[0].match.headers[0].name",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {headers: [{name: x-remora-reason, value: c}]}}]",
    ),
    (
        "spec.rateLimits[0].key[0]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, key: [callerIdentity]}]",
    ),
    (
        "spec.rateLimits[0].key[1]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, key: [path, \"header:\"]}]",
    ),
    (
        "spec.rateLimits[0].key[0]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, key: [\"header:a b\"]}]",
    ),
    (
        "spec.rateLimits[0].key[0]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, key: [\"header:X-Remora-Attempt\"]}]",
    ),
    (
        "spec.rateLimits[0].key[0]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, key: [Header:x-a]}]",
    ),
    // What HTTP does not allow, and what would steer a log.
    (
        "spec.rateLimits[0].match.headers[0].value",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {headers: [{name: a, value: \"b\\nc\"}]}}]",
    ),
    (
        "spec.rateLimits[0].match.headers[0].value",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {headers: [{name: a, value: \" b\"}]}}]",
    ),
    (
        "spec.rateLimits[0].match.headers[0].value",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {headers: [{name: a, value: ü}]}}]",
    ),
    (
        "spec.rateLimits[0].name",
        "rateLimits: [{name: \"x\\n\", limit: {requests: 1, per: second}}]",
    ),
    (
        "spec.rateLimits[0].name",
        "rateLimits: [{name: \"\\u202ex\", limit: {requests: 1, per: second}}]",
    ),
    (
        "spec.rateLimits[0].match.path.prefix",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {path: {prefix: /ü}}}]",
    ),
    (
        "spec.rateLimits[0].match.path.exact",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {path: {exact: \"/a\\n\"}}}]",
    ),
    (
        "spec.rateLimits[0].match.methods[0]",
        "rateLimits: [{name: a, limit: {requests: 1, per: second}, match: {methods: [\"GET\\n\"]}}]",
    ),
    (
        "spec.targetRefs[0].name",
        "targetRefs: [{kind: Service, name: \"a\\nb\"}]",
    ),
    (
        "spec.targetRefs[0].name",
        "targetRefs: [{kind: Service, name: A}]",
    ),
    (
        "spec.targetRefs[0].name",
        "targetRefs: [{kind: Service, name: a..b}]",
    ),
];
