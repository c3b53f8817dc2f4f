//! A key pair (ECDSA P-256) and the request for its certificate (PKCS#10, RFC
//! 2986), which says nothing but the key: whose it is, the token says.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::tls::der::{self, element};

/// `ecdsa-with-SHA256`, 1.2.840.10045.4.3.2
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A key pair that was just made, and the request for its certificate.
#[derive(Debug)]
pub struct KeyAndRequest {
    /// The key; dropped, its memory is wiped.
    pub key: PrivateKeyDer<'static>,
    /// PKCS#10, DER.
    pub request: Vec<u8>,
}

impl KeyAndRequest {
    /// Makes both.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Self, Unspecified> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let public = pair.public_key().as_der()?;
        // version 0, no subject, the key, no attributes
        let version = element(der::INTEGER, &[&[0]]);
        let subject = element(der::SEQUENCE, &[]);
        let attributes = element(der::context(0), &[]);
        let info = element(
            der::SEQUENCE,
            &[&version, &subject, public.as_ref(), &attributes],
        );
        let signature = pair.sign(&SystemRandom::new(), &info)?;
        let algorithm = element(
            der::SEQUENCE,
            &[&element(der::OBJECT_IDENTIFIER, &[ECDSA_WITH_SHA256])],
        );
        // The first octet of a BIT STRING counts its unused bits.
        let signature = element(der::BIT_STRING, &[&[0], signature.as_ref()]);
        let request = element(der::SEQUENCE, &[&info, &algorithm, &signature]);
        let key = PrivatePkcs8KeyDer::from(pair.to_pkcs8v1()?.as_ref().to_vec());
        Ok(Self {
            key: key.into(),
            request,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateSigningRequestParams, PublicKeyData};
    use rustls::pki_types::CertificateSigningRequestDer;

    #[test]
    fn the_request_is_signed_by_its_key_and_names_nobody() {
        let made = KeyAndRequest::new().unwrap();
        let der = CertificateSigningRequestDer::from(made.request.clone());
        // Verifies its signature.
        let read = CertificateSigningRequestParams::from_der(&der).unwrap();
        assert!(read.params.subject_alt_names.is_empty());
        let key = crate::tls::config::provider()
            .key_provider
            .load_private_key(made.key)
            .unwrap();
        let public = key.public_key().unwrap();
        assert!(public.as_ref().ends_with(read.public_key.der_bytes()));
        assert_ne!(KeyAndRequest::new().unwrap().request, made.request);
    }
}
