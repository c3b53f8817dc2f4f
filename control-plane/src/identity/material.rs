//! What a CA is written as: three texts in PEM (RFC 7468), in a Secret or a
//! folder, under the names that cert-manager uses too.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use time::OffsetDateTime;

/// The issuing certificate first, then what leads from it to a root.
pub const CERTIFICATE: &str = "tls.crt";
/// The issuing certificate's private key.
pub const KEY: &str = "tls.key";
/// The roots that are trusted: all certificates of it.
pub const ROOTS: &str = "ca.crt";

/// How long a root of our own making is valid.
const ROOT_SECONDS: u64 = 10 * 365 * 24 * 60 * 60;
/// How far back it begins, for clocks that are slow.
const ROOT_BACKDATED_SECONDS: u64 = 60 * 60;
/// Certificates of one text that are looked at.
pub const MAX_CERTIFICATES: usize = 32;

/// A CA as it is written.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// [`CERTIFICATE`]
    pub certificate: Vec<u8>,
    /// [`KEY`]
    pub key: Vec<u8>,
    /// [`ROOTS`]
    pub roots: Vec<u8>,
}

/// Without the key.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("certificate", &String::from_utf8_lossy(&self.certificate))
            .field("roots", &String::from_utf8_lossy(&self.roots))
            .finish_non_exhaustive()
    }
}

/// No CA could be made.
#[derive(Debug, thiserror::Error)]
#[error("no CA can be made: {0}")]
pub struct GenerateError(#[from] rcgen::Error);

impl Material {
    /// A new root for a trust domain, which issues the leaves itself (ECDSA
    /// P-256, ten years, no CA below it). `now` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate(trust_domain: &str, serial: [u8; 16], now: u64) -> Result<Self, GenerateError> {
        let mut subject = DistinguishedName::new();
        // Two roots of one mesh must be told apart by those who read them.
        let tag: String = serial[..4].iter().map(|b| format!("{b:02x}")).collect();
        subject.push(DnType::OrganizationName, "Remora");
        subject.push(DnType::CommonName, format!("Root {tag}"));
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        // X509-SVID, section 3.1: a signing certificate's id has no path.
        params.subject_alt_names =
            vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = moment(now.saturating_sub(ROOT_BACKDATED_SECONDS));
        params.not_after = moment(now.saturating_add(ROOT_SECONDS));
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?.pem().into_bytes();
        Ok(Self {
            certificate: root.clone(),
            key: key.serialize_pem().into_bytes(),
            roots: root,
        })
    }
}

/// A moment as rcgen has it.
pub fn moment(seconds: u64) -> OffsetDateTime {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    // Out of range only beyond the year 9999.
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The certificates of a PEM text; what stands between them is passed over.
///
/// # Errors
/// When a section of it is broken.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    CertificateDer::pem_slice_iter(pem)
        .take(MAX_CERTIFICATES + 1)
        .collect()
}

/// A certificate as PEM.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_shown_without_its_key_and_written_as_it_is_read() {
        let material = Material::generate("cluster.local", [7; 16], 1_700_000_000).unwrap();
        let shown = format!("{material:?}");
        assert!(shown.contains("BEGIN CERTIFICATE") && !shown.contains("PRIVATE"));
        assert!(String::from_utf8_lossy(&material.key).contains("PRIVATE KEY"));
        let read = certificates(&material.roots).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(certificates(pem(&read[0]).as_bytes()).unwrap(), read);
        certificates(b"-----BEGIN CERTIFICATE-----\n!\n").unwrap_err();
    }
}
