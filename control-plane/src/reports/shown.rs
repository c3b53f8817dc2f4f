//! The sidecars as the admin endpoint shows them.

use serde::Serialize;

use super::Sidecars;
use super::sidecar::{Breaker, Sidecar};
use crate::clock;
use crate::stream::session::Node;

impl Sidecars {
    /// All of them, as `/sidecars` shows them.
    pub fn shown(&self) -> Vec<Shown> {
        let now_ms = clock::unix_ms();
        let mut known = self.lock();
        known.retain(|_, sidecar| !sidecar.is_stale(now_ms));
        let mut shown: Vec<Shown> = known
            .iter()
            .map(|(node, sidecar)| Shown::of(node, sidecar))
            .collect();
        drop(known);
        shown.sort_by(|a, b| {
            (&a.namespace, &a.pod, &a.pod_uid).cmp(&(&b.namespace, &b.pod, &b.pod_uid))
        });
        shown
    }

    /// Every breaker of a connected sidecar that is not closed, as `/breakers`
    /// shows them.
    pub fn breakers(&self) -> Vec<CallersBreaker> {
        let known = self.lock();
        let mut breakers = Vec::new();
        for (node, sidecar) in known.iter().filter(|(_, one)| one.is_connected()) {
            breakers.extend(
                sidecar
                    .breakers
                    .iter()
                    .map(|((service, endpoint), breaker)| CallersBreaker {
                        namespace: node.namespace.clone(),
                        pod: node.pod.clone(),
                        breaker: ShownBreaker {
                            service: service.clone(),
                            endpoint: endpoint.clone(),
                            breaker: breaker.clone(),
                        },
                    }),
            );
        }
        drop(known);
        breakers.sort_by(|a, b| {
            let key = |one: &CallersBreaker| {
                let breaker = &one.breaker;
                (
                    breaker.service.clone(),
                    breaker.endpoint.clone(),
                    one.namespace.clone(),
                    one.pod.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        breakers
    }
}

impl Shown {
    fn of(node: &Node, sidecar: &Sidecar) -> Self {
        let refused = sidecar.refused.iter();
        let breakers = sidecar.breakers.iter();
        let usage = sidecar.usage.values();
        let ports = sidecar.ports.iter();
        Self {
            namespace: node.namespace.clone(),
            pod: node.pod.clone(),
            pod_uid: node.pod_uid.clone(),
            connected: sidecar.is_connected(),
            version: sidecar.version.clone(),
            applied: sidecar.applied.len(),
            refused: refused
                .map(|((kind, name), (version, reason))| ShownRefusal {
                    r#type: format!("{kind:?}"),
                    name: name.to_string(),
                    version: version.to_string(),
                    reason: reason.clone(),
                })
                .collect(),
            breakers: breakers
                .map(|((service, endpoint), breaker)| ShownBreaker {
                    service: service.clone(),
                    endpoint: endpoint.clone(),
                    breaker: breaker.clone(),
                })
                .collect(),
            usage: usage
                .map(|usage| ShownUsage {
                    service: usage.service.clone(),
                    requests: usage.requests,
                    failures: usage.failures,
                    retries: usage.retries,
                    rate_limited: usage.rate_limited,
                    hedges: usage.hedges,
                    fallbacks: usage.fallbacks,
                    faults: usage.faults,
                    budget_exhausted: usage.budget_exhausted,
                    overloaded: usage.overloaded,
                })
                .collect(),
            ports: ports
                .map(|(port, usage)| ShownPort {
                    port: *port,
                    requests: usage.requests,
                    rate_limited: usage.rate_limited,
                    shed_critical: usage.shed_critical,
                    shed_default: usage.shed_default,
                    shed_sheddable: usage.shed_sheddable,
                })
                .collect(),
            last_report_ms: sidecar.last_report_ms,
        }
    }
}

/// One sidecar in `/sidecars`.
#[derive(Serialize)]
pub struct Shown {
    namespace: String,
    pod: String,
    pod_uid: String,
    connected: bool,
    version: String,
    applied: usize,
    refused: Vec<ShownRefusal>,
    breakers: Vec<ShownBreaker>,
    usage: Vec<ShownUsage>,
    ports: Vec<ShownPort>,
    last_report_ms: Option<u64>,
}

#[derive(Serialize)]
struct ShownRefusal {
    r#type: String,
    name: String,
    version: String,
    reason: String,
}

#[derive(Serialize)]
struct ShownBreaker {
    service: String,
    endpoint: String,
    #[serde(flatten)]
    breaker: Breaker,
}

#[derive(Serialize)]
struct ShownUsage {
    service: String,
    requests: u64,
    failures: u64,
    retries: u64,
    rate_limited: u64,
    hedges: u64,
    fallbacks: u64,
    faults: u64,
    budget_exhausted: u64,
    overloaded: u64,
}

#[derive(Serialize)]
struct ShownPort {
    port: u16,
    requests: u64,
    rate_limited: u64,
    shed_critical: u64,
    shed_default: u64,
    shed_sheddable: u64,
}

/// One breaker in `/breakers`, with the caller whose it is.
#[derive(Serialize)]
pub struct CallersBreaker {
    namespace: String,
    pod: String,
    #[serde(flatten)]
    breaker: ShownBreaker,
}
