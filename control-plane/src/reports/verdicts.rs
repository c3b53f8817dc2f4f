//! What the sidecars' probes say of their pods' ports, on its way to the core, which says it of
//! the endpoints.
//!
//! A verdict is a pod's as a whole: all of its ports that are probed. It is told by the pod's own
//! sidecar, or by the replica that leads ([`crate::replicas`]); of a sidecar with a stream here its
//! own word counts. It is dropped when its Pod goes, or who told it has had no stream for long:
//! then nothing is known of the pod.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use remora_proto::v1::{self, Health};
use remora_proto::well_known::{self, resource_name};
use tokio::sync::{mpsc, watch};

use super::Sidecars;
use crate::clock;
use crate::core::objects::{Event, Id, Name, PodHealth};
use crate::core::store::ResourceType;
use crate::stream::session::Node;

/// Pods whose verdicts are kept.
const MAX_PODS: usize = 20_000;
/// Ports of one pod.
const MAX_PORTS: usize = 256;
/// The verdict of a sidecar, or of a leader, without a stream is believed for so long.
const BELIEVED_MS: u64 = 60_000;
/// A Pod may be told of later than its verdict, by another watch; but not longer than this.
const POD_PATIENCE_MS: u64 = 10_000;
/// How often it is looked for such.
const SWEEP: Duration = Duration::from_secs(5);

/// The verdicts.
#[derive(Default)]
pub struct Verdicts {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<Node, Verdict>,
    /// Pods whose verdict the core has not been told.
    changed: Vec<Node>,
    /// What the leader told of pods whose sidecars had a stream here: it tells it once, and it
    /// counts when that stream is gone.
    withheld: BTreeMap<Node, Vec<v1::PortHealth>>,
    /// Whether the stream of a leader that told the verdicts which are `followed` is there.
    is_following: bool,
}

struct Verdict {
    ports: Ports,
    since_ms: u64,
    heard_ms: u64,
    /// The leader of now told it, and not the sidecar itself.
    followed: bool,
}

/// What is said of each port.
pub type Ports = BTreeMap<u16, Health>;

impl Verdict {
    fn new(now_ms: u64) -> Self {
        Self {
            ports: Ports::new(),
            since_ms: now_ms,
            heard_ms: now_ms,
            followed: false,
        }
    }

    fn take(&mut self, health: &[v1::PortHealth]) {
        for one in health {
            let Ok(port) = u16::try_from(one.port) else {
                continue;
            };
            match one.health() {
                Health::Unknown => {
                    self.ports.remove(&port);
                }
                known if self.ports.len() < MAX_PORTS || self.ports.contains_key(&port) => {
                    self.ports.insert(port, known);
                }
                Health::Healthy | Health::Unhealthy => {}
            }
        }
    }
}

impl State {
    /// Takes the leader's word on a pod; no ports: nothing is known of it.
    fn follow(&mut self, node: Node, ports: &[v1::PortHealth], now_ms: u64) {
        if ports.is_empty() {
            if self.pods.remove(&node).is_some() {
                self.changed.push(node);
            }
            return;
        }
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(&node) {
            return;
        }
        let mut now = Verdict::new(now_ms);
        now.followed = true;
        now.take(ports);
        let held = self.pods.get(&node);
        if held.is_none_or(|held| held.ports != now.ports) {
            self.changed.push(node.clone());
        }
        now.since_ms = held.map_or(now_ms, |held| held.since_ms);
        self.pods.insert(node, now);
    }
}

impl Verdicts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a sidecar says of its pod's ports; `first`: all that there is to say.
    pub fn report(&self, node: &Node, health: &[v1::PortHealth], first: bool, now_ms: u64) {
        let mut state = self.lock();
        if health.is_empty() && !first {
            return;
        }
        if !state.pods.contains_key(node) && (health.is_empty() || state.pods.len() >= MAX_PODS) {
            return;
        }
        let new = || Verdict::new(now_ms);
        let verdict = state.pods.entry(node.clone()).or_insert_with(new);
        verdict.heard_ms = now_ms;
        verdict.followed = false;
        let before = verdict.ports.clone();
        if first {
            verdict.ports.clear();
        }
        verdict.take(health);
        if before != verdict.ports {
            state.changed.push(node.clone());
            drop(state);
            self.changed_now();
        }
    }

    fn changed_now(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// A receiver that is told of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A leader begins to tell the whole: what it does not confirm is believed no longer than
    /// what nobody tells.
    pub fn begin_following(&self) {
        let mut state = self.lock();
        state.is_following = true;
        state.withheld.clear();
        for verdict in state.pods.values_mut() {
            verdict.followed = false;
        }
    }

    /// The leader tells nothing any more.
    pub fn stop_following(&self, now_ms: u64) {
        let mut state = self.lock();
        if !std::mem::take(&mut state.is_following) {
            return;
        }
        state.withheld.clear();
        for verdict in state.pods.values_mut().filter(|one| one.followed) {
            verdict.heard_ms = now_ms;
        }
    }

    /// What the leader says of pods; `is_heard` says of a pod whether its sidecar has a stream
    /// here.
    pub fn follow(&self, told: &[v1::PodVerdict], now_ms: u64, is_heard: impl Fn(&Node) -> bool) {
        let mut state = self.lock();
        let state = &mut *state;
        let before = state.changed.len();
        for one in told {
            let id = well_known::node_id(&one.namespace, &one.pod, &one.pod_uid);
            let Ok(node) = Node::parse(&id) else {
                continue;
            };
            if !is_heard(&node) {
                state.withheld.remove(&node);
                state.follow(node, &one.ports, now_ms);
            } else if state.withheld.len() < MAX_PODS || state.withheld.contains_key(&node) {
                state.withheld.insert(node, one.ports.clone());
            }
        }
        if state.changed.len() > before {
            self.changed_now();
        }
    }

    /// What is to be said to somebody who was told `told`, which is then what there is.
    pub fn differences(&self, told: &mut BTreeMap<Node, Ports>) -> Vec<v1::PodVerdict> {
        let state = self.lock();
        let known = |node: &Node| {
            let verdict = state.pods.get(node);
            verdict.is_some_and(|verdict| !verdict.ports.is_empty())
        };
        let gone: Vec<Node> = told.keys().filter(|node| !known(node)).cloned().collect();
        let mut differences = Vec::new();
        for node in gone {
            told.remove(&node);
            differences.push(said(&node, &Ports::new()));
        }
        for (node, Verdict { ports, .. }) in &state.pods {
            if !ports.is_empty() && told.get(node) != Some(ports) {
                told.insert(node.clone(), ports.clone());
                differences.push(said(node, ports));
            }
        }
        differences
    }

    /// Drops what nobody says any more: `is_there` says of a pod whether it is, and `is_heard`
    /// whether its sidecar has a stream.
    fn sweep(
        &self,
        now_ms: u64,
        is_there: impl Fn(&Node) -> bool,
        is_heard: impl Fn(&Node) -> bool,
    ) {
        let mut state = self.lock();
        let state = &mut *state;
        let held = std::mem::take(&mut state.withheld).into_iter();
        let (heard, silent) = held.partition(|(node, _)| is_heard(node));
        state.withheld = heard;
        let silent: BTreeMap<_, _> = silent;
        for (node, ports) in silent {
            state.follow(node, &ports, now_ms);
        }
        let mut gone = Vec::new();
        for (node, verdict) in &mut state.pods {
            if is_heard(node) || (state.is_following && verdict.followed) {
                verdict.heard_ms = now_ms;
            }
            let silent = now_ms.saturating_sub(verdict.heard_ms) > BELIEVED_MS;
            let is_new = now_ms.saturating_sub(verdict.since_ms) <= POD_PATIENCE_MS;
            if silent || !(is_new || is_there(node)) {
                gone.push(node.clone());
            }
        }
        for node in gone {
            state.pods.remove(&node);
            state.changed.push(node);
        }
        if !state.changed.is_empty() {
            self.changed_now();
        }
    }

    /// What the core is to be told.
    fn take(&self) -> Vec<Event> {
        let mut state = self.lock();
        let mut changed = std::mem::take(&mut state.changed);
        changed.sort();
        changed.dedup();
        let event = |node: Node| {
            let verdict = state.pods.get(&node);
            Event::Health(PodHealth {
                id: Id::new(&node.namespace, &node.pod),
                uid: Name::from(node.pod_uid.as_str()),
                ports: verdict
                    .map(|verdict| verdict.ports.clone())
                    .unwrap_or_default(),
            })
        };
        changed.into_iter().map(event).collect()
    }
}

fn said(node: &Node, ports: &Ports) -> v1::PodVerdict {
    let ports = ports.iter().map(|(port, health)| v1::PortHealth {
        port: (*port).into(),
        health: (*health).into(),
        detail: String::new(),
    });
    v1::PodVerdict {
        namespace: node.namespace.clone(),
        pod: node.pod.clone(),
        pod_uid: node.pod_uid.clone(),
        ports: ports.collect(),
    }
}

/// Takes verdicts to the core, each as soon as it is told.
pub async fn keep(
    sidecars: Arc<Sidecars>,
    events: mpsc::Sender<Vec<Event>>,
) -> (&'static str, anyhow::Result<()>) {
    let mut changes = sidecars.verdicts().changes.subscribe();
    let mut sweeps = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return ("the verdicts", Ok(()));
                }
            }
            _ = sweeps.tick() => {
                let is_there = |node: &Node| {
                    let name = resource_name(&node.namespace, &node.pod);
                    let held = sidecars.store().exact(ResourceType::Workload, &name);
                    held.is_some_and(|held| held.only_for.as_deref().is_none_or(|of| node.is(of)))
                };
                let heard = sidecars.heard();
                let is_heard = |node: &Node| heard.contains(node);
                sidecars.verdicts().sweep(clock::unix_ms(), is_there, is_heard);
            }
        }
        let batch = sidecars.verdicts().take();
        if !batch.is_empty() && events.send(batch).await.is_err() {
            return ("the verdicts", Ok(()));
        }
    }
}

#[cfg(test)]
mod tests;
