//! Who plays in these stories.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::body::request::RequestSource;
use crate::body::{BodyError, Incoming};
use crate::caller::{Caller, CallerState};
use crate::callers::Callers;
use crate::clock;
use crate::http1::connection::Connection;
use crate::http1::serve::{Host, serve_for};
use crate::io::Prefixed;
use crate::relay::Scratch;
use crate::upstream::{Head, SendError};

/// Longer than any story takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the handler and its bodies share.
pub struct Relay {
    pub address: SocketAddr,
    pub scratch: Scratch,
    pub callers: Callers,
    pub pool: RefCell<Vec<Connection>>,
    pub draining: Cell<bool>,
    pub bad_requests: AtomicU64,
    /// Handlers that were dropped before they had answered.
    pub cancelled: Cell<u32>,
    pub errors: RefCell<Vec<SendError>>,
    /// The handler answers itself, without the request's body.
    pub answers_itself: Cell<bool>,
    /// The connection of whoever asked last.
    asking: RefCell<Option<Rc<CallerState>>>,
}

impl Relay {
    /// While the caller takes no more of an answer: what it has taken of it.
    pub fn stands_at(&self) -> Option<u64> {
        self.asking.borrow().as_ref()?.stands_at()
    }
}

/// An answer's body; gives its connection back at its end.
pub struct Answer {
    incoming: Incoming,
    own: Option<Bytes>,
    relay: Rc<Relay>,
    caller: Caller,
    _source: Option<RequestSource>,
}

impl Answer {
    fn look(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(connection) = self.incoming.take_connection()
        {
            assert!(connection.is_usable());
            self.relay.pool.borrow_mut().push(connection);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.look();
        self.caller.state.end(clock::now());
    }
}

impl crate::body::Timed for Answer {}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(own) = self.own.take() {
            return Poll::Ready(Some(Ok(Frame::data(own))));
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        self.look();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.own.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.own {
            Some(own) => SizeHint::with_exact(own.len() as u64),
            None => self.incoming.size_hint(),
        }
    }
}

struct Cancelled<'a>(&'a Relay, bool);

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cancelled.set(self.0.cancelled.get() + 1);
        }
    }
}

async fn pass_on(relay: Rc<Relay>, request: Request<Incoming>, caller: Caller) -> Response<Answer> {
    let mut watch = Cancelled(&relay, false);
    *relay.asking.borrow_mut() = Some(Rc::clone(&caller.state));
    let (parts, body) = request.into_parts();
    let source = RequestSource::new(body, 0, clock::now());
    let own = |status: StatusCode, source| {
        let body = Answer {
            incoming: Incoming::Empty,
            own: Some(Bytes::from_static(b"own\n")),
            relay: Rc::clone(&relay),
            caller: caller.clone(),
            _source: source,
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        answer
    };
    if relay.answers_itself.get() {
        watch.1 = true;
        return own(StatusCode::OK, Some(source));
    }
    let pooled = relay.pool.borrow_mut().pop();
    let connection = match pooled {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(relay.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            Connection::new(stream.into(), &relay.scratch)
        }
    };
    let head = Head {
        parts: &parts,
        attempt: Some(1),
        identity: None,
    };
    let sent = connection.send(head, source.attempt(), &caller).await;
    watch.1 = true;
    match sent {
        Ok((parts, incoming)) => Response::from_parts(
            parts,
            Answer {
                incoming,
                own: None,
                relay: Rc::clone(&relay),
                caller: caller.clone(),
                _source: Some(source),
            },
        ),
        Err(error) => {
            relay.errors.borrow_mut().push(error);
            own(StatusCode::BAD_GATEWAY, None)
        }
    }
}

/// Runs `script` with a client's connection and the upstream's listener, until
/// it ends.
pub async fn story<T>(script: impl AsyncFnOnce(TcpStream, TcpListener, Rc<Relay>) -> T) -> T {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Rc::new(Relay {
        address: upstream.local_addr().unwrap(),
        scratch: Scratch::default(),
        callers: Callers::default(),
        pool: RefCell::default(),
        draining: Cell::new(false),
        bad_requests: AtomicU64::new(0),
        cancelled: Cell::new(0),
        errors: RefCell::default(),
        answers_itself: Cell::new(false),
        asking: RefCell::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (stream, peer) = accepted.unwrap();
    stream.set_nodelay(true).unwrap();
    let client = client.unwrap();
    client.set_nodelay(true).unwrap();
    let serving = async {
        let host = Host {
            callers: &relay.callers,
            scratch: &relay.scratch,
            draining: &relay.draining,
            bad_requests: &relay.bad_requests,
        };
        let stream = Prefixed::new(Bytes::new(), stream);
        serve_for(host, stream, peer, |request, caller| {
            pass_on(Rc::clone(&relay), request, caller)
        })
        .await;
        std::future::pending::<()>().await;
    };
    let told = tokio::time::timeout(PATIENCE, script(client, upstream, Rc::clone(&relay)));
    tokio::select! {
        told = told => told.expect("the story takes too long"),
        () = serving => unreachable!(),
    }
}

/// Reads up to the end of a head, and no further.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap()
}

/// Reads exactly so many bytes.
pub async fn read_bytes(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Reads all that comes until the peer closes; whether it did so in good order.
pub async fn read_all(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).await;
    (bytes, ended.is_ok())
}

/// Writes all of `bytes`.
pub async fn write(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.unwrap();
}

/// Accepts the next connection.
pub async fn accept(upstream: &TcpListener) -> TcpStream {
    let stream = upstream.accept().await.unwrap().0;
    stream.set_nodelay(true).unwrap();
    stream
}

/// Waits until nothing of what was sent is under way any more.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}
