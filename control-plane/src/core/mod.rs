//! The heart of the control plane, free of Kubernetes and of the transport:
//! fed events about compact objects, it publishes the resources of the stream.
//!
//! # Layout
//! - [`objects`]: what events are about.
//! - [`scope`]: whom one policy is for.
//! - [`settings`]: what it says.
//! - [`policies`]: which policy is in force where, and what is said of the others.
//! - [`index`]: the objects, and in reverse who depends on which.
//! - `health`: what probes say of pods' ports.
//! - [`notes`]: what is to be said of them though each is right in itself.
//! - [`resolve`]: policies to what a sidecar does.
//! - [`authorizations`]: who may call a pod.
//! - [`mtls`]: what a pod's ports take without the mesh's TLS.
//! - [`ports`]: what is spoken on a pod's ports, and between sidecars there.
//! - [`enforced`]: the rate limits of a pod's own sidecar, within their bounds.
//! - [`effective`]: what of all this statuses show.
//! - [`routes`]: where calls go.
//! - [`publish`]: objects to resources.
//! - [`store`]: the resources, encoded once, and who is woken for which.

pub mod authorizations;
pub mod effective;
pub mod enforced;
mod health;
pub mod index;
pub mod mtls;
pub mod notes;
pub mod objects;
pub mod policies;
pub mod ports;
pub mod publish;
pub mod resolve;
pub mod routes;
pub mod scope;
pub mod settings;
pub mod store;

use std::collections::BTreeSet;
use std::sync::Arc;

use objects::{Event, Id, Key, Name, Pod};
use policies::Condition;
use resolve::leaves::rule::RuleLeaves;
use routes::judged::Verdicts;

use crate::reports::mesh::Known;
use crate::stream::session::Node;

/// The control plane's knowledge, and the resources made of it.
pub struct Core {
    index: index::Index,
    publisher: publish::Publisher,
    synced: bool,
    conditions: Arc<Vec<Condition>>,
    authorization_conditions: Arc<Vec<Condition>>,
}

/// Something that one object alone did not show to be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The object.
    pub key: Key,
    /// The field that it is about.
    pub field: String,
    /// In words.
    pub message: String,
    /// Only to be known: nothing is wrong.
    pub information: bool,
}

impl Core {
    /// An empty one, which publishes into `store`; with a trust domain it says
    /// who pods are, where their sidecars can show it.
    pub fn new(store: Arc<store::Store>, trust_domain: Option<&str>) -> Self {
        Self {
            index: index::Index::new(trust_domain.map(Name::from)),
            publisher: publish::Publisher::new(store),
            synced: false,
            conditions: Arc::default(),
            authorization_conditions: Arc::default(),
        }
    }

    /// Takes events that belong together, then publishes what they changed.
    /// A resource that several of them touch is published once.
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>) {
        let (mut moved, mut judged_anew) = (false, false);
        for event in events {
            match event {
                Event::Apply(object) => {
                    judged_anew |= judges_policies(object.key().kind);
                    self.index.apply(object);
                }
                Event::Delete(key) => {
                    judged_anew |= judges_policies(key.kind);
                    self.index.delete(&key);
                }
                Event::Synced => self.synced = true,
                Event::Health(health) => self.index.set_health(health),
                Event::ReportsAddress(address) => {
                    moved |= self.publisher.set_reports_address(address);
                }
            }
        }
        let mut dirty = self.index.take_dirty();
        if moved {
            // Every Workload says where reports go.
            dirty.pods.extend(self.index.pods.keys().cloned());
        }
        self.publisher.publish(&self.index, dirty);
        if self.publisher.take_left_out_change() || judged_anew {
            let conditions = self.judge();
            if *self.conditions != conditions {
                self.conditions = Arc::new(conditions);
            }
        }
        if judged_anew {
            let named =
                |namespace: &Name, target: &objects::Target| self.index.named(namespace, target);
            let conditions = authorizations::conditions(&self.index.authorizations, named);
            if *self.authorization_conditions != conditions {
                self.authorization_conditions = Arc::new(conditions);
            }
        }
    }

    /// Whether the source has given all it had at the start.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The conditions of every AuthorizationPolicy, for its status.
    pub fn authorization_conditions(&self) -> Arc<Vec<Condition>> {
        self.authorization_conditions.clone()
    }

    /// The conditions of every TrafficPolicy, for its status.
    pub fn conditions(&self) -> Arc<Vec<Condition>> {
        self.conditions.clone()
    }

    /// The conditions of every route, for its status.
    pub fn route_verdicts(&self) -> Arc<Verdicts> {
        self.publisher.route_verdicts()
    }

    /// What is in force on the rules of the Service's routes, where it is more than on the Service.
    pub fn rules_of(&self, service: &Id) -> Vec<RuleLeaves> {
        resolve::leaves::rule::of_service(&self.index, service)
    }

    fn judge(&self) -> Vec<Condition> {
        let named = |namespace: &Name, target: &_| self.index.named(namespace, target);
        let mut conditions = self.index.policies.conditions(named);
        enforced::mark(self.publisher.left_out(), &mut conditions);
        effective::add(&self.index, &mut conditions);
        conditions
    }

    /// The limits of the whole mesh, and who may hold shares of them. A pod without an address
    /// has never had its sidecar started.
    pub fn mesh_limits(&self) -> Known {
        let limits = self.index.policies.mesh_limits();
        let pods = self.index.pods.values().filter(|_| !limits.is_empty());
        let started = pods.filter(|pod| pod.sidecar && !pod.ended && !pod.addresses.is_empty());
        let node = |pod: &Pod| Node {
            namespace: pod.id.namespace.to_string(),
            pod: pod.id.name.to_string(),
            pod_uid: pod.uid.to_string(),
        };
        let sidecars = started.map(node).collect();
        Known { limits, sidecars }
    }

    /// Running pods that should have a sidecar and have none.
    pub fn without_sidecar(&self) -> impl Iterator<Item = &Pod> {
        self.index.without_sidecar()
    }

    /// Namespaces that ask for sidecars, or have some.
    pub fn meshed_namespaces(&self) -> BTreeSet<Name> {
        self.index.meshed_namespaces()
    }

    /// What is wrong between objects, and what is only to be known.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = self.index.notes();
        let of_kind = |kind, conditions| refused(conditions).map(move |one| (kind, one));
        let refused = of_kind(objects::Kind::TrafficPolicy, &self.conditions).chain(of_kind(
            objects::Kind::AuthorizationPolicy,
            &self.authorization_conditions,
        ));
        notes.extend(refused.map(|(kind, condition)| Note {
            key: Key {
                kind,
                id: condition.policy.clone(),
            },
            field: format!("spec.targetRefs[{}]", condition.target_index),
            message: format!("{}: {}", condition.reason.as_str(), condition.message),
            information: false,
        }));
        let verdicts = self.publisher.route_verdicts();
        notes.extend(verdicts.values().flat_map(|verdict| verdict.notes()));
        notes
    }
}

/// Whether objects of this kind decide which policy is in force where.
fn judges_policies(kind: objects::Kind) -> bool {
    use objects::Kind;
    matches!(
        kind,
        Kind::TrafficPolicy
            | Kind::AuthorizationPolicy
            | Kind::Service
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::ReferenceGrant
    )
}

fn refused(conditions: &[Condition]) -> impl Iterator<Item = &Condition> {
    conditions.iter().filter(|condition| !condition.accepted)
}

#[cfg(test)]
mod tests;
