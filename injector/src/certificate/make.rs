//! New authorities and new certificates (ECDSA on P-256: what every API
//! server takes, and cheap to sign with).

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use remora_proto::well_known::INJECTOR;
use time::OffsetDateTime;

use super::pem;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an authority lives.
pub const AUTHORITY_LIFE: Duration = DAY.saturating_mul(365);
/// How long a certificate lives.
pub const CERTIFICATE_LIFE: Duration = DAY.saturating_mul(90);
/// Both begin so long before they are made: clocks differ.
const BEFORE: Duration = Duration::from_secs(60 * 60);

/// An authority that signs.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: String,
    key: KeyPair,
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Made {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the machine has no randomness, or its clock is beyond all bounds.
    pub fn new(now: Duration) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        // Each its own name: in a bundle of two they are told apart.
        params.distinguished_name = named(&format!("{INJECTOR} authority {}", now.as_secs()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        lives(&mut params, now, AUTHORITY_LIFE)?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Authority { certificate, key })
    }

    /// One that was kept; `None` where the key is none, or another's.
    pub fn kept(certificate: String, key: &str) -> Option<Self> {
        let key = KeyPair::from_pem(key).ok()?;
        let der = pem::certificates(certificate.as_bytes()).ok()?;
        let fits = pem::public_key(der.first()?)? == key.subject_public_key_info();
        fits.then_some(Authority { certificate, key })
    }

    /// Its key, PEM.
    pub fn key(&self) -> String {
        self.key.serialize_pem()
    }

    /// Signs a new certificate for a new key.
    ///
    /// # Errors
    /// As [`Authority::new`]; or when a name cannot stand in a certificate.
    pub fn issue(&self, names: &[String], now: Duration) -> Result<Made, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named(INJECTOR);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        lives(&mut params, now, CERTIFICATE_LIFE)?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, &self.key)?;
        Ok(Made {
            certificate: params.signed_by(&key, &issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn lives(
    params: &mut CertificateParams,
    now: Duration,
    life: Duration,
) -> Result<(), rcgen::Error> {
    let moment = |since: Duration| {
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)
    };
    params.not_before = moment(now.saturating_sub(BEFORE))?;
    params.not_after = moment(now.saturating_add(life))?;
    Ok(())
}
