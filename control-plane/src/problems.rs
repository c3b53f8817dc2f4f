//! Everything that is wrong in the source right now: what the source itself
//! could not read, and what only shows between objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::core::Note;
use crate::core::objects::Key;

/// One problem, as `/problems` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 where it is not known.
    pub line: u64,
    /// The column, from 1; 0 where it is not known.
    pub column: u64,
    /// `TrafficPolicy shop/catalog`; empty where the object cannot be told.
    pub object: String,
    /// `spec.retries.budget.percent`; empty where it is about the whole.
    pub field: String,
    /// In words.
    pub message: String,
    /// Only to be known: nothing is wrong.
    pub information: bool,
}

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line of its document's first field.
    pub line: u64,
    /// Line and column of the fields that notes are about.
    pub fields: BTreeMap<String, (u64, u64)>,
}

#[derive(Default)]
struct Inner {
    source: BTreeSet<Problem>,
    notes: Vec<Note>,
    /// The notes with their places.
    located: BTreeSet<Problem>,
    places: HashMap<Key, Place>,
}

/// The problems of now. What is new is logged once.
#[derive(Default)]
pub struct Problems {
    inner: Mutex<Inner>,
}

impl Problems {
    /// What the source cannot read now, and where its objects stand.
    pub fn set_source(&self, problems: BTreeSet<Problem>, places: HashMap<Key, Place>) {
        let mut inner = self.lock();
        log_new(&inner.source, &problems);
        inner.source = problems;
        inner.places = places;
        // An object may move within its file, or to another, and say the same:
        // then no note comes anew, and those that are known must move along.
        inner.located = inner.locate();
    }

    /// What shows between objects now.
    pub fn set_notes(&self, notes: Vec<Note>) {
        let mut inner = self.lock();
        inner.notes = notes;
        let located = inner.locate();
        log_new(&inner.located, &located);
        inner.located = located;
    }

    /// All of now.
    pub fn all(&self) -> Vec<Problem> {
        let inner = self.lock();
        inner.source.iter().chain(&inner.located).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn locate(&self) -> BTreeSet<Problem> {
        let located = self.notes.iter().map(|note| {
            let place = self.places.get(&note.key);
            let whole = place.map_or(0, |place| place.line);
            let field = place.and_then(|place| place.fields.get(&note.field));
            let (line, column) = field.copied().unwrap_or((whole, 0));
            Problem {
                file: place.map(|place| place.file.clone()).unwrap_or_default(),
                line,
                column,
                object: note.key.to_string(),
                field: note.field.clone(),
                message: note.message.clone(),
                information: note.information,
            }
        });
        located.collect()
    }
}

fn log_new(before: &BTreeSet<Problem>, now: &BTreeSet<Problem>) {
    for problem in now.difference(before) {
        let Problem {
            file,
            line,
            column,
            object,
            field,
            message,
            information,
        } = problem;
        if *information {
            tracing::info!(file, line, column, object, field, "{message}");
        } else {
            tracing::warn!(file, line, column, object, field, "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::objects::{Id, Kind};

    #[test]
    fn a_note_moves_with_its_object() {
        let key = Key {
            kind: Kind::TrafficPolicy,
            id: Id::new("shop", "a"),
        };
        let at = |file: &str, line: u64| {
            let place = Place {
                file: file.to_owned(),
                line,
                fields: BTreeMap::from([("spec.targetRefs[0]".to_owned(), (line + 4, 17))]),
            };
            HashMap::from([(key.clone(), place)])
        };
        let problems = Problems::default();
        problems.set_source(BTreeSet::new(), at("a.yaml", 1));
        problems.set_notes(vec![Note {
            key: key.clone(),
            field: "spec.targetRefs[0]".to_owned(),
            message: "TargetNotFound".to_owned(),
            information: false,
        }]);
        let shown = || {
            let [problem] = &problems.all()[..] else {
                panic!("{:?}", problems.all());
            };
            (problem.file.clone(), problem.line, problem.column)
        };
        assert_eq!(shown(), ("a.yaml".to_owned(), 5, 17));
        // A comment above it, then another name of the file: the object says the same.
        problems.set_source(BTreeSet::new(), at("a.yaml", 3));
        assert_eq!(shown(), ("a.yaml".to_owned(), 7, 17));
        problems.set_source(BTreeSet::new(), at("b.yaml", 1));
        assert_eq!(shown(), ("b.yaml".to_owned(), 5, 17));
    }
}
