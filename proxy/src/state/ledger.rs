//! Which resources are in force and which were refused, for the admin
//! endpoint and for the reports. Each entry knows when it last changed, so
//! that a report can tell only what is new.

use std::collections::BTreeMap;

use super::resource::PolicyReference;
use crate::clock::{self, Timestamp};
use crate::stream::Kind;

/// Refused resources and resources no longer held that are remembered; beyond
/// that the oldest go.
pub const MAX_REMEMBERED: usize = 1024;

/// A resource in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its type.
    pub kind: Kind,
    /// Its canonical name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub applied_at_ms: u64,
    /// The policies that took part in it.
    pub policies: Vec<PolicyReference>,
}

/// A resource that could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its type.
    pub kind: Kind,
    /// Its canonical name.
    pub name: String,
    /// The version that was refused.
    pub version: String,
    /// Why.
    pub reason: String,
}

/// What changed since some point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The point that these changes lead to.
    pub sequence: u64,
    /// In force now.
    pub applied: Vec<Applied>,
    /// No longer held.
    pub dropped: Vec<(Kind, String)>,
    /// Refused.
    pub refused: Vec<Refused>,
}

type Key = (Kind, String);

/// The ledger. Sequence 0 is before everything.
#[derive(Debug, Default)]
pub struct Ledger {
    sequence: u64,
    applied: BTreeMap<Key, (u64, Applied)>,
    refused: BTreeMap<Key, (u64, Refused)>,
    dropped: BTreeMap<Key, u64>,
    /// A change that is no longer remembered: who knows less must begin anew.
    forgotten: u64,
}

impl Ledger {
    /// A resource is in force.
    pub fn apply(
        &mut self,
        kind: Kind,
        name: &str,
        version: &str,
        policies: &[PolicyReference],
        now: Timestamp,
    ) {
        self.sequence += 1;
        let key = (kind, name.to_owned());
        self.refused.remove(&key);
        self.dropped.remove(&key);
        let applied = Applied {
            kind,
            name: name.to_owned(),
            version: version.to_owned(),
            applied_at_ms: clock::unix_ms(now),
            policies: policies.to_vec(),
        };
        self.applied.insert(key, (self.sequence, applied));
    }

    /// A resource could not be taken.
    pub fn refuse(&mut self, kind: Kind, name: &str, version: &str, reason: &str) {
        self.sequence += 1;
        if self.refused.len() >= MAX_REMEMBERED {
            let oldest = self.refused.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.refused.remove(&key);
            }
        }
        let refused = Refused {
            kind,
            name: name.to_owned(),
            version: version.to_owned(),
            reason: reason.to_owned(),
        };
        self.refused
            .insert((kind, name.to_owned()), (self.sequence, refused));
    }

    /// A resource is no longer held.
    pub fn drop_resource(&mut self, kind: Kind, name: &str) {
        let key = (kind, name.to_owned());
        let was_refused = self.refused.remove(&key).is_some();
        if self.applied.remove(&key).is_none() && !was_refused {
            return;
        }
        self.sequence += 1;
        if self.dropped.len() >= MAX_REMEMBERED {
            let oldest = self.dropped.iter().min_by_key(|(_, at)| **at);
            if let Some((key, at)) = oldest.map(|(key, at)| (key.clone(), *at)) {
                self.dropped.remove(&key);
                self.forgotten = self.forgotten.max(at);
            }
        }
        self.dropped.insert(key, self.sequence);
    }

    /// What changed after `sequence`, oldest first, at most `at_most` entries;
    /// `sequence` 0 is from the beginning on. `start` is the point at which the
    /// asker began to be told: what was dropped before is no news to it.
    /// `None` when changes since then are no longer known in full, and the
    /// asker must begin anew.
    pub fn changes_since(&self, sequence: u64, start: u64, at_most: usize) -> Option<Changes> {
        let known = sequence.max(start);
        if known < self.forgotten {
            return None;
        }
        let applied = self.applied.values().map(|(at, _)| *at);
        let refused = self.refused.values().map(|(at, _)| *at);
        let dropped = self.dropped.values().copied().filter(|at| *at > known);
        let mut changed: Vec<u64> = applied
            .chain(refused)
            .filter(|at| *at > sequence)
            .chain(dropped)
            .collect();
        changed.sort_unstable();
        let until = match changed.get(at_most) {
            Some(_) => changed[..at_most].last().copied().unwrap_or(sequence),
            None => self.sequence,
        };
        let told = |at: u64| at > sequence && at <= until;
        let applied = self.applied.values().filter(|(at, _)| told(*at));
        let refused = self.refused.values().filter(|(at, _)| told(*at));
        let dropped = self
            .dropped
            .iter()
            .filter(|(_, at)| **at > known && **at <= until);
        Some(Changes {
            sequence: until,
            applied: applied.map(|(_, applied)| applied.clone()).collect(),
            dropped: dropped.map(|(key, _)| key.clone()).collect(),
            refused: refused.map(|(_, refused)| refused.clone()).collect(),
        })
    }

    /// The point reached.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// All that is in force.
    pub fn applied(&self) -> impl Iterator<Item = &Applied> {
        self.applied.values().map(|(_, applied)| applied)
    }

    /// All that was refused and not followed by a good version.
    pub fn refused(&self) -> impl Iterator<Item = &Refused> {
        self.refused.values().map(|(_, refused)| refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(ledger: &mut Ledger, name: &str, version: &str) {
        let now = Timestamp::from_millis(5000);
        ledger.apply(Kind::Service, name, version, &[], now);
    }

    const ALL: usize = usize::MAX;

    #[test]
    fn only_what_changed_is_told() {
        let mut ledger = Ledger::default();
        apply(&mut ledger, "shop/a", "1");
        apply(&mut ledger, "shop/b", "1");
        let seen = ledger.sequence();
        let nothing = Changes {
            sequence: seen,
            ..Changes::default()
        };
        assert_eq!(ledger.changes_since(seen, seen, ALL), Some(nothing));

        apply(&mut ledger, "shop/b", "2");
        ledger.drop_resource(Kind::Service, "shop/a");
        ledger.refuse(Kind::Service, "shop/b", "3", "ports: too many");
        let changes = ledger.changes_since(seen, seen, ALL).unwrap();
        assert_eq!(changes.applied.len(), 1);
        assert_eq!(changes.applied[0].version, "2");
        assert_eq!(changes.dropped, [(Kind::Service, "shop/a".to_owned())]);
        assert_eq!(changes.refused[0].version, "3");
    }

    #[test]
    fn a_good_version_ends_the_refusal_and_the_absence() {
        let mut ledger = Ledger::default();
        ledger.refuse(Kind::Service, "shop/a", "1", "bad");
        apply(&mut ledger, "shop/a", "2");
        assert_eq!(ledger.refused().count(), 0);
        ledger.drop_resource(Kind::Service, "shop/a");
        apply(&mut ledger, "shop/a", "3");
        let changes = ledger.changes_since(0, 0, ALL).unwrap();
        assert!(changes.dropped.is_empty());
    }

    #[test]
    fn a_long_tale_is_told_in_pieces_without_loss() {
        let mut ledger = Ledger::default();
        for index in 0..25 {
            apply(&mut ledger, &format!("shop/{index}"), "1");
        }
        let start = ledger.sequence();
        let (mut told, mut sequence) = (0, 0);
        while sequence < ledger.sequence() {
            let changes = ledger.changes_since(sequence, start, 10).unwrap();
            assert!(changes.applied.len() <= 10);
            told += changes.applied.len();
            sequence = changes.sequence;
        }
        assert_eq!(told, 25);
    }

    #[test]
    fn who_missed_too_much_begins_anew() {
        let mut ledger = Ledger::default();
        for index in 0..=MAX_REMEMBERED {
            apply(&mut ledger, &format!("shop/{index}"), "1");
        }
        let seen = ledger.sequence();
        for index in 0..=MAX_REMEMBERED {
            ledger.drop_resource(Kind::Service, &format!("shop/{index}"));
        }
        assert_eq!(ledger.dropped.len(), MAX_REMEMBERED);
        assert_eq!(ledger.changes_since(seen, seen, ALL), None);
        let recent = ledger.changes_since(seen + 1, seen + 1, ALL).unwrap();
        assert_eq!(recent.dropped.len(), MAX_REMEMBERED);
        let anew = ledger.changes_since(0, ledger.sequence(), ALL).unwrap();
        assert!(anew.dropped.is_empty() && anew.applied.is_empty());
    }
}
