//! Who calls: each kind of caller for itself, at a gentle pace, and every so
//! often one that goes away in the middle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::world::World;
use crate::client::Client;
use crate::http2_app::{Http2Caller, long, whole};

/// The kinds, in the order of [`Counts::kinds`].
pub const KINDS: [&str; 6] = [
    "HTTP/1.1", "HTTP/2", "streams", "upgrades", "raw TCP", "inbound",
];
/// How many of each call at a time.
const OF_EACH: usize = 2;
/// Between two calls of one caller.
const PAUSE_MS: u64 = 12;
/// No call lasts longer; what hangs would show as a call that was not over in time.
const CALL: Duration = Duration::from_secs(8);
/// A caller that goes away does so within this.
const BREAK_OFF_US: u64 = 15_000;
/// One of so many calls is broken off.
const BROKEN_OFF: u64 = 6;

/// What became of the calls of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Answered by the application, whole.
    pub served: usize,
    /// Refused, or failed with its application.
    pub failed: usize,
    /// The caller went away.
    pub broken_off: usize,
    /// Neither an answer nor an end came.
    pub hung: usize,
}

/// What became of all calls.
#[derive(Debug)]
pub struct Counts {
    /// By kind.
    pub kinds: [Count; KINDS.len()],
}

/// All callers.
pub struct Calling(JoinSet<(usize, Count)>);

/// Starts them; they end soon after `over` is true.
pub fn start(world: &World, over: &Arc<AtomicBool>) -> Calling {
    let outbound = world.mesh.sidecar.outbound();
    let [inbound, inbound_http2] = world.target_ports();
    let mut callers = JoinSet::new();
    for number in 0..KINDS.len() * OF_EACH {
        let kind = number % KINDS.len();
        let over = Arc::clone(over);
        callers.spawn(async move {
            let mut caller = Caller {
                random: fastrand::Rng::with_seed(number as u64),
                outbound,
                inbound,
                inbound_http2,
                http1: None,
                http2: None,
            };
            let mut count = Count::default();
            while !over.load(SeqCst) {
                caller.once(kind, &mut count).await;
                let pause = caller.random.u64(1..2 * PAUSE_MS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            (kind, count)
        });
    }
    Calling(callers)
}

impl Calling {
    /// Waits for all of them.
    pub async fn ended(mut self) -> Counts {
        let mut kinds = [Count::default(); KINDS.len()];
        while let Some(ended) = self.0.join_next().await {
            let (kind, count) = ended.unwrap();
            let sum = &mut kinds[kind];
            sum.served += count.served;
            sum.failed += count.failed;
            sum.broken_off += count.broken_off;
            sum.hung += count.hung;
        }
        let hung: Vec<_> = KINDS
            .iter()
            .zip(&kinds)
            .filter(|(_, count)| count.hung > 0)
            .collect();
        assert!(hung.is_empty(), "calls hung: {hung:?}");
        Counts { kinds }
    }
}

struct Caller {
    random: fastrand::Rng,
    outbound: SocketAddr,
    inbound: SocketAddr,
    inbound_http2: SocketAddr,
    http1: Option<Client>,
    http2: Option<Http2Caller>,
}

impl Caller {
    /// One call, counted.
    async fn once(&mut self, kind: usize, count: &mut Count) {
        let leaves = self.random.u64(0..BROKEN_OFF) == 0;
        let patience = match leaves {
            true => Duration::from_micros(self.random.u64(0..BREAK_OFF_US)),
            false => CALL,
        };
        let calling = async {
            match kind {
                0 => self.by_http1(self.outbound).await,
                1 => self.by_http2(self.outbound).await,
                2 => self.by_stream().await,
                3 => self.by_upgrade().await,
                4 => self.by_tcp().await,
                _ => self.inbound().await,
            }
        };
        match tokio::time::timeout(patience, calling).await {
            Ok(Some(())) => count.served += 1,
            Ok(None) => count.failed += 1,
            Err(_) if leaves => {
                count.broken_off += 1;
                // An HTTP/2 connection goes on without the one stream.
                self.http1 = None;
            }
            Err(_) => count.hung += 1,
        }
    }

    async fn by_http1(&mut self, address: SocketAddr) -> Option<()> {
        let mut client = match self.http1.take() {
            Some(client) if self.random.u64(0..20) > 0 => client,
            _ => Client::try_connect(address).await?,
        };
        let body = "b".repeat(self.random.usize(0..100_000));
        let (method, path, body) = match self.random.u64(0..20) {
            0 => ("GET", "/reset", ""),
            1 => ("GET", "/cut", ""),
            2 => ("GET", "/error", ""),
            3..8 => ("POST", "/", body.as_str()),
            8..10 => ("GET", "/large", ""),
            _ => ("GET", "/", ""),
        };
        let answer = client.request(method, "catalog:8080", path, "", body).await;
        if answer.whole && answer.header("connection") != "close" {
            self.http1 = Some(client);
        }
        (answer.status == 200 && answer.whole).then_some(())
    }

    async fn http2(&mut self, address: SocketAddr) -> Option<Http2Caller> {
        let kept = self.http2.take().filter(|_| self.random.u64(0..50) > 0);
        let caller = match kept {
            Some(caller) => caller,
            None => Http2Caller::try_connect(address).await?.to("streams:8080"),
        };
        self.http2 = Some(caller.clone());
        Some(caller)
    }

    async fn by_http2(&mut self, address: SocketAddr) -> Option<()> {
        let caller = self.http2(address).await?;
        // Several streams at a time.
        let mut streams = JoinSet::new();
        for number in 0..self.random.u64(1..6) {
            let mut caller = caller.clone();
            let path = match number {
                0 => "/big/100000",
                _ => "/",
            };
            streams.spawn(async move { caller.get(path).await });
        }
        let mut all = Some(());
        while let Some(ended) = streams.join_next().await {
            let answer = ended.unwrap();
            all = all.filter(|()| matches!(answer, Ok(answer) if answer.status == 200));
        }
        if all.is_none() {
            self.http2 = None;
        }
        all
    }

    /// As gRPC: a body that goes both ways, or an answer with trailers.
    async fn by_stream(&mut self) -> Option<()> {
        let mut caller = self.http2(self.outbound).await?;
        let length = self.random.u64(0..300_000);
        let echoes = self.random.bool();
        let sent = match echoes {
            true => {
                caller
                    .send("POST", "/echo", long(length, Arc::default()))
                    .await
            }
            false => {
                caller
                    .send("GET", &format!("/trailers/{length}"), whole(""))
                    .await
            }
        };
        let Ok(response) = sent else {
            self.http2 = None;
            return None;
        };
        let status = response.status();
        let body = response.into_body().collect().await.ok()?;
        let is_ended = echoes
            || body
                .trailers()
                .is_some_and(|all| all.contains_key("grpc-status"));
        (status == 200 && is_ended && body.to_bytes().len() as u64 == length).then_some(())
    }

    async fn by_upgrade(&mut self) -> Option<()> {
        let mut stream = TcpStream::connect(self.outbound).await.ok()?;
        let head =
            "GET / HTTP/1.1\r\nHost: chat:8080\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        let answer = read_head(&mut stream).await?;
        if !answer.starts_with("HTTP/1.1 101") {
            return None;
        }
        self.converse(&mut stream).await
    }

    async fn by_tcp(&mut self) -> Option<()> {
        let mut stream = TcpStream::connect(self.outbound).await.ok()?;
        let head = "CONNECT inventory:8080 HTTP/1.1\r\nHost: inventory:8080\r\n\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        let answer = read_head(&mut stream).await?;
        if !answer.starts_with("HTTP/1.1 200") {
            return None;
        }
        self.converse(&mut stream).await
    }

    /// Some lines that come back.
    async fn converse(&mut self, stream: &mut TcpStream) -> Option<()> {
        for _ in 0..self.random.u64(1..5) {
            let line = vec![b'l'; self.random.usize(1..5_000)];
            stream.write_all(&line).await.ok()?;
            let mut back = vec![0; line.len()];
            stream.read_exact(&mut back).await.ok()?;
            assert_eq!(back, line, "another's bytes");
        }
        Some(())
    }

    /// A stranger's call to the second sidecar's pod.
    async fn inbound(&mut self) -> Option<()> {
        match self.random.bool() {
            true => self.by_http1(self.inbound).await,
            false => self.by_http2(self.inbound_http2).await,
        }
    }
}

/// The head of an answer; `None` when the connection ended before.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
