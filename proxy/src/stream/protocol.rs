//! The incremental xDS protocol as a pure state machine: what to send, what to
//! take. It knows names, versions and nonces; what a resource means it does not.
//! (envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, "Incremental xDS")
//!
//! ```text
//! subscribe, unsubscribe --> wanted --+--> next_request --> the server
//! connected (stream is new) ----------'        ^
//! receive(response) --> events                 |
//!        '--> one ACK or NACK for each --------'
//! ```
//! A response is taken resource by resource: the good ones are held from then
//! on, the bad ones are named in the NACK and leave what was held before.

mod requests;
mod responses;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use remora_proto::discovery::{DeltaDiscoveryRequest, Node};

use super::collections::Collections;
use super::kind::{Kind, collections_of, is_collection};

pub use self::responses::{MAX_ERROR_BYTES, Received};

/// What a response brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A resource was taken, new or in another version.
    Taken {
        /// Its type.
        kind: Kind,
        /// Its canonical name.
        name: String,
        /// Its version.
        version: String,
        /// Further names of it.
        aliases: Vec<String>,
        /// What it says.
        value: T,
    },
    /// A resource that was held is gone.
    Removed {
        /// Its type.
        kind: Kind,
        /// Its canonical name.
        name: String,
    },
    /// Nothing has this name, to which there is a subscription.
    Absent {
        /// The type.
        kind: Kind,
        /// The name or alias.
        name: String,
    },
    /// A resource could not be taken; what was held before stays.
    Refused {
        /// Its type.
        kind: Kind,
        /// Its canonical name.
        name: String,
        /// The version that was refused.
        version: String,
        /// Further names of it.
        aliases: Vec<String>,
        /// Why.
        reason: String,
    },
    /// The members of this collection are known now.
    Complete {
        /// The collection.
        name: String,
    },
}

/// A resource that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    version: String,
    aliases: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Subscribe(String),
    Unsubscribe(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Acknowledgement {
    type_url: String,
    nonce: String,
    error: Option<String>,
}

/// One type's side of the stream.
#[derive(Debug, Default)]
struct TypeState {
    wanted: BTreeSet<String>,
    held: BTreeMap<String, Held>,
    /// The stream's first request of this type has been sent.
    introduced: bool,
    /// Changes of `wanted` that the server has not been told, in their order.
    changes: VecDeque<Change>,
}

impl TypeState {
    fn wants(&self, name: &str, aliases: &[String]) -> bool {
        self.wanted.contains(name)
            || aliases.iter().any(|alias| self.wanted.contains(alias))
            || collections_of(name).any(|collection| self.wanted.contains(&collection))
    }
}

/// The client's side of one aggregated stream, over all of its reconnections.
#[derive(Debug)]
pub struct Machine {
    node: Node,
    node_sent: bool,
    connected: bool,
    types: [TypeState; Kind::ALL.len()],
    collections: Collections,
    acknowledgements: VecDeque<Acknowledgement>,
}

impl Machine {
    /// A client that presents itself as `node` and wants nothing yet.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            node_sent: false,
            connected: false,
            types: Default::default(),
            collections: Collections::default(),
            acknowledgements: VecDeque::new(),
        }
    }

    /// A new stream is open; nonces and what the old one was told are void.
    pub fn connected(&mut self) {
        self.disconnected();
        self.connected = true;
    }

    /// The stream is gone. What is held stays.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.node_sent = false;
        self.acknowledgements.clear();
        self.collections.restart();
        for state in &mut self.types {
            state.introduced = false;
            state.changes.clear();
        }
    }

    /// Wants `name` from now on: a name, an alias, or a collection `…/*`.
    /// Returns false where it was wanted already.
    pub fn subscribe(&mut self, kind: Kind, name: &str) -> bool {
        let state = &mut self.types[kind.index()];
        if !state.wanted.insert(name.to_owned()) {
            return false;
        }
        if is_collection(name) {
            self.collections.add(name);
        }
        if state.introduced {
            state.changes.push_back(Change::Subscribe(name.to_owned()));
        }
        true
    }

    /// Wants `name` no longer. Returns the resources that are not held any
    /// more because nothing else wants them.
    pub fn unsubscribe(&mut self, kind: Kind, name: &str) -> Vec<String> {
        let state = &mut self.types[kind.index()];
        if !state.wanted.remove(name) {
            return Vec::new();
        }
        if is_collection(name) {
            self.collections.remove(name);
        }
        if state.introduced {
            // What the server was never told need not be taken back.
            let untold = state
                .changes
                .iter()
                .rposition(|change| *change == Change::Subscribe(name.to_owned()));
            match untold {
                Some(at) => drop(state.changes.remove(at)),
                None => state
                    .changes
                    .push_back(Change::Unsubscribe(name.to_owned())),
            }
        }
        self.drop_unwanted(kind)
    }

    /// Asks once more for a collection that has not been answered, as the
    /// protocol allows at any time.
    pub fn ask_again(&mut self, collection: &str) {
        let state = &mut self.types[Kind::Endpoint.index()];
        let again = Change::Subscribe(collection.to_owned());
        if state.introduced
            && state.wanted.contains(collection)
            && !self.collections.is_answered(collection)
            && !state.changes.contains(&again)
        {
            state.changes.push_back(again);
        }
    }

    /// No question about a collection can still be under way.
    pub fn forget_open_questions(&mut self) {
        self.collections.forget_open();
    }

    /// The collections that wait for their answer.
    pub fn unanswered(&self) -> Vec<String> {
        self.collections.unanswered().map(str::to_owned).collect()
    }

    /// Whether all members of a collection are known.
    pub fn is_complete(&self, collection: &str) -> bool {
        self.collections.is_answered(collection)
    }

    /// Responses whose ACK or NACK has not been sent.
    pub fn pending_acknowledgements(&self) -> usize {
        self.acknowledgements.len()
    }

    /// The version of a resource that is held.
    pub fn version(&self, kind: Kind, name: &str) -> Option<&str> {
        let held = self.types[kind.index()].held.get(name)?;
        Some(&held.version)
    }

    /// Names and versions of all that is held of a type.
    pub fn held(&self, kind: Kind) -> impl Iterator<Item = (&str, &str)> {
        self.types[kind.index()]
            .held
            .iter()
            .map(|(name, held)| (name.as_str(), held.version.as_str()))
    }

    /// What to send next; `None` when the server has been told everything.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.connected {
            return None;
        }
        let mut request = self
            .next_acknowledgement()
            .or_else(|| {
                Kind::ALL
                    .into_iter()
                    .find_map(|kind| self.introduction(kind))
            })
            .or_else(|| {
                Kind::ALL
                    .into_iter()
                    .find_map(|kind| self.next_change(kind))
            })?;
        if !self.node_sent {
            self.node_sent = true;
            request.node = Some(self.node.clone());
        }
        Some(request)
    }

    fn drop_unwanted(&mut self, kind: Kind) -> Vec<String> {
        let state = &mut self.types[kind.index()];
        let unwanted: Vec<String> = state
            .held
            .iter()
            .filter(|(name, held)| !state.wants(name, &held.aliases))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &unwanted {
            state.held.remove(name);
        }
        unwanted
    }
}

#[cfg(test)]
mod exchange_tests;
#[cfg(test)]
mod property_tests;
