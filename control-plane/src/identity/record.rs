//! The roots that the mesh trusts, as they are written down: those of the CA,
//! and former ones for as long as leaves of theirs may live. It is one text in
//! PEM, and serves as both: who reads certificates alone finds whom to trust,
//! and between them stands until when each former one is to stay.
//!
//! It is written beside the CA and not into it, because whoever replaces a
//! root replaces the CA whole. A root that stands here as in force and is not
//! the CA's any more was replaced: whoever sees that first writes until when it
//! stays, and all replicas go by what is written.
//!
//! Whoever may write it may have the mesh trust another root for that long: it
//! is to be guarded as the CA is.

use rustls::pki_types::CertificateDer;

use super::material::{self, pem};

/// Before a former root.
const UNTIL: &str = "# former root, trusted until (seconds since the Unix epoch): ";
/// Former roots at most; the ones that would stay the longest stay.
pub const MAX_FORMER: usize = 8;

/// The longest that a former root stays, whatever is written: no leaf lives
/// longer (30 days), and some.
const MAX_OVERLAP_SECONDS: u64 = 31 * 24 * 60 * 60;

/// A root that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// When a former root goes; `None` of one that is the CA's.
    pub until: Option<u64>,
}

/// All of them: the CA's first, then former ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(pub Vec<Root>);

impl Record {
    /// Reads what is written; what is not a certificate is passed over, because
    /// trust in what can be read must not end by it.
    pub fn read(text: &str) -> Self {
        let mut roots: Vec<Root> = Vec::new();
        for section in text.split_inclusive("-----END CERTIFICATE-----") {
            let until = section.lines().find_map(|line| line.strip_prefix(UNTIL));
            let until = until.and_then(|text| text.trim().parse().ok());
            let read = material::certificates(section.as_bytes()).unwrap_or_default();
            for certificate in read {
                if roots.iter().all(|root| root.certificate != certificate) {
                    roots.push(Root { certificate, until });
                }
            }
        }
        Self(roots)
    }

    /// As it is written.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for root in &self.0 {
            if let Some(until) = root.until {
                text.push_str(&format!("{UNTIL}{until}\n"));
            }
            text.push_str(&pem(&root.certificate));
        }
        text
    }

    /// What it is to be with these roots of the CA, where a root that was just
    /// replaced stays for `overlap_seconds` more.
    pub fn with(&self, roots: &[CertificateDer<'static>], now: u64, overlap_seconds: u64) -> Self {
        let mut all: Vec<Root> = Vec::new();
        for certificate in roots {
            if all.iter().all(|root| root.certificate != *certificate) {
                all.push(Root {
                    certificate: certificate.clone(),
                    until: None,
                });
            }
        }
        let former = self
            .0
            .iter()
            .filter(|old| !roots.contains(&old.certificate));
        let latest = now.saturating_add(MAX_OVERLAP_SECONDS);
        let until = |written: Option<u64>| {
            let until = written.unwrap_or(now.saturating_add(overlap_seconds));
            until.min(latest)
        };
        let mut former: Vec<Root> = former
            .map(|old| Root {
                certificate: old.certificate.clone(),
                until: Some(until(old.until)),
            })
            .filter(|old| old.until.is_some_and(|until| until > now))
            .collect();
        former.sort_by_key(|old| std::cmp::Reverse(old.until));
        former.truncate(MAX_FORMER);
        all.extend(former);
        Self(all)
    }

    /// When the next former root goes.
    pub fn next_end(&self) -> Option<u64> {
        self.0.iter().filter_map(|root| root.until).min()
    }

    /// The certificates.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.0.iter().map(|root| root.certificate.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root(id: u8) -> CertificateDer<'static> {
        CertificateDer::from(vec![0x30, 1, id])
    }

    #[test]
    fn a_replaced_root_stays_as_long_as_was_first_written() {
        let first = Record::default().with(&[root(1)], 100, 50);
        assert_eq!(first.next_end(), None);
        let second = first.with(&[root(2)], 100, 50);
        assert_eq!(second.next_end(), Some(150));
        assert_eq!(second.certificates(), [root(2), root(1)]);
        // Another replica sees it later, and goes by what is written.
        let read = Record::read(&second.text());
        assert_eq!(read, second);
        assert_eq!(read.with(&[root(2)], 140, 50), second);
        assert_eq!(read.with(&[root(2)], 150, 50).certificates(), [root(2)]);
        // Whatever is written, no root stays for ever.
        let mut forever = second.clone();
        forever.0[1].until = Some(u64::MAX);
        let bounded = forever.with(&[root(2)], 100, 50);
        assert_eq!(bounded.next_end(), Some(100 + MAX_OVERLAP_SECONDS));
        // It comes back.
        let back = second.with(&[root(1)], 120, 50);
        assert_eq!(back.0[0].until, None);
        assert_eq!(back.0[1].until, Some(170));
    }

    #[test]
    fn what_is_no_certificate_does_not_take_the_others_along() {
        let one = Record::default().with(&[root(1)], 0, 1);
        let text = format!(
            "hello\n-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n{}",
            one.text()
        );
        assert_eq!(Record::read(&text), one);
        assert_eq!(Record::read(""), Record::default());
    }

    proptest! {
        /// Whatever order roots come and go in: the CA's are always in force, no
        /// root goes before its overlap, and the text says it all.
        #[test]
        fn no_root_goes_before_its_time(steps in prop::collection::vec((1_u8..6, 0_u64..40), 1..40)) {
            const OVERLAP: u64 = 60;
            let (mut record, mut now) = (Record::default(), 1_000);
            let mut last_in_force = std::collections::HashMap::<u8, u64>::new();
            for (id, later) in steps {
                now += later;
                let roots = [root(id)];
                record = Record::read(&record.with(&roots, now, OVERLAP).text());
                prop_assert_eq!(&record.0[0].certificate, &roots[0]);
                for old in &record.0[1..] {
                    prop_assert!(old.until.is_some_and(|until| until > now && until <= now + OVERLAP));
                }
                // Replaced at this step at the earliest.
                for (old, at) in &last_in_force {
                    let stays = record.0.iter().any(|one| one.certificate == root(*old));
                    prop_assert!(stays || now >= *at + OVERLAP);
                }
                last_in_force.insert(id, now);
            }
        }
    }
}
