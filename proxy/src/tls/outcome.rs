//! How handshakes end: a closed list, counted and logged by its words.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error};

use crate::clock::{self, Timestamp};

/// Lines about failed handshakes of one side and result come no closer than
/// this; those in between are counted in the next.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeResult {
    /// Both know each other.
    Ok,
    /// The peer, or we ourselves, had no certificate to show.
    NoCertificate,
    /// No chain to a root that is trusted here, or a signature in it is wrong.
    UnknownIssuer,
    /// Past its `notAfter`.
    Expired,
    /// Before its `notBefore`.
    NotYetValid,
    /// Of another trust domain than ours.
    WrongTrustDomain,
    /// A good identity, but not the one that was to be there.
    WrongIdentity,
    /// Not exactly one URI name, or one that is no SPIFFE id of a pod.
    BadName,
    /// A certificate of a CA.
    NotALeaf,
    /// Its key is not for this.
    WrongUsage,
    /// No protocol of ours in common.
    NoAlpn,
    /// It took too long.
    Timeout,
    /// The peer closed, or the connection broke.
    Closed,
    /// What is none of the others; the log says it.
    Other,
}

impl HandshakeResult {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Ok,
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongTrustDomain,
        Self::WrongIdentity,
        Self::BadName,
        Self::NotALeaf,
        Self::WrongUsage,
        Self::NoAlpn,
        Self::Timeout,
        Self::Closed,
        Self::Other,
    ];

    /// Its word in metrics and the log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongTrustDomain => "wrong_trust_domain",
            Self::WrongIdentity => "wrong_identity",
            Self::BadName => "bad_name",
            Self::NotALeaf => "not_a_leaf",
            Self::WrongUsage => "wrong_usage",
            Self::NoAlpn => "no_alpn",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }

    /// What rustls ended a handshake with.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol => Self::NoAlpn,
            Error::InvalidCertificate(CertificateError::Other(other)) => other
                .0
                .downcast_ref::<Refusal>()
                .map_or(Self::Other, |refusal| refusal.result),
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            _ => Self::Other,
        }
    }

    /// The peer's side of it, as far as an alert tells (RFC 8446, section 6.2).
    const fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::NoApplicationProtocol => Self::NoAlpn,
            AlertDescription::CertificateRequired => Self::NoCertificate,
            AlertDescription::CertificateExpired => Self::Expired,
            AlertDescription::UnknownCA => Self::UnknownIssuer,
            AlertDescription::CloseNotify => Self::Closed,
            _ => Self::Other,
        }
    }

    /// As it is said of the peer's certificate to rustls, which makes an alert of it.
    pub fn refuse(self, detail: impl Into<String>) -> Error {
        let refusal = Refusal {
            result: self,
            detail: detail.into(),
        };
        Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
            refusal,
        ))))
    }
}

impl fmt::Display for HandshakeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a peer's certificate was not taken, on its way through rustls.
#[derive(Debug, thiserror::Error)]
#[error("{result}: {detail}")]
struct Refusal {
    result: HandshakeResult,
    detail: String,
}

/// Why there is no TLS with a peer.
#[derive(Debug, thiserror::Error)]
#[error("no mutual TLS ({result}): {detail}")]
pub struct HandshakeError {
    /// Its word.
    pub result: HandshakeResult,
    /// What happened.
    pub detail: String,
}

impl HandshakeError {
    /// With this said of it.
    pub fn new(result: HandshakeResult, detail: impl Into<String>) -> Self {
        Self {
            result,
            detail: detail.into(),
        }
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        Self::new(HandshakeResult::of(&error), in_words(&error))
    }
}

/// What is wrong with a peer's certificate rustls only wraps.
fn in_words(error: &Error) -> String {
    if let Error::InvalidCertificate(CertificateError::Other(other)) = error
        && let Some(refusal) = other.0.downcast_ref::<Refusal>()
    {
        return refusal.detail.clone();
    }
    error.to_string()
}

impl From<std::io::Error> for HandshakeError {
    fn from(error: std::io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(tls) => Self::new(HandshakeResult::of(tls), in_words(tls)),
            None => Self::new(HandshakeResult::Closed, error.to_string()),
        }
    }
}

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Another sidecar, to this one.
    Inbound,
    /// This one.
    Outbound,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    /// `inbound` or `outbound`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What was counted, for each side and result.
#[derive(Debug, Default)]
pub struct Handshakes {
    sides: [[Counted; HandshakeResult::ALL.len()]; 2],
}

#[derive(Debug, Default)]
struct Counted {
    count: AtomicU64,
    /// When it was last logged, in nanoseconds, and the count then.
    logged: AtomicU64,
    told: AtomicU64,
}

impl Handshakes {
    fn counted(&self, side: Side, result: HandshakeResult) -> &Counted {
        &self.sides[side as usize][result as usize]
    }

    /// One more.
    pub fn count(&self, side: Side, result: HandshakeResult) {
        self.counted(side, result).count.fetch_add(1, Relaxed);
    }

    /// How many.
    pub fn total(&self, side: Side, result: HandshakeResult) -> u64 {
        self.counted(side, result).count.load(Relaxed)
    }

    /// Counts and, not too often, logs a failed one.
    pub fn failed(&self, side: Side, peer: std::net::SocketAddr, error: &HandshakeError) {
        self.count(side, error.result);
        if let Some(count) = self.may_log(side, error.result, clock::now()) {
            tracing::warn!(
                side = side.word(), %peer, result = error.result.word(), detail = %error.detail, count,
                "mutual TLS did not come about"
            );
        }
    }

    /// How many there were since the last line, where one is due.
    fn may_log(&self, side: Side, result: HandshakeResult, now: Timestamp) -> Option<u64> {
        let counted = self.counted(side, result);
        let last = counted.logged.load(Relaxed);
        if last != 0 && now.since(Timestamp::from_nanos(last)) < LOG_EVERY {
            return None;
        }
        let ours = counted
            .logged
            .compare_exchange(last, now.as_nanos(), Relaxed, Relaxed);
        ours.ok()?;
        let count = counted.count.load(Relaxed);
        Some(count.saturating_sub(counted.told.swap(count, Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_has_a_place_and_a_word_of_its_own() {
        for (index, result) in HandshakeResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, index);
        }
        let words: std::collections::BTreeSet<_> = HandshakeResult::ALL
            .iter()
            .map(|result| result.word())
            .collect();
        assert_eq!(words.len(), HandshakeResult::ALL.len());
    }

    #[test]
    fn what_is_refused_keeps_its_word_through_rustls() {
        let error = HandshakeResult::WrongIdentity.refuse("it is spiffe://a/ns/b/sa/c");
        let error = HandshakeError::from(std::io::Error::other(error));
        assert_eq!(error.result, HandshakeResult::WrongIdentity);
        assert_eq!(error.detail, "it is spiffe://a/ns/b/sa/c");
    }

    #[test]
    fn a_flood_of_failures_is_one_line_a_second() {
        let handshakes = Handshakes::default();
        let now = Timestamp::from_millis(5_000);
        let (side, result) = (Side::Inbound, HandshakeResult::Expired);
        let mut lines = Vec::new();
        for at in [0, 10, 20, 1_000, 1_500] {
            handshakes.count(side, result);
            lines.push(handshakes.may_log(side, result, now.after(Duration::from_millis(at))));
        }
        assert_eq!(lines, [Some(1), None, None, Some(3), None]);
    }
}
