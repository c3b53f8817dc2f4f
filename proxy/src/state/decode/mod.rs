//! The stream's resources to parsed types, every bound checked; all that is
//! wrong with a resource is reported together, so that one NACK tells it all.
//!
//! # Layout
//! - this file: Service, Endpoint, Workload.
//! - [`policy`]: the policies in them, with [`balancing`], [`health`], and
//!   [`trouble`] (fallbacks and faults); [`authorization`]: who may call.
//! - [`routes`], [`filters`]: where requests go, and what is done with them.
//! - [`names`]: which names and addresses are accepted.
//! - [`problems`]: how problems are collected and shown.

pub mod authorization;
pub mod balancing;
pub mod filters;
pub mod health;
pub mod names;
pub mod policy;
pub mod problems;
pub mod routes;
pub mod trouble;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use remora_proto::bounds::{
    self, MAX_ADDRESSES, MAX_AFFINITY_SECONDS, MAX_HINT_ZONES, MAX_POLICIES, MAX_PORTS,
};
use remora_proto::spiffe::SpiffeId;
use remora_proto::{v1, well_known};
use rustls::pki_types::CertificateDer;

pub use self::problems::DecodeError;
use self::problems::Problems;
use super::resource::{
    EndpointConfig, InboundPort, MeshProtocols, MtlsMode, PolicyReference, Protocol, Secured,
    ServiceConfig, ServiceKind, ServicePort, WorkloadConfig,
};

use crate::routes::config::PortRoutes;
use crate::tls::Trust;

/// Names of what one endpoint's sidecar takes, those of later versions included.
pub const MAX_MESH_PROTOCOLS: usize = 16;
/// The largest weight of an endpoint.
const MAX_WEIGHT: u32 = 1_000_000;

/// A Service resource called `name`.
///
/// # Errors
/// When it is not one, or says what it must not; every problem is named.
pub fn service(name: &str, value: &[u8]) -> Result<ServiceConfig, DecodeError> {
    let service = v1::Service::decode(value).map_err(not_a("Service"))?;
    let mut problems = Problems::default();
    let config = service_config(&service, &mut problems);
    if config.kind == ServiceKind::Pod {
        match &config.pod {
            Some(pod) => {
                let expected = well_known::pod_resource_name(&pod.namespace, &pod.pod);
                expect_name(name, &expected, &mut problems);
            }
            None => problems.add("pod", "is missing"),
        }
    } else {
        let expected = well_known::resource_name(&config.namespace, &config.name);
        expect_name(name, &expected, &mut problems);
    }
    problems.finish(config)
}

/// An Endpoint resource called `name`.
///
/// # Errors
/// When it is not one, or says what it must not; every problem is named.
pub fn endpoint(name: &str, value: &[u8]) -> Result<EndpointConfig, DecodeError> {
    let endpoint = v1::Endpoint::decode(value).map_err(not_a("Endpoint"))?;
    let mut problems = Problems::default();
    let port = problems.port("port", endpoint.port);
    let target_port = problems.port("target_port", endpoint.target_port);
    let config = endpoint_config(&endpoint, port, target_port, &mut problems);
    let expected = well_known::endpoint_name(
        &config.namespace,
        &config.service,
        config.port,
        &config.member(),
    );
    expect_name(name, &expected, &mut problems);
    problems.finish(config)
}

/// A Workload resource called `name`.
///
/// # Errors
/// When it is not one, or says what it must not; every problem is named.
pub fn workload(name: &str, value: &[u8]) -> Result<WorkloadConfig, DecodeError> {
    let workload = v1::Workload::decode(value).map_err(not_a("Workload"))?;
    let mut problems = Problems::default();
    let mut ports = BTreeMap::new();
    for (index, port) in problems
        .list("ports", &workload.ports, MAX_PORTS)
        .iter()
        .enumerate()
    {
        problems.within(format!("ports[{index}]"), |problems| {
            let number = problems.port("port", port.port);
            let inbound = InboundPort {
                protocol: protocol(port.protocol, problems),
                rate_limits: policy::rate_limits(&port.rate_limits, problems),
                mtls: mtls_mode(port.mtls),
            };
            if ports.insert(number, inbound).is_some() {
                problems.add("port", format_args!("{number} is there twice"));
            }
        });
    }
    let config = WorkloadConfig {
        namespace: label("namespace", &workload.namespace, &mut problems),
        pod: problems.text("pod", &workload.pod, names::is_subdomain, "a pod's name"),
        pod_uid: optional_uid(&workload.pod_uid, &mut problems),
        service_account: optional_subdomain(
            "service_account",
            &workload.service_account,
            &mut problems,
        ),
        node: optional_subdomain("node", &workload.node, &mut problems),
        zone: optional_zone("zone", &workload.zone, &mut problems),
        addresses: addresses(&workload.addresses, &mut problems),
        draining: workload.draining,
        ports,
        rate_limits: policy::rate_limits(&workload.rate_limits, &mut problems),
        policies: policy_references(&workload.policies, &mut problems),
        reports_address: reports_address(&workload.reports_address, &mut problems),
        identity: identity(&workload.identity, &mut problems),
        mtls: mtls_mode(workload.mtls),
        authorizations: authorization::rules(&workload.authorizations, &mut problems),
    };
    let expected = well_known::resource_name(&config.namespace, &config.pod);
    expect_name(name, &expected, &mut problems);
    problems.finish(config)
}

/// The TrustBundle resource, which must be of `trust_domain`.
///
/// # Errors
/// When it is not one, or says what it must not; every problem is named.
pub fn trust_bundle(name: &str, value: &[u8], trust_domain: &str) -> Result<Trust, DecodeError> {
    let bundle = v1::TrustBundle::decode(value).map_err(not_a("TrustBundle"))?;
    let mut problems = Problems::default();
    expect_name(name, well_known::TRUST_BUNDLE, &mut problems);
    let trust = trust(&bundle, trust_domain);
    let trust = trust.map_err(|problem| problems.add("roots", problem)).ok();
    problems
        .finish(trust)?
        .ok_or_else(|| DecodeError::new("has no roots".to_owned()))
}

/// Whom a bundle of `trust_domain` makes us believe.
///
/// # Errors
/// In words, for whoever made it.
pub fn trust(bundle: &v1::TrustBundle, trust_domain: &str) -> Result<Trust, String> {
    if bundle.trust_domain != trust_domain {
        let quoted = problems::quote(&bundle.trust_domain);
        return Err(format!(
            "are of the trust domain {quoted}, and this sidecar is of {trust_domain}"
        ));
    }
    let roots = bundle.roots.iter();
    let roots = roots
        .map(|root| CertificateDer::from(root.to_vec()))
        .collect();
    Trust::new(trust_domain, roots).map_err(|error| error.to_string())
}

fn service_config(service: &v1::Service, problems: &mut Problems) -> ServiceConfig {
    let kind = match v1::service::Kind::try_from(service.kind) {
        Ok(v1::service::Kind::ClusterIp) => ServiceKind::ClusterIp,
        Ok(v1::service::Kind::Headless) => ServiceKind::Headless,
        Ok(v1::service::Kind::Pod) => ServiceKind::Pod,
        Err(_) => {
            problems.add("kind", format_args!("{} is not known", service.kind));
            ServiceKind::ClusterIp
        }
    };
    let session_affinity = service.session_affinity_seconds.map(|seconds| {
        let field = "session_affinity_seconds";
        let seconds = problems.number(field, seconds, 1..=MAX_AFFINITY_SECONDS);
        Duration::from_secs(u64::from(seconds))
    });
    let pod = match (kind, &service.pod) {
        (ServiceKind::Pod, Some(pod)) => Some(problems.within("pod", |problems| {
            for (field, port) in [("port", pod.port), ("target_port", pod.target_port)] {
                problems.number(field, port, 0..=0);
            }
            endpoint_config(pod, 0, 0, problems)
        })),
        _ => None,
    };
    ServiceConfig {
        namespace: label("namespace", &service.namespace, problems),
        // That of a pod may be as long as pods' names are.
        name: problems.text(
            "name",
            &service.name,
            |name| names::is_label(name) || (kind == ServiceKind::Pod && names::is_subdomain(name)),
            "a Service's name",
        ),
        kind,
        addresses: addresses(&service.addresses, problems),
        ports: service_ports(&service.ports, problems),
        policy: service
            .policy
            .as_ref()
            .map(|part| {
                problems.within("policy", |problems| policy::service_policy(part, problems))
            })
            .unwrap_or_default(),
        policies: policy_references(&service.policies, problems),
        session_affinity,
        internal_traffic_local: service.internal_traffic_local,
        pod,
        routes: routes(service, kind, problems),
    }
}

fn routes(
    service: &v1::Service,
    kind: ServiceKind,
    problems: &mut Problems,
) -> Vec<Arc<PortRoutes>> {
    if kind != ServiceKind::ClusterIp && !service.routes.is_empty() {
        problems.add("routes", "are of a Service without an address of its own");
        return Vec::new();
    }
    routes::port_routes(&service.routes, problems)
}

fn service_ports(ports: &[v1::ServicePort], problems: &mut Problems) -> Vec<ServicePort> {
    let mut parsed: Vec<ServicePort> = problems
        .list("ports", ports, MAX_PORTS)
        .iter()
        .enumerate()
        .map(|(index, port)| {
            problems.within(format!("ports[{index}]"), |problems| ServicePort {
                port: problems.port("port", port.port),
                name: problems.text(
                    "name",
                    &port.name,
                    |name| name.is_empty() || names::is_label(name),
                    "a port's name",
                ),
                protocol: protocol(port.protocol, problems),
            })
        })
        .collect();
    parsed.sort_by_key(|port| port.port);
    for pair in parsed.windows(2) {
        if pair[0].port == pair[1].port && pair[0].port != 0 {
            problems.add("ports", format_args!("{} is there twice", pair[0].port));
        }
    }
    parsed
}

fn endpoint_config(
    endpoint: &v1::Endpoint,
    port: u16,
    target_port: u16,
    problems: &mut Problems,
) -> EndpointConfig {
    let ip = address("address", &endpoint.address, problems);
    let hint_zones = problems
        .list("hint_zones", &endpoint.hint_zones, MAX_HINT_ZONES)
        .iter()
        .map(|zone| problems.text("hint_zones", zone, names::is_label_value, "a zone"))
        .collect();
    EndpointConfig {
        namespace: label("namespace", &endpoint.namespace, problems),
        // A pod that no Service lists has the pod's name here, or none.
        service: problems.text(
            "service",
            &endpoint.service,
            |name| {
                names::is_label(name)
                    || (port == 0 && (name.is_empty() || names::is_subdomain(name)))
            },
            "a Service's name",
        ),
        port,
        address: SocketAddr::new(ip, target_port),
        pod: if port == 0 {
            problems.text("pod", &endpoint.pod, names::is_subdomain, "a pod's name")
        } else {
            optional_subdomain("pod", &endpoint.pod, problems)
        },
        pod_uid: optional_uid(&endpoint.pod_uid, problems),
        node: optional_subdomain("node", &endpoint.node, problems),
        zone: optional_zone("zone", &endpoint.zone, problems),
        weight: problems
            .number("weight", endpoint.weight, 0..=MAX_WEIGHT)
            .max(1),
        ready: endpoint.ready,
        draining: endpoint.draining,
        serving: endpoint.serving,
        hint_zones,
        sidecar: endpoint.sidecar,
        mesh: mesh_protocols(&endpoint.mesh_protocols, problems),
        secured: secured(endpoint, problems),
    }
}

/// Who is there, where TLS is to be sent.
fn secured(endpoint: &v1::Endpoint, problems: &mut Problems) -> Option<Secured> {
    let id = identity(&endpoint.identity, problems)?;
    (mtls_mode(endpoint.mtls) != MtlsMode::Disabled).then(|| Secured::new(id))
}

/// Empty is none.
fn identity(value: &str, problems: &mut Problems) -> Option<SpiffeId> {
    if value.is_empty() {
        return None;
    }
    match value.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            let quoted = problems::quote(value);
            problems.add("identity", format_args!("{quoted} {error}"));
            None
        }
    }
}

/// A mode that is not known here can only be another way to be careful.
fn mtls_mode(value: i32) -> MtlsMode {
    match v1::MtlsMode::try_from(value) {
        Ok(v1::MtlsMode::Permissive) => MtlsMode::Permissive,
        Ok(v1::MtlsMode::Disabled) => MtlsMode::Disabled,
        Ok(v1::MtlsMode::Strict) | Err(_) => MtlsMode::Strict,
    }
}

/// A word that is not known here is a later version's, and no problem.
fn mesh_protocols(names: &[String], problems: &mut Problems) -> MeshProtocols {
    let names = problems.list("mesh_protocols", names, MAX_MESH_PROTOCOLS);
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    MeshProtocols {
        h2: has(well_known::mesh::H2),
        h1: has(well_known::mesh::H1),
        tcp: has(well_known::mesh::TCP),
    }
}

fn policy_references(
    policies: &[v1::PolicyReference],
    problems: &mut Problems,
) -> Vec<PolicyReference> {
    problems
        .list("policies", policies, MAX_POLICIES)
        .iter()
        .map(|policy| PolicyReference {
            namespace: label("policies.namespace", &policy.namespace, problems),
            name: problems.text(
                "policies.name",
                &policy.name,
                names::is_subdomain,
                "a policy's name",
            ),
            generation: policy.generation,
        })
        .collect()
}

fn protocol(value: i32, problems: &mut Problems) -> Protocol {
    match v1::Protocol::try_from(value) {
        Ok(v1::Protocol::Detect) => Protocol::Detect,
        Ok(v1::Protocol::Http1) => Protocol::Http1,
        Ok(v1::Protocol::Http2) => Protocol::Http2,
        Ok(v1::Protocol::Grpc) => Protocol::Grpc,
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Err(_) => {
            problems.add("protocol", format_args!("{value} is not known"));
            Protocol::Detect
        }
    }
}

fn addresses(list: &[Bytes], problems: &mut Problems) -> Vec<IpAddr> {
    problems
        .list("addresses", list, MAX_ADDRESSES)
        .iter()
        .map(|bytes| address("addresses", bytes, problems))
        .collect()
}

fn address(field: &str, bytes: &[u8], problems: &mut Problems) -> IpAddr {
    match names::address(bytes) {
        Some(address) => address,
        None => {
            let length = bytes.len();
            problems.add(field, format_args!("has {length} bytes, must be 4 or 16"));
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        }
    }
}

fn label(field: &str, value: &str, problems: &mut Problems) -> String {
    problems.text(field, value, names::is_label, "a Kubernetes name")
}

fn optional_subdomain(field: &str, value: &str, problems: &mut Problems) -> String {
    let valid = |value: &str| value.is_empty() || names::is_subdomain(value);
    problems.text(field, value, valid, "a Kubernetes name or empty")
}

fn optional_zone(field: &str, value: &str, problems: &mut Problems) -> String {
    let valid = |value: &str| value.is_empty() || names::is_label_value(value);
    problems.text(field, value, valid, "a zone or empty")
}

fn optional_uid(value: &str, problems: &mut Problems) -> String {
    let valid = |value: &str| value.is_empty() || names::is_uid(value);
    problems.text("pod_uid", value, valid, "a pod's uid or empty")
}

/// Empty is none: then the sidecar's own way to the control plane is taken.
fn reports_address(value: &str, problems: &mut Problems) -> Option<SocketAddr> {
    if value.is_empty() {
        return None;
    }
    let address = value.parse().ok().filter(bounds::is_reachable);
    if address.is_none() {
        let quoted = problems::quote(value);
        problems.add(
            "reports_address",
            format_args!("is {quoted}, must be ip:port or empty"),
        );
    }
    address
}

/// A resource under another's name would shadow it.
fn expect_name(name: &str, expected: &str, problems: &mut Problems) {
    if name != expected {
        problems.add(
            "",
            format_args!(
                "is named {}, but describes {expected}",
                problems::quote(name)
            ),
        );
    }
}

fn not_a(kind: &'static str) -> impl FnOnce(prost::DecodeError) -> DecodeError {
    move |error| DecodeError::new(format!("is not a {kind}: {error}"))
}

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
