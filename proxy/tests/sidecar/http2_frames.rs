//! HTTP/2 as raw frames: a peer that says exactly what a test wants, however
//! wrong, and writes down what it hears (RFC 9113).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http2_fields::{decode, encode};

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
}

/// Why a stream or a connection was ended.
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
}

/// Settings by which the other side's frames are easier to read, and which
/// every client may send: no dynamic table.
const SETTINGS: [u8; 6] = [0, 1, 0, 0, 0, 0];

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A HEADERS frame with the fields of a GET at `catalog`, changed by `extra`:
/// a name that is there gets that value, an empty value takes it away.
pub fn get(stream: u32, path: &str, extra: &[(&str, &str)]) -> Vec<u8> {
    let block = encode(&fields("GET", path, extra));
    frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        stream,
        &block,
    )
}

/// As [`get`], a POST whose body is to come.
pub fn post(stream: u32, path: &str, extra: &[(&str, &str)]) -> Vec<u8> {
    let block = encode(&fields("POST", path, extra));
    frame(kind::HEADERS, flag::END_HEADERS, stream, &block)
}

/// The fields of a request to `catalog`.
pub fn fields<'a>(
    method: &'a str,
    path: &'a str,
    extra: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "catalog:8080"),
    ];
    for (name, value) in extra {
        match fields.iter().position(|(known, _)| known == name) {
            Some(at) if value.is_empty() => drop(fields.remove(at)),
            Some(at) => fields[at].1 = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

/// `DATA`.
pub fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), stream, bytes)
}

/// `RST_STREAM`.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, flag::NONE, stream, &code.to_be_bytes())
}

/// `WINDOW_UPDATE`; stream 0 is the connection.
pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, flag::NONE, stream, &by.to_be_bytes())
}

/// `SETTINGS` with these pairs.
pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in pairs {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, flag::NONE, 0, &payload)
}

/// What was heard on a stream.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// The last status, 0 before one.
    pub status: u16,
    /// All fields, informational answers' and trailers' among them.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// It ended as it should.
    pub ended: bool,
    /// It was reset with this code.
    pub reset: Option<u32>,
}

impl Got {
    /// The last value of a field, or nothing.
    pub fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().rfind(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// Nothing more will come.
    pub fn is_over(&self) -> bool {
        self.ended || self.reset.is_some()
    }
}

/// A connection.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    seen: Vec<u8>,
    /// Of a block that is not yet whole.
    block: Vec<u8>,
    /// What was heard on each stream.
    pub streams: BTreeMap<u32, Got>,
    /// The other side says that it goes: the code.
    pub goaway: Option<u32>,
    /// The other side has closed.
    pub ended: bool,
    /// Its latest `SETTINGS`, by name.
    pub settings: BTreeMap<u16, u32>,
    /// Frames heard, by type.
    pub heard: BTreeMap<u8, usize>,
    /// Whether DATA is credited at once.
    pub credits: bool,
}

impl Peer {
    /// Connects to `address` without a word.
    pub async fn silent(address: SocketAddr) -> Self {
        Self::over(crate::attack::connect(address).await)
    }

    /// Speaks over `stream`.
    pub fn over(stream: TcpStream) -> Self {
        Self {
            stream,
            seen: Vec::new(),
            block: Vec::new(),
            streams: BTreeMap::new(),
            goaway: None,
            ended: false,
            settings: BTreeMap::new(),
            heard: BTreeMap::new(),
            credits: true,
        }
    }

    /// A client that has sent its preface and heard the other's settings.
    pub async fn client(address: SocketAddr) -> Self {
        let mut peer = Self::silent(address).await;
        peer.write(PREFACE).await;
        peer.write(&frame(kind::SETTINGS, flag::NONE, 0, &SETTINGS))
            .await;
        peer.until("settings", |peer| peer.heard.contains_key(&kind::SETTINGS))
            .await;
        peer
    }

    /// Writes; false once the other side takes no more.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Writes `bytes` while listening, at most until `patience` has passed:
    /// how many of them were taken.
    pub async fn push(&mut self, bytes: &[u8], patience: Duration) -> usize {
        let mut written = 0;
        let pushing = async {
            while written < bytes.len() && !self.ended {
                let (mut reader, mut writer) = self.stream.split();
                tokio::select! {
                    wrote = writer.write(&bytes[written..]) => match wrote {
                        Ok(more) if more > 0 => written += more,
                        _ => return,
                    },
                    read = reader.read_buf(&mut self.seen) => {
                        self.ended = !matches!(read, Ok(read) if read > 0);
                    }
                }
                while let Some(frame) = self.parse() {
                    self.take(&frame).await;
                }
            }
        };
        let _ = tokio::time::timeout(patience, pushing).await;
        written
    }

    /// Listens until `condition` holds; fails when the connection ends before.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let held = crate::soon(what, self.listen_until(&condition)).await;
        assert!(held, "the connection ended before {what}: {self:?}");
    }

    /// Listens until the connection ends or `patience` has passed; whether it ended.
    pub async fn ends_within(&mut self, patience: Duration) -> bool {
        let _ = tokio::time::timeout(patience, self.listen_until(&|_| false)).await;
        self.ended
    }

    /// Listens for so long.
    pub async fn listen(&mut self, span: Duration) {
        self.ends_within(span).await;
    }

    /// Asks for `path` on stream `stream` and waits for all of the answer.
    pub async fn ask(&mut self, stream: u32, path: &str) -> Got {
        self.write(&get(stream, path, &[])).await;
        self.over_on(stream).await
    }

    /// What was heard on a stream once it is over.
    pub async fn over_on(&mut self, stream: u32) -> Got {
        let is_over = |peer: &Self| peer.streams.get(&stream).is_some_and(Got::is_over);
        self.until("the stream is over", is_over).await;
        self.streams[&stream].clone()
    }

    async fn listen_until(&mut self, condition: &impl Fn(&Self) -> bool) -> bool {
        loop {
            while let Some(frame) = self.parse() {
                self.take(&frame).await;
            }
            if condition(self) {
                return true;
            }
            if self.ended {
                return false;
            }
            let read = self.stream.read_buf(&mut self.seen).await;
            self.ended = !matches!(read, Ok(read) if read > 0);
        }
    }

    fn parse(&mut self) -> Option<Frame> {
        let head = self.seen.get(..9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let payload = self.seen.get(9..9 + length)?.to_vec();
        self.seen.drain(..9 + length);
        Some(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }

    async fn take(&mut self, frame: &Frame) {
        *self.heard.entry(frame.kind).or_default() += 1;
        let is_ack = frame.flags & flag::ACK != 0;
        match frame.kind {
            kind::SETTINGS if !is_ack => {
                for pair in frame.payload.chunks(6) {
                    let name = u16::from_be_bytes([pair[0], pair[1]]);
                    let value = u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]);
                    self.settings.insert(name, value);
                }
                self.write(&self::frame(kind::SETTINGS, flag::ACK, 0, &[]))
                    .await;
            }
            kind::PING if !is_ack => {
                let pong = self::frame(kind::PING, flag::ACK, 0, &frame.payload);
                self.write(&pong).await;
            }
            kind::GOAWAY => self.goaway = Some(number(&frame.payload[4..8])),
            kind::RST_STREAM => self.stream(frame).reset = Some(number(&frame.payload)),
            kind::HEADERS | kind::CONTINUATION => {
                self.block.extend(&frame.payload);
                if frame.flags & flag::END_HEADERS != 0 {
                    let fields = decode(&std::mem::take(&mut self.block));
                    let got = self.stream(frame);
                    if let Some((_, status)) = fields.iter().find(|(name, _)| name == ":status") {
                        got.status = status.parse().unwrap_or(0);
                    }
                    got.fields.extend(fields);
                }
            }
            kind::DATA => {
                let length = frame.payload.len() as u32;
                self.stream(frame).body.extend(&frame.payload);
                if self.credits && length > 0 {
                    let mut credit = window_update(0, length);
                    credit.extend(window_update(frame.stream, length));
                    self.write(&credit).await;
                }
            }
            _ => {}
        }
        if matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.flags & flag::END_STREAM != 0 {
            self.stream(frame).ended = true;
        }
    }

    fn stream(&mut self, frame: &Frame) -> &mut Got {
        self.streams.entry(frame.stream).or_default()
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
