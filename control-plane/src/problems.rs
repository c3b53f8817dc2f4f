//! Everything that is wrong in the source right now: what the source itself
//! could not read, and what only shows between objects.

use std::collections::{BTreeSet, HashMap};
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
}

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line of its document's first field.
    pub line: u64,
}

#[derive(Default)]
struct Inner {
    source: BTreeSet<Problem>,
    notes: BTreeSet<Problem>,
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
    }

    /// What shows between objects now.
    pub fn set_notes(&self, notes: Vec<Note>) {
        let mut inner = self.lock();
        let located = notes.into_iter().map(|note| {
            let place = inner.places.get(&note.key);
            Problem {
                file: place.map(|place| place.file.clone()).unwrap_or_default(),
                line: place.map_or(0, |place| place.line),
                column: 0,
                object: note.key.to_string(),
                field: note.field,
                message: note.message,
            }
        });
        let located: BTreeSet<Problem> = located.collect();
        log_new(&inner.notes, &located);
        inner.notes = located;
    }

    /// All of now.
    pub fn all(&self) -> Vec<Problem> {
        let inner = self.lock();
        inner.source.iter().chain(&inner.notes).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
        } = problem;
        tracing::warn!(file, line, column, object, field, "{message}");
    }
}
