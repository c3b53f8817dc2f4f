//! One GET from inside a pod, and what came back:
//!
//! ```sh
//! kubectl exec -n shop deploy/web -c web -- remora demo caller --url http://catalog:8080/products
//! {"status":200,"headers":{"content-type":"application/json"},"body":"..."}
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;

use super::dial::{self, Dialer};

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How long the whole may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers; of those that came twice, the last.
    pub headers: BTreeMap<String, String>,
    /// The body, as text.
    pub body: String,
}

/// Asks for `url`.
///
/// # Errors
/// When there is no answer.
pub async fn call(dialer: &Dialer, url: &str) -> anyhow::Result<Answer> {
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
    let stream = dialer.http(&to).await.with_context(|| format!("no connection to {to}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let target = if dialer.is_proxied() {
        url.to_string()
    } else {
        url.path_and_query().map_or("/", |path| path.as_str()).to_owned()
    };
    let request = Request::get(target).header(header::HOST, host).body(Empty::<Bytes>::new())?;
    let answered = tokio::time::timeout(PATIENCE, async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer's body: {error}"))?;
        anyhow::Ok((head, body.to_bytes()))
    });
    let (head, body) = answered.await.with_context(|| format!("no answer within {PATIENCE:?}"))??;
    let headers = head.headers.iter().map(|(name, value)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    Ok(Answer {
        status: head.status.as_u16(),
        headers: headers.collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
