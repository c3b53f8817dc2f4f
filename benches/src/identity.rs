//! Who the systems are to each other: one CA (ECDSA P-256) for all of them, its
//! certificates for those that are configured with files, and the tokens by
//! which Remora's sidecars get theirs from the control plane, which is brought
//! the same CA.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

use crate::clock;

/// The trust domain.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// The name by which those with files know each other.
pub const NAME: &str = "peer.test";
/// Bytes of the key of tokens.
const KEY_BYTES: usize = 32;
/// Tokens are for the mesh.
const AUDIENCE: &str = "remora.io";
/// Longer than any run.
const TOKEN_SECONDS: u64 = 24 * 60 * 60;

/// The identities of a run.
#[derive(Clone, Debug)]
pub struct Identities(Arc<Made>);

#[derive(Debug)]
struct Made {
    folder: PathBuf,
    key: Vec<u8>,
    client: (CertificateDer<'static>, Vec<u8>),
}

impl Identities {
    /// New ones, in a folder of their own under `dir`.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let folder = dir.join("identity");
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(folder.join("ca"))?;
        let ca = ca()?;
        let issuer = ca.key().serialize_pem();
        write(&folder.join("ca/tls.crt"), ca.pem().as_bytes())?;
        write(&folder.join("ca/tls.key"), issuer.as_bytes())?;
        write(&folder.join("ca/ca.crt"), ca.pem().as_bytes())?;
        let mut client = None;
        for name in ["server", "client"] {
            let key = KeyPair::generate()?;
            let leaf = leaf(name)?.signed_by(&key, &ca)?;
            let (certificate, secret) = (leaf.pem(), key.serialize_pem());
            let file = |ending: &str| folder.join(format!("{name}.{ending}"));
            write(&file("crt"), certificate.as_bytes())?;
            write(&file("key"), secret.as_bytes())?;
            write(&file("both"), (certificate + &secret).as_bytes())?;
            client = Some((leaf.der().clone(), key.serialize_der()));
        }
        let mut key = vec![0; KEY_BYTES];
        fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        write(&folder.join("token.key"), text.as_bytes())?;
        Ok(Self(Arc::new(Made {
            folder,
            key,
            client: client.context("no certificate was made")?,
        })))
    }

    /// Holds `server` and `client`, each as `crt`, `key` and, in one file, `both`.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The folder of the CA: `tls.crt`, `tls.key`, `ca.crt`.
    pub fn ca(&self) -> PathBuf {
        self.0.folder.join("ca")
    }

    /// The file with the key of tokens.
    pub fn token_key(&self) -> PathBuf {
        self.0.folder.join("token.key")
    }

    /// The client's certificate and key, for the harness itself.
    ///
    /// # Errors
    /// When the key is none.
    pub fn client(&self) -> anyhow::Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let (certificate, key) = &self.0.client;
        let key = PrivateKeyDer::try_from(key.clone()).map_err(anyhow::Error::msg)?;
        Ok((certificate.clone(), key))
    }

    /// The file with a pod's token: a JWT (RFC 7519) by HS256 in the form that
    /// Kubernetes' own have.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn token(&self, namespace: &str, pod: &str, uid: &str) -> anyhow::Result<PathBuf> {
        let claims = json!({
            "aud": [AUDIENCE],
            "exp": clock::unix_seconds() + TOKEN_SECONDS,
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": pod, "uid": uid},
                "serviceaccount": {"name": "default"},
            },
        });
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        let signed = format!("{header}.{claims}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0.key);
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
        let path = self.0.folder.join(format!("{uid}.token"));
        write(&path, format!("{signed}.{tag}").as_bytes())?;
        Ok(path)
    }
}

/// A root that issues leaves itself.
fn ca() -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Root of a benchmark");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Known by an X.509-SVID's one URI, and by [`NAME`].
fn leaf(name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
    let id = format!("spiffe://{TRUST_DOMAIN}/ns/bench/sa/{name}");
    params
        .subject_alt_names
        .push(SanType::URI(id.as_str().try_into()?));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(bytes));
    written.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_their_owners_and_a_token_names_its_pod() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let made = Identities::make(dir.path()).unwrap();
        let token = made.token("bench", "caller", "caller-uid").unwrap();
        for file in [&token, &made.token_key(), &made.ca().join("tls.key")] {
            let mode = fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", file.display());
        }
        let text = fs::read_to_string(token).unwrap();
        let claims = text.split('.').nth(1).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["kubernetes.io"]["pod"]["uid"], "caller-uid");
        made.client().unwrap();
    }
}
