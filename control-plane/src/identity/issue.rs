//! Issuing a leaf: an X.509-SVID (SPIFFE X509-SVID, sections 4 and 5) for an id
//! that the caller does not choose.

use std::net::IpAddr;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use remora_proto::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::authority::Authority;
use super::material::moment;

/// How far back a leaf begins, for peers whose clocks are slow.
pub const BACKDATED_SECONDS: u64 = 5 * 60;
/// Bytes of a request; one with a key of RSA 8192 has some 2,500.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// Between which moments something is valid, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// From.
    pub begins: u64,
    /// To.
    pub ends: u64,
}

impl Lifetime {
    /// When both are valid.
    pub fn within(self, other: Self) -> Self {
        Self {
            begins: self.begins.max(other.begins),
            ends: self.ends.min(other.ends),
        }
    }
}

/// What a leaf says.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// Whose it is: its one URI.
    pub id: &'a SpiffeId,
    /// DNS names beside, for a server that is reached by them.
    pub names: &'a [String],
    /// Addresses beside.
    pub addresses: &'a [IpAddr],
    /// For how long from now.
    pub lifetime_seconds: u64,
}

impl<'a> Leaf<'a> {
    /// A workload's: nothing but its id.
    pub fn new(id: &'a SpiffeId, lifetime_seconds: u64) -> Self {
        Self {
            id,
            names: &[],
            addresses: &[],
            lifetime_seconds,
        }
    }
}

/// An issued leaf.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The leaf, then what leads from it to a root, without that.
    pub chain: Vec<CertificateDer<'static>>,
    /// When it is valid.
    pub life: Lifetime,
}

/// Nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The CA's own time is over.
    #[error("the CA expired: renew it")]
    Expired,
    /// A name that cannot stand in a certificate.
    #[error("{0:?} cannot stand in a certificate")]
    Name(String),
    /// The library's failure.
    #[error("the certificate could not be signed: {0}")]
    Sign(#[from] rcgen::Error),
}

/// Why a request is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Too long.
    #[error("the signing request is longer than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// Not PKCS#10.
    #[error("the signing request is not PKCS#10 in DER (RFC 2986)")]
    Unreadable,
    /// Its key or its signature is of a kind that is not taken.
    #[error(
        "the signing request's key or signature is none of: ECDSA P-256 or P-384, Ed25519, RSA of 2048 to 8192 bits, with SHA-256, SHA-384 or SHA-512"
    )]
    Algorithm,
    /// Whoever asks does not have the key.
    #[error("the signing request is not signed by its own key")]
    Signature,
}

impl Authority {
    /// Issues a leaf for this key.
    ///
    /// # Errors
    /// When the CA's own time is over, or the library fails.
    pub fn issue(
        &self,
        key: &impl PublicKeyData,
        leaf: &Leaf<'_>,
        serial: [u8; 16],
        now: u64,
    ) -> Result<Issued, IssueError> {
        let wanted = Lifetime {
            begins: now.saturating_sub(BACKDATED_SECONDS),
            ends: now.saturating_add(leaf.lifetime_seconds),
        };
        let life = wanted.within(self.life);
        if life.ends <= now {
            return Err(IssueError::Expired);
        }
        let mut params = CertificateParams::default();
        // Empty, so that the names are critical (RFC 5280, section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names(leaf)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = moment(life.begins);
        params.not_after = moment(life.ends);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Issued { chain, life })
    }
}

fn names(leaf: &Leaf<'_>) -> Result<Vec<SanType>, IssueError> {
    let text = |text: &str| {
        let bad = |_| IssueError::Name(text.to_owned());
        rcgen::string::Ia5String::try_from(text).map_err(bad)
    };
    let mut names = vec![SanType::URI(text(leaf.id.as_str())?)];
    for name in leaf.names {
        names.push(SanType::DnsName(text(name)?));
    }
    names.extend(leaf.addresses.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

/// A public key whose holder has shown that it has the private one.
#[derive(Clone, Debug)]
pub struct RequestedKey {
    bytes: Vec<u8>,
    kind: &'static SignatureAlgorithm,
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.kind
    }
}

/// The key of a PKCS#10 request whose sender has proved to have it. Whatever
/// names and extensions it asks for are not looked at.
///
/// # Errors
/// When it is no such request, or its key is not one that is issued for.
pub fn requested_key(der: &[u8]) -> Result<RequestedKey, RequestError> {
    if der.len() > MAX_REQUEST_BYTES {
        return Err(RequestError::TooLong);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| RequestError::Unreadable)?;
    if !rest.is_empty() {
        return Err(RequestError::Unreadable);
    }
    let info = &request.certification_request_info;
    let key = &info.subject_pki;
    let curve = key.algorithm.parameters.as_ref();
    let curve = curve.and_then(|curve| curve.as_oid().ok());
    let (kind, verification) = taken(
        &key.algorithm.algorithm.to_id_string(),
        curve.map(|oid| oid.to_id_string()).as_deref(),
        &request.signature_algorithm.algorithm.to_id_string(),
    )
    .ok_or(RequestError::Algorithm)?;
    let bytes = key.subject_public_key.data.to_vec();
    // Of RSA it takes 2048 to 8192 bits.
    UnparsedPublicKey::new(verification, &bytes)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| RequestError::Signature)?;
    Ok(RequestedKey { bytes, kind })
}

/// What kind of key it is and how its signature is verified, by the identifiers
/// of key, curve and signature (RFC 5480, 8410, 8017, 5758); `None` for what is
/// not taken.
fn taken(
    key: &str,
    curve: Option<&str>,
    signed: &str,
) -> Option<(
    &'static SignatureAlgorithm,
    &'static dyn VerificationAlgorithm,
)> {
    const EC: &str = "1.2.840.10045.2.1";
    const P256: Option<&str> = Some("1.2.840.10045.3.1.7");
    const P384: Option<&str> = Some("1.3.132.0.34");
    const RSA: &str = "1.2.840.113549.1.1.1";
    const ED25519: &str = "1.3.101.112";
    Some(match (key, curve, signed) {
        (EC, P256, "1.2.840.10045.4.3.2") => (
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &signature::ECDSA_P256_SHA256_ASN1,
        ),
        (EC, P256, "1.2.840.10045.4.3.3") => (
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &signature::ECDSA_P256_SHA384_ASN1,
        ),
        (EC, P384, "1.2.840.10045.4.3.3") => (
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &signature::ECDSA_P384_SHA384_ASN1,
        ),
        (EC, P384, "1.2.840.10045.4.3.2") => (
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &signature::ECDSA_P384_SHA256_ASN1,
        ),
        (ED25519, _, ED25519) => (&rcgen::PKCS_ED25519, &signature::ED25519),
        (RSA, _, "1.2.840.113549.1.1.11") => (
            &rcgen::PKCS_RSA_SHA256,
            &signature::RSA_PKCS1_2048_8192_SHA256,
        ),
        (RSA, _, "1.2.840.113549.1.1.12") => (
            &rcgen::PKCS_RSA_SHA256,
            &signature::RSA_PKCS1_2048_8192_SHA384,
        ),
        (RSA, _, "1.2.840.113549.1.1.13") => (
            &rcgen::PKCS_RSA_SHA256,
            &signature::RSA_PKCS1_2048_8192_SHA512,
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
