//! What is known of the sidecars: from their streams and from their reports.
//!
//! # Layout
//! - here: the registry, bounded in everything.
//! - [`sidecar`]: what is kept of one.
//! - [`tally`]: of each policy, how many have it and how many refuse it.
//! - [`shown`]: what the admin endpoint shows.
//! - [`mesh`]: limits of the whole mesh, and who has which share.
//! - [`verdicts`]: what probes say of pods' ports.
//! - [`server`]: the Reports service that fills it.

pub mod mesh;
pub mod server;
pub mod shown;
mod sidecar;
pub mod tally;
pub mod verdicts;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_proto::v1;
use tokio::sync::watch;

use self::mesh::MeshLimits;
pub use self::sidecar::Opened;
use self::sidecar::{MAX_TEXT_BYTES, Sidecar};
use self::verdicts::Verdicts;
use crate::clock;
use crate::core::objects::Name;
use crate::core::store::{ResourceType, Store};
use crate::stream::session::Node;

/// Sidecars that are kept at most, those longest unheard of going first.
const MAX_SIDECARS: usize = 20_000;
/// A sidecar without a stream is forgotten after so long.
const FORGET_AFTER_MS: u64 = 10 * 60 * 1_000;
/// Breakers that opened and nobody has asked for yet; beyond that the oldest go.
const MAX_OPENED: usize = 1_024;
/// What opened longer ago is no news: a new stream tells old changes again.
const NEWS_MS: u64 = 60_000;

/// Which stream keeps a sidecar connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// That of resources.
    Stream,
    /// That of reports.
    Reports,
}

/// The registry.
pub struct Sidecars {
    known: Mutex<HashMap<Node, Sidecar>>,
    /// Gives the names of resources, so that each is held once.
    store: Arc<Store>,
    opened: Mutex<VecDeque<Opened>>,
    verdicts: Verdicts,
    mesh: Arc<MeshLimits>,
    changes: watch::Sender<u64>,
}

impl Default for Sidecars {
    fn default() -> Self {
        Self::new(Arc::default())
    }
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
        drop(known);
        self.sidecars.changed_now();
    }
}

impl Sidecars {
    /// An empty one, of sidecars that hold resources of `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            known: Mutex::default(),
            store,
            opened: Mutex::default(),
            verdicts: Verdicts::default(),
            mesh: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Whose resources the sidecars hold.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What their probes say.
    pub fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// The limits that they share.
    pub fn mesh(&self) -> &Arc<MeshLimits> {
        &self.mesh
    }

    /// Those with a stream of reports.
    pub fn heard(&self) -> HashSet<Node> {
        let known = self.lock();
        let heard = known.iter().filter(|(_, sidecar)| sidecar.reports());
        heard.map(|(node, _)| node.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Node, Sidecar>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed_now(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// A receiver that is told of every change of what sidecars hold, refuse
    /// and break off; not of usage.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
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
        self.changed_now();
        Connected {
            sidecars: self.clone(),
            node: node.clone(),
            origin,
        }
    }

    /// A response was acknowledged.
    pub fn accepted(&self, node: &Node, type_url: &str, resources: &[(Name, Name)]) {
        let Some(kind) = ResourceType::from_url(type_url) else {
            return;
        };
        let mut changed = false;
        if let Some(sidecar) = self.lock().get_mut(node) {
            for (name, _) in resources {
                changed |= sidecar.refused.remove(&(kind, name.clone())).is_some();
            }
        }
        if changed {
            self.changed_now();
        }
    }

    /// A response was refused. Our sidecars name each resource that they
    /// refuse on a line of its own, `<name>: <reason>`; where none is named
    /// so, the reason is about all of them.
    pub fn refused(&self, node: &Node, type_url: &str, resources: &[(Name, Name)], reason: &str) {
        let Some(kind) = ResourceType::from_url(type_url) else {
            return;
        };
        let named = |name: &Name| {
            let mut lines = reason.lines();
            lines.find_map(|line| line.strip_prefix(&**name)?.strip_prefix(": "))
        };
        let any_named = resources.iter().any(|(name, _)| named(name).is_some());
        if let Some(sidecar) = self.lock().get_mut(node) {
            for (name, version) in resources {
                let own = named(name).or((!any_named).then_some(reason));
                if let Some(own) = own {
                    sidecar.refuse((kind, name.clone()), version.clone(), own);
                }
            }
        }
        self.changed_now();
    }

    /// Takes one report.
    pub fn report(&self, node: &Node, report: v1::SidecarReport, first: bool) {
        let now_ms = clock::unix_ms();
        let mut known = self.lock();
        let Some(sidecar) = known.get_mut(node) else {
            return;
        };
        if first {
            // The first one carries the whole.
            sidecar.forget_resources();
        }
        sidecar.last_report_ms = Some(now_ms);
        let mut changed = first
            || !report.applied.is_empty()
            || !report.dropped.is_empty()
            || !report.refused.is_empty();
        for dropped in report.dropped {
            if let Some(key) = self.key(node, &dropped.type_url, &dropped.name) {
                sidecar.drop_resource(&key);
            }
        }
        for applied in report.applied {
            if let Some(key) = self.key(node, &applied.type_url, &applied.name) {
                let version = self.version(node, &key, &applied.version);
                sidecar.apply(key, version);
            }
        }
        for refused in report.refused {
            if let Some(key) = self.key(node, &refused.type_url, &refused.name) {
                let version = self.version(node, &key, &refused.version);
                sidecar.refuse(key, version, &refused.reason);
            }
        }
        let mut opened = Vec::new();
        for change in report.breaker_changes {
            changed = true;
            let news = change.at_ms.saturating_add(NEWS_MS) > now_ms;
            opened.extend(sidecar.breaker(node, change).filter(|_| news));
        }
        for usage in report.usage {
            sidecar.add_usage(usage);
        }
        for usage in report.ports {
            sidecar.add_port_usage(usage);
        }
        self.verdicts.report(node, &report.health, first, now_ms);
        drop(known);
        self.keep_opened(opened);
        if changed {
            self.changed_now();
        }
    }

    /// The breakers that opened since the last call, not longer than a minute ago.
    pub fn take_opened(&self) -> Vec<Opened> {
        let now_ms = clock::unix_ms();
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut *opened).into_iter();
        taken
            .filter(|opened| opened.at_ms.saturating_add(NEWS_MS) > now_ms)
            .collect()
    }

    fn keep_opened(&self, new: Vec<Opened>) {
        if new.is_empty() {
            return;
        }
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.extend(new);
        let over = opened.len().saturating_sub(MAX_OPENED);
        opened.drain(..over);
    }

    /// What is reported of a type that is not ours, under a name that no resource
    /// can have, or of what another sidecar alone may have, is not kept.
    fn key(&self, node: &Node, type_url: &str, name: &str) -> Option<(ResourceType, Name)> {
        let kind = ResourceType::from_url(type_url)?;
        if name.len() > MAX_TEXT_BYTES {
            return None;
        }
        let held = self.store.exact(kind, name);
        let owner = held.as_ref().and_then(|held| held.only_for.as_deref());
        if owner.is_some_and(|owner| !node.is(owner)) {
            return None;
        }
        let name = held.map_or_else(|| shortened(name).into(), |held| held.name.clone());
        Some((kind, name))
    }

    fn version(&self, node: &Node, (kind, name): &(ResourceType, Name), version: &str) -> Name {
        let held = self.store.exact_for(*kind, name, &node.namespace);
        let held = held.filter(|held| *held.version == *version);
        held.map_or_else(|| shortened(version).into(), |held| held.version.clone())
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
        let shown = serde_json::to_value(sidecars.shown()).unwrap();
        let refused = shown[0]["refused"].as_array().unwrap().iter();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        refused
            .map(|one| (text(&one["name"]), text(&one["reason"])))
            .collect()
    }

    fn opens(endpoint: &str, at_ms: u64) -> v1::SidecarReport {
        let change = v1::BreakerChange {
            service: "shop/catalog".to_owned(),
            endpoint: endpoint.to_owned(),
            to: v1::breaker_change::State::Open.into(),
            at_ms,
            cause: "3 consecutive failures".to_owned(),
            ..v1::BreakerChange::default()
        };
        v1::SidecarReport {
            breaker_changes: vec![change],
            ..v1::SidecarReport::default()
        }
    }

    #[test]
    fn nobody_reports_what_only_another_may_have() {
        let store = Arc::new(Store::default());
        for (pod, uid) in [("web-1", "u"), ("web-2", "u2")] {
            let node = format!("sidecar/shop/{pod}/{uid}");
            let name = format!("shop/{pod}");
            store.set(
                ResourceType::Workload,
                crate::core::store::Resource::new(
                    ResourceType::Workload,
                    name.into(),
                    Vec::new(),
                    Some(node.into()),
                    &v1::Workload::default(),
                ),
            );
        }
        let sidecars = Arc::new(Sidecars::new(store));
        let node = Node::parse("sidecar/shop/web-1/u").unwrap();
        let _connected = sidecars.connect(&node, "1", Origin::Reports);
        let of = |name: &str| v1::RefusedResource {
            type_url: ResourceType::Workload.url().to_owned(),
            name: name.to_owned(),
            version: "v".to_owned(),
            reason: "no".to_owned(),
        };
        let report = v1::SidecarReport {
            refused: vec![of("shop/web-1"), of("shop/web-2")],
            ..v1::SidecarReport::default()
        };
        sidecars.report(&node, report, true);
        let wanted = ("shop/web-1".to_owned(), "no".to_owned());
        assert_eq!(refused(&sidecars), [wanted]);
    }

    #[test]
    fn a_breaker_that_opens_is_news_once_however_often_it_is_told() {
        let (sidecars, node, _connected) = registry();
        let now_ms = clock::unix_ms();
        sidecars.report(&node, opens("catalog-1", now_ms), true);
        // A new stream tells its journal again.
        sidecars.report(&node, opens("catalog-1", now_ms), true);
        sidecars.report(&node, opens("catalog-2", now_ms - 2 * NEWS_MS), false);
        let opened = sidecars.take_opened();
        assert_eq!(opened.len(), 1);
        assert_eq!(
            (opened[0].pod.as_str(), opened[0].endpoint.as_str()),
            ("web-1", "catalog-1")
        );
        assert!(sidecars.take_opened().is_empty());
        assert_eq!(sidecars.breakers().len(), 2, "what is open stays known");
    }

    #[test]
    fn what_opened_and_nobody_asked_for_is_bounded() {
        let (sidecars, node, _connected) = registry();
        let now_ms = clock::unix_ms();
        for number in 0..2 * MAX_OPENED as u64 {
            sidecars.report(&node, opens("catalog-1", now_ms + number), false);
        }
        assert_eq!(sidecars.take_opened().len(), MAX_OPENED);
    }

    #[test]
    fn usage_alone_is_no_change() {
        let (sidecars, node, _connected) = registry();
        let mut changes = sidecars.changes();
        changes.mark_unchanged();
        let usage = vec![v1::ServiceUsage::default()];
        let report = v1::SidecarReport {
            usage,
            ..v1::SidecarReport::default()
        };
        sidecars.report(&node, report, false);
        assert!(!changes.has_changed().unwrap());
        sidecars.report(&node, opens("catalog-1", 1), false);
        assert!(changes.has_changed().unwrap());
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
