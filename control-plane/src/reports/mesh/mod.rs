//! Limits of the whole mesh: the leader's half. Sidecars tell on their report streams what they
//! have and want of each; on the same streams they are given shares.
//!
//! # Layout
//! - here: the limits, the streams, and who is there; nothing is given but by the replica that
//!   leads, while it does.
//! - [`apportion`]: one limit, shared out; without time, without streams.

pub mod apportion;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use remora_proto::v1;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use self::apportion::{Apportioner, Grant, Share, Told, Whole};
use crate::clock;
use crate::leader::Leadership;
use crate::stream::session::Node;

/// Limits that are shared out at most.
const MAX_LIMITS: usize = 1_024;
/// Limits that one sidecar tells of at most.
const MAX_TOLD: usize = 256;
/// How often shares are looked at.
const TURN: Duration = Duration::from_millis(50);

/// Policy (`namespace/name`) and limit.
pub type LimitKey = (String, String);
/// Takes what is sent to a sidecar.
pub type Acknowledgements = mpsc::Sender<Result<v1::ReportAcknowledgement, Status>>;

/// A limit that policies have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// As it is written.
    pub whole: Whole,
    /// `enforcedAt: Caller`: everybody may have a share; else the policy's namespace alone.
    pub at_caller: bool,
}

/// What the core knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Every limit with `scope: Mesh`.
    pub limits: BTreeMap<LimitKey, Limit>,
    /// The pods in which a sidecar may run.
    pub sidecars: BTreeSet<Node>,
}

/// What is held of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub key: LimitKey,
    /// Sidecars with a share.
    pub holders: usize,
    /// All shares together, those under way among them.
    pub sum: Share,
}

/// All limits of the mesh.
#[derive(Default)]
pub struct MeshLimits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leads: bool,
    known: Arc<Known>,
    limits: BTreeMap<LimitKey, Apportioner<Node>>,
    /// Who was there when this replica began to lead, and has not told yet.
    untold: BTreeSet<Node>,
    streams: HashMap<Node, Stream>,
    streams_seen: u64,
}

struct Stream {
    id: u64,
    sender: Acknowledgements,
    sequence: u64,
    /// Of which limits it has told on this stream.
    told: BTreeSet<LimitKey>,
    /// What it told of limits that are not known here yet.
    waiting: BTreeMap<LimitKey, Told>,
}

/// A stream on which shares can be sent, for as long as it lives.
pub struct Open {
    limits: Arc<MeshLimits>,
    node: Node,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.limits.lock();
        // A newer stream of the same sidecar stays.
        if state
            .streams
            .get(&self.node)
            .is_some_and(|stream| stream.id == self.id)
        {
            state.streams.remove(&self.node);
            for limit in state.limits.values_mut() {
                limit.disconnect(&self.node);
            }
        }
    }
}

impl MeshLimits {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sidecar reports on a stream of its own from now on.
    pub fn open(self: &Arc<Self>, node: &Node, sender: Acknowledgements) -> Open {
        let mut state = self.lock();
        state.streams_seen += 1;
        let id = state.streams_seen;
        let stream = Stream {
            id,
            sender,
            sequence: 0,
            told: BTreeSet::new(),
            waiting: BTreeMap::new(),
        };
        state.streams.insert(node.clone(), stream);
        for limit in state.limits.values_mut() {
            limit.disconnect(node);
        }
        Open {
            limits: self.clone(),
            node: node.clone(),
            id,
        }
    }

    /// What one report of a sidecar says.
    ///
    /// # Errors
    /// When the stream must end: a newer one has taken its place, or who leads has changed.
    pub fn report(
        &self,
        open: &Open,
        sequence: u64,
        usages: &[v1::MeshUsage],
        now_ms: u64,
    ) -> Result<(), Status> {
        let mut state = self.lock();
        let state = &mut *state;
        let node = &open.node;
        let stream = state.streams.get_mut(node);
        let Some(stream) = stream.filter(|stream| stream.id == open.id) else {
            return Err(begin_anew());
        };
        stream.sequence = sequence;
        state.untold.remove(node);
        for usage in usages.iter().take(MAX_TOLD) {
            let key = (usage.policy.clone(), usage.name.clone());
            let told = Told {
                share: Share {
                    parts_per_million: usage.parts_per_million,
                    burst: usage.burst,
                },
                grant: usage.grant,
                asked: usage.asked,
                over_ms: usage.over_ms,
            };
            if !may_hold(&state.known, &key, node) || !state.leads {
                let is_new = !stream.waiting.contains_key(&key);
                if !is_new || stream.waiting.len() < MAX_TOLD {
                    stream.waiting.insert(key, told);
                }
                continue;
            }
            let Some(limit) = limit_of(&mut state.limits, &state.known, &key, &state.untold) else {
                continue;
            };
            let first = stream.told.insert(key);
            limit.tell(node, told, first, now_ms);
        }
        Ok(())
    }

    /// What the core knows from now on.
    pub fn know(&self, known: Arc<Known>) {
        let mut state = self.lock();
        for (key, limit) in &known.limits {
            if let Some(apportioner) = state.limits.get_mut(key) {
                apportioner.set_whole(limit.whole);
            }
        }
        state.known = known;
    }

    /// Whether this replica leads from now on. One that begins to knows nothing of shares that
    /// others gave: everybody tells again, on a new stream, since what was told on one of now may
    /// be another share by now. Where this replica `is_alone` nobody else gives any, and what was
    /// told before it knew its limits waits.
    pub fn lead(&self, leads: bool, is_alone: bool) {
        let mut state = self.lock();
        if state.leads == leads {
            return;
        }
        let state = &mut *state;
        state.leads = leads;
        state.limits.clear();
        state.untold = state.known.sidecars.clone();
        if is_alone {
            let has_told = |stream: &Stream| stream.sequence > 0;
            let streams = &state.streams;
            state
                .untold
                .retain(|node| !streams.get(node).is_some_and(has_told));
            return;
        }
        for (_, stream) in state.streams.drain() {
            // No place: then its next report is told so.
            let _ = stream.sender.try_send(Err(begin_anew()));
        }
    }

    /// Looks at all shares, and sends those that change.
    pub fn turn(&self, now_ms: u64) {
        let mut state = self.lock();
        if !state.leads {
            return;
        }
        let state = &mut *state;
        let known = state.known.clone();
        state.untold.retain(|node| known.sidecars.contains(node));
        take_waiting(state, now_ms);
        let settled = state.untold.is_empty();
        for (key, limit) in &mut state.limits {
            if settled {
                limit.settle();
            }
            let is_gone = |node: &&Node| {
                !known.sidecars.contains(*node) && !state.streams.contains_key(*node)
            };
            let gone: Vec<Node> = limit.holders().filter(is_gone).cloned().collect();
            for node in gone {
                limit.remove(&node);
            }
            if known.limits.contains_key(key) {
                for grant in limit.turn(now_ms) {
                    let sent = send(&state.streams, key, &grant);
                    if !sent {
                        limit.unsent(&grant.holder, grant.number);
                    }
                }
            }
        }
        // One that no policy has any more is kept while somebody may have a part of it.
        state.limits.retain(|key, limit| {
            known.limits.contains_key(key) || limit.holders().next().is_some()
        });
    }

    /// What is held of each limit.
    pub fn held(&self) -> Vec<Held> {
        let state = self.lock();
        let held = state.limits.iter().map(|(key, limit)| {
            let (holders, sum) = limit.held();
            Held {
                key: key.clone(),
                holders,
                sum,
            }
        });
        held.collect()
    }
}

fn begin_anew() -> Status {
    Status::unavailable("another replica leads now, or another stream is there; connect again")
}

/// Of a limit at the target the pods of the policy's namespace have shares, and no others.
fn may_hold(known: &Known, key: &LimitKey, node: &Node) -> bool {
    let namespace = key.0.split('/').next().unwrap_or_default();
    let limit = known.limits.get(key);
    limit.is_some_and(|limit| limit.at_caller || namespace == node.namespace)
}

fn limit_of<'a>(
    limits: &'a mut BTreeMap<LimitKey, Apportioner<Node>>,
    known: &Known,
    key: &LimitKey,
    untold: &BTreeSet<Node>,
) -> Option<&'a mut Apportioner<Node>> {
    let whole = known.limits.get(key)?.whole;
    if !limits.contains_key(key) && limits.len() >= MAX_LIMITS {
        // One that no policy has any more makes room: else new limits would refuse everything
        // for as long as the pods live that once had a share of an old one.
        let is_past = |one: &&LimitKey| !known.limits.contains_key(*one);
        let past = limits.keys().find(is_past)?.clone();
        limits.remove(&past);
    }
    let settled = untold.is_empty();
    let new = || Apportioner::new(whole, settled);
    Some(limits.entry(key.clone()).or_insert_with(new))
}

/// What was told before its policy was known.
fn take_waiting(state: &mut State, now_ms: u64) {
    let State {
        known,
        limits,
        untold,
        streams,
        ..
    } = state;
    for (node, stream) in streams {
        let ready = |key: &LimitKey| may_hold(known, key, node);
        let keys: Vec<LimitKey> = stream
            .waiting
            .keys()
            .filter(|key| ready(key))
            .cloned()
            .collect();
        for key in keys {
            let Some(told) = stream.waiting.remove(&key) else {
                continue;
            };
            if let Some(limit) = limit_of(limits, known, &key, untold) {
                let first = stream.told.insert(key);
                limit.tell(node, told, first, now_ms);
            }
        }
    }
}

fn send(streams: &HashMap<Node, Stream>, key: &LimitKey, grant: &Grant<Node>) -> bool {
    let Some(stream) = streams.get(&grant.holder) else {
        return false;
    };
    let share = v1::MeshShare {
        policy: key.0.clone(),
        name: key.1.clone(),
        grant: grant.number,
        parts_per_million: grant.share.parts_per_million,
        burst: grant.share.burst,
    };
    let message = v1::ReportAcknowledgement {
        sequence: stream.sequence,
        mesh_shares: vec![share],
    };
    stream.sender.try_send(Ok(message)).is_ok()
}

/// Keeps the shares: `leadership` says who gives them; without one this replica does, being the
/// only one.
pub async fn keep(
    limits: Arc<MeshLimits>,
    mut known: watch::Receiver<Arc<Known>>,
    mut synced: watch::Receiver<bool>,
    leadership: Option<Leadership>,
) -> std::convert::Infallible {
    if synced.wait_for(|synced| *synced).await.is_err() {
        return std::future::pending().await;
    }
    let mut turns = tokio::time::interval(TURN);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        limits.know(known.borrow_and_update().clone());
        let leads = leadership
            .as_ref()
            .is_none_or(|leadership| leadership.is_leading(clock::now()));
        limits.lead(leads, leadership.is_none());
        limits.turn(clock::unix_ms());
    }
}

#[cfg(test)]
mod tests;
