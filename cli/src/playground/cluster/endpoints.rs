//! EndpointSlices from Services and pods, as the endpoint controller makes them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

/// How a pod takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not ready yet.
    Starting,
    /// Serving, or killed: a killed pod stays listed, so that callers must find out.
    Listed,
    /// Being deleted, still serving.
    Terminating,
}

/// The EndpointSlices of one Service: one for each set of ports that its pods resolve to.
pub fn slices(service: &Service, pods: &[(&Pod, Standing)]) -> Vec<Value> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(selector) = spec
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
    else {
        return Vec::new();
    };
    let mut groups: BTreeMap<Vec<(String, u16)>, Vec<Value>> = BTreeMap::new();
    for (pod, standing) in pods {
        if pod.metadata.namespace.as_deref().unwrap_or("default") != namespace
            || !selects(selector, pod)
        {
            continue;
        }
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some((
                port.name.clone().unwrap_or_default(),
                target_port(port, pod)?,
            ))
        });
        groups
            .entry(ports.collect())
            .or_default()
            .push(endpoint(pod, *standing));
    }
    groups
        .into_iter()
        .enumerate()
        .map(|(index, (ports, endpoints))| {
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-{index}"),
                    "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": ports.iter().map(|(name, port)| slice_port(spec.ports.as_deref(), name, *port)).collect::<Vec<_>>(),
                "endpoints": endpoints,
            })
        })
        .collect()
}

fn slice_port(ports: Option<&[ServicePort]>, name: &str, port: u16) -> Value {
    let declared = ports
        .into_iter()
        .flatten()
        .find(|port| port.name.as_deref().unwrap_or_default() == name);
    let protocol = declared.and_then(|port| port.app_protocol.clone());
    let mut entry = json!({"name": name, "port": port, "protocol": "TCP"});
    if let Some(protocol) = protocol {
        entry["appProtocol"] = protocol.into();
    }
    entry
}

fn selects(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The number of a Service's port in a pod.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<u16> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => container_port(pod, name)?,
    };
    u16::try_from(number).ok()
}

/// The number of a container port by its name.
pub fn container_port(pod: &Pod, name: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .find(|port| port.name.as_deref() == Some(name))
        .map(|port| port.container_port)
}

fn endpoint(pod: &Pod, standing: Standing) -> Value {
    let address = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.clone())
        .unwrap_or_default();
    json!({
        "addresses": [address],
        "conditions": {
            "ready": standing == Standing::Listed,
            "serving": standing != Standing::Starting,
            "terminating": standing == Standing::Terminating,
        },
        "nodeName": super::environment::NODE,
        "targetRef": {
            "kind": "Pod",
            "name": pod.metadata.name,
            "namespace": pod.metadata.namespace,
            "uid": pod.metadata.uid,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, app: &str, port: u16) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": app}},
            "spec": {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"podIP": "10.77.1.1"}
        }))
        .unwrap()
    }

    fn service() -> Service {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "catalog", "namespace": "shop"},
            "spec": {"selector": {"app": "catalog"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
        }))
        .unwrap()
    }

    #[test]
    fn pods_are_selected_by_label_and_named_ports_resolved() {
        let (one, two, other) = (
            pod("catalog-1", "catalog", 8080),
            pod("catalog-2", "catalog", 9090),
            pod("web-1", "web", 8080),
        );
        let made = slices(
            &service(),
            &[
                (&one, Standing::Listed),
                (&two, Standing::Starting),
                (&other, Standing::Listed),
            ],
        );
        assert_eq!(made.len(), 2, "one slice for each resolved port: {made:?}");
        assert_eq!(made[0]["ports"][0]["port"], 8080);
        assert_eq!(made[0]["endpoints"][0]["conditions"]["ready"], true);
        assert_eq!(made[1]["endpoints"][0]["conditions"]["ready"], false);
    }

    #[test]
    fn terminating_pods_are_serving_and_not_ready() {
        let one = pod("catalog-1", "catalog", 8080);
        let made = slices(&service(), &[(&one, Standing::Terminating)]);
        assert_eq!(
            made[0]["endpoints"][0]["conditions"],
            json!({"ready": false, "serving": true, "terminating": true})
        );
    }
}
