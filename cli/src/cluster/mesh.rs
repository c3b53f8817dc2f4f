//! What is known of the mesh: its pods from the API server, its sidecars from
//! the control plane that leads.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use remora_injector::containers;
use remora_injector::decide::{self, Verdict};
use remora_injector::{NamespaceFacts, Settings};
use remora_proto::well_known::{CONTROL_PLANE, CONTROL_PLANE_ADMIN_PORT, INJECTED, NOT_INJECTED};
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::error::Error;
use super::resources::{LEASES, NAMESPACES, PODS};

/// The label of our daemons' pods.
pub const NAME_LABEL: &str = "app.kubernetes.io/name";

/// A sidecar as the control plane knows it (`GET /sidecars`).
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Sidecar {
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// The pod's uid.
    #[serde(default)]
    pub pod_uid: String,
    /// Has a stream now.
    #[serde(default)]
    pub connected: bool,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// How many resources are applied.
    #[serde(default)]
    pub applied: u64,
    /// What it refused.
    #[serde(default)]
    pub refused: Vec<Refusal>,
    /// When it last reported, in milliseconds since 1970.
    #[serde(default)]
    pub last_report_ms: Option<u64>,
}

/// A resource that a sidecar did not take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
pub struct Refusal {
    /// `Service`, `Endpoint`, `Workload`.
    #[serde(default)]
    pub r#type: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The version that was refused.
    #[serde(default)]
    pub version: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What the control plane told, and who told it.
#[derive(Debug, Default)]
pub struct Told {
    /// The replica's pod.
    pub by: String,
    /// Why it may not be the whole, where it may not.
    pub doubt: Option<String>,
    /// The sidecars.
    pub sidecars: Vec<Sidecar>,
}

/// The pod that holds the Lease; `None` where nobody does.
///
/// # Errors
/// What the API server says.
pub async fn leader(api: &Api) -> Result<Option<String>, Error> {
    let system = api.system_namespace.as_str();
    let lease: Option<Lease> = api.find(&LEASES, Some(system), CONTROL_PLANE).await?;
    let spec = lease.and_then(|lease| lease.spec);
    let holder = spec.and_then(|spec| spec.holder_identity);
    Ok(holder.filter(|holder| !holder.is_empty()))
}

/// The sidecars, from the replica that leads, else from any that answers:
/// sidecars whose reports go elsewhere may be missing there.
///
/// # Errors
/// When no replica answers.
pub async fn sidecars(api: &Api) -> Result<Told, Error> {
    let (holder, doubt) = match leader(api).await {
        Ok(Some(holder)) => (Some(holder), None),
        Ok(None) => (None, Some("no replica holds the Lease".to_owned())),
        Err(error) if error.is_forbidden() => (None, Some(error.to_string())),
        Err(error) => return Err(error),
    };
    let mut last = None;
    if let Some(by) = holder {
        match ask(api, &by).await {
            Ok(sidecars) => {
                return Ok(Told {
                    by,
                    doubt: None,
                    sidecars,
                });
            }
            // Without the right no other replica would tell either.
            Err(error) if error.is_forbidden() => return Err(error),
            Err(error) => last = Some((by, error)),
        }
    }
    let system = api.system_namespace.as_str();
    for by in replicas(api).await? {
        if last.as_ref().is_some_and(|(asked, _)| *asked == by) {
            continue;
        }
        match ask(api, &by).await {
            Ok(sidecars) => {
                let leader = last.map(|(leader, error)| format!("the leader {leader}: {error}"));
                let doubt = leader.or(doubt).unwrap_or_default();
                return Ok(Told {
                    by,
                    doubt: Some(doubt),
                    sidecars,
                });
            }
            Err(error) if error.is_forbidden() => return Err(error),
            Err(error) => last = Some((by, error)),
        }
    }
    Err(Error::NoControlPlane {
        namespace: system.to_owned(),
        cause: last.map_or("no pod of it is there".to_owned(), |(_, error)| {
            error.to_string()
        }),
    })
}

async fn ask(api: &Api, pod: &str) -> Result<Vec<Sidecar>, Error> {
    let system = api.system_namespace.as_str();
    api.pod_admin(system, pod, CONTROL_PLANE_ADMIN_PORT, "/sidecars")
        .await
}

/// The control plane's pods that run, by name.
///
/// # Errors
/// What the API server says.
pub async fn replicas(api: &Api) -> Result<Vec<String>, Error> {
    let system = api.system_namespace.as_str();
    let labels = format!("{NAME_LABEL}={CONTROL_PLANE}");
    let pods = api.list::<Pod>(&PODS, Some(system), &labels).await?;
    let running = pods.items.into_iter().filter(|pod| phase(pod) == "Running");
    Ok(running.filter_map(|pod| pod.metadata.name).collect())
}

/// A pod by its name.
///
/// # Errors
/// When there is none, or the API server cannot be asked.
pub async fn pod(api: &Api, namespace: &str, name: &str) -> Result<Pod, Error> {
    let pod = api.find(&PODS, Some(namespace), name).await?;
    pod.ok_or_else(|| {
        Error::NotFound(format!(
            "there is no pod {name} in namespace {namespace} (check the name and -n)"
        ))
    })
}

/// `Pending`, `Running`, `Succeeded`, `Failed`, or empty.
pub fn phase(pod: &Pod) -> &str {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase.unwrap_or_default()
}

/// Whether a sidecar of ours is among its containers; one that only has its
/// name is none.
pub fn has_sidecar(pod: &Pod) -> bool {
    containers::sidecar_of(pod).is_some()
}

/// Why the injector left it alone, where it says so.
pub fn declined(pod: &Pod) -> Option<&str> {
    let said = pod.metadata.annotations.as_ref()?.get(INJECTED)?;
    said.strip_prefix(NOT_INJECTED)
}

/// When it was made, in seconds since 1970.
pub fn made(pod: &Pod) -> Option<i64> {
    let made = pod.metadata.creation_timestamp.as_ref()?;
    Some(made.0.as_second())
}

/// Whether it says that it is not ready.
pub fn is_unready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status != "True")
}

/// Whether it is to last: neither ended nor being deleted.
pub fn lasts(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase(pod), "Succeeded" | "Failed")
}

/// Its namespace and name.
pub fn key(pod: &Pod) -> (String, String) {
    let metadata = &pod.metadata;
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// Makes sure that a namespace that was asked for exists. Who may not look is
/// believed.
///
/// # Errors
/// [`Error::NotFound`], and what else the API server says.
pub async fn checked_namespace(api: &Api, namespace: Option<&str>) -> Result<(), Error> {
    let Some(name) = namespace else {
        return Ok(());
    };
    match api.find::<Namespace>(&NAMESPACES, None, name).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Error::NotFound(format!(
            "no such namespace: {name} (check -n and the kubeconfig's context)"
        ))),
        Err(error) if error.is_forbidden() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The namespaces, as the injector decides by them.
pub struct Namespaces {
    known: HashMap<String, NamespaceFacts>,
    settings: Settings,
}

impl Namespaces {
    /// Reads one of them, or all.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn read(api: &Api, namespace: Option<&str>) -> Result<Self, Error> {
        let namespaces = match namespace {
            Some(name) => {
                let found: Option<Namespace> = api.find(&NAMESPACES, None, name).await?;
                found.into_iter().collect()
            }
            None => api.list::<Namespace>(&NAMESPACES, None, "").await?.items,
        };
        Ok(Self::new(&namespaces, &api.system_namespace))
    }

    /// From what was read.
    pub fn new(namespaces: &[Namespace], system_namespace: &str) -> Self {
        let facts = namespaces.iter().map(NamespaceFacts::from);
        Self {
            known: facts.map(|facts| (facts.name.clone(), facts)).collect(),
            settings: Settings {
                system_namespace: system_namespace.to_owned(),
                ..Settings::default()
            },
        }
    }

    /// Their names and labels.
    pub fn facts(&self) -> BTreeMap<&str, &NamespaceFacts> {
        let facts = self.known.iter();
        facts.map(|(name, facts)| (name.as_str(), facts)).collect()
    }

    /// What the injector would say to a pod, if it were made now.
    pub fn verdict(&self, pod: &Pod) -> Verdict {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match self.known.get(namespace) {
            Some(facts) => decide::verdict(pod, facts, &self.settings),
            None => Verdict::Skip("its namespace is not known".to_owned()),
        }
    }

    /// Whether a pod should have a sidecar and has none.
    pub fn lacks_sidecar(&self, pod: &Pod) -> bool {
        lasts(pod) && !has_sidecar(pod) && self.verdict(pod) == Verdict::Inject
    }
}

/// What has to be restarted so that a pod is made anew: `deployment/web`;
/// `None` for a pod that nothing makes again.
pub fn owner(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    if owner.kind == "ReplicaSet" {
        let labels = pod.metadata.labels.as_ref();
        let hash = labels.and_then(|labels| labels.get("pod-template-hash"));
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(&format!("-{hash}")));
        return deployment.map(|name| format!("deployment/{name}"));
    }
    let restartable = matches!(owner.kind.as_str(), "StatefulSet" | "DaemonSet");
    restartable.then(|| format!("{}/{}", owner.kind.to_lowercase(), owner.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn namespaces(labels: Value) -> Namespaces {
        let shop = json!({"metadata": {"name": "shop", "labels": labels}});
        Namespaces::new(&[serde_json::from_value(shop).unwrap()], "remora-system")
    }

    #[test]
    fn a_pod_of_a_labelled_namespace_without_sidecar_lacks_it() {
        let enabled = namespaces(json!({"remora.io/inject": "enabled"}));
        let bare = json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running"}});
        assert!(enabled.lacks_sidecar(&pod(bare.clone())));
        assert!(!namespaces(json!({})).lacks_sidecar(&pod(bare.clone())));
        let changed = |path: &str, value: Value| {
            let mut changed = bare.clone();
            *changed.pointer_mut(path).unwrap() = value;
            pod(changed)
        };
        let with = json!({"containers": [{"name": "app"}], "initContainers": [
            {"name": "remora-proxy", "restartPolicy": "Always", "env": [
                {"name": "REMORA_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]});
        let with = changed("/spec", with);
        assert!(has_sidecar(&with) && !enabled.lacks_sidecar(&with));
        let named = json!({"containers": [{"name": "remora-proxy"}]});
        assert!(!has_sidecar(&changed("/spec", named)));
        let host = json!({"containers": [{"name": "app"}], "hostNetwork": true});
        assert!(!enabled.lacks_sidecar(&changed("/spec", host)));
        let ended = changed("/status/phase", json!("Succeeded"));
        assert!(!enabled.lacks_sidecar(&ended));
        let elsewhere = changed("/metadata/namespace", json!("bank"));
        assert!(!enabled.lacks_sidecar(&elsewhere));
    }

    #[test]
    fn what_is_restarted_is_what_made_the_pod() {
        let owned = |kind: &str, name: &str| {
            let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true});
            owner_of(json!([owner]))
        };
        fn owner_of(owners: Value) -> Option<String> {
            owner(&pod(json!({"metadata": {"ownerReferences": owners,
                "labels": {"pod-template-hash": "5d4f"}}})))
        }
        assert_eq!(
            owned("ReplicaSet", "web-5d4f").as_deref(),
            Some("deployment/web")
        );
        assert_eq!(
            owned("StatefulSet", "db").as_deref(),
            Some("statefulset/db")
        );
        assert_eq!(owned("Job", "once"), None);
        assert_eq!(owned("ReplicaSet", "bare"), None);
        assert_eq!(owner_of(json!([])), None);
    }
}
