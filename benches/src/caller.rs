//! One connection that asks and waits for the answer, again and again: HTTP/1.1
//! over a socket, or HTTP/2 with one stream at a time.
//!
//! Small on purpose: what it costs is on the load's core and in the latencies.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::http2_frames::{self, Reply};
use crate::scenario::Dialect;
use crate::tls::{Client, Session};

/// An answer that takes longer is an error, and ends the measurement.
const PATIENCE: Duration = Duration::from_secs(5);
/// The head and body of an answer, at most.
const ANSWER_BYTES: usize = 16 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Caller {
    stream: TcpStream,
    speech: Speech,
    answer: Vec<u8>,
}

#[derive(Debug)]
enum Speech {
    Http1 { request: Vec<u8> },
    Http2 { headers: Vec<u8>, next_stream: u32 },
}

impl Caller {
    /// Connects to `address`; requests will name `host`.
    ///
    /// # Errors
    /// When nobody listens, or not in this dialect.
    pub fn connect(address: SocketAddr, host: &str, dialect: Dialect) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let speech = match dialect {
            Dialect::Http1 => Speech::Http1 { request: get(host) },
            Dialect::Http2 => {
                (&stream).write_all(&http2_frames::preface())?;
                Speech::Http2 {
                    headers: http2_frames::get_headers(host),
                    next_stream: 1,
                }
            }
        };
        Ok(Self {
            stream,
            speech,
            answer: vec![0; ANSWER_BYTES],
        })
    }

    /// Asks, and reads the answer to its end.
    ///
    /// # Errors
    /// The connection breaks, nothing comes, or the answer is not 200.
    pub fn exchange(&mut self) -> anyhow::Result<()> {
        match &mut self.speech {
            Speech::Http1 { request } => {
                self.stream.write_all(request)?;
                read_answer(&mut self.stream, &mut self.answer)
            }
            Speech::Http2 {
                headers,
                next_stream,
            } => {
                let stream_id = *next_stream;
                *next_stream += 2;
                self.stream
                    .write_all(&http2_frames::headers_frame(stream_id, headers))?;
                read_reply(&mut self.stream, &mut self.answer, stream_id)
            }
        }
    }
}

/// A GET without a body.
fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// An idle connection.
#[derive(Debug)]
pub enum Held {
    /// As it is.
    Plain(TcpStream),
    /// In mutual TLS.
    Tls(Box<Session>),
}

/// Connects from a loopback address of its own and asks once over HTTP/1.1, in
/// mutual TLS where there is a client of it; what is given stays open and idle.
///
/// # Errors
/// As [`Caller::exchange`].
pub fn idle(
    source: IpAddr,
    address: SocketAddr,
    host: &str,
    client: Option<&Client>,
    scratch: &mut Vec<u8>,
) -> anyhow::Result<Held> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    connect(&socket, &address)
        .with_context(|| format!("cannot connect from {source} to {address}"))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    scratch.resize(ANSWER_BYTES, 0);
    let Some(client) = client else {
        stream.write_all(&get(host))?;
        read_answer(&mut stream, scratch)?;
        return Ok(Held::Plain(stream));
    };
    let mut session = client.shake_hands(stream)?;
    session.write_all(&get(host))?;
    read_answer(&mut session, scratch)?;
    Ok(Held::Tls(Box::new(session)))
}

fn read_answer(stream: &mut impl Read, answer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut answer[filled..])?;
        if read == 0 {
            bail!("the connection was closed within an answer");
        }
        filled += read;
        if let Some(length) = answer_length(&answer[..filled])?
            && filled >= length
        {
            return Ok(());
        }
    }
}

fn read_reply(stream: &mut TcpStream, buffer: &mut [u8], stream_id: u32) -> anyhow::Result<()> {
    let mut filled = 0;
    let mut reply = Reply::new(stream_id);
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            bail!("the connection was closed within an answer");
        }
        filled += read;
        let taken = reply.take(&buffer[..filled])?;
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
        if !reply.to_send.is_empty() {
            stream.write_all(&reply.to_send)?;
            reply.to_send.clear();
        }
        if reply.ended && filled == 0 {
            return Ok(());
        }
        if filled == buffer.len() {
            bail!("a frame is longer than {ANSWER_BYTES} bytes");
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
