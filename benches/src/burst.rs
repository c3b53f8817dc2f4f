//! Memory before, in and after a burst: many requests at once, each with a long
//! body and a long answer.
//!
//! ```text
//!  all callers connect ─► all send their bodies ─► when the last has sent: pause,
//!  in which nobody reads, so every buffer on the way is full ─► all read
//! ```
//!
//! The upstream is the harness's own: it reads a body to its end and answers with
//! one of the same length.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;

use crate::idle;
use crate::proc_stat::{self, Memory};
use crate::process::loopback;
use crate::scenario::Scenario;
use crate::stop;
use crate::systems::{Stage, System, Target};

/// A request's body, and its answer's.
pub const BODY_BYTES: usize = 1024 * 1024;
/// After the start, before memory is read.
const REST: Duration = Duration::from_secs(2);
/// Between the last byte sent and the first read.
const PAUSE: Duration = Duration::from_millis(500);
/// The whole burst takes so long at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory in the burst is read so often.
const GLANCE: Duration = Duration::from_millis(10);
/// Seconds after the burst at which memory is read.
pub const AFTER_SECONDS: [u64; 6] = [1, 2, 5, 10, 20, 30];
const HEAD_BYTES: usize = 16 * 1024;
/// A proxy may open a connection for every request at once.
const BACKLOG: u32 = 4_096;

/// What a system held.
#[derive(Clone, Debug, Serialize)]
pub struct BurstReport {
    /// The system.
    pub system: &'static str,
    /// Requests at once.
    pub bodies: u32,
    /// After its start.
    pub before: Memory,
    /// The highest resident memory in the burst, bytes.
    pub peak_rss_bytes: u64,
    /// At [`AFTER_SECONDS`], all its callers gone.
    pub after: Vec<Memory>,
}

/// Starts `system` alone and sends the burst; `None` of one that is no process
/// or does not speak HTTP/1.1 with features.
///
/// # Errors
/// When it does not start, or any body does not come whole.
pub fn measure(system: &System, stage: &Stage, bodies: u32) -> anyhow::Result<Option<BurstReport>> {
    idle::allow(bodies)?;
    let mut stage = stage.clone();
    stage.upstream.http1 = upstream()?;
    let running = (system.start)(&stage)?;
    let target = running.target(Scenario::Http1Features);
    let (Some(process), Some(target)) = (&running.measured, target) else {
        return Ok(None);
    };
    let pid = process.id();
    stop::sleep(REST)?;
    let before = proc_stat::memory(pid)?;
    let over = Arc::new(AtomicBool::new(false));
    let watch = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || highest(pid, &over))
    };
    let outcome = callers(target, bodies);
    over.store(true, Relaxed);
    let peak_rss_bytes = watch.join().unwrap_or_default();
    outcome?;
    let mut after = Vec::new();
    let mut passed = 0;
    for second in AFTER_SECONDS {
        stop::sleep(Duration::from_secs(second - passed))?;
        passed = second;
        after.push(proc_stat::memory(pid)?);
    }
    let last = after.last().map_or(0.0, Memory::rss_mib);
    eprintln!(
        "{}: {:.1} MiB before the burst, {:.1} at its peak, {last:.1} after {passed} s",
        system.name,
        before.rss_mib(),
        peak_rss_bytes as f64 / 1024.0 / 1024.0,
    );
    Ok(Some(BurstReport {
        system: system.name,
        bodies,
        before,
        peak_rss_bytes,
        after,
    }))
}

fn highest(pid: u32, over: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !over.load(Relaxed) {
        if let Ok(memory) = proc_stat::memory(pid) {
            peak = peak.max(memory.rss_bytes);
        }
        std::thread::sleep(GLANCE);
    }
    peak
}

fn callers(target: &Target, bodies: u32) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let sent = Arc::new(Barrier::new(usize::try_from(bodies)?));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..bodies {
            let stream = TcpStream::connect(target.address).await?;
            callers.spawn(call(stream, target.host, Arc::clone(&sent)));
        }
        let all = async {
            while let Some(ended) = callers.join_next().await {
                ended.context("a caller panicked")??;
                stop::check()?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, all)
            .await
            .with_context(|| format!("the burst takes longer than {PATIENCE:?}"))?
    })
}

/// The body is sent and the answer read at once, as a patient client does; but
/// until all have sent their bodies nothing is read.
async fn call(mut stream: TcpStream, host: &str, sent: Arc<Barrier>) -> anyhow::Result<()> {
    let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    send_body(&mut stream).await?;
    sent.wait().await;
    tokio::time::sleep(PAUSE).await;
    let head = Head::read(&mut stream).await?.context("no answer came")?;
    if !head.first_line.starts_with("HTTP/1.1 200") || head.body_bytes != BODY_BYTES {
        bail!("the answer was {:?}", head.first_line);
    }
    head.skip_body(&mut stream).await
}

async fn send_body(stream: &mut TcpStream) -> anyhow::Result<()> {
    const PIECE: [u8; 16 * 1024] = [b'r'; 16 * 1024];
    for _ in 0..BODY_BYTES / PIECE.len() {
        stream.write_all(&PIECE).await?;
    }
    Ok(())
}

struct Head {
    first_line: String,
    body_bytes: usize,
    /// Of the body, what came with the head.
    seen: usize,
}

impl Head {
    /// `None` where the peer closes before it.
    async fn read(stream: &mut TcpStream) -> anyhow::Result<Option<Self>> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        let end = loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if bytes.len() >= HEAD_BYTES {
                bail!("the head is longer than {HEAD_BYTES} bytes");
            }
        };
        let text = std::str::from_utf8(&bytes[..end])?;
        let length = text
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(Ok(0), |(_, value)| value.trim().parse())?;
        Ok(Some(Self {
            first_line: text.lines().next().unwrap_or_default().to_owned(),
            body_bytes: length,
            seen: bytes.len() - end - 4,
        }))
    }

    async fn skip_body(&self, stream: &mut TcpStream) -> anyhow::Result<()> {
        let mut left = self.body_bytes - self.seen.min(self.body_bytes);
        let mut dropped = vec![0; 16 * 1024];
        while left > 0 {
            let read = stream.read(&mut dropped).await?;
            if read == 0 {
                bail!("the connection was closed with {left} bytes of the body to come");
            }
            left = left.saturating_sub(read);
        }
        Ok(())
    }
}

/// Serves on a thread of this process's core until the process ends; gives the port.
fn upstream() -> anyhow::Result<u16> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(loopback(0))?;
        socket.listen(BACKLOG)
    })?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new()
        .name("bodies".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream));
                }
            });
        })?;
    Ok(port)
}

async fn serve(mut stream: TcpStream) -> anyhow::Result<()> {
    while let Some(head) = Head::read(&mut stream).await? {
        head.skip_body(&mut stream).await?;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        send_body(&mut stream).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caller_sends_and_gets_its_body() {
        let target = Target {
            scenario: Scenario::Http1Features,
            address: loopback(upstream().unwrap()),
            host: "upstream",
            pids: Vec::new(),
        };
        callers(&target, 20).unwrap();
    }
}
