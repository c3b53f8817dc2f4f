//! What is known of the sidecars: from their streams and from their reports.
//!
//! # Layout
//! - here: the registry, bounded in everything.
//! - [`server`]: the Reports service that fills it.

pub mod server;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_proto::v1;
use serde::Serialize;

use crate::clock;
use crate::core::objects::Name;
use crate::core::store::ResourceType;
use crate::stream::session::Node;

/// Sidecars that are kept at most, those longest unheard of going first.
const MAX_SIDECARS: usize = 20_000;
/// A sidecar without a stream is forgotten after so long.
const FORGET_AFTER_MS: u64 = 10 * 60 * 1_000;
/// Resources that are kept of one sidecar.
const MAX_APPLIED: usize = 20_000;
/// Refused resources that are kept of one sidecar.
const MAX_REFUSED: usize = 256;
/// Breakers and services that are kept of one sidecar.
const MAX_BREAKERS: usize = 4_096;
/// Bytes of a reason or cause.
const MAX_TEXT_BYTES: usize = 1_024;

/// Which stream keeps a sidecar connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// That of resources.
    Stream,
    /// That of reports.
    Reports,
}

/// `(type URL, name)`
type ResourceKey = (String, String);

#[derive(Default)]
struct Sidecar {
    streams: usize,
    report_streams: usize,
    version: String,
    applied: BTreeMap<ResourceKey, String>,
    refused: BTreeMap<ResourceKey, (String, String)>,
    /// `(service, endpoint)` to what is not closed.
    breakers: BTreeMap<(String, String), Breaker>,
    usage: BTreeMap<String, v1::ServiceUsage>,
    last_report_ms: Option<u64>,
    last_heard_ms: u64,
}

#[derive(Clone, Serialize)]
struct Breaker {
    state: &'static str,
    since_ms: u64,
    cause: String,
}

/// The registry.
#[derive(Default)]
pub struct Sidecars {
    known: Mutex<HashMap<Node, Sidecar>>,
}

/// Keeps a sidecar connected for as long as it lives.
pub struct Connected {
    sidecars: Arc<Sidecars>,
    node: Node,
    origin: Origin,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut known = self.sidecars.lock();
        if let Some(sidecar) = known.get_mut(&self.node) {
            let streams = sidecar.count(self.origin);
            *streams = streams.saturating_sub(1);
            sidecar.last_heard_ms = clock::unix_ms();
        }
    }
}

impl Sidecars {
    fn lock(&self) -> MutexGuard<'_, HashMap<Node, Sidecar>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of this sidecar begins.
    pub fn connect(self: &Arc<Self>, node: &Node, version: &str, origin: Origin) -> Connected {
        let mut known = self.lock();
        make_room(&mut known, clock::unix_ms());
        let sidecar = known.entry(node.clone()).or_default();
        *sidecar.count(origin) += 1;
        sidecar.last_heard_ms = clock::unix_ms();
        if !version.is_empty() {
            sidecar.version = shortened(version);
        }
        drop(known);
        Connected {
            sidecars: self.clone(),
            node: node.clone(),
            origin,
        }
    }

    /// A response was acknowledged.
    pub fn accepted(&self, node: &Node, type_url: &str, resources: &[(Name, Name)]) {
        if let Some(sidecar) = self.lock().get_mut(node) {
            for (name, _) in resources {
                sidecar
                    .refused
                    .remove(&(type_url.to_owned(), name.to_string()));
            }
        }
    }

    /// A response was refused. Our sidecars name each resource that they
    /// refuse on a line of its own, `<name>: <reason>`; where none is named
    /// so, the reason is about all of them.
    pub fn refused(&self, node: &Node, type_url: &str, resources: &[(Name, Name)], reason: &str) {
        let named = |name: &Name| {
            let mut lines = reason.lines();
            lines.find_map(|line| line.strip_prefix(&**name)?.strip_prefix(": "))
        };
        let any_named = resources.iter().any(|(name, _)| named(name).is_some());
        if let Some(sidecar) = self.lock().get_mut(node) {
            for (name, version) in resources {
                let own = named(name).or((!any_named).then_some(reason));
                if let Some(own) = own {
                    let key = (type_url.to_owned(), name.to_string());
                    sidecar.refuse(key, version.to_string(), own);
                }
            }
        }
    }

    /// Takes one report.
    pub fn report(&self, node: &Node, report: v1::SidecarReport, first: bool) {
        let mut known = self.lock();
        let Some(sidecar) = known.get_mut(node) else {
            return;
        };
        if first {
            // The first one carries the whole.
            sidecar.applied.clear();
            sidecar.refused.clear();
            sidecar.breakers.clear();
        }
        sidecar.last_report_ms = Some(clock::unix_ms());
        for dropped in report.dropped {
            let key = (dropped.type_url, dropped.name);
            sidecar.applied.remove(&key);
            sidecar.refused.remove(&key);
        }
        for applied in report.applied {
            let key = (applied.type_url, applied.name);
            sidecar.refused.remove(&key);
            if sidecar.applied.len() < MAX_APPLIED || sidecar.applied.contains_key(&key) {
                sidecar.applied.insert(key, shortened(&applied.version));
            }
        }
        for refused in report.refused {
            let key = (refused.type_url, refused.name);
            sidecar.refuse(key, refused.version, &refused.reason);
        }
        for change in report.breaker_changes {
            sidecar.breaker(change);
        }
        for usage in report.usage {
            sidecar.add_usage(usage);
        }
    }

    /// All of them, as `/sidecars` shows them.
    pub fn shown(&self) -> Vec<Shown> {
        let now_ms = clock::unix_ms();
        let mut known = self.lock();
        known.retain(|_, sidecar| !sidecar.is_stale(now_ms));
        let mut shown: Vec<Shown> = known
            .iter()
            .map(|(node, sidecar)| sidecar.shown(node))
            .collect();
        drop(known);
        shown.sort_by(|a, b| {
            (&a.namespace, &a.pod, &a.pod_uid).cmp(&(&b.namespace, &b.pod, &b.pod_uid))
        });
        shown
    }

    /// How many have a stream now.
    pub fn connected(&self) -> usize {
        self.lock()
            .values()
            .filter(|sidecar| sidecar.is_connected())
            .count()
    }
}

/// Forgets what is stale, and of what is left, without a stream and too much,
/// the one longest unheard of.
fn make_room(known: &mut HashMap<Node, Sidecar>, now_ms: u64) {
    if known.len() < MAX_SIDECARS {
        return;
    }
    known.retain(|_, sidecar| !sidecar.is_stale(now_ms));
    if known.len() >= MAX_SIDECARS {
        let oldest = known
            .iter()
            .min_by_key(|(_, sidecar)| (sidecar.is_connected(), sidecar.last_heard_ms));
        if let Some(node) = oldest.map(|(node, _)| node.clone()) {
            known.remove(&node);
        }
    }
}

impl Sidecar {
    fn count(&mut self, origin: Origin) -> &mut usize {
        match origin {
            Origin::Stream => &mut self.streams,
            Origin::Reports => &mut self.report_streams,
        }
    }

    fn is_connected(&self) -> bool {
        self.streams + self.report_streams > 0
    }

    fn is_stale(&self, now_ms: u64) -> bool {
        !self.is_connected() && now_ms.saturating_sub(self.last_heard_ms) > FORGET_AFTER_MS
    }

    fn refuse(&mut self, key: ResourceKey, version: String, reason: &str) {
        if self.refused.len() < MAX_REFUSED || self.refused.contains_key(&key) {
            self.refused
                .insert(key, (shortened(&version), shortened(reason)));
        }
    }

    fn breaker(&mut self, change: v1::BreakerChange) {
        use v1::breaker_change::State;
        let state = match change.to() {
            State::Closed => None,
            State::Open => Some("open"),
            State::HalfOpen => Some("half_open"),
            State::WouldOpen => Some("would_open"),
        };
        let (since_ms, cause) = (change.at_ms, shortened(&change.cause));
        let key = (shortened(&change.service), shortened(&change.endpoint));
        match state {
            None => {
                self.breakers.remove(&key);
            }
            Some(state)
                if self.breakers.len() < MAX_BREAKERS || self.breakers.contains_key(&key) =>
            {
                self.breakers.insert(
                    key,
                    Breaker {
                        state,
                        since_ms,
                        cause,
                    },
                );
            }
            Some(_) => {}
        }
    }

    fn add_usage(&mut self, usage: v1::ServiceUsage) {
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
    }

    fn shown(&self, node: &Node) -> Shown {
        Shown {
            namespace: node.namespace.clone(),
            pod: node.pod.clone(),
            pod_uid: node.pod_uid.clone(),
            connected: self.is_connected(),
            version: self.version.clone(),
            applied: self.applied.len(),
            refused: self
                .refused
                .iter()
                .map(|((type_url, name), (version, reason))| ShownRefusal {
                    r#type: short_type(type_url),
                    name: name.clone(),
                    version: version.clone(),
                    reason: reason.clone(),
                })
                .collect(),
            breakers: self
                .breakers
                .iter()
                .map(|((service, endpoint), breaker)| ShownBreaker {
                    service: service.clone(),
                    endpoint: endpoint.clone(),
                    breaker: breaker.clone(),
                })
                .collect(),
            usage: self
                .usage
                .values()
                .map(|usage| ShownUsage {
                    service: usage.service.clone(),
                    requests: usage.requests,
                    failures: usage.failures,
                    retries: usage.retries,
                    rate_limited: usage.rate_limited,
                })
                .collect(),
            last_report_ms: self.last_report_ms,
        }
    }
}

fn short_type(type_url: &str) -> String {
    let known = ResourceType::from_url(type_url).map(|kind| format!("{kind:?}"));
    known.unwrap_or_else(|| shortened(type_url))
}

/// Text of a sidecar, cut to its bound and without control characters.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    for character in text.chars() {
        if short.len() + character.len_utf8() > MAX_TEXT_BYTES {
            break;
        }
        short.push(if character.is_control() {
            ' '
        } else {
            character
        });
    }
    short
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "type.googleapis.com/remora.v1.Service";

    fn registry() -> (Arc<Sidecars>, Node, Connected) {
        let sidecars = Arc::new(Sidecars::default());
        let node = Node::parse("sidecar/shop/web-1/u").unwrap();
        let connected = sidecars.connect(&node, "1", Origin::Stream);
        (sidecars, node, connected)
    }

    fn refused(sidecars: &Sidecars) -> Vec<(String, String)> {
        let refused = &sidecars.shown()[0].refused;
        let shown = refused
            .iter()
            .map(|one| (one.name.clone(), one.reason.clone()));
        shown.collect()
    }

    #[test]
    fn a_refusal_is_laid_to_the_resource_that_it_names_and_to_no_other() {
        let (sidecars, node, _connected) = registry();
        let sent: [(Name, Name); 3] =
            ["shop/cat", "shop/catalog", "shop/web"].map(|name| (name.into(), "1".into()));
        let reason = "shop/catalog: policy.retries: as shop/web: bad\nshop/web: ports: too many";
        sidecars.refused(&node, TYPE, &sent, reason);
        let wanted = [
            ("shop/catalog", "policy.retries: as shop/web: bad"),
            ("shop/web", "ports: too many"),
        ];
        let wanted = wanted.map(|(name, reason)| (name.to_owned(), reason.to_owned()));
        assert_eq!(refused(&sidecars), wanted);
    }

    #[test]
    fn a_refusal_that_names_nothing_is_about_all() {
        let (sidecars, node, _connected) = registry();
        let sent: [(Name, Name); 2] = ["shop/a", "shop/b"].map(|name| (name.into(), "1".into()));
        sidecars.refused(&node, TYPE, &sent, "cannot be read");
        assert_eq!(refused(&sidecars).len(), 2);
    }

    #[test]
    fn the_first_report_of_a_stream_replaces_what_earlier_ones_told() {
        let (sidecars, node, _connected) = registry();
        let refusal = v1::RefusedResource {
            type_url: TYPE.to_owned(),
            name: "shop/a".to_owned(),
            ..v1::RefusedResource::default()
        };
        let report = v1::SidecarReport {
            refused: vec![refusal],
            ..v1::SidecarReport::default()
        };
        sidecars.report(&node, report, true);
        assert_eq!(refused(&sidecars).len(), 1);
        // Dropped while no stream was there to tell it.
        sidecars.report(&node, v1::SidecarReport::default(), true);
        assert!(refused(&sidecars).is_empty());
    }
}
