//! Files to events: what is new, changed or gone; and what is broken, of which
//! the last good version stays in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::document::{self, Located, Read};
use crate::core::objects::{Event, Key, Object};
use crate::problems::{Place, Problem};

/// What became of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Its text now.
    Text(String),
    /// It cannot be read, and why.
    Unreadable(String),
    /// It is there no more.
    Gone,
}

#[derive(Clone)]
struct Given {
    object: Object,
    line: u64,
}

#[derive(Default)]
struct File {
    given: BTreeMap<Key, Given>,
    problems: Vec<Problem>,
    skipped: BTreeSet<String>,
}

/// The objects of all files.
#[derive(Default)]
pub struct Folder {
    files: BTreeMap<String, File>,
    /// Which files give an object.
    givers: HashMap<Key, BTreeSet<String>>,
    /// Of those the one whose object it is, and the object as last told.
    in_force: HashMap<Key, (String, Object)>,
    told_skipped: BTreeSet<String>,
}

impl Folder {
    /// Takes what changed, and says what that means for the core.
    pub fn update(&mut self, changes: impl IntoIterator<Item = (String, Change)>) -> Vec<Event> {
        let mut touched = BTreeSet::new();
        for (name, change) in changes {
            let before = self.files.remove(&name).unwrap_or_default();
            touched.extend(before.given.keys().cloned());
            let now = match change {
                Change::Gone => None,
                Change::Text(text) => Some(read(&name, &text, before)),
                Change::Unreadable(why) => {
                    let problem = Problem { field: String::new(), ..problem(&name, (0, 0), None, &why) };
                    Some(File { problems: vec![problem], ..before })
                }
            };
            if let Some(now) = now {
                touched.extend(now.given.keys().cloned());
                self.tell_skipped(&name, &now.skipped);
                self.files.insert(name, now);
            }
        }
        touched.into_iter().filter_map(|key| self.settle(key)).collect()
    }

    /// Whose an object is now, and what the core is to be told of it.
    fn settle(&mut self, key: Key) -> Option<Event> {
        let files = self.files.iter();
        let givers: BTreeSet<String> =
            files.filter(|(_, file)| file.given.contains_key(&key)).map(|(name, _)| name.clone()).collect();
        let before = self.in_force.remove(&key);
        let owner = before.as_ref().map(|(owner, _)| owner).filter(|owner| givers.contains(*owner));
        let Some(owner) = owner.or_else(|| givers.first()).cloned() else {
            self.givers.remove(&key);
            return before.map(|_| Event::Delete(key));
        };
        let given = self.files.get(&owner).and_then(|file| file.given.get(&key))?;
        let object = counted(given.object.clone(), before.as_ref().map(|(_, object)| object));
        self.givers.insert(key.clone(), givers);
        let same = before.is_some_and(|(_, before)| before == object);
        self.in_force.insert(key, (owner, object.clone()));
        (!same).then_some(Event::Apply(object))
    }

    /// A kind that means nothing here is said once, not with each reading.
    fn tell_skipped(&mut self, file: &str, skipped: &BTreeSet<String>) {
        for kind in skipped {
            if self.told_skipped.insert(kind.clone()) {
                tracing::info!(file, kind, "objects of this kind have no meaning for Remora and are passed over");
            }
        }
    }

    /// What is wrong now.
    pub fn problems(&self) -> BTreeSet<Problem> {
        let mut problems: BTreeSet<Problem> =
            self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        for (key, givers) in &self.givers {
            let Some((owner, _)) = self.in_force.get(key).filter(|_| givers.len() > 1) else {
                continue;
            };
            let owner_line = self.line(owner, key);
            for giver in givers.iter().filter(|giver| *giver != owner) {
                let message = format!("stands already in {owner}, line {owner_line}: that one is in force, this one is not");
                problems.insert(problem(giver, (self.line(giver, key), 1), Some(key), &message));
            }
        }
        problems
    }

    /// Where each object stands.
    pub fn places(&self) -> HashMap<Key, Place> {
        let in_force = self.in_force.iter();
        let places = in_force.map(|(key, (owner, _))| {
            (key.clone(), Place { file: owner.clone(), line: self.line(owner, key) })
        });
        places.collect()
    }

    fn line(&self, file: &str, key: &Key) -> u64 {
        self.files.get(file).and_then(|file| file.given.get(key)).map_or(0, |given| given.line)
    }
}

/// A policy's generation rises when what it says changes.
fn counted(mut object: Object, before: Option<&Object>) -> Object {
    if let Object::TrafficPolicy(policy) = &mut object {
        policy.generation = match before {
            Some(Object::TrafficPolicy(before)) => {
                let same = before.settings == policy.settings && before.targets == policy.targets;
                if same { before.generation } else { before.generation + 1 }
            }
            _ => 1,
        };
    }
    object
}

fn problem(file: &str, at: (u64, u64), object: Option<&Key>, message: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        line: at.0,
        column: at.1,
        object: object.map(ToString::to_string).unwrap_or_default(),
        field: String::new(),
        message: message.to_owned(),
    }
}

fn read(name: &str, text: &str, mut before: File) -> File {
    let mut file = File::default();
    let mut all_known = true;
    let mut kept = Vec::new();
    for placed in document::read_all(text) {
        match placed.read {
            Read::Object(object) => {
                let key = object.key();
                if let Some(first) = file.given.get(&key) {
                    let message = format!("stands already in line {} of this file: that one is in force, this one is not", first.line);
                    file.problems.push(problem(name, (placed.line, 1), Some(&key), &message));
                } else {
                    file.given.insert(key, Given { object, line: placed.line });
                }
            }
            Read::Broken(key, errors) => {
                let last_good = before.given.contains_key(&key);
                let errors = errors.into_iter().map(|error| located(name, Some(&key), error, last_good));
                file.problems.extend(errors);
                kept.push(key);
            }
            Read::Unknown(errors) => {
                all_known = false;
                let last_good = !before.given.is_empty();
                file.problems.extend(errors.into_iter().map(|error| located(name, None, error, last_good)));
            }
            Read::Skipped(kind) => {
                file.skipped.insert(kind);
            }
        }
    }
    // Of what cannot be read any more the last good version stays; of what
    // cannot even be told what it is, all that this file gave.
    if all_known {
        before.given.retain(|key, _| kept.contains(key));
    }
    for (key, given) in before.given {
        file.given.entry(key).or_insert(given);
    }
    file
}

fn located(file: &str, object: Option<&Key>, error: Located, last_good: bool) -> Problem {
    let stays = if last_good { " (the last good version stays in force)" } else { "" };
    let message = format!("{}{stays}", error.message);
    Problem { field: error.field, ..problem(file, error.position, object, &message) }
}
