//! Which policy is in force on which target. On one target the oldest is in
//! force whole, every newer one is Conflicted there; a target that is not
//! there is TargetNotFound, and the policy in force as soon as it is.

use std::collections::{BTreeSet, HashMap};

use super::objects::{Created, Id, Name, Target, TrafficPolicy};

/// Where an object stands among its like, oldest first: those that say when
/// they were made before those that do not (those stand in the order of first
/// sight), then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    undated: bool,
    created: Created,
    first_seen: u64,
    id: Id,
}

impl Age {
    /// `first_seen` counts only where `created` is unknown.
    pub fn new(created: Created, first_seen: u64, id: Id) -> Self {
        let first_seen = if created.is_some() { 0 } else { first_seen };
        Self {
            undated: created.is_none(),
            created,
            first_seen,
            id,
        }
    }
}

/// Why a policy is accepted or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// In force.
    Accepted,
    /// An older policy has the target.
    Conflicted,
    /// The target is not there.
    TargetNotFound,
    /// What the object says cannot be taken.
    Invalid,
}

impl Reason {
    /// As it stands in a status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Conflicted => "Conflicted",
            Self::TargetNotFound => "TargetNotFound",
            Self::Invalid => "Invalid",
        }
    }
}

/// What stands under the name of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Nothing.
    Nothing,
    /// A Service that has no address of its own (ExternalName): calls to it
    /// cannot be told from others, so no policy can be in force there.
    External,
    /// A Service.
    Service,
}

/// The condition `Accepted` of one policy on one of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The policy.
    pub policy: Id,
    /// The generation that this is about.
    pub generation: i64,
    /// Which of its targets.
    pub target: Target,
    /// Where that one stands in `targetRefs`.
    pub target_index: usize,
    /// Whether the policy is in force there.
    pub accepted: bool,
    /// In one word.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

/// Every policy, and by target.
#[derive(Default)]
pub struct Policies {
    by_id: HashMap<Id, (TrafficPolicy, Age)>,
    by_target: HashMap<(Name, Target), BTreeSet<Age>>,
    seen: u64,
}

impl Policies {
    /// Takes a policy; returns the targets that it touches now or touched before.
    pub fn apply(&mut self, policy: TrafficPolicy) -> Vec<Target> {
        let held = self.by_id.get(&policy.id);
        if held.is_some_and(|(held, _)| *held == policy) {
            return Vec::new();
        }
        let first_seen = held.map(|(_, age)| age.first_seen).filter(|seen| *seen > 0);
        let first_seen = first_seen.unwrap_or_else(|| {
            self.seen += 1;
            self.seen
        });
        let mut touched = self.delete(&policy.id);
        let age = Age::new(policy.created, first_seen, policy.id.clone());
        for target in &policy.targets {
            let at = (policy.id.namespace.clone(), target.clone());
            self.by_target.entry(at).or_default().insert(age.clone());
            touched.push(target.clone());
        }
        self.by_id.insert(policy.id.clone(), (policy, age));
        touched
    }

    /// Forgets a policy; returns the targets that it touched.
    pub fn delete(&mut self, id: &Id) -> Vec<Target> {
        let Some((policy, age)) = self.by_id.remove(id) else {
            return Vec::new();
        };
        for target in &policy.targets {
            let at = (id.namespace.clone(), target.clone());
            if let Some(ages) = self.by_target.get_mut(&at) {
                ages.remove(&age);
                if ages.is_empty() {
                    self.by_target.remove(&at);
                }
            }
        }
        policy.targets
    }

    /// The policy in force on a target.
    pub fn in_force(&self, namespace: &Name, target: Target) -> Option<&TrafficPolicy> {
        let oldest = self.by_target.get(&(namespace.clone(), target))?.first()?;
        self.by_id.get(&oldest.id).map(|(policy, _)| policy)
    }

    /// How old a policy is among its like; an older one is less.
    pub fn age(&self, id: &Id) -> Option<&Age> {
        self.by_id.get(id).map(|(_, age)| age)
    }

    /// Of each policy and target, in the order of names.
    pub fn conditions(&self, named: impl Fn(&Id) -> Named) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut policies: Vec<_> = self.by_id.values().map(|(policy, _)| policy).collect();
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        for policy in policies {
            for (target_index, target) in policy.targets.iter().enumerate() {
                let (reason, message) = self.verdict(policy, target, &named);
                conditions.push(Condition {
                    policy: policy.id.clone(),
                    generation: policy.generation,
                    target: target.clone(),
                    target_index,
                    accepted: reason == Reason::Accepted,
                    reason,
                    message,
                });
            }
        }
        conditions
    }

    fn verdict(
        &self,
        policy: &TrafficPolicy,
        target: &Target,
        named: impl Fn(&Id) -> Named,
    ) -> (Reason, String) {
        let namespace = &policy.id.namespace;
        let shown = match target {
            Target::Service(name) => format!("Service {namespace}/{name}"),
            Target::Namespace => format!("Namespace {namespace}"),
        };
        if let Target::Service(name) = target {
            let id = Id {
                namespace: namespace.clone(),
                name: name.clone(),
            };
            let wrong = match named(&id) {
                Named::Service => None,
                Named::Nothing => Some((
                    Reason::TargetNotFound,
                    "does not exist; the policy is in force as soon as it does",
                )),
                Named::External => Some((
                    Reason::Invalid,
                    "is an ExternalName Service, which has no address of its own: calls to it \
                     are relayed untouched",
                )),
            };
            if let Some((reason, why)) = wrong {
                return (reason, format!("{shown} {why}"));
            }
        }
        match self.in_force(namespace, target.clone()) {
            Some(older) if older.id != policy.id => (
                Reason::Conflicted,
                format!(
                    "the older TrafficPolicy {} is in force on {shown}; this one is not",
                    older.id
                ),
            ),
            _ => (Reason::Accepted, format!("in force on {shown}")),
        }
    }
}
