//! An HTTP/2 application that behaves well, and what a well-behaved caller
//! needs: both are hyper's, which is another implementation's customer than
//! the sidecar's own code.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Streams that the application allows on each connection. All else is as
/// hyper has it, such as the 20 unseen resets that end a connection.
const STREAMS: u32 = 1_000;

/// Any body.
pub type Any = BoxBody<Bytes, Infallible>;

/// A body of these bytes.
pub fn whole(bytes: impl Into<Bytes>) -> Any {
    Full::new(bytes.into()).boxed()
}

/// A body of `length` bytes, made as they are asked for; `made` counts them.
pub fn long(length: u64, made: Arc<AtomicU64>) -> Any {
    Long {
        left: length,
        made,
        trailers: false,
    }
    .boxed()
}

struct Long {
    left: u64,
    made: Arc<AtomicU64>,
    trailers: bool,
}

impl Body for Long {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static PIECE: [u8; 16 * 1024] = [b'x'; 16 * 1024];
        if self.left == 0 {
            if !std::mem::take(&mut self.trailers) {
                return Poll::Ready(None);
            }
            let status = (
                "grpc-status".parse().unwrap(),
                HeaderValue::from_static("0"),
            );
            return Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::from_iter([status])))));
        }
        let size = self.left.min(PIECE.len() as u64);
        self.left -= size;
        self.made.fetch_add(size, SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
            &PIECE[..size as usize],
        )))))
    }
}

/// What an application has counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: AtomicUsize,
    /// Requests begun.
    pub requests: AtomicUsize,
    /// Requests that have not ended.
    pub in_flight: AtomicUsize,
    /// The most of them at a time.
    pub most: AtomicUsize,
    /// Bytes of `/big` that the connection took.
    pub made: Arc<AtomicU64>,
    /// Bytes of request bodies that were read.
    pub read: AtomicU64,
}

/// The application; its connections end on drop.
#[derive(Debug)]
pub struct Http2App {
    address: SocketAddr,
    /// What it has counted.
    pub counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Http2App {
    /// Serves `/` and any other path with `hello`; `/never`; `/unread`, whose
    /// body it does not read; `/sink`, which reads it; `/echo`; `/big/<bytes>`;
    /// `/trailers/<bytes>` as a gRPC stream would end;
    /// `/reset`, which resets the stream.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = crate::bind(address).await;
        let counts: Arc<Counts> = Arc::default();
        let counted = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.accepted.fetch_add(1, SeqCst);
                let counts = Arc::clone(&counted);
                let service = service_fn(move |request| answer(Arc::clone(&counts), request));
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .max_concurrent_streams(STREAMS)
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(connection);
            }
        });
        Self {
            address,
            counts,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests begun so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(SeqCst)
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> usize {
        self.counts.in_flight.load(SeqCst)
    }
}

impl Drop for Http2App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request that is counted as in flight.
struct InFlight(Arc<Counts>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
    }
}

async fn answer(
    counts: Arc<Counts>,
    request: Request<Incoming>,
) -> Result<Response<Any>, std::io::Error> {
    counts.requests.fetch_add(1, SeqCst);
    let now = counts.in_flight.fetch_add(1, SeqCst) + 1;
    counts.most.fetch_max(now, SeqCst);
    let _in_flight = InFlight(Arc::clone(&counts));
    let (parts, mut body) = request.into_parts();
    let mut path = parts.uri.path().trim_start_matches('/').split('/');
    let (verb, length) = (path.next().unwrap_or(""), path.next());
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let made = Arc::clone(&counts.made);
    let body = match verb {
        "never" | "unread" => std::future::pending().await,
        "sink" => {
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                counts.read.fetch_add(bytes as u64, SeqCst);
            }
            whole("read")
        }
        "reset" => return Err(std::io::ErrorKind::Other.into()),
        "echo" => body.map_err(|_| unreachable!()).boxed(),
        "big" => long(length, made),
        "trailers" => Long {
            left: length,
            made,
            trailers: true,
        }
        .boxed(),
        _ => whole("hello"),
    };
    Ok(Response::new(body))
}

/// A caller that behaves well, with one connection.
#[derive(Clone, Debug)]
pub struct Http2Caller {
    send: SendRequest<Any>,
    /// The service that it calls.
    authority: &'static str,
}

/// A whole answer.
#[derive(Debug)]
pub struct Whole {
    /// Its status.
    pub status: u16,
    /// Its `x-remora-reason`, or nothing.
    pub reason: String,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: HeaderMap,
}

impl Http2Caller {
    /// Connects to `address`.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.expect("a connection")
    }

    /// As [`Http2Caller::connect`]; `None` where nobody takes the connection.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = crate::soon("connecting", TcpStream::connect(address))
            .await
            .ok()?;
        stream.set_nodelay(true).unwrap();
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (send, connection) = builder.handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(Self {
            send,
            authority: "catalog:8080",
        })
    }

    /// Calls another service than `catalog`.
    pub fn to(self, authority: &'static str) -> Self {
        Self { authority, ..self }
    }

    /// Sends a request; its answer's body is to be read by the test.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Any,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority))
            .body(body)
            .unwrap();
        self.send.ready().await?;
        self.send.send_request(request).await
    }

    /// Asks for `path` and reads all of the answer.
    pub async fn get(&mut self, path: &str) -> Result<Whole, hyper::Error> {
        let asking = async {
            let response = self.send("GET", path, whole("")).await?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await?;
            let reason = parts.headers.get("x-remora-reason");
            Ok(Whole {
                status: parts.status.as_u16(),
                reason: reason.map_or(String::new(), |reason| reason.to_str().unwrap().to_owned()),
                trailers: body.trailers().cloned().unwrap_or_default(),
                body: body.to_bytes(),
            })
        };
        crate::soon("an answer by HTTP/2", asking).await
    }
}
