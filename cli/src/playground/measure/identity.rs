//! The sidecars' certificates, and how they follow each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How long a new root goes ahead of the first certificate below it
/// (`PROPAGATION_SECONDS` of the control plane's rotation).
const PROPAGATION_MS: u64 = remora_control_plane::identity::rotation::PROPAGATION_SECONDS * 1000;
/// Renewals that are remembered.
const MOST_RENEWALS: usize = 100_000;

/// `/identity` of a sidecar, as far as it is used here.
#[derive(Debug, Default, Deserialize)]
pub struct Identity {
    /// The certificate first.
    #[serde(default)]
    chain: Vec<Certificate>,
}

/// A certificate.
#[derive(Debug, Default, Deserialize)]
struct Certificate {
    #[serde(default)]
    serial: String,
}

/// Certificates of a run in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Certificates that took another's place.
    pub renewals: usize,
    /// Of those, the most in one second.
    pub most_in_a_second: usize,
    /// How often the CA's root was replaced.
    pub roots_replaced: usize,
}

/// What is remembered of them.
#[derive(Debug, Default)]
pub struct Renewals {
    /// The present certificate's serial number and since when it is known.
    present: BTreeMap<String, (String, u64)>,
    at_ms: Vec<u64>,
    /// When, in milliseconds since the load began.
    root_replaced_ms: Vec<u64>,
    latest_ms: u64,
}

impl Renewals {
    /// The load has begun: times count from now.
    pub fn begin(&mut self) {
        self.at_ms.clear();
        for (_, since) in self.present.values_mut() {
            *since = 0;
        }
    }

    /// What a sidecar said; whether it has another certificate than before.
    pub fn said(&mut self, pod: &str, identity: Identity, now_ms: u64) -> bool {
        self.latest_ms = now_ms;
        let Some(certificate) = identity.chain.into_iter().next() else {
            return false;
        };
        let (known, since) = self.present.entry(pod.to_owned()).or_default();
        if *known == certificate.serial {
            return false;
        }
        let is_renewal = !known.is_empty();
        (*known, *since) = (certificate.serial, now_ms);
        if is_renewal && self.at_ms.len() < MOST_RENEWALS {
            self.at_ms.push(now_ms);
        }
        is_renewal
    }

    /// The CA's root was replaced now.
    pub fn root_replaced(&mut self) {
        self.root_replaced_ms.push(self.latest_ms);
    }

    /// A pod's sidecar is gone.
    pub fn forget(&mut self, pod: &str) {
        self.present.remove(pod);
    }

    /// Pods whose certificate is older than the last root's first.
    pub fn behind(&self) -> Vec<String> {
        let Some(replaced) = self.root_replaced_ms.last() else {
            return Vec::new();
        };
        let present = self.present.iter();
        present
            .filter(|(_, (_, since))| *since < replaced + PROPAGATION_MS)
            .map(|(pod, _)| pod.clone())
            .collect()
    }

    /// In figures.
    pub fn summary(&self) -> Summary {
        Summary {
            renewals: self.at_ms.len(),
            most_in_a_second: most_within(&self.at_ms, 1000),
            roots_replaced: self.root_replaced_ms.len(),
        }
    }
}

/// The most moments, which are in order, within any stretch so long.
fn most_within(moments: &[u64], length: u64) -> usize {
    let counts = moments.iter().enumerate().map(|(at, first)| {
        let within = |moment: &&u64| **moment < first + length;
        moments.iter().skip(at).take_while(within).count()
    });
    counts.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn certificate(serial: &str) -> Identity {
        serde_json::from_value(json!({"enabled": true, "chain": [{"serial": serial}]})).unwrap()
    }

    #[test]
    fn renewals_are_counted_and_who_lags_behind_a_root_is_named() {
        let mut renewals = Renewals::default();
        assert!(!renewals.said("web-1", certificate("1"), 0));
        assert!(!renewals.said("web-1", Identity::default(), 10));
        assert!(!renewals.said("cart-1", certificate("2"), 20));
        assert!(renewals.said("web-1", certificate("3"), 1000));
        assert!(renewals.said("cart-1", certificate("4"), 1999));
        assert!(renewals.behind().is_empty());
        renewals.root_replaced();
        assert!(renewals.said("web-1", certificate("5"), 2000 + PROPAGATION_MS));
        assert_eq!(renewals.behind(), ["cart-1"]);
        renewals.forget("cart-1");
        assert!(renewals.behind().is_empty());
        let summary = renewals.summary();
        assert_eq!((summary.renewals, summary.most_in_a_second), (3, 2));
        assert_eq!(summary.roots_replaced, 1);
    }

    #[test]
    fn what_was_before_the_load_does_not_count() {
        let mut renewals = Renewals::default();
        renewals.said("web-1", certificate("1"), 900);
        renewals.said("web-1", certificate("2"), 950);
        renewals.begin();
        assert_eq!(renewals.summary(), Summary::default());
    }
}
