//! How the demo makes a connection: to the name itself, or to a proxy.

use std::io;
use std::time::Duration;

use anyhow::ensure;
use http::uri::Authority;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::names::Names;

/// How long connecting may take, and the proxy's answer to CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest head that an answer to CONNECT may have.
const MAX_HEAD_BYTES: u64 = 8 * 1024;

/// Knows whether there is a proxy.
#[derive(Debug, Clone)]
pub struct Dialer {
    proxy: Option<Authority>,
    names: Names,
}

/// Reads `host:port`.
///
/// # Errors
/// When it is something else.
pub fn authority(text: &str) -> anyhow::Result<Authority> {
    let parsed = text.parse::<Authority>();
    ensure!(
        parsed
            .as_ref()
            .is_ok_and(|authority| authority.port_u16().is_some()),
        "`{text}` is not host:port"
    );
    Ok(parsed?)
}

impl Dialer {
    /// `proxy` is `http://host:port`, `host:port`, or empty for none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn new(proxy: &str) -> anyhow::Result<Self> {
        let address = proxy.strip_prefix("http://").unwrap_or(proxy);
        let address = address.strip_suffix('/').unwrap_or(address);
        let proxy = match address {
            "" => None,
            address => Some(authority(address).map_err(|e| e.context("HTTP_PROXY"))?),
        };
        Ok(Dialer {
            proxy,
            names: Names::default(),
        })
    }

    /// Whether requests must name their host in absolute form.
    pub fn is_proxied(&self) -> bool {
        self.proxy.is_some()
    }

    /// A connection for HTTP requests to `to`.
    ///
    /// # Errors
    /// When it cannot be had in time.
    pub async fn http(&self, to: &Authority) -> io::Result<TcpStream> {
        let to = self.proxy.as_ref().unwrap_or(to);
        let addresses = self.names.look_up(to.as_str()).await?;
        let stream = in_time(TcpStream::connect(&*addresses)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A connection for anything to `to`, through CONNECT where there is a
    /// proxy.
    ///
    /// # Errors
    /// When it cannot be had in time, or the proxy refuses.
    pub async fn tcp(&self, to: &Authority) -> io::Result<BufReader<TcpStream>> {
        let mut stream = BufReader::new(self.http(to).await?);
        if self.proxy.is_some() {
            in_time(connect(&mut stream, to)).await?;
        }
        Ok(stream)
    }
}

/// The client's half of CONNECT (RFC 9110, 9.3.6).
async fn connect(stream: &mut BufReader<TcpStream>, to: &Authority) -> io::Result<()> {
    let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = stream.take(MAX_HEAD_BYTES);
    let mut status = String::new();
    head.read_line(&mut status).await?;
    let mut line = String::new();
    while head.read_line(&mut line).await? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    if status.split(' ').nth(1) == Some("200") && !line.is_empty() {
        return Ok(());
    }
    let status = status.trim();
    Err(io::Error::other(format!("CONNECT {to}: `{status}`")))
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(CONNECT_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn proxies_are_read_with_and_without_their_scheme() {
        for text in [
            "http://127.0.0.1:15101",
            "http://127.0.0.1:15101/",
            "127.0.0.1:15101",
        ] {
            let proxy = Dialer::new(text).unwrap().proxy.unwrap();
            assert_eq!(proxy.as_str(), "127.0.0.1:15101");
        }
        assert!(!Dialer::new("").unwrap().is_proxied());
        for text in ["https://proxy:1", "proxy", "http://proxy/path"] {
            assert!(Dialer::new(text).is_err(), "{text}");
        }
    }

    async fn scripted(answer: &'static str) -> io::Result<String> {
        let proxy = TcpListener::bind("127.0.0.1:0").await?;
        let dialer = Dialer::new(&proxy.local_addr()?.to_string()).unwrap();
        let serve = async {
            let (stream, _) = proxy.accept().await?;
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            assert_eq!(line, "CONNECT inventory:7000 HTTP/1.1\r\n");
            stream.write_all(answer.as_bytes()).await
        };
        let to = authority("inventory:7000").unwrap();
        let ask = async {
            let mut line = String::new();
            dialer.tcp(&to).await?.read_line(&mut line).await?;
            Ok(line)
        };
        tokio::join!(serve, ask).1
    }

    #[tokio::test]
    async fn what_follows_the_answer_to_connect_is_the_servers() {
        let answer = "HTTP/1.1 200 OK\r\nx: y\r\n\r\nhello\n";
        assert_eq!(scripted(answer).await.unwrap(), "hello\n");
    }

    #[tokio::test]
    async fn a_refused_connect_is_an_error_with_its_status() {
        let refusal = "HTTP/1.1 503 Service Unavailable\r\n\r\n";
        let error = scripted(refusal).await.unwrap_err().to_string();
        assert!(error.contains("503"), "{error}");
        assert!(scripted("HTTP/1.1 200 OK\r\n").await.is_err(), "cut short");
    }
}
