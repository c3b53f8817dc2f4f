//! What the client takes from a response, and how it answers.

use std::collections::BTreeSet;

use remora_proto::discovery::{DeltaDiscoveryResponse, Resource};

use super::{
    Acknowledgement, Event, Held, Kind, Machine, TypeState, collections_of, is_collection,
};

/// The reasons in a NACK are cut at this many bytes.
pub const MAX_ERROR_BYTES: usize = 16 * 1024;
/// No name, alias or version of a resource is longer, in bytes.
const MAX_NAME_BYTES: usize = 1024;
/// No resource has more aliases.
const MAX_ALIASES: usize = 256;

/// What a response brought and whether it was accepted whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<T> {
    /// In the order in which they must be applied.
    pub events: Vec<Event<T>>,
    /// The error of the NACK that will be sent; `None`: an ACK.
    pub error: Option<String>,
}

impl Machine {
    /// Takes a response. `decode` says what a resource's bytes mean, or why
    /// they cannot be taken. The answer is queued for [`Machine::next_request`].
    pub fn receive<T>(
        &mut self,
        response: DeltaDiscoveryResponse,
        mut decode: impl FnMut(Kind, &str, &[u8]) -> Result<T, String>,
    ) -> Received<T> {
        let (events, error) = match Kind::from_type_url(&response.type_url) {
            Some(kind) => {
                let mut events = self.take_removals(kind, &response.removed_resources);
                let mut refusals = Vec::new();
                self.take_resources(
                    kind,
                    &response.resources,
                    &mut decode,
                    &mut events,
                    &mut refusals,
                );
                if kind == Kind::Endpoint {
                    self.settle_collections(&response, &mut events);
                }
                let error = (!refusals.is_empty()).then(|| join_refusals(&refusals));
                (events, error)
            }
            None => (
                Vec::new(),
                Some("this type of resource was not asked for".to_owned()),
            ),
        };
        self.acknowledgements.push_back(Acknowledgement {
            type_url: response.type_url,
            nonce: response.nonce,
            error: error.clone(),
        });
        Received { events, error }
    }

    /// Removals come first: an address that moves from one service to another
    /// is removed with the old one and comes with the new one, perhaps in one response.
    fn take_removals<T>(&mut self, kind: Kind, removed: &[String]) -> Vec<Event<T>> {
        let mut events = Vec::new();
        let state = &mut self.types[kind.index()];
        for name in removed {
            if state.held.remove(name).is_some() {
                events.push(Event::Removed {
                    kind,
                    name: name.clone(),
                });
            }
            for held in state.held.values_mut() {
                held.aliases.retain(|alias| alias != name);
            }
            if !state.wanted.contains(name) {
                continue;
            }
            if is_collection(name) {
                let member = name.trim_end_matches('*');
                state.held.retain(|held, _| {
                    let stays = !held.starts_with(member);
                    if !stays {
                        let name = held.clone();
                        events.push(Event::Removed { kind, name });
                    }
                    stays
                });
            } else {
                events.push(Event::Absent {
                    kind,
                    name: name.clone(),
                });
            }
        }
        for name in self.drop_unwanted(kind) {
            events.push(Event::Removed { kind, name });
        }
        events
    }

    fn take_resources<T>(
        &mut self,
        kind: Kind,
        resources: &[Resource],
        decode: &mut impl FnMut(Kind, &str, &[u8]) -> Result<T, String>,
        events: &mut Vec<Event<T>>,
        refusals: &mut Vec<(String, String)>,
    ) {
        let mut seen = BTreeSet::new();
        for resource in resources {
            let state = &mut self.types[kind.index()];
            let outcome = check_envelope(kind, resource, &mut seen).and_then(|bytes| {
                // What nobody wants any more crossed the unsubscription on its way.
                if state.wants(&resource.name, &resource.aliases) {
                    decode(kind, &resource.name, bytes).map(Some)
                } else {
                    Ok(None)
                }
            });
            match outcome {
                Ok(None) => {}
                Ok(Some(value)) => {
                    let held = Held {
                        version: resource.version.clone(),
                        aliases: resource.aliases.clone(),
                    };
                    let moved = state.take(&resource.name, held);
                    for name in moved {
                        events.push(Event::Removed { kind, name });
                    }
                    events.push(Event::Taken {
                        kind,
                        name: resource.name.clone(),
                        version: resource.version.clone(),
                        aliases: resource.aliases.clone(),
                        value,
                    });
                }
                Err(reason) => {
                    let name: String = resource.name.chars().take(MAX_NAME_BYTES).collect();
                    refusals.push((name.clone(), reason.clone()));
                    events.push(Event::Refused {
                        kind,
                        name,
                        version: resource.version.chars().take(MAX_NAME_BYTES).collect(),
                        aliases: resource.aliases.iter().take(MAX_ALIASES).cloned().collect(),
                        reason,
                    });
                }
            }
        }
    }

    fn settle_collections<T>(
        &mut self,
        response: &DeltaDiscoveryResponse,
        events: &mut Vec<Event<T>>,
    ) {
        if response.resources.is_empty() && response.removed_resources.is_empty() {
            if let Some(name) = self.collections.empty_response() {
                events.push(Event::Complete { name });
            }
            return;
        }
        let wanted = &self.types[Kind::Endpoint.index()].wanted;
        let members = response.resources.iter().map(|resource| &resource.name);
        let touched: BTreeSet<String> = members
            .flat_map(|name| collections_of(name))
            .chain(response.removed_resources.iter().cloned())
            .filter(|name| is_collection(name) && wanted.contains(name))
            .collect();
        for name in &touched {
            for name in self.collections.seen(name) {
                events.push(Event::Complete { name });
            }
        }
    }
}

impl TypeState {
    /// Holds a resource. Its aliases are its own from now on: returns the
    /// resources that were wanted only for one of them and are not held any
    /// more (a server that forgot the last stream does not tell of those).
    fn take(&mut self, name: &str, resource: Held) -> Vec<String> {
        let aliases = resource.aliases.clone();
        let before = self.held.insert(name.to_owned(), resource);
        if aliases.is_empty() || before.is_some_and(|before| before.aliases == aliases) {
            return Vec::new();
        }
        let mut moved = Vec::new();
        for (other, held) in &mut self.held {
            let count = held.aliases.len();
            if other != name {
                held.aliases.retain(|alias| !aliases.contains(alias));
            }
            if held.aliases.len() != count {
                moved.push((other.clone(), held.aliases.clone()));
            }
        }
        moved.retain(|(name, aliases)| !self.wants(name, aliases));
        for (name, _) in &moved {
            self.held.remove(name);
        }
        moved.into_iter().map(|(name, _)| name).collect()
    }
}

/// What can be said about a resource without knowing its meaning.
fn check_envelope<'a>(
    kind: Kind,
    resource: &'a Resource,
    seen: &mut BTreeSet<&'a str>,
) -> Result<&'a [u8], String> {
    if resource.name.is_empty() {
        return Err("has no name".to_owned());
    }
    let names = resource
        .aliases
        .iter()
        .chain([&resource.name, &resource.version]);
    if names.into_iter().any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(format!(
            "a name, alias or version is longer than {MAX_NAME_BYTES} bytes"
        ));
    }
    if resource.aliases.len() > MAX_ALIASES {
        return Err(format!("has more than {MAX_ALIASES} aliases"));
    }
    if !seen.insert(&resource.name) {
        return Err("is twice in one response".to_owned());
    }
    let Some(any) = &resource.resource else {
        return Err("has no content".to_owned());
    };
    if any.type_url != kind.type_url() {
        return Err(format!("is not of type {}", kind.type_url()));
    }
    Ok(&any.value)
}

fn join_refusals(refusals: &[(String, String)]) -> String {
    let mut joined = String::new();
    for (at, (name, reason)) in refusals.iter().enumerate() {
        let separator = if at == 0 { "" } else { "\n" };
        let line = format!("{separator}{name}: {reason}");
        if joined.len() + line.len() > MAX_ERROR_BYTES {
            let left = refusals.len() - at;
            joined.push_str(&format!("{separator}and {left} more"));
            break;
        }
        joined.push_str(&line);
    }
    joined
}
