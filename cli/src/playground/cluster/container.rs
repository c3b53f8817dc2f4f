//! Containers as processes: which program, which variables, which namespace.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use remora_proto::well_known::{
    ADMIN_PORT, INBOUND_PORT, INTERCEPT_CONTAINER, OUTBOUND_PORT, PROBE_PORT, SIDECAR_CONTAINER,
};
use tokio::process::{Child, Command};

use super::environment;
use crate::playground::options::Isolation;
use crate::playground::process::become_process;

/// Our own program, wherever it lies and whatever it is called.
pub const OURSELVES: &str = "/proc/self/exe";
/// What the probe runs inside a pod's namespace.
pub const PROBE_INTERCEPT: [&str; 3] = [OURSELVES, "proxy", "intercept"];

/// What all containers of a pod share.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The pod, injected, with its addresses in `status`.
    pub pod: Arc<Pod>,
    /// The pod's network namespace; without one, loopback addresses.
    pub namespace: Option<Arc<OwnedFd>>,
    /// The pod's address.
    pub address: IpAddr,
    /// Where the application binds, when not at the pod's address.
    pub application_address: IpAddr,
    /// The folder of logs.
    pub logs: PathBuf,
    /// By what the pod's sidecar shows who it is.
    pub identity: Vec<(&'static str, String)>,
}

impl Surroundings {
    /// How this pod is kept apart.
    pub fn isolation(&self) -> Isolation {
        if self.namespace.is_some() {
            Isolation::Netns
        } else {
            Isolation::Loopback
        }
    }

    /// Whether this container has nothing to do here: there is no redirect
    /// between loopback addresses.
    pub fn skips(&self, container: &Container) -> bool {
        self.namespace.is_none() && container.name == INTERCEPT_CONTAINER
    }

    /// The log of a container.
    pub fn log(&self, container: &str) -> PathBuf {
        let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
        self.logs.join(format!("{pod}.{container}.log"))
    }

    /// Starts a container's process, in a process group of its own (the
    /// terminal's Ctrl-C is not for it), dying with this process.
    ///
    /// # Errors
    /// Unresolvable variables, a program that cannot be started.
    pub fn start(&self, container: &Container) -> anyhow::Result<Child> {
        let variables = self.variables(container)?;
        let arguments = command_line(container, &variables)?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(&container.name))?;
        let mut command = match &self.namespace {
            Some(namespace) => become_process::in_namespace(namespace)?,
            None => become_process::beside(),
        };
        command.args(&arguments).env_clear().envs(&variables);
        command.stdout(log.try_clone()?).stderr(Stdio::from(log));
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        command
            .spawn()
            .with_context(|| format!("container {} cannot be started", container.name))
    }

    /// All variables of a container: the machine's path, its own, ours.
    fn variables(&self, container: &Container) -> anyhow::Result<BTreeMap<String, String>> {
        let path =
            std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        let mut all = BTreeMap::from([
            ("PATH".to_owned(), path),
            ("HOME".to_owned(), "/".to_owned()),
        ]);
        all.extend(environment::variables(&self.pod, container)?);
        for (name, value) in self.ours(container) {
            all.insert(name.to_owned(), value);
        }
        Ok(all)
    }

    /// What the stage itself must tell a container.
    fn ours(&self, container: &Container) -> Vec<(&'static str, String)> {
        let listen = |port: u16| std::net::SocketAddr::new(self.address, port).to_string();
        let of_sidecar = |mut ours: Vec<(&'static str, String)>| {
            ours.extend(self.identity.iter().cloned());
            ours
        };
        match (container.name.as_str(), self.isolation()) {
            // The injector was told the mark and the control plane's address.
            (SIDECAR_CONTAINER, Isolation::Netns) => of_sidecar(Vec::new()),
            (SIDECAR_CONTAINER, Isolation::Loopback) => of_sidecar(vec![
                ("REMORA_MODE", "explicit".to_owned()),
                ("REMORA_OUTBOUND_LISTEN", listen(OUTBOUND_PORT)),
                ("REMORA_INBOUND_LISTEN", listen(INBOUND_PORT)),
                ("REMORA_ADMIN_LISTEN", listen(ADMIN_PORT)),
                ("REMORA_PROBE_LISTEN", listen(PROBE_PORT)),
                ("REMORA_EXPLICIT_INBOUND", self.application_ports()),
                ("REMORA_APP_ADDRESS", self.application_address.to_string()),
            ]),
            (_, Isolation::Loopback) if has_sidecar(&self.pod) => vec![
                ("HTTP_PROXY", format!("http://{}", listen(OUTBOUND_PORT))),
                ("BIND", self.application_address.to_string()),
            ],
            (_, Isolation::Loopback) => vec![("BIND", self.address.to_string())],
            (_, Isolation::Netns) => Vec::new(),
        }
    }

    fn application_ports(&self) -> String {
        let ports: Vec<_> = application_ports(&self.pod)
            .iter()
            .map(u16::to_string)
            .collect();
        ports.join(",")
    }
}

/// Whether the pod carries a sidecar.
pub fn has_sidecar(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let mut all = spec.into_iter().flat_map(|spec| {
        spec.init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
    });
    all.any(|container| container.name == SIDECAR_CONTAINER)
}

/// The declared TCP ports of the pod's application, in order.
pub fn application_ports(pod: &Pod) -> Vec<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ours = containers.filter(|container| container.name != SIDECAR_CONTAINER);
    ours.flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect()
}

/// The program and its arguments. Images are not run: the name of the command,
/// or else of the image, decides.
fn command_line(
    container: &Container,
    variables: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<String>> {
    let words = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter()
            .flatten()
            .map(|word| environment::expand(word, variables))
            .collect()
    };
    let mut line = words(&container.command);
    if line.is_empty() {
        line.push(image_name(container.image.as_deref().unwrap_or_default()).to_owned());
    }
    let program = line.remove(0);
    let name = Path::new(&program)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let mut result = match name.as_deref() {
        Some("remora") => vec![OURSELVES.to_owned()],
        Some("remora-proxy") => vec![OURSELVES.to_owned(), "proxy".to_owned()],
        Some(_)
            if container
                .command
                .as_ref()
                .is_some_and(|command| !command.is_empty()) =>
        {
            vec![program]
        }
        _ => bail!(
            "container {}: the playground runs no images; give it a command that this machine has (image {:?})",
            container.name,
            container.image.as_deref().unwrap_or_default()
        ),
    };
    result.append(&mut line);
    result.append(&mut words(&container.args));
    Ok(result)
}

/// `remora-proxy` of `ghcr.io/remora/remora-proxy:0.1.0@sha256:...`.
fn image_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(['@', ':']).next().unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(container: serde_json::Value) -> anyhow::Result<Vec<String>> {
        let container: Container = serde_json::from_value(container).unwrap();
        command_line(
            &container,
            &BTreeMap::from([("ROLE".to_owned(), "web".to_owned())]),
        )
    }

    #[test]
    fn programs_of_ours_are_this_program() {
        let demo = line(
            json!({"name": "app", "image": "remora/demo", "command": ["remora", "demo"], "args": ["$(ROLE)"]}),
        );
        assert_eq!(demo.unwrap(), [OURSELVES, "demo", "web"]);
        let sidecar = line(
            json!({"name": "remora-proxy", "image": "ghcr.io/x/remora-proxy:0.1", "args": ["intercept"]}),
        );
        assert_eq!(sidecar.unwrap(), [OURSELVES, "proxy", "intercept"]);
        assert_eq!(
            line(json!({"name": "s", "command": ["/bin/sleep", "9"]})).unwrap(),
            ["/bin/sleep", "9"]
        );
    }

    #[test]
    fn images_are_refused_by_name() {
        let error = line(json!({"name": "app", "image": "nginx:1"}))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("app") && error.contains("nginx:1"),
            "{error}"
        );
    }

    #[test]
    fn without_namespaces_the_sidecar_proxies_explicitly() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-1"},
            "spec": {
                "initContainers": [{"name": "remora-proxy"}],
                "containers": [{"name": "app", "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}]
            }
        }))
        .unwrap();
        let around = Surroundings {
            pod: Arc::new(pod),
            namespace: None,
            address: [127, 77, 1, 3].into(),
            application_address: [127, 177, 1, 3].into(),
            logs: PathBuf::new(),
            identity: vec![("REMORA_TOKEN_FILE", "/t".to_owned())],
        };
        let of = |name: &str| {
            BTreeMap::from_iter(around.ours(&Container {
                name: name.to_owned(),
                ..Container::default()
            }))
        };
        assert_eq!(of("remora-proxy")["REMORA_EXPLICIT_INBOUND"], "8080");
        assert_eq!(of("remora-proxy")["REMORA_TOKEN_FILE"], "/t");
        assert_eq!(
            of("remora-proxy")["REMORA_OUTBOUND_LISTEN"],
            "127.77.1.3:15101"
        );
        assert_eq!(of("app")["HTTP_PROXY"], "http://127.77.1.3:15101");
        assert_eq!(of("app")["BIND"], "127.177.1.3");
    }
}
