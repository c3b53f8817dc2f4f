//! A CA that can issue: made of what is written, and only when all of it is
//! right. What is wrong is said in words that tell the operator what to do.

use rcgen::{Issuer, KeyPair, PublicKeyData};
use remora_proto::spiffe::SpiffeId;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;

use super::issue::{Leaf, Lifetime};
use super::material::{self, CERTIFICATE, KEY, MAX_CERTIFICATES, Material, ROOTS};

/// Bytes of a certificate's subject that are shown.
const MAX_SUBJECT_BYTES: usize = 200;

/// Why a CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A text is not PEM.
    #[error("{0} is not PEM: {1}")]
    Pem(&'static str, PemError),
    /// A text without certificates.
    #[error("{0} holds no certificate: put the CA's certificates there, in PEM")]
    Empty(&'static str),
    /// More than are looked at.
    #[error("{0} holds more than {MAX_CERTIFICATES} certificates")]
    TooMany(&'static str),
    /// Not X.509.
    #[error("{0}: certificate {1} cannot be read: {2}")]
    Unreadable(&'static str, usize, String),
    /// The key is none, or of a kind that is not known.
    #[error(
        "tls.key cannot be used: {0} (a private key in PEM is wanted: ECDSA P-256 or P-384, Ed25519, or RSA)"
    )]
    Key(String),
    /// The key is another certificate's.
    #[error(
        "tls.key is not the key of the first certificate in tls.crt: put the issuing certificate first, and its own key beside it"
    )]
    KeyMismatch,
    /// Not a CA.
    #[error(
        "{0}: {1} is no CA (basicConstraints says no CA:TRUE): bring a certificate that may issue; with cert-manager set isCA: true"
    )]
    NotCa(&'static str, String),
    /// May not sign.
    #[error(
        "{0}: {1} may not sign certificates: its keyUsage lacks keyCertSign (with cert-manager add the usage `cert sign`)"
    )]
    NoCertSign(&'static str, String),
    /// More CAs below it than it allows.
    #[error(
        "{0}: {1} allows {2} CAs below it and has {3}: have it issued with a larger pathlen, or bring a CA that is nearer to it"
    )]
    PathLength(&'static str, String, u32, usize),
    /// Its time is over.
    #[error("{0}: {1} expired {2} s ago: renew it")]
    Expired(&'static str, String, u64),
    /// Its time has not come.
    #[error("{0}: {1} is not valid before {2} s from now: is this machine's clock right?")]
    NotYet(&'static str, String, u64),
    /// No root at the end.
    #[error(
        "tls.crt does not lead to a certificate of ca.crt ({0}): put the intermediates behind the issuing certificate in tls.crt, and the root of just this chain into ca.crt"
    )]
    Untrusted(String),
    /// It is all right, and yet nothing can be issued.
    #[error("the CA cannot issue: {0}")]
    Issue(String),
}

/// A CA.
#[derive(Debug)]
pub struct Authority {
    pub(super) trust_domain: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// What is sent behind a leaf: from the issuing certificate upwards,
    /// without the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The issuing certificate.
    pub(super) issuing: CertificateDer<'static>,
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) life: Lifetime,
}

impl Authority {
    /// Reads what is written, and issues once with it, on trial. `now` is in
    /// seconds since the Unix epoch.
    ///
    /// # Errors
    /// When it is not a CA whose leaves would be taken by who trusts its roots.
    pub fn read(material: &Material, trust_domain: &str, now: u64) -> Result<Self, AuthorityError> {
        let chain = listed(CERTIFICATE, &material.certificate)?;
        let roots = listed(ROOTS, &material.roots)?;
        let key = PrivateKeyDer::from_pem_slice(&material.key)
            .map_err(|error| AuthorityError::Pem(KEY, error))?;
        let key =
            KeyPair::try_from(&key).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let mut life = Lifetime {
            begins: 0,
            ends: u64::MAX,
        };
        for (index, certificate) in chain.iter().enumerate() {
            let parsed = parse(CERTIFICATE, index, certificate)?;
            if index == 0 && parsed.public_key().subject_public_key.data != key.der_bytes() {
                return Err(AuthorityError::KeyMismatch);
            }
            let valid = check_issuer(CERTIFICATE, &parsed, index, now)?;
            life = life.within(valid);
        }
        for (index, root) in roots.iter().enumerate() {
            parse(ROOTS, index, root)?;
        }
        let [issuing, ..] = &chain[..] else {
            return Err(AuthorityError::Empty(CERTIFICATE));
        };
        let issuer = Issuer::from_ca_cert_der(issuing, key)
            .map_err(|error| AuthorityError::Issue(error.to_string()))?;
        let issuing = issuing.clone();
        let is_root = |certificate: &CertificateDer<'_>| roots.contains(certificate);
        let authority = Self {
            trust_domain: trust_domain.to_owned(),
            issuer,
            chain: chain.into_iter().filter(|one| !is_root(one)).collect(),
            issuing,
            roots,
            life,
        };
        let life = authority.life.within(authority.tried(now)?);
        Ok(Self { life, ..authority })
    }

    /// The trust domain of what it issues.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The roots that are trusted along with it.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// When nothing of it is valid any more, in seconds since the Unix epoch.
    pub fn ends(&self) -> u64 {
        self.life.ends
    }

    /// Whether the other issues with the same certificate.
    pub fn issues_like(&self, other: &Self) -> bool {
        self.issuing == other.issuing
    }

    /// Issues a leaf that nobody gets, and looks at it as a peer would, by
    /// each root alone: how long the longest-lived one that leads to it lives.
    fn tried(&self, now: u64) -> Result<Lifetime, AuthorityError> {
        let issue = |error: &dyn std::fmt::Display| AuthorityError::Issue(error.to_string());
        let key = KeyPair::generate().map_err(|error| issue(&error))?;
        let id = SpiffeId::new(&self.trust_domain, "remora", "trial").map_err(|e| issue(&e))?;
        let leaf = Leaf::new(&id, 60);
        let issued = self.issue(&key, &leaf, [1; 16], now);
        let issued = issued.map_err(|error| issue(&error))?;
        let mut reached: Option<Lifetime> = None;
        let mut problem = None;
        for (index, root) in self.roots.iter().enumerate() {
            match verify(&issued.chain, root, now) {
                Ok(()) => {
                    let parsed = parse(ROOTS, index, root)?;
                    // By one root at least all must be right; what is said of
                    // the others is of no interest then.
                    match check_issuer(ROOTS, &parsed, self.chain.len(), now) {
                        Ok(life) if reached.is_none_or(|other| other.ends < life.ends) => {
                            reached = Some(life);
                        }
                        Ok(_) => {}
                        Err(error) => problem = Some(error),
                    }
                }
                Err(error) if problem.is_none() => {
                    problem = Some(AuthorityError::Untrusted(error.to_string()));
                }
                Err(_) => {}
            }
        }
        match (reached, problem) {
            (Some(life), _) => Ok(life),
            (None, Some(problem)) => Err(problem),
            (None, None) => Err(AuthorityError::Empty(ROOTS)),
        }
    }
}

/// Whether who trusts this root takes this chain, as caller and as target.
pub(super) fn verify(
    chain: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    now: u64,
) -> Result<(), webpki::Error> {
    let anchors = [anchor_from_trusted_cert(root)?];
    let [leaf, rest @ ..] = chain else {
        return Err(webpki::Error::UnknownIssuer);
    };
    let leaf = EndEntityCert::try_from(leaf)?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            rest,
            now,
            usage,
            None,
            None,
        )?;
    }
    Ok(())
}

fn listed(file: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let listed = material::certificates(text).map_err(|error| AuthorityError::Pem(file, error))?;
    match listed.len() {
        0 => Err(AuthorityError::Empty(file)),
        1..=MAX_CERTIFICATES => Ok(listed),
        _ => Err(AuthorityError::TooMany(file)),
    }
}

fn parse<'a>(
    file: &'static str,
    index: usize,
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, AuthorityError> {
    let unreadable = |why: String| AuthorityError::Unreadable(file, index + 1, why);
    match parse_x509_certificate(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(unreadable("there are bytes behind it".to_owned())),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

/// Whether a certificate may issue, with so many CAs below it.
fn check_issuer(
    file: &'static str,
    certificate: &X509Certificate<'_>,
    below: usize,
    now: u64,
) -> Result<Lifetime, AuthorityError> {
    let name = || {
        let mut subject = certificate.subject().to_string();
        crate::text::cut(&mut subject, MAX_SUBJECT_BYTES);
        format!("the certificate {subject:?}")
    };
    let constraints = certificate.basic_constraints().ok().flatten();
    let Some(constraints) = constraints.filter(|constraints| constraints.value.ca) else {
        return Err(AuthorityError::NotCa(file, name()));
    };
    if let Some(allowed) = constraints.value.path_len_constraint
        && below > usize::try_from(allowed).unwrap_or(usize::MAX)
    {
        return Err(AuthorityError::PathLength(file, name(), allowed, below));
    }
    let usage = certificate.key_usage().ok().flatten();
    // RFC 5280, section 4.2.1.3: a CA has the extension; of a root it may be missing.
    let signs = usage.map_or(file == ROOTS, |usage| usage.value.key_cert_sign());
    if !signs {
        return Err(AuthorityError::NoCertSign(file, name()));
    }
    let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
    let life = Lifetime {
        begins: seconds(certificate.validity().not_before.timestamp()),
        ends: seconds(certificate.validity().not_after.timestamp()),
    };
    if life.ends <= now {
        return Err(AuthorityError::Expired(file, name(), now - life.ends));
    }
    if life.begins > now {
        return Err(AuthorityError::NotYet(file, name(), life.begins - now));
    }
    Ok(life)
}

#[cfg(test)]
mod tests;
