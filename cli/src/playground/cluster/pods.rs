//! A Pod object from a Deployment's template, through the real injector.

use std::net::IpAddr;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use remora_injector::Settings;
use remora_proto::well_known::{SIDECAR_MARK, TRUST_DOMAIN};
use serde_json::{Value, json};

use super::catalogue::Key;
use super::environment::NODE;

/// Makes the Pod and lets the injector see it as the webhook would; with the
/// injector's warnings.
///
/// # Errors
/// When the template is no pod, or the injector's patch does not fit.
pub fn make(
    deployment: &Deployment,
    key: &Key,
    name: &str,
    namespace: &Namespace,
    injection: &Injection,
) -> anyhow::Result<(Pod, Vec<String>)> {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}});
    if let Some(template) = template {
        pod["metadata"] = serde_json::to_value(template.metadata.clone().unwrap_or_default())?;
        pod["spec"] = serde_json::to_value(&template.spec)?;
    }
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = key.0.clone().into();
    pod["metadata"]["uid"] = new_uid()?.into();
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "Deployment", "name": key.1, "uid": key.1, "controller": true,
    }]);
    injection.inject(&serde_json::from_value(pod)?, namespace)
}

/// What the injector is told about this stage.
#[derive(Debug, Clone)]
pub struct Injection {
    /// How sidecars are made here.
    pub settings: Settings,
}

impl Injection {
    /// For a control plane at `control_plane` (`http://host:port`).
    pub fn new(control_plane: &str, has_namespaces: bool) -> Self {
        // One user id is all that a rootless namespace has, so the sidecar's
        // own connections are told by their mark.
        let settings = Settings {
            control_plane: control_plane.to_owned(),
            trust_domain: Some(TRUST_DOMAIN.to_owned()),
            socket_mark: has_namespaces.then_some(SIDECAR_MARK),
            ..Settings::default()
        };
        Self { settings }
    }

    fn inject(&self, pod: &Pod, namespace: &Namespace) -> anyhow::Result<(Pod, Vec<String>)> {
        let decision = remora_injector::patch(pod, &namespace.into(), &self.settings);
        let warnings = decision.warnings().to_vec();
        let pod = match decision.patch() {
            Some(patch) => remora_injector::apply(pod, patch)?,
            None => pod.clone(),
        };
        Ok((pod, warnings))
    }
}

/// Gives the Pod its node and addresses, as the scheduler and the kubelet do.
pub fn place(pod: &mut Pod, addresses: &[IpAddr], host: IpAddr) {
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(NODE.to_owned());
    }
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let status = json!({
        "phase": "Running",
        "hostIP": host,
        "podIP": addresses.first(),
        "podIPs": ips,
    });
    pod.status = serde_json::from_value(status).ok();
}

/// The Pod as it is written for the control plane; `deleted_at` is set when it is to go.
pub fn object(pod: &Pod, deleted_at: Option<&str>) -> anyhow::Result<Value> {
    let mut object = serde_json::to_value(pod)?;
    if let Some(at) = deleted_at {
        object["metadata"]["deletionTimestamp"] = at.into();
        object["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    }
    Ok(object)
}

/// An identifier from the kernel, as a cluster gives each pod one.
///
/// # Errors
/// When `/proc` cannot be read.
fn new_uid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?
        .trim()
        .to_owned())
}

/// Seconds since 1970 as Kubernetes writes a time (RFC 3339, UTC).
pub fn rfc3339(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Civil date from days: H. Hinnant, "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_writes_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_247_999), "2026-11-21T07:59:59Z");
    }

    #[test]
    fn a_deleted_pod_carries_its_time() {
        let pod = Pod::default();
        assert!(object(&pod, None).unwrap()["metadata"]["deletionTimestamp"].is_null());
        let deleted = object(&pod, Some("2026-11-21T08:00:00Z")).unwrap();
        assert_eq!(
            deleted["metadata"]["deletionTimestamp"],
            "2026-11-21T08:00:00Z"
        );
    }
}
