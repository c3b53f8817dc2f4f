//! A load of a fixed rate: HTTP/1.1 over kept-alive connections, each on a
//! schedule of its own, whatever the answers do.
//!
//! A request's latency begins when it was due, not when it could be sent: an
//! answer that comes late makes the next ones late, and that is counted (no
//! coordinated omission). Only where the connection was free and the generator
//! itself woke up late does it begin with the sending.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;

use crate::clock::Moment;
use crate::stop;

/// An answer that takes longer is an error, and ends the measurement.
const PATIENCE: Duration = Duration::from_secs(5);
/// The head and body of an answer, at most.
const ANSWER_BYTES: usize = 16 * 1024;

/// The load of one run.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where it goes.
    pub address: SocketAddr,
    /// The `Host` that it names.
    pub host: String,
    /// Requests each second, all connections together.
    pub per_second: u32,
    /// Connections.
    pub connections: u32,
    /// How long.
    pub span: Duration,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Latencies {
    /// Answers.
    pub requests: u64,
    /// The median.
    pub p50_us: u64,
    /// 99 of 100 were faster.
    pub p99_us: u64,
    /// 999 of 1,000 were faster.
    pub p999_us: u64,
}

/// Runs `load` on this thread's core.
///
/// # Errors
/// A connection breaks, an answer is not 200, or the harness is told to end.
pub fn run(load: &Load) -> anyhow::Result<Latencies> {
    let interval =
        Duration::from_secs_f64(f64::from(load.connections) / f64::from(load.per_second));
    let begin = Moment::now().after(Duration::from_millis(20));
    let until = begin.after(load.span);
    let mut all = Histogram::<u64>::new(3)?;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let connections: Vec<_> = (0..load.connections)
            .map(|index| {
                let first =
                    begin.after(interval.mul_f64(f64::from(index) / f64::from(load.connections)));
                scope.spawn(move || Caller::connect(load)?.follow(first, interval, until))
            })
            .collect();
        for connection in connections {
            match connection.join() {
                Ok(histogram) => all.add(histogram?)?,
                Err(_) => bail!("a connection's thread panicked"),
            }
        }
        Ok(())
    })?;
    Ok(Latencies {
        requests: all.len(),
        p50_us: all.value_at_quantile(0.5),
        p99_us: all.value_at_quantile(0.99),
        p999_us: all.value_at_quantile(0.999),
    })
}

struct Caller {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Caller {
    fn connect(load: &Load) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(load.address)
            .with_context(|| format!("cannot connect to {}", load.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            request: format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", load.host).into_bytes(),
            answer: vec![0; ANSWER_BYTES],
        })
    }

    fn follow(
        mut self,
        first: Moment,
        interval: Duration,
        until: Moment,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut latencies = Histogram::new(3)?;
        let mut due = first;
        while due < until {
            stop::check()?;
            let free = Moment::now();
            if free < due {
                std::thread::sleep(due.since(free));
            }
            let began = if free > due { due } else { Moment::now() };
            self.exchange()?;
            let micros = u64::try_from(began.elapsed().as_micros())?;
            latencies.record(micros.max(1))?;
            due = due.after(interval);
        }
        Ok(latencies)
    }

    fn exchange(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request)?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.answer[filled..])?;
            if read == 0 {
                bail!("the connection was closed within an answer");
            }
            filled += read;
            if let Some(length) = answer_length(&self.answer[..filled])?
                && filled >= length
            {
                return Ok(());
            }
        }
    }
}

/// How long the answer is with its body, once its head is there.
fn answer_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head])?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        bail!("the answer was {text:?}");
    }
    let body: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("the answer has no Content-Length")?
        .1
        .trim()
        .parse()?;
    if head + 4 + body > ANSWER_BYTES {
        bail!("the answer is longer than {ANSWER_BYTES} bytes");
    }
    Ok(Some(head + 4 + body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_body() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-Length: 3\r\n\r\n";
        assert_eq!(answer_length(&head[..20]).unwrap(), None);
        assert_eq!(answer_length(head).unwrap(), Some(head.len() + 3));
        assert!(answer_length(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
