//! What is kept of one sidecar.

use std::collections::BTreeMap;

use remora_proto::v1;
use serde::Serialize;

use super::{FORGET_AFTER_MS, Origin, shortened};
use crate::core::objects::Name;
use crate::core::store::ResourceType;
use crate::stream::session::Node;

/// Resources that are kept of one sidecar.
const MAX_APPLIED: usize = 20_000;
/// Refused resources that are kept of one sidecar.
const MAX_REFUSED: usize = 256;
/// Breakers and services that are kept of one sidecar.
const MAX_BREAKERS: usize = 4_096;
/// Ports that are kept of one sidecar.
const MAX_PORTS: usize = 256;
/// Bytes of a reason, a cause or a name.
pub(super) const MAX_TEXT_BYTES: usize = 1_024;

pub(super) type ResourceKey = (ResourceType, Name);

#[derive(Default)]
pub(super) struct Sidecar {
    streams: usize,
    report_streams: usize,
    pub(super) version: String,
    /// To the version that is in force.
    pub(super) applied: BTreeMap<ResourceKey, Name>,
    /// To the version that was refused, and why.
    pub(super) refused: BTreeMap<ResourceKey, (Name, String)>,
    /// `(service, endpoint)` to what is not closed.
    pub(super) breakers: BTreeMap<(String, String), Breaker>,
    /// The newest change of a breaker that was told.
    newest_change_ms: u64,
    pub(super) usage: BTreeMap<String, v1::ServiceUsage>,
    pub(super) ports: BTreeMap<u16, v1::PortUsage>,
    pub(super) last_report_ms: Option<u64>,
    pub(super) last_heard_ms: u64,
}

/// A breaker that is not closed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Breaker {
    pub(super) state: State,
    pub(super) since_ms: u64,
    pub(super) cause: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Open,
    HalfOpen,
    WouldOpen,
}

/// A breaker that opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The namespace of the caller, whose breaker it is.
    pub namespace: String,
    /// The caller's pod.
    pub pod: String,
    /// `<namespace>/<name>`
    pub service: String,
    /// The pod, or the address where there is none; empty: the whole service.
    pub endpoint: String,
    /// In words.
    pub cause: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Sidecar {
    pub(super) fn count(&mut self, origin: Origin) -> &mut usize {
        match origin {
            Origin::Stream => &mut self.streams,
            Origin::Reports => &mut self.report_streams,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.streams + self.report_streams > 0
    }

    /// Whether it has a stream of reports.
    pub(super) fn reports(&self) -> bool {
        self.report_streams > 0
    }

    pub(super) fn is_stale(&self, now_ms: u64) -> bool {
        !self.is_connected() && now_ms.saturating_sub(self.last_heard_ms) > FORGET_AFTER_MS
    }

    pub(super) fn forget_resources(&mut self) {
        self.applied.clear();
        self.refused.clear();
        self.breakers.clear();
    }

    pub(super) fn drop_resource(&mut self, key: &ResourceKey) {
        self.applied.remove(key);
        self.refused.remove(key);
    }

    pub(super) fn apply(&mut self, key: ResourceKey, version: Name) {
        self.refused.remove(&key);
        if self.applied.len() < MAX_APPLIED || self.applied.contains_key(&key) {
            self.applied.insert(key, version);
        }
    }

    pub(super) fn refuse(&mut self, key: ResourceKey, version: Name, reason: &str) {
        if self.refused.len() < MAX_REFUSED || self.refused.contains_key(&key) {
            self.refused.insert(key, (version, shortened(reason)));
        }
    }

    /// Takes a change; what opened, where it did and was not told before.
    pub(super) fn breaker(&mut self, node: &Node, change: v1::BreakerChange) -> Option<Opened> {
        use v1::breaker_change::State as Told;
        let state = match change.to() {
            Told::Closed => None,
            Told::Open => Some(State::Open),
            Told::HalfOpen => Some(State::HalfOpen),
            Told::WouldOpen => Some(State::WouldOpen),
        };
        let is_new = change.at_ms > self.newest_change_ms;
        self.newest_change_ms = self.newest_change_ms.max(change.at_ms);
        let (at_ms, cause) = (change.at_ms, shortened(&change.cause));
        let key = (shortened(&change.service), shortened(&change.endpoint));
        let opened = (is_new && state == Some(State::Open)).then(|| Opened {
            namespace: node.namespace.clone(),
            pod: node.pod.clone(),
            service: key.0.clone(),
            endpoint: key.1.clone(),
            cause: cause.clone(),
            at_ms,
        });
        let Some(state) = state else {
            self.breakers.remove(&key);
            return None;
        };
        if self.breakers.len() < MAX_BREAKERS || self.breakers.contains_key(&key) {
            let breaker = Breaker {
                state,
                since_ms: at_ms,
                cause,
            };
            self.breakers.insert(key, breaker);
        }
        opened
    }

    pub(super) fn add_usage(&mut self, usage: v1::ServiceUsage) {
        let service = shortened(&usage.service);
        if self.usage.len() >= MAX_BREAKERS && !self.usage.contains_key(&service) {
            return;
        }
        let sum = self.usage.entry(service.clone()).or_default();
        sum.service = service;
        sum.requests = sum.requests.saturating_add(usage.requests);
        sum.failures = sum.failures.saturating_add(usage.failures);
        sum.retries = sum.retries.saturating_add(usage.retries);
        sum.rate_limited = sum.rate_limited.saturating_add(usage.rate_limited);
        sum.hedges = sum.hedges.saturating_add(usage.hedges);
        sum.fallbacks = sum.fallbacks.saturating_add(usage.fallbacks);
        sum.faults = sum.faults.saturating_add(usage.faults);
        sum.budget_exhausted = sum.budget_exhausted.saturating_add(usage.budget_exhausted);
        sum.overloaded = sum.overloaded.saturating_add(usage.overloaded);
    }

    pub(super) fn add_port_usage(&mut self, usage: v1::PortUsage) {
        let Ok(port) = u16::try_from(usage.port) else {
            return;
        };
        if self.ports.len() >= MAX_PORTS && !self.ports.contains_key(&port) {
            return;
        }
        let sum = self.ports.entry(port).or_default();
        sum.port = usage.port;
        sum.requests = sum.requests.saturating_add(usage.requests);
        sum.rate_limited = sum.rate_limited.saturating_add(usage.rate_limited);
        sum.shed_critical = sum.shed_critical.saturating_add(usage.shed_critical);
        sum.shed_default = sum.shed_default.saturating_add(usage.shed_default);
        sum.shed_sheddable = sum.shed_sheddable.saturating_add(usage.shed_sheddable);
    }
}
