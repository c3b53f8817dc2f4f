//! HTTP/1.1 calls to one upstream over a small pool of connections.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::dial::{self, Dialer};

/// Idle connections that are kept; more are closed after their answer.
const MAX_IDLE: usize = 64;
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Memory for one connection's response heads.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection ended or broke HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The answer's body could not be read.
    #[error("answer cut short or too long: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The path is none.
    #[error("bad request: {0}")]
    Request(#[from] http::Error),
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: Cow<'static, str>,
    /// Headers besides those that every request has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: &'static str,
}

impl Call {
    /// A GET.
    pub fn get(path: &'static str) -> Self {
        Call {
            method: Method::GET,
            path: Cow::Borrowed(path),
            headers: Vec::new(),
            body: "",
        }
    }

    /// A POST of a JSON body.
    pub fn post(path: &'static str, body: &'static str) -> Self {
        Call {
            method: Method::POST,
            path: Cow::Borrowed(path),
            headers: Vec::new(),
            body,
        }
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// `x-remora-reason`, where the mesh answered.
    pub reason: Option<String>,
    /// All of its headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

type Sender = SendRequest<Full<Bytes>>;

/// Calls one upstream.
#[derive(Debug)]
pub struct Client {
    dialer: Dialer,
    authority: Authority,
    host: HeaderValue,
    idle: Mutex<Vec<Sender>>,
    resent: AtomicU64,
}

impl Client {
    /// Calls `authority`, which is `host:port`; nothing is connected yet.
    ///
    /// # Errors
    /// When it is something else.
    pub fn new(dialer: Dialer, authority: &str) -> anyhow::Result<Self> {
        let authority = dial::authority(authority)?;
        Ok(Client {
            host: HeaderValue::from_str(authority.as_str())?,
            dialer,
            authority,
            idle: Mutex::new(Vec::new()),
            resent: AtomicU64::new(0),
        })
    }

    /// How many requests were sent again because a kept connection had closed.
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// When there is no answer; an answer of any status is none.
    pub async fn call(&self, call: &Call, timeout: Duration) -> Result<Answer, CallError> {
        tokio::time::timeout(timeout, self.exchange(call))
            .await
            .unwrap_or(Err(CallError::Timeout(timeout)))
    }

    /// One exchange. As the common HTTP clients do (net/http of Go, for one),
    /// a request on a *kept* connection that ends without a byte of an answer
    /// goes again on another: always where nothing of it was written, else
    /// only where it is idempotent. Each turn uses up a kept connection, so
    /// the turns end.
    async fn exchange(&self, call: &Call) -> Result<Answer, CallError> {
        loop {
            let kept = self.kept();
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            if let Err(error) = sender.ready().await {
                if is_kept {
                    continue;
                }
                return Err(error.into());
            }
            match sender.try_send_request(self.request(call)?).await {
                Ok(response) => return self.read(response, sender).await,
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    let error = error.into_error();
                    let ended = error.is_incomplete_message() || is_io(&error);
                    let again = unsent || (ended && call.method.is_idempotent());
                    if !is_kept || !again {
                        return Err(error.into());
                    }
                    self.resent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    async fn read(
        &self,
        response: http::Response<Incoming>,
        sender: Sender,
    ) -> Result<Answer, CallError> {
        let (head, body) = response.into_parts();
        let reason = head.headers.get("x-remora-reason");
        let reason = reason.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let body = Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(CallError::Body)?;
        if !sender.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IDLE {
                idle.push(sender);
            }
        }
        Ok(Answer {
            status: head.status,
            reason,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    /// The connection that was used last, so that the others can grow old.
    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Sender, CallError> {
        let stream = self.dialer.http(&self.authority).await;
        let stream = stream.map_err(CallError::Connect)?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        // Its error also reaches the request that is under way.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, http::Error> {
        let uri = if self.dialer.is_proxied() {
            format!("http://{}{}", self.authority, call.path).parse()
        } else {
            http::Uri::try_from(&*call.path)
        };
        let mut request = Request::builder()
            .method(&call.method)
            .uri(uri?)
            .header(header::HOST, &self.host);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if !call.body.is_empty() {
            let json = HeaderValue::from_static("application/json");
            request = request.header(header::CONTENT_TYPE, json);
        }
        request.body(Full::new(Bytes::from_static(call.body.as_bytes())))
    }
}

fn is_io(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<io::Error>())
}
