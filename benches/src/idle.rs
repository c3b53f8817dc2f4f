//! Memory at rest, and over idle connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::caller::{self, Held};
use crate::proc_stat::{self, Memory};
use crate::process;
use crate::scenario::Scenario;
use crate::stop;
use crate::systems::{Running, Stage, System};
use crate::tls::Client;

/// After the start, before memory at rest is read.
const REST: Duration = Duration::from_secs(2);
/// After connections were opened or closed, before memory is read.
const SETTLE: Duration = Duration::from_secs(5);
/// Connections from one loopback address; each address has ports of its own.
const PER_SOURCE: u32 = 5_000;
/// The harness's own descriptors, and a proxy's beside those of connections.
const OTHER_DESCRIPTORS: u64 = 1_024;

/// What idle connections are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// HTTP/1.1 as it is.
    Plain,
    /// HTTP/1.1 in mutual TLS, which the system itself takes.
    Tls,
}

/// What a system holds.
#[derive(Clone, Debug, Serialize)]
pub struct IdleReport {
    /// The system.
    pub system: &'static str,
    /// What they are.
    pub kind: Connections,
    /// Idle connections.
    pub connections: u32,
    /// After its start, before anything was asked of it.
    pub at_rest: Memory,
    /// Over the idle connections, each of which has made one request.
    pub open: Memory,
    /// After they were closed.
    pub closed: Memory,
}

impl IdleReport {
    /// Resident KiB for each connection, over memory at rest.
    pub fn kib_per_connection(&self) -> f64 {
        let grown = self.open.rss_bytes as f64 - self.at_rest.rss_bytes as f64;
        grown / 1024.0 / f64::from(self.connections.max(1))
    }
}

/// Lets this process, and what it starts, have a descriptor for each of
/// `connections`, and where the machine allows it one for an upstream's beside it.
///
/// # Errors
/// As [`process::allow_descriptors`].
pub fn allow(connections: u32) -> anyhow::Result<()> {
    let connections = u64::from(connections);
    process::allow_descriptors(
        connections + OTHER_DESCRIPTORS,
        2 * connections + OTHER_DESCRIPTORS,
    )
}

/// Starts `system` alone and opens `connections`; `None` of one that is no
/// process or does not speak so.
///
/// # Errors
/// When it does not start or does not answer each connection.
pub fn measure(
    system: &System,
    stage: &Stage,
    connections: u32,
    kind: Connections,
) -> anyhow::Result<Option<IdleReport>> {
    allow(connections)?;
    let running = (system.start)(stage)?;
    let Some((pid, way)) = way(stage, &running, kind)? else {
        return Ok(None);
    };
    let memory = || proc_stat::memory(pid);
    stop::sleep(REST)?;
    let at_rest = memory()?;
    let opened = open(&way, connections)?;
    stop::sleep(SETTLE)?;
    let open = memory()?;
    drop(opened);
    stop::sleep(SETTLE)?;
    let report = IdleReport {
        system: system.name,
        kind,
        connections,
        at_rest,
        open,
        closed: memory()?,
    };
    eprintln!(
        "{}: {:.1} MiB at rest, {:.1} over {connections} idle connections ({kind:?}, {:.1} KiB each), {:.1} after them",
        system.name,
        report.at_rest.rss_mib(),
        report.open.rss_mib(),
        report.kib_per_connection(),
        report.closed.rss_mib()
    );
    Ok(Some(report))
}

/// How one is opened.
struct Way {
    address: SocketAddr,
    host: &'static str,
    client: Option<Client>,
}

/// Which process is measured, and how connections to it are opened.
fn way(stage: &Stage, running: &Running, kind: Connections) -> anyhow::Result<Option<(u32, Way)>> {
    let plain = || {
        let target = running.target(Scenario::Http1)?;
        let way = Way {
            address: target.address,
            host: target.host,
            client: None,
        };
        Some((*target.pids.first()?, way))
    };
    match (kind, running.door) {
        (Connections::Plain, _) => Ok(plain()),
        (Connections::Tls, None) => Ok(None),
        (Connections::Tls, Some(door)) => {
            let way = Way {
                address: door.address,
                host: "plain",
                client: Some(Client::new(&stage.identities, door.alpn)?),
            };
            Ok(Some((door.pid, way)))
        }
    }
}

fn open(way: &Way, connections: u32) -> anyhow::Result<Vec<Held>> {
    let mut scratch = Vec::new();
    (0..connections)
        .map(|index| {
            stop::check()?;
            // 127.0.1.1, 127.0.1.2, ...
            let address = u32::from(Ipv4Addr::new(127, 0, 1, 1)) + index / PER_SOURCE;
            let source = IpAddr::V4(Ipv4Addr::from(address));
            caller::idle(
                source,
                way.address,
                way.host,
                way.client.as_ref(),
                &mut scratch,
            )
            .with_context(|| format!("connection {index}"))
        })
        .collect()
}
