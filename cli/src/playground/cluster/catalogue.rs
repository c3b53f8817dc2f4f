//! What the user's folder asks for: of each object the last good version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Service};
use serde_json::Value;

use super::yaml::{self, Document, Wrong};

/// Namespace and name.
pub type Key = (String, String);

/// A Deployment of more pods is cut to this: one machine, 250 addresses.
const MOST_REPLICAS: i32 = 50;

/// Something wrong in a file of the user's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// The file, relative to the user's folder.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The field, where it is one.
    #[serde(default)]
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if let Some(field) = self.field.as_deref().filter(|field| !field.is_empty()) {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The objects of one file that matter on the stage.
#[derive(Debug, Clone, Default)]
struct Objects {
    namespaces: BTreeMap<String, Namespace>,
    services: BTreeMap<Key, Service>,
    deployments: BTreeMap<Key, Deployment>,
    policies: BTreeMap<Key, Value>,
    wrong: Vec<Wrong>,
}

/// What the folder asks for.
#[derive(Debug, Default)]
pub struct Catalogue {
    files: BTreeMap<PathBuf, Objects>,
}

impl Catalogue {
    /// Takes the texts of all files; of an object that is now broken the last
    /// good version stays.
    pub fn update(&mut self, texts: &BTreeMap<PathBuf, String>) {
        self.files.retain(|file, _| texts.contains_key(file));
        for (file, text) in texts {
            let mut read = read_objects(text);
            if let Some(before) = self.files.get(file).filter(|_| !read.wrong.is_empty()) {
                keep(&mut read.namespaces, &before.namespaces);
                keep(&mut read.services, &before.services);
                keep(&mut read.deployments, &before.deployments);
                keep(&mut read.policies, &before.policies);
            }
            self.files.insert(file.clone(), read);
        }
    }

    /// The namespace's labels.
    pub fn namespace(&self, name: &str) -> Namespace {
        let found = self
            .files
            .values()
            .find_map(|objects| objects.namespaces.get(name));
        found.cloned().unwrap_or_else(|| {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some(name.to_owned());
            namespace
        })
    }

    /// All Services, the first of a name.
    pub fn services(&self) -> BTreeMap<Key, Service> {
        merged(self.files.values().map(|objects| &objects.services))
    }

    /// All Deployments, the first of a name.
    pub fn deployments(&self) -> BTreeMap<Key, Deployment> {
        merged(self.files.values().map(|objects| &objects.deployments))
    }

    /// All TrafficPolicies as they stand there, the first of a name.
    pub fn policies(&self) -> BTreeMap<Key, Value> {
        merged(self.files.values().map(|objects| &objects.policies))
    }

    /// Everything wrong.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (file, objects) in &self.files {
            for wrong in &objects.wrong {
                problems.push(Problem {
                    file: file_name(file),
                    line: wrong.line,
                    field: None,
                    message: wrong.message.clone(),
                });
            }
        }
        problems
    }
}

fn file_name(file: &Path) -> String {
    file.to_string_lossy().into_owned()
}

fn keep<K: Ord + Clone, V: Clone>(into: &mut BTreeMap<K, V>, before: &BTreeMap<K, V>) {
    for (key, value) in before {
        into.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn merged<'a, V: Clone + 'a>(
    files: impl Iterator<Item = &'a BTreeMap<Key, V>>,
) -> BTreeMap<Key, V> {
    let mut all = BTreeMap::new();
    for file in files {
        keep(&mut all, file);
    }
    all
}

/// The objects of one text.
fn read_objects(text: &str) -> Objects {
    let mut objects = Objects::default();
    for document in yaml::documents(text) {
        if let Err(wrong) = read_document(&document, &mut objects) {
            objects.wrong.push(wrong);
        }
    }
    objects
}

fn read_document(document: &Document<'_>, objects: &mut Objects) -> Result<(), Wrong> {
    let value: Value = document.parse()?;
    let key = yaml::key(&value);
    match yaml::kind(&value) {
        "Namespace" => {
            objects.namespaces.insert(key.1, document.parse()?);
        }
        "Service" => {
            objects.services.insert(key, document.parse()?);
        }
        "Deployment" => {
            let deployment: Deployment = document.parse()?;
            check_deployment(&deployment).map_err(|message| Wrong {
                line: document.first_line,
                message,
            })?;
            objects.deployments.insert(key, deployment);
        }
        "TrafficPolicy" => {
            objects.policies.insert(key, value);
        }
        _ => {}
    }
    Ok(())
}

/// What a Deployment needs to be run here.
fn check_deployment(deployment: &Deployment) -> Result<(), String> {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Err("Deployment without metadata.name".to_owned());
    }
    let Some(spec) = &deployment.spec else {
        return Err(format!("Deployment {name} has no spec"));
    };
    if let Some(replicas) = spec
        .replicas
        .filter(|replicas| !(0..=MOST_REPLICAS).contains(replicas))
    {
        return Err(format!(
            "Deployment {name}: spec.replicas is {replicas}; the playground takes 0 to {MOST_REPLICAS}"
        ));
    }
    let containers = spec
        .template
        .spec
        .as_ref()
        .map_or(0, |pod| pod.containers.len());
    if containers == 0 {
        return Err(format!(
            "Deployment {name}: spec.template.spec.containers is empty"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: &str) -> String {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: shop}}\nspec:\n  replicas: {replicas}\n  selector: {{}}\n  template:\n    spec:\n      containers: [{{name: app, image: remora/demo}}]\n"
        )
    }

    fn update(catalogue: &mut Catalogue, text: &str) {
        catalogue.update(&BTreeMap::from([(
            PathBuf::from("web.yaml"),
            text.to_owned(),
        )]));
    }

    #[test]
    fn a_broken_deployment_is_named_and_its_last_good_version_stays() {
        let mut catalogue = Catalogue::default();
        update(&mut catalogue, &deployment("2"));
        assert!(
            catalogue.problems().is_empty(),
            "{:?}",
            catalogue.problems()
        );
        update(&mut catalogue, &deployment("many"));
        assert_eq!(catalogue.deployments().len(), 1);
        let problems = catalogue.problems();
        assert_eq!(
            (problems[0].file.as_str(), problems[0].line),
            ("web.yaml", 5),
            "{problems:?}"
        );
        update(&mut catalogue, "");
        assert!(catalogue.deployments().is_empty());
    }

    #[test]
    fn too_many_replicas_are_refused() {
        let mut catalogue = Catalogue::default();
        update(&mut catalogue, &deployment("5000"));
        assert!(catalogue.problems()[0].message.contains("spec.replicas"));
    }
}
