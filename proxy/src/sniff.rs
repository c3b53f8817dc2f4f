//! Carries protocol detection out on a socket: reads until [`Detector`] has
//! made up its mind.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::detect::{Detector, Step, Verdict};

/// One read of a connection whose protocol is not known yet.
const READ_BYTES: usize = 2048;

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
pub async fn sniff(stream: &TcpStream) -> io::Result<Sniffed> {
    let detector = Detector::default();
    let step = detector.start();
    follow(stream, detector, step).await
}

/// As [`sniff`] once the client has begun to speak after all.
///
/// # Errors
/// The connection broke.
pub async fn resume(stream: &TcpStream, detector: Detector) -> io::Result<Sniffed> {
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
    stream: &TcpStream,
    declared: Verdict,
    patience: Duration,
) -> io::Result<(Verdict, Bytes)> {
    match follow(stream, Detector::default(), Step::Read(patience)).await? {
        Sniffed::Decided(Verdict::Opaque | Verdict::Undecided, seen) => Ok((declared, seen)),
        Sniffed::Decided(verdict, seen) => Ok((verdict, seen)),
        Sniffed::Silent(_) | Sniffed::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn follow(stream: &TcpStream, mut detector: Detector, mut step: Step) -> io::Result<Sniffed> {
    loop {
        step = match step {
            Step::Read(wait) => match read(stream, wait).await? {
                Read::Bytes(bytes) => detector.feed(&bytes),
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

async fn read(stream: &TcpStream, wait: Duration) -> io::Result<Read> {
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
