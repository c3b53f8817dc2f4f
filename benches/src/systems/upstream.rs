//! The upstreams of every system: nginx with a body of 1 KiB over HTTP/1.1 and
//! HTTP/2, and bytes in bulk ([`crate::bulk`]).

use std::fmt::Display;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::{PATIENCE, fill};
use crate::bulk::{self, Begins};
use crate::identity::Identities;
use crate::process::{Cores, Process, find_program, free_port, loopback};

const CONFIGURATION: &str = include_str!("../../peers/upstream.conf");

/// Where they are, on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// HTTP/1.1.
    pub http1: u16,
    /// HTTP/2 with prior knowledge.
    pub http2: u16,
    /// HTTP/1.1 under mutual TLS.
    pub tls: u16,
    /// Bytes, as soon as one connects.
    pub bulk: u16,
    /// Bytes without end, as the answer to an HTTP/1.1 request.
    pub bulk_http: u16,
    /// The same under mutual TLS: nginx before it.
    pub bulk_tls: u16,
}

/// Starts them on the load's core.
///
/// # Errors
/// When nginx is missing or does not start.
pub fn start(
    cores: Cores,
    dir: &Path,
    identities: &Identities,
) -> anyhow::Result<(Process, Ports)> {
    let program = find_program("nginx")
        .context("the upstream is nginx, which is missing: apt-get install nginx")?;
    let ports = Ports {
        http1: free_port()?,
        http2: free_port()?,
        tls: free_port()?,
        bulk: bulk::upstream(dir, Begins::AtOnce)?,
        bulk_http: bulk::upstream(dir, Begins::AsAnswer)?,
        bulk_tls: free_port()?,
    };
    let file = dir.join("upstream.conf");
    let shown = dir.to_string_lossy();
    let certificates = identities.folder().to_string_lossy();
    let values: [(&str, &dyn Display); 7] = [
        ("DIR", &shown),
        ("CERTIFICATES", &certificates),
        ("UPSTREAM_TLS", &ports.tls),
        ("UPSTREAM", &ports.http1),
        ("UPSTREAM_HTTP2", &ports.http2),
        ("UPSTREAM_BULK_HTTP", &ports.bulk_http),
        ("UPSTREAM_BULK_TLS", &ports.bulk_tls),
    ];
    std::fs::write(&file, fill(CONFIGURATION, &values)?)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(file);
    let mut process = Process::start("upstream", &command, cores.load, cores, dir)?;
    for port in [ports.http1, ports.http2, ports.tls, ports.bulk_tls] {
        process.wait_for(loopback(port), PATIENCE)?;
    }
    Ok((process, ports))
}
