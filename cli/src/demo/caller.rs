//! Requests from inside a pod, and what came back:
//!
//! ```sh
//! kubectl exec -n shop deploy/web -c web -- remora demo caller --url http://catalog:8080/products
//! {"status":200,"headers":{"content-type":"application/json"},"body":"..."}
//! ```
//!
//! `--method`, `--header 'name: value'` and `--body-bytes` shape the request;
//! with `--grpc` it is one of gRPC without a message. With `--count 1000` so many
//! are sent one after the other, and what came back is counted by status, version
//! (`x-version`) and reason (`x-remora-reason`): `{"200 v1":899,"200 v2":100,"500 no_backend":1}`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;

use super::dial::{self, Dialer};

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// The longest body that is sent.
const MAX_BODY_BYTES: u32 = 16 * 1024 * 1024;
/// How long the whole may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Ask {
    /// What the caller asks for (http://host:port/path)
    #[arg(long, env = "URL", required_if_eq("role", "caller"))]
    pub url: Option<String>,
    /// The caller's method
    #[arg(long, default_value = "GET")]
    pub method: Method,
    /// A header of the caller's request (`name: value`); may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Bytes in the caller's body
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_BODY_BYTES)))]
    pub body_bytes: u32,
    /// The caller speaks gRPC
    #[arg(long)]
    pub grpc: bool,
    /// How many requests the caller sends
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
}

/// Reads `name: value`.
fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?} is not name: value"))?;
    let name = name.trim().parse();
    let value = HeaderValue::from_str(value.trim());
    match (name, value) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(format!("{text:?} cannot be a header")),
    }
}

/// What came back.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, and after them the trailers; of those that came twice, the last.
    pub headers: BTreeMap<String, String>,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// What it is counted as: its status, and whose it is.
    fn kind(&self) -> String {
        let words = ["grpc-status", "x-version", "x-remora-reason"];
        let words = words.iter().filter_map(|name| self.headers.get(*name));
        let words = words.map(|word| format!(" {word}"));
        format!("{}{}", self.status, words.collect::<String>())
    }
}

/// Asks, and prints what came back.
///
/// # Errors
/// When there is no answer to a single request; of several, those are counted too.
pub async fn run(dialer: &Dialer, ask: &Ask) -> anyhow::Result<()> {
    if ask.count == 1 {
        let answer = Connection::open(dialer, ask).await?.call(ask).await?;
        println!("{}", serde_json::to_string(&answer)?);
        return Ok(());
    }
    let mut counts = BTreeMap::<String, u32>::new();
    let mut connection = None;
    for _ in 0..ask.count {
        let answered = match &mut connection {
            Some(connection) => Connection::call(connection, ask).await,
            none => match Connection::open(dialer, ask).await {
                Ok(open) => none.insert(open).call(ask).await,
                Err(error) => Err(error),
            },
        };
        let kind = match answered {
            Ok(answer) => answer.kind(),
            Err(_) => {
                connection = None;
                "no answer".to_owned()
            }
        };
        *counts.entry(kind).or_default() += 1;
        if connection.as_ref().is_some_and(Connection::is_over) {
            connection = None;
        }
    }
    println!("{}", serde_json::to_string(&counts)?);
    Ok(())
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

struct Connection {
    sender: Sender,
    target: Uri,
    host: HeaderValue,
}

impl Connection {
    async fn open(dialer: &Dialer, ask: &Ask) -> anyhow::Result<Self> {
        let url = ask.url.as_deref().unwrap_or_default();
        let url: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        if url.scheme_str() != Some("http") {
            bail!("{url} does not begin with http://");
        }
        let named = url.authority().context("the URL names no host")?;
        let host = named.as_str().to_owned();
        let with_port = match named.port() {
            Some(_) => host.clone(),
            None => format!("{host}:80"),
        };
        let to = dial::authority(&with_port)?;
        let stream = dialer
            .http(&to)
            .await
            .with_context(|| format!("no connection to {to}"))?;
        let io = TokioIo::new(stream);
        let sender = if ask.grpc {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        let target = if dialer.is_proxied() || ask.grpc {
            url
        } else {
            url.path_and_query()
                .map_or("/", |path| path.as_str())
                .parse()?
        };
        Ok(Self {
            sender,
            target,
            host: HeaderValue::from_str(&host)?,
        })
    }

    /// Whether the other side has closed it.
    fn is_over(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    async fn call(&mut self, ask: &Ask) -> anyhow::Result<Answer> {
        let exchange = tokio::time::timeout(PATIENCE, self.exchange(ask));
        exchange
            .await
            .with_context(|| format!("no answer within {PATIENCE:?}"))?
    }

    async fn exchange(&mut self, ask: &Ask) -> anyhow::Result<Answer> {
        let request = self.request(ask)?;
        let answer: http::Response<Incoming> = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer's body: {error}"))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let mut headers = BTreeMap::new();
        for (name, value) in head.headers.iter().chain(&trailers) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.insert(name.to_string(), value);
        }
        Ok(Answer {
            status: head.status.as_u16(),
            headers,
            body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        })
    }

    fn request(&self, ask: &Ask) -> anyhow::Result<Request<Full<Bytes>>> {
        let body = vec![b'x'; usize::try_from(ask.body_bytes).unwrap_or_default()];
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.uri_mut() = self.target.clone();
        request.method_mut().clone_from(&ask.method);
        let headers: &mut HeaderMap = request.headers_mut();
        if ask.grpc {
            *request.method_mut() = Method::POST;
            let kind = HeaderValue::from_static("application/grpc");
            let headers = request.headers_mut();
            headers.insert(header::CONTENT_TYPE, kind);
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.insert(header::HOST, self.host.clone());
        }
        for (name, value) in &ask.headers {
            if name == header::HOST {
                request.headers_mut().insert(name, value.clone());
            } else {
                request.headers_mut().append(name, value.clone());
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_what_is_none_is_refused() {
        let (name, value) = parse_header("X-Canary:  yes ").unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap()),
            ("x-canary", "yes")
        );
        assert!(parse_header("no colon").is_err() && parse_header("a b: c").is_err());
    }

    #[test]
    fn an_answer_is_counted_by_who_gave_it() {
        let answer = |status, headers: &[(&str, &str)]| Answer {
            status,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: String::new(),
        };
        assert_eq!(answer(200, &[("x-version", "v1")]).kind(), "200 v1");
        let refused = answer(500, &[("x-remora-reason", "no_backend")]);
        assert_eq!(refused.kind(), "500 no_backend");
        let grpc = answer(200, &[("grpc-status", "14")]);
        assert_eq!(grpc.kind(), "200 14");
    }
}
