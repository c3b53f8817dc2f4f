//! Which pods must be made and which must go, for the Deployments as they are
//! asked for now. Pure: told what is, it says what to do.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;

use super::catalogue::Key;

/// A pod that there is.
#[derive(Debug, Clone)]
pub struct Existing {
    /// Its name.
    pub name: String,
    /// Its Deployment.
    pub deployment: Key,
    /// The template that it was made from.
    pub template: String,
    /// Whether it takes traffic (a killed pod counts: it is the user's wish).
    pub is_ready: bool,
    /// Whether it is already told to go.
    pub is_leaving: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a pod of this name.
    Make {
        /// Its Deployment.
        deployment: Key,
        /// Its name: the Deployment's and the lowest free number.
        name: String,
    },
    /// Remove the pod of this name.
    Remove(String),
}

/// A template's text: pods made from another are replaced.
pub fn template_of(deployment: &Deployment) -> String {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    serde_json::to_string(&template).unwrap_or_default()
}

/// The next steps. A changed template replaces one pod at a time: first the
/// new one until it is ready, then an old one goes.
pub fn steps(wanted: &BTreeMap<Key, Deployment>, existing: &[Existing]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut taken: BTreeSet<String> = existing.iter().map(|pod| pod.name.clone()).collect();
    for pod in existing
        .iter()
        .filter(|pod| !pod.is_leaving && !wanted.contains_key(&pod.deployment))
    {
        steps.push(Step::Remove(pod.name.clone()));
    }
    for (key, deployment) in wanted {
        let replicas = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let replicas = usize::try_from(replicas).unwrap_or(0);
        let template = template_of(deployment);
        let present = existing
            .iter()
            .filter(|pod| pod.deployment == *key && !pod.is_leaving);
        let (current, old): (Vec<_>, Vec<_>) = present.partition(|pod| pod.template == template);
        let missing = replicas.saturating_sub(current.len());
        // Replacing: one more than wanted at a time.
        let room = (replicas + 1).saturating_sub(current.len() + old.len());
        let make = if old.is_empty() {
            missing
        } else {
            missing.min(room)
        };
        for _ in 0..make {
            let name = free_name(&key.1, &taken);
            taken.insert(name.clone());
            steps.push(Step::Make {
                deployment: key.clone(),
                name,
            });
        }
        let ready = current.iter().filter(|pod| pod.is_ready).count();
        let old_to_keep = replicas.saturating_sub(ready);
        for pod in old.iter().skip(old_to_keep) {
            steps.push(Step::Remove(pod.name.clone()));
        }
        let mut by_number = current;
        by_number.sort_by_key(|pod| (pod.name.len(), pod.name.clone()));
        for pod in by_number.iter().skip(replicas) {
            steps.push(Step::Remove(pod.name.clone()));
        }
    }
    steps
}

fn free_name(deployment: &str, taken: &BTreeSet<String>) -> String {
    let mut names = (1..).map(|number: u32| format!("{deployment}-{number}"));
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> Key {
        ("shop".to_owned(), "catalog".to_owned())
    }

    fn wanted(replicas: i32, image: &str) -> BTreeMap<Key, Deployment> {
        let deployment = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "catalog", "namespace": "shop"},
            "spec": {"replicas": replicas, "selector": {}, "template": {"spec": {"containers": [{"name": "a", "image": image}]}}}
        }));
        BTreeMap::from([(key(), deployment.unwrap())])
    }

    fn pods(count: u32, image: &str, is_ready: bool) -> Vec<Existing> {
        let template = template_of(&wanted(1, image)[&key()]);
        (1..=count)
            .map(|number| Existing {
                name: format!("catalog-{number}"),
                deployment: key(),
                template: template.clone(),
                is_ready,
                is_leaving: false,
            })
            .collect()
    }

    fn make(name: &str) -> Step {
        Step::Make {
            deployment: key(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn scaling_makes_and_removes() {
        assert_eq!(
            steps(&wanted(2, "a"), &[]),
            [make("catalog-1"), make("catalog-2")]
        );
        assert_eq!(steps(&wanted(2, "a"), &pods(2, "a", false)), []);
        assert_eq!(
            steps(&wanted(1, "a"), &pods(3, "a", true)),
            [
                Step::Remove("catalog-2".into()),
                Step::Remove("catalog-3".into())
            ]
        );
        assert_eq!(
            steps(&BTreeMap::new(), &pods(1, "a", true)),
            [Step::Remove("catalog-1".into())]
        );
        assert_eq!(
            steps(&wanted(0, "a"), &pods(1, "a", true)),
            [Step::Remove("catalog-1".into())]
        );
    }

    #[test]
    fn a_changed_template_replaces_one_pod_at_a_time() {
        let mut existing = pods(2, "a", true);
        assert_eq!(steps(&wanted(2, "b"), &existing), [make("catalog-3")]);
        let mut new = pods(1, "b", false).remove(0);
        new.name = "catalog-3".to_owned();
        existing.push(new.clone());
        assert_eq!(
            steps(&wanted(2, "b"), &existing),
            [],
            "waits for the new pod"
        );
        existing[2].is_ready = true;
        assert_eq!(
            steps(&wanted(2, "b"), &existing),
            [Step::Remove("catalog-2".into())]
        );
        existing.remove(1);
        assert_eq!(steps(&wanted(2, "b"), &existing), [make("catalog-2")]);
    }
}
