//! An HTTP/1.1 server with a health check, switches, a tally, and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use remora_proto::well_known::header::CLIENT_IDENTITY;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::door::Door;
use super::tally::Tally;
use super::trouble::Switches;

/// What every role answers with.
pub type Answer = Response<Full<Bytes>>;

/// Connections served at a time; further ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long requests under way may take after the signal to stop: well below
/// the 30 s that the kubelet gives.
const GRACE: Duration = Duration::from_secs(10);
/// Memory for one connection's request heads.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// What a role does with a request that is neither health check nor switch.
pub trait Handler: Send + Sync + 'static {
    /// Answers it.
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// A JSON answer.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    answer
}

/// The pod's name, as answers carry it.
static POD: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    HeaderValue::from_str(&name).ok()
});

/// The answer to what is not served here.
pub fn not_found() -> Answer {
    json(StatusCode::NOT_FOUND, r#"{"error":"no such page"}"#)
}

/// The header of every answer that names the pod.
const POD_NAME: HeaderName = HeaderName::from_static("x-pod");

struct Role<H> {
    name: &'static str,
    pod: String,
    handler: H,
    switches: Option<Arc<Switches>>,
    tally: Arc<Tally>,
}

/// Serves until `stopped` turns true; then takes no more connections, finishes
/// what is under way, and returns.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    name: &'static str,
    handler: H,
    switches: Option<Arc<Switches>>,
    stopped: watch::Receiver<bool>,
) {
    let door = Door::new(listener, switches.clone());
    serve_with(door, name, handler, switches, Arc::default(), stopped).await;
}

/// As [`serve`], at a door, and with a tally, of one's own.
pub async fn serve_with<H: Handler>(
    mut door: Door,
    name: &'static str,
    handler: H,
    switches: Option<Arc<Switches>>,
    tally: Arc<Tally>,
    mut stopped: watch::Receiver<bool>,
) {
    let role = Arc::new(Role {
        name,
        pod: std::env::var("HOSTNAME").unwrap_or_default(),
        handler,
        switches,
        tally,
    });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&mut door, &places) => accepted,
            () = until(&mut stopped) => break,
        };
        let Some((stream, place)) = accepted else {
            continue;
        };
        let (role, stopped, cut) = (Arc::clone(&role), stopped.clone(), door.cut());
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, role, stopped) => {}
                () = cut => {}
            }
            drop(place);
        });
    }
    drop(door);
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
    door: &mut Door,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match door.accept().await {
        Ok(stream) => Some((stream, place)),
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
    let mut answer = answer(role, request).await;
    if let Some(pod) = POD.as_ref() {
        answer.headers_mut().insert(POD_NAME, pod.clone());
    }
    answer
}

async fn answer<H: Handler>(role: &Role<H>, request: Request<Incoming>) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    let (method, path) = (request.method(), request.uri().path());
    match (method, path, &role.switches) {
        (&Method::GET, "/healthz", _) => {
            return json(
                StatusCode::OK,
                health(role.name, &role.pod, request.headers()),
            );
        }
        (&Method::GET, "/well", Some(switches)) => {
            return json(switches.health(), r#"{"asked":"how it is"}"#);
        }
        (&Method::GET | &Method::POST, "/tally", Some(_)) => {
            return json(StatusCode::OK, role.tally.told(method == Method::POST));
        }
        (&Method::POST, path, Some(switches)) => {
            if let Some(told) = switches.obey(path, query) {
                return switched(told);
            }
        }
        _ => {}
    }
    let _here = role.tally.request(request.headers());
    if let Some(switches) = &role.switches {
        switches.serve().await;
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
