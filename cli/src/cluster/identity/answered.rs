//! What a sidecar tells of its identity (`GET /identity`). What another version
//! does not tell is absent.

use serde::Deserialize;

/// The answer.
#[derive(Debug, Default, Deserialize)]
pub struct Answered {
    /// Whether it is to have an identity.
    #[serde(default)]
    pub enabled: bool,
    /// Who it shows itself to be.
    #[serde(default)]
    pub spiffe_id: Option<String>,
    /// Its certificate, then what leads to a root.
    #[serde(default)]
    pub chain: Vec<Shown>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub next_renewal_ms: Option<u64>,
    /// Why the last attempt failed.
    #[serde(default)]
    pub last_error: Option<String>,
    /// Whose identities it believes.
    #[serde(default)]
    pub trust_domain: Option<String>,
    /// The trust bundle.
    #[serde(default)]
    pub roots: Vec<Shown>,
}

/// One certificate.
#[derive(Debug, Default, Deserialize)]
pub struct Shown {
    /// `0a:1b`
    #[serde(default)]
    pub serial: String,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub not_before_ms: u64,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub not_after_ms: u64,
    /// `0a:1b`
    #[serde(default)]
    pub sha256: String,
    /// Of a root: whether the sidecar's own chain leads to it.
    #[serde(default)]
    pub issued_own: Option<bool>,
}
