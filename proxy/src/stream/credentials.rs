//! How the control plane is known, and we to it: the roots and the token, as
//! their files are at the moment, and the identity that must be there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use remora_proto::spiffe::SpiffeId;
use remora_proto::well_known;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::metadata::{Ascii, MetadataValue};

use crate::config::IdentityFiles;
use crate::tls::Trust;
use crate::tls::config::towards_control_plane;
use crate::tls::verify::TrustError;

/// A token, or a file of roots, is no larger.
const FILE_BYTES: u64 = 1024 * 1024;

/// What is needed is not there.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error(
        "cannot read {what} {path}: {error} (check {variable} and the volume that is mounted there)"
    )]
    File {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The variable that says where.
        variable: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// The token has bytes that no header can carry.
    #[error("{0} holds no token (check REMORA_TOKEN_FILE)")]
    Token(PathBuf),
    /// The roots are no certificates in PEM.
    #[error("{path} holds no certificates in PEM: {error} (check REMORA_TRUST_FILE)")]
    Pem {
        /// Where.
        path: PathBuf,
        /// Why.
        error: rustls::pki_types::pem::Error,
    },
    /// They cannot be used.
    #[error("the roots of {path} cannot be used: {error}")]
    Roots {
        /// Where.
        path: PathBuf,
        /// Why.
        error: TrustError,
    },
    /// TLS itself cannot be had.
    #[error("TLS cannot be had: {0}")]
    Tls(#[from] rustls::Error),
}

/// See the module's page.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    files: IdentityFiles,
    expected: SpiffeId,
    /// What the stream said of roots last.
    streamed: Arc<ArcSwapOption<Trust>>,
}

impl Credentials {
    /// For the control plane at `host`; `None` where that names no namespace.
    pub(super) fn new(files: &IdentityFiles, host: &str) -> Option<Self> {
        let account = well_known::CONTROL_PLANE;
        let expected = SpiffeId::new(&files.trust_domain, namespace_of(host), account).ok()?;
        Some(Self {
            files: files.clone(),
            expected,
            streamed: Arc::default(),
        })
    }

    pub(super) fn believe(&self, trust: &Arc<Trust>) {
        self.streamed.store(Some(Arc::clone(trust)));
    }

    pub(super) fn bearer(&self) -> Result<MetadataValue<Ascii>, CredentialsError> {
        let path = &self.files.token;
        let token = read(path, "the token", "REMORA_TOKEN_FILE")?;
        let text = String::from_utf8_lossy(&token);
        let bearer = format!("Bearer {}", text.trim());
        let mut value = MetadataValue::try_from(bearer)
            .ok()
            .filter(|_| !text.trim().is_empty())
            .ok_or_else(|| CredentialsError::Token(path.clone()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The roots are those of the file and of the stream: in a rotation one of
    /// them may know the new root before the other.
    pub(super) fn client_config(&self) -> Result<Arc<ClientConfig>, CredentialsError> {
        let path = &self.files.roots;
        let streamed = self.streamed.load();
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        match read_roots(path) {
            Ok(of_file) => roots.extend(of_file),
            // The file may be on its way, and what is known is enough.
            Err(error) if streamed.is_none() => return Err(error),
            Err(error) => tracing::debug!(%error, "the roots of the stream alone are believed"),
        }
        roots.extend(
            streamed
                .iter()
                .flat_map(|trust| trust.roots().iter().cloned()),
        );
        let trust = Trust::new(&self.files.trust_domain, roots).map_err(|error| {
            let path = path.clone();
            CredentialsError::Roots { path, error }
        })?;
        Ok(towards_control_plane(
            Arc::new(trust),
            self.expected.clone(),
        )?)
    }
}

/// The control plane's namespace: of `service.namespace.svc` the second part;
/// where an address is called, the one where it is unless somebody says otherwise.
fn namespace_of(host: &str) -> &str {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return well_known::SYSTEM_NAMESPACE;
    }
    let namespace = host.split('.').nth(1).filter(|part| !part.is_empty());
    namespace.unwrap_or(well_known::SYSTEM_NAMESPACE)
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let pem = read(path, "the roots", "REMORA_TRUST_FILE")?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| CredentialsError::Pem {
            path: path.to_owned(),
            error,
        })
}

/// Both are a page of memory or two, of a volume in memory: no thread is needed.
fn read(
    path: &Path,
    what: &'static str,
    variable: &'static str,
) -> Result<Vec<u8>, CredentialsError> {
    use std::io::Read;
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?
            .take(FILE_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| CredentialsError::File {
        what,
        path: path.to_owned(),
        variable,
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_plane_is_known_by_its_namespace() {
        for (host, namespace) in [
            ("remora-control-plane.remora-system.svc", "remora-system"),
            ("remora-control-plane.mesh", "mesh"),
            ("10.77.0.1", "remora-system"),
            ("::1", "remora-system"),
            ("localhost", "remora-system"),
        ] {
            assert_eq!(namespace_of(host), namespace, "{host}");
        }
    }

    #[test]
    fn the_token_is_read_anew_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        let files = IdentityFiles {
            trust_domain: "cluster.local".to_owned(),
            token: token.clone(),
            roots: folder.path().join("ca.crt"),
        };
        let credentials = Credentials::new(&files, "10.0.0.1").unwrap();
        let missing = credentials.bearer().unwrap_err().to_string();
        assert!(missing.contains("REMORA_TOKEN_FILE"), "{missing}");
        for written in ["first\n", "second"] {
            std::fs::write(&token, written).unwrap();
            let bearer = credentials.bearer().unwrap();
            assert_eq!(bearer, format!("Bearer {}", written.trim()).as_str());
        }
        for bad in ["", "\n", "a\nb"] {
            std::fs::write(&token, bad).unwrap();
            assert!(credentials.bearer().is_err(), "{bad:?}");
        }
        let missing = credentials.client_config().unwrap_err().to_string();
        assert!(missing.contains("REMORA_TRUST_FILE"), "{missing}");
    }
}
