//! Everything that is wrong in the source right now: what the source itself
//! could not read, and what only shows between objects. An object of a file
//! stands at its place there; one of a cluster is named by kind and name alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::core::Note;
use crate::core::objects::{Key, Kind};
use crate::policy::check::FieldError;
use crate::text;

/// One problem, as `/problems` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file; empty where the object is not from one.
    pub file: String,
    /// The line, from 1; 0 where it is not known.
    pub line: u64,
    /// The column, from 1; 0 where it is not known.
    pub column: u64,
    /// `TrafficPolicy shop/catalog`, or a whole kind of a cluster, `Pod`; empty
    /// where the object cannot be told.
    pub object: String,
    /// `spec.retries.budget.percent`; empty where it is about the whole.
    pub field: String,
    /// In words.
    pub message: String,
    /// Only to be known: nothing is wrong.
    pub information: bool,
}

/// As JSON; file, line and column are left out where there is no file.
impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Problem", 7)?;
        if !self.file.is_empty() {
            fields.serialize_field("file", &self.file)?;
            fields.serialize_field("line", &self.line)?;
            fields.serialize_field("column", &self.column)?;
        }
        fields.serialize_field("object", &self.object)?;
        fields.serialize_field("field", &self.field)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("information", &self.information)?;
        fields.end()
    }
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
    /// Of a cluster's objects; there are as many as there are broken ones.
    objects: BTreeMap<Key, BTreeSet<Problem>>,
    /// Of the watching of a cluster's kinds.
    watches: BTreeMap<Kind, BTreeSet<Problem>>,
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

    /// What is wrong now with one object of a cluster; nothing where it is right
    /// again, or gone.
    pub fn set_object(&self, key: &Key, errors: &[FieldError]) {
        let now = errors.iter().map(|error| Problem {
            object: key.to_string(),
            field: error.field.clone(),
            message: error.message.clone(),
            ..Problem::default()
        });
        let now: BTreeSet<Problem> = now.collect();
        let mut inner = self.lock();
        let before = inner.objects.remove(key).unwrap_or_default();
        log_new(&before, &now);
        if !now.is_empty() {
            inner.objects.insert(key.clone(), now);
        }
    }

    /// What is wrong now with the watching of one kind. (Whoever watches logs it.)
    pub fn set_watch(&self, kind: Kind, message: Option<String>) {
        let now = message.map(|message| Problem {
            object: kind.as_str().to_owned(),
            message,
            ..Problem::default()
        });
        self.lock().watches.insert(kind, now.into_iter().collect());
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
        let watches = inner.watches.values().flatten();
        let objects = inner.objects.values().flatten();
        let source = inner.source.iter().chain(watches).chain(objects);
        source.chain(&inner.located).cloned().collect()
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
        // Fields are quoted by the log itself; a message may hold what a user wrote.
        let message = text::clean(message);
        match (file.is_empty(), information) {
            (true, true) => tracing::info!(object, field, "{message}"),
            (true, false) => tracing::warn!(object, field, "{message}"),
            (false, true) => tracing::info!(file, line, column, object, field, "{message}"),
            (false, false) => tracing::warn!(file, line, column, object, field, "{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::objects::{Id, Kind};

    #[test]
    fn an_object_of_a_cluster_is_named_without_a_file() {
        let key = Key {
            kind: Kind::TrafficPolicy,
            id: Id::new("shop", "a"),
        };
        let problems = Problems::default();
        let error = FieldError {
            field: "spec.retries.attempts".to_owned(),
            message: "is 99, must be from 0 to 10".to_owned(),
        };
        problems.set_object(&key, std::slice::from_ref(&error));
        problems.set_watch(Kind::Pod, Some("away".to_owned()));
        let shown = serde_json::to_value(problems.all()).unwrap();
        let wanted = serde_json::json!([
            {"object": "Pod", "field": "", "message": "away", "information": false},
            {"object": "TrafficPolicy shop/a", "field": error.field, "message": error.message,
             "information": false},
        ]);
        assert_eq!(shown, wanted);
        problems.set_object(&key, &[]);
        problems.set_watch(Kind::Pod, None);
        assert_eq!(problems.all(), []);
    }

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
