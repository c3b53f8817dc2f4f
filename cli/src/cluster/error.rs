//! Why a command could not do its work, and what to check.

use std::fmt;
use std::time::Duration;

/// What a request needs by RBAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// `get`, `list`, `create`.
    pub verb: &'static str,
    /// `pods`, `pods/proxy`, `deployments.apps`.
    pub resource: String,
    /// Where; `None` is the whole cluster.
    pub namespace: Option<String>,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => write!(f, " in the whole cluster"),
        }
    }
}

/// Why there is no answer. Every one of them ends a command with status 2.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Asked for in a way that cannot be.
    #[error("{0}")]
    Usage(String),
    /// No cluster is known.
    #[error(
        "no cluster to ask: {0} (check --kubeconfig and --context, the variable KUBECONFIG, ~/.kube/config)"
    )]
    Config(String),
    /// Nobody answers.
    #[error(
        "the API server at {url} cannot be reached: {cause} (check the kubeconfig's context, and that the cluster runs)"
    )]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What happened.
        cause: String,
    },
    /// Nothing in time.
    #[error(
        "the API server at {url} gave no answer within {timeout:?} to: {what} (check the network, or raise --request-timeout)"
    )]
    Timeout {
        /// Where it should be.
        url: String,
        /// The bound.
        timeout: Duration,
        /// What was asked.
        what: String,
    },
    /// Whoever asks is not known.
    #[error(
        "the API server does not know you: {0} (check the kubeconfig's user: an expired token or certificate?)"
    )]
    Unauthorized(String),
    /// Whoever asks may not.
    #[error("you may not {need}: ask for a Role with that verb and resource ({message})")]
    Forbidden {
        /// What it takes.
        need: Need,
        /// What the API server says.
        message: String,
    },
    /// It is not there.
    #[error("{0}")]
    NotFound(String),
    /// Remora is not there.
    #[error(
        "no control plane in namespace {namespace}: {cause} (is Remora installed? `remora check` says; is its namespace another? --system-namespace)"
    )]
    NoControlPlane {
        /// Where it should be.
        namespace: String,
        /// What was found instead.
        cause: String,
    },
    /// The API server cannot reach a pod's admin endpoint.
    #[error(
        "pod {pod} does not answer on its admin port {port}: {cause} (check that it runs, and that NetworkPolicies let the API server reach it)"
    )]
    Pod {
        /// `namespace/name`.
        pod: String,
        /// The admin port.
        port: u16,
        /// What the API server says.
        cause: String,
    },
    /// It refuses.
    #[error("the API server answers {status} to: {what}: {message}")]
    Refused {
        /// The status code.
        status: u16,
        /// What was asked.
        what: String,
        /// What it says.
        message: String,
    },
    /// It cannot be understood.
    #[error(
        "the answer to {what} cannot be read: {cause} (is this `remora` of another version than the cluster's?)"
    )]
    Answer {
        /// What was asked.
        what: String,
        /// What is wrong.
        cause: String,
    },
    /// The answer cannot be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
    /// A file cannot be used.
    #[error("{0}")]
    Input(String),
}

impl Error {
    /// Whether a right is missing, so that nothing is known of the thing itself.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }

    /// Whether the thing is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}
