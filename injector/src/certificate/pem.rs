//! Certificates as they are written, checked as an API server checks them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

use crate::clock;

/// Certificates in one file or bundle that are looked at.
const MAX_CERTIFICATES: usize = 16;

/// A certificate that can be served.
#[derive(Debug)]
pub struct Certificate {
    /// For rustls.
    pub key: Arc<CertifiedKey>,
    /// Between which moments it is valid.
    pub life: Life,
}

/// Between which moments a certificate is valid, since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// From.
    pub begins: Duration,
    /// To.
    pub ends: Duration,
}

impl Life {
    /// When it should be renewed: after two thirds.
    pub fn due(&self) -> Duration {
        self.begins + self.ends.saturating_sub(self.begins) * 2 / 3
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM, or no certificate or key in it.
    #[error("{0}: {1}")]
    Pem(&'static str, #[source] rustls::pki_types::pem::Error),
    /// Not X.509.
    #[error("the certificate cannot be read: {0}")]
    X509(String),
    /// The key is none that can be used, or another certificate's.
    #[error("the key does not fit the certificate: {0}")]
    Key(#[source] rustls::Error),
    /// What an API server would say.
    #[error("an API server would not take it: {0}")]
    Untrusted(#[source] rustls::Error),
    /// Nothing that could stand in a certificate.
    #[error("{0:?} is no DNS name or address")]
    Name(String),
}

/// Who does the cryptography.
pub fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

impl Certificate {
    /// Reads a chain, the served certificate first, and its key.
    ///
    /// # Errors
    /// When they are none, or not of each other.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = certificates(chain).map_err(|error| CertificateError::Pem("tls.crt", error))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| CertificateError::Pem("tls.key", error))?;
        let first = chain.first().ok_or(CertificateError::Pem(
            "tls.crt",
            rustls::pki_types::pem::Error::NoItemsFound,
        ))?;
        let life = life(first)?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(CertificateError::Key)?;
        Ok(Certificate {
            key: Arc::new(key),
            life,
        })
    }

    /// Whether an API server that trusts this bundle would take it now, by
    /// each of these names.
    ///
    /// # Errors
    /// When it would not.
    pub fn check(
        &self,
        bundle: &[CertificateDer<'_>],
        names: &[String],
        now: Duration,
    ) -> Result<(), CertificateError> {
        let chain = &self.key.cert;
        let (first, rest) = chain.split_first().ok_or(CertificateError::Pem(
            "tls.crt",
            rustls::pki_types::pem::Error::NoItemsFound,
        ))?;
        let parsed = ParsedCertificate::try_from(first).map_err(CertificateError::Untrusted)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(bundle.iter().map(|root| root.clone().into_owned()));
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            rest,
            UnixTime::since_unix_epoch(now),
            provider().signature_verification_algorithms.all,
        )
        .map_err(CertificateError::Untrusted)?;
        for name in names {
            let server = ServerName::try_from(name.as_str())
                .map_err(|_| CertificateError::Name(name.clone()))?;
            verify_server_name(&parsed, &server).map_err(CertificateError::Untrusted)?;
        }
        Ok(())
    }

    /// Whether who trusts this bundle (PEM) takes it now, names aside.
    pub fn is_trusted_by(&self, bundle: &[u8]) -> bool {
        let roots = certificates(bundle).unwrap_or_default();
        self.check(&roots, &[], clock::since_epoch()).is_ok()
    }

    /// The names that it is for.
    pub fn names(&self) -> Vec<String> {
        let first = self.key.cert.first();
        first.map(names).unwrap_or_default()
    }
}

/// The certificates of a PEM text.
///
/// # Errors
/// When it is none.
pub fn certificates(
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem)
        .take(MAX_CERTIFICATES)
        .collect()
}

/// A certificate as PEM (RFC 7468).
pub fn written(certificate: &CertificateDer<'_>) -> String {
    // Kubernetes' own bytes are base64 wherever they are written.
    let bytes = ByteString(certificate.to_vec());
    let base64 = serde_json::to_value(bytes).unwrap_or_default();
    let base64 = base64.as_str().unwrap_or_default();
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in base64.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Between which moments a certificate is valid.
///
/// # Errors
/// When it cannot be read.
pub fn life(certificate: &CertificateDer<'_>) -> Result<Life, CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| CertificateError::X509(error.to_string()))?;
    let since_epoch =
        |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    Ok(Life {
        begins: since_epoch(parsed.validity().not_before.timestamp()),
        ends: since_epoch(parsed.validity().not_after.timestamp()),
    })
}

/// The public key of a certificate, as SubjectPublicKeyInfo.
pub fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address: Option<IpAddr> = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
                16 => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
                _ => None,
            };
            address.map(|address| address.to_string())
        }
        _ => None,
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect()
}
