//! An HTTP/1.1 server with a health check, switches, and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use remora_proto::well_known::header::CLIENT_IDENTITY;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// What every role answers with.
pub type Answer = Response<Full<Bytes>>;

/// Connections served at a time; further ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long requests under way may take after the signal to stop: well below
/// the 30 s that the kubelet gives.
const GRACE: Duration = Duration::from_secs(10);
/// The slowest that a pod can be made.
const MAX_SLOW_MS: u32 = 60_000;
/// Memory for one connection's request heads.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// What a role does with a request that is neither health check nor switch.
pub trait Handler: Send + Sync + 'static {
    /// Answers it.
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// By these the playground makes a pod slow or broken.
#[derive(Debug, Default)]
pub struct Switches {
    slow_ms: AtomicU32,
    broken: AtomicU16,
}

impl Switches {
    /// How late answers come.
    pub fn delay(&self) -> Option<Duration> {
        match self.slow_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms.into())),
        }
    }

    /// The status of every answer.
    pub fn broken(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.broken.load(Ordering::Relaxed)).ok()
    }

    /// Takes `ms=N`.
    fn set_slow(&self, query: &str) -> Result<(), String> {
        let ms = parameter(query, "ms").filter(|ms| *ms <= MAX_SLOW_MS);
        let ms = ms.ok_or_else(|| format!("say ?ms=N, N from 0 (mend) to {MAX_SLOW_MS}"))?;
        self.slow_ms.store(ms, Ordering::Relaxed);
        Ok(())
    }

    /// Takes `status=N`.
    fn set_broken(&self, query: &str) -> Result<(), String> {
        let status = parameter(query, "status")
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| *status == 0 || (400..600).contains(status))
            .ok_or("say ?status=N, N 0 (mend) or from 400 to 599")?;
        self.broken.store(status, Ordering::Relaxed);
        Ok(())
    }
}

fn parameter(query: &str, name: &str) -> Option<u32> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name)?.1.parse().ok()
}

/// A JSON answer.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    answer
}

/// The answer to what is not served here.
pub fn not_found() -> Answer {
    json(StatusCode::NOT_FOUND, r#"{"error":"no such page"}"#)
}

struct Role<H> {
    name: &'static str,
    pod: String,
    handler: H,
    switches: Option<Arc<Switches>>,
}

/// Serves until `stopped` turns true; then takes no more connections, finishes
/// what is under way, and returns.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    name: &'static str,
    handler: H,
    switches: Option<Arc<Switches>>,
    mut stopped: watch::Receiver<bool>,
) {
    let role = Arc::new(Role {
        name,
        pod: std::env::var("HOSTNAME").unwrap_or_default(),
        handler,
        switches,
    });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = until(&mut stopped) => break,
        };
        let Some((stream, place)) = accepted else {
            continue;
        };
        let (role, stopped) = (Arc::clone(&role), stopped.clone());
        tokio::spawn(async move {
            connection(stream, role, stopped).await;
            drop(place);
        });
    }
    drop(listener);
    let all = places.acquire_many(MAX_CONNECTIONS as u32);
    if tokio::time::timeout(GRACE, all).await.is_err() {
        eprintln!("{name}: ending with requests under way after {GRACE:?}");
    }
}

/// Waits until `stopped` turns true, or nobody is left who could turn it.
pub async fn until(stopped: &mut watch::Receiver<bool>) {
    // What it returns borrows the value, which no task may hold while it waits.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            // Out of file descriptors, or a connection gone while it waited.
            eprintln!("accepting a connection: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn connection<H: Handler>(
    stream: TcpStream,
    role: Arc<Role<H>>,
    mut stopped: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let role = Arc::clone(&role);
        async move { Ok::<_, Infallible>(respond(&role, request).await) }
    });
    let connection = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A broken connection is the client's business; there is nobody to tell.
    tokio::select! {
        _ = &mut connection => {}
        () = until(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn respond<H: Handler>(role: &Role<H>, request: Request<Incoming>) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    match (request.method(), request.uri().path(), &role.switches) {
        (&Method::GET, "/healthz", _) => {
            return json(
                StatusCode::OK,
                health(role.name, &role.pod, request.headers()),
            );
        }
        (&Method::POST, "/slow", Some(switches)) => return switched(switches.set_slow(query)),
        (&Method::POST, "/break", Some(switches)) => return switched(switches.set_broken(query)),
        _ => {}
    }
    if let Some(switches) = &role.switches {
        if let Some(delay) = switches.delay() {
            tokio::time::sleep(delay).await;
        }
        if let Some(status) = switches.broken() {
            return json(status, r#"{"error":"broken on request"}"#);
        }
    }
    role.handler.handle(request).await
}

/// Who answers, and who asked, where a mesh says so.
fn health(role: &str, pod: &str, headers: &HeaderMap) -> String {
    let caller = headers.get(CLIENT_IDENTITY);
    match caller.map(|caller| String::from_utf8_lossy(caller.as_bytes())) {
        Some(caller) => serde_json::json!({"role": role, "pod": pod, "caller": caller}),
        None => serde_json::json!({"role": role, "pod": pod}),
    }
    .to_string()
}

fn switched(result: Result<(), String>) -> Answer {
    match result {
        Ok(()) => json(StatusCode::OK, r#"{"ok":true}"#),
        Err(error) => json(
            StatusCode::BAD_REQUEST,
            serde_json::json!({"error": error}).to_string(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_take_what_they_say_and_refuse_the_rest() {
        let switches = Switches::default();
        assert!(switches.delay().is_none() && switches.broken().is_none());
        switches.set_slow("ms=250").unwrap();
        assert_eq!(switches.delay(), Some(Duration::from_millis(250)));
        switches.set_broken("x=1&status=503").unwrap();
        assert_eq!(switches.broken(), Some(StatusCode::SERVICE_UNAVAILABLE));
        for query in ["", "ms=", "ms=-1", "ms=60001"] {
            assert!(switches.set_slow(query).is_err(), "{query}");
        }
        for query in ["", "status=200", "status=600", "status=65536"] {
            assert!(switches.set_broken(query).is_err(), "{query}");
        }
        assert_eq!(switches.broken(), Some(StatusCode::SERVICE_UNAVAILABLE));
        switches.set_slow("ms=0").unwrap();
        switches.set_broken("status=0").unwrap();
        assert!(switches.delay().is_none() && switches.broken().is_none());
    }
}
