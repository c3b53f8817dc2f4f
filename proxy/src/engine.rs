//! Which engine serves a caller's connection.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response};

use crate::body::Incoming;
use crate::body::response::ResponseBody;
use crate::caller::Caller;
use crate::detect::Verdict;
use crate::io::Prefixed;
use crate::state::Protocol;
use crate::worker::Worker;
use crate::{http1, http2};

/// What a caller speaks on a connection that carries HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1
    Http1,
    /// HTTP/2 with prior knowledge
    Http2,
    /// HTTP/1 from another sidecar
    MeshHttp1,
    /// HTTP/2 from another sidecar
    MeshHttp2,
}

impl Spoken {
    /// What detection found; `None` where it is not HTTP.
    pub const fn of(verdict: Verdict) -> Option<Self> {
        match verdict {
            Verdict::Http1 => Some(Self::Http1),
            Verdict::Http2 => Some(Self::Http2),
            Verdict::MeshHttp1 => Some(Self::MeshHttp1),
            Verdict::MeshHttp2 => Some(Self::MeshHttp2),
            Verdict::MeshTls | Verdict::ForeignTls | Verdict::Opaque | Verdict::Undecided => None,
        }
    }

    /// Whether another sidecar is the caller.
    pub const fn is_mesh(self) -> bool {
        matches!(self, Self::MeshHttp1 | Self::MeshHttp2)
    }
}

/// What a port that is declared to speak HTTP is taken to speak where the first
/// bytes do not tell.
pub const fn declared(protocol: Protocol) -> Verdict {
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Verdict::Http2,
        Protocol::Http1 | Protocol::Detect | Protocol::Tcp => Verdict::Http1,
    }
}

/// Serves a connection, of which a preface of ours is gone, until it ends;
/// `handle` answers each request.
pub async fn serve<H, F>(
    worker: &Rc<Worker>,
    spoken: Spoken,
    stream: Prefixed,
    peer: SocketAddr,
    handle: H,
) where
    H: Fn(Request<Incoming>, Caller) -> F + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    match spoken {
        Spoken::Http1 | Spoken::MeshHttp1 => {
            http1::serve::serve(worker, stream, peer, handle).await;
        }
        Spoken::Http2 => {
            http2::serve::serve(
                worker,
                stream,
                peer,
                http2::serve::Kind::Application,
                handle,
            )
            .await;
        }
        Spoken::MeshHttp2 => {
            http2::serve::serve(worker, stream, peer, http2::serve::Kind::Mesh, handle).await;
        }
    }
}
