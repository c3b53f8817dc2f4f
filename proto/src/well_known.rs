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
/// The injector's webhook (HTTPS).
pub const INJECTOR_PORT: u16 = 15112;
/// The injector's admin endpoint.
pub const INJECTOR_ADMIN_PORT: u16 = 15116;

/// The namespace of Remora's own daemons, where they are not told another.
pub const SYSTEM_NAMESPACE: &str = "remora-system";
/// The control plane's Service and its Lease, in the system namespace.
pub const CONTROL_PLANE: &str = "remora-control-plane";
/// The injector's Service, and the name of its webhook configuration.
pub const INJECTOR: &str = "remora-injector";
/// The annotation of the Lease that says where sidecars' reports go, `ip:port`.
pub const REPORTS_ADDRESS: &str = "remora.io/reports-address";
/// By which Remora names itself in the status of what it decides on (GEP-713).
pub const CONTROLLER_NAME: &str = "remora.io/control-plane";

/// The user that the sidecar runs as; its own traffic is not redirected.
pub const SIDECAR_UID: u32 = 2102;
/// The socket mark by which the sidecar's own traffic may be told where user
/// ids cannot be had (the rootless playground): "RMRA".
pub const SIDECAR_MARK: u32 = 0x524d_5241;

/// Namespace label and pod label or annotation that decides on injection.
pub const INJECT: &str = "remora.io/inject";
/// Namespaces in which the cluster itself lives: nothing is ever injected there.
pub const NEVER_INJECTED: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// The value of [`INJECT`] that asks for a sidecar.
pub const INJECT_ENABLED: &str = "enabled";
/// The value of [`INJECT`] that declines one.
pub const INJECT_DISABLED: &str = "disabled";
/// The annotation by which the injector says what it did with a pod: `true`, or
/// [`NOT_INJECTED`] and why.
pub const INJECTED: &str = "remora.io/injected";
/// How the value of [`INJECTED`] begins for a pod that was left alone.
pub const NOT_INJECTED: &str = "false: ";
/// Prefix of every label and annotation of ours.
pub const PREFIX: &str = "remora.io/";

/// The annotation by which the injector says what the sidecar that it put into
/// a pod takes from other sidecars: names of [`mesh`], separated by commas. A
/// pod with a sidecar and without it has an older sidecar, which takes none.
pub const MESH_PROTOCOLS: &str = "remora.io/mesh-protocols";

/// The annotation by which a pod says how much of its Services' traffic it wants
/// beside the others: 1 to 1000, 1 where it is not there.
pub const WEIGHT: &str = "remora.io/weight";

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

/// Type URL of [`crate::v1::TrustBundle`].
pub const TRUST_BUNDLE_TYPE: &str = "type.googleapis.com/remora.v1.TrustBundle";
/// The name of the one [`crate::v1::TrustBundle`].
pub const TRUST_BUNDLE: &str = "trust-bundle";
/// The trust domain where none is set.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// The ConfigMap of every injected namespace that holds the roots by which
/// sidecars know the control plane, under [`TRUST_KEY`].
pub const TRUST_CONFIG_MAP: &str = "remora-trust";
/// The key of the roots in [`TRUST_CONFIG_MAP`]: certificates in PEM.
pub const TRUST_KEY: &str = "ca.crt";
/// The audience of the tokens by which sidecars show who they are.
pub const TOKEN_AUDIENCE: &str = "remora.io";
/// The annotation by which the injector says that the sidecar which it put into
/// a pod has an identity, and of which trust domain.
pub const IDENTITY: &str = "remora.io/trust-domain";

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

/// What travels between two sidecars. The names are ALPN names on an encrypted
/// connection. On a plaintext one a preface takes their place: the caller's
/// sidecar sends it first, and nothing answers it.
pub mod mesh {
    /// HTTP/2 of ours: requests of HTTP/2 and, marked by [`HTTP`], of HTTP/1.1.
    ///
    /// [`HTTP`]: super::header::HTTP
    pub const H2: &str = "remora-h2";
    /// HTTP/1 as the caller spoke it, a connection for each of the caller's.
    pub const H1: &str = "remora-h1";
    /// Bytes that are not looked at.
    pub const TCP: &str = "remora-tcp";
    /// All of them, the most wanted first.
    pub const ALL: [&str; 3] = [H2, H1, TCP];
    /// What a sidecar without an identity takes, as [`MESH_PROTOCOLS`] says it;
    /// one with an identity takes [`ALL`]. (Bytes have nothing to be marked by
    /// unless they are encrypted.)
    ///
    /// [`MESH_PROTOCOLS`]: super::MESH_PROTOCOLS
    pub const PLAINTEXT: &str = "remora-h2,remora-h1";

    /// Before plaintext [`H2`]; the HTTP/2 connection preface (RFC 9113,
    /// section 3.4) follows. No HTTP and no TLS begins with NUL.
    pub const H2_PREFACE: &[u8] = b"\0remora-h2\n";
    /// Before plaintext [`H1`]; a request line follows.
    pub const H1_PREFACE: &[u8] = b"\0remora-h1\n";
}

/// Request and response headers of ours.
pub mod header {
    /// Why Remora itself answered: one word of a closed list.
    pub const REASON: &str = "x-remora-reason";
    /// The number of this attempt, from 1, on requests to the upstream.
    pub const ATTEMPT: &str = "x-remora-attempt";
    /// On a request in a [`mesh::H2`] stream: the version that the caller spoke
    /// and the application is to be spoken to with, `1.1`; without it HTTP/2.
    /// Only sidecars set it, and only between sidecars is it believed.
    ///
    /// [`mesh::H2`]: super::mesh::H2
    pub const HTTP: &str = "x-remora-http";
    /// On a request to the application: the SPIFFE id of the caller, as its
    /// certificate shows it.
    pub const CLIENT_IDENTITY: &str = "x-remora-client-identity";
    /// On a request of the pod: the pod that is to get it, where the policy of the
    /// service has `loadBalancing.pinning`.
    pub const ENDPOINT: &str = "x-remora-endpoint";
    /// Every header of ours begins so, and is stripped where it comes from outside.
    pub const PREFIX: &str = "x-remora-";
}

#[cfg(test)]
mod tests {
    use super::mesh;

    #[test]
    fn a_preface_is_its_name_in_a_frame_that_no_http_or_tls_begins_with() {
        for (name, preface) in [(mesh::H2, mesh::H2_PREFACE), (mesh::H1, mesh::H1_PREFACE)] {
            assert_eq!(preface, format!("\0{name}\n").as_bytes());
        }
        assert_eq!(
            mesh::H2_PREFACE.len(),
            mesh::H1_PREFACE.len(),
            "one read of a fixed length tells them apart"
        );
    }

    #[test]
    fn everything_but_bytes_is_taken_in_plaintext() {
        let taken: Vec<&str> = mesh::PLAINTEXT.split(',').collect();
        let mut all = mesh::ALL.to_vec();
        all.retain(|name| *name != mesh::TCP);
        assert_eq!(taken, all);
    }
}
