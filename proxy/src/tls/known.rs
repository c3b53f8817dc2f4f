//! Chains that were believed a moment ago. A sidecar shows the same certificate
//! for half a day, at every connection; its signatures are verified once in a
//! while and not each time, which is a fifth of a handshake. That the peer holds
//! the key is proven each time all the same.
//!
//! Pure; time is handed in. One for each thread, so that nobody waits for it.

use std::collections::VecDeque;

use aws_lc_rs::digest::{Context, SHA256};
use remora_proto::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;

use super::certificate;

/// Chains that are remembered; the oldest goes first.
const MAX_CHAINS: usize = 128;

/// For what a chain was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// By a server.
    Server,
    /// By a client.
    Client,
}

/// A chain, told from every other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of these certificates in this order, shown for that.
    pub fn of(
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        shown: Shown,
    ) -> Self {
        let mut digest = Context::new(&SHA256);
        digest.update(&[shown as u8]);
        for certificate in std::iter::once(leaf).chain(intermediates) {
            digest.update(&(certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.finish().as_ref());
        Self(bytes)
    }
}

#[derive(Debug)]
struct Chain {
    fingerprint: Fingerprint,
    /// Unix seconds: all of its certificates are valid from and up to then.
    from: u64,
    until: u64,
    id: SpiffeId,
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Known {
    /// The trust by which they were believed.
    trust: u64,
    chains: VecDeque<Chain>,
}

impl Known {
    /// Whose this chain is, where this trust believed it and it is valid `now`.
    pub fn find(&self, trust: u64, fingerprint: Fingerprint, now: u64) -> Option<SpiffeId> {
        if self.trust != trust {
            return None;
        }
        let mut chains = self.chains.iter();
        let chain = chains.find(|chain| chain.fingerprint == fingerprint)?;
        (chain.from..=chain.until)
            .contains(&now)
            .then(|| chain.id.clone())
    }

    /// This trust believed it now, and it is this one's.
    pub fn believed(
        &mut self,
        trust: u64,
        fingerprint: Fingerprint,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        id: &SpiffeId,
    ) {
        let mut bounds = Some((0, u64::MAX));
        for certificate in std::iter::once(chain.0).chain(chain.1) {
            bounds = bounds
                .zip(certificate::read(certificate))
                .map(|((from, until), read)| {
                    (from.max(read.not_before), until.min(read.not_after))
                });
        }
        let Some((from, until)) = bounds else {
            return;
        };
        if self.trust != trust {
            self.trust = trust;
            self.chains.clear();
        }
        self.chains.retain(|chain| chain.fingerprint != fingerprint);
        if self.chains.len() >= MAX_CHAINS {
            self.chains.pop_front();
        }
        self.chains.push_back(Chain {
            fingerprint,
            from,
            until,
            id: id.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Ca, Wanted, uri};
    use super::*;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "shop", account).unwrap()
    }

    #[test]
    fn a_chain_is_known_for_what_it_was_shown_and_in_its_time_alone() {
        let (chain, _) = Ca::new("root").issue(&Wanted::of(&uri("web")));
        let (leaf, rest) = chain.split_first().unwrap();
        let (client, server) = (
            Fingerprint::of(leaf, rest, Shown::Client),
            Fingerprint::of(leaf, rest, Shown::Server),
        );
        let read = certificate::read(leaf).unwrap();
        let (from, until) = (read.not_before, read.not_after);
        let mut known = Known::default();
        assert_eq!(known.find(7, client, from), None);
        known.believed(7, client, (leaf, rest), &id("web"));
        assert_eq!(known.find(7, client, from), Some(id("web")));
        assert_eq!(known.find(7, client, until), Some(id("web")));
        assert_eq!(known.find(7, client, from - 1), None);
        assert_eq!(known.find(7, client, until + 1), None);
        assert_eq!(known.find(7, server, from), None);
        assert_eq!(known.find(8, client, from), None);
        // Another trust's belief ends this one's.
        known.believed(8, server, (leaf, rest), &id("web"));
        assert_eq!(known.find(7, client, from), None);
        assert_eq!(known.find(8, server, from), Some(id("web")));
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let (chain, _) = Ca::new("root").issue(&Wanted::of(&uri("web")));
        let (leaf, rest) = chain.split_first().unwrap();
        let from = certificate::read(leaf).unwrap().not_before;
        let nth = |n: usize| {
            let mut bytes = [0; 32];
            bytes[0] = u8::try_from(n).unwrap();
            Fingerprint(bytes)
        };
        let mut known = Known::default();
        for n in 0..=MAX_CHAINS {
            known.believed(1, nth(n), (leaf, rest), &id("web"));
        }
        assert_eq!(known.chains.len(), MAX_CHAINS);
        assert_eq!(known.find(1, nth(0), from), None);
        assert!(known.find(1, nth(1), from).is_some());
    }
}
