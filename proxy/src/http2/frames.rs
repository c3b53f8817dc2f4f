//! Looks at the heads of incoming frames, for floods that cost a peer little.
//!
//! `h2` itself bounds CONTINUATION frames, empty and small DATA frames, the
//! size of a head, streams that are reset before they were looked at, and
//! streams that are reset for errors. It answers PING and SETTINGS without end,
//! and does not count resets of streams that were looked at (rapid reset,
//! CVE-2023-44487). What is left is counted here, against what the connection
//! achieves: a few nanoseconds for each frame.

/// Of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;

/// What a client says before its first frame (RFC 9113, section 3.4).
const CLIENT_PREFACE: usize = 24;

/// Frames without use beyond those with use, within [`FLOOD_SECONDS`]; then the
/// connection is ended with ENHANCE_YOUR_CALM. 1,000 a second: gRPC's
/// bandwidth probes and a page's cancelled requests stay far below.
pub const FLOOD_FRAMES: i64 = 10_000;
/// See [`FLOOD_FRAMES`].
pub const FLOOD_SECONDS: u64 = 10;

/// Bytes that we send are use as well: so many for one frame.
const BYTES_FOR_ONE: usize = 1024;

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RESET: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const GO_AWAY: u8 = 7;
    pub const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What has come on one connection.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    filled: usize,
    /// Bytes until the next head.
    skip: usize,
    /// A block of fields has begun, and its last frame has not.
    in_fields: bool,
    /// The bytes to skip are fields.
    skips_fields: bool,
    /// Frames without use, less those with use.
    idle: i64,
    settings: u32,
    going_away: bool,
}

impl Frames {
    /// Of a caller, which says a preface first.
    pub fn of_caller() -> Self {
        Self {
            skip: CLIENT_PREFACE,
            ..Self::default()
        }
    }

    /// Of an upstream.
    pub fn of_upstream() -> Self {
        Self::default()
    }

    /// `bytes` came.
    pub fn came(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            if self.filled == 0
                && let Some(head) = bytes.first_chunk::<HEAD>()
            {
                self.frame(*head);
                bytes = &bytes[HEAD..];
                continue;
            }
            let taken = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD {
                self.filled = 0;
                self.frame(self.head);
            }
        }
    }

    fn frame(&mut self, head: [u8; HEAD]) {
        let [high, middle, low, kind, flags, ..] = head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skips_fields = matches!(kind, kind::HEADERS | kind::CONTINUATION);
        match kind {
            kind::DATA if self.skip > 0 || flags & END_STREAM != 0 => self.useful(1),
            kind::HEADERS => {
                self.in_fields = flags & END_HEADERS == 0;
                self.useful(1);
            }
            kind::CONTINUATION => {
                self.in_fields = flags & END_HEADERS == 0;
                self.idle += 1;
            }
            kind::SETTINGS => {
                self.settings += 1;
                // Each entry is work, six bytes of it.
                self.idle += if flags & ACK != 0 {
                    1
                } else {
                    1 + (self.skip / 64) as i64
                };
            }
            kind::GO_AWAY => self.going_away = true,
            // It undoes a HEADERS, which counted as use.
            kind::RESET => self.idle += 2,
            _ => self.idle += 1,
        }
    }

    /// `bytes` were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.useful((bytes / BYTES_FOR_ONE) as i64);
    }

    fn useful(&mut self, frames: i64) {
        self.idle = (self.idle - frames).max(0);
    }

    /// Whether it may be a flood: its time has to be looked at.
    pub fn is_suspicious(&self) -> bool {
        self.idle >= FLOOD_FRAMES
    }

    /// Begins to count anew.
    pub fn forgive(&mut self) {
        self.idle = 0;
    }

    /// SETTINGS frames so far, acknowledgements among them.
    pub fn settings(&self) -> u32 {
        self.settings
    }

    /// Whether the peer said GOAWAY.
    pub fn is_going_away(&self) -> bool {
        self.going_away
    }

    /// Whether a head has come in part.
    pub fn in_head(&self) -> bool {
        self.in_fields || self.filled > 0 || (self.skip > 0 && self.skips_fields)
    }
}

/// Whether [`FLOOD_FRAMES`] since then are a flood.
pub fn is_flood(since: crate::clock::Timestamp, now: crate::clock::Timestamp) -> bool {
    now.since(since).as_secs() < FLOOD_SECONDS
}
