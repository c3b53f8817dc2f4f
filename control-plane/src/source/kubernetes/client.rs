//! The connection to the API server: by what the environment says of it, with
//! timeouts, so that a server which is gone without a word is noticed.
//!
//! It is put together here, of kube's own parts, because kube's default retries
//! by itself for many minutes (what watches must know, they would not hear),
//! logs each failure, and finds a dead connection only by the watch's end.

use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::Config;
use kube::client::{ClientBuilder, ConfigExt};
use tower::{BoxError, ServiceBuilder};

/// How long connecting to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long until an answer must begin (a list and a watch go on after that).
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be silent before its other end is asked.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How often it is asked then.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How often it may not answer.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long what was sent may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that are kept though nothing uses them, and for how long.
const MAX_IDLE_CONNECTIONS: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How Remora names itself to the API server.
const AGENT: &str = concat!("remora-control-plane/", env!("CARGO_PKG_VERSION"));

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says where the API server is.
    #[error(
        "nothing says how to reach an API server: {0} (outside of a cluster set KUBECONFIG; inside, does the pod mount its service account's token?)"
    )]
    Infer(#[from] kube::config::InferConfigError),
    /// What says so cannot be used.
    #[error(
        "the configuration for the API server cannot be used: {0} (are its certificates, keys and tokens there, and in PEM?)"
    )]
    Unusable(#[from] kube::Error),
}

/// A client by KUBECONFIG, `~/.kube/config`, or of the cluster in which this
/// process runs; in this order.
///
/// # Errors
/// When none of them is there, or the one that is cannot be used.
pub async fn infer() -> Result<kube::Client, Error> {
    // kube reads certificates by rustls' default provider; ours is aws-lc-rs.
    // That there is one already is no error.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = Config::infer().await?;
    tracing::info!(server = %config.cluster_url, "the cluster's API server");
    Ok(client(config)?)
}

fn client(mut config: Config) -> Result<kube::Client, kube::Error> {
    if let Some(proxy) = &config.proxy_url {
        tracing::warn!(%proxy, "the API server is spoken to directly: a proxy to it is not used");
    }
    config
        .headers
        .push((USER_AGENT, HeaderValue::from_static(AGENT)));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let client = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .timeout(RESPONSE_TIMEOUT)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn requests_say_who_sends_them_and_failures_are_not_hidden() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let client = client(Config::new(server.parse().unwrap())).unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&request[..length]).to_lowercase()
        });
        let started = crate::clock::now();
        client.apiserver_version().await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(2));
        let request = asked.await.unwrap();
        assert!(
            request.contains(&format!("user-agent: {AGENT}\r\n")),
            "{request}"
        );
    }
}
