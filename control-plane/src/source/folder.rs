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
    fields: BTreeMap<String, (u64, u64)>,
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
            for key in before.given.keys() {
                if let Some(givers) = self.givers.get_mut(key) {
                    givers.remove(&name);
                }
                touched.insert(key.clone());
            }
            let now = match change {
                Change::Gone => None,
                Change::Text(text) => Some(read(&name, &text, before)),
                Change::Unreadable(why) => {
                    let problem = Problem {
                        field: String::new(),
                        ..problem(&name, (0, 0), None, &why)
                    };
                    Some(File {
                        problems: vec![problem],
                        ..before
                    })
                }
            };
            if let Some(now) = now {
                for key in now.given.keys() {
                    self.givers
                        .entry(key.clone())
                        .or_default()
                        .insert(name.clone());
                    touched.insert(key.clone());
                }
                self.tell_skipped(&name, &now.skipped);
                self.files.insert(name, now);
            }
        }
        touched
            .into_iter()
            .filter_map(|key| self.settle(key))
            .collect()
    }

    /// Whose an object is now, and what the core is to be told of it.
    fn settle(&mut self, key: Key) -> Option<Event> {
        let empty = BTreeSet::new();
        let givers = self.givers.get(&key).unwrap_or(&empty);
        let before = self.in_force.remove(&key);
        let owner = before
            .as_ref()
            .map(|(owner, _)| owner)
            .filter(|owner| givers.contains(*owner));
        let Some(owner) = owner.or_else(|| givers.first()).cloned() else {
            self.givers.remove(&key);
            return before.map(|_| Event::Delete(key));
        };
        let given = self
            .files
            .get(&owner)
            .and_then(|file| file.given.get(&key))?;
        let object = counted(
            given.object.clone(),
            before.as_ref().map(|(_, object)| object),
        );
        let same = before.is_some_and(|(_, before)| before == object);
        self.in_force.insert(key, (owner, object.clone()));
        (!same).then_some(Event::Apply(object))
    }

    /// A kind that means nothing here is said once, not with each reading.
    fn tell_skipped(&mut self, file: &str, skipped: &BTreeSet<String>) {
        for kind in skipped {
            if self.told_skipped.insert(kind.clone()) {
                tracing::info!(
                    file,
                    kind,
                    "objects of this kind have no meaning for Remora and are passed over"
                );
            }
        }
    }

    /// What is wrong now.
    pub fn problems(&self) -> BTreeSet<Problem> {
        let mut problems: BTreeSet<Problem> = self
            .files
            .values()
            .flat_map(|file| file.problems.iter().cloned())
            .collect();
        for (key, givers) in &self.givers {
            let Some((owner, _)) = self.in_force.get(key).filter(|_| givers.len() > 1) else {
                continue;
            };
            let owner_line = self.line(owner, key);
            for giver in givers.iter().filter(|giver| *giver != owner) {
                let message = format!(
                    "stands already in {owner}, line {owner_line}: that one is in force, this one is not"
                );
                problems.insert(problem(
                    giver,
                    (self.line(giver, key), 1),
                    Some(key),
                    &message,
                ));
            }
        }
        problems
    }

    /// Where each object stands.
    pub fn places(&self) -> HashMap<Key, Place> {
        let places = self.in_force.iter().filter_map(|(key, (owner, _))| {
            let given = self.files.get(owner)?.given.get(key)?;
            let place = Place {
                file: owner.clone(),
                line: given.line,
                fields: given.fields.clone(),
            };
            Some((key.clone(), place))
        });
        places.collect()
    }

    fn line(&self, file: &str, key: &Key) -> u64 {
        self.files
            .get(file)
            .and_then(|file| file.given.get(key))
            .map_or(0, |given| given.line)
    }
}

/// A policy's generation rises when what it says changes.
fn counted(mut object: Object, before: Option<&Object>) -> Object {
    if let Object::TrafficPolicy(policy) = &mut object {
        policy.generation = match before {
            Some(Object::TrafficPolicy(before)) => {
                let same = before.settings == policy.settings && before.scope == policy.scope;
                before.generation + i64::from(!same)
            }
            _ => 1,
        };
    }
    if let Object::AuthorizationPolicy(policy) = &mut object {
        policy.generation = match before {
            Some(Object::AuthorizationPolicy(before)) => {
                let same = before.scope == policy.scope && before.says == policy.says;
                before.generation + i64::from(!same)
            }
            _ => 1,
        };
    }
    if let Object::Route(route) = &mut object {
        route.generation = match before {
            Some(Object::Route(before)) => before.generation + i64::from(before.says != route.says),
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
        information: false,
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
                    let message = format!(
                        "stands already in line {} of this file: that one is in force, this one is not",
                        first.line
                    );
                    file.problems
                        .push(problem(name, (placed.line, 1), Some(&key), &message));
                } else {
                    file.given.insert(
                        key,
                        Given {
                            object,
                            line: placed.line,
                            fields: placed.fields,
                        },
                    );
                }
            }
            Read::Broken(key, errors) => {
                let last_good = before.given.contains_key(&key);
                let errors = errors
                    .into_iter()
                    .map(|error| located(name, Some(&key), error, last_good));
                file.problems.extend(errors);
                kept.push(key);
            }
            Read::Unknown(errors) => {
                all_known = false;
                let last_good = !before.given.is_empty();
                file.problems.extend(
                    errors
                        .into_iter()
                        .map(|error| located(name, None, error, last_good)),
                );
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
    let stays = if last_good {
        " (the last good version stays in force)"
    } else {
        ""
    };
    let message = format!("{}{stays}", error.message);
    Problem {
        field: error.field,
        ..problem(file, error.position, object, &message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::objects::{Id, Kind};

    fn policy(name: &str, attempts: &str) -> String {
        format!(
            "---\napiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  targetRefs: [{{kind: Service, name: catalog}}]\n  retries: {{attempts: {attempts}}}\n"
        )
    }

    fn key(name: &str) -> Key {
        Key {
            kind: Kind::TrafficPolicy,
            id: Id::new("shop", name),
        }
    }

    fn write(folder: &mut Folder, name: &str, text: &str) -> Vec<String> {
        let change = Change::Text(text.to_owned());
        told(folder.update([(name.to_owned(), change)]))
    }

    fn remove(folder: &mut Folder, name: &str) -> Vec<String> {
        told(folder.update([(name.to_owned(), Change::Gone)]))
    }

    fn told(events: Vec<Event>) -> Vec<String> {
        let shown = events.into_iter().map(|event| match event {
            Event::Apply(Object::TrafficPolicy(policy)) => {
                let retries = policy.settings.retries.unwrap_or_default();
                format!(
                    "{} {} generation {}",
                    policy.id.name,
                    retries.attempts.unwrap_or(0),
                    policy.generation
                )
            }
            Event::Apply(object) => object.key().to_string(),
            Event::Delete(key) => format!("-{}", key.id.name),
            Event::Synced => "synced".to_owned(),
            Event::Health(health) => format!("health of {}", health.id),
            Event::ReportsAddress(address) => format!("reports to {address:?}"),
        });
        shown.collect()
    }

    #[test]
    fn only_what_changed_is_told_and_the_generation_counts_changes() {
        let mut folder = Folder::default();
        let both = policy("a", "1") + &policy("b", "1");
        assert_eq!(
            write(&mut folder, "x", &both),
            ["a 1 generation 1", "b 1 generation 1"]
        );
        let changed = policy("a", "2") + "# a comment\n" + &policy("b", "1");
        assert_eq!(write(&mut folder, "x", &changed), ["a 2 generation 2"]);
        assert_eq!(write(&mut folder, "x", &policy("a", "2")), ["-b"]);
        assert_eq!(remove(&mut folder, "x"), ["-a"]);
    }

    #[test]
    fn a_broken_object_keeps_its_last_good_version_and_spoils_no_other() {
        let mut folder = Folder::default();
        write(&mut folder, "x", &(policy("a", "1") + &policy("b", "1")));
        let broken = policy("a", "99") + &policy("b", "2");
        assert_eq!(write(&mut folder, "x", &broken), ["b 2 generation 2"]);
        let problems: Vec<Problem> = folder.problems().into_iter().collect();
        assert_eq!(problems.len(), 1);
        assert_eq!(
            (problems[0].line, problems[0].field.as_str()),
            (7, "spec.retries.attempts")
        );
        assert_eq!(problems[0].object, "TrafficPolicy shop/a");
        // Broken and then out of the file: it is gone.
        assert_eq!(write(&mut folder, "x", &policy("b", "2")), ["-a"]);
        assert!(folder.problems().is_empty());
    }

    #[test]
    fn a_document_that_is_no_yaml_keeps_all_that_its_file_gave() {
        let mut folder = Folder::default();
        write(&mut folder, "x", &(policy("a", "1") + &policy("b", "1")));
        let broken = "---\nkind: [TrafficPolicy\n".to_owned() + &policy("b", "2");
        assert_eq!(write(&mut folder, "x", &broken), ["b 2 generation 2"]);
        assert_eq!(
            folder.problems().first().map(|problem| problem.line),
            Some(2)
        );
        let unreadable = Change::Unreadable("is not UTF-8".to_owned());
        assert!(folder.update([("x".to_owned(), unreadable)]).is_empty());
        assert_eq!(folder.problems().len(), 1);
        assert_eq!(remove(&mut folder, "x"), ["-a", "-b"]);
    }

    #[test]
    fn of_an_object_in_two_files_the_first_stays_and_both_are_named() {
        let mut folder = Folder::default();
        write(&mut folder, "z", &policy("a", "1"));
        assert!(write(&mut folder, "b", &policy("a", "2")).is_empty());
        let problem = folder.problems().pop_first().unwrap();
        assert_eq!(problem.file, "b");
        assert!(problem.message.contains("z, line 2"), "{problem:?}");
        assert_eq!(folder.places()[&key("a")].file, "z");
        assert_eq!(remove(&mut folder, "z"), ["a 2 generation 2"]);
        assert!(folder.problems().is_empty());
        // The same in one file.
        write(&mut folder, "b", &(policy("a", "2") + &policy("a", "3")));
        assert!(
            folder
                .problems()
                .pop_first()
                .unwrap()
                .message
                .contains("line 2 of this file")
        );
    }

    #[test]
    fn kinds_of_kubernetes_are_read_with_fields_that_are_not_known() {
        let mut folder = Folder::default();
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {clusterIP: 10.0.0.1, later: 1, ports: [{port: 80}]}\n\
                    ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n\
                    ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: shop}\nspec: {selector: {}, template: {}}\n";
        assert_eq!(
            write(&mut folder, "x", text),
            ["Service shop/a", "Deployment shop/a"]
        );
        assert!(folder.problems().is_empty());
        let wrong = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec:\n  clusterIP: nonsense\n  ports:\n  - port: many\n";
        assert!(write(&mut folder, "x", wrong).contains(&"-a".to_owned()));
        let problem = folder.problems().pop_first().unwrap();
        assert_eq!(
            (problem.line, problem.field.as_str()),
            (7, "spec.ports[0].port"),
            "{problem:?}"
        );
        for (text, field) in [
            (
                "apiVersion: v1\nkind: Service\nmetadata: {name: UPPER}\n",
                "metadata.name",
            ),
            (
                "apiVersion: v2\nkind: Pod\nmetadata: {name: a}\n",
                "apiVersion",
            ),
            ("kind: Pod\n", "apiVersion"),
            ("apiVersion: v1\nkind: List\nitems: []\n", "kind"),
            ("- a\n", ""),
            (
                "apiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec: {}\nextra: 1\n",
                "extra",
            ),
        ] {
            write(&mut folder, "y", text);
            let problems = folder.problems();
            let found = problems
                .iter()
                .any(|problem| problem.file == "y" && problem.field == field);
            assert!(found, "{text}: {problems:#?}");
        }
    }
}
