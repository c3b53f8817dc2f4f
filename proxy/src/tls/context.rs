//! What all workers share of TLS: who we are and whom we believe now, and what
//! was counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwapOption, Guard};
use http::HeaderValue;
use remora_proto::spiffe::SpiffeId;

use super::config::Mutual;
use super::outcome::Handshakes;

/// A peer that has shown who it is.
#[derive(Debug)]
pub struct Peer {
    /// Who.
    pub id: SpiffeId,
    /// The same for an application.
    pub header: HeaderValue,
}

impl Peer {
    /// `None` for what no header can carry, which no id of the accepted form is.
    pub fn new(id: SpiffeId) -> Option<Arc<Self>> {
        let header = HeaderValue::from_str(id.as_str()).ok()?;
        Some(Arc::new(Self { id, header }))
    }
}

/// What came to a port that takes nothing but mutual TLS, and was not that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No TLS, that of another sidecar included.
    Plaintext,
    /// An application's own TLS.
    ForeignTls,
}

impl Refused {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Plaintext, Self::ForeignTls];

    /// Its word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::ForeignTls => "foreign_tls",
        }
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Context {
    has_identity: bool,
    mutual: ArcSwapOption<Mutual>,
    own: ArcSwapOption<Peer>,
    /// Handshakes by side and result.
    pub handshakes: Handshakes,
    refused: [AtomicU64; Refused::ALL.len()],
}

impl Context {
    /// `has_identity`: this sidecar is to have a certificate, and never sends
    /// plaintext where TLS is asked for. Without it it knows no TLS.
    pub fn new(has_identity: bool) -> Self {
        Self {
            has_identity,
            ..Self::default()
        }
    }

    /// Whether this sidecar has an identity, though perhaps not yet its certificate.
    pub fn has_identity(&self) -> bool {
        self.has_identity
    }

    /// For new connections; `None` as long as there is no certificate.
    pub fn mutual(&self) -> Guard<Option<Arc<Mutual>>> {
        self.mutual.load()
    }

    /// Who we are.
    pub fn own(&self) -> Guard<Option<Arc<Peer>>> {
        self.own.load()
    }

    /// From now on for all new connections; those that stand go on.
    pub fn set(&self, mutual: Arc<Mutual>) {
        self.own.store(Peer::new(mutual.own.id.clone()));
        self.mutual.store(Some(mutual));
    }

    /// Counts what a strict port refused; whether a line in the log is due,
    /// which is so for the first and each time that their number has doubled.
    pub fn refused(&self, what: Refused) -> bool {
        let before = self.refused[what as usize].fetch_add(1, Relaxed);
        (before + 1).is_power_of_two()
    }

    /// How much of it there was.
    pub fn refused_total(&self, what: Refused) -> u64 {
        self.refused[what as usize].load(Relaxed)
    }
}
