//! How the sidecar's identity stands: what `GET /identity` and the metrics show.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::tls::certificate;
use crate::tls::{Context, Mutual};

/// How an attempt at a certificate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalResult {
    /// It came.
    Ok,
    /// Neither token nor roots, or no connection to the control plane.
    Unreachable,
    /// The control plane does not take the token, or the request.
    Refused,
    /// It cannot issue now.
    Unavailable,
    /// What it sent cannot be used.
    Unusable,
}

impl RenewalResult {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ok,
        Self::Unreachable,
        Self::Refused,
        Self::Unavailable,
        Self::Unusable,
    ];

    /// Its word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Unusable => "unusable",
        }
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Status {
    certified: watch::Sender<bool>,
    /// Unix milliseconds; 0: never.
    next_renewal_ms: AtomicU64,
    renewals: [AtomicU64; RenewalResult::ALL.len()],
    last_error: Mutex<Option<String>>,
}

impl Status {
    /// True once there is a certificate; never false again.
    pub fn certified(&self) -> watch::Receiver<bool> {
        self.certified.subscribe()
    }

    /// How many attempts ended so.
    pub fn renewals(&self, result: RenewalResult) -> u64 {
        self.renewals[result as usize].load(Relaxed)
    }

    pub(super) fn renewed(&self, result: RenewalResult, error: Option<String>) {
        self.renewals[result as usize].fetch_add(1, Relaxed);
        *self.last_error.lock() = error;
        if result == RenewalResult::Ok {
            self.certified.send_replace(true);
        }
    }

    pub(super) fn next_renewal(&self, at_ms: u64) {
        self.next_renewal_ms.store(at_ms, Relaxed);
    }

    /// Everything, for people.
    pub fn json(&self, tls: &Context) -> Value {
        let mutual = tls.mutual();
        let next = self.next_renewal_ms.load(Relaxed);
        json!({
            "enabled": tls.has_identity(),
            "spiffe_id": mutual.as_ref().map(|mutual| mutual.own.id.as_str()),
            "chain": mutual.as_ref().map_or_else(Vec::new, chain),
            "next_renewal_ms": (next > 0).then_some(next),
            "last_error": *self.last_error.lock(),
            "trust_domain": mutual.as_ref().map(|mutual| mutual.trust.trust_domain()),
            "roots": mutual.as_ref().map_or_else(Vec::new, roots),
        })
    }
}

fn chain(mutual: &std::sync::Arc<Mutual>) -> Vec<Value> {
    mutual.own.chain().iter().map(shown).collect()
}

/// Each says whether our own chain leads to it.
fn roots(mutual: &std::sync::Arc<Mutual>) -> Vec<Value> {
    let own = mutual.trust.root_of(mutual.own.chain());
    let roots = mutual.trust.roots().iter().map(shown).enumerate();
    let told = roots.map(|(place, mut root)| {
        root["issued_own"] = json!(own == Some(place));
        root
    });
    told.collect()
}

fn shown(der: &CertificateDer<'static>) -> Value {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    let read = certificate::read(der).unwrap_or_default();
    json!({
        "serial": read.serial_text(),
        "not_before_ms": read.not_before * 1_000,
        "not_after_ms": read.not_after * 1_000,
        "sha256": certificate::hex(digest.as_ref()),
    })
}
