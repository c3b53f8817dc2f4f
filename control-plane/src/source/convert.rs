//! Kubernetes' types to the core's: of each only what Remora uses. What
//! cannot be used is said with its field.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::discovery::v1 as discovery_v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use remora_proto::bounds;
use remora_proto::ports::{self, NotPorts, PortRange};
use remora_proto::spiffe::is_trust_domain;
use remora_proto::v1::Protocol;
use remora_proto::well_known;

use crate::core::objects::{
    EndpointSlice, Id, Name, Namespace, Pod, PortReference, Reach, Service, ServicePort,
    SliceEndpoint, Weight, in_ranges,
};
use crate::policy::check::FieldError;

/// Endpoints of one slice (Kubernetes allows as many).
const MAX_ENDPOINTS: usize = 1_000;
/// Ports of one object.
const MAX_PORTS: usize = 1_000;
/// Kubernetes' default of sessionAffinityConfig.clientIP.timeoutSeconds.
const SESSION_AFFINITY_SECONDS: u32 = 10_800;

/// The errors of one object.
#[derive(Default)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError {
            field: field.into(),
            message: message.into(),
        });
    }

    fn port(&mut self, field: String, number: i32) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        if port.is_none() {
            self.add(field, format!("is {number}, must be from 1 to 65535"));
        }
        port
    }

    fn address(&mut self, field: String, text: &str) -> Option<IpAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.add(field, format!("is {text:?}, must be an IP address"));
        }
        address
    }

    /// A text of a form of Kubernetes, which an API server has made sure of.
    fn form(&mut self, field: &str, text: &str, holds: fn(&str) -> bool) {
        if !text.is_empty() && !holds(text) {
            self.add(
                field,
                format!("is {text:?}, which Kubernetes does not allow"),
            );
        }
    }

    fn bounded(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.add(
                field,
                format!("has {count} items, must have at most {most}"),
            );
        }
    }
}

/// Seconds since the Unix epoch at which the object was made.
pub fn created(metadata: &ObjectMeta) -> Option<i64> {
    metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.as_second())
}

/// A Namespace, of which the metadata says all.
pub fn namespace(id: Id, metadata: &ObjectMeta) -> Namespace {
    Namespace {
        id,
        inject: label(metadata, well_known::INJECT) == Some(well_known::INJECT_ENABLED),
    }
}

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let value = metadata.labels.as_ref()?.get(name)?;
    Some(value)
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let value = metadata.annotations.as_ref()?.get(name)?;
    Some(value)
}

/// A Service.
pub fn service(id: Id, service: &core_v1::Service, errors: &mut Errors) -> Service {
    let empty = core_v1::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let reach = reach(spec, errors);
    let opaque = opaque_ports(&service.metadata, errors);
    let listed = spec.ports.as_deref().unwrap_or_default();
    errors.bounded("spec.ports", listed.len(), MAX_PORTS);
    let mut ports = Vec::new();
    for (index, port) in listed
        .iter()
        .enumerate()
        .filter(|(_, port)| is_tcp(port.protocol.as_ref()))
    {
        let at = format!("spec.ports[{index}]");
        let Some(number) = errors.port(format!("{at}.port"), port.port) else {
            continue;
        };
        let target = match &port.target_port {
            Some(IntOrString::Int(target)) => {
                let target = errors.port(format!("{at}.targetPort"), *target);
                PortReference::Number(target.unwrap_or(number))
            }
            Some(IntOrString::String(name)) => PortReference::Name(name.as_str().into()),
            None => PortReference::Number(number),
        };
        let name = port.name.clone().unwrap_or_default();
        errors.form(&format!("{at}.name"), &name, bounds::is_label);
        if ports.iter().any(|known: &ServicePort| known.port == number) {
            errors.add(format!("{at}.port"), format!("is {number} a second time"));
        }
        ports.push(ServicePort {
            protocol: if in_ranges(&opaque, number) {
                Protocol::Tcp
            } else {
                protocol(port.app_protocol.as_deref(), &name)
            },
            name: name.into(),
            port: number,
            target,
        });
    }
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|ip| ip.timeout_seconds);
    let timeout = timeout
        .and_then(|seconds| u32::try_from(seconds).ok())
        .unwrap_or(SESSION_AFFINITY_SECONDS);
    if affinity && !(1..=bounds::MAX_AFFINITY_SECONDS).contains(&timeout) {
        let most = bounds::MAX_AFFINITY_SECONDS;
        errors.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("is {timeout}, must be from 1 to {most}"),
        );
    }
    Service {
        id,
        created: created(&service.metadata),
        reach,
        ports,
        selector: spec.selector.clone().unwrap_or_default(),
        session_affinity_seconds: affinity.then_some(timeout),
        internal_traffic_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
    }
}

fn reach(spec: &core_v1::ServiceSpec, errors: &mut Errors) -> Reach {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Reach::ExternalName;
    }
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.iter().filter(|ip| !listed.contains(ip));
    let all: Vec<&String> = single.chain(listed).filter(|ip| !ip.is_empty()).collect();
    if all.iter().any(|ip| *ip == "None") {
        return Reach::Headless;
    }
    errors.bounded("spec.clusterIPs", all.len(), bounds::MAX_ADDRESSES);
    let addresses = all
        .iter()
        .filter_map(|ip| errors.address("spec.clusterIP".to_owned(), ip));
    Reach::ClusterIp(addresses.collect())
}

/// From appProtocol where it says something known, else from the prefix of
/// the port's name (`http-web` is http), else it is detected.
pub fn protocol(app_protocol: Option<&str>, port_name: &str) -> Protocol {
    let named = |word: &str| match word.to_ascii_lowercase().as_str() {
        "http" | "http1" | "http/1.1" | "kubernetes.io/ws" | "ws" => Some(Protocol::Http1),
        "http2" | "h2c" | "kubernetes.io/h2c" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        // What is encrypted by the application, or spoken by no one here, is opaque.
        "tcp" | "tls" | "https" | "kubernetes.io/wss" | "wss" | "mysql" | "mongo" | "redis" => {
            Some(Protocol::Tcp)
        }
        _ => None,
    };
    if let Some(word) = app_protocol {
        return named(word).unwrap_or(Protocol::Detect);
    }
    let prefix = port_name.split('-').next().unwrap_or_default();
    named(prefix).unwrap_or(Protocol::Detect)
}

fn is_tcp(protocol: Option<&String>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// `remora.io/opaque-ports: 3306,7000-7010`
fn opaque_ports(metadata: &ObjectMeta, errors: &mut Errors) -> Vec<PortRange> {
    port_ranges("opaque-ports", metadata, errors)
}

/// The ports that an annotation of ours lists.
fn port_ranges(wish: &str, metadata: &ObjectMeta, errors: &mut Errors) -> Vec<PortRange> {
    let name = format!("{}{wish}", well_known::PREFIX);
    let Some(text) = annotation(metadata, &name) else {
        return Vec::new();
    };
    let mut held = Vec::new();
    for range in ports::ranges(text) {
        match range {
            Ok(range) => held.push(range),
            Err(NotPorts(part)) => errors.add(
                format!("metadata.annotations.{name}"),
                format!("has {part:?}, must be ports and ranges such as 3306,7000-7010"),
            ),
        }
    }
    held
}

/// An EndpointSlice.
pub fn endpoint_slice(
    id: Id,
    slice: &discovery_v1::EndpointSlice,
    errors: &mut Errors,
) -> EndpointSlice {
    let service = label(&slice.metadata, "kubernetes.io/service-name");
    let listed = slice.ports.as_deref().unwrap_or_default();
    errors.bounded("ports", listed.len(), MAX_PORTS);
    errors.bounded("endpoints", slice.endpoints.len(), MAX_ENDPOINTS);
    let mut ports = Vec::new();
    for (index, port) in listed
        .iter()
        .enumerate()
        .filter(|(_, port)| is_tcp(port.protocol.as_ref()))
    {
        // No number stands for every port, which no Service port is.
        let number = port
            .port
            .and_then(|number| errors.port(format!("ports[{index}].port"), number));
        let name: Name = port.name.clone().unwrap_or_default().into();
        ports.extend(number.map(|number| (name, number)));
    }
    let mut endpoints = Vec::new();
    // Slices of addressType FQDN hold names; those are not intercepted.
    if slice.address_type != "FQDN" {
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            endpoints.extend(slice_endpoint(index, endpoint, errors));
        }
    }
    EndpointSlice {
        id,
        service: service.filter(|name| !name.is_empty()).map(Name::from),
        ports,
        endpoints,
    }
}

fn slice_endpoint(
    index: usize,
    endpoint: &discovery_v1::Endpoint,
    errors: &mut Errors,
) -> Option<SliceEndpoint> {
    let at = format!("endpoints[{index}].addresses");
    let Some(first) = endpoint.addresses.first() else {
        errors.add(at, "is empty, must have an IP address");
        return None;
    };
    let address = errors.address(format!("{at}[0]"), first)?;
    let target = endpoint.target_ref.as_ref();
    let target = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    // What a condition does not say: ready, serving as ready, not terminating
    // (KEP-1672).
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|all| all.ready).unwrap_or(true);
    let hints = endpoint
        .hints
        .as_ref()
        .and_then(|hints| hints.for_zones.as_ref());
    // An API server does not look at what a slice says of its pods: what cannot
    // be is as what is not said, and the rest of the slice holds.
    let name = |text: &Option<String>, holds: fn(&str) -> bool| {
        text.as_deref().filter(|text| holds(text)).map(Name::from)
    };
    Some(SliceEndpoint {
        address,
        pod: target.and_then(|target| name(&target.name, bounds::is_subdomain)),
        pod_uid: target.and_then(|target| name(&target.uid, bounds::is_uid)),
        node: name(&endpoint.node_name, bounds::is_subdomain),
        zone: name(&endpoint.zone, bounds::is_label_value),
        ready,
        serving: conditions.and_then(|all| all.serving).unwrap_or(ready),
        terminating: conditions.and_then(|all| all.terminating) == Some(true),
        hint_zones: hints
            .into_iter()
            .flatten()
            .map(|zone| zone.name.clone())
            .filter(|zone| bounds::is_label_value(zone))
            .take(bounds::MAX_HINT_ZONES)
            .collect(),
    })
}

/// A Pod.
pub fn pod(id: Id, pod: &core_v1::Pod, errors: &mut Errors) -> Pod {
    let empty = (core_v1::PodSpec::default(), core_v1::PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&empty.0);
    let status = pod.status.as_ref().unwrap_or(&empty.1);
    // A host's address is not the pod's own, and that of a pod which has
    // ended may be another's already.
    let phase = status.phase.as_deref();
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    let on_host = spec.host_network == Some(true);
    let addresses = if on_host || ended {
        Vec::new()
    } else {
        pod_addresses(status, errors)
    };
    let declined = [label, annotation]
        .iter()
        .any(|read| read(&pod.metadata, well_known::INJECT) == Some(well_known::INJECT_DISABLED));
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    let not_injected = annotation(&pod.metadata, well_known::INJECTED)
        .and_then(|text| text.strip_prefix(well_known::NOT_INJECTED))
        .map(Name::from);
    let mut text = |field: &str, text: &Option<String>, holds: fn(&str) -> bool| {
        let text = text.as_deref().unwrap_or_default();
        errors.form(field, text, holds);
        Name::from(text)
    };
    let uid = text("metadata.uid", &pod.metadata.uid, bounds::is_uid);
    let node = text("spec.nodeName", &spec.node_name, bounds::is_subdomain);
    let account = &spec.service_account_name;
    let account = text("spec.serviceAccountName", account, bounds::is_subdomain);
    Pod {
        id,
        uid,
        service_account: if spec.service_account_name.is_some() {
            account
        } else {
            "default".into()
        },
        node,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        addresses,
        draining: pod.metadata.deletion_timestamp.is_some(),
        ready: ready.is_none_or(|ready| ready.status == "True"),
        says_ready: ready.is_some_and(|ready| ready.status == "True"),
        lost: is_lost(status),
        ports: container_ports(spec, errors),
        opaque_ports: opaque_ports(&pod.metadata, errors),
        excluded_ports: port_ranges("exclude-inbound-ports", &pod.metadata, errors),
        // A pod that the injector left alone may have a container of that name.
        sidecar: not_injected.is_none() && has_sidecar(spec),
        running: phase == Some("Running"),
        ended,
        declines_sidecar: on_host || declined,
        not_injected,
        mesh_protocols: mesh_protocols(&pod.metadata),
        trust_domain: trust_domain(&pod.metadata, errors),
        weight: annotation(&pod.metadata, well_known::WEIGHT).map_or(Weight::Unset, Weight::read),
    }
}

/// All addresses of a pod, the one that it is known by first.
fn pod_addresses(status: &core_v1::PodStatus, errors: &mut Errors) -> Vec<IpAddr> {
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let mut texts: Vec<&String> = listed.filter(|ip| !ip.is_empty()).collect();
    let first = status.pod_ip.as_ref();
    if let Some(ip) = first.filter(|ip| !ip.is_empty() && !texts.contains(ip)) {
        texts.insert(0, ip);
    }
    errors.bounded("status.podIPs", texts.len(), bounds::MAX_ADDRESSES);
    let addresses = texts
        .into_iter()
        .filter_map(|text| errors.address("status.podIPs".to_owned(), text));
    addresses.collect()
}

/// Whether it was the node controller that took the condition Ready away, and not
/// the kubelet: that one says why, and takes ContainersReady away too (or leaves
/// it where a readiness gate is not open, and says that). An API server that was
/// away for a minute makes every node look lost.
fn is_lost(status: &core_v1::PodStatus) -> bool {
    let condition = |kind: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == kind)
    };
    let unready = condition("Ready").is_some_and(|ready| {
        ready.status == "False" && ready.reason.as_deref().unwrap_or_default().is_empty()
    });
    unready && condition("ContainersReady").is_some_and(|ready| ready.status == "True")
}

/// What the injected sidecar takes from others: of what its annotation lists
/// the names that are known here; a later version may list more.
fn mesh_protocols(metadata: &ObjectMeta) -> Vec<&'static str> {
    let text = annotation(metadata, well_known::MESH_PROTOCOLS);
    let listed = |known: &&str| {
        let mut words = text.into_iter().flat_map(|text| text.split(','));
        words.any(|word| word.trim() == *known)
    };
    well_known::mesh::ALL.into_iter().filter(listed).collect()
}

/// The trust domain of the injected sidecar's identity. One that cannot be a
/// trust domain is nobody's: its callers would send plaintext, so it is said.
fn trust_domain(metadata: &ObjectMeta, errors: &mut Errors) -> Option<Name> {
    let text = annotation(metadata, well_known::IDENTITY)?;
    if !is_trust_domain(text) {
        errors.add(
            format!("metadata.annotations.{}", well_known::IDENTITY),
            format!("is {text:?}, must be a trust domain such as cluster.local"),
        );
        return None;
    }
    Some(text.into())
}

/// A native sidecar of ours is among the init containers.
fn has_sidecar(spec: &core_v1::PodSpec) -> bool {
    let init = spec.init_containers.iter().flatten();
    init.into_iter()
        .any(|container| container.name == well_known::SIDECAR_CONTAINER)
}

fn container_ports(spec: &core_v1::PodSpec, errors: &mut Errors) -> Vec<(Name, u16)> {
    let mut ports = Vec::new();
    // Init containers with restartPolicy Always run beside the others.
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    for container in sidecars.chain(&spec.containers) {
        // Remora's own listeners are not the pod's.
        if container.name == well_known::SIDECAR_CONTAINER {
            continue;
        }
        for port in container
            .ports
            .iter()
            .flatten()
            .filter(|port| is_tcp(port.protocol.as_ref()))
        {
            let at = format!("spec.containers.{}.ports.containerPort", container.name);
            let number = errors.port(at, port.container_port);
            let name: Name = port.name.clone().unwrap_or_default().into();
            ports.extend(number.map(|number| (name, number)));
        }
    }
    errors.bounded("spec.containers", ports.len(), MAX_PORTS);
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_protocol_comes_from_app_protocol_or_the_names_prefix() {
        for (app_protocol, name, wanted) in [
            (None, "http", Protocol::Http1),
            (None, "http-web", Protocol::Http1),
            (None, "http2-web", Protocol::Http2),
            (None, "grpc", Protocol::Grpc),
            (None, "tcp-inventory", Protocol::Tcp),
            (None, "https", Protocol::Tcp),
            (None, "web", Protocol::Detect),
            (None, "httpx", Protocol::Detect),
            (None, "", Protocol::Detect),
            (Some("kubernetes.io/h2c"), "http", Protocol::Http2),
            (Some("example.com/own"), "http", Protocol::Detect),
        ] {
            assert_eq!(
                protocol(app_protocol, name),
                wanted,
                "{app_protocol:?} {name}"
            );
        }
    }

    #[test]
    fn a_services_own_settings_are_read() {
        let mut errors = Errors::default();
        let read = serde_json::from_value(json!({
            "metadata": {"annotations": {"remora.io/opaque-ports": "3306, 7000-7010"}},
            "spec": {
                "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "internalTrafficPolicy": "Local",
                "ports": [
                    {"name": "http-db", "port": 3306, "targetPort": "db"},
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                ],
            },
        }));
        let read = service(Id::new("shop", "db"), &read.unwrap(), &mut errors);
        assert_eq!(errors.0, []);
        assert_eq!(read.session_affinity_seconds, Some(60));
        assert!(read.internal_traffic_local);
        assert_eq!(read.ports.len(), 1, "UDP is never touched");
        assert_eq!(
            read.ports[0].protocol,
            Protocol::Tcp,
            "opaque wins over the name"
        );
        assert_eq!(read.ports[0].target, PortReference::Name("db".into()));
        let Reach::ClusterIp(addresses) = read.reach else {
            panic!()
        };
        assert_eq!(addresses.len(), 2);
    }

    #[test]
    fn the_address_of_a_host_or_of_a_pod_that_ended_is_not_the_pods() {
        let addresses = |pod_of: serde_json::Value| {
            let read = serde_json::from_value(pod_of).unwrap();
            pod(Id::new("shop", "a"), &read, &mut Errors::default())
                .addresses
                .len()
        };
        let ips = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        let status = json!({"podIP": "10.0.0.1", "podIPs": ips});
        let spec = json!({"containers": []});
        assert_eq!(
            addresses(json!({"metadata": {}, "spec": spec, "status": status})),
            2
        );
        let host = json!({"containers": [], "hostNetwork": true});
        assert_eq!(
            addresses(json!({"metadata": {}, "spec": host, "status": status})),
            0
        );
        let ended = json!({"podIP": "10.0.0.1", "phase": "Succeeded"});
        assert_eq!(
            addresses(json!({"metadata": {}, "spec": spec, "status": ended})),
            0
        );
    }

    #[test]
    fn what_a_sidecar_takes_is_read_once_each_and_unknown_words_are_passed_over() {
        for (text, wanted) in [
            (None, &[][..]),
            (Some(""), &[]),
            (Some("remora-h3,h2, Remora-H2"), &[]),
            (
                Some("remora-h1, remora-h2 ,remora-h4,remora-h1"),
                &["remora-h2", "remora-h1"],
            ),
        ] {
            let mut metadata = ObjectMeta::default();
            let annotation = |text: &str| (well_known::MESH_PROTOCOLS.to_owned(), text.to_owned());
            metadata.annotations = text.map(|text| [annotation(text)].into());
            assert_eq!(mesh_protocols(&metadata), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_a_slice_does_not_say_has_kubernetes_defaults() {
        let mut errors = Errors::default();
        let read = serde_json::from_value(json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "a"}},
            "addressType": "IPv4",
            "ports": [{"port": 80}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true},
                 "hints": {"forZones": [{"name": "z"}]}},
                {"addresses": ["nonsense"]},
            ],
        }));
        let read = endpoint_slice(Id::new("shop", "a-1"), &read.unwrap(), &mut errors);
        let (first, second) = (&read.endpoints[0], &read.endpoints[1]);
        assert!(first.ready && first.serving && !first.terminating);
        assert!(!second.ready && second.serving && second.terminating);
        assert_eq!(second.hint_zones, ["z"]);
        assert_eq!(errors.0[0].field, "endpoints[2].addresses[0]");
    }

    #[test]
    fn a_pod_is_lost_where_its_node_is_not_heard_of_and_only_there() {
        let lost = |ready: serde_json::Value, containers: &str| {
            let conditions = json!([ready, {"type": "ContainersReady", "status": containers}]);
            let pod = json!({"metadata": {}, "spec": {"containers": []}, "status": {"conditions": conditions}});
            let pod: core_v1::Pod = serde_json::from_value(pod).unwrap();
            super::pod(Id::new("shop", "a"), &pod, &mut Errors::default()).lost
        };
        // The node controller changes the word and says nothing.
        assert!(lost(json!({"type": "Ready", "status": "False"}), "True"));
        assert!(!lost(json!({"type": "Ready", "status": "True"}), "True"));
        let by_kubelet =
            json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady"});
        assert!(!lost(by_kubelet, "False"));
        let by_gate =
            json!({"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"});
        assert!(!lost(by_gate, "True"));
    }

    #[test]
    fn a_slice_and_a_pod_that_are_hardly_begun_are_read_as_empty() {
        // As the API server writes them: lists without items are null.
        let mut errors = Errors::default();
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": ""}},
            "addressType": "IPv4", "endpoints": null, "ports": null,
        });
        let slice = serde_json::from_value(slice).unwrap();
        let slice = endpoint_slice(Id::new("shop", "a-1"), &slice, &mut errors);
        assert_eq!((slice.service, slice.endpoints.len()), (None, 0));
        let pending = json!({"metadata": {"uid": "u"}, "spec": {"containers": []},
                             "status": {"phase": "Pending"}});
        let pending = serde_json::from_value(pending).unwrap();
        let pending = pod(Id::new("shop", "a"), &pending, &mut errors);
        assert!(!pending.running && !pending.declines_sidecar && !pending.draining);
        assert_eq!((pending.addresses.len(), errors.0.len()), (0, 0));
    }

    #[test]
    fn a_pod_may_decline_a_sidecar_by_label_or_annotation_or_by_where_it_runs() {
        let declines = |metadata: serde_json::Value, host_network: bool| {
            let spec = json!({"containers": [], "hostNetwork": host_network});
            let read = serde_json::from_value(json!({"metadata": metadata, "spec": spec}));
            let read = pod(Id::new("shop", "a"), &read.unwrap(), &mut Errors::default());
            read.declines_sidecar
        };
        let says = |value: &str| json!({"remora.io/inject": value});
        assert!(!declines(json!({}), false));
        assert!(declines(json!({}), true));
        assert!(declines(json!({"labels": says("disabled")}), false));
        assert!(declines(json!({"annotations": says("disabled")}), false));
        assert!(!declines(json!({"labels": says("enabled")}), false));
    }
}
