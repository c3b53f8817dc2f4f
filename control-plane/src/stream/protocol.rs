//! The rules of the incremental transport for one type of one stream, without
//! a socket, a lock or a clock.
//!
//! ```text
//!            request (subscribe, unsubscribe, ACK, NACK)      touch(name)
//!                              |                                   |
//!                              v                                   v
//!   subscriptions ----> pending names  <---------------------------+
//!                              |
//!               next(): only while nothing is in flight
//!                              v
//!                  response (nonce) ----> in flight ----> ACK or NACK ----> next()
//! ```
//!
//! One response is in flight at a time; changes meanwhile wait as names, so
//! that however often a resource changes, only what it is in the end is sent.
//! What was sent counts as known from then on, acknowledged or refused: a
//! refused resource is sent again only when it changes or when it is asked for
//! again by name.
//!
//! Source: the published xDS protocol, "Incremental xDS".

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::core::objects::Name;
use crate::core::store::{Resource, ResourceType, collection_of, glob_prefix};

/// A response is cut after so many bytes of resources; the rest follows when
/// it is acknowledged. (A receiver takes 4 MiB by default.)
pub const MAX_RESPONSE_BYTES: usize = 2 * 1024 * 1024;

/// What a stream may see of the resources of one type.
pub trait View {
    /// The resource of a canonical name or alias.
    fn find(&self, name: &str) -> Option<Arc<Resource>>;
    /// The members of a collection.
    fn members(&self, prefix: &str) -> Vec<Name>;
}

/// A request, as far as it concerns this type.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Names, aliases and collections to send from now on.
    pub subscribe: Vec<Name>,
    /// Those to send no more.
    pub unsubscribe: Vec<Name>,
    /// What is held from an earlier stream; counts on the first request only.
    pub initial_versions: HashMap<String, String>,
    /// The response that is answered; empty: none.
    pub nonce: String,
    /// Why that response was refused.
    pub error: Option<String>,
}

/// What a request answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing, or a response that is not in flight.
    None,
    /// The response in flight was taken: these names at these versions.
    Accepted(Vec<(Name, Name)>),
    /// It was refused, with the reason.
    Refused(Vec<(Name, Name)>, String),
}

/// What is to be sent.
#[derive(Debug, Default, PartialEq)]
pub struct Response {
    /// To be answered.
    pub nonce: String,
    /// New or changed.
    pub resources: Vec<Arc<Resource>>,
    /// Gone, or never there.
    pub removed: Vec<Name>,
}

/// What the other side was last told of a name or alias.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Nothing,
    Missing,
    Bound(Name),
}

#[derive(Debug)]
struct Held {
    /// As last sent, or as the other side said at the start.
    version: Name,
    /// The subscriptions by which it is held; a collection by its prefix.
    by: BTreeSet<Name>,
}

/// One type of one stream.
pub struct TypeStream {
    kind: Option<ResourceType>,
    subscriptions: BTreeMap<Name, Told>,
    collections: BTreeSet<Name>,
    held: HashMap<Name, Held>,
    /// Names to look at before the next response.
    pending: BTreeSet<Name>,
    /// Those of them that were asked for anew: sent even when unchanged.
    asked: HashSet<Name>,
    /// A collection was asked for: there is a response even when it is empty.
    answer_owed: bool,
    /// What was held from before has not been looked through yet.
    sweep_owed: bool,
    started: bool,
    in_flight: Option<(String, Vec<(Name, Name)>)>,
    sent: u64,
}

impl TypeStream {
    /// For a type; `None` is one that this control plane does not know: all of it is missing.
    pub fn new(kind: Option<ResourceType>) -> Self {
        Self {
            kind,
            subscriptions: BTreeMap::new(),
            collections: BTreeSet::new(),
            held: HashMap::new(),
            pending: BTreeSet::new(),
            asked: HashSet::new(),
            answer_owed: false,
            sweep_owed: false,
            started: false,
            in_flight: None,
            sent: 0,
        }
    }

    /// Names, aliases and collections subscribed to.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len() + self.collections.len()
    }

    /// Takes a request.
    pub fn request(&mut self, view: &impl View, request: Request) -> Answer {
        let first = !std::mem::replace(&mut self.started, true);
        if first {
            self.sweep_owed = !request.initial_versions.is_empty();
            self.held
                .extend(request.initial_versions.into_iter().map(|(name, version)| {
                    (
                        Name::from(name),
                        Held {
                            version: version.into(),
                            by: BTreeSet::new(),
                        },
                    )
                }));
        }
        let answer = self.answer(&request.nonce, request.error);
        for name in request.unsubscribe {
            self.unsubscribe(&name);
        }
        for name in request.subscribe {
            self.subscribe(view, name, first);
        }
        answer
    }

    fn answer(&mut self, nonce: &str, error: Option<String>) -> Answer {
        match self.in_flight.take_if(|(sent, _)| sent == nonce) {
            None => Answer::None,
            Some((_, resources)) => {
                // Unsubscribed while in flight: see `release`.
                for (name, _) in &resources {
                    self.forget_if_loose(name);
                }
                match error {
                    None => Answer::Accepted(resources),
                    Some(reason) => Answer::Refused(resources, reason),
                }
            }
        }
    }

    /// What no subscription holds is forgotten, but for what is still to be
    /// looked at.
    fn forget_if_loose(&mut self, name: &Name) {
        let loose = self.held.get(name).is_some_and(|held| held.by.is_empty());
        if loose && !self.sweep_owed && !self.pending.contains(name) {
            self.held.remove(name);
        }
    }

    fn subscribe(&mut self, view: &impl View, name: Name, first: bool) {
        if let Some(prefix) = self.kind.and_then(|kind| glob_prefix(kind, &name)) {
            let prefix = Name::from(prefix);
            for member in view.members(&prefix) {
                self.ask(member, first);
            }
            // Of an earlier stream: those that are gone are looked at too.
            let gone = self
                .held
                .keys()
                .filter(|held| self.collection_of(held) == Some(&*prefix));
            let gone: Vec<Name> = gone.cloned().collect();
            self.pending.extend(gone);
            self.collections.insert(prefix);
            self.answer_owed = true;
        } else {
            self.subscriptions
                .entry(name.clone())
                .or_insert(Told::Nothing);
            self.ask(name, first);
        }
    }

    /// A name asked for again is sent again: the other side may have forgotten
    /// it. On the first request it says itself what it has.
    fn ask(&mut self, name: Name, first: bool) {
        if !first {
            self.asked.insert(name.clone());
        }
        self.pending.insert(name);
    }

    fn unsubscribe(&mut self, name: &Name) {
        if let Some(prefix) = self.kind.and_then(|kind| glob_prefix(kind, name)) {
            if let Some(prefix) = self.collections.take(prefix) {
                let members = self
                    .held
                    .iter()
                    .filter(|(_, held)| held.by.contains(&prefix));
                let members: Vec<Name> = members.map(|(name, _)| name.clone()).collect();
                for member in members {
                    self.release(&member, &prefix);
                }
            }
        } else if let Some(told) = self.subscriptions.remove(name) {
            if let Told::Bound(canonical) = told {
                self.release(&canonical, name);
            }
            self.asked.remove(name);
        }
    }

    /// Notes that something of this name or alias changed.
    pub fn touch(&mut self, name: &Name) {
        let listed = self
            .collection_of(name)
            .is_some_and(|prefix| self.collections.contains(prefix));
        if listed || self.subscriptions.contains_key(name) {
            self.pending.insert(name.clone());
        }
    }

    /// What to send now, if anything.
    pub fn next(&mut self, view: &impl View) -> Option<Response> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut response = Response::default();
        let mut bytes = 0;
        while bytes < MAX_RESPONSE_BYTES {
            let Some(name) = self.pending.pop_first() else {
                self.sweep(view, &mut response);
                break;
            };
            let before = response.resources.len();
            self.look_at(view, &name, &mut response);
            let added = response.resources[before..].iter();
            bytes += added.map(|resource| resource.encoded.len()).sum::<usize>();
        }
        // An empty answer says "that was all", so it waits for the last part.
        let owed = self.pending.is_empty() && std::mem::take(&mut self.answer_owed);
        if response.resources.is_empty() && response.removed.is_empty() && !owed {
            return None;
        }
        self.sent += 1;
        response.nonce = self.sent.to_string();
        let sent = response.resources.iter();
        let sent = sent
            .map(|resource| (resource.name.clone(), resource.version.clone()))
            .collect();
        self.in_flight = Some((response.nonce.clone(), sent));
        Some(response)
    }

    fn look_at(&mut self, view: &impl View, name: &Name, response: &mut Response) {
        let found = view.find(name);
        let asked = self.asked.remove(name);
        if let Some(told) = self.subscriptions.get(name).cloned() {
            let now = match &found {
                Some(resource) => Told::Bound(resource.name.clone()),
                None => Told::Missing,
            };
            if let Told::Bound(before) = &told
                && now != told
                && self.release(before, name)
                && before != name
            {
                response.removed.push(before.clone());
            }
            match &found {
                Some(resource) => self.offer(resource, name.clone(), asked, response),
                None if told != Told::Missing || asked => response.removed.push(name.clone()),
                None => {}
            }
            self.subscriptions.insert(name.clone(), now);
        }
        let prefix = self
            .collection_of(name)
            .and_then(|prefix| self.collections.get(prefix))
            .cloned();
        if let Some(prefix) = prefix {
            match found.filter(|resource| resource.name == *name) {
                Some(resource) => self.offer(&resource, prefix, asked, response),
                None => {
                    let gone = self.held.contains_key(name) && self.release(name, &prefix);
                    if gone && !response.removed.contains(name) {
                        response.removed.push(name.clone());
                    }
                }
            }
        }
        self.forget_if_loose(name);
    }

    fn offer(&mut self, resource: &Arc<Resource>, by: Name, asked: bool, response: &mut Response) {
        let held = self
            .held
            .entry(resource.name.clone())
            .or_insert_with(|| Held {
                version: "".into(),
                by: BTreeSet::new(),
            });
        held.by.insert(by);
        let known = held.version == resource.version;
        let twice = || {
            response
                .resources
                .iter()
                .any(|sent| sent.name == resource.name)
        };
        if known && (!asked || twice()) {
            return;
        }
        held.version = resource.version.clone();
        response.resources.push(resource.clone());
    }

    /// One subscription holds a resource no more; whether it was the last.
    fn release(&mut self, canonical: &Name, by: &Name) -> bool {
        let Some(held) = self.held.get_mut(canonical) else {
            return false;
        };
        held.by.remove(by);
        let last = held.by.is_empty();
        let in_flight = self.in_flight.iter().flat_map(|(_, resources)| resources);
        // What is on its way arrives after all, perhaps under another
        // subscription by then, and what is to be looked at may be another's
        // already: until then it counts as held.
        let awaited = self.pending.contains(canonical)
            || in_flight.into_iter().any(|(name, _)| name == canonical);
        if last && !awaited {
            self.held.remove(canonical);
        }
        last
    }

    /// Once, after the first request: what was held from before, is subscribed
    /// to by no name, and is gone.
    fn sweep(&mut self, view: &impl View, response: &mut Response) {
        if !std::mem::take(&mut self.sweep_owed) {
            return;
        }
        let loose = self.held.iter().filter(|(_, held)| held.by.is_empty());
        let loose: Vec<Name> = loose.map(|(name, _)| name.clone()).collect();
        for name in loose {
            self.held.remove(&name);
            if view.find(&name).is_none() && !response.removed.contains(&name) {
                response.removed.push(name);
            }
        }
        response.removed.sort();
    }

    fn collection_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        self.kind.and_then(|kind| collection_of(kind, name))
    }
}
