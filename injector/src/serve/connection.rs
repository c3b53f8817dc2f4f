//! The life of one connection: handshake, requests, end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::Stage;
use super::body::Room;
use crate::clock;
use crate::webhook::Webhook;

/// Where reviews are posted.
pub const PATH: &str = "/inject";
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request's head may take (HTTP/1), the wait for it included:
/// longer than an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(150);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Fields of a request's head (HTTP/1).
const MAX_FIELDS: usize = 64;
/// Requests at once on one connection (HTTP/2).
const MAX_STREAMS: u32 = 256;
/// Bytes that may be on their way (HTTP/2), for each request and for all.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// A connection in which nothing happened for so long is ended. API servers
/// end theirs after 90 s: they are to be first, so that none is closed in the
/// moment in which a review is sent on it.
const IDLE: Duration = Duration::from_secs(120);
/// One on which nothing was ever asked, sooner.
const NEVER_USED: Duration = Duration::from_secs(20);
/// The longest life: an API server that holds one connection for ever would
/// never come to another replica.
const MAX_AGE: Duration = Duration::from_secs(300);
/// How long an end may take.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How often these are looked at.
const TICK: Duration = Duration::from_secs(5);
/// Whether the other side still lives (HTTP/2).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What all connections share.
pub struct Shared {
    webhook: Arc<Webhook>,
    acceptor: TlsAcceptor,
    room: Room,
}

impl Shared {
    /// Reviews go to this webhook.
    pub fn new(webhook: Arc<Webhook>, acceptor: TlsAcceptor) -> Self {
        Shared {
            webhook,
            acceptor,
            room: Room::default(),
        }
    }
}

/// What happens on a connection.
#[derive(Debug)]
struct Use {
    in_flight: AtomicUsize,
    /// Seconds after its begin at which the last request ended; 0 for none.
    last_seconds: AtomicUsize,
    begun: Instant,
}

impl Use {
    fn is_old(&self, now: Instant) -> bool {
        now - self.begun >= MAX_AGE
    }

    fn is_idle(&self, now: Instant) -> bool {
        let age = now - self.begun;
        if self.in_flight.load(Relaxed) > 0 {
            return false;
        }
        match self.last_seconds.load(Relaxed) {
            0 => age >= NEVER_USED,
            last => age >= Duration::from_secs(last as u64) + IDLE,
        }
    }

    fn ended(&self, now: Instant) {
        self.in_flight.fetch_sub(1, Relaxed);
        let seconds = usize::try_from((now - self.begun).as_secs()).unwrap_or(usize::MAX);
        self.last_seconds.store(seconds.max(1), Relaxed);
    }
}

/// Serves a connection to its end.
pub async fn serve(stream: TcpStream, shared: Arc<Shared>, stage: watch::Receiver<Stage>) {
    let metrics = shared.webhook.metrics.clone();
    metrics.connected();
    // Answers are small, and somebody waits for each.
    let _ = stream.set_nodelay(true);
    let handshake = shared.acceptor.accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics.handshake_failed();
            tracing::debug!(%error, "a TLS handshake failed (does the caller know our authority?)");
            return;
        }
        Err(_) => {
            metrics.handshake_failed();
            return;
        }
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
    let usage = Arc::new(Use {
        in_flight: AtomicUsize::new(0),
        last_seconds: AtomicUsize::new(0),
        begun: clock::now(),
    });
    let service = service_fn({
        let (usage, stage) = (usage.clone(), stage.clone());
        move |request| {
            let (shared, usage, stage) = (shared.clone(), usage.clone(), stage.clone());
            async move {
                usage.in_flight.fetch_add(1, Relaxed);
                // A request that is cancelled ends too.
                let ends = Ends(usage);
                let mut response = respond(&shared, request).await;
                let is_last = *stage.borrow() > Stage::Serving || ends.0.is_old(clock::now());
                if is_last && !is_http2 {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            }
        }
    });
    let builder = builder(is_http2);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    drive(connection, &usage, is_http2, stage).await;
}

struct Ends(Arc<Use>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ended(clock::now());
    }
}

/// By what the handshake agreed on: nothing has to be guessed from bytes.
fn builder(is_http2: bool) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

async fn drive<S>(
    connection: auto::Connection<
        '_,
        TokioIo<tokio_rustls::server::TlsStream<TcpStream>>,
        S,
        TokioExecutor,
    >,
    usage: &Use,
    is_http2: bool,
    mut stage: watch::Receiver<Stage>,
) where
    S: hyper::service::Service<
            Request<Incoming>,
            Response = Response<Full<Bytes>>,
            Error = Infallible,
        >,
    S::Future: Send + 'static,
{
    let mut connection = std::pin::pin!(connection);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            _ = tick.tick() => {
                let now = clock::now();
                // HTTP/2 can say that it takes no more; HTTP/1 says so in an answer.
                if usage.is_idle(now) || is_http2 && usage.is_old(now) {
                    break;
                }
            }
            // The sender lives as long as the process does.
            _ = stage.wait_for(|stage| *stage == Stage::Ending) => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    // An error now is the other side's haste.
    let _ = tokio::time::timeout(END_TIMEOUT, connection).await;
}

async fn respond(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let refuse = |status: StatusCode, why: String| {
        shared.webhook.metrics.refused();
        tracing::debug!(%status, ?why, "refused a request");
        let mut response = Response::new(Full::from(why + "\n"));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != PATH {
        let why = format!("reviews are posted to {PATH}");
        return refuse(StatusCode::NOT_FOUND, why);
    }
    if request.method() != Method::POST {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "reviews are posted".into());
        let allowed = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, allowed);
        return response;
    }
    let body = match shared.room.read(request.into_body()).await {
        Ok(body) => body,
        Err(error) => return refuse(error.status(), error.to_string()),
    };
    match shared.webhook.admit(&body.bytes).await {
        Ok(answer) => {
            let mut response = Response::new(Full::from(answer));
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_when_idle_or_old_and_not_while_it_works() {
        let begun = clock::now();
        let usage = Use {
            in_flight: AtomicUsize::new(0),
            last_seconds: AtomicUsize::new(0),
            begun,
        };
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(!usage.is_idle(at(19)));
        assert!(usage.is_idle(at(20)));
        usage.in_flight.fetch_add(1, Relaxed);
        assert!(!usage.is_idle(at(100)));
        usage.ended(at(100));
        assert!(!usage.is_idle(at(219)));
        assert!(usage.is_idle(at(220)));
        assert!(!usage.is_old(at(299)));
        assert!(usage.is_old(at(300)));
    }
}
