//! Bytes on a connection, at either end: what neither a well-behaved client
//! nor a scripted application would say.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::soon;

/// One connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Raw {
    /// Connects to `address`.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = soon("connecting", TcpStream::connect(address)).await;
        Self::new(stream.unwrap())
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            seen: Vec::new(),
        }
    }

    /// Writes `bytes`.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = soon("writing", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads to the end of a head.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads until `end` has come; all with it.
    pub async fn until(&mut self, end: &str) -> String {
        match self.until_or_end(end).await {
            Some(read) => read,
            None => {
                let seen = String::from_utf8_lossy(&self.seen).into_owned();
                panic!("it ended before {end:?}: {seen:?}");
            }
        }
    }

    /// As [`Raw::until`]; `None` where the connection ends before.
    pub async fn until_or_end(&mut self, end: &str) -> Option<String> {
        soon(end, async {
            loop {
                let found = self
                    .seen
                    .windows(end.len())
                    .position(|window| window == end.as_bytes());
                if let Some(at) = found {
                    let read = self.seen.drain(..at + end.len()).collect();
                    return Some(String::from_utf8(read).unwrap());
                }
                if !matches!(self.stream.read_buf(&mut self.seen).await, Ok(1..)) {
                    return None;
                }
            }
        })
        .await
    }

    /// Waits for bytes; how many more have come.
    pub async fn some(&mut self) -> usize {
        let reading = soon("some bytes", self.stream.read_buf(&mut self.seen));
        reading.await.unwrap_or(0)
    }

    /// Whether nothing comes for so long.
    pub async fn is_silent_for(&mut self, millis: u64) -> bool {
        if !self.seen.is_empty() {
            return false;
        }
        let reading = self.stream.read_buf(&mut self.seen);
        tokio::time::timeout(Duration::from_millis(millis), reading)
            .await
            .is_err()
    }

    /// Everything up to the end, or the break, of the connection.
    pub async fn rest(&mut self) -> String {
        soon("the connection's end", async {
            while matches!(self.stream.read_buf(&mut self.seen).await, Ok(1..)) {}
        })
        .await;
        String::from_utf8_lossy(&std::mem::take(&mut self.seen)).into_owned()
    }

    /// Sends everything back that comes, then says `bye`.
    pub async fn echo(mut self) {
        loop {
            if !self.seen.is_empty() {
                let seen = std::mem::take(&mut self.seen);
                if self.stream.write_all(&seen).await.is_err() {
                    return;
                }
            }
            match self.stream.read_buf(&mut self.seen).await {
                Ok(1..) => {}
                Ok(_) => break,
                Err(_) => return,
            }
        }
        self.write("bye").await;
        self.finish().await;
    }
}

/// A listener whose every connection is handled by a future; ends on drop.
#[derive(Debug)]
pub struct Listening {
    accepted: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Listens on `address`.
    pub async fn start<F>(address: SocketAddr, handle: impl Fn(Raw) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = crate::bind(address).await;
        let accepted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, SeqCst);
                connections.spawn(handle(Raw::new(stream)));
            }
        });
        Self { accepted, task }
    }

    /// How many connections have been accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(SeqCst)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Stands between two sidecars and looks at what their connections begin with.
#[derive(Debug)]
pub struct Between {
    listening: Listening,
    beginnings: Arc<Mutex<Vec<String>>>,
}

impl Between {
    /// Listens on `address` and passes everything on to `target`.
    pub async fn start(address: SocketAddr, target: SocketAddr) -> Self {
        let beginnings = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&beginnings);
        let listening = Listening::start(address, move |mut caller| {
            let seen = Arc::clone(&seen);
            async move {
                let Ok(mut onward) = TcpStream::connect(target).await else {
                    return;
                };
                if !matches!(caller.stream.read_buf(&mut caller.seen).await, Ok(1..)) {
                    return;
                }
                let first = String::from_utf8_lossy(&caller.seen[..caller.seen.len().min(14)]);
                seen.lock().unwrap().push(first.into_owned());
                if onward.write_all(&caller.seen).await.is_ok() {
                    let both = tokio::io::copy_bidirectional(&mut caller.stream, &mut onward);
                    let _ = both.await;
                }
            }
        })
        .await;
        Self {
            listening,
            beginnings,
        }
    }

    /// How many connections there were.
    pub fn accepted(&self) -> u64 {
        self.listening.accepted()
    }

    /// With what each began.
    pub fn beginnings(&self) -> Vec<String> {
        self.beginnings.lock().unwrap().clone()
    }
}
