//! Serves one caller's HTTP/1.1 connection, in the task that polls it.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};

use crate::body::response::ResponseBody;
use crate::body::{BodyError, Incoming};
use crate::caller::Caller;
use crate::io::Prefixed;
use crate::worker::Worker;

/// Serves `stream` until it ends. `handle` answers each request; it is told the
/// connection's state so that the answer's end can be noted there.
pub async fn serve<H, F>(worker: &Rc<Worker>, stream: Prefixed, peer: SocketAddr, handle: H)
where
    H: Fn(Request<Incoming>, Caller) -> F,
    F: Future<Output = Response<ResponseBody>>,
{
    crate::http1::server::serve(worker, stream, peer, handle).await;
}

/// The body of a request, read from the caller's connection as it is asked for.
#[derive(Debug)]
pub struct RequestStream {
    _private: (),
}

impl RequestStream {
    /// See [`http_body::Body::poll_frame`].
    pub fn poll_frame(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(None)
    }

    /// See [`http_body::Body::is_end_stream`].
    pub fn is_end_stream(&self) -> bool {
        true
    }

    /// See [`http_body::Body::size_hint`].
    pub fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}
