//! A real API server, the manifests of `manifests/install`, and injectors in
//! this process, which act as their service account: with its rights alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope};
use kube::{Api, Client, Config, ResourceExt};
use remora_injector::{Options, Running};
use serde_json::{Value, json};

pub const SYSTEM: &str = "remora-system";
pub const NAME: &str = "remora-injector";
pub const CERTIFICATE: &str = "remora-injector-certificate";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// One at a time: there is one webhook configuration in a cluster.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub struct World {
    /// With all rights.
    pub admin: Client,
    /// With those of the manifests.
    injector: Client,
    /// By which the API server reaches this process.
    pub address: IpAddr,
    namespaces: Vec<String>,
    _token: tempfile::NamedTempFile,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// `None`, and said loudly, where there is no cluster.
pub async fn world() -> Option<World> {
    if std::env::var_os("KUBECONFIG").is_none() {
        // Not by a macro: what those print is kept from whoever looks.
        let said = "\nSKIPPED (nothing was tested): no KUBECONFIG\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return None;
    }
    let turn = TURN.lock().await;
    let config = Config::infer().await.unwrap();
    let admin = Client::try_from(config.clone()).unwrap();
    // What an earlier run left.
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(admin.clone());
    let _ = configurations.delete(NAME, &DeleteParams::default()).await;
    apply(
        &admin,
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}),
    )
    .await;
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), SYSTEM);
    let _ = secrets.delete(CERTIFICATE, &DeleteParams::default()).await;
    for document in manifest() {
        let wanted = [
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
        ];
        if wanted.contains(&document["kind"].as_str().unwrap()) {
            apply(&admin, &document).await;
        }
    }
    let (injector, token) = as_injector(&config, &admin).await;
    let host = config
        .cluster_url
        .host()
        .unwrap()
        .trim_matches(['[', ']'])
        .to_owned();
    let port = config.cluster_url.port_u16().unwrap_or(443);
    let any = if host.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect((host.as_str(), port)).unwrap();
    Some(World {
        admin,
        injector,
        address: socket.local_addr().unwrap().ip(),
        namespaces: Vec::new(),
        _token: token,
        _turn: turn,
    })
}

async fn as_injector(config: &Config, admin: &Client) -> (Client, tempfile::NamedTempFile) {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), SYSTEM);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let token = accounts
        .create_token_request(NAME, &PostParams::default(), &request)
        .await
        .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(token.status.unwrap().token.as_bytes())
        .unwrap();
    let mut config = config.clone();
    config.auth_info = Default::default();
    config.auth_info.token_file = Some(file.path().to_str().unwrap().to_owned());
    (Client::try_from(config).unwrap(), file)
}

/// The documents of `manifests/install/injector.yaml`.
pub fn manifest() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/install/injector.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let documents = text.split("\n---\n");
    documents
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect()
}

/// Server-side apply of anything, as the operator.
pub async fn apply(client: &Client, document: &Value) {
    let object: DynamicObject = serde_json::from_value(document.clone()).unwrap();
    let types = object.types.clone().unwrap();
    let kind = GroupVersionKind::try_from(&types).unwrap();
    let (resource, capabilities) = kube::discovery::pinned_kind(client, &kind).await.unwrap();
    let api = api(client, &object, &resource, &capabilities.scope);
    let params = PatchParams::apply("operator").force();
    let name = object.name_any();
    let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
    applied.unwrap_or_else(|error| panic!("{} {name}: {error}", types.kind));
}

fn api(
    client: &Client,
    object: &DynamicObject,
    resource: &ApiResource,
    scope: &Scope,
) -> Api<DynamicObject> {
    match (scope, object.namespace()) {
        (Scope::Namespaced, Some(namespace)) => {
            Api::namespaced_with(client.clone(), &namespace, resource)
        }
        _ => Api::all_with(client.clone(), resource),
    }
}

impl World {
    /// An injector in this process, without waiting for it.
    pub async fn injector(&self, more: &[&str]) -> Running {
        let name = format!("--certificate-name={}", self.address);
        let fixed = [
            "x",
            "--listen=[::]:0",
            "--admin=127.0.0.1:0",
            "--shutdown-delay=0s",
            &name,
        ];
        // Of two values of one flag the last counts.
        let mut command = Line::command().args_override_self(true);
        let matches = command
            .try_get_matches_from_mut(fixed.iter().chain(more))
            .unwrap();
        let line = Line::from_arg_matches(&matches).unwrap();
        remora_injector::start(line.options, self.injector.clone())
            .await
            .unwrap()
    }

    /// The webhook configuration of the manifest, but for where it points to.
    pub async fn configure(&self, port: u16, policy: &str) {
        apply(&self.admin, &self.configuration(port, policy)).await;
    }

    pub fn configuration(&self, port: u16, policy: &str) -> Value {
        let kind = |document: &Value| document["kind"] == "MutatingWebhookConfiguration";
        let mut document = manifest().into_iter().find(kind).unwrap();
        let host = match self.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        for webhook in document["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"] = json!({"url": format!("https://{host}:{port}/inject")});
            webhook["failurePolicy"] = json!(policy);
        }
        document
    }

    /// A namespace of this test, with these labels: its name, which no
    /// earlier run has left behind.
    pub async fn namespace(&mut self, what: &str, labels: &[(&str, &str)]) -> String {
        let name = &format!("{what}-{:x}", fastrand::u32(..));
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        let object = json!({"metadata": {"name": name, "labels": labels}});
        let object: Namespace = serde_json::from_value(object).unwrap();
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        self.namespaces.push(name.clone());
        // Without it no pod may be made there; a controller makes it.
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), name);
        until("the default service account", async || {
            accounts.get_opt("default").await.unwrap().is_some()
        })
        .await;
        name.clone()
    }

    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), namespace)
    }

    /// Makes a pod with this metadata and spec; the pod, and the warnings that
    /// came with it.
    pub async fn pod(
        &self,
        namespace: &str,
        metadata: Value,
        spec: Value,
    ) -> Result<(Pod, Vec<String>), String> {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "app", "image": "app:1"}]);
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods"))
            .header("content-type", "application/json")
            .body(kube::client::Body::from(serde_json::to_vec(&pod).unwrap()))
            .unwrap();
        let response = self.admin.send(request).await.map_err(|e| e.to_string())?;
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings
            .map(|text| text.to_str().unwrap().to_owned())
            .collect();
        let status = response.status();
        let body = response.into_body().collect_bytes().await.unwrap();
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        Ok((serde_json::from_slice(&body).unwrap(), warnings))
    }

    /// Takes away what this test made.
    pub async fn end(self) {
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.admin.clone());
        let _ = configurations.delete(NAME, &DeleteParams::default()).await;
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        for name in &self.namespaces {
            let pods = self.pods(name);
            let now = DeleteParams::default().grace_period(0);
            let _ = pods.delete_collection(&now, &Default::default()).await;
            let _ = namespaces.delete(name, &DeleteParams::default()).await;
        }
    }
}

/// `caBundle` of each webhook.
pub async fn bundles(world: &World) -> Vec<Option<Vec<u8>>> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.admin.clone());
    let configuration = configurations.get(NAME).await.unwrap();
    let webhooks = configuration.webhooks.unwrap();
    let bundle = |webhook: &MutatingWebhook| {
        let bundle = webhook.client_config.ca_bundle.as_ref();
        bundle.map(|bundle| bundle.0.clone())
    };
    webhooks.iter().map(bundle).collect()
}

/// Whether a pod has both containers in front.
pub fn is_injected(pod: &Pod) -> bool {
    let init = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_deref());
    let names: Vec<&str> = init
        .unwrap_or_default()
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    names.starts_with(&["remora-intercept", "remora-proxy"])
}

/// What `remora.io/injected` says.
pub fn said(pod: &Pod) -> &str {
    pod.annotations()
        .get("remora.io/injected")
        .map_or("", String::as_str)
}

/// Waits at most 20 s.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 20 s");
}

/// The status and text of a GET of the admin endpoint.
pub async fn admin(running: &Running, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(running.admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let status = text[9..12].parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (status, body.to_owned())
}

pub async fn ready(running: &Running) {
    until("readiness", async || {
        admin(running, "/ready").await.0 == 200
    })
    .await;
}

/// How many reviews had this result.
pub async fn count(running: &Running, result: &str) -> u64 {
    let (_, metrics) = admin(running, "/metrics").await;
    let name = format!("remora_injections_total{{result=\"{result}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap().parse().unwrap()
}
