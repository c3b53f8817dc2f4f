//! An application that tells what reached it, over HTTP/1.1 and HTTP/2 without
//! TLS: for tests of routes.
//!
//! Every request is answered with JSON: `{"version":"v1","pod":"echo-v1","method":"GET",
//! "path":"/a?b","headers":{"host":"echo"},"body_bytes":0}`, headers that came
//! several times joined by `,`; and with the header `x-version`. `x-answer: 503`
//! in the request asks for another status, `x-fail-first: 503` for one in the
//! first attempt alone, `x-delay-ms: 200` for a late answer. A request of gRPC
//! is answered with a status of it: `x-answer`, or OK.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use remora_proto::well_known::header::ATTEMPT;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::server::{self, Answer, json};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 1024;
/// The latest answer.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Requests that `GET /heard` tells of.
const MAX_HEARD: usize = 256;
/// How HTTP/2 begins, as far as it has to be seen.
const PREFACE: &[u8] = b"PRI";

/// The application.
#[derive(Debug)]
pub struct Echo {
    version: String,
    pod: String,
    heard: Mutex<VecDeque<serde_json::Value>>,
}

impl Echo {
    /// One that says it is of this version.
    pub fn new(version: String) -> Arc<Self> {
        Arc::new(Self {
            version,
            pod: std::env::var("HOSTNAME").unwrap_or_default(),
            heard: Mutex::new(VecDeque::new()),
        })
    }

    /// Serves until `stopped` turns true.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = server::until(&mut stopped) => return,
            };
            let (Ok((stream, _)), Ok(place)) =
                (accepted, Arc::clone(&places).acquire_owned().await)
            else {
                continue;
            };
            let echo = Arc::clone(&self);
            tokio::spawn(async move {
                echo.connection(stream).await;
                drop(place);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let mut first = [0; PREFACE.len()];
        // One byte is enough to tell them apart: no method begins with it that is used here.
        let peeked = stream.peek(&mut first).await.unwrap_or(0);
        let is_http2 = peeked > 0 && first[..peeked] == PREFACE[..peeked];
        let service = service_fn(move |request| {
            let echo = Arc::clone(&self);
            async move { Ok::<_, Infallible>(echo.answer(request).await) }
        });
        let io = TokioIo::new(stream);
        // A broken connection is the client's business; there is nobody to tell.
        if is_http2 {
            let builder = http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(io, service).await;
        } else {
            let _ = http1::Builder::new().serve_connection(io, service).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let body_bytes = match body.collect().await {
            Ok(body) => body.to_bytes().len(),
            Err(_) => return json(StatusCode::BAD_REQUEST, r#"{"error":"no body"}"#),
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        if path == "/heard" {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            return json(StatusCode::OK, serde_json::json!(*heard).to_string());
        }
        let mut headers = joined(&head.headers);
        if let Some(host) = head.uri.authority() {
            headers.insert("host".to_owned(), host.to_string());
        }
        let told = serde_json::json!({
            "version": self.version, "pod": self.pod, "method": head.method.as_str(),
            "path": path, "headers": headers, "body_bytes": body_bytes,
        });
        // The kubelet's questions are no news.
        if path != "/healthz" {
            self.remember(told.clone());
        }
        if let Some(ms) = number(&head.headers, "x-delay-ms") {
            tokio::time::sleep(Duration::from_millis(ms.into()).min(MAX_DELAY)).await;
        }
        let is_grpc = head
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let mut answer = if is_grpc {
            grpc(number(&head.headers, "x-answer").unwrap_or(0))
        } else {
            json(status(&head.headers), told.to_string())
        };
        if let Ok(version) = HeaderValue::from_str(&self.version) {
            answer.headers_mut().insert("x-version", version);
        }
        answer
    }

    fn remember(&self, told: serde_json::Value) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() == MAX_HEARD {
            heard.pop_front();
        }
        heard.push_back(told);
    }
}

/// Every name with its values.
fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut joined = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let all = joined.entry(name.to_string());
        all.and_modify(|all| {
            all.push(',');
            all.push_str(&value);
        })
        .or_insert_with(|| value.into_owned());
    }
    joined
}

fn number(headers: &HeaderMap, name: &str) -> Option<u32> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// What the request asks for.
fn status(headers: &HeaderMap) -> StatusCode {
    let is_first = number(headers, ATTEMPT).is_none_or(|attempt| attempt <= 1);
    let first = number(headers, "x-fail-first").filter(|_| is_first);
    let asked = first.or_else(|| number(headers, "x-answer"));
    asked
        .and_then(|asked| u16::try_from(asked).ok())
        .and_then(|asked| StatusCode::from_u16(asked).ok())
        .filter(|asked| asked.as_u16() >= 200)
        .unwrap_or(StatusCode::OK)
}

/// Trailers alone: a head with the status in it.
fn grpc(status: u32) -> Answer {
    let mut answer = Answer::default();
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer.headers_mut().insert("grpc-status", status.into());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_the_first_attempt_fails_where_that_is_asked_for() {
        let asked =
            |attempt| status(&headers(&[("x-fail-first", "503"), (ATTEMPT, attempt)])).as_u16();
        assert_eq!((asked("1"), asked("2")), (503, 200));
        assert_eq!(status(&headers(&[("x-answer", "404")])).as_u16(), 404);
        assert_eq!(status(&headers(&[("x-answer", "100")])).as_u16(), 200);
        assert_eq!(status(&headers(&[("x-answer", "nonsense")])).as_u16(), 200);
    }

    #[test]
    fn a_header_that_came_twice_is_told_whole() {
        let joined = joined(&headers(&[("x-a", "1"), ("x-b", "2"), ("x-a", "3")]));
        assert_eq!(joined["x-a"], "1,3");
        assert_eq!(joined["x-b"], "2");
    }
}
