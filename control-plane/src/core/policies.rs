//! Which policy is in force on which target. On one target the oldest is in
//! force whole, every newer one is Conflicted there; a target that is not
//! there is TargetNotFound, and the policy in force as soon as it is. Of those
//! that select pods all count: what they say (modes) has a strictest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::index::{Index, within};
use super::objects::{Created, Id, Name, Pod, Target, TrafficPolicy};
use super::scope::{Scope, Selector};
use super::settings::RateLimit;
use crate::policy::status::EffectiveField;
use crate::reports::mesh::apportion::Whole;
use crate::reports::mesh::{Limit, LimitKey};

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

    /// 0 where it says when it was made.
    pub(super) fn first_seen(&self) -> u64 {
        self.first_seen
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

/// What stands under the name of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Nothing.
    Nothing,
    /// A Service that has no address of its own (ExternalName): calls to it
    /// cannot be told from others, so no policy can be in force there.
    External,
    /// A Service.
    Service,
    /// A route, of which no rule has the name that is given.
    NoRule,
    /// A route that has no Service as its parent.
    NoParent,
    /// A route, with that rule where one is named.
    Route,
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
    /// Whether what the policy names is there; `None` where it names nothing.
    pub references: Option<References>,
    /// What is in force at the target, of all policies together.
    pub effective: Vec<EffectiveField>,
}

/// Whether what a policy names is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct References {
    /// In one word.
    pub reason: &'static str,
    /// Whether it is.
    pub are_resolved: bool,
    /// In words.
    pub message: String,
}

/// Every policy, and by target.
#[derive(Default)]
pub struct Policies {
    by_id: HashMap<Id, (TrafficPolicy, Age)>,
    by_target: HashMap<(Name, Target), BTreeSet<Age>>,
    /// Of each namespace those that select pods.
    of_pods: HashMap<Name, BTreeSet<Id>>,
    seen: u64,
    /// Of each namespace how many have an `mtls` block.
    mtls: HashMap<Name, usize>,
    /// Services to the policies whose fallback names them.
    by_fallback: BTreeMap<Id, BTreeSet<Id>>,
}

impl Policies {
    /// Takes a policy; returns whom it is for now, and whom it was for before.
    pub fn apply(&mut self, policy: TrafficPolicy) -> Vec<Scope> {
        let held = self.by_id.get(&policy.id);
        if held.is_some_and(|(held, _)| *held == policy) {
            return Vec::new();
        }
        let first_seen = held.map(|(_, age)| age.first_seen).filter(|seen| *seen > 0);
        let first_seen = first_seen.unwrap_or_else(|| {
            self.seen += 1;
            self.seen
        });
        let mut touched: Vec<Scope> = self.delete(&policy.id).into_iter().collect();
        let age = Age::new(policy.created, first_seen, policy.id.clone());
        let namespace = &policy.id.namespace;
        for target in policy.scope.targets() {
            let at = (namespace.clone(), target.clone());
            self.by_target.entry(at).or_default().insert(age.clone());
        }
        if policy.scope.selector().is_some() {
            let of_pods = self.of_pods.entry(namespace.clone()).or_default();
            of_pods.insert(policy.id.clone());
        }
        if policy.settings.mtls.is_some() {
            *self.mtls.entry(namespace.clone()).or_default() += 1;
        }
        if let Some(service) = fallback_of(&policy) {
            let named = self.by_fallback.entry(service.clone()).or_default();
            named.insert(policy.id.clone());
        }
        touched.push(policy.scope.clone());
        self.by_id.insert(policy.id.clone(), (policy, age));
        touched
    }

    /// Forgets a policy; returns whom it was for.
    pub fn delete(&mut self, id: &Id) -> Option<Scope> {
        let (policy, age) = self.by_id.remove(id)?;
        if policy.settings.mtls.is_some()
            && let Some(count) = self.mtls.get_mut(&id.namespace)
        {
            *count -= 1;
            if *count == 0 {
                self.mtls.remove(&id.namespace);
            }
        }
        if let Some(service) = fallback_of(&policy)
            && let Some(named) = self.by_fallback.get_mut(service)
        {
            named.remove(id);
            if named.is_empty() {
                self.by_fallback.remove(service);
            }
        }
        for target in policy.scope.targets() {
            let at = (id.namespace.clone(), target.clone());
            if let Some(ages) = self.by_target.get_mut(&at) {
                ages.remove(&age);
                if ages.is_empty() {
                    self.by_target.remove(&at);
                }
            }
        }
        if let Some(of_pods) = self.of_pods.get_mut(&id.namespace) {
            of_pods.remove(id);
            if of_pods.is_empty() {
                self.of_pods.remove(&id.namespace);
            }
        }
        Some(policy.scope)
    }

    /// One policy.
    pub fn find(&self, id: &Id) -> Option<&TrafficPolicy> {
        self.by_id.get(id).map(|(policy, _)| policy)
    }

    /// The policies with an `mtls` block.
    pub fn with_mtls(&self) -> impl Iterator<Item = &Id> {
        let policies = self.by_id.values().map(|(policy, _)| policy);
        let with = policies.filter(|policy| policy.settings.mtls.is_some());
        with.map(|policy| &policy.id)
    }

    /// Whether any policy of a namespace has an `mtls` block.
    pub fn say_mtls(&self, namespace: &Name) -> bool {
        self.mtls.contains_key(namespace)
    }

    /// Every rate limit with `scope: Mesh`, by policy (`namespace/name`) and name.
    pub fn mesh_limits(&self) -> BTreeMap<LimitKey, Limit> {
        let policies = self.by_id.values();
        let limits = policies.flat_map(|(policy, _)| policy.settings.rate_limits.iter().flatten());
        let mesh = limits.filter(|limit| limit.limit.mesh);
        let each = mesh.map(|RateLimit { at_caller, limit }| {
            let whole = Whole {
                requests: limit.requests,
                per_ms: limit.per_ms,
                burst: limit.burst,
            };
            let at_caller = *at_caller;
            let key = (limit.policy.clone(), limit.name.clone());
            (key, Limit { whole, at_caller })
        });
        each.collect()
    }

    /// The policy in force on a target.
    pub fn in_force(&self, namespace: &Name, target: Target) -> Option<&TrafficPolicy> {
        let oldest = self.by_target.get(&(namespace.clone(), target))?.first()?;
        self.by_id.get(&oldest.id).map(|(policy, _)| policy)
    }

    /// The policies of a namespace that select pods, in the order of their names.
    pub fn of_pods(&self, namespace: &Name) -> impl Iterator<Item = (&TrafficPolicy, &Selector)> {
        let ids = self.of_pods.get(namespace).into_iter().flatten();
        let policies = ids.filter_map(|id| self.by_id.get(id));
        policies.filter_map(|(policy, _)| Some((policy, policy.scope.selector()?)))
    }

    /// Those of them that select this pod.
    pub fn selecting(&self, pod: &Pod) -> impl Iterator<Item = &TrafficPolicy> {
        let of_pods = self.of_pods(&pod.id.namespace);
        let selecting = of_pods.filter(|(_, selector)| selector.selects(&pod.labels));
        selecting.map(|(policy, _)| policy)
    }

    /// How old a policy is among its like; an older one is less.
    pub fn age(&self, id: &Id) -> Option<&Age> {
        self.by_id.get(id).map(|(_, age)| age)
    }

    /// Of each policy and target, in the order of names. Of a selector the
    /// target is the Namespace.
    pub fn conditions(&self, named: impl Fn(&Name, &Target) -> Named) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut policies: Vec<_> = self.by_id.values().map(|(policy, _)| policy).collect();
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        for policy in policies {
            let verdict = |target: &Target| self.verdict(policy, target, &named);
            let judged = judged(&policy.id, policy.generation, &policy.scope, verdict);
            conditions.extend(judged);
        }
        conditions
    }

    fn verdict(
        &self,
        policy: &TrafficPolicy,
        target: &Target,
        named: impl Fn(&Name, &Target) -> Named,
    ) -> (Reason, String) {
        let namespace = &policy.id.namespace;
        let shown = target.shown(namespace);
        if let Some(missing) = missing(namespace, target, named) {
            return missing;
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

/// The Service that gets requests as the fallback of a policy.
fn fallback_of(policy: &TrafficPolicy) -> Option<&Id> {
    let fallback = policy.settings.fallback.as_ref()?;
    fallback.backend().map(|backend| &backend.service)
}

/// The conditions of one policy, of each target by this verdict. Of a selector
/// the target is the Namespace; that it selects no pod now is no fault.
pub fn judged(
    policy: &Id,
    generation: i64,
    scope: &Scope,
    verdict: impl Fn(&Target) -> (Reason, String),
) -> Vec<Condition> {
    let condition = |target: &Target, target_index, (reason, message)| Condition {
        policy: policy.clone(),
        generation,
        target: target.clone(),
        target_index,
        accepted: reason == Reason::Accepted,
        reason,
        message,
        references: None,
        effective: Vec::new(),
    };
    match scope {
        Scope::Pods(_) => {
            let namespace = &policy.namespace;
            let message =
                format!("in force on the pods of Namespace {namespace} that podSelector selects");
            vec![condition(
                &Target::Namespace,
                0,
                (Reason::Accepted, message),
            )]
        }
        Scope::Targets(targets) => {
            let targets = targets.iter().enumerate();
            let judged = targets.map(|(index, target)| condition(target, index, verdict(target)));
            judged.collect()
        }
    }
}

/// Why a target cannot have any policy, where it cannot: with the reason in words.
pub fn missing(
    namespace: &Name,
    target: &Target,
    named: impl Fn(&Name, &Target) -> Named,
) -> Option<(Reason, String)> {
    if *target == Target::Namespace {
        return None;
    }
    let (reason, why) = match named(namespace, target) {
        Named::Service | Named::Route => return None,
        Named::NoRule => (
            Reason::TargetNotFound,
            "is not there: no rule of the route has this name; the policy is in force as soon as \
             one has",
        ),
        Named::NoParent => (
            Reason::TargetNotFound,
            "has no Service as its parent, so that no call inside the mesh goes by it",
        ),
        Named::Nothing => (
            Reason::TargetNotFound,
            "does not exist; the policy is in force as soon as it does",
        ),
        Named::External => (
            Reason::Invalid,
            "is an ExternalName Service, which has no address of its own: calls to it are \
             relayed untouched",
        ),
    };
    Some((reason, format!("{} {why}", target.shown(namespace))))
}

impl Index {
    pub(super) fn apply_policy(&mut self, policy: TrafficPolicy) {
        let namespace = policy.id.namespace.clone();
        let modes = self.policies.say_mtls(&namespace);
        let touched = self.policies.apply(policy);
        let modes = modes || self.policies.say_mtls(&namespace);
        self.touch_scopes(&namespace, touched, modes);
    }

    pub(super) fn delete_policy(&mut self, id: &Id) {
        let modes = self.policies.say_mtls(&id.namespace);
        let touched = self.policies.delete(id);
        self.touch_scopes(&id.namespace, touched, modes);
    }

    /// A Service that came, went or changed is the fallback of these policies.
    pub(super) fn touch_fallbacks_to(&mut self, service: &Id) {
        let policies = self.policies.by_fallback.get(service);
        let policies = policies.cloned().unwrap_or_default();
        self.touch_policies(policies);
    }

    /// The policies of other namespaces whose fallback is in this one.
    pub(super) fn touch_fallbacks_into(&mut self, namespace: &Name) {
        let named = within(&self.policies.by_fallback, namespace);
        let policies = named.flat_map(|(_, policies)| policies);
        let foreign = policies.filter(|id| id.namespace != *namespace);
        let foreign = foreign.cloned().collect();
        self.touch_policies(foreign);
    }

    fn touch_policies(&mut self, policies: BTreeSet<Id>) {
        for id in policies {
            let held = self.policies.by_id.get(&id);
            let scope = held.map(|(policy, _)| policy.scope.clone());
            self.touch_scopes(&id.namespace, scope, false);
        }
    }

    /// `modes`: endpoints too may be others, because they say their mtls mode.
    fn touch_scopes(
        &mut self,
        namespace: &Name,
        scopes: impl IntoIterator<Item = Scope>,
        modes: bool,
    ) {
        for scope in scopes {
            match scope {
                Scope::Targets(targets) => {
                    for target in targets {
                        self.touch_target(namespace, target, modes);
                    }
                }
                Scope::Pods(selector) => {
                    let pods = self.pods_where(namespace, |pod| selector.selects(&pod.labels));
                    self.touch_pods(pods, modes);
                }
            }
        }
    }

    fn touch_target(&mut self, namespace: &Name, target: Target, modes: bool) {
        match target {
            Target::Service(name) => {
                let id = Id {
                    namespace: namespace.clone(),
                    name,
                };
                let pods = self.services.get(&id).map(|service| self.pods_of(service));
                self.dirty.services.insert(id);
                self.touch_pods(pods.unwrap_or_default(), modes);
            }
            Target::Route { .. } => self.touch_route(namespace, &target),
            Target::Namespace => {
                let services: Vec<Id> = within(&self.services, namespace)
                    .map(|(id, _)| id.clone())
                    .collect();
                self.dirty.services.extend(services);
                let pods = self.pods_where(namespace, |_| true);
                self.touch_pods(pods, modes);
            }
        }
    }

    pub(super) fn pods_where(
        &self,
        namespace: &Name,
        holds: impl Fn(&Pod) -> bool,
    ) -> BTreeSet<Id> {
        let pods = within(&self.pods, namespace).filter(|(_, pod)| holds(pod));
        pods.map(|(id, _)| id.clone()).collect()
    }

    fn touch_pods(&mut self, pods: BTreeSet<Id>, modes: bool) {
        for pod in pods.iter().filter(|_| modes) {
            self.touch_seats(pod);
        }
        self.dirty.pods.extend(pods);
    }
}
