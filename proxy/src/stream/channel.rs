//! A connection to the control plane. The host's name is resolved anew for
//! each, and every address of it is tried; windows and buffers are small,
//! because a sidecar at rest holds two of these.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use remora_proto::well_known;
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::{Channel, Endpoint};

use super::credentials::Credentials;
pub use super::credentials::CredentialsError;
use crate::config::IdentityFiles;
use crate::io::Stream;
use crate::tls::{self, HandshakeError, Trust};

/// From the look-up of the name to the connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// So often a silent connection is asked whether it is alive.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// So long it may take to say so.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 8;
/// What a stream may send before it is read, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a connection.
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// Calls that wait for the connection; each has one.
const CALL_QUEUE: usize = 2;

/// Where the control plane is and how it is reached.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    uri: Uri,
    host: String,
    port: u16,
    socket_mark: Option<u32>,
    /// `https`: how it is known, and we to it.
    credentials: Option<Credentials>,
}

/// The control plane's address makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlPlaneError {
    /// It is not a URL.
    #[error("{0:?} is not a URL; a control plane's address looks like http://host:15110")]
    NotAUrl(String),
    /// It is a URL that this sidecar cannot use.
    #[error("{0:?}: a control plane's address is http://host:port, without path or query")]
    NotUsable(String),
    /// It is to be encrypted, and is not, or the other way round.
    #[error(
        "{0:?}: a control plane's address is https://host:port where the sidecar has an identity, and http://host:port where it has none"
    )]
    Scheme(String),
}

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot resolve {host}: {error} (check REMORA_CONTROL_PLANE and the pod's DNS)")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        error: io::Error,
    },
    /// Nothing accepts connections there.
    #[error(
        "cannot connect to {address}: {error} (check that the control plane runs and that no NetworkPolicy is in the way)"
    )]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// What it takes to know each other is not there.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// It is not the control plane that was looked for.
    #[error("no TLS with the control plane at {address}: {error}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: HandshakeError,
    },
    /// It took too long.
    #[error("no connection to {0} within {CONNECT_TIMEOUT:?}")]
    Timeout(String),
    /// Something answers that is not a control plane.
    #[error("no HTTP/2 with the control plane: {0}")]
    Handshake(#[from] tonic::transport::Error),
}

impl ControlPlane {
    /// Parses `http://host:port`, or `https://host:port` with an identity;
    /// without a port it is the well-known one. `socket_mark` is set on every
    /// connection (`SO_MARK`).
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(
        url: &str,
        socket_mark: Option<u32>,
        identity: Option<&IdentityFiles>,
    ) -> Result<Self, ControlPlaneError> {
        let uri: Uri = url
            .parse()
            .map_err(|_| ControlPlaneError::NotAUrl(url.to_owned()))?;
        let host = uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(well_known::CONTROL_PLANE_PORT);
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if host.is_empty() || port == 0 || !bare {
            return Err(ControlPlaneError::NotUsable(url.to_owned()));
        }
        let credentials = match (uri.scheme_str(), identity) {
            (Some("http"), None) => None,
            (Some("https"), Some(files)) => {
                let credentials = Credentials::new(files, &host);
                Some(credentials.ok_or_else(|| ControlPlaneError::NotUsable(url.to_owned()))?)
            }
            _ => return Err(ControlPlaneError::Scheme(url.to_owned())),
        };
        Ok(Self {
            uri,
            host,
            port,
            socket_mark,
            credentials,
        })
    }

    /// Another one, reached in the same way: the same identity must be there.
    pub fn at(&self, address: SocketAddr) -> Result<Self, ControlPlaneError> {
        let mut other = Self::parse(&format!("http://{address}"), self.socket_mark, None)?;
        other.credentials.clone_from(&self.credentials);
        Ok(other)
    }

    /// A call, with the token that says who we are, where there is an identity.
    /// The token is read anew each time.
    ///
    /// # Errors
    /// There is none.
    pub fn request<T>(&self, message: T) -> Result<tonic::Request<T>, ConnectError> {
        let mut request = tonic::Request::new(message);
        if let Some(credentials) = &self.credentials {
            let bearer = credentials.bearer()?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }

    /// Who else may vouch for the control plane, beside the file: the stream's
    /// own bundle.
    pub fn believe(&self, trust: &std::sync::Arc<Trust>) {
        if let Some(credentials) = &self.credentials {
            credentials.believe(trust);
        }
    }

    /// The address as people write it.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Connects.
    ///
    /// # Errors
    /// When no connection comes about within [`CONNECT_TIMEOUT`].
    pub async fn connect(self) -> Result<Channel, ConnectError> {
        let uri = self.uri.clone();
        tokio::time::timeout(CONNECT_TIMEOUT, self.connect_now())
            .await
            .unwrap_or_else(|_| Err(ConnectError::Timeout(uri.to_string())))
    }

    async fn connect_now(self) -> Result<Channel, ConnectError> {
        let socket = self.dial().await?;
        let stream = match &self.credentials {
            Some(credentials) => encrypt(credentials, socket).await?,
            None => Stream::Plain(socket),
        };
        // The connection is made here; its scheme is of no concern to tonic.
        let authority = format!(
            "http://{}",
            self.uri.authority().map_or("", |it| it.as_str())
        );
        let endpoint = Endpoint::from_shared(authority)?
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .buffer_size(CALL_QUEUE);
        // One connection for one stream: when it is lost, the caller makes a
        // new one and with it resolves the name anew.
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotConnected, "the connection was lost")
            });
            std::future::ready(stream)
        });
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    async fn dial(&self) -> Result<TcpStream, ConnectError> {
        let no_address = |error| ConnectError::Resolve {
            host: self.host.clone(),
            error,
        };
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(no_address)?;
        let mut failure = None;
        for address in addresses.take(MAX_ADDRESSES) {
            match self.dial_address(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(ConnectError::Connect { address, error }),
            }
        }
        Err(failure.unwrap_or_else(|| {
            no_address(io::Error::new(io::ErrorKind::NotFound, "it has no address"))
        }))
    }

    async fn dial_address(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(mark) = self.socket_mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        socket.set_nodelay(true)?;
        socket.connect(address).await
    }
}

async fn encrypt(credentials: &Credentials, socket: TcpStream) -> Result<Stream, ConnectError> {
    let address = socket.peer_addr().map_err(|error| ConnectError::Tls {
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        error: error.into(),
    })?;
    let refused = |error: HandshakeError| ConnectError::Tls { address, error };
    let config = credentials.client_config()?;
    let stream = tls::handshake::connect(config, socket, address.ip()).await;
    Ok(stream.map_err(refused)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_plain_http_url() {
        let plane = ControlPlane::parse("http://remora.remora-system:15110", None, None).unwrap();
        assert_eq!(
            (plane.host.as_str(), plane.port),
            ("remora.remora-system", 15110)
        );
        let plane = ControlPlane::parse("http://[::1]", None, None).unwrap();
        assert_eq!((plane.host.as_str(), plane.port), ("::1", 15110));
        let files = IdentityFiles {
            trust_domain: "cluster.local".to_owned(),
            token: "/token".into(),
            roots: "/ca.crt".into(),
        };
        let secure = |url| ControlPlane::parse(url, None, Some(&files));
        let plane = secure("https://remora-control-plane.remora-system.svc:15110").unwrap();
        let leader = plane.at("10.0.0.7:15110".parse().unwrap()).unwrap();
        assert!(leader.credentials.is_some());
        assert!(secure("http://10.0.0.7:15110").is_err());
        assert!(secure("https://name.NO_NAMESPACE.svc:15110").is_err());
        for bad in [
            "",
            "host:1",
            "https://host:1",
            "http://host:0",
            "http://host:1/path",
            "http://",
        ] {
            let error = ControlPlane::parse(bad, None, None)
                .unwrap_err()
                .to_string();
            assert!(error.contains("http://host:"), "{bad}: {error}");
        }
    }
}
