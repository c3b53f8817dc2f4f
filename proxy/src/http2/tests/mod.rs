//! The engine between a real client and a real upstream, both `h2` itself, on
//! loopback sockets: what it serves goes out again through [`Connection`].

mod exchanges;
mod flow;
mod hardening;
mod mesh;
mod resets;
mod storms;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::connection::Connection;
use super::serve::{self, Keeper, Kind};
use crate::body::Incoming;
use crate::body::request::RequestSource;
use crate::caller::{Caller, CallerState, Interim};
use crate::callers::Callers;
use crate::clock;
use crate::io::Prefixed;
use crate::upstream::{Head, SendError};

/// Runs `test` on a runtime as a worker has it, for at most a minute.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test hangs");
    });
}

fn caller() -> Caller {
    Caller {
        state: CallerState::new(clock::now(), false),
        interim: Rc::new(Interim::default()),
    }
}

/// The engine, both sides.
struct Relay {
    address: SocketAddr,
    upstream: Rc<RefCell<Option<Connection>>>,
    callers: Rc<Callers>,
    draining: Rc<Cell<bool>>,
    /// Of the requests that found no answer.
    failures: Rc<RefCell<Vec<SendError>>>,
    /// Handlers that run.
    handling: Rc<Cell<usize>>,
    /// The requests as the handler sees them.
    seen: Rc<RefCell<Vec<http::request::Parts>>>,
}

struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

impl Relay {
    /// Between callers of `kind` and `upstream`.
    async fn start(upstream: SocketAddr, kind: Kind) -> Self {
        let (listener, address) = listen().await;
        let relay = Self {
            address,
            upstream: Rc::default(),
            callers: Rc::default(),
            draining: Rc::default(),
            failures: Rc::default(),
            handling: Rc::default(),
            seen: Rc::default(),
        };
        connection(&relay.upstream, upstream).await;
        let (held, callers, draining) = (
            Rc::clone(&relay.upstream),
            Rc::clone(&relay.callers),
            Rc::clone(&relay.draining),
        );
        let (failures, handling, seen) = (
            Rc::clone(&relay.failures),
            Rc::clone(&relay.handling),
            Rc::clone(&relay.seen),
        );
        tokio::task::spawn_local(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (held, callers, draining) =
                    (Rc::clone(&held), Rc::clone(&callers), Rc::clone(&draining));
                let (failures, handling, seen) =
                    (Rc::clone(&failures), Rc::clone(&handling), Rc::clone(&seen));
                tokio::task::spawn_local(async move {
                    let bad_requests = AtomicU64::new(0);
                    let keeper = Keeper {
                        callers: &callers,
                        draining: &draining,
                        bad_requests: &bad_requests,
                    };
                    let stream = Prefixed::new(Bytes::new(), stream);
                    serve::serve_for(keeper, stream, peer, kind, move |request, caller| {
                        let (held, failures) = (Rc::clone(&held), Rc::clone(&failures));
                        let counted = Counted::new(&handling);
                        let seen = Rc::clone(&seen);
                        async move {
                            let _counted = counted;
                            let connection = connection(&held, upstream).await;
                            let (parts, body) = request.into_parts();
                            seen.borrow_mut().push(parts.clone());
                            let answer = forward(&connection, &parts, body, &caller).await;
                            caller.state.end(clock::now());
                            answer.unwrap_or_else(|error| {
                                failures.borrow_mut().push(error);
                                let mut answer = Response::new(Incoming::Empty);
                                *answer.status_mut() = http::StatusCode::BAD_GATEWAY;
                                answer
                            })
                        }
                    })
                    .await;
                });
            }
        });
        relay
    }

    fn streams(&self) -> usize {
        self.upstream
            .borrow()
            .as_ref()
            .map_or(0, Connection::streams)
    }

    /// Waits until nothing is in hand.
    async fn quiet(&self) {
        until(|| self.streams() == 0 && self.handling.get() == 0).await;
    }
}

/// Waits for `is_so`, for at most ten seconds.
async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to be");
}

async fn connection(held: &RefCell<Option<Connection>>, upstream: SocketAddr) -> Connection {
    let usable = held
        .borrow()
        .as_ref()
        .filter(|held| held.is_usable())
        .cloned();
    if let Some(connection) = usable {
        return connection;
    }
    let stream = TcpStream::connect(upstream).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let connection = Connection::open(stream.into()).await.unwrap();
    *held.borrow_mut() = Some(connection.clone());
    connection
}

async fn forward(
    connection: &Connection,
    parts: &http::request::Parts,
    body: Incoming,
    caller: &Caller,
) -> Result<Response<Incoming>, SendError> {
    let head = Head {
        parts,
        attempt: None,
        identity: None,
    };
    let body = RequestSource::new(body, 0, clock::now()).attempt();
    let (parts, body) = connection.send(head, body, caller).await?;
    Ok(Response::from_parts(parts, body))
}

/// An upstream that answers each stream with `answer`, with the given settings.
async fn upstream_with<F>(
    builder: h2::server::Builder,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let (listener, address) = listen().await;
    let answer = Rc::new(answer);
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = Rc::clone(&answer);
            let handshake = builder.handshake::<_, Bytes>(stream);
            tokio::task::spawn_local(async move {
                let Ok(mut connection) = handshake.await else {
                    return;
                };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::task::spawn_local(answer(request, respond));
                }
            });
        }
    });
    address
}

async fn upstream<F>(
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20);
    builder.initial_connection_window_size(1 << 24);
    builder.max_pending_accept_reset_streams(100_000);
    upstream_with(builder, answer).await
}

/// A caller.
async fn client(address: SocketAddr) -> SendRequest<Bytes> {
    client_with(address, h2::client::Builder::new().enable_push(false)).await
}

async fn client_with(address: SocketAddr, builder: &h2::client::Builder) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    sender
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://shop.test{path}"))
        .body(())
        .unwrap()
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://shop.test{path}"))
        .body(())
        .unwrap()
}

/// Reads a body to its end, giving its window back at once.
async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// Sends `bytes` bytes in pieces, as the window allows, without an end.
async fn send(stream: &mut h2::SendStream<Bytes>, bytes: usize) -> Result<(), h2::Error> {
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    let mut left = bytes;
    while left > 0 {
        let wanted = left.min(piece.len());
        stream.reserve_capacity(wanted);
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let granted = match granted {
            Some(granted) => granted?.min(wanted),
            None => return Err(h2::Reason::STREAM_CLOSED.into()),
        };
        stream.send_data(piece.slice(..granted), false)?;
        left -= granted;
    }
    Ok(())
}
