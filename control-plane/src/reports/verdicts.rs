//! What the sidecars' probes say of their pods' ports, on its way to the core, which says it of
//! the endpoints.
//!
//! A verdict is a pod's as a whole: all of its ports that are probed. It is dropped when its Pod
//! goes, or its sidecar has had no stream for long: then nothing is known of the pod.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use remora_proto::v1::{self, Health};
use remora_proto::well_known::resource_name;
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
/// The verdict of a sidecar without a stream is believed for so long.
const BELIEVED_MS: u64 = 60_000;
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
}

#[derive(Default)]
struct Verdict {
    ports: BTreeMap<u16, Health>,
    heard_ms: u64,
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
        let verdict = state.pods.entry(node.clone()).or_default();
        verdict.heard_ms = now_ms;
        let before = verdict.ports.clone();
        if first {
            verdict.ports.clear();
        }
        for one in health {
            let Ok(port) = u16::try_from(one.port) else {
                continue;
            };
            match one.health() {
                Health::Unknown => {
                    verdict.ports.remove(&port);
                }
                known if verdict.ports.len() < MAX_PORTS || verdict.ports.contains_key(&port) => {
                    verdict.ports.insert(port, known);
                }
                Health::Healthy | Health::Unhealthy => {}
            }
        }
        if before != verdict.ports {
            state.changed.push(node.clone());
            drop(state);
            self.changes.send_modify(|count| *count += 1);
        }
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
        let mut gone = Vec::new();
        for (node, verdict) in &mut state.pods {
            if is_heard(node) {
                verdict.heard_ms = now_ms;
            }
            let silent = now_ms.saturating_sub(verdict.heard_ms) > BELIEVED_MS;
            if silent || !is_there(node) {
                gone.push(node.clone());
            }
        }
        for node in gone {
            state.pods.remove(&node);
            state.changed.push(node);
        }
        let changed = !state.changed.is_empty();
        if changed {
            self.changes.send_modify(|count| *count += 1);
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
                    sidecars.store().exact(ResourceType::Workload, &name).is_some()
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
mod tests {
    use super::*;

    fn health(port: u32, health: Health) -> v1::PortHealth {
        v1::PortHealth {
            port,
            health: health.into(),
            detail: String::new(),
        }
    }

    fn told(verdicts: &Verdicts) -> Vec<BTreeMap<u16, Health>> {
        let events = verdicts.take().into_iter();
        let ports = events.map(|event| match event {
            Event::Health(health) => health.ports,
            other => panic!("{other:?}"),
        });
        ports.collect()
    }

    #[test]
    fn a_verdict_is_told_once_and_a_change_of_it_again() {
        let verdicts = Verdicts::default();
        let node = Node::parse("sidecar/shop/a/u").unwrap();
        verdicts.report(&node, &[health(80, Health::Unhealthy)], true, 0);
        assert_eq!(told(&verdicts), [[(80, Health::Unhealthy)].into()]);
        verdicts.report(&node, &[health(80, Health::Unhealthy)], false, 1);
        verdicts.report(&node, &[], false, 1);
        assert!(told(&verdicts).is_empty());
        verdicts.report(
            &node,
            &[health(80, Health::Healthy), health(99_999, Health::Healthy)],
            false,
            2,
        );
        assert_eq!(told(&verdicts), [[(80, Health::Healthy)].into()]);
        // A new stream says all there is.
        verdicts.report(&node, &[], true, 3);
        assert_eq!(told(&verdicts), [BTreeMap::new()]);
    }

    #[test]
    fn a_verdict_ends_with_its_pod_and_with_a_long_silence() {
        let verdicts = Verdicts::default();
        let [a, b] = ["a", "b"].map(|pod| Node::parse(&format!("sidecar/shop/{pod}/u")).unwrap());
        for node in [&a, &b] {
            verdicts.report(node, &[health(80, Health::Healthy)], true, 0);
        }
        assert_eq!(told(&verdicts).len(), 2);
        verdicts.sweep(BELIEVED_MS + 1, |_| true, |node| *node == a);
        assert_eq!(told(&verdicts), [BTreeMap::new()], "b was silent");
        verdicts.sweep(BELIEVED_MS + 2, |_| false, |_| true);
        assert_eq!(told(&verdicts), [BTreeMap::new()], "a is gone");
    }
}
