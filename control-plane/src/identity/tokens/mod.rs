//! By what a caller shows who it is: its pod's own service-account token, with
//! Remora's audience.
//!
//! # Layout
//! - here: what a token says, and what can be wrong with one.
//! - [`review`]: asked of the API server (TokenReview).
//! - [`key`]: of a shared key, where there is no API server.
//! - [`cache`]: what was asked seconds ago is not asked again.

pub mod cache;
pub mod key;
pub mod review;

use remora_proto::well_known::TOKEN_AUDIENCE;
use tonic::Status;

/// Bytes of a token; Kubernetes' own have some 1,200.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The pod that calls, as its token says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its name.
    pub pod: String,
    /// Its uid, never empty.
    pub pod_uid: String,
}

impl Caller {
    /// A caller, where all of it is said.
    pub fn new(
        namespace: &str,
        service_account: &str,
        pod: &str,
        pod_uid: &str,
    ) -> Result<Self, TokenError> {
        if [namespace, service_account, pod, pod_uid].contains(&"") {
            return Err(TokenError::Unbound);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: pod.to_owned(),
            pod_uid: pod_uid.to_owned(),
        })
    }
}

/// Why a caller is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No token.
    #[error("no token: send the metadata `authorization: Bearer <token>`")]
    Missing,
    /// Not a token.
    #[error("the token cannot be read")]
    Malformed,
    /// Not a token of here, or not any more.
    #[error("the token is not valid: {0}")]
    Refused(String),
    /// Its time is over.
    #[error("the token expired: read it from its file again")]
    Expired,
    /// It was made for somebody else to see.
    #[error("the token is for another audience than {TOKEN_AUDIENCE}")]
    Audience,
    /// It names no pod.
    #[error(
        "the token is bound to no pod of a service account: mount a projected service-account token"
    )]
    Unbound,
    /// Nobody can tell now.
    #[error("tokens cannot be checked now: {0}")]
    Unavailable(String),
}

impl TokenError {
    /// As it is told to the caller.
    pub fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::Missing | Self::Malformed | Self::Refused(_) | Self::Expired | Self::Audience => {
                Status::unauthenticated(message)
            }
            Self::Unbound => Status::permission_denied(message),
            Self::Unavailable(_) => Status::unavailable(message),
        }
    }

    /// One word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Refused(_) => "refused",
            Self::Expired => "expired",
            Self::Audience => "audience",
            Self::Unbound => "unbound",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Who can tell whose a token is.
#[tonic::async_trait]
pub trait Check: Send + Sync {
    /// Whose it is. `now` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// When it is nobody's, or nobody can tell now.
    async fn check(&self, token: &str, now: u64) -> Result<Caller, TokenError>;
}
