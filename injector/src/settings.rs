//! What the operator decided once for the cluster, and what the caller knows.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::core::v1::Namespace;

/// How sidecars are made in this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image of both containers.
    pub image: String,
    /// Its `imagePullPolicy`; `None` leaves it to Kubernetes.
    pub image_pull_policy: Option<String>,
    /// Where sidecars find the control plane, `http://host:port`, or `https`
    /// where they have identities.
    pub control_plane: String,
    /// Remora's own namespace, in which nothing is injected.
    pub system_namespace: String,
    /// The API server's version.
    pub kubernetes: KubernetesVersion,
    /// Of the sidecar, where the pod does not say otherwise.
    pub resources: Resources,
    /// The trust domain in which sidecars have an identity; `None`: they have
    /// none, and speak plaintext.
    pub trust_domain: Option<String>,
    /// The mark that tells the sidecar's own connections where user ids cannot
    /// be had (the rootless playground). In a cluster `None`: setting a mark
    /// needs a capability that the sidecar does not have.
    pub socket_mark: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            image: concat!("remora/proxy:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: None,
            control_plane: format!(
                "http://remora-control-plane.remora-system.svc:{}",
                remora_proto::well_known::CONTROL_PLANE_PORT
            ),
            system_namespace: "remora-system".to_owned(),
            kubernetes: KubernetesVersion::NATIVE_SIDECARS,
            resources: Resources::default(),
            trust_domain: None,
            socket_mark: None,
        }
    }
}

/// Quantities as Kubernetes writes them; `None` is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu`.
    pub cpu_request: Option<String>,
    /// `limits.cpu`.
    pub cpu_limit: Option<String>,
    /// `requests.memory`.
    pub memory_request: Option<String>,
    /// `limits.memory`.
    pub memory_limit: Option<String>,
}

impl Resources {
    /// Nothing requested, nothing limited.
    pub const NONE: Resources = Resources {
        cpu_request: None,
        cpu_limit: None,
        memory_request: None,
        memory_limit: None,
    };
}

impl Default for Resources {
    /// Little is asked for; memory is bounded, so that a fault of ours hits the
    /// sidecar and not the node; CPU is not, because throttling is latency.
    fn default() -> Self {
        Resources {
            cpu_request: Some("10m".to_owned()),
            cpu_limit: None,
            memory_request: Some("16Mi".to_owned()),
            memory_limit: Some("256Mi".to_owned()),
        }
    }
}

/// What is known of the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl From<&Namespace> for NamespaceFacts {
    fn from(namespace: &Namespace) -> Self {
        NamespaceFacts {
            name: namespace.metadata.name.clone().unwrap_or_default(),
            labels: namespace.metadata.labels.clone().unwrap_or_default(),
        }
    }
}

/// A minor release of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubernetesVersion {
    /// 1.
    pub major: u32,
    /// 29, for instance.
    pub minor: u32,
}

impl KubernetesVersion {
    /// The first that has native sidecars (KEP-753, beta and on by default).
    pub const NATIVE_SIDECARS: KubernetesVersion = KubernetesVersion {
        major: 1,
        minor: 29,
    };
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version of Kubernetes such as v1.31.2")]
pub struct VersionError(String);

impl FromStr for KubernetesVersion {
    type Err = VersionError;

    /// Reads `1.29`, `v1.31.2`, `v1.30.4-eks-1`, `1.29+`.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let number = |part: Option<&str>| {
            let part = part?;
            let digits = part.find(|c: char| !c.is_ascii_digit());
            part[..digits.unwrap_or(part.len())].parse().ok()
        };
        let mut parts = text.trim_start_matches('v').split('.');
        match (number(parts.next()), number(parts.next())) {
            (Some(major), Some(minor)) => Ok(KubernetesVersion { major, minor }),
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_vendors_write_them() {
        let minor = |text: &str| text.parse::<KubernetesVersion>().map(|v| v.minor);
        for (text, wanted) in [
            ("1.29", 29),
            ("v1.31.2", 31),
            ("v1.30.4-eks-a1", 30),
            ("1.28+", 28),
            ("v1.32+k3s1", 32),
        ] {
            assert_eq!(minor(text), Ok(wanted));
        }
        assert!(minor("").is_err() && minor("v1").is_err() && minor("x.y").is_err());
    }
}
