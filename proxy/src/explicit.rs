//! Explicit mode: the outbound listener is a plain HTTP/1.1 proxy. The host of
//! each request names the service; `CONNECT host:port` opens a raw connection.
//!
//! For where nothing can be intercepted (the playground on loopback addresses).

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::{self, Reason};
use crate::body::Incoming;
use crate::body::response::ResponseBody;
use crate::caller::Caller;
use crate::clock;
use crate::http1::server;
use crate::io::Prefixed;
use crate::pipeline::{self, Call};
use crate::state::{Destination, Resolution, Service};
use crate::tcp;
use crate::worker::Worker;

/// A CONNECT head is small.
const CONNECT_HEAD_BYTES: usize = 8 * 1024;
/// So long its sender may take.
const CONNECT_HEAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Serves one connection of the pod until it ends.
pub async fn serve(worker: &Rc<Worker>, mut stream: TcpStream, peer: SocketAddr) {
    let mut seen = Vec::new();
    let reading = read_connect(&mut stream, &mut seen);
    match tokio::time::timeout(CONNECT_HEAD_TIMEOUT, reading).await {
        Ok(Some(Connect { authority, rest })) => {
            connect(worker, stream, peer, &authority, rest).await
        }
        _ => http(worker, Prefixed::new(seen.into(), stream), peer).await,
    }
}

struct Connect {
    authority: String,
    /// What came after the head.
    rest: Bytes,
}

/// Reads as long as it may be a CONNECT; `None` leaves what was read in `seen`.
async fn read_connect(stream: &mut TcpStream, seen: &mut Vec<u8>) -> Option<Connect> {
    const METHOD: &[u8] = b"CONNECT ";
    loop {
        let shared = seen.len().min(METHOD.len());
        if seen[..shared] != METHOD[..shared] || seen.len() > CONNECT_HEAD_BYTES {
            return None;
        }
        if shared == METHOD.len() {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut fields);
            match request.parse(seen) {
                Ok(httparse::Status::Complete(length)) => {
                    let authority = request.path?.to_owned();
                    return Some(Connect {
                        authority,
                        rest: Bytes::copy_from_slice(&seen[length..]),
                    });
                }
                Ok(httparse::Status::Partial) => {}
                Err(_) => return None,
            }
        }
        if stream.read_buf(seen).await.ok()? == 0 {
            return None;
        }
    }
}

async fn connect(
    worker: &Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    authority: &str,
    rest: Bytes,
) {
    let (answer, found) = match find(worker, authority).await {
        Ok((service, address, Some(port))) => (
            "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
            Some((service, Destination { address, port })),
        ),
        Ok((_, _, None)) => (
            plain_refusal(
                "400 Bad Request",
                Reason::BadRequest,
                "CONNECT needs host:port",
            ),
            None,
        ),
        Err(detail) => (
            plain_refusal("503 Service Unavailable", Reason::NoEndpoints, &detail),
            None,
        ),
    };
    if stream.write_all(answer.as_bytes()).await.is_err() {
        return;
    }
    if let Some((service, destination)) = found {
        tcp::outbound(worker, stream, rest, peer, &service, destination).await;
    }
}

fn plain_refusal(status: &str, reason: Reason, detail: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nx-remora-reason: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{detail}\n",
        reason.word(),
        detail.len() + 1
    )
}

async fn http(worker: &Rc<Worker>, stream: Prefixed, peer: SocketAddr) {
    server::serve(worker, stream, peer, |request, caller| {
        one(Rc::clone(worker), caller, peer, request)
    })
    .await;
}

async fn one(
    worker: Rc<Worker>,
    caller: Caller,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let authority = match request.uri().authority() {
        Some(authority) => Some(authority.as_str().to_owned()),
        None => request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .map(str::to_owned),
    };
    let Some(authority) = authority else {
        caller.state.end(clock::now());
        return answer::refuse(Reason::BadRequest, "the request names no host".to_owned(), false);
    };
    let is_grpc = crate::grpc::is_call(request.headers());
    match find(&worker, &authority).await {
        Ok((service, address, port)) => {
            to_origin_form(&mut request, &authority);
            let port = port.unwrap_or(80);
            let destination = Destination { address, port };
            pipeline::outbound(
                Call {
                    worker,
                    caller,
                    service,
                    destination,
                    peer,
                },
                request,
            )
            .await
        }
        Err(detail) => {
            caller.state.end(clock::now());
            answer::refuse(Reason::NoEndpoints, detail, is_grpc)
        }
    }
}

/// The application gets origin form, and the host of the target as `Host`
/// (RFC 9112, section 3.2.2).
fn to_origin_form(request: &mut Request<Incoming>, authority: &str) {
    if request.uri().authority().is_none() || request.version() == http::Version::HTTP_2 {
        return;
    }
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    if let Ok(host) = HeaderValue::from_str(authority) {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// `name`, `name.namespace`, and both with the cluster's suffix. Any other name
/// may begin like a service, but belongs to somebody else.
fn service_of(host: &str) -> Option<(&str, Option<&str>)> {
    let (name, rest) = match host.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (host, None),
    };
    let Some(rest) = rest else {
        return Some((name, None));
    };
    let (namespace, suffix) = rest.split_once('.').unwrap_or((rest, ""));
    matches!(suffix, "" | "svc" | "svc.cluster.local").then_some((name, Some(namespace)))
}

/// The service that a host names: `catalog`, `catalog.shop`,
/// `catalog.shop.svc.cluster.local`, or a pod's address; without case, and with
/// or without a trailing dot.
async fn find(
    worker: &Rc<Worker>,
    authority: &str,
) -> Result<(Arc<Service>, Option<IpAddr>, Option<u16>), String> {
    let parsed: http::uri::Authority = authority
        .parse()
        .map_err(|_| format!("{authority:?} is no host"))?;
    let port = parsed.port_u16();
    let host = parsed
        .host()
        .trim_matches(['[', ']'])
        .trim_end_matches('.')
        .to_ascii_lowercase();
    let now = clock::now();
    let mesh = &worker.shared.mesh;
    let address: Option<IpAddr> = host.parse().ok();
    let resolution = match address {
        Some(address) => mesh.resolve_address(address, now).await,
        None => {
            let Some((name, namespace)) = service_of(&host) else {
                return Err(format!("{host} is no service of the mesh"));
            };
            let namespace = namespace.unwrap_or(&worker.shared.config.namespace);
            mesh.resolve_name(&format!("{namespace}/{name}"), now).await
        }
    };
    match resolution {
        Resolution::Service(service) => Ok((service, address, port)),
        Resolution::Unknown => Err(format!(
            "{host} is no service of the mesh; check its name and namespace"
        )),
        Resolution::NoAnswer => Err(format!(
            "the control plane gave no answer about {host}; check that it runs"
        )),
    }
}
