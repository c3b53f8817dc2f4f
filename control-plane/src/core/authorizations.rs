//! AuthorizationPolicies: which of them count for a pod, and for which of its
//! ports. There are no conflicts between them: all that are there count.

use std::collections::{BTreeMap, BTreeSet};

use remora_proto::spiffe::SpiffeId;
use remora_proto::v1::{self, authorization};
use remora_proto::well_known;

use super::index::{Index, within};
use super::objects::{Id, Name, Pod, Target};
use super::policies::{Condition, Named, Reason, judged, missing};
use super::ports::covered_ports;
use super::resolve::reference;
use super::scope::Scope;

/// An AuthorizationPolicy, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub id: Id,
    /// Rises with each change of the spec.
    pub generation: i64,
    /// Whom it is for.
    pub scope: Scope,
    /// What it says.
    pub says: Says,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq)]
pub struct Says {
    /// What a match means.
    pub action: authorization::Action,
    /// Of whom, any of them; none: of everybody.
    pub from: Vec<Caller>,
    /// What, any of them; none: everything.
    pub to: Vec<v1::RequestMatch>,
}

/// Callers; all that is given must match.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// Any of them.
    pub identities: Vec<Identity>,
    /// Any of them.
    pub namespaces: Vec<String>,
}

/// Who a caller is.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    /// A whole SPIFFE id.
    Whole(String),
    /// Namespace and service account in the trust domain of the pod that is called.
    Own(String, String),
}

/// Every AuthorizationPolicy.
pub type Authorizations = BTreeMap<Id, AuthorizationPolicy>;

/// Adds to a pod's Workload what counts for it; whose it is.
pub fn add(index: &Index, pod: &Pod, workload: &mut v1::Workload) -> Vec<v1::PolicyReference> {
    let domain = pod.trust_domain.as_ref().or(index.trust_domain.as_ref());
    let domain = domain.map_or(well_known::TRUST_DOMAIN, |domain| &**domain);
    let mut references = Vec::new();
    for (_, policy) in within(&index.authorizations, &pod.id.namespace) {
        let Some(ports) = ports(index, policy, pod) else {
            continue;
        };
        let reference = reference(&policy.id, policy.generation);
        references.push(reference.clone());
        workload.authorizations.push(v1::Authorization {
            policy: Some(reference),
            action: policy.says.action.into(),
            from: policy
                .says
                .from
                .iter()
                .map(|one| caller(one, domain))
                .collect(),
            to: policy.says.to.clone(),
            ports: ports.into_iter().map(u32::from).collect(),
        });
    }
    workload.policies.extend(references.iter().cloned());
    references
}

/// The pod's ports for which a policy counts; empty: all of them.
fn ports(index: &Index, policy: &AuthorizationPolicy, pod: &Pod) -> Option<BTreeSet<u16>> {
    let targets = match &policy.scope {
        Scope::Pods(selector) => return selector.selects(&pod.labels).then(BTreeSet::new),
        Scope::Targets(targets) => targets,
    };
    if targets.contains(&Target::Namespace) {
        return Some(BTreeSet::new());
    }
    let services = targets.iter().filter_map(|target| match target {
        Target::Service(name) => index.services.get(&Id {
            namespace: policy.id.namespace.clone(),
            name: name.clone(),
        }),
        Target::Namespace | Target::Route { .. } => None,
    });
    let covered = services.flat_map(|service| covered_ports(index, service, pod));
    let covered: BTreeSet<u16> = covered.map(|(port, _)| port).collect();
    (!covered.is_empty()).then_some(covered)
}

fn caller(caller: &Caller, domain: &str) -> v1::CallerMatch {
    let identity = |identity: &Identity| match identity {
        Identity::Whole(id) => Some(id.clone()),
        // Both are names of their kind since they were read.
        Identity::Own(namespace, account) => SpiffeId::new(domain, namespace, account)
            .ok()
            .map(|id| id.to_string()),
    };
    v1::CallerMatch {
        identities: caller.identities.iter().filter_map(identity).collect(),
        namespaces: caller.namespaces.clone(),
    }
}

/// Of each policy and target, in the order of names. Of a selector the target is
/// the Namespace.
pub fn conditions(
    policies: &Authorizations,
    named: impl Fn(&Name, &Target) -> Named,
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for policy in policies.values() {
        let namespace = &policy.id.namespace;
        let verdict = |target: &Target| {
            let in_force = || format!("in force on {}", target.shown(namespace));
            missing(namespace, target, &named).unwrap_or_else(|| (Reason::Accepted, in_force()))
        };
        let judged = judged(&policy.id, policy.generation, &policy.scope, verdict);
        conditions.extend(judged);
    }
    conditions
}

impl Index {
    pub(super) fn apply_authorization(&mut self, policy: AuthorizationPolicy) {
        let before = self.authorizations.get(&policy.id);
        if before == Some(&policy) {
            return;
        }
        let mut touched = self.guarded(&policy);
        touched.extend(before.into_iter().flat_map(|before| self.guarded(before)));
        self.dirty.pods.extend(touched);
        self.authorizations.insert(policy.id.clone(), policy);
    }

    pub(super) fn delete_authorization(&mut self, id: &Id) {
        if let Some(before) = self.authorizations.remove(id) {
            let touched = self.guarded(&before);
            self.dirty.pods.extend(touched);
        }
    }

    /// The pods for which a policy counts.
    fn guarded(&self, policy: &AuthorizationPolicy) -> BTreeSet<Id> {
        let counts = |pod: &Pod| ports(self, policy, pod).is_some();
        self.pods_where(&policy.id.namespace, counts)
    }
}
