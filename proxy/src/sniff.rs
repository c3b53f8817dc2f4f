//! Carries protocol detection out on a socket: reads until [`Detector`] has
//! made up its mind.

use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{self, Timestamp};
use crate::detect::{Detector, Step, Verdict};
use crate::io::Stream;

/// One read of a connection whose protocol is not known yet.
const READ_BYTES: usize = 2048;

/// From a client's first byte on it has so long to make itself clear, in however
/// many pieces: one that sends a byte now and then would hold a connection for
/// hours that no other bound ends.
pub const SETTLE: Duration = Duration::from_secs(10);

/// What detection came to.
#[derive(Debug)]
pub enum Sniffed {
    /// Decided; these bytes were read.
    Decided(Verdict, Bytes),
    /// The client has said nothing: whoever speaks first decides.
    Silent(Detector),
    /// The client closed without a byte.
    Closed,
}

/// Reads from `stream` until it is clear what it speaks, or that the client is silent.
///
/// # Errors
/// The connection broke.
pub async fn sniff(stream: &Stream, detector: Detector) -> io::Result<Sniffed> {
    let step = detector.start();
    follow(stream, detector, step).await
}

/// As [`sniff`], for a client that has to speak first: within `patience`.
///
/// # Errors
/// The connection broke.
pub async fn sniff_within(
    stream: &Stream,
    detector: Detector,
    patience: Duration,
) -> io::Result<Sniffed> {
    follow(stream, detector, Step::Read(patience)).await
}

/// As [`sniff`] once the client has begun to speak after all.
///
/// # Errors
/// The connection broke.
pub async fn resume(stream: &Stream, detector: Detector) -> io::Result<Sniffed> {
    // What makes this call is that bytes are there, so no silence is waited for.
    follow(stream, detector, Step::Read(crate::detect::HESITATION)).await
}

/// Reads from `stream`, whose port is declared to speak HTTP, until it is clear
/// which, for at most `patience` before the first byte. What is not clear then
/// is `declared`, whose engine says what is wrong with it.
///
/// # Errors
/// The connection broke, or nothing came.
pub async fn sniff_http(
    stream: &Stream,
    detector: Detector,
    declared: Verdict,
    patience: Duration,
) -> io::Result<(Verdict, Bytes)> {
    match follow(stream, detector, Step::Read(patience)).await? {
        Sniffed::Decided(Verdict::Opaque | Verdict::Undecided, seen) => Ok((declared, seen)),
        Sniffed::Decided(verdict, seen) => Ok((verdict, seen)),
        Sniffed::Silent(_) | Sniffed::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn follow(stream: &Stream, mut detector: Detector, mut step: Step) -> io::Result<Sniffed> {
    let mut settled_by = None;
    loop {
        step = match step {
            Step::Read(wait) => match read(stream, wait, settled_by).await? {
                Read::Bytes(bytes) => {
                    settled_by.get_or_insert_with(|| clock::now().after(SETTLE));
                    detector.feed(&bytes)
                }
                Read::Silent => detector.silent(),
                Read::Closed if detector.has_seen() => Step::Decided(Verdict::Opaque),
                Read::Closed => return Ok(Sniffed::Closed),
            },
            Step::Race => return Ok(Sniffed::Silent(detector)),
            Step::Decided(verdict) => {
                return Ok(Sniffed::Decided(verdict, detector.into_seen().into()));
            }
        };
    }
}

enum Read {
    Bytes(Vec<u8>),
    Silent,
    Closed,
}

async fn read(stream: &Stream, wait: Duration, settled_by: Option<Timestamp>) -> io::Result<Read> {
    let now = clock::now();
    let wait = settled_by.map_or(wait, |by| wait.min(by.since(now)));
    let reading = async {
        loop {
            stream.readable().await?;
            let mut bytes = Vec::with_capacity(READ_BYTES);
            match stream.try_read_buf(&mut bytes) {
                Ok(0) => return Ok(Read::Closed),
                Ok(_) => return Ok(Read::Bytes(bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    tokio::time::timeout(wait, reading)
        .await
        .unwrap_or(Ok(Read::Silent))
}
