//! What is known of each policy of a kind of the cluster, and of each route, for
//! whoever writes its status: the core knows only those that could be read, and of these only the
//! version that is in force.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::core::objects::{Id, Kind, Name, Target};
use crate::policy::check::FieldError;

/// One policy, as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySeen {
    /// TrafficPolicy, AuthorizationPolicy, or a kind of route.
    pub kind: Kind,
    /// Namespace and name.
    pub id: Id,
    /// metadata.uid: another one is another object.
    pub uid: Name,
    /// metadata.generation of what was last seen.
    pub generation: i64,
    /// The generation that the core was given: the last good one. The same as
    /// `generation` where that one is good; none where none ever was.
    pub given: Option<i64>,
    /// Why `generation` cannot be in force, every fault of it; none where it
    /// is good (whether it is in force somewhere is for the core to say).
    pub invalid: Option<Vec<FieldError>>,
    /// The targets of what was last seen, in their order; of an invalid one
    /// those that can be read. A route has none.
    pub targets: Vec<Target>,
    /// Of a route what [`crate::gateway::status::mark`] says of its status: who writes it sees by
    /// it that somebody else did.
    pub status: u64,
}

/// Every policy of a kind.
pub struct Policies {
    seen: Mutex<BTreeMap<Id, PolicySeen>>,
    changes: watch::Sender<u64>,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Policies {
    /// All of them now, in the order of names.
    pub fn all(&self) -> Vec<PolicySeen> {
        self.lock().values().cloned().collect()
    }

    /// One of them.
    pub fn find(&self, id: &Id) -> Option<PolicySeen> {
        self.lock().get(id).cloned()
    }

    /// A receiver that is told of every change; the number in it only rises.
    /// What was told to the core is told here after it: the core may be behind,
    /// never ahead.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes what was seen of each; none is one that is gone.
    pub(super) fn update(&self, seen: Vec<(Id, Option<PolicySeen>)>) {
        let mut changed = false;
        let mut all = self.lock();
        for (id, seen) in seen {
            changed |= match seen {
                Some(seen) => all.insert(id, seen.clone()).as_ref() != Some(&seen),
                None => all.remove(&id).is_some(),
            };
        }
        drop(all);
        if changed {
            self.changes.send_modify(|number| *number += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, PolicySeen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_is_told() {
        let policies = Policies::default();
        let mut told = policies.changed();
        let seen = PolicySeen {
            kind: Kind::TrafficPolicy,
            id: Id::new("shop", "a"),
            uid: "1".into(),
            generation: 1,
            given: Some(1),
            invalid: None,
            targets: Vec::new(),
            status: 0,
        };
        let id = seen.id.clone();
        policies.update(vec![(id.clone(), Some(seen.clone()))]);
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        policies.update(vec![(id.clone(), Some(seen.clone()))]);
        assert!(!told.has_changed().unwrap());
        assert_eq!(policies.all(), [seen]);
        policies.update(vec![(id.clone(), None)]);
        assert!(told.has_changed().unwrap());
        assert_eq!(policies.find(&id), None);
    }
}
