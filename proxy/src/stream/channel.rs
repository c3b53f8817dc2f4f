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
    /// It took too long.
    #[error("no connection to {0} within {CONNECT_TIMEOUT:?}")]
    Timeout(String),
    /// Something answers that is not a control plane.
    #[error("no HTTP/2 with the control plane: {0}")]
    Handshake(#[from] tonic::transport::Error),
}

impl ControlPlane {
    /// Parses `http://host:port`; without a port it is the well-known one.
    /// `socket_mark` is set on every connection (`SO_MARK`).
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(url: &str, socket_mark: Option<u32>) -> Result<Self, ControlPlaneError> {
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
        if uri.scheme_str() != Some("http") || host.is_empty() || port == 0 || !bare {
            return Err(ControlPlaneError::NotUsable(url.to_owned()));
        }
        Ok(Self {
            uri,
            host,
            port,
            socket_mark,
        })
    }

    /// Another one, reached in the same way.
    pub fn at(&self, address: SocketAddr) -> Result<Self, ControlPlaneError> {
        Self::parse(&format!("http://{address}"), self.socket_mark)
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
        let stream = self.dial().await?;
        let endpoint = Endpoint::from(self.uri)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_plain_http_url() {
        let plane = ControlPlane::parse("http://remora.remora-system:15110", None).unwrap();
        assert_eq!(
            (plane.host.as_str(), plane.port),
            ("remora.remora-system", 15110)
        );
        let plane = ControlPlane::parse("http://[::1]", None).unwrap();
        assert_eq!((plane.host.as_str(), plane.port), ("::1", 15110));
        for bad in [
            "",
            "host:1",
            "https://host:1",
            "http://host:0",
            "http://host:1/path",
            "http://",
        ] {
            let error = ControlPlane::parse(bad, None).unwrap_err().to_string();
            assert!(error.contains("http://host:"), "{bad}: {error}");
        }
    }
}
