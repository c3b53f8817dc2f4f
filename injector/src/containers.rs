//! The redirect step and the sidecar, as the first two init containers.

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use remora_proto::well_known::{
    ADMIN_PORT, INTERCEPT_CONTAINER, PROBE_PORT, SIDECAR_CONTAINER, SIDECAR_UID,
};
use serde_json::{Map, Value, json};

use crate::annotations::Wishes;
use crate::identity;
use crate::operations::{Operations, at};
use crate::probes::{self, Probe};
use crate::settings::{Resources, Settings};

const PROBES: &str = "REMORA_PROBES";
const POD: &str = "REMORA_POD";
const POD_FIELD: &str = "metadata.name";
/// The command of the redirect step, before its flags.
const INTERCEPT: [&str; 2] = ["remora-proxy", "intercept"];
/// How many seconds the sidecar may stay unready before the kubelet restarts
/// it. Long: without a control plane it waits, and restarting does not help.
const STARTUP_SECONDS: u32 = 600;

/// Whether a first run has put both containers there.
pub fn are_present(pod: &Pod) -> bool {
    find(pod, is_intercept).is_some() && sidecar_of(pod).is_some()
}

/// The sidecar of ours, where there is one already, native, as the injector makes it.
pub fn sidecar_of(pod: &Pod) -> Option<&Container> {
    find(pod, is_sidecar)
}

fn find(pod: &Pod, is_it: fn(&Container) -> bool) -> Option<&Container> {
    let init = pod.spec.as_ref()?.init_containers.as_ref()?;
    init.iter().find(|container| is_it(container))
}

/// Whether an init container is one that the injector wrote. By its name alone
/// it may be the application's own, and the annotation that a pod was injected
/// anybody can write: what counts is what the container does.
pub fn is_made_by_us(container: &Container) -> bool {
    is_sidecar(container) || is_intercept(container)
}

/// Lasts, and is told its pod as no application's container would be. Not by
/// its command: another webhook may have wrapped that.
fn is_sidecar(container: &Container) -> bool {
    let env = container.env.as_deref().unwrap_or_default();
    let is_told_its_pod = env.iter().any(|variable| {
        let source = variable.value_from.as_ref();
        let field = source.and_then(|source| source.field_ref.as_ref());
        variable.name == POD && field.is_some_and(|field| field.field_path == POD_FIELD)
    });
    container.name == SIDECAR_CONTAINER
        && container.restart_policy.as_deref() == Some("Always")
        && is_told_its_pod
}

/// Sets redirect rules, whatever may stand around that command.
fn is_intercept(container: &Container) -> bool {
    let words = container.command.iter().chain(&container.args).flatten();
    let words: Vec<&str> = words.map(String::as_str).collect();
    container.name == INTERCEPT_CONTAINER && words.windows(2).any(|two| two == INTERCEPT)
}

/// Where the API server mounts a service account's token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How the name of its volume begins.
const TOKEN_VOLUME: &str = "kube-api-access-";

/// What both containers have of the pod that they are in.
struct Surroundings<'a> {
    wishes: &'a Wishes,
    settings: &'a Settings,
    /// The mount of the service account's token, if the pod has it by now.
    /// The API server gives it to every container without one: where it has to
    /// do so for ours it has changed the pod, and asks all webhooks again, so
    /// that every pod would wait for two calls instead of one.
    token: Option<VolumeMount>,
    /// The pod as a whole has its resources: what containers request must fit
    /// into them, or the pod is refused. Ours take part without asking.
    shares_resources: bool,
}

impl Surroundings<'_> {
    fn resources(&self, defaults: &Resources) -> Value {
        let none = Resources::NONE;
        let is_default = self.wishes.resources == *defaults;
        if self.shares_resources && is_default {
            return resources(&none);
        }
        resources(&self.wishes.resources)
    }
}

fn token(pod: &Pod) -> Option<VolumeMount> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    let mut mounts = init
        .chain(&spec.containers)
        .flat_map(|container| container.volume_mounts.iter().flatten());
    let is_token =
        |mount: &&VolumeMount| mount.mount_path == TOKEN && mount.name.starts_with(TOKEN_VOLUME);
    mounts.find(is_token).map(|mount| VolumeMount {
        name: mount.name.clone(),
        mount_path: TOKEN.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    })
}

/// Puts both containers in front, or back in front.
pub fn place(
    pod: &Pod,
    new_probes: &[Probe],
    wishes: &Wishes,
    settings: &Settings,
    operations: &mut Operations,
) {
    let around = Surroundings {
        wishes,
        settings,
        token: token(pod),
        shares_resources: pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.resources.is_some()),
    };
    let init = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_deref());
    let init = init.unwrap_or_default();
    let present = init
        .iter()
        .position(|container| container.name == SIDECAR_CONTAINER);
    match present {
        Some(index) => update_probes(&init[index], index, new_probes, operations),
        None if init.is_empty() => {
            let both = json!([intercept(&around), sidecar(new_probes, &around),]);
            operations.add(at(["spec", "initContainers"]), both);
            return;
        }
        None => {}
    }
    // The names as they stand after each operation.
    let mut order: Vec<&str> = init
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    for (target, name) in [INTERCEPT_CONTAINER, SIDECAR_CONTAINER]
        .into_iter()
        .enumerate()
    {
        let path = at(["spec", "initContainers", &target.to_string()]);
        match order.iter().position(|other| *other == name) {
            Some(now) if now == target => continue,
            Some(now) => {
                order.remove(now);
                operations.shift(at(["spec", "initContainers", &now.to_string()]), path);
            }
            None if name == INTERCEPT_CONTAINER => {
                operations.add(path, intercept(&around));
            }
            None => operations.add(path, sidecar(new_probes, &around)),
        }
        order.insert(target.min(order.len()), name);
    }
}

/// Hands the probes of containers that came after the first run to the sidecar
/// that is already there.
fn update_probes(
    sidecar: &Container,
    index: usize,
    new_probes: &[Probe],
    operations: &mut Operations,
) {
    let env = sidecar.env.as_deref().unwrap_or_default();
    let place = env.iter().position(|variable| variable.name == PROBES);
    let before = place.and_then(|place| env[place].value.as_deref());
    let Some(value) = probes::variable(before, new_probes) else {
        return;
    };
    if before == Some(value.as_str()) {
        return;
    }
    let index = index.to_string();
    let variable = json!({"name": PROBES, "value": value});
    match (place, sidecar.env.is_some()) {
        (Some(place), _) => {
            let path = ["spec", "initContainers", &index, "env", &place.to_string()];
            operations.replace(at(path), variable);
        }
        (None, true) => {
            operations.add(at(["spec", "initContainers", &index, "env", "-"]), variable)
        }
        (None, false) => {
            operations.add(
                at(["spec", "initContainers", &index, "env"]),
                json!([variable]),
            );
        }
    }
}

/// A variable that the kubelet fills in.
fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn variable(name: &str, value: impl Into<String>) -> Value {
    json!({"name": name, "value": value.into()})
}

/// The container that sets the redirect rules and ends.
fn intercept(around: &Surroundings<'_>) -> Value {
    let (wishes, settings) = (around.wishes, around.settings);
    let mut command = INTERCEPT.map(str::to_owned).to_vec();
    command.extend(wishes.flags.iter().cloned());
    command.extend(
        settings
            .socket_mark
            .map(|mark| format!("--exclude-mark={mark:#x}")),
    );
    let mut container = json!({
        "name": INTERCEPT_CONTAINER,
        "image": settings.image,
        "command": command,
        // By these it sees a pod that shares its host's network.
        "env": [
            field("REMORA_POD_IPS", "status.podIPs"),
            field("REMORA_HOST_IP", "status.hostIP"),
        ],
        "resources": around.resources(&settings.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            // A capability of a container reaches only its root user.
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    given(&mut container, around);
    container
}

/// The native sidecar.
fn sidecar(new_probes: &[Probe], around: &Surroundings<'_>) -> Value {
    let (wishes, settings) = (around.wishes, around.settings);
    let mut container = json!({
        "name": SIDECAR_CONTAINER,
        "image": settings.image,
        "command": ["remora-proxy"],
        "restartPolicy": "Always",
        "env": environment(new_probes, wishes, settings),
        "ports": [
            {"name": "remora-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
            {"name": "remora-probe", "containerPort": PROBE_PORT, "protocol": "TCP"},
        ],
        // Holds back every container after it until the sidecar is ready.
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": ADMIN_PORT},
            "periodSeconds": 1,
            "failureThreshold": STARTUP_SECONDS,
        },
        "resources": around.resources(&settings.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": SIDECAR_UID,
            "runAsNonRoot": true,
            "runAsUser": SIDECAR_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    given(&mut container, around);
    let ours = identity::mounts(settings);
    match container.get_mut("volumeMounts") {
        Some(Value::Array(mounts)) => mounts.extend(ours),
        _ if ours.is_empty() => {}
        _ => container["volumeMounts"] = ours.into(),
    }
    container
}

fn environment(new_probes: &[Probe], wishes: &Wishes, settings: &Settings) -> Vec<Value> {
    let mut env = vec![
        field("REMORA_NAMESPACE", "metadata.namespace"),
        field(POD, POD_FIELD),
        field("REMORA_POD_UID", "metadata.uid"),
        field("REMORA_POD_IPS", "status.podIPs"),
        field("REMORA_NODE", "spec.nodeName"),
        variable("REMORA_CONTROL_PLANE", &settings.control_plane),
    ];
    env.extend(identity::variables(settings).map(|(name, value)| variable(name, value)));
    let mark = settings.socket_mark;
    env.extend(mark.map(|mark| variable("REMORA_SOCKET_MARK", format!("{mark:#x}"))));
    env.extend(
        wishes
            .variables
            .iter()
            .map(|(name, value)| variable(name, value)),
    );
    env.extend(probes::variable(None, new_probes).map(|value| variable(PROBES, value)));
    env
}

/// What is only there where there is a reason.
fn given(container: &mut Value, around: &Surroundings<'_>) {
    if let Some(policy) = &around.settings.image_pull_policy {
        container["imagePullPolicy"] = policy.clone().into();
    }
    if let Some(token) = &around.token {
        container["volumeMounts"] = json!([token]);
    }
}

fn resources(resources: &Resources) -> Value {
    let map = |entries: [(&str, &Option<String>); 2]| -> Map<String, Value> {
        let set = entries
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)));
        set.map(|(name, value)| (name.to_owned(), value.clone().into()))
            .collect()
    };
    let requests = map([
        ("cpu", &resources.cpu_request),
        ("memory", &resources.memory_request),
    ]);
    let limits = map([
        ("cpu", &resources.cpu_limit),
        ("memory", &resources.memory_limit),
    ]);
    let mut both = Map::new();
    for (name, values) in [("limits", limits), ("requests", requests)] {
        if !values.is_empty() {
            both.insert(name.to_owned(), values.into());
        }
    }
    both.into()
}
