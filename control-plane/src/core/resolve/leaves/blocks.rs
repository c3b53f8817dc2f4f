//! The leaves of `admission`, `loadBalancing`, `healthCheck`, `fallback` and `fault`.
//!
//! What one level's block replaces as a whole is one leaf: the kind of a check, the action of a
//! fallback, the kind of an abort, every list and every `match`.

use remora_proto::v1;
use remora_proto::v1::{fault_abort, health_check};
use serde_json::{Value, json};

use super::{List, match_block};
use crate::core::settings::trouble::{Action, FallbackBackend};
use crate::core::settings::{Admission, Fallback, Fault, HealthCheck, LoadBalancing};
use crate::policy::{admission, balancing};

impl List {
    pub(super) fn admission(&mut self, block: &Admission) {
        self.value("admission.maxRequests", block.max_requests);
        if let Some(block) = &block.adaptive {
            self.value("admission.adaptive.minRequests", block.min_requests);
            self.value("admission.adaptive.maxRequests", block.max_requests);
            let at = "admission.adaptive.tolerancePercent";
            self.value(at, block.tolerance_percent);
        }
        if let Some(block) = &block.priorities {
            self.value("admission.priorities.header", block.header.clone());
            let trusted = block.trusted.as_ref().map(|list| {
                let list = list.iter().map(principal);
                list.collect::<Value>()
            });
            self.value("admission.priorities.trusted", trusted);
            let rules = block.rules.as_ref().map(|list| {
                let list = list.iter().map(rule);
                list.collect::<Value>()
            });
            self.value("admission.priorities.rules", rules);
        }
    }

    pub(super) fn load_balancing(&mut self, block: &LoadBalancing) {
        let algorithm = block.algorithm.map(balancing::word);
        self.value("loadBalancing.algorithm", algorithm);
        let on = block.hash_on.as_ref().map(|parts| {
            let parts = parts.iter().filter_map(balancing::hash_part);
            parts.collect::<Vec<_>>()
        });
        self.value("loadBalancing.consistentHash.on", on);
        let at = "loadBalancing.consistentHash.loadBoundPercent";
        self.value(at, block.load_bound_percent);
        if let Some(block) = &block.persistence {
            let kind = block
                .by_header
                .map(|is| if is { "Header" } else { "Cookie" });
            self.value("loadBalancing.sessionPersistence.type", kind);
            let at = "loadBalancing.sessionPersistence.sessionName";
            self.value(at, block.name.clone());
            self.value("loadBalancing.sessionPersistence.strict", block.strict);
            let at = "loadBalancing.sessionPersistence.absoluteTimeout";
            self.duration(at, block.absolute_timeout_ms);
            let lifetime = block
                .permanent
                .map(|is| if is { "Permanent" } else { "Session" });
            let at = "loadBalancing.sessionPersistence.cookieLifetimeType";
            self.value(at, lifetime);
        }
        self.value("loadBalancing.pinning", block.pinning);
        if let Some(block) = &block.slow_start {
            self.duration("loadBalancing.slowStart.window", block.window_ms);
        }
        let zones = block
            .ignore_zones
            .map(|is| if is { "Ignore" } else { "Prefer" });
        self.value("loadBalancing.zones", zones);
        self.duration(
            "loadBalancing.waitForEndpoints",
            block.wait_for_endpoints_ms,
        );
    }

    pub(super) fn health_check(&mut self, block: &HealthCheck) {
        let (field, kind) = match &block.kind {
            Some(health_check::Kind::Http(check)) => ("healthCheck.http", Some(http(check))),
            Some(health_check::Kind::Tcp(_)) => ("healthCheck.tcp", Some(json!({}))),
            Some(health_check::Kind::Grpc(check)) => {
                ("healthCheck.grpc", Some(json!({"service": check.service})))
            }
            None => ("healthCheck", None),
        };
        self.value(field, kind);
        self.duration("healthCheck.interval", block.interval_ms);
        self.duration("healthCheck.timeout", block.timeout_ms);
        self.value("healthCheck.window", block.window);
        self.value("healthCheck.unhealthyThreshold", block.unhealthy_threshold);
        self.value("healthCheck.healthyThreshold", block.healthy_threshold);
    }

    pub(super) fn fallback(&mut self, block: &Fallback) {
        let when = block.when.as_ref().map(|words| {
            let words = words.iter().map(|word| word.word());
            words.collect::<Vec<_>>()
        });
        self.value("fallback.when", when);
        match &block.action {
            Some(Action::Response(answer)) => {
                self.value("fallback.response", Some(response(answer)));
            }
            Some(Action::Backend(FallbackBackend { service, port, .. })) => {
                let written = json!({
                    "name": &*service.name, "namespace": &*service.namespace, "port": port,
                });
                self.value("fallback.backendRef", Some(written));
            }
            None => {}
        }
    }

    pub(super) fn fault(&mut self, block: &Fault) {
        if let Some(block) = &block.delay {
            self.duration("fault.delay.duration", block.duration_ms);
            self.percent("fault.delay.percent", block.parts_per_million);
        }
        if let Some(block) = &block.abort {
            match block.kind {
                Some(fault_abort::Kind::HttpStatus(code)) => {
                    self.value("fault.abort.status", Some(code));
                }
                Some(fault_abort::Kind::GrpcStatus(code)) => {
                    self.value("fault.abort.grpcStatus", Some(code));
                }
                Some(fault_abort::Kind::Reset(_)) => self.value("fault.abort.reset", Some(true)),
                None => {}
            }
            self.percent("fault.abort.percent", block.parts_per_million);
        }
        self.value("fault.match", block.matches.as_ref().map(match_block));
    }

    fn percent(&mut self, field: &'static str, parts_per_million: Option<u32>) {
        let whole = |parts: u32| match parts % 10_000 {
            0 => json!(parts / 10_000),
            _ => json!(f64::from(parts) / 10_000.0),
        };
        self.value(field, parts_per_million.map(whole));
    }
}

fn principal(one: &v1::PrincipalMatch) -> Value {
    let mut written = json!({});
    if !one.namespace.is_empty() {
        written["namespace"] = json!(one.namespace);
    }
    if !one.identity.is_empty() {
        written["identity"] = json!(one.identity);
    }
    written
}

fn rule(rule: &v1::PriorityRule) -> Value {
    let mut written = json!({"priority": admission::word(rule.priority())});
    if let Some(matches) = &rule.r#match {
        written["match"] = match_block(matches);
    }
    written
}

fn http(check: &v1::HttpCheck) -> Value {
    let range = |range: &v1::StatusRange| match range {
        one if one.first == one.last => json!(one.first),
        v1::StatusRange { first, last } => json!(format!("{first}-{last}")),
    };
    let statuses: Vec<Value> = check.expected_statuses.iter().map(range).collect();
    let mut written = json!({"path": check.path, "expectedStatuses": statuses});
    if !check.expected_body.is_empty() {
        written["expectedBody"] = json!(check.expected_body);
    }
    written
}

fn response(answer: &v1::FallbackResponse) -> Value {
    let headers = answer.headers.iter();
    let headers = headers.map(|header| json!({"name": header.name, "value": header.value}));
    json!({
        "status": answer.status,
        "headers": headers.collect::<Vec<_>>(),
        "body": String::from_utf8_lossy(&answer.body),
        "grpcStatus": answer.grpc_status,
        "grpcMessage": answer.grpc_message,
    })
}
