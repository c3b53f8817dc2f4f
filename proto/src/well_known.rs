//! Names that are the same everywhere in Remora.

/// Where a sidecar takes its pod's outgoing connections.
pub const OUTBOUND_PORT: u16 = 15101;
/// Where a sidecar takes connections to its pod.
pub const INBOUND_PORT: u16 = 15106;
/// The sidecar's admin endpoint: health, metrics, configuration, breakers.
pub const ADMIN_PORT: u16 = 15120;
/// Where a sidecar serves the kubelet's rewritten probes.
pub const PROBE_PORT: u16 = 15121;
/// The control plane's streams (gRPC).
pub const CONTROL_PLANE_PORT: u16 = 15110;
/// The control plane's admin endpoint.
pub const CONTROL_PLANE_ADMIN_PORT: u16 = 15114;

/// The user that the sidecar runs as; its own traffic is not redirected.
pub const SIDECAR_UID: u32 = 2102;
/// The socket mark by which the sidecar's own traffic may be told where user
/// ids cannot be had (the rootless playground): "RMRA".
pub const SIDECAR_MARK: u32 = 0x524d_5241;

/// Namespace label and pod label or annotation that decides on injection.
pub const INJECT: &str = "remora.io/inject";
/// The value of [`INJECT`] that asks for a sidecar.
pub const INJECT_ENABLED: &str = "enabled";
/// The value of [`INJECT`] that declines one.
pub const INJECT_DISABLED: &str = "disabled";
/// Prefix of every label and annotation of ours.
pub const PREFIX: &str = "remora.io/";

/// The name of the sidecar's container.
pub const SIDECAR_CONTAINER: &str = "remora-proxy";
/// The name of the init container that sets the redirect rules.
pub const INTERCEPT_CONTAINER: &str = "remora-intercept";

/// Type URL of [`crate::v1::Service`].
pub const SERVICE_TYPE: &str = "type.googleapis.com/remora.v1.Service";
/// Type URL of [`crate::v1::Endpoint`].
pub const ENDPOINT_TYPE: &str = "type.googleapis.com/remora.v1.Endpoint";
/// Type URL of [`crate::v1::Workload`].
pub const WORKLOAD_TYPE: &str = "type.googleapis.com/remora.v1.Workload";

/// The alias by which a Service is found from an address.
pub fn address_alias(address: std::net::IpAddr) -> String {
    format!("address/{}", address.to_canonical())
}

/// The name of a Service resource, and of a Workload.
pub fn resource_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// The name of the Service resource for a pod reached by its own address.
pub fn pod_resource_name(namespace: &str, pod: &str) -> String {
    format!("pod/{namespace}/{pod}")
}

/// The glob collection of all endpoints of a service.
pub fn endpoint_collection(namespace: &str, service: &str) -> String {
    format!("{namespace}/{service}/*")
}

/// The name of one endpoint; `member` is the pod's uid or else its address.
pub fn endpoint_name(namespace: &str, service: &str, port: u16, member: &str) -> String {
    format!("{namespace}/{service}/{port}/{member}")
}

/// The id by which a sidecar presents itself on the stream.
pub fn node_id(namespace: &str, pod: &str, pod_uid: &str) -> String {
    format!("sidecar/{namespace}/{pod}/{pod_uid}")
}

/// Request and response headers of ours.
pub mod header {
    /// Why Remora itself answered: one word of a closed list.
    pub const REASON: &str = "x-remora-reason";
    /// The number of this attempt, from 1, on requests to the upstream.
    pub const ATTEMPT: &str = "x-remora-attempt";
    /// Every header of ours begins so, and is stripped where it comes from outside.
    pub const PREFIX: &str = "x-remora-";
}
