//! Of each policy, how many sidecars have it, lag behind or refuse it, and how
//! many breakers it has open. Counted over what connected sidecars report.
//!
//! A sidecar is subscribed to a resource when it reports to have applied or
//! refused some version of it. It has a policy when it has applied the present
//! version of every resource in which the policy takes part.

use std::collections::{BTreeMap, HashMap};

use super::Sidecars;
use super::sidecar::{Sidecar, State};
use crate::core::objects::{Id, Kind, Name};
use crate::core::store::{Resource, ResourceType, Store};
use crate::stream::session::Node;

/// What was counted for one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sidecars subscribed to a resource in which it takes part.
    pub total: u32,
    /// Those of them that have applied the present version of every such one.
    pub applied: u32,
    /// Those of them that refuse the present version of one.
    pub refused: u32,
    /// One of the refusals, the same one as long as it stands.
    pub refusal: Option<Refusal>,
    /// Breakers of callers that are open for an endpoint of a service on which
    /// the policy is in force.
    pub open: u32,
    /// The same for half-open.
    pub half_open: u32,
}

/// A sidecar that refuses a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// `<namespace>/<pod>`
    pub sidecar: String,
    /// The resource's name.
    pub resource: String,
    /// In the sidecar's words.
    pub reason: String,
}

/// A resource in which policies take part.
struct Part {
    version: Name,
    policies: Vec<usize>,
    /// What sidecars of these namespaces have in its place.
    variants: BTreeMap<Name, Part>,
}

impl Part {
    /// As a sidecar of a namespace has it.
    fn of(&self, namespace: &str) -> &Self {
        self.variants.get(namespace).unwrap_or(self)
    }
}

/// The policies of a store, by number, and where each takes part.
struct Parts {
    ids: Vec<Id>,
    by_resource: HashMap<(ResourceType, Name), Part>,
}

impl Parts {
    fn of(store: &Store, of: Kind) -> Self {
        let mut parts = Self {
            ids: Vec::new(),
            by_resource: HashMap::new(),
        };
        let mut numbers: HashMap<Id, usize> = HashMap::new();
        // No policy takes part in an Endpoint.
        for kind in [ResourceType::Service, ResourceType::Workload] {
            for (general, variants) in store.with_policies(kind, of) {
                let mut part = |resource: &Resource, variants| {
                    let number = |id: &Id| {
                        *numbers.entry(id.clone()).or_insert_with(|| {
                            parts.ids.push(id.clone());
                            parts.ids.len() - 1
                        })
                    };
                    let policies = resource.policies_of(of).iter();
                    Part {
                        version: resource.version.clone(),
                        policies: policies.map(number).collect(),
                        variants,
                    }
                };
                let variants = variants.into_iter().map(|(namespace, variant)| {
                    let variant = part(&variant, BTreeMap::new());
                    (namespace, variant)
                });
                let variants = variants.collect();
                let whole = part(&general, variants);
                let key = (kind, general.name.clone());
                parts.by_resource.insert(key, whole);
            }
        }
        parts
    }
}

/// How one sidecar stands to one policy.
#[derive(Clone, Copy, Default)]
struct Mark {
    subscribed: bool,
    behind: bool,
    refuses: bool,
}

impl Sidecars {
    /// Of every policy of a kind that takes part in a resource of the store.
    pub fn tally(&self, of: Kind) -> HashMap<Id, Tally> {
        let parts = Parts::of(&self.store, of);
        let mut tallies = vec![Tally::default(); parts.ids.len()];
        let mut marks = vec![Mark::default(); parts.ids.len()];
        let mut touched = Vec::new();
        let known = self.lock();
        for (node, sidecar) in known.iter().filter(|(_, one)| one.is_connected()) {
            mark(&parts, node, sidecar, &mut marks, &mut touched);
            refusals(
                &parts,
                node,
                sidecar,
                (&mut marks, &mut touched),
                &mut tallies,
            );
            for policy in touched.drain(..) {
                let (tally, mark) = (&mut tallies[policy], std::mem::take(&mut marks[policy]));
                tally.total += 1;
                tally.refused += u32::from(mark.refuses);
                tally.applied += u32::from(!mark.refuses && !mark.behind);
            }
            breakers(&parts, node, sidecar, &mut tallies);
        }
        drop(known);
        parts.ids.into_iter().zip(tallies).collect()
    }
}

fn mark(
    parts: &Parts,
    node: &Node,
    sidecar: &Sidecar,
    marks: &mut [Mark],
    touched: &mut Vec<usize>,
) {
    for (key, version) in &sidecar.applied {
        let Some(part) = parts.by_resource.get(key) else {
            continue;
        };
        let part = part.of(&node.namespace);
        for policy in &part.policies {
            let mark = subscribed(marks, touched, *policy);
            mark.behind |= part.version != *version;
        }
    }
}

fn refusals(
    parts: &Parts,
    node: &Node,
    sidecar: &Sidecar,
    (marks, touched): (&mut [Mark], &mut Vec<usize>),
    tallies: &mut [Tally],
) {
    for (key, (version, reason)) in &sidecar.refused {
        let Some(part) = parts.by_resource.get(key) else {
            continue;
        };
        let part = part.of(&node.namespace);
        for policy in &part.policies {
            let mark = subscribed(marks, touched, *policy);
            mark.behind = true;
            // It refused another version, and will tell what it does with this one.
            if part.version != *version {
                continue;
            }
            mark.refuses = true;
            let sidecar = format!("{}/{}", node.namespace, node.pod);
            let refusal = Refusal {
                sidecar,
                resource: key.1.to_string(),
                reason: reason.clone(),
            };
            let known = &mut tallies[*policy].refusal;
            if known.as_ref().is_none_or(|known| refusal < *known) {
                *known = Some(refusal);
            }
        }
    }
}

fn subscribed<'a>(marks: &'a mut [Mark], touched: &mut Vec<usize>, policy: usize) -> &'a mut Mark {
    let mark = &mut marks[policy];
    if !std::mem::replace(&mut mark.subscribed, true) {
        touched.push(policy);
    }
    mark
}

fn breakers(parts: &Parts, node: &Node, sidecar: &Sidecar, tallies: &mut [Tally]) {
    for ((service, _), breaker) in &sidecar.breakers {
        let key = (ResourceType::Service, Name::from(service.as_str()));
        let part = parts.by_resource.get(&key);
        let policies = part.map(|part| &part.of(&node.namespace).policies);
        for policy in policies.into_iter().flatten() {
            match breaker.state {
                State::Open => tallies[*policy].open += 1,
                State::HalfOpen => tallies[*policy].half_open += 1,
                State::WouldOpen => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
