//! What the sidecar has been asked for: addresses and names, what is known of
//! each, and who waits for the answer. Pure bookkeeping; every size is bounded.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use remora_proto::well_known;
use tokio::sync::oneshot;

use super::mesh::Resolution;
use super::snapshot::Usage;
use crate::clock::Timestamp;

/// Addresses and names subscribed to at one time; beyond that the least recently used go.
pub const MAX_SUBSCRIPTIONS: usize = 4096;
/// Of these, such as belong to nothing in the mesh.
pub const MAX_UNKNOWN: usize = 2048;
/// Callers that wait for an answer at one time; the next gets none.
pub const MAX_WAITERS: usize = 4096;
/// What was not used for so long is no longer subscribed to.
pub const IDLE: Duration = Duration::from_secs(10 * 60);

/// What a service is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address, in canonical form.
    Address(IpAddr),
    /// A canonical service name.
    Name(Arc<str>),
}

impl Target {
    /// The name or alias under which the stream knows it.
    pub fn subscription(&self) -> String {
        match self {
            Self::Address(address) => well_known::address_alias(*address),
            Self::Name(name) => name.to_string(),
        }
    }

    /// The target that a name or alias of a resource stands for.
    pub fn parse(name: &str) -> Self {
        name.strip_prefix("address/")
            .and_then(|address| address.parse().ok())
            .map_or_else(|| Self::Name(name.into()), Self::Address)
    }
}

/// What is known of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Waiting,
    /// It belongs to the service with this canonical name.
    Service(String),
    /// It belongs to nothing.
    Unknown,
    /// Its configuration cannot be taken, and there was none before.
    Refused,
}

/// One target.
#[derive(Debug)]
pub struct Entry {
    /// What is known of it.
    pub answer: Answer,
    /// Its last use, where no service keeps that.
    pub usage: Arc<Usage>,
    waiters: Vec<oneshot::Sender<Resolution>>,
}

/// All targets.
#[derive(Debug, Default)]
pub struct Subscriptions {
    entries: HashMap<Target, Entry>,
    by_service: HashMap<String, HashSet<Target>>,
    waiting: HashSet<Target>,
    waiters: usize,
    unknown: usize,
}

impl Subscriptions {
    /// What is known of a target, if it is subscribed to.
    pub fn entry(&self, target: &Target) -> Option<&Entry> {
        self.entries.get(target)
    }

    /// All targets.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Entry)> {
        self.entries.iter()
    }

    /// Targets subscribed to.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Targets that belong to nothing.
    pub fn unknown(&self) -> usize {
        self.unknown
    }

    /// Takes up a target. It must not be there yet.
    pub fn add(&mut self, target: Target, now: Timestamp) {
        let entry = Entry {
            answer: Answer::Waiting,
            usage: Arc::new(Usage::new(now)),
            waiters: Vec::new(),
        };
        let previous = self.entries.insert(target, entry);
        debug_assert!(previous.is_none(), "a target is subscribed to once");
    }

    /// Drops a target; whoever waits for it gets no answer.
    pub fn remove(&mut self, target: &Target) {
        self.answer(target, Answer::Waiting);
        self.waiting.remove(target);
        if let Some(entry) = self.entries.remove(target) {
            self.waiters -= entry.waiters.len();
        }
    }

    /// Notes what is known of a target now. Returns false where it is not subscribed to.
    pub fn answer(&mut self, target: &Target, answer: Answer) -> bool {
        let Some(entry) = self.entries.get_mut(target) else {
            return false;
        };
        let previous = std::mem::replace(&mut entry.answer, answer.clone());
        match previous {
            Answer::Unknown => self.unknown -= 1,
            Answer::Service(name) => {
                if let Some(targets) = self.by_service.get_mut(&name) {
                    targets.remove(target);
                    if targets.is_empty() {
                        self.by_service.remove(&name);
                    }
                }
            }
            Answer::Waiting | Answer::Refused => {}
        }
        match answer {
            Answer::Unknown => self.unknown += 1,
            Answer::Service(name) => {
                let targets = self.by_service.entry(name).or_default();
                targets.insert(target.clone());
            }
            Answer::Waiting | Answer::Refused => {}
        }
        true
    }

    /// The targets that belong to a service.
    pub fn of_service(&self, name: &str) -> Vec<Target> {
        self.by_service
            .get(name)
            .map(|targets| targets.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Somebody waits for a target. Returns false, and lets go of `reply`
    /// unanswered, where too many wait or the target is not there.
    pub fn wait(&mut self, target: &Target, reply: oneshot::Sender<Resolution>) -> bool {
        if self.waiters >= MAX_WAITERS {
            self.drop_gone_waiters();
        }
        if self.waiters >= MAX_WAITERS {
            return false;
        }
        let Some(entry) = self.entries.get_mut(target) else {
            return false;
        };
        entry.waiters.push(reply);
        self.waiters += 1;
        self.waiting.insert(target.clone());
        true
    }

    /// The targets that somebody waits for.
    pub fn waited_for(&self) -> Vec<Target> {
        self.waiting.iter().cloned().collect()
    }

    /// Answers everybody who waits for a target.
    pub fn reply(&mut self, target: &Target, resolution: &Resolution) {
        self.waiting.remove(target);
        if let Some(entry) = self.entries.get_mut(target) {
            self.waiters -= entry.waiters.len();
            for waiter in entry.waiters.drain(..) {
                // One that gave up meanwhile has counted that itself.
                let _ = waiter.send(resolution.clone());
            }
        }
    }

    /// Forgets those who gave up waiting.
    pub fn drop_gone_waiters(&mut self) {
        let entries = &mut self.entries;
        let waiters = &mut self.waiters;
        self.waiting.retain(|target| {
            let Some(entry) = entries.get_mut(target) else {
                return false;
            };
            let before = entry.waiters.len();
            entry.waiters.retain(|waiter| !waiter.is_closed());
            *waiters -= before - entry.waiters.len();
            !entry.waiters.is_empty()
        });
    }

    /// The target that must go before another comes, if there are too many.
    /// `last_use` tells when the service with a name was last used.
    pub fn surplus(&self, last_use: impl Fn(&str) -> Option<Timestamp>) -> Option<Target> {
        let last = |entry: &Entry| entry_last_use(entry, &last_use);
        if self.entries.len() >= MAX_SUBSCRIPTIONS {
            return least_recent(self.entries.iter(), last);
        }
        if self.unknown >= MAX_UNKNOWN {
            let unknown = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.answer == Answer::Unknown);
            return least_recent(unknown, last);
        }
        None
    }

    /// The targets that nobody has used for [`IDLE`].
    pub fn idle(
        &self,
        now: Timestamp,
        last_use: impl Fn(&str) -> Option<Timestamp>,
    ) -> Vec<Target> {
        self.entries
            .iter()
            .filter(|(_, entry)| now.since(entry_last_use(entry, &last_use)) >= IDLE)
            .map(|(target, _)| target.clone())
            .collect()
    }
}

fn entry_last_use(entry: &Entry, last_use: impl Fn(&str) -> Option<Timestamp>) -> Timestamp {
    let own = entry.usage.last();
    match &entry.answer {
        Answer::Service(name) => last_use(name).map_or(own, |last| last.max(own)),
        Answer::Waiting | Answer::Unknown | Answer::Refused => own,
    }
}

fn least_recent<'a>(
    entries: impl Iterator<Item = (&'a Target, &'a Entry)>,
    last: impl Fn(&Entry) -> Timestamp,
) -> Option<Target> {
    entries
        .min_by_key(|(_, entry)| last(entry))
        .map(|(target, _)| target.clone())
}
