//! One probe: asks an application whether it is well, plainly and on a connection
//! of its own.

use std::fmt::Display;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use tokio::net::TcpStream;

use crate::policy::config::health::{HttpProbe, Probe};
use crate::{probes_grpc, probes_http, socket};

/// So much of an answer's body is looked at.
const BODY_BYTES: usize = 64 * 1024;

/// Asks once.
///
/// # Errors
/// It is not well, in words.
pub async fn ask(probe: &Probe, address: SocketAddr, mark: Option<u32>) -> Result<(), String> {
    let stream = socket::connect(address, mark)
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Grpc(service) => match probes_grpc::check(stream, service).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("not SERVING".to_owned()),
            Err(error) => Err(format!("{address}: {error}")),
        },
        Probe::Http(probe) => ask_http(stream, address, probe).await,
    }
}

async fn ask_http(stream: TcpStream, address: SocketAddr, probe: &HttpProbe) -> Result<(), String> {
    let broke = |error: &dyn Display| format!("{address}: {error}");
    let host = HeaderValue::try_from(address.to_string()).map_err(|error| broke(&error))?;
    let agent = HeaderValue::from_static("remora-probe");
    let fields = HeaderMap::from_iter([(header::HOST, host), (header::USER_AGENT, agent)]);
    let mut answered = probes_http::get(stream, &probe.path, fields)
        .await
        .map_err(|error| broke(&error))?;
    let response = &mut answered.response;
    let status = response.status().as_u16();
    let expected = &probe.expected_statuses;
    let is_expected = match expected.as_slice() {
        [] => (200..=299).contains(&status),
        ranges => ranges.iter().any(|range| range.contains(&status)),
    };
    if !is_expected {
        return Err(format!("status {status}"));
    }
    if probe.expected_body.is_empty() {
        return Ok(());
    }
    let body = beginning(response.body_mut()).await?;
    if memchr::memmem::find(&body, probe.expected_body.as_bytes()).is_some() {
        return Ok(());
    }
    let looked = body.len();
    Err(format!(
        "expectedBody is not in the first {looked} bytes of the body"
    ))
}

/// What comes beyond it is not read.
async fn beginning(body: &mut hyper::body::Incoming) -> Result<Vec<u8>, String> {
    let mut seen = Vec::new();
    while seen.len() < BODY_BYTES
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| format!("the body broke off: {error}"))?;
        if let Some(data) = frame.data_ref() {
            let room = BODY_BYTES - seen.len();
            seen.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(seen)
}
