//! What is to be made anew, and when. Pure: what is kept comes in, and the
//! time.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::make::{Authority, Made};
use super::pem::{self, Certificate, CertificateError};
use crate::options::MAX_NAMES;

/// Authorities in a bundle: the present one, the one before, and what was made
/// in haste.
const MAX_AUTHORITIES: usize = 4;

/// What a Secret holds, all PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// `tls.crt`: the certificate.
    pub certificate: Vec<u8>,
    /// `tls.key`: its key.
    pub key: Vec<u8>,
    /// `ca.crt`: the authorities to be trusted, the one that signs first.
    pub bundle: Vec<u8>,
    /// `ca.key`: the key of the one that signs.
    pub authority_key: Vec<u8>,
}

/// What to do.
#[derive(Debug)]
pub enum Step {
    /// Nothing until then, since the Unix epoch.
    Keep(Duration),
    /// Write this, and look again.
    Write {
        /// What to write.
        kept: Kept,
        /// For the log.
        why: String,
    },
}

impl Kept {
    /// What can be served of it.
    ///
    /// # Errors
    /// When an API server that trusts its bundle would not take it.
    pub fn served(&self, names: &[String], now: Duration) -> Result<Certificate, CertificateError> {
        let certificate = Certificate::read(&self.certificate, &self.key)?;
        certificate.check(&self.authorities(), names, now)?;
        Ok(certificate)
    }

    /// The authorities that can be read.
    pub fn authorities(&self) -> Vec<CertificateDer<'static>> {
        pem::certificates(&self.bundle).unwrap_or_default()
    }

    /// The one that signs, and when it is due.
    fn authority(&self, now: Duration) -> Option<(Authority, Duration)> {
        let first = self.authorities().into_iter().next()?;
        let life = pem::life(&first).ok()?;
        let key = std::str::from_utf8(&self.authority_key).ok()?;
        let authority = Authority::kept(pem::written(&first), key)?;
        (life.begins <= now && now < life.ends).then_some((authority, life.due()))
    }
}

/// What is to be done about what is kept. `trusted` are authorities that are
/// trusted besides, because certificates of theirs may be served at this
/// moment though what is kept does not know them (somebody deleted the Secret).
///
/// # Errors
/// When nothing can be made: no randomness, or names that are none.
pub fn step(
    kept: Option<&Kept>,
    trusted: &[CertificateDer<'static>],
    names: &[String],
    now: Duration,
) -> Result<Step, rcgen::Error> {
    let nothing = Kept::default();
    let present = kept.unwrap_or(&nothing);
    let authority = present.authority(now);
    let why = match &authority {
        None if kept.is_none() => "there is none".to_owned(),
        None => "its authority cannot sign: ca.key does not fit ca.crt, or it has ended".to_owned(),
        Some((_, due)) if now >= *due => "its authority is due".to_owned(),
        Some((authority, due)) => return serving(present, authority, *due, names, now),
    };
    let authority = Authority::new(now)?;
    let mut bundle = authority.certificate.clone();
    let mut before: Vec<CertificateDer<'static>> = Vec::new();
    for other in present.authorities().iter().chain(trusted) {
        let lives = pem::life(other).is_ok_and(|life| now < life.ends);
        if lives && !before.contains(other) && before.len() + 1 < MAX_AUTHORITIES {
            bundle.push_str(&pem::written(other));
            before.push(other.clone());
        }
    }
    let mut kept = Kept {
        bundle: bundle.into_bytes(),
        authority_key: authority.key().into_bytes(),
        ..present.clone()
    };
    // A certificate of an older authority stays as long as it is good.
    if kept.served(names, now).is_err() {
        kept.put(authority.issue(names, now)?);
    }
    Ok(Step::Write { kept, why })
}

/// About the certificate, where the authority is good until `due`.
fn serving(
    present: &Kept,
    authority: &Authority,
    due: Duration,
    names: &[String],
    now: Duration,
) -> Result<Step, rcgen::Error> {
    let (why, names) = match present.served(names, now) {
        Ok(certificate) if now < certificate.life.due() => {
            return Ok(Step::Keep(due.min(certificate.life.due())));
        }
        Ok(_) => ("it is due".to_owned(), names.to_vec()),
        Err(error) => (error.to_string(), joined(present, names, now)),
    };
    let mut kept = present.clone();
    kept.put(authority.issue(&names, now)?);
    Ok(Step::Write { kept, why })
}

/// The names that are wanted, and those of a certificate that is good but for
/// its names: during an upgrade replicas want different ones, and must not
/// take turns.
fn joined(present: &Kept, names: &[String], now: Duration) -> Vec<String> {
    let mut joined = names.to_vec();
    let others = present
        .served(&[], now)
        .map(|certificate| certificate.names());
    for name in others.unwrap_or_default() {
        if !joined.contains(&name) && joined.len() < MAX_NAMES {
            joined.push(name);
        }
    }
    joined
}

impl Kept {
    fn put(&mut self, made: Made) {
        self.certificate = made.certificate.into_bytes();
        self.key = made.key.into_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::super::make::{AUTHORITY_LIFE, CERTIFICATE_LIFE};
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn service() -> Vec<String> {
        names(&["a.b.svc", "a.b.svc.cluster.local"])
    }

    fn written(kept: Option<&Kept>, names: &[String], now: Duration) -> Kept {
        match step(kept, &[], names, now).unwrap() {
            Step::Write { kept, .. } => kept,
            Step::Keep(until) => panic!("kept until {until:?}"),
        }
    }

    fn until(kept: &Kept, names: &[String], now: Duration) -> Duration {
        match step(Some(kept), &[], names, now).unwrap() {
            Step::Keep(until) => until,
            Step::Write { why, .. } => panic!("written: {why}"),
        }
    }

    #[test]
    fn out_of_nothing_comes_what_an_api_server_takes() {
        let kept = written(None, &service(), NOW);
        let certificate = kept.served(&service(), NOW).unwrap();
        assert_eq!(certificate.names(), service());
        assert!(kept.served(&names(&["other"]), NOW).is_err());
        assert!(
            kept.served(&service(), NOW + CERTIFICATE_LIFE + DAY)
                .is_err()
        );
        let due = until(&kept, &service(), NOW);
        assert_eq!(due, certificate.life.due());
        assert!((59 * DAY..=61 * DAY).contains(&(due - NOW)), "{due:?}");
    }

    #[test]
    fn addresses_are_names_too() {
        let wanted = names(&["a.b.svc", "10.0.0.1", "fd00::1"]);
        let kept = written(None, &wanted, NOW);
        assert_eq!(kept.served(&wanted, NOW).unwrap().names(), wanted);
        assert!(kept.served(&names(&["10.0.0.2"]), NOW).is_err());
    }

    #[test]
    fn a_certificate_is_renewed_by_its_authority_when_due() {
        let first = written(None, &service(), NOW);
        let due = until(&first, &service(), NOW);
        let second = written(Some(&first), &service(), due);
        assert_eq!(second.bundle, first.bundle);
        assert_eq!(second.authority_key, first.authority_key);
        assert_ne!(second.certificate, first.certificate);
        assert!(until(&second, &service(), due) > due);
    }

    #[test]
    fn a_new_authority_joins_the_old_and_the_certificate_stays() {
        let first = written(None, &service(), NOW);
        let mut kept = first.clone();
        let mut now = NOW;
        // As time goes by, until the authority is due.
        while kept.bundle == first.bundle {
            let next = until(&kept, &service(), now);
            assert!(next > now && next < NOW + AUTHORITY_LIFE);
            now = next;
            let before = kept;
            kept = written(Some(&before), &service(), now);
            // What any replica may still serve is trusted by what is kept.
            let old = Certificate::read(&before.certificate, &before.key).unwrap();
            old.check(&kept.authorities(), &service(), now).unwrap();
            if kept.bundle != first.bundle {
                assert_eq!(kept.certificate, before.certificate);
            }
        }
        assert!(now - NOW >= 240 * DAY && now - NOW <= 245 * DAY, "{now:?}");
        assert_eq!(kept.authorities().len(), 2);
        assert_eq!(kept.authorities()[1], first.authorities()[0]);
        // The next certificate is of the new authority alone.
        now = until(&kept, &service(), now);
        kept = written(Some(&kept), &service(), now);
        let new = &kept.authorities()[..1];
        let served = kept.served(&service(), now).unwrap();
        served.check(new, &service(), now).unwrap();
        // A year later the old authority has gone from the bundle.
        for _ in 0..40 {
            now = until(&kept, &service(), now);
            kept = written(Some(&kept), &service(), now);
            assert!(kept.authorities().len() <= 2);
        }
        assert!(!kept.authorities().contains(&first.authorities()[0]));
    }

    #[test]
    fn what_is_broken_is_made_anew_and_what_is_trusted_stays_trusted() {
        let good = written(None, &service(), NOW);
        let other = written(None, &service(), NOW + DAY);
        let broken: [fn(&mut Kept, &Kept); 5] = [
            |kept, _| kept.authority_key = b"x".to_vec(),
            |kept, other| kept.authority_key = other.authority_key.clone(),
            |kept, _| kept.certificate.clear(),
            |kept, other| kept.key = other.key.clone(),
            |kept, other| {
                kept.certificate = other.certificate.clone();
                kept.key = other.key.clone();
            },
        ];
        for (index, damage) in broken.iter().enumerate() {
            let mut kept = good.clone();
            damage(&mut kept, &other);
            let mended = written(Some(&kept), &service(), NOW + DAY);
            mended.served(&service(), NOW + DAY).unwrap();
            let old = Certificate::read(&good.certificate, &good.key).unwrap();
            let trusted = old.check(&mended.authorities(), &service(), NOW + DAY);
            assert!(trusted.is_ok(), "{index}: {trusted:?}");
        }
        // Nothing is left, but a replica remembers whom API servers trust.
        let Step::Write { kept, .. } =
            step(None, &good.authorities(), &service(), NOW + DAY).unwrap()
        else {
            panic!("nothing was written");
        };
        let old = Certificate::read(&good.certificate, &good.key).unwrap();
        old.check(&kept.authorities(), &service(), NOW + DAY)
            .unwrap();
        kept.served(&service(), NOW + DAY).unwrap();
    }

    #[test]
    fn replicas_that_want_different_names_do_not_take_turns() {
        let mine = names(&["mine.b.svc"]);
        let kept = written(None, &service(), NOW);
        let both = written(Some(&kept), &mine, NOW);
        both.served(&service(), NOW).unwrap();
        assert!(until(&both, &mine, NOW) > NOW);
        assert!(until(&both, &service(), NOW) > NOW);
        // Renewed, it is for the names that are wanted then.
        let due = until(&both, &service(), NOW);
        let alone = written(Some(&both), &service(), due);
        assert_eq!(alone.served(&service(), due).unwrap().names(), service());
    }
}
