//! What the sidecar has been asked for: addresses and names, what is known of
//! each, and who waits for the answer. Pure bookkeeping; every size is bounded.

use std::collections::{BTreeSet, HashMap, HashSet};
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
/// Services that are held only because routes of others lead to them, at one
/// time; what is beyond is asked for when a request first goes there.
pub const MAX_HELD: usize = 1024;
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
    /// A worker asked for it, and not only a route.
    pub is_called: bool,
    /// Services whose routes lead to it.
    holders: usize,
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
    /// For each service to which services its routes lead.
    holds: HashMap<String, BTreeSet<Arc<str>>>,
    held: usize,
}

/// What a change of a service's routes brings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// To be asked for.
    pub added: Vec<Target>,
    /// To be dropped: nobody else wants it.
    pub released: Vec<Target>,
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
        self.insert(target, true, 0, now);
    }

    fn insert(&mut self, target: Target, is_called: bool, holders: usize, now: Timestamp) {
        let entry = Entry {
            answer: Answer::Waiting,
            usage: Arc::new(Usage::new(now)),
            is_called,
            holders,
            waiters: Vec::new(),
        };
        let previous = self.entries.insert(target, entry);
        debug_assert!(previous.is_none(), "a target is subscribed to once");
    }

    /// A worker asks for a target that is there. Whether only routes led to it.
    pub fn call(&mut self, target: &Target) -> bool {
        let entry = self.entries.get_mut(target);
        entry.is_some_and(|entry| !std::mem::replace(&mut entry.is_called, true))
    }

    /// A target that nobody has asked for in a long time. Whether routes still
    /// lead to it, so that it stays.
    pub fn rest(&mut self, target: &Target) -> bool {
        let Some(entry) = self.entries.get_mut(target) else {
            return false;
        };
        entry.is_called = false;
        entry.holders > 0
    }

    /// Whether a worker asks for a service of this name: only then count its routes.
    pub fn is_called(&self, service: &str) -> bool {
        let targets = self.by_service.get(service).into_iter().flatten();
        let mut entries = targets.filter_map(|target| self.entries.get(target));
        entries.any(|entry| entry.is_called)
    }

    /// The routes of `service` lead to these others from now on.
    pub fn hold(&mut self, service: &str, wanted: BTreeSet<Arc<str>>, now: Timestamp) -> Held {
        let before = self.holds.remove(service).unwrap_or_default();
        let (mut changes, mut after) = (Held::default(), BTreeSet::new());
        for name in wanted {
            let target = Target::Name(Arc::clone(&name));
            match self.entries.get_mut(&target) {
                Some(_) if before.contains(&name) => {}
                Some(entry) => {
                    self.held += usize::from(entry.holders == 0);
                    entry.holders += 1;
                }
                None if self.held >= MAX_HELD => continue,
                None => {
                    self.held += 1;
                    self.insert(target.clone(), false, 1, now);
                    changes.added.push(target);
                }
            }
            after.insert(name);
        }
        for name in before.difference(&after) {
            let target = Target::Name(Arc::clone(name));
            let Some(entry) = self.entries.get_mut(&target) else {
                continue;
            };
            entry.holders -= 1;
            if entry.holders == 0 {
                self.held -= 1;
                if !entry.is_called {
                    changes.released.push(target);
                }
            }
        }
        if !after.is_empty() {
            self.holds.insert(service.to_owned(), after);
        }
        changes
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
            let free = self.entries.iter().filter(|(_, entry)| entry.holders == 0);
            return least_recent(free, last);
        }
        if self.unknown >= MAX_UNKNOWN {
            let unknown = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.answer == Answer::Unknown && entry.holders == 0);
            return least_recent(unknown, last);
        }
        None
    }

    /// The targets that somebody asked for, and nobody has used for [`IDLE`].
    pub fn idle(
        &self,
        now: Timestamp,
        last_use: impl Fn(&str) -> Option<Timestamp>,
    ) -> Vec<Target> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.is_called)
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn targets(names: &[&str]) -> Vec<Target> {
        names
            .iter()
            .map(|name| Target::Name((*name).into()))
            .collect()
    }

    #[test]
    fn what_routes_lead_to_stays_as_long_as_one_of_them_does() {
        let mut all = Subscriptions::default();
        let held = all.hold("a", names(&["b", "c"]), NOW);
        assert_eq!(held.added, targets(&["b", "c"]));
        let held = all.hold("d", names(&["c"]), NOW);
        assert_eq!(held, Held::default());
        let held = all.hold("a", names(&["b"]), NOW);
        assert_eq!(held, Held::default(), "another leads there still");
        let held = all.hold("d", names(&[]), NOW);
        assert_eq!(held.released, targets(&["c"]));
        let late = NOW.after(IDLE * 2);
        assert!(all.idle(late, |_| None).is_empty(), "held, and never idle");
    }

    #[test]
    fn what_is_called_itself_outlives_the_routes_that_lead_to_it() {
        let mut all = Subscriptions::default();
        all.hold("a", names(&["b"]), NOW);
        let target = &targets(&["b"])[0];
        assert!(all.call(target) && !all.call(target));
        assert!(all.rest(target), "the route is still there");
        all.call(target);
        assert_eq!(all.hold("a", names(&[]), NOW), Held::default());
        assert!(!all.rest(target));
    }

    #[test]
    fn so_many_are_held_and_no_more() {
        let mut all = Subscriptions::default();
        let wanted: Vec<String> = (0..MAX_HELD + 5).map(|it| format!("s{it}")).collect();
        let wanted: BTreeSet<Arc<str>> = wanted.iter().map(|name| name.as_str().into()).collect();
        let held = all.hold("a", wanted.clone(), NOW);
        assert_eq!((held.added.len(), all.count()), (MAX_HELD, MAX_HELD));
        assert_eq!(all.surplus(|_| None), None);
        // What was left out is released by nobody.
        assert_eq!(all.hold("a", names(&[]), NOW).released.len(), MAX_HELD);
    }
}
