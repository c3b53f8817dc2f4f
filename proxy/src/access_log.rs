//! The access log: one JSON object a line, to standard output or a file.
//!
//! Workers never wait for it: lines go through a bounded queue to a thread of
//! their own; what does not fit is dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::Serialize;

use crate::config::AccessLog;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 8192;

/// A line is cut to so many bytes of a path that the caller chose.
const PATH_BYTES: usize = 2048;

/// One request, or one raw connection, as the log tells it.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// Milliseconds since the Unix epoch, when it began.
    pub at_ms: u64,
    /// `outbound` or `inbound`.
    pub direction: &'static str,
    /// `http` or `tcp`.
    pub protocol: &'static str,
    /// The service, or for inbound the pod's port.
    pub service: &'a str,
    /// The route by whose rule it went: `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// The rule's name, or its place in the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// The rule's backend: `namespace/name:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<&'a str>,
    /// The pod (or address) that answered, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'a str>,
    /// The caller's address.
    pub peer: std::net::SocketAddr,
    /// The SPIFFE id that the caller has shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<&'a str>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// The path with its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// The status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why Remora itself answered, or how the exchange broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Of a fallback's answer: what it stands in for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<&'a str>,
    /// `grpc-status`, for a gRPC call that got one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// Attempts made.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// To the response's headers.
    pub latency_ms: f64,
    /// To the end of the response's body.
    pub duration_ms: f64,
    /// Bytes of the response's body (or from the upstream).
    pub received_bytes: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where workers hand their lines in.
#[derive(Debug, Default)]
pub struct AccessLogger {
    queue: Option<SyncSender<Vec<u8>>>,
    dropped: AtomicU64,
}

impl AccessLogger {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or no thread can be started.
    pub fn open(target: &AccessLog) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match target {
            AccessLog::Off => return Ok(Self::default()),
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => Box::new(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|error| {
                        io::Error::new(
                            error.kind(),
                            format!("access log {}: {error}", path.display()),
                        )
                    })?,
            ),
        };
        let (queue, lines) = sync_channel(QUEUE_LINES);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(&lines, output))?;
        Ok(Self {
            queue: Some(queue),
            dropped: AtomicU64::new(0),
        })
    }

    /// Whether anybody wants lines.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands a line in, or counts it as dropped when the writer is behind.
    pub fn write(&self, line: &Line<'_>) {
        let Some(queue) = &self.queue else { return };
        // serde_json escapes control characters, so no path can forge a line.
        let Ok(mut bytes) = serde_json::to_vec(line) else {
            return;
        };
        bytes.push(b'\n');
        if queue.try_send(bytes).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Lines that were dropped because the writer was behind.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// `path` cut to what the log takes.
pub fn shortened(path: &str) -> &str {
    if path.len() <= PATH_BYTES {
        return path;
    }
    let end = (0..=PATH_BYTES)
        .rev()
        .find(|end| path.is_char_boundary(*end))
        .unwrap_or(0);
    &path[..end]
}

fn write_lines(lines: &Receiver<Vec<u8>>, output: Box<dyn Write + Send>) {
    let mut output = BufWriter::new(output);
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        let mut written = output.write_all(&line);
        while let Ok(line) = lines.try_recv() {
            written = written.and_then(|()| output.write_all(&line));
        }
        let written = written.and_then(|()| output.flush());
        if let Err(error) = &written
            && !failing
        {
            tracing::error!(%error, "the access log cannot be written; check the disk and the file's rights");
        }
        failing = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(path: &'a str) -> Line<'a> {
        Line {
            at_ms: 1,
            direction: "outbound",
            protocol: "http",
            service: "shop/catalog",
            route: None,
            rule: None,
            backend: None,
            endpoint: Some("catalog-1"),
            peer: "10.0.0.1:5".parse().unwrap(),
            identity: None,
            method: Some("GET"),
            path: Some(path),
            status: Some(200),
            grpc_status: None,
            reason: None,
            instead_of: None,
            attempts: 1,
            latency_ms: 1.0,
            duration_ms: 2.0,
            received_bytes: 3,
        }
    }

    #[test]
    fn a_path_cannot_forge_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let logger = AccessLogger::open(&AccessLog::File(path.clone())).unwrap();
        logger.write(&line("/a\n{\"forged\":true}"));
        let mut text = String::new();
        for _ in 0..200 {
            text = std::fs::read_to_string(&path).unwrap();
            if text.ends_with('\n') {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["path"], "/a\n{\"forged\":true}");
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        let error = AccessLogger::open(&AccessLog::File("/nonexistent/x.log".into())).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x.log"));
    }

    #[test]
    fn long_paths_are_cut_between_characters() {
        let long = "ä".repeat(2000);
        assert_eq!(shortened(&long).len(), 2048);
        assert_eq!(shortened("/a"), "/a");
    }
}
