//! A scripted HTTP/2 application on the `h2` crate: what it does with each
//! stream is a list of steps.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A request as the application got it.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Its method.
    pub method: String,
    /// `:path`
    pub path: String,
    /// `:authority`
    pub authority: String,
    /// `:protocol` (RFC 8441)
    pub protocol: String,
    /// In their order.
    pub headers: Vec<(String, String)>,
    /// What [`Step::Read`] read.
    pub body: Vec<u8>,
    /// What followed it.
    pub trailers: Option<HeaderMap>,
    /// From 1, over all connections.
    pub number: u64,
}

impl Received {
    /// The first value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }
}

/// Fields as a test writes them.
pub type Fields = &'static [(&'static str, &'static str)];

/// What is done next with a stream.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads the request to its end, and remembers it.
    Read,
    /// An interim answer.
    Interim(u16, Fields),
    /// The answer's head.
    Head(u16, Fields),
    /// The answer's head, and nothing after it.
    HeadAlone(u16, Fields),
    /// A piece of the answer's body.
    Data(&'static str),
    /// So many bytes of the answer's body.
    Bytes(usize),
    /// Each piece of the request goes back as it comes, and its trailers.
    Echo,
    /// So many bytes of the answer's body, while the request is read to its end.
    BytesAndRead(usize),
    /// The answer's end; the request is still heard.
    Finish,
    /// The answer's end.
    End,
    /// The answer's end, with fields.
    Trailers(Fields),
    /// RST_STREAM
    Reset(Reason),
    /// Nothing for so many milliseconds.
    Wait(u64),
    /// Nothing more until the caller resets it.
    Never,
    /// The whole connection breaks.
    Kill,
}

/// 200 with `hello`, once the request is read.
pub fn hello() -> Vec<Step> {
    vec![
        Step::Read,
        Step::Head(200, &[]),
        Step::Data("hello"),
        Step::End,
    ]
}

/// This status without a body, once the request is read.
pub fn status(status: u16) -> Vec<Step> {
    vec![Step::Read, Step::HeadAlone(status, &[])]
}

/// The head of every gRPC answer.
pub const GRPC: Fields = &[("content-type", "application/grpc")];

/// A gRPC answer: a message, then the status in trailers.
pub fn grpc(status: Fields) -> Vec<Step> {
    vec![
        Step::Read,
        Step::Head(200, GRPC),
        Step::Data(MESSAGE),
        Step::Trailers(status),
    ]
}

/// A gRPC answer without a message.
pub fn grpc_empty(status: Fields) -> Vec<Step> {
    vec![Step::Read, Step::Head(200, GRPC), Step::Trailers(status)]
}

/// A gRPC message of five bytes, with its prefix.
pub const MESSAGE: &str = "\0\0\0\0\x05hello";

/// What an application says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Says {
    /// Streams at a time on one connection.
    pub streams: u32,
    /// It takes an extended CONNECT.
    pub extended_connect: bool,
    /// Window of each stream; of a connection sixteen times that.
    pub window: u32,
}

impl Default for Says {
    fn default() -> Self {
        Self {
            streams: 1_000,
            extended_connect: false,
            window: 1 << 20,
        }
    }
}

type Handler = dyn Fn(&Received) -> Vec<Step> + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    says: Says,
    requests: Mutex<Vec<Received>>,
    accepted: AtomicU64,
    numbers: AtomicU64,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    resets: Mutex<Vec<Reason>>,
    draining: tokio::sync::watch::Sender<bool>,
}

/// A scripted HTTP/2 application; ends on drop.
pub struct App {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl App {
    /// Does with each stream what `handler` says.
    pub async fn start(
        address: SocketAddr,
        handler: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        Self::start_saying(address, Says::default(), handler).await
    }

    /// As [`App::start`], with settings.
    pub async fn start_saying(
        address: SocketAddr,
        says: Says,
        handler: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = crate::bind(address).await;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            says,
            requests: Mutex::default(),
            accepted: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            resets: Mutex::default(),
            draining: tokio::sync::watch::channel(false).0,
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                serving.accepted.fetch_add(1, SeqCst);
                let shared = Arc::clone(&serving);
                connections.spawn(async move { serve(&shared, stream).await });
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests whose [`Step::Read`] is over, in that order; and at once those without.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many requests have come.
    pub fn count(&self) -> usize {
        self.shared.numbers.load(SeqCst) as usize
    }

    /// How many connections have been accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }

    /// How many streams are being worked on.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(SeqCst)
    }

    /// The most streams that were worked on at a time.
    pub fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(SeqCst)
    }

    /// With which reasons callers reset streams.
    pub fn resets(&self) -> Vec<Reason> {
        self.shared.resets.lock().unwrap().clone()
    }

    /// Says GOAWAY on every connection, and ends what is under way.
    pub fn drain(&self) {
        self.shared.draining.send_replace(true);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(shared: &Arc<Shared>, stream: TcpStream) {
    let Says {
        streams,
        extended_connect,
        window,
    } = shared.says;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(streams)
        .max_concurrent_reset_streams(10_000)
        .max_pending_accept_reset_streams(10_000)
        .initial_window_size(window)
        .initial_connection_window_size(window.saturating_mul(16));
    if extended_connect {
        builder.enable_connect_protocol();
    }
    let Ok(mut h2) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let mut tasks = tokio::task::JoinSet::new();
    let mut draining = shared.draining.subscribe();
    let (kill, mut killed) = mpsc::channel::<()>(1);
    let mut told = false;
    loop {
        tokio::select! {
            accepted = h2.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let number = shared.numbers.fetch_add(1, SeqCst) + 1;
                let (shared, kill) = (Arc::clone(shared), kill.clone());
                tasks.spawn(async move {
                    play(&shared, request, respond, number, &kill).await;
                });
            }
            changed = draining.wait_for(|draining| *draining), if !told => {
                if changed.is_err() { return; }
                drop(changed);
                told = true;
                h2.graceful_shutdown();
            }
            _ = killed.recv() => return,
        }
    }
}

struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn new(shared: &'a Shared) -> Self {
        let now = shared.in_flight.fetch_add(1, SeqCst) + 1;
        shared.most_in_flight.fetch_max(now, SeqCst);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
    }
}

async fn play(
    shared: &Shared,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    number: u64,
    kill: &mpsc::Sender<()>,
) {
    let in_flight = InFlight::new(shared);
    let (parts, mut body) = request.into_parts();
    let mut received = received(&parts, number);
    let steps = (shared.handler)(&received);
    let reads = steps
        .iter()
        .any(|step| matches!(step, Step::Read | Step::BytesAndRead(_)));
    if !reads {
        shared.requests.lock().unwrap().push(received.clone());
    }
    let mut sending: Option<SendStream<Bytes>> = None;
    for step in steps {
        let done = match step {
            Step::Read => read(shared, &mut body, &mut received).await,
            Step::Interim(status, fields) => respond.send_informational(head(status, fields)).ok(),
            Step::Head(status, fields) => {
                let begun = respond.send_response(head(status, fields), false);
                begun.ok().map(|stream| sending = Some(stream))
            }
            Step::HeadAlone(status, fields) => {
                // The last that counts: the caller may see it before we go on.
                drop(in_flight);
                let _ = respond.send_response(head(status, fields), true);
                return;
            }
            Step::Data(text) => send(sending.as_mut().unwrap(), text.as_bytes().into()).await,
            Step::Bytes(length) => send(sending.as_mut().unwrap(), vec![b'x'; length].into()).await,
            Step::BytesAndRead(length) => {
                let sent = send(sending.as_mut().unwrap(), vec![b'x'; length].into());
                both(sent, read(shared, &mut body, &mut received)).await
            }
            Step::Echo => echo(&mut body, sending.as_mut().unwrap()).await,
            Step::Finish => end(sending.as_mut().unwrap()),
            Step::End => {
                drop(in_flight);
                let _ = sending.unwrap().send_data(Bytes::new(), true);
                return;
            }
            Step::Trailers(fields) => {
                drop(in_flight);
                let _ = sending.unwrap().send_trailers(map(fields));
                return;
            }
            Step::Reset(reason) => {
                drop(in_flight);
                match &mut sending {
                    Some(stream) => stream.send_reset(reason),
                    None => respond.send_reset(reason),
                }
                return;
            }
            Step::Wait(millis) => {
                let left = left(shared, &mut respond, &mut sending);
                unless(left, millis).await
            }
            Step::Never => {
                left(shared, &mut respond, &mut sending).await;
                None
            }
            Step::Kill => {
                let _ = kill.send(()).await;
                // Nothing more may be said on the stream.
                std::future::pending().await
            }
        };
        if done.is_none() {
            return;
        }
    }
}

async fn both(
    one: impl Future<Output = Option<()>>,
    other: impl Future<Output = Option<()>>,
) -> Option<()> {
    let (one, other) = tokio::join!(one, other);
    one.and(other)
}

async fn unless(left: impl Future<Output = ()>, millis: u64) -> Option<()> {
    let waited = tokio::time::timeout(Duration::from_millis(millis), left).await;
    waited.is_err().then_some(())
}

fn end(stream: &mut SendStream<Bytes>) -> Option<()> {
    stream.send_data(Bytes::new(), true).ok()
}

fn received(parts: &http::request::Parts, number: u64) -> Received {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Received {
        method: parts.method.to_string(),
        path: parts
            .uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        authority: parts
            .uri
            .authority()
            .map_or_else(String::new, ToString::to_string),
        protocol: parts
            .extensions
            .get::<h2::ext::Protocol>()
            .map_or_else(String::new, |protocol| protocol.as_str().to_owned()),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        number,
        ..Received::default()
    }
}

async fn left(
    shared: &Shared,
    respond: &mut SendResponse<Bytes>,
    sending: &mut Option<SendStream<Bytes>>,
) {
    let reset = std::future::poll_fn(|cx| match sending {
        Some(stream) => stream.poll_reset(cx),
        None => respond.poll_reset(cx),
    })
    .await;
    if let Ok(reason) = reset {
        shared.resets.lock().unwrap().push(reason);
    }
}

async fn read(shared: &Shared, body: &mut RecvStream, received: &mut Received) -> Option<()> {
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                let _ = body.flow_control().release_capacity(data.len());
                received.body.extend_from_slice(&data);
            }
            Err(error) => {
                let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
                shared.resets.lock().unwrap().push(reason);
                received.path += " (broken off)";
                shared.requests.lock().unwrap().push(received.clone());
                return None;
            }
        }
    }
    received.trailers = body.trailers().await.ok()?;
    shared.requests.lock().unwrap().push(received.clone());
    Some(())
}

async fn echo(body: &mut RecvStream, sending: &mut SendStream<Bytes>) -> Option<()> {
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        let length = data.len();
        send(sending, data).await?;
        let _ = body.flow_control().release_capacity(length);
    }
    match body.trailers().await.ok()? {
        Some(trailers) => sending.send_trailers(trailers).ok(),
        None => end(sending),
    }
}

/// Sends as the window allows.
pub async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = match stream.capacity() {
            0 => std::future::poll_fn(|cx| stream.poll_capacity(cx))
                .await?
                .ok()?,
            granted => granted,
        };
        let part = data.split_to(granted.min(data.len()));
        stream.send_data(part, false).ok()?;
    }
    Some(())
}

fn head(status: u16, fields: Fields) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status.try_into().unwrap();
    *head.headers_mut() = map(fields);
    head
}

/// Fields as the `http` crate has them.
pub fn map(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}
