//! What every command on a cluster can be told.

use std::path::PathBuf;
use std::time::Duration;

use remora_control_plane::policy::units;
use remora_proto::spiffe::is_name;
use remora_proto::well_known::SYSTEM_NAMESPACE;

use super::error::Error;

/// The longest that a request to the API server may be given.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// Which cluster, and how it is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// The kubeconfig file (default: KUBECONFIG, then ~/.kube/config, then
    /// what a pod of the cluster has).
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig (default: its current one).
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// The namespace of Remora's own daemons.
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = SYSTEM_NAMESPACE,
        value_parser = parse_name,
        help_heading = "Cluster"
    )]
    pub system_namespace: String,
    /// How long one request to the API server may take (`500ms`, `10s`, `1m`).
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_timeout,
        help_heading = "Cluster"
    )]
    pub request_timeout: Duration,
}

/// Of which namespaces.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Scope {
    /// The namespace (default: that of the kubeconfig's context).
    #[arg(short, long, value_name = "NAMESPACE", value_parser = parse_name)]
    pub namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

impl Scope {
    /// The namespace that is asked for; `None` is all of them.
    pub fn namespace<'a>(&'a self, default: &'a str) -> Option<&'a str> {
        let named = self.namespace.as_deref().unwrap_or(default);
        (!self.all_namespaces).then_some(named)
    }
}

/// In which form the answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For programs, and people.
    Yaml,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Output {
    /// The form of the answer.
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub format: Format,
}

/// A name of Kubernetes, so that nothing else gets into a path of the API.
pub fn parse_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("not a name of Kubernetes: lower case letters, digits, - and ., at most 253".to_owned())
    }
}

/// `500ms`, `10s`, `1m`.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let length = units::duration_ms(text).map(Duration::from_millis);
    length
        .filter(|length| !length.is_zero() && *length <= MAX_TIMEOUT)
        .ok_or_else(|| format!("`{text}` is not a duration up to 10m such as 500ms, 10s, 1m"))
}

/// Refuses what is no name, before it becomes part of a path.
///
/// # Errors
/// [`Error::Usage`].
pub fn checked_name(text: &str) -> Result<&str, Error> {
    if is_name(text) {
        Ok(text)
    } else {
        Err(Error::Usage(format!(
            "{text:?} is not a name of Kubernetes"
        )))
    }
}

/// Namespace, where one is named, and name of a pod as it is given (`web-1`,
/// `shop/web-1`), beside which a namespace may be given too.
///
/// # Errors
/// [`Error::Usage`] where the two namespaces differ, or it has no name.
pub fn pod_and_namespace<'a>(
    pod: &'a str,
    namespace: Option<&'a str>,
) -> Result<(Option<&'a str>, &'a str), Error> {
    let (named, name) = match pod.split_once('/') {
        Some((named, name)) => (Some(named), name),
        None => (namespace, pod),
    };
    if let (Some(one), Some(other)) = (named, namespace)
        && one != other
    {
        let message = format!("{pod} is not in namespace {other}");
        return Err(Error::Usage(message));
    }
    Ok((named, checked_name(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_stay_in_bounds() {
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("10m"), Ok(MAX_TIMEOUT));
        for wrong in ["10", "0s", "11m", "-1s", "", "1d"] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_scope_is_one_namespace_or_all() {
        let scope = |namespace: Option<&str>, all_namespaces| Scope {
            namespace: namespace.map(str::to_owned),
            all_namespaces,
        };
        assert_eq!(scope(None, false).namespace("shop"), Some("shop"));
        assert_eq!(scope(Some("bank"), false).namespace("shop"), Some("bank"));
        assert_eq!(scope(None, true).namespace("shop"), None);
    }

    #[test]
    fn what_would_lead_elsewhere_is_no_name() {
        for wrong in ["", "../secrets", "a/b", "A", "a?b", "-a", "a%2f"] {
            assert!(checked_name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(checked_name("catalog-1.x").unwrap(), "catalog-1.x");
    }
}
