//! Whom a peer's certificate shows it to be, by the X.509-SVID specification
//! (section 5) and RFC 5280: a chain to a trusted root, now; not a CA; for this
//! use; exactly one SPIFFE id, of our trust domain; and, where one was
//! expected, that one.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use remora_proto::spiffe::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::certificate;
use super::known::{Fingerprint, Known, Shown};
use super::outcome::HandshakeResult;

/// Roots of one trust domain; more are refused.
pub const MAX_ROOTS: usize = 64;

/// Whom we believe.
#[derive(Debug)]
pub struct Trust {
    trust_domain: String,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// Of this process, never given twice.
    number: u64,
}

/// The last number given.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// A trust bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Nobody would be believed.
    #[error("it holds no certificate")]
    Empty,
    /// More than [`MAX_ROOTS`].
    #[error("it holds {0} certificates, at most {MAX_ROOTS} are taken")]
    TooMany(usize),
    /// One of them is none.
    #[error("its certificate number {number} is none: {error}")]
    NotACertificate {
        /// From 1.
        number: usize,
        /// Why.
        error: webpki::Error,
    },
}

impl Trust {
    /// These roots, for ids of this trust domain.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn new(
        trust_domain: &str,
        mut roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, TrustError> {
        if roots.is_empty() {
            return Err(TrustError::Empty);
        }
        roots.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        roots.dedup();
        if roots.len() > MAX_ROOTS {
            return Err(TrustError::TooMany(roots.len()));
        }
        let anchors = roots
            .iter()
            .zip(1..)
            .map(|(root, number)| {
                webpki::anchor_from_trusted_cert(root)
                    .map(|anchor| anchor.to_owned())
                    .map_err(|error| TrustError::NotACertificate { number, error })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            roots,
            anchors,
            number: NUMBERS.fetch_add(1, Relaxed) + 1,
        })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The roots, in no order that means anything.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whether the other says the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.roots == other.roots
    }

    /// Whether a chain of our own would be believed by peers that believe the same.
    pub fn believes(&self, chain: &[CertificateDer<'_>]) -> bool {
        let algorithms = super::config::provider().signature_verification_algorithms;
        let age = std::time::Duration::from_secs(crate::clock::system_seconds());
        let now = UnixTime::since_unix_epoch(age);
        chain.split_first().is_some_and(|(leaf, intermediates)| {
            let usage = KeyUsage::client_auth();
            self.judge(&algorithms, leaf, intermediates, now, usage)
                .is_ok()
        })
    }

    /// Where in [`Self::roots`] the one stands to which a chain of our own leads:
    /// while a root is replaced there are others beside it, perhaps of the same
    /// name. A chain that has ended is judged as in its last second.
    pub fn root_of(&self, chain: &[CertificateDer<'_>]) -> Option<usize> {
        let algorithms = super::config::provider().signature_verification_algorithms;
        let (leaf, intermediates) = chain.split_first()?;
        let ends = certificate::read(leaf)?.not_after;
        let then = std::time::Duration::from_secs(crate::clock::system_seconds().min(ends));
        let leaf = EndEntityCert::try_from(leaf).ok()?;
        self.anchors.iter().position(|anchor| {
            leaf.verify_for_usage(
                algorithms.all,
                std::slice::from_ref(anchor),
                intermediates,
                UnixTime::since_unix_epoch(then),
                KeyUsage::client_auth(),
                None,
                None,
            )
            .is_ok()
        })
    }

    fn judge(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<SpiffeId, Error> {
        let refuse = |error: webpki::Error| result_of(&error).refuse(error.to_string());
        let parsed = EndEntityCert::try_from(leaf).map_err(refuse)?;
        parsed
            .verify_for_usage(
                algorithms.all,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(refuse)?;
        let unreadable = || HandshakeResult::Other.refuse("the certificate cannot be read");
        for intermediate in intermediates {
            // `rustls-webpki` asks whether it is a CA, and not what its key is for.
            if !certificate::read(intermediate)
                .ok_or_else(unreadable)?
                .may_issue()
            {
                let detail = "a certificate of its chain may not sign certificates";
                return Err(HandshakeResult::WrongUsage.refuse(detail));
            }
        }
        let read = certificate::read(leaf).ok_or_else(unreadable)?;
        let id = read.identity().map_err(|result| {
            result.refuse(match result {
                HandshakeResult::WrongUsage => "its key usage is not that of an X.509-SVID",
                _ => "it does not have exactly one URI name, a SPIFFE id of a pod",
            })
        })?;
        if id.trust_domain() != self.trust_domain {
            let detail = format!("{id} is not of the trust domain {}", self.trust_domain);
            return Err(HandshakeResult::WrongTrustDomain.refuse(detail));
        }
        Ok(id)
    }
}

fn result_of(error: &webpki::Error) -> HandshakeResult {
    match error {
        webpki::Error::CertExpired { .. } => HandshakeResult::Expired,
        webpki::Error::CertNotValidYet { .. } => HandshakeResult::NotYetValid,
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            HandshakeResult::UnknownIssuer
        }
        webpki::Error::CaUsedAsEndEntity => HandshakeResult::NotALeaf,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            HandshakeResult::WrongUsage
        }
        _ => HandshakeResult::Other,
    }
}

/// Judges peers for rustls, on either side.
#[derive(Debug)]
pub struct Verifier {
    trust: Arc<Trust>,
    expected: Option<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Believes `trust`, and where `expected` is given only that id.
    pub fn new(
        trust: Arc<Trust>,
        expected: Option<SpiffeId>,
        provider: &CryptoProvider,
    ) -> Arc<Self> {
        Arc::new(Self {
            trust,
            expected,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        shown: Shown,
    ) -> Result<(), Error> {
        let fingerprint = Fingerprint::of(leaf, intermediates, shown);
        let number = self.trust.number;
        let known = KNOWN.with_borrow(|known| known.find(number, fingerprint, now.as_secs()));
        let id = match known {
            Some(id) => id,
            None => {
                let usage = match shown {
                    Shown::Server => KeyUsage::server_auth(),
                    Shown::Client => KeyUsage::client_auth(),
                };
                let trust = &self.trust;
                let id = trust.judge(&self.algorithms, leaf, intermediates, now, usage)?;
                let chain = (leaf, intermediates);
                KNOWN.with_borrow_mut(|known| known.believed(number, fingerprint, chain, &id));
                id
            }
        };
        match &self.expected {
            Some(expected) if *expected != id => {
                let detail = format!("{expected} was to be there, but it is {id}");
                Err(HandshakeResult::WrongIdentity.refuse(detail))
            }
            _ => Ok(()),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }
}

/// TLS 1.2 is never negotiated.
fn not_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".into()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Shown::Server)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        not_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Whoever is of the mesh has one certificate to show, and no choice.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Shown::Client)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        not_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
