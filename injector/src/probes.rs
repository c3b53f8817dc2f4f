//! The kubelet's probes and hooks, pointed at the sidecar.
//!
//! The kubelet has no identity in the mesh, so it could not probe an
//! application behind strict mTLS; and a probe through the redirect would count
//! as a caller's request. So each probe goes to one port of the sidecar, which
//! knows exactly these and dials the application itself.
//!
//! # `REMORA_PROBES`
//! A JSON array of [`Probe`]s; the sidecar serves each as `GET <path>` at its
//! probe port (15121) and answers 404 to everything else:
//! ```json
//! [
//!   {"path": "/remora/probe/web/readiness", "timeout_ms": 1000,
//!    "http": {"port": 8080, "path": "/healthz?full=1", "scheme": "HTTP",
//!             "headers": [{"name": "Host", "value": "web"}]}},
//!   {"path": "/remora/probe/db/liveness", "timeout_ms": 1000, "tcp": {"port": 5432}},
//!   {"path": "/remora/probe/api/startup", "timeout_ms": 5000, "grpc": {"port": 9000, "service": ""}}
//! ]
//! ```
//! Exactly one of `http`, `tcp` and `grpc` is there. The sidecar dials the
//! pod's own address at `port`, within `timeout_ms`, as the kubelet would:
//! - `http`: a GET of `path` (with its query) with these headers; a `Host`
//!   among them is the request's; `scheme` is `HTTP`. The application's status
//!   is the answer; no redirect is followed. No answer is 502, none in time 504.
//! - `tcp`: 200 when the connection is accepted, else 503.
//! - `grpc`: `grpc.health.v1.Health/Check` of `service`; 200 when it is
//!   `SERVING`, else 503.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, HTTPGetAction, HTTPHeader, LifecycleHandler, Pod, Probe as Asked,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use remora_proto::well_known::PROBE_PORT;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::decide::is_ours;
use crate::operations::{Operations, at};

/// Under this every path of ours begins.
const PATH: &str = "/remora/probe/";
/// What the kubelet waits where a probe does not say.
const DEFAULT_TIMEOUT_SECONDS: i32 = 1;
/// A hook has no timeout of its own: the pod's grace ends it. This is the grace
/// of a pod that says nothing, and the least that a hook is given.
const HOOK_SECONDS: i64 = 30;

/// One probe or hook of the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Where the sidecar serves it.
    pub path: String,
    /// How long the application may take.
    pub timeout_ms: u64,
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
}

/// What the kubelet would have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// `httpGet`.
    Http {
        /// Of the pod.
        port: u16,
        /// With its query.
        path: String,
        /// `HTTP`.
        scheme: String,
        /// In their order.
        headers: Vec<Header>,
    },
    /// `tcpSocket`.
    Tcp {
        /// Of the pod.
        port: u16,
    },
    /// `grpc`.
    Grpc {
        /// Of the pod.
        port: u16,
        /// May be empty.
        service: String,
    },
}

/// A header field of an `httpGet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Rewrites every probe and hook that goes to a port of the pod, and returns
/// their originals. What is left alone: `exec`, `sleep`, what names a `host`
/// (it goes there, not to the pod), and ours. `HTTPS` is left alone too: the
/// sidecar cannot ask over TLS yet, while the kubelet's own TLS is relayed
/// untouched and tells the truth about the application.
pub fn rewrite(pod: &Pod, operations: &mut Operations, warnings: &mut Vec<String>) -> Vec<Probe> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let lists = [
        ("containers", spec.containers.as_slice()),
        ("initContainers", init),
    ];
    let mut rewriter = Rewriter {
        operations,
        warnings,
        probes: Vec::new(),
        hook_timeout_ms: hook_timeout_ms(spec.termination_grace_period_seconds),
    };
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            if !is_ours(&container.name) {
                rewriter.container(list, &index.to_string(), container);
            }
        }
    }
    rewriter.probes
}

struct Rewriter<'a> {
    operations: &'a mut Operations,
    warnings: &'a mut Vec<String>,
    probes: Vec<Probe>,
    hook_timeout_ms: u64,
}

fn hook_timeout_ms(grace_seconds: Option<i64>) -> u64 {
    let seconds = grace_seconds.map_or(HOOK_SECONDS, |grace| grace.max(HOOK_SECONDS));
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

/// An action that goes to the pod, and under which name it stands.
struct Found<'a> {
    key: &'static str,
    port: IntOrString,
    action: Box<dyn FnOnce(u16) -> Action + 'a>,
}

impl Rewriter<'_> {
    fn container(&mut self, list: &str, index: &str, container: &Container) {
        for (field, kind, probe) in [
            ("livenessProbe", "liveness", &container.liveness_probe),
            ("readinessProbe", "readiness", &container.readiness_probe),
            ("startupProbe", "startup", &container.startup_probe),
        ] {
            if let Some((probe, found)) = probe.as_ref().and_then(|p| Some((p, in_probe(p)?))) {
                let seconds = probe.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
                let timeout_ms = u64::try_from(seconds.max(1)).unwrap_or(1) * 1000;
                let place = ["spec", list, index, field];
                self.take(container, kind, &place, found, timeout_ms);
            }
        }
        let Some(lifecycle) = &container.lifecycle else {
            return;
        };
        for (field, kind, hook) in [
            ("postStart", "post-start", &lifecycle.post_start),
            ("preStop", "pre-stop", &lifecycle.pre_stop),
        ] {
            if let Some(found) = hook.as_ref().and_then(in_hook) {
                let place = ["spec", list, index, "lifecycle", field];
                self.take(container, kind, &place, found, self.hook_timeout_ms);
            }
        }
    }

    fn take(
        &mut self,
        container: &Container,
        kind: &str,
        place: &[&str],
        found: Found<'_>,
        timeout_ms: u64,
    ) {
        let Some(port) = resolve(&found.port, container) else {
            let what = place.last().copied().unwrap_or_default();
            self.warnings.push(format!(
                "remora: {what} of container {} names the port {}, which the container does not \
                 declare; it stays as it is",
                container.name,
                shown(&found.port)
            ));
            return;
        };
        let path = format!("{PATH}{}/{kind}", container.name);
        let ours = json!({"path": path, "port": PROBE_PORT});
        let pointer = |key: &str| {
            let mut pointer = at([]);
            place
                .iter()
                .copied()
                .chain([key])
                .for_each(|part| pointer.push_back(part));
            pointer
        };
        if found.key == "httpGet" {
            self.operations.replace(pointer("httpGet"), ours);
        } else {
            // The kind of a probe is which key it has; there must be one.
            self.operations.remove(pointer(found.key));
            self.operations.add(pointer("httpGet"), ours);
        }
        self.probes.push(Probe {
            path,
            timeout_ms,
            action: (found.action)(port),
        });
    }
}

fn in_probe(probe: &Asked) -> Option<Found<'_>> {
    if let Some(get) = &probe.http_get {
        return in_http_get(get);
    }
    if let Some(tcp) = &probe.tcp_socket {
        return names_no_host(tcp.host.as_ref()).then(|| Found {
            key: "tcpSocket",
            port: tcp.port.clone(),
            action: Box::new(|port| Action::Tcp { port }),
        });
    }
    let grpc = probe.grpc.as_ref()?;
    Some(Found {
        key: "grpc",
        port: IntOrString::Int(grpc.port),
        action: Box::new(|port| Action::Grpc {
            port,
            service: grpc.service.clone().unwrap_or_default(),
        }),
    })
}

/// Of hooks only httpGet: tcpSocket was never implemented by the kubelet.
fn in_hook(hook: &LifecycleHandler) -> Option<Found<'_>> {
    in_http_get(hook.http_get.as_ref()?)
}

fn in_http_get(get: &HTTPGetAction) -> Option<Found<'_>> {
    if !names_no_host(get.host.as_ref()) || is_rewritten(get) || is_https(get) {
        return None;
    }
    let header = |header: &HTTPHeader| Header {
        name: header.name.clone(),
        value: header.value.clone(),
    };
    Some(Found {
        key: "httpGet",
        port: get.port.clone(),
        action: Box::new(move |port| Action::Http {
            port,
            path: requested(get.path.as_deref().unwrap_or_default()),
            scheme: get.scheme.clone().unwrap_or_else(|| "HTTP".to_owned()),
            headers: get.http_headers.iter().flatten().map(header).collect(),
        }),
    })
}

/// A path as the kubelet requests it: it begins with a slash, and what may not
/// stand in a request is percent-encoded.
fn requested(path: &str) -> String {
    let mut requested = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        requested.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte) {
            requested.push(char::from(byte));
        } else {
            requested.push_str(&format!("%{byte:02X}"));
        }
    }
    requested
}

fn names_no_host(host: Option<&String>) -> bool {
    host.is_none_or(String::is_empty)
}

fn is_https(get: &HTTPGetAction) -> bool {
    get.scheme.as_deref() == Some("HTTPS")
}

/// Whether a first run has been here.
fn is_rewritten(get: &HTTPGetAction) -> bool {
    let path = get.path.as_deref().unwrap_or_default();
    get.port == IntOrString::Int(PROBE_PORT.into()) && path.starts_with(PATH)
}

/// The number of a port that may be named, as the kubelet finds it: among the
/// ports of the same container.
fn resolve(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = |port: &&ContainerPort| port.name.as_ref() == Some(name);
            let declared = container.ports.iter().flatten().find(named);
            match declared {
                Some(port) => port.container_port,
                None => name.parse().ok()?,
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

fn shown(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

/// The value of `REMORA_PROBES` for what the sidecar already had and what is
/// new; `None` where there is nothing.
pub fn variable(before: Option<&str>, new: &[Probe]) -> Option<String> {
    // What is there was written by a first run. Were it not, it could not be
    // served either, and is replaced.
    let before = before.and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
    let new = new
        .iter()
        .filter_map(|probe| serde_json::to_value(probe).ok());
    let mut all = before.unwrap_or_default();
    for probe in new {
        all.retain(|old| old["path"] != probe["path"]);
        all.push(probe);
    }
    (!all.is_empty()).then(|| Value::Array(all).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_form_is_the_real_one() {
        let text = r#"[
            {"path": "/remora/probe/web/readiness", "timeout_ms": 1000,
             "http": {"port": 8080, "path": "/healthz?full=1", "scheme": "HTTP",
                      "headers": [{"name": "Host", "value": "web"}]}},
            {"path": "/remora/probe/db/liveness", "timeout_ms": 1000, "tcp": {"port": 5432}},
            {"path": "/remora/probe/api/startup", "timeout_ms": 5000,
             "grpc": {"port": 9000, "service": ""}}
        ]"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let probes: Vec<Probe> = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&probes).unwrap(), value);
    }

    #[test]
    fn a_path_is_requested_as_the_kubelet_does() {
        for (path, wanted) in [
            ("", "/"),
            ("healthz", "/healthz"),
            ("/ready?full=1&of=%20a", "/ready?full=1&of=%20a"),
            ("/a b?{x}", "/a%20b?%7Bx%7D"),
            ("/gr\u{fc}n", "/gr%C3%BCn"),
        ] {
            assert_eq!(requested(path), wanted);
        }
    }

    #[test]
    fn a_hook_has_the_time_that_the_pod_has_to_end() {
        let grace = [None, Some(120), Some(0), Some(-1)];
        let timeouts = grace.map(hook_timeout_ms);
        assert_eq!(timeouts, [30_000, 120_000, 30_000, 30_000]);
    }

    #[test]
    fn new_probes_join_those_of_the_first_run() {
        let tcp = |name: &str, port| Probe {
            path: format!("{PATH}{name}/liveness"),
            timeout_ms: 1000,
            action: Action::Tcp { port },
        };
        assert_eq!(variable(None, &[]), None);
        let first = variable(None, &[tcp("a", 1)]).unwrap();
        assert_eq!(variable(Some(&first), &[]).as_ref(), Some(&first));
        let second = variable(Some(&first), &[tcp("b", 2)]).unwrap();
        let both: Vec<Probe> = serde_json::from_str(&second).unwrap();
        assert_eq!(both, [tcp("a", 1), tcp("b", 2)]);
        let replaced: Vec<Probe> =
            serde_json::from_str(&variable(Some(&second), &[tcp("a", 3)]).unwrap()).unwrap();
        assert_eq!(replaced, [tcp("b", 2), tcp("a", 3)]);
    }
}
