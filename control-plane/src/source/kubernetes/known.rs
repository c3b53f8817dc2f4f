//! The objects of one kind as they are known here: so that a list which was
//! made anew tells what is gone, and an object that is broken keeps its last
//! good version in force.

use std::collections::BTreeMap;

use super::policies::PolicySeen;
use super::read::Seen;
use crate::core::objects::{Event, Id, Key, Kind, Name};
use crate::policy::check::FieldError;

/// What came of some news.
#[derive(Debug, Default)]
pub struct Changes {
    /// For the core.
    pub events: Vec<Event>,
    /// Of each object what is wrong with it now: nothing where it is right
    /// again, or gone.
    pub faults: Vec<(Id, Vec<FieldError>)>,
    /// Of each policy what was seen: none where it is gone.
    pub policies: Vec<(Id, Option<PolicySeen>)>,
    /// How many objects were told.
    pub count: usize,
}

/// The objects of one kind. There are as many here as the cluster has.
#[derive(Debug)]
pub struct Known {
    kind: Kind,
    held: BTreeMap<Id, Held>,
    /// The number of the list that is under way, or was last.
    list: u64,
}

#[derive(Debug)]
struct Held {
    uid: Name,
    /// The list that named it last; what a watch told counts as named.
    list: u64,
    /// The generation that the core was given, where it was given any.
    given: Option<i64>,
    faulty: bool,
}

impl Known {
    /// Of this kind, none.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            held: BTreeMap::new(),
            list: 0,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// A list begins. What it does not name until [`Known::end_list`] is gone.
    pub fn begin_list(&mut self) {
        self.list += 1;
    }

    /// The list is whole.
    pub fn end_list(&mut self, changes: &mut Changes) {
        let gone = self.held.iter().filter(|(_, held)| held.list != self.list);
        let gone: Vec<Id> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.delete(&id, changes);
        }
    }

    /// The kind itself is gone, and every object of it.
    pub fn clear(&mut self, changes: &mut Changes) {
        self.begin_list();
        self.end_list(changes);
    }

    /// An object is there, new or changed or as it was.
    pub fn apply(&mut self, seen: Seen, changes: &mut Changes) {
        changes.count += 1;
        let before = self.held.get(&seen.id);
        let was_faulty = before.is_some_and(|held| held.faulty);
        // One of the same name that was made anew inherits nothing.
        let before_given = before.and_then(|held| held.given);
        let inherited = before.filter(|held| held.uid == seen.uid);
        let inherited = inherited.and_then(|held| held.given);
        let (given, faults, invalid) = match seen.object {
            Ok(object) => {
                changes.events.push(Event::Apply(object));
                (Some(seen.generation), seen.faults, None)
            }
            Err(errors) => {
                if before_given.is_some() && inherited.is_none() {
                    changes.events.push(Event::Delete(self.key(&seen.id)));
                }
                (inherited, errors.clone(), Some(errors))
            }
        };
        let faulty = !faults.is_empty();
        if faulty || was_faulty {
            changes.faults.push((seen.id.clone(), faults));
        }
        if self.kind.has_status() {
            let policy = PolicySeen {
                kind: self.kind,
                id: seen.id.clone(),
                uid: seen.uid.clone(),
                generation: seen.generation,
                given,
                invalid,
                targets: seen.targets,
                status: seen.status,
            };
            changes.policies.push((seen.id.clone(), Some(policy)));
        }
        let held = Held {
            uid: seen.uid,
            list: self.list,
            given,
            faulty,
        };
        self.held.insert(seen.id, held);
    }

    /// An object is gone.
    pub fn delete(&mut self, id: &Id, changes: &mut Changes) {
        changes.count += 1;
        let Some(held) = self.held.remove(id) else {
            return;
        };
        if held.given.is_some() {
            changes.events.push(Event::Delete(self.key(id)));
        }
        if held.faulty {
            changes.faults.push((id.clone(), Vec::new()));
        }
        if self.kind.has_status() {
            changes.policies.push((id.clone(), None));
        }
    }

    fn key(&self, id: &Id) -> Key {
        Key {
            kind: self.kind,
            id: id.clone(),
        }
    }
}

/// In short what the core is told.
#[cfg(test)]
pub(super) fn shown(changes: &Changes) -> Vec<String> {
    let shown = changes.events.iter().map(|event| match event {
        Event::Apply(object) => format!("+{}", object.key().id.name),
        Event::Delete(key) => format!("-{}", key.id.name),
        Event::Synced => "synced".to_owned(),
        Event::Health(health) => format!("health of {}", health.id),
        Event::ReportsAddress(address) => format!("reports to {address:?}"),
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::objects::{Namespace, Object, Target};

    fn seen(name: &str, uid: &str, good: bool) -> Seen {
        let id = Id::new("shop", name);
        let error = FieldError {
            field: "spec.retries".to_owned(),
            message: "is wrong".to_owned(),
        };
        Seen {
            object: if good {
                Ok(Object::Namespace(Namespace {
                    id: id.clone(),
                    inject: false,
                }))
            } else {
                Err(vec![error])
            },
            id,
            uid: uid.into(),
            generation: 1,
            faults: Vec::new(),
            targets: vec![Target::Namespace],
            status: 0,
        }
    }

    fn told(work: impl FnOnce(&mut Changes)) -> Changes {
        let mut changes = Changes::default();
        work(&mut changes);
        changes
    }

    #[test]
    fn a_list_made_anew_tells_what_is_gone() {
        let mut known = Known::new(Kind::Pod);
        known.begin_list();
        let first = told(|changes| {
            known.apply(seen("a", "1", true), changes);
            known.apply(seen("b", "2", true), changes);
            known.end_list(changes);
        });
        assert_eq!(shown(&first), ["+a", "+b"]);
        let watched = told(|changes| known.apply(seen("c", "3", true), changes));
        assert_eq!(shown(&watched), ["+c"]);
        known.begin_list();
        let second = told(|changes| {
            known.apply(seen("b", "2", true), changes);
            known.apply(seen("c", "3", true), changes);
            known.end_list(changes);
        });
        assert_eq!(shown(&second), ["+b", "+c", "-a"]);
        // Of a list that was broken off nothing is concluded.
        known.begin_list();
        known.begin_list();
        let third = told(|changes| {
            known.apply(seen("b", "2", true), changes);
            known.apply(seen("c", "3", true), changes);
            known.end_list(changes);
        });
        assert_eq!(shown(&third), ["+b", "+c"]);
        assert_eq!(shown(&told(|changes| known.clear(changes))), ["-b", "-c"]);
        assert!(known.is_empty());
    }

    #[test]
    fn a_broken_object_keeps_its_last_good_version_but_not_that_of_another() {
        let mut known = Known::new(Kind::TrafficPolicy);
        let good = told(|changes| known.apply(seen("a", "1", true), changes));
        assert!(good.faults.is_empty());
        let bad = told(|changes| {
            known.apply(
                Seen {
                    generation: 2,
                    ..seen("a", "1", false)
                },
                changes,
            );
        });
        assert!(bad.events.is_empty(), "{bad:?}");
        assert_eq!(bad.faults[0].1[0].field, "spec.retries");
        let policy = bad.policies[0].1.as_ref().unwrap();
        assert_eq!((policy.generation, policy.given), (2, Some(1)));
        assert!(policy.invalid.is_some());
        // The same name, made anew, and broken from the start.
        let another = told(|changes| known.apply(seen("a", "2", false), changes));
        assert_eq!(shown(&another), ["-a"]);
        let mended = told(|changes| known.apply(seen("a", "2", true), changes));
        assert_eq!(shown(&mended), ["+a"]);
        assert_eq!(mended.faults, [(Id::new("shop", "a"), Vec::new())]);
        // Gone while broken: it is no problem any more either.
        told(|changes| known.apply(seen("a", "2", false), changes));
        let gone = told(|changes| known.delete(&Id::new("shop", "a"), changes));
        assert_eq!(shown(&gone), ["-a"]);
        assert_eq!(gone.faults, [(Id::new("shop", "a"), Vec::new())]);
        assert_eq!(gone.policies, [(Id::new("shop", "a"), None)]);
    }
}
