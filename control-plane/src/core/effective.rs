//! What is in force at the targets of policies, and whether what a fallback names is there: for
//! their statuses.

use std::collections::BTreeMap;

use super::index::Index;
use super::objects::{Id, Target};
use super::policies::{Condition, References};
use super::resolve::leaves::{Leaf, leaves, leaves_of_route};
use super::routes::references;
use crate::policy::status::EffectiveField;
use crate::text::cut;

/// Fields that a status shows of one target.
pub const MAX_FIELDS: usize = 128;
/// Bytes of one value.
pub const MAX_VALUE_BYTES: usize = 256;

/// Adds it to the conditions of TrafficPolicies.
pub fn add(index: &Index, conditions: &mut [Condition]) {
    let mut shown: BTreeMap<(Id, Target), Vec<EffectiveField>> = BTreeMap::new();
    for condition in conditions.iter_mut() {
        condition.references = resolved(index, &condition.policy);
        if !condition.accepted {
            continue;
        }
        let namespace = &condition.policy.namespace;
        let at = (Id::new(namespace, ""), condition.target.clone());
        let fields = shown.entry(at).or_insert_with(|| {
            let leaves = match &condition.target {
                Target::Service(name) => leaves(&index.policies, namespace, Some(name)),
                Target::Namespace => leaves(&index.policies, namespace, None),
                Target::Route { rule, .. } => {
                    let route = condition.target.route(namespace);
                    let rule = rule.clone().unwrap_or_else(|| "".into());
                    route.map_or_else(Vec::new, |route| {
                        leaves_of_route(&index.policies, &route, &rule)
                    })
                }
            };
            leaves.into_iter().take(MAX_FIELDS).map(field).collect()
        });
        condition.effective = fields.clone();
    }
}

fn resolved(index: &Index, policy: &Id) -> Option<References> {
    let settings = &index.policies.find(policy)?.settings;
    let backend = settings.fallback.as_ref()?.backend()?;
    Some(match references::fallback(index, backend) {
        None => References {
            reason: "ResolvedRefs",
            are_resolved: true,
            message: "all that it names is there".to_owned(),
        },
        Some(unresolved) => References {
            reason: unresolved.reason.as_str(),
            are_resolved: false,
            message: unresolved.message,
        },
    })
}

fn field(leaf: Leaf) -> EffectiveField {
    let mut value = match leaf.value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    if value.len() > MAX_VALUE_BYTES {
        cut(&mut value, MAX_VALUE_BYTES);
        value.push('…');
    }
    EffectiveField {
        field: leaf.field.to_owned(),
        value,
        from: leaf.from.map(|from| from.name),
    }
}
