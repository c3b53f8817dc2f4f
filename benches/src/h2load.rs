//! The load of HTTP/2 that a system can just bear: h2load, from Debian's
//! nghttp2-client.

use std::num::NonZeroU16;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::load::Carried;
use crate::process::{Process, find_program};
use crate::systems::{Stage, Target};

/// How much is in flight, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Http2Load {
    /// Connections.
    pub connections: u16,
    /// Streams on each.
    pub streams: u16,
}

/// [`DEFAULT`] as it is written on the command line.
pub const DEFAULT_WORDS: &str = "8x32";
/// The load of the tables.
pub const DEFAULT: Http2Load = Http2Load {
    connections: 8,
    streams: 32,
};

impl FromStr for Http2Load {
    type Err = anyhow::Error;

    /// `8x32`: 8 connections with 32 streams each.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let both = text.split_once('x');
        let (connections, streams) =
            both.with_context(|| format!("{text:?} is not CONNECTIONSxSTREAMS"))?;
        Ok(Self {
            connections: connections.parse::<NonZeroU16>()?.get(),
            streams: streams.parse::<NonZeroU16>()?.get(),
        })
    }
}

/// h2load takes so much longer than its load at most.
const OVERTIME: Duration = Duration::from_secs(10);

/// Loads `target` for `span` with prior knowledge.
///
/// # Errors
/// h2load is missing or fails, or any answer was not 2xx.
pub fn run(stage: &Stage, target: &Target, span: Duration) -> anyhow::Result<Carried> {
    let program =
        find_program("h2load").context("h2load is missing: apt-get install nghttp2-client")?;
    let seconds = span.as_secs().max(1);
    let mut command = Command::new(program);
    command
        .args(["-t1", &format!("-c{}", stage.http2.connections)])
        .arg(format!("-m{}", stage.http2.streams))
        .arg(format!("-D{seconds}"))
        .arg(format!("--connect-to={}", target.address))
        .arg(format!("http://{}/", target.host));
    let cores = stage.cores;
    let mut h2load = Process::start("h2load", &command, cores.load, cores, &stage.dir)?;
    let status = h2load.wait(span + OVERTIME)?;
    let said = h2load.said();
    let outcome = Outcome::read(&said).filter(|_| status.success());
    let Some(outcome) = outcome else {
        bail!("h2load failed ({status}): {said}");
    };
    if outcome.bad > 0 || outcome.good == 0 {
        bail!(
            "h2load saw {} answers that were not well, and {} that were",
            outcome.bad,
            outcome.good
        );
    }
    Ok(Carried {
        units: outcome.good as f64,
        span: Duration::from_secs(seconds),
    })
}

#[derive(Debug, PartialEq)]
struct Outcome {
    good: u64,
    bad: u64,
}

impl Outcome {
    /// Of the two lines `requests: 9 total, ..., 9 succeeded, 0 failed, ...` and
    /// `status codes: 9 2xx, 0 3xx, ...`.
    fn read(said: &str) -> Option<Self> {
        let counts = |begin: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(begin))?;
            line.split(',')
                .map(|part| {
                    let (count, name) = part.trim().split_once(' ')?;
                    Some((name, count.parse::<u64>().ok()?))
                })
                .collect::<Option<Vec<_>>>()
        };
        let requests = counts("requests:")?;
        let statuses = counts("status codes:")?;
        let sum = |counts: &[(&str, u64)], names: &[&str]| -> u64 {
            let named = counts.iter().filter(|(name, _)| names.contains(name));
            named.map(|(_, count)| count).sum()
        };
        Some(Self {
            good: sum(&requests, &["succeeded"]),
            bad: sum(&requests, &["failed", "errored", "timeout"])
                + sum(&statuses, &["3xx", "4xx", "5xx"]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_connections_and_streams() {
        let load: Http2Load = "8x32".parse().unwrap();
        assert_eq!((load.connections, load.streams), (8, 32));
        assert!("8".parse::<Http2Load>().is_err() && "8x0".parse::<Http2Load>().is_err());
    }

    #[test]
    fn good_and_bad_answers_are_read() {
        let said = "finished in 1.00s\n\
            requests: 20 total, 64 started, 20 done, 17 succeeded, 1 failed, 2 errored, 3 timeout\n\
            status codes: 17 2xx, 0 3xx, 1 4xx, 4 5xx\n";
        assert_eq!(Outcome::read(said), Some(Outcome { good: 17, bad: 11 }));
        assert_eq!(Outcome::read("no route"), None);
    }
}
