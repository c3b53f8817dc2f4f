//! SPIFFE ids of pods: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
//!
//! The form and its bounds are those of the SPIFFE-ID specification, sections
//! 2 to 2.4, narrowed to the paths that Remora gives: what does not have that
//! form is nobody that a rule here could name.

use std::fmt;
use std::str::FromStr;

/// Bytes of a whole id (SPIFFE-ID, section 2.3: at least so much is supported).
pub const MAX_ID_BYTES: usize = 2048;
/// Bytes of a trust domain (SPIFFE-ID, section 2.1).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Bytes of a namespace's or a service account's name in Kubernetes.
const MAX_NAME_BYTES: usize = 253;

const SCHEME: &str = "spiffe://";

/// The id of a pod. Two are equal when their text is: no form has a second one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: String,
    trust_domain_end: usize,
    namespace_end: usize,
}

/// Why a text is no SPIFFE id of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpiffeIdError {
    /// Over [`MAX_ID_BYTES`].
    TooLong,
    /// It does not begin with `spiffe://`.
    Scheme,
    /// Empty, too long, or of other than `a-z 0-9 . - _`.
    TrustDomain,
    /// Not `/ns/<namespace>/sa/<service account>` with names of Kubernetes.
    Path,
}

impl fmt::Display for SpiffeIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "is longer than 2048 bytes",
            Self::Scheme => "does not begin with spiffe://",
            Self::TrustDomain => {
                "has no trust domain of 1 to 255 lower-case letters, digits, '.', '-' and '_'"
            }
            Self::Path => "is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
        })
    }
}

impl std::error::Error for SpiffeIdError {}

impl SpiffeId {
    /// The id of the pods of a service account.
    ///
    /// # Errors
    /// When one of the three is no name of its kind.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The whole.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The mesh that it belongs to: `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.trust_domain_end]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text[self.trust_domain_end + "/ns/".len()..self.namespace_end]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.text[self.namespace_end + "/sa/".len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(SpiffeIdError::Path)?;
        if !is_trust_domain(trust_domain) {
            return Err(SpiffeIdError::TrustDomain);
        }
        let names = path.strip_prefix("ns/").ok_or(SpiffeIdError::Path)?;
        let (namespace, service_account) = names.split_once("/sa/").ok_or(SpiffeIdError::Path)?;
        if !is_name(namespace) || !is_name(service_account) {
            return Err(SpiffeIdError::Path);
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        Ok(Self {
            trust_domain_end,
            namespace_end: trust_domain_end + "/ns/".len() + namespace.len(),
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether this can be a trust domain (SPIFFE-ID, section 2.1).
pub fn is_trust_domain(text: &str) -> bool {
    let fits = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= MAX_TRUST_DOMAIN_BYTES && text.bytes().all(fits)
}

/// Reads a trust domain as flags take it.
///
/// # Errors
/// What it must be.
pub fn parse_trust_domain(text: &str) -> Result<String, String> {
    if is_trust_domain(text) {
        return Ok(text.to_owned());
    }
    Err("a trust domain has 1 to 255 lower-case letters, digits, '.', '-' and '_'".to_owned())
}

/// A name of Kubernetes (RFC 1123 subdomain), of which no byte means anything
/// in a URI. Of dots alone, as no path segment may be, it cannot be.
pub fn is_name(text: &str) -> bool {
    let is_alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME_BYTES
        && bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
        && bytes
            .iter()
            .all(|byte| is_alphanumeric(byte) || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = SpiffeId::new("cluster.local", "shop", "web.v1").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web.v1");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        let parts = (id.trust_domain(), id.namespace(), id.service_account());
        assert_eq!(parts, ("cluster.local", "shop", "web.v1"));
    }

    #[test]
    fn nothing_else_is_one() {
        let long = "a".repeat(MAX_TRUST_DOMAIN_BYTES + 1);
        for (text, error) in [
            ("", SpiffeIdError::Scheme),
            ("SPIFFE://a/ns/b/sa/c", SpiffeIdError::Scheme),
            ("https://a/ns/b/sa/c", SpiffeIdError::Scheme),
            ("spiffe:///ns/b/sa/c", SpiffeIdError::TrustDomain),
            ("spiffe://A/ns/b/sa/c", SpiffeIdError::TrustDomain),
            ("spiffe://a:1/ns/b/sa/c", SpiffeIdError::TrustDomain),
            ("spiffe://u@a/ns/b/sa/c", SpiffeIdError::TrustDomain),
            ("spiffe://a\0/ns/b/sa/c", SpiffeIdError::TrustDomain),
            (
                &format!("spiffe://{long}/ns/b/sa/c"),
                SpiffeIdError::TrustDomain,
            ),
            ("spiffe://a", SpiffeIdError::Path),
            ("spiffe://a/", SpiffeIdError::Path),
            ("spiffe://a/ns/b", SpiffeIdError::Path),
            ("spiffe://a/ns//sa/c", SpiffeIdError::Path),
            ("spiffe://a/ns/b/sa/", SpiffeIdError::Path),
            ("spiffe://a/ns/b/sa/c/", SpiffeIdError::Path),
            ("spiffe://a/ns/b/sa/c/sa/d", SpiffeIdError::Path),
            ("spiffe://a/ns/../sa/c", SpiffeIdError::Path),
            ("spiffe://a/ns/b/sa/c?d", SpiffeIdError::Path),
            ("spiffe://a/ns/b/sa/c#d", SpiffeIdError::Path),
            ("spiffe://a/ns/b/sa/c\0", SpiffeIdError::Path),
            ("spiffe://a/ns/b/sa/%63", SpiffeIdError::Path),
            ("spiffe://a/ns/b/sa/C", SpiffeIdError::Path),
            (
                &format!("spiffe://a/ns/b/sa/{}", "c".repeat(MAX_ID_BYTES)),
                SpiffeIdError::TooLong,
            ),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text:?}");
        }
    }
}
