//! Scripted applications: HTTP/1.1 with all its bad manners, and raw TCP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A request as an application got it.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Its method.
    pub method: String,
    /// Its target.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without its chunks; empty where the reply does not wait for it.
    pub body: Vec<u8>,
    /// From 1, in the order of accepting.
    pub connection: u64,
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

/// What an application does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Answers.
    Answer(Script),
    /// Resets the connection without a byte.
    Reset,
    /// Closes the connection without a byte.
    Close,
    /// Resets in the middle of the body.
    ResetInBody,
    /// Never answers.
    Never,
    /// These bytes, and the connection stays.
    Raw(String),
    /// Answers without reading the body, which goes on.
    Early(u16),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Script {
    status: u16,
    headers: String,
    body: String,
    after: Duration,
    /// The connection is closed so long after the answer, without a word.
    close_after: Option<Duration>,
}

/// An answer of this status.
pub fn status(status: u16) -> Reply {
    Reply::Answer(Script {
        status,
        headers: String::new(),
        body: "hello".to_owned(),
        after: Duration::ZERO,
        close_after: None,
    })
}

impl Reply {
    fn script(self, change: impl FnOnce(&mut Script)) -> Self {
        match self {
            Self::Answer(mut script) => {
                change(&mut script);
                Self::Answer(script)
            }
            other => other,
        }
    }

    /// After so many milliseconds.
    pub fn after_ms(self, millis: u64) -> Self {
        self.script(|script| script.after = Duration::from_millis(millis))
    }

    /// With this header.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.script(|script| script.headers += &format!("{name}: {value}\r\n"))
    }

    /// With this body.
    pub fn body(self, body: &str) -> Self {
        self.script(|script| body.clone_into(&mut script.body))
    }

    /// The connection is closed so many milliseconds later, without a word.
    pub fn then_close_after_ms(self, millis: u64) -> Self {
        self.script(|script| script.close_after = Some(Duration::from_millis(millis)))
    }
}

type Handler = dyn Fn(&Received) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    requests: Mutex<Vec<Received>>,
    accepted: AtomicU64,
    open: AtomicUsize,
    in_flight: Mutex<BTreeMap<u64, Arc<TcpStream>>>,
    bar: usize,
    most_in_flight: AtomicUsize,
    keeps_requests: bool,
    numbers: AtomicU64,
}

/// A scripted HTTP/1.1 application; ends on drop.
pub struct App {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl App {
    /// Answers 200 to everything.
    pub async fn ok(address: SocketAddr) -> Self {
        Self::start(address, |_| status(200)).await
    }

    /// Answers as `handler` says.
    pub async fn start(
        address: SocketAddr,
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with_bar(address, usize::MAX, handler).await
    }

    /// As [`App::start`]; looks twice when more than `bar` requests seem to be
    /// in flight, because the end of one connection and the beginning of
    /// another come by different ways. Keeps no requests.
    pub async fn start_with_bar(
        address: SocketAddr,
        bar: usize,
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = crate::bind(address).await;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            requests: Mutex::default(),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            in_flight: Mutex::default(),
            bar,
            most_in_flight: AtomicUsize::new(0),
            keeps_requests: bar == usize::MAX,
            numbers: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let number = serving.accepted.fetch_add(1, SeqCst) + 1;
                let shared = Arc::clone(&serving);
                shared.open.fetch_add(1, SeqCst);
                connections.spawn(async move {
                    serve(&shared, Arc::new(stream), number).await;
                    shared.open.fetch_sub(1, SeqCst);
                });
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

    /// The requests so far.
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

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// The most requests that were in flight at a time.
    pub fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(SeqCst)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(shared: &Shared, stream: Arc<TcpStream>, connection: u64) {
    let mut seen = Vec::new();
    while let Some((mut received, head)) = read_head(&stream, &mut seen).await {
        seen.drain(..head);
        received.connection = connection;
        received.number = shared.numbers.fetch_add(1, SeqCst) + 1;
        let reply = (shared.handler)(&received);
        if received.header("expect") == "100-continue" {
            write_all(&stream, b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        if !matches!(reply, Reply::Early(_)) && !read_body(&stream, &mut seen, &mut received).await
        {
            received.path += " (broken off)";
            shared.requests.lock().unwrap().push(received);
            return;
        }
        let number = received.number;
        if shared.keeps_requests {
            shared.requests.lock().unwrap().push(received.clone());
        }
        enter(shared, &stream, number).await;
        let kept = answer(&stream, &received, reply).await;
        shared.in_flight.lock().unwrap().remove(&number);
        if !kept {
            return;
        }
    }
}

async fn enter(shared: &Shared, stream: &Arc<TcpStream>, number: u64) {
    let mut there: Vec<Arc<TcpStream>> = {
        let mut in_flight = shared.in_flight.lock().unwrap();
        in_flight.insert(number, Arc::clone(stream));
        in_flight.values().cloned().collect()
    };
    there.retain(|stream| !is_closed(stream));
    for _ in 0..3 {
        if there.len() <= shared.bar {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        there.retain(|stream| !is_closed(stream));
    }
    shared.most_in_flight.fetch_max(there.len(), SeqCst);
}

/// Whether the peer has closed it already.
fn is_closed(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    match SockRef::from(stream).peek(&mut byte) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Whether the connection stays.
async fn answer(stream: &TcpStream, received: &Received, reply: Reply) -> bool {
    match reply {
        Reply::Answer(script) => return answer_by(stream, received, script).await,
        Reply::Raw(bytes) => return write_all(stream, bytes.as_bytes()).await,
        Reply::Early(status) => {
            let head = format!("HTTP/1.1 {status} Early\r\ncontent-length: 5\r\n\r\nearly");
            write_all(stream, head.as_bytes()).await;
            // Takes what still comes, until the peer has had enough.
            while more(stream, &mut Vec::new()).await {}
        }
        Reply::Never => while more(stream, &mut Vec::new()).await {},
        Reply::Reset => reset(stream),
        Reply::ResetInBody => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nthe beginning";
            write_all(stream, head.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            reset(stream);
        }
        Reply::Close => {}
    }
    false
}

async fn answer_by(stream: &TcpStream, received: &Received, script: Script) -> bool {
    let Script {
        status,
        headers,
        body,
        after,
        close_after,
    } = script;
    if !after.is_zero() {
        let mut ignored = Vec::new();
        tokio::select! {
            () = tokio::time::sleep(after) => {}
            // Whoever is cancelled notices it.
            _ = more(stream, &mut ignored) => return false,
        }
    }
    let framing = match status {
        204 | 304 => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    let mut text = format!("HTTP/1.1 {status} Scripted\r\n{headers}{framing}\r\n");
    if received.method != "HEAD" && !framing.is_empty() {
        text += &body;
    }
    let written = write_all(stream, text.as_bytes()).await;
    match close_after {
        Some(span) => {
            tokio::time::sleep(span).await;
            false
        }
        None => written,
    }
}

fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn read_head(stream: &TcpStream, seen: &mut Vec<u8>) -> Option<(Received, usize)> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 300];
        let mut head = httparse::Request::new(&mut fields);
        if let Ok(httparse::Status::Complete(length)) = head.parse(seen) {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = head.headers.iter();
            let received = Received {
                method: head.method?.to_owned(),
                path: head.path?.to_owned(),
                headers: headers
                    .map(|field| (field.name.to_ascii_lowercase(), text(field.value)))
                    .collect(),
                ..Received::default()
            };
            return Some((received, length));
        }
        if !more(stream, seen).await {
            return None;
        }
    }
}

async fn read_body(stream: &TcpStream, seen: &mut Vec<u8>, received: &mut Received) -> bool {
    if received.header("transfer-encoding") == "chunked" {
        loop {
            let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
                if !more(stream, seen).await {
                    return false;
                }
                continue;
            };
            let size = std::str::from_utf8(&seen[..end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            while seen.len() < end + 2 + size + 2 {
                if !more(stream, seen).await {
                    return false;
                }
            }
            received.body.extend(&seen[end + 2..end + 2 + size]);
            seen.drain(..end + 2 + size + 2);
            if size == 0 {
                return true;
            }
        }
    }
    let length = received.header("content-length").parse().unwrap_or(0);
    while seen.len() < length {
        if !more(stream, seen).await {
            return false;
        }
    }
    received.body = seen.drain(..length).collect();
    true
}

async fn more(stream: &TcpStream, seen: &mut Vec<u8>) -> bool {
    loop {
        if stream.readable().await.is_err() {
            return false;
        }
        match stream.try_read_buf(seen) {
            Ok(read) => return read > 0,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        if stream.writable().await.is_err() {
            return false;
        }
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    true
}
