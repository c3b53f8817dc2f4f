//! A CA as tests need one, with everything that a certificate can have wrong.

use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use super::{Mutual, Own, Trust};

/// The trust domain of tests.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// A root that issues.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate as it is asked for.
pub struct Wanted {
    pub uris: Vec<String>,
    pub not_before: i64,
    pub not_after: i64,
    pub is_ca: bool,
    pub usages: Vec<KeyUsagePurpose>,
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
}

impl Wanted {
    /// A good one, valid from a minute ago for an hour.
    pub fn of(uri: &str) -> Self {
        Self {
            uris: vec![uri.to_owned()],
            not_before: -60,
            not_after: 3_600,
            is_ca: false,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            purposes: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        }
    }
}

/// A chain and its key.
pub type Issued = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(ca_params(name), key).unwrap())
    }

    pub fn root(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn issue(&self, wanted: &Wanted) -> Issued {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        // rcgen would refuse what some tests want.
        params.subject_alt_names = wanted
            .uris
            .iter()
            .map(|uri| SanType::URI(Ia5String::try_from(uri.as_str()).unwrap()))
            .collect();
        params.not_before = now + Duration::seconds(wanted.not_before);
        params.not_after = now + Duration::seconds(wanted.not_after);
        if wanted.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.key_usages = wanted.usages.clone();
        params.extended_key_usages = wanted.purposes.clone();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![certificate.der().clone()], key)
    }

    /// A certificate for `account` from a CA below this one, as that is changed.
    pub fn below(&self, account: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = ca_params("below");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let below = CertifiedIssuer::signed_by(params, key, &self.0).unwrap();
        let below = Self(below);
        let (mut chain, key) = below.issue(&Wanted::of(&uri(account)));
        chain.push(below.root());
        (chain, key)
    }

    pub fn trust(&self) -> Arc<Trust> {
        trust(&[self])
    }

    /// Everything for a sidecar of this service account in `shop`.
    pub fn mutual(&self, account: &str) -> Arc<Mutual> {
        let (chain, key) = self.issue(&Wanted::of(&uri(account)));
        let own = Own::new(chain, key).unwrap();
        Mutual::new(Arc::new(own), self.trust()).unwrap()
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub fn trust(of: &[&Ca]) -> Arc<Trust> {
    let roots = of.iter().map(|ca| ca.root()).collect();
    Arc::new(Trust::new(TRUST_DOMAIN, roots).unwrap())
}

/// Of a service account in `shop`.
pub fn uri(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}")
}
