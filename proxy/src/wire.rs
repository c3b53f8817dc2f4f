//! What is spoken on a connection upstream, and what a request needs of it.

use http::request::Parts;
use http::{Method, Version};

use crate::headers;
use crate::state::MeshProtocols;
use crate::tls::Alpn;

/// How a request travels to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wire {
    /// HTTP/1, as to any server.
    Http1,
    /// HTTP/2 with prior knowledge, as to any server.
    Http2,
    /// `remora-h1`: HTTP/1 to another sidecar.
    MeshHttp1,
    /// `remora-h2`: HTTP/1.1 and HTTP/2, multiplexed, to another sidecar.
    MeshHttp2,
}

impl Wire {
    /// How `parts` travel to an endpoint whose sidecar takes `mesh`.
    pub fn of(parts: &Parts, mesh: MeshProtocols) -> Self {
        if parts.version == Version::HTTP_2 {
            return if mesh.h2 {
                Self::MeshHttp2
            } else {
                Self::Http2
            };
        }
        if mesh.h2 && can_be_multiplexed(parts) {
            Self::MeshHttp2
        } else if mesh.h1 {
            Self::MeshHttp1
        } else {
            Self::Http1
        }
    }

    /// Whether many requests share a connection.
    pub const fn is_multiplexed(self) -> bool {
        matches!(self, Self::Http2 | Self::MeshHttp2)
    }

    /// What TLS to another sidecar says that travels in it. What only the
    /// application itself speaks are bytes to its sidecar.
    pub const fn alpn(self) -> Alpn {
        match self {
            Self::MeshHttp2 => Alpn::H2,
            Self::MeshHttp1 => Alpn::H1,
            Self::Http1 | Self::Http2 => Alpn::Tcp,
        }
    }

    /// Whether another sidecar is at the other end.
    pub const fn is_mesh(self) -> bool {
        matches!(self, Self::MeshHttp1 | Self::MeshHttp2)
    }
}

/// What HTTP/2 can carry so that the application cannot tell: a request of
/// HTTP/1.1 in origin form that asks for no other protocol.
fn can_be_multiplexed(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts.method != Method::CONNECT
        && parts.uri.authority().is_none()
        && parts.uri.path().starts_with('/')
        && headers::upgrade(&parts.headers).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, Request, Uri, header};

    const BOTH: MeshProtocols = MeshProtocols {
        h2: true,
        h1: true,
        tcp: false,
    };

    fn parts(version: Version, method: Method, uri: &str) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.version = version;
        parts.method = method;
        parts.uri = uri.parse::<Uri>().unwrap();
        parts
    }

    #[test]
    fn what_http2_cannot_carry_takes_a_connection_of_its_own() {
        let of = |version, method, uri| Wire::of(&parts(version, method, uri), BOTH);
        assert_eq!(of(Version::HTTP_11, Method::GET, "/a"), Wire::MeshHttp2);
        assert_eq!(
            of(Version::HTTP_2, Method::GET, "http://b/a"),
            Wire::MeshHttp2
        );
        assert_eq!(of(Version::HTTP_10, Method::GET, "/a"), Wire::MeshHttp1);
        assert_eq!(of(Version::HTTP_11, Method::OPTIONS, "*"), Wire::MeshHttp1);
        assert_eq!(
            of(Version::HTTP_11, Method::CONNECT, "b:1"),
            Wire::MeshHttp1
        );
        assert_eq!(
            of(Version::HTTP_11, Method::GET, "http://b/a"),
            Wire::MeshHttp1
        );
        let mut upgrade = parts(Version::HTTP_11, Method::GET, "/a");
        upgrade.headers = HeaderMap::from_iter([
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
        ]);
        assert_eq!(Wire::of(&upgrade, BOTH), Wire::MeshHttp1);
    }

    #[test]
    fn without_a_sidecar_the_application_is_spoken_to_as_the_caller_speaks() {
        let none = MeshProtocols::default();
        assert_eq!(
            Wire::of(&parts(Version::HTTP_11, Method::GET, "/"), none),
            Wire::Http1
        );
        assert_eq!(
            Wire::of(&parts(Version::HTTP_2, Method::GET, "/"), none),
            Wire::Http2
        );
    }
}
