//! A load of a fixed rate over kept-alive connections, each with one request at
//! a time on a schedule of its own, whatever the answers do.
//!
//! A request's latency begins when it was due, not when it could be sent: an
//! answer that comes late makes the next ones late, and that is counted (no
//! coordinated omission). Only where the connection was free and the generator
//! itself woke up late does it begin with the sending.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use hdrhistogram::Histogram;

use crate::caller::Caller;
use crate::clock::Moment;
use crate::scenario::Dialect;
use crate::stop;

/// The load of one run.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where it goes.
    pub address: SocketAddr,
    /// The `Host` that it names.
    pub host: String,
    /// What is spoken.
    pub dialect: Dialect,
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
                scope.spawn(move || {
                    let caller = Caller::connect(load.address, &load.host, load.dialect)?;
                    follow(caller, first, interval, until)
                })
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

fn follow(
    mut caller: Caller,
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
        caller.exchange()?;
        let micros = u64::try_from(began.elapsed().as_micros())?;
        latencies.record(micros.max(1))?;
        due = due.after(interval);
    }
    Ok(latencies)
}
