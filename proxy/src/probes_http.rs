//! One plain GET of the application, as probes make it.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// An answer, and the connection that its body comes on: that ends with this.
#[derive(Debug)]
pub struct Answered {
    /// Its body may not have come yet.
    pub response: Response<Incoming>,
    _sender: http1::SendRequest<Empty<Bytes>>,
    _driving: JoinSet<hyper::Result<()>>,
}

/// Asks for `target`, a path with its query, with these fields and no others.
///
/// # Errors
/// It cannot be asked for, or the connection broke.
pub async fn get(
    stream: TcpStream,
    target: &str,
    fields: HeaderMap,
) -> Result<Answered, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends also where the probe is given up.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let mut request = Request::get(target.parse::<Uri>()?).body(Empty::new())?;
    *request.headers_mut() = fields;
    Ok(Answered {
        response: sender.send_request(request).await?,
        _sender: sender,
        _driving: driving,
    })
}
