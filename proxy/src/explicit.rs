//! Explicit mode: the outbound listener is a proxy for HTTP/1 and HTTP/2. The host
//! of each request names the service; `CONNECT host:port` in HTTP/1, as the first
//! request of its connection, opens a raw connection.
//!
//! For where nothing can be intercepted (the playground on loopback addresses).

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, Uri, Version, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::{self, Reason};
use crate::body::Incoming;
use crate::body::response::ResponseBody;
use crate::caller::Caller;
use crate::clock;
use crate::detect::{self, Verdict};
use crate::engine::{self, Spoken};
use crate::grpc;
use crate::http1::parse;
use crate::http1::scan::HeadScan;
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
    let reading = read_first(&mut stream, &mut seen);
    match tokio::time::timeout(CONNECT_HEAD_TIMEOUT, reading).await {
        Ok(First::Connect(Connect { authority, rest })) => {
            connect(worker, stream, peer, &authority, rest).await;
        }
        Ok(First::Http2) => {
            http(
                worker,
                Spoken::Http2,
                Prefixed::new(seen.into(), stream),
                peer,
            )
            .await;
        }
        Ok(First::Other) | Err(_) => {
            http(
                worker,
                Spoken::Http1,
                Prefixed::new(seen.into(), stream),
                peer,
            )
            .await;
        }
    }
}

/// What a connection begins with.
enum First {
    Connect(Connect),
    Http2,
    Other,
}

struct Connect {
    authority: String,
    /// What came after the head.
    rest: Bytes,
}

/// Reads as long as it may be a CONNECT or HTTP/2's preface; what was read is
/// left in `seen`.
async fn read_first(stream: &mut TcpStream, seen: &mut Vec<u8>) -> First {
    while detect::judge(seen) == Verdict::Undecided && (seen.is_empty() || seen[0] == b'P') {
        if !matches!(stream.read_buf(seen).await, Ok(1..)) {
            return First::Other;
        }
    }
    if detect::judge(seen) == Verdict::Http2 {
        return First::Http2;
    }
    match read_connect(stream, seen).await {
        Some(connect) => First::Connect(connect),
        None => First::Other,
    }
}

/// A head that is not well-formed is left to the engine, which refuses it.
async fn read_connect(stream: &mut TcpStream, seen: &mut Vec<u8>) -> Option<Connect> {
    const METHOD: &[u8] = b"CONNECT ";
    let mut scan = HeadScan::default();
    loop {
        let shared = seen.len().min(METHOD.len());
        if seen[..shared] != METHOD[..shared] || seen.len() > CONNECT_HEAD_BYTES {
            return None;
        }
        if let Some(head) = scan.find(seen).ok()? {
            let rest = Bytes::copy_from_slice(&seen[head.end..]);
            let head = parse::request(&Bytes::copy_from_slice(&seen[head])).ok()?;
            let authority = head.parts.uri.authority()?.as_str().to_owned();
            return Some(Connect { authority, rest });
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
        tcp::outbound(worker, stream.into(), rest, peer, &service, destination).await;
    }
}

fn plain_refusal(status: &str, reason: Reason, detail: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nx-remora-reason: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{detail}\n",
        reason.word(),
        detail.len() + 1
    )
}

async fn http(worker: &Rc<Worker>, spoken: Spoken, stream: Prefixed, peer: SocketAddr) {
    let (of_requests, known) = (Rc::clone(worker), Rc::new(RefCell::new(None)));
    let handle = move |request, caller| {
        let (worker, known) = (Rc::clone(&of_requests), Rc::clone(&known));
        one(worker, known, caller, peer, request)
    };
    engine::serve(worker, spoken, stream, peer, handle).await;
}

/// What a caller's last request named, and what that was found to be: most
/// connections go to one host.
#[derive(Debug)]
struct Known {
    authority: Box<[u8]>,
    service: Arc<str>,
    destination: Destination,
}

async fn one(
    worker: Rc<Worker>,
    known: Rc<RefCell<Option<Known>>>,
    caller: Caller,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (service, destination) = match whither(&worker, &known, &request).await {
        Ok(found) => found,
        Err((reason, detail)) => {
            caller.state.end(clock::now());
            return answer::refuse(reason, detail, grpc::is_call(request.headers()));
        }
    };
    to_origin_form(&mut request);
    let call = Call {
        worker,
        caller,
        service,
        destination,
        peer,
    };
    Box::pin(pipeline::outbound(call, request)).await
}

async fn whither(
    worker: &Rc<Worker>,
    known: &RefCell<Option<Known>>,
    request: &Request<Incoming>,
) -> Result<(Arc<Service>, Destination), (Reason, String)> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => match request.headers().get(header::HOST) {
            Some(host) => host.as_bytes(),
            None => return Err((Reason::BadRequest, "the request names no host".to_owned())),
        },
    };
    if let Some(known) = &*known.borrow()
        && *known.authority == *authority
        && let Some(service) = worker.shared.mesh.load().service(&known.service)
    {
        service.touch(clock::now());
        return Ok((Arc::clone(service), known.destination));
    }
    let text = std::str::from_utf8(authority)
        .map_err(|_| (Reason::BadRequest, "the host is not text".to_owned()))?;
    let (service, address, port) = Box::pin(find(worker, text))
        .await
        .map_err(|detail| (Reason::NoEndpoints, detail))?;
    let port = port.unwrap_or(80);
    let destination = Destination { address, port };
    *known.borrow_mut() = Some(Known {
        authority: authority.into(),
        service: Arc::clone(&service.name),
        destination,
    });
    Ok((service, destination))
}

/// The application gets origin form, and the host of the target as `Host`
/// (RFC 9112, section 3.2.2). In HTTP/2 the target's host is where it belongs, and
/// CONNECT has nothing but its host.
fn to_origin_form(request: &mut Request<Incoming>) {
    if request.version() == Version::HTTP_2 || request.method() == Method::CONNECT {
        return;
    }
    let Some(authority) = request.uri().authority() else {
        return;
    };
    let host = HeaderValue::from_str(authority.as_str());
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    if let Ok(host) = host {
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
