//! The ground of the stories of routes: applications that tell what reached
//! them, in two namespaces, and who calls them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Cluster, eventually, is_ready};
use crate::shop::{Shop, shop};

/// The namespace of the Services whose calls are routed.
pub const HOME: &str = "routes";
/// Another one, with a caller and an application.
pub const ABROAD: &str = "routes-abroad";
/// The definitions that are installed where nothing else is said.
const RELEASE: &str = "v1.7.0";
/// How long a change may take in any case, of status and of what is in force.
const PATIENCE: u64 = 30;

/// The namespaces with their pods, which stay for all stories; what a story
/// applies is taken away at its end:
/// - `echo-v1`, `echo-v2` with a Service each, and Service `echo` of both, with
///   ports 80 (`http`), 8081 (`alt`) and 7070 (`grpc`);
/// - Service `bare`: headless; `caller`: calls.
/// - abroad: `echo-v3` with its Service, and a `caller` too.
pub struct World {
    shop: Shop,
}

fn pod(namespace: &str, name: &str, labels: &str, role: &str, version: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}{labels}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n    - name: app\n      image: remora/demo:0.1.0\n      \
         command: [remora, demo, {role}]\n      env: [{{name: PAYMENT_VERSION, value: {version}}}]\n      \
         readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}\n"
    )
}

fn service(namespace: &str, name: &str, selector: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         {more}selector: {{{selector}}}\n  ports:\n    - {{name: http, port: 80, targetPort: 8080}}\n    \
         - {{name: alt, port: 8081, targetPort: 8080, appProtocol: http}}\n    \
         - {{name: grpc, port: 7070, targetPort: 8080, appProtocol: kubernetes.io/h2c}}\n"
    )
}

fn everything() -> String {
    let mut yaml = String::new();
    for namespace in [HOME, ABROAD] {
        yaml.push_str(&format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{remora.io/inject: enabled}}}}\n"
        ));
    }
    for (namespace, version) in [(HOME, "v1"), (HOME, "v2"), (ABROAD, "v3")] {
        let name = format!("echo-{version}");
        yaml.push_str(&pod(namespace, &name, ", kind: echo", "echo", version));
        yaml.push_str(&service(namespace, &name, &format!("app: {name}"), ""));
    }
    for namespace in [HOME, ABROAD] {
        yaml.push_str(&pod(namespace, "caller", "", "cart", "none"));
    }
    yaml.push_str(&service(HOME, "echo", "kind: echo", ""));
    yaml.push_str(&service(HOME, "bare", "kind: echo", "clusterIP: None\n  "));
    yaml
}

/// Where `tests/kube/gateway-api build` put the definitions.
fn definitions(channel: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("REMORA_KUBE_DIR")?);
    let folder = folder.join("bin/gateway/crds").join(RELEASE).join(channel);
    folder.is_dir().then_some(folder)
}

/// Has the definitions of a channel in the place of others; whether they are there.
pub fn install(cluster: &Cluster, channel: &str) -> bool {
    let Some(folder) = definitions(channel) else {
        eprintln!(
            "SKIPPED (nothing was tested): no definitions of the Gateway API; see tests/kube/gateway-api"
        );
        return false;
    };
    let folder = folder.display().to_string();
    // Larger than what kubectl could remember in an annotation.
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", &folder];
    cluster.kubectl(&apply);
    let established = ["wait", "--for=condition=Established", "--timeout=60s"];
    let kinds = ["httproutes", "grpcroutes", "referencegrants"];
    for kind in kinds {
        let name = format!("crd/{kind}.gateway.networking.k8s.io");
        cluster.kubectl(&[&established[..], &[&name]].concat());
    }
    true
}

/// Takes the definitions away, and with them every route.
pub fn uninstall(cluster: &Cluster) {
    let folder = definitions("experimental").unwrap().display().to_string();
    cluster.kubectl(&[
        "delete",
        "--ignore-not-found",
        "--timeout=60s",
        "-f",
        &folder,
    ]);
}

impl World {
    /// All of it, ready, with the definitions of the experimental channel; none
    /// where there is no cluster, or no definitions.
    pub fn make() -> Option<Self> {
        let shop = shop()?;
        if !install(&shop.cluster, "experimental") {
            return None;
        }
        let world = Self { shop };
        // Once: of a pod that was injected nothing can be applied anew.
        let is_made = world
            .cluster()
            .try_kubectl(&["get", "namespace", ABROAD], None);
        if is_made.is_err() {
            world.cluster().apply(&everything());
        }
        eventually(120, "the applications are ready", || {
            let pods = [HOME, ABROAD].map(|namespace| world.cluster().pods(namespace, "app"));
            let ready = pods.iter().flatten().filter(|pod| is_ready(pod)).count();
            if ready == 5 {
                Ok(())
            } else {
                Err(format!("{ready} of 5"))
            }
        });
        Some(world)
    }

    /// Waits until no caller's sidecar has a route any more.
    #[track_caller]
    fn unrouted(&self) {
        for namespace in [HOME, ABROAD] {
            eventually(PATIENCE, "no route is in force", || {
                let stats = self
                    .cluster()
                    .served(namespace, "caller", 15120, "/stats")?;
                match stats["routes"].as_array().map(Vec::len) {
                    Some(0) => Ok(()),
                    _ => Err(stats["routes"].to_string()),
                }
            });
        }
    }

    /// The cluster that it is in.
    pub fn cluster(&self) -> &Cluster {
        &self.shop.cluster
    }

    /// Requests from the caller of a namespace: what came of one, or counts of many.
    pub fn try_call(&self, from: &str, url: &str, more: &[&str]) -> Result<Value, String> {
        let exec = ["exec", "-n", from, "caller", "-c", "app", "--"];
        let demo = ["remora", "demo", "caller", "--url", url];
        let said = self
            .cluster()
            .try_kubectl(&[&exec[..], &demo, more].concat(), None)?;
        serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))
    }

    /// What one request came to.
    #[track_caller]
    pub fn call(&self, from: &str, url: &str, more: &[&str]) -> Value {
        let answered = self.try_call(from, url, more);
        answered.unwrap_or_else(|why| panic!("{url} {more:?}: {why}"))
    }

    /// How often what came of so many requests.
    #[track_caller]
    pub fn count(&self, from: &str, url: &str, count: u32) -> BTreeMap<String, u64> {
        let count = count.to_string();
        let counts = self.call(from, url, &["--count", &count]);
        serde_json::from_value(counts).unwrap()
    }

    /// Waits until a request comes to this, as `<status> <version or reason>`;
    /// gives the answer.
    #[track_caller]
    pub fn comes_to(&self, from: &str, url: &str, more: &[&str], expected: &str) -> Value {
        let what = format!("{from}: {url} {more:?} comes to {expected}");
        eventually(PATIENCE, &what, || {
            let answer = self.try_call(from, url, more)?;
            let kind = kind(&answer);
            if kind == expected {
                Ok(answer)
            } else {
                Err(kind)
            }
        })
    }

    /// Applies a route of a kind; its status then says `Accepted: True`.
    #[track_caller]
    pub fn route(&self, kind: &str, namespace: &str, name: &str, spec: &str) {
        self.write(kind, namespace, name, spec);
        self.says(kind, namespace, name, "Accepted", "True Accepted");
    }

    /// Applies a route, whatever comes of it.
    pub fn write(&self, kind: &str, namespace: &str, name: &str, spec: &str) {
        self.cluster().apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}"
        ));
    }

    /// Waits until a condition for the first of our parents is `<status> <reason>` for the
    /// newest generation; gives its message. Empty: it is not there.
    #[track_caller]
    pub fn says(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        condition: &str,
        expected: &str,
    ) -> String {
        let what = format!("{kind} {namespace}/{name} says {condition} {expected}");
        eventually(PATIENCE, &what, || {
            let route = self.cluster().json(&["get", kind, "-n", namespace, name]);
            let generation = &route["metadata"]["generation"];
            let ours = ours(&route);
            let parent = ours.first().ok_or("no parent of ours")?;
            let conditions = parent["conditions"].as_array().cloned();
            let conditions = conditions.unwrap_or_default();
            let accepted = conditions.iter().find(|one| one["type"] == "Accepted");
            if accepted.is_none_or(|one| one["observedGeneration"] != *generation) {
                return Err(format!("of an older generation: {route}"));
            }
            let found = conditions.iter().find(|one| one["type"] == condition);
            let word =
                |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
            let said = found.map_or(String::new(), |one| {
                format!("{} {}", word(one, "status"), word(one, "reason"))
            });
            if said == expected {
                Ok(found.map(|one| word(one, "message")).unwrap_or_default())
            } else {
                Err(format!("{said:?} in {conditions:?}"))
            }
        })
    }

    /// What an application heard of requests that hold these words.
    pub fn heard(&self, pod: &str, words: &str) -> Vec<Value> {
        let pod_object = self.cluster().json(&["get", "pod", "-n", HOME, pod]);
        let ip = pod_object["status"]["podIP"].as_str().unwrap().to_owned();
        let answer = self.call(HOME, &format!("http://{ip}:8080/heard"), &[]);
        let all: Vec<Value> = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        let mut all = all;
        all.retain(|heard| heard.to_string().contains(words));
        all
    }

    /// What a caller's sidecar has of a Service.
    pub fn version(&self, namespace: &str, service: &str) -> Option<String> {
        let config = self
            .cluster()
            .served(namespace, "caller", 15120, "/config")
            .ok()?;
        let applied = config["applied"].as_array()?.iter();
        let mut services = applied.filter(|one| {
            let name = one["name"].as_str().unwrap_or_default();
            one["type"] == "Service" && name.starts_with(service)
        });
        services.next()?["version"].as_str().map(str::to_owned)
    }

    /// Applies a change, and waits until the caller's sidecar has it.
    #[track_caller]
    pub fn in_force(&self, namespace: &str, service: &str, change: impl FnOnce()) {
        let before = self.version(namespace, service);
        change();
        eventually(PATIENCE, "the change is in force", || {
            let now = self.version(namespace, service);
            if now.is_some() && now != before {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let kinds = "httproutes,grpcroutes,referencegrants,trafficpolicies";
        for namespace in [HOME, ABROAD] {
            let leave = ["delete", kinds, "--all", "-n", namespace, "--timeout=30s"];
            let left = self.cluster().try_kubectl(&leave, None);
            if !std::thread::panicking() {
                left.unwrap();
            }
        }
        if !std::thread::panicking() {
            self.unrouted();
        }
    }
}

/// What an answer is: its status, and who gave it or why.
pub fn kind(answer: &Value) -> String {
    let headers = &answer["headers"];
    let words = ["x-version", "x-remora-reason"].map(|name| headers[name].as_str());
    let word = words.into_iter().flatten().next().unwrap_or("nobody");
    let grpc = headers["grpc-status"].as_str();
    let grpc = grpc.map_or(String::new(), |status| format!(" grpc {status}"));
    format!("{} {word}{grpc}", answer["status"])
}

/// What the application says that it got.
#[track_caller]
pub fn got(answer: &Value) -> Value {
    let body = answer["body"].as_str().unwrap_or_default();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// The entries of `status.parents` that are ours.
pub fn ours(route: &Value) -> Vec<Value> {
    let parents = route["status"]["parents"].as_array();
    let mut parents = parents.cloned().unwrap_or_default();
    parents.retain(|one| one["controllerName"] == "remora.io/control-plane");
    parents
}

/// Runs a script of `tests/kube` on this cluster.
pub fn script(name: &str, arguments: &[&str]) -> (bool, String) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("kube")
        .join(name);
    let folder = std::env::var_os("REMORA_KUBE_DIR").unwrap_or_default();
    let mut command = Command::new(script);
    let done = command.arg(folder).args(arguments).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
