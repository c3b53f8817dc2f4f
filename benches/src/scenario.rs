//! What is asked of each system.

use std::str::FromStr;

use anyhow::{Context, bail};

use crate::systems::{self, Tool};

/// A way in which traffic goes through a system.
///
/// Every system names those that it can do ([`crate::systems::Running`]);
/// a new one is added here, in [`Scenario::ALL`], and to the systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// HTTP/1.1 in and out, nothing else asked for.
    Http1,
    /// The same with circuit breaker, retries, rate limit and timeouts on, none
    /// of which is ever reached.
    Http1Features,
    /// HTTP/2 with prior knowledge in and out, nothing else asked for.
    Http2,
    /// The HTTP/1.1 load, relayed as bytes.
    Http1AsTcp,
    /// A stream of bytes from the upstream, as fast as it goes.
    TcpBulk,
    /// Plaintext HTTP/1.1 in, mutual TLS out.
    MtlsOut,
    /// Mutual TLS in, plaintext HTTP/1.1 out.
    MtlsIn,
    /// Both halves of a hop: plaintext in, mutual TLS between, plaintext out.
    MtlsPair,
    /// The same with one answer without end.
    MtlsBulk,
    /// [`Scenario::MtlsOut`] with such an answer.
    MtlsBulkOut,
    /// [`Scenario::MtlsIn`] with such an answer.
    MtlsBulkIn,
}

/// What a load is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests; their CPU time is told in microseconds.
    Request,
    /// 10^9 bytes; their CPU time is told in milliseconds.
    Gigabyte,
}

/// What a latency is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// One request at a time on each connection.
    Http1,
    /// The same, as streams.
    Http2,
}

impl Scenario {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 11] = [
        Self::Http1,
        Self::Http1Features,
        Self::Http2,
        Self::Http1AsTcp,
        Self::TcpBulk,
        Self::MtlsOut,
        Self::MtlsIn,
        Self::MtlsPair,
        Self::MtlsBulk,
        Self::MtlsBulkOut,
        Self::MtlsBulkIn,
    ];

    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http1Features => "http1-features",
            Self::Http2 => "http2",
            Self::Http1AsTcp => "http1-as-tcp",
            Self::TcpBulk => "tcp-bulk",
            Self::MtlsOut => "mtls-out",
            Self::MtlsIn => "mtls-in",
            Self::MtlsPair => "mtls-pair",
            Self::MtlsBulk => "mtls-bulk",
            Self::MtlsBulkOut => "mtls-bulk-out",
            Self::MtlsBulkIn => "mtls-bulk-in",
        }
    }

    /// Its words in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1, no policy",
            Self::Http1Features => {
                "HTTP/1.1 with circuit breaker, retries, rate limit and timeouts"
            }
            Self::Http2 => "HTTP/2 to HTTP/2, no policy",
            Self::Http1AsTcp => "HTTP/1.1 carried as TCP",
            Self::TcpBulk => "TCP in bulk",
            Self::MtlsOut => "Mutual TLS, outbound: HTTP/1.1 in, mutual TLS out",
            Self::MtlsIn => "Mutual TLS, inbound: mutual TLS in, HTTP/1.1 out",
            Self::MtlsPair => "A pair with mutual TLS between them, both measured",
            Self::MtlsBulk => "The same pair, one large answer",
            Self::MtlsBulkOut => "Mutual TLS, outbound, one large answer",
            Self::MtlsBulkIn => "Mutual TLS, inbound, one large answer",
        }
    }

    /// Whether it is one of mutual TLS, whose figures have a place of their own.
    pub const fn is_mutual_tls(self) -> bool {
        matches!(
            self,
            Self::MtlsOut
                | Self::MtlsIn
                | Self::MtlsPair
                | Self::MtlsBulk
                | Self::MtlsBulkOut
                | Self::MtlsBulkIn
        )
    }

    /// What its load is counted in.
    pub const fn unit(self) -> Unit {
        match self.is_bulk() {
            true => Unit::Gigabyte,
            false => Unit::Request,
        }
    }

    /// Whether its load is [`crate::bulk`]'s.
    pub const fn is_bulk(self) -> bool {
        matches!(
            self,
            Self::TcpBulk | Self::MtlsBulk | Self::MtlsBulkOut | Self::MtlsBulkIn
        )
    }

    /// How its latencies are measured, where it has any.
    pub const fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Http1
            | Self::Http1Features
            | Self::Http1AsTcp
            | Self::MtlsOut
            | Self::MtlsIn
            | Self::MtlsPair => Some(Dialect::Http1),
            Self::Http2 => Some(Dialect::Http2),
            Self::TcpBulk | Self::MtlsBulk | Self::MtlsBulkOut | Self::MtlsBulkIn => None,
        }
    }

    /// The systems beside whose CPU time that of the others is put.
    pub const fn yardsticks(self) -> [&'static str; 2] {
        match self {
            Self::Http1AsTcp => [systems::RELAY, systems::ENVOY],
            Self::TcpBulk => [systems::RELAY_SPLICE, systems::ENVOY],
            _ => [systems::HAPROXY, systems::ENVOY],
        }
    }

    /// The program that makes its load, where the harness does not itself.
    pub const fn generator(self) -> Option<Tool> {
        match self {
            Self::Http2 => Some(Tool {
                program: "h2load",
                install: "apt-get install nghttp2-client",
            }),
            _ if self.is_bulk() => None,
            _ => Some(Tool {
                program: "wrk",
                install: "apt-get install wrk",
            }),
        }
    }
}

impl Unit {
    /// One of it, in words.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Gigabyte => "GB",
        }
    }

    /// More than one of it, in words.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Request => "requests",
            Self::Gigabyte => "GB",
        }
    }

    /// The unit of CPU time for each of it, and how many microseconds that is.
    pub const fn time(self) -> (&'static str, f64) {
        match self {
            Self::Request => ("us", 1.0),
            Self::Gigabyte => ("ms", 1e3),
        }
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        let known = Self::ALL.map(Self::word).join(", ");
        match Self::ALL
            .into_iter()
            .find(|scenario| scenario.word() == word)
        {
            Some(scenario) => Ok(scenario),
            None => bail!("{word:?} is no scenario; there are {known}"),
        }
    }
}

/// Scenarios from the command line: `http1,http1-features`.
///
/// # Errors
/// Where a word is no scenario.
pub fn parse_list(words: &str) -> anyhow::Result<Vec<Scenario>> {
    let mut chosen: Vec<Scenario> = words
        .split(',')
        .map(|word| word.trim().parse())
        .collect::<anyhow::Result<_>>()
        .context("--scenarios takes scenarios, comma separated")?;
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_scenarios_and_others_are_named() {
        let both = parse_list("http1-features, http1,http1").unwrap();
        assert_eq!(both, [Scenario::Http1, Scenario::Http1Features]);
        let error = format!("{:#}", parse_list("http1,http9").unwrap_err());
        assert!(
            error.contains("http9") && error.contains("http1-features"),
            "{error}"
        );
    }
}
