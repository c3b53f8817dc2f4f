//! The way to the replica that leads: its reports' address, over TLS where there are
//! identities, and then with this replica's own token.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use remora_proto::spiffe::SpiffeId;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use x509_parser::extensions::GeneralName;

use crate::identity::keep::Trust;
use crate::identity::tokens::MAX_TOKEN_BYTES;

/// How long it may take until there is a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent leader is asked whether it is alive, and how long it may take
/// to say so.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a replica knows the leader, and shows who it is.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The file of its own token, read anew for each call: the kubelet renews it.
    pub token: PathBuf,
    /// Whom to trust.
    pub trust: watch::Receiver<Option<Arc<Trust>>>,
    /// A name that the control plane's certificate has, and no other of the mesh.
    pub name: String,
    /// The identity that must be there.
    pub id: SpiffeId,
}

/// There is no way to the leader.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file of the token cannot be used.
    #[error("no token in {path}: {error} (check --own-token and the volume that is mounted there)")]
    Token {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no CA yet.
    #[error("there is no CA yet by which the leader could be known")]
    NoTrust,
    /// TLS itself cannot be had.
    #[error("TLS cannot be had: {0}")]
    Tls(#[from] rustls::Error),
    /// Nothing is there, or not the control plane, or no HTTP/2.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: String,
    },
}

/// A connection to the leader at `address`; plaintext without credentials, as the
/// streams' port is without identities.
///
/// # Errors
/// When there is none within [`CONNECT_TIMEOUT`].
pub async fn connect(
    address: SocketAddr,
    credentials: Option<&Credentials>,
) -> Result<Channel, ConnectError> {
    let tls = credentials.map(config).transpose()?;
    let known = credentials.map(|known| (known.name.clone(), known.id.clone()));
    // The connection is made here; its scheme is of no concern to tonic.
    let endpoint = Endpoint::from_static("http://control-plane")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let error = |error: &dyn std::error::Error| ConnectError::Connect {
        address,
        error: chain(error),
    };
    let connected = async {
        match tls.zip(known) {
            None => {
                let connect = tower::service_fn(move |_: http::Uri| async move {
                    TcpStream::connect(address).await.map(TokioIo::new)
                });
                endpoint.connect_with_connector(connect).await
            }
            Some((tls, (name, id))) => {
                let connect = tower::service_fn(move |_: http::Uri| {
                    let (tls, name, id) = (Arc::clone(&tls), name.clone(), id.clone());
                    async move { encrypted(address, tls, name, &id).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connect).await
            }
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connected).await {
        Ok(connected) => connected.map_err(|failed| error(&failed)),
        Err(late) => Err(error(&late)),
    }
}

/// An error with what caused it: tonic's own text says nothing of it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A call with this replica's token, where there are identities.
///
/// # Errors
/// When there is none.
pub async fn request<T>(
    message: T,
    credentials: Option<&Credentials>,
) -> Result<Request<T>, ConnectError> {
    let mut request = Request::new(message);
    if let Some(credentials) = credentials {
        let path = &credentials.token;
        let bearer = bearer(path).await.map_err(|error| ConnectError::Token {
            path: path.clone(),
            error,
        })?;
        request.metadata_mut().insert("authorization", bearer);
    }
    Ok(request)
}

async fn bearer(path: &Path) -> io::Result<MetadataValue<Ascii>> {
    let file = tokio::fs::File::open(path).await?;
    let mut token = String::new();
    let most = MAX_TOKEN_BYTES as u64;
    file.take(most).read_to_string(&mut token).await?;
    let none = || io::Error::new(io::ErrorKind::InvalidData, "it holds no token");
    let token = Some(token.trim()).filter(|token| !token.is_empty());
    let bearer = format!("Bearer {}", token.ok_or_else(none)?);
    let mut value = MetadataValue::try_from(bearer).map_err(|_| none())?;
    value.set_sensitive(true);
    Ok(value)
}

/// As sidecars have it towards the control plane: TLS 1.3 and the mesh's roots alone.
fn config(credentials: &Credentials) -> Result<Arc<ClientConfig>, ConnectError> {
    let trust = credentials.trust.borrow().clone();
    let trust = trust.ok_or(ConnectError::NoTrust)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trust.record.certificates());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

async fn encrypted(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    name: String,
    id: &SpiffeId,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls).connect(name, socket).await?;
    let chain = stream.get_ref().1.peer_certificates();
    let leaf = chain.and_then(<[_]>::first);
    if !leaf.is_some_and(|leaf| is_of(leaf, id)) {
        return Err(io::Error::other(format!(
            "who is there has not the identity {id} (does another mesh use this address?)"
        )));
    }
    Ok(stream)
}

/// Whether a certificate is this identity's, and no other's.
fn is_of(certificate: &CertificateDer<'_>, id: &SpiffeId) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let names = names.value.general_names.iter();
    let mut ids = names.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    ids.next() == Some(&*id.to_string()) && ids.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_what_its_file_holds_and_a_file_without_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        bearer(&path).await.unwrap_err();
        for nothing in ["", " \n", "a\nb", "\u{7f}"] {
            std::fs::write(&path, nothing).unwrap();
            assert!(bearer(&path).await.is_err(), "{nothing:?}");
        }
        std::fs::write(&path, "a.b.c\n").unwrap();
        let bearer = bearer(&path).await.unwrap();
        assert_eq!(bearer.to_str().unwrap(), "Bearer a.b.c");
        assert!(bearer.is_sensitive());
    }
}
