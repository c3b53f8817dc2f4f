//! A namespace of a cluster for one test, and a control plane over the cluster.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use remora_control_plane::policy::definition::{authorization, definition};
use remora_control_plane::source::kubernetes::Cluster;
use remora_control_plane::{Options, Running, Source, start};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::sidecar::{Sidecar, fetch};

/// What all of these tests wait for at most.
pub const PATIENCE: Duration = Duration::from_secs(30);
const DEFINITION: &str = "trafficpolicies.remora.io";

/// One test at a time: the definition of TrafficPolicy is the cluster's, and
/// so is the API server.
static ONE: Mutex<()> = Mutex::const_new(());

pub struct World {
    pub client: kube::Client,
    pub namespace: String,
    _one: MutexGuard<'static, ()>,
}

impl World {
    /// None where there is no cluster.
    pub async fn new() -> Option<Self> {
        if std::env::var_os("KUBECONFIG").is_none() {
            skipped("no KUBECONFIG");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let one = ONE.lock().await;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("remora-{}-{number}", std::process::id());
        let client = Cluster::infer().await.unwrap().client;
        let world = Self {
            client,
            namespace,
            _one: one,
        };
        let name = world.namespace.clone();
        world.apply("Namespace", &name, json!({})).await;
        let account = world.api("ServiceAccount");
        eventually("a service account", async || {
            account.get_opt("default").await.unwrap().map(|_| ())
        })
        .await;
        world.define(definition()).await;
        world.define(authorization()).await;
        Some(world)
    }

    pub async fn end(self) {
        let namespaces = self.api("Namespace");
        namespaces
            .delete(&self.namespace, &Default::default())
            .await
            .unwrap();
    }

    /// Objects of a kind, in the namespace where it has one.
    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "EndpointSlice" => ("discovery.k8s.io", "v1"),
            "TrafficPolicy" | "AuthorizationPolicy" => ("remora.io", "v1alpha1"),
            "HTTPRoute" | "GRPCRoute" | "ReferenceGrant" => ("gateway.networking.k8s.io", "v1"),
            "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1"),
            "Event" => ("events.k8s.io", "v1"),
            "Lease" => ("coordination.k8s.io", "v1"),
            _ => ("", "v1"),
        };
        let kind_of = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk(&kind_of);
        match kind {
            "Namespace" | "CustomResourceDefinition" => {
                Api::all_with(self.client.clone(), &resource)
            }
            _ => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
        }
    }

    /// Server-side apply.
    pub async fn apply(&self, kind: &str, name: &str, rest: Value) -> DynamicObject {
        self.try_apply(kind, name, rest).await.unwrap()
    }

    pub async fn try_apply(
        &self,
        kind: &str,
        name: &str,
        mut object: Value,
    ) -> kube::Result<DynamicObject> {
        let api_version = match kind {
            "EndpointSlice" => "discovery.k8s.io/v1",
            "TrafficPolicy" | "AuthorizationPolicy" => "remora.io/v1alpha1",
            "HTTPRoute" | "GRPCRoute" | "ReferenceGrant" => "gateway.networking.k8s.io/v1",
            _ => "v1",
        };
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        object["metadata"]["name"] = name.into();
        let parameters = PatchParams::apply("remora-test").force();
        let api = self.api(kind);
        api.patch(name, &parameters, &Patch::Apply(object)).await
    }

    pub async fn merge(&self, kind: &str, name: &str, patch: Value) {
        let parameters = PatchParams::default();
        let patch = Patch::Merge(patch);
        self.api(kind)
            .patch(name, &parameters, &patch)
            .await
            .unwrap();
    }

    pub async fn delete(&self, kind: &str, name: &str) {
        self.api(kind)
            .delete(name, &Default::default())
            .await
            .unwrap();
    }

    /// A running pod as a kubelet would say it; deleted it stays until `let_go`.
    /// Returns its uid.
    pub async fn pod(&self, name: &str, addresses: &[&str]) -> String {
        let pod = json!({
            "metadata": {"labels": {"app": "catalog"}, "finalizers": ["remora.io/test"]},
            "spec": {"containers": [
                {"name": "app", "image": "app", "ports": [{"containerPort": 8080}]},
            ]},
        });
        let pod = self.apply("Pod", name, pod).await;
        let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"status": {
            "phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses,
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let (pods, status) = (self.api("Pod"), Patch::Merge(status));
        let parameters = PatchParams::default();
        pods.patch_status(name, &parameters, &status).await.unwrap();
        pod.uid().unwrap()
    }

    pub async fn let_go(&self, pod: &str) {
        let none = json!({"metadata": {"finalizers": null}});
        self.merge("Pod", pod, none).await;
    }

    /// Installs a definition, and waits until the API server serves it.
    pub async fn define(&self, definition: Value) {
        let definitions = self.api("CustomResourceDefinition");
        let parameters = PatchParams::apply("remora-test").force();
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        let kind = definition["spec"]["names"]["kind"].clone();
        let kind = kind.as_str().unwrap();
        let definition = Patch::Apply(definition);
        definitions
            .patch(&name, &parameters, &definition)
            .await
            .unwrap();
        let policies = self.api(kind);
        eventually(&format!("{kind} to be served"), async || {
            policies.list(&Default::default()).await.ok().map(|_| ())
        })
        .await;
    }

    /// Removes the definition, and with it every policy.
    pub async fn undefine(&self) {
        let definitions = self.api("CustomResourceDefinition");
        definitions
            .delete(DEFINITION, &Default::default())
            .await
            .unwrap();
        eventually("TrafficPolicy to be gone", async || {
            let there = definitions.get_opt(DEFINITION).await.unwrap();
            there.is_none().then_some(())
        })
        .await;
    }

    pub async fn plane(&self) -> Plane {
        let plane = Plane {
            running: start(Options {
                sources: vec![Source::Kubernetes],
                listen: "127.0.0.1:0".parse().unwrap(),
                admin: "127.0.0.1:0".parse().unwrap(),
                identity: Default::default(),
            })
            .await
            .unwrap(),
        };
        eventually("the control plane to be ready", async || {
            plane.is_ready().await.then_some(())
        })
        .await;
        plane
    }
}

pub struct Plane {
    pub running: Running,
}

impl Plane {
    pub async fn is_ready(&self) -> bool {
        fetch(self.running.admin, "/ready")
            .await
            .0
            .contains(" 200 ")
    }

    pub async fn sidecar(&self) -> Sidecar {
        let id = "sidecar/test/test/test".to_owned();
        Sidecar::connect_as(self.running.listen, id).await
    }

    /// The value of a metric of a kind.
    pub async fn metric(&self, name: &str, kind: &str) -> u64 {
        let metrics = fetch(self.running.admin, "/metrics").await.1;
        let start = format!("{name}{{kind=\"{kind}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.expect("the metric").parse().unwrap()
    }

    pub async fn problems(&self) -> Vec<Value> {
        let problems = fetch(self.running.admin, "/problems").await.1;
        serde_json::from_str(&problems).unwrap()
    }

    /// Waits for a problem of an object, in a field.
    pub async fn problem(&self, object: &str, field: &str) -> Value {
        eventually(&format!("a problem of {object} in {field:?}"), async || {
            let problems = self.problems().await.into_iter();
            let mut wanted =
                problems.filter(|one| one["object"] == object && one["field"] == field);
            wanted.next()
        })
        .await
    }

    pub async fn no_problem(&self, object: &str) {
        eventually(&format!("no problem of {object}"), async || {
            let problems = self.problems().await;
            let none = problems.iter().all(|one| one["object"] != object);
            none.then_some(())
        })
        .await;
    }
}

/// Says that a test did not test, past the capturing of what tests print.
pub fn skipped(why: &str) {
    let words = format!("\nSKIPPED (nothing was tested): {why}\n");
    std::io::stderr().write_all(words.as_bytes()).unwrap();
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited in vain for {what}"),
    }
}
