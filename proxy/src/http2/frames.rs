//! Looks at the heads of incoming frames, for floods that cost a peer little.
//!
//! `h2` itself bounds CONTINUATION frames, empty and small DATA frames, the
//! size of a head, streams that are reset before they were looked at, and
//! streams that are reset for errors. It answers PING and SETTINGS without end,
//! and does not count resets of streams that were looked at (rapid reset,
//! CVE-2023-44487). What is left is counted here, against what the connection
//! achieves: a few nanoseconds for each frame.

use super::serve::Kind;

/// Of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;

/// What a client says before its first frame (RFC 9113, section 3.4).
const CLIENT_PREFACE: usize = 24;

/// Frames without use beyond those with use, within [`FLOOD_SECONDS`]; then the
/// connection is ended with ENHANCE_YOUR_CALM. 1,000 a second: gRPC's
/// bandwidth probes and a page's cancelled requests stay far below.
pub const FLOOD_FRAMES: i64 = 10_000;
/// From a sidecar, behind which thousands may cancel at once.
pub const MESH_FLOOD_FRAMES: i64 = 100_000;
/// See [`FLOOD_FRAMES`].
pub const FLOOD_SECONDS: u64 = 10;

/// Bytes that we send are use as well, so many for one frame: a peer may give
/// the window back for each small message. An answer to PING or SETTINGS is
/// less than this, so that they do not pay for themselves.
const BYTES_FOR_ONE: usize = 32;

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
#[derive(Debug)]
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
    acknowledged: u32,
    going_away: bool,
    /// What a RST_STREAM counts.
    reset: i64,
    /// How many frames without use are suspicious.
    limit: i64,
}

impl Frames {
    /// Of a caller, which says a preface first.
    pub fn of_caller(kind: Kind) -> Self {
        let limit = match kind {
            Kind::Application => FLOOD_FRAMES,
            Kind::Mesh => MESH_FLOOD_FRAMES,
        };
        // It undoes a HEADERS, which counted as use.
        Self::new(CLIENT_PREFACE, 2, limit)
    }

    /// Of an upstream, which resets only what we began.
    pub fn of_upstream() -> Self {
        Self::new(0, 0, FLOOD_FRAMES)
    }

    fn new(skip: usize, reset: i64, limit: i64) -> Self {
        Self {
            head: [0; HEAD],
            filled: 0,
            skip,
            in_fields: false,
            skips_fields: false,
            idle: 0,
            settings: 0,
            acknowledged: 0,
            going_away: false,
            reset,
            limit,
        }
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
                self.acknowledged += u32::from(flags & ACK != 0);
                // Each entry is work, six bytes of it.
                self.idle += if flags & ACK != 0 {
                    1
                } else {
                    1 + (self.skip / 64) as i64
                };
            }
            kind::GO_AWAY => self.going_away = true,
            kind::RESET => self.idle += self.reset,
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
        self.idle >= self.limit
    }

    /// Begins to count anew.
    pub fn forgive(&mut self) {
        self.idle = 0;
    }

    /// SETTINGS frames so far, acknowledgements among them.
    pub fn settings(&self) -> u32 {
        self.settings
    }

    /// Whether the peer has sent SETTINGS of its own.
    pub fn is_introduced(&self) -> bool {
        self.settings > self.acknowledged
    }

    /// Acknowledgements of our own SETTINGS so far.
    pub fn acknowledged(&self) -> u32 {
        self.acknowledged
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = (payload as u32).to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        frame.resize(HEAD + payload, 0);
        frame
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let mut said = vec![b'P'; CLIENT_PREFACE];
        for payload in [0, 1, 5, 300] {
            said.extend(frame(kind::SETTINGS, 0, payload / 6 * 6));
            said.extend(frame(kind::DATA, 0, payload));
        }
        said.extend(frame(kind::GO_AWAY, 0, 8));
        for cut in 1..40 {
            let mut frames = Frames::of_caller(Kind::Application);
            for piece in said.chunks(cut) {
                frames.came(piece);
            }
            assert_eq!(frames.settings(), 4, "cut into pieces of {cut}");
            assert!(frames.is_going_away());
            assert!(!frames.in_head());
        }
    }

    #[test]
    fn a_head_is_seen_as_open_until_its_last_byte() {
        let mut frames = Frames::of_upstream();
        let head = frame(kind::HEADERS, 0, 4);
        let rest = frame(kind::CONTINUATION, END_HEADERS, 4);
        for (bytes, open) in [
            (&head[..3], true),
            (&head[3..], true),
            (&rest[..12], true),
            (&rest[12..], false),
        ] {
            frames.came(bytes);
            assert_eq!(frames.in_head(), open);
        }
        frames.came(&frame(kind::DATA, 0, 100)[..50]);
        assert!(!frames.in_head());
    }

    #[test]
    fn pings_beside_data_are_no_flood_and_pings_alone_are() {
        let mut frames = Frames::of_caller(Kind::Application);
        frames.skip = 0;
        for _ in 0..3 * FLOOD_FRAMES {
            frames.came(&frame(kind::DATA, 0, 100));
            frames.came(&frame(6, 0, 8));
        }
        assert!(!frames.is_suspicious());
        for _ in 0..3 * FLOOD_FRAMES {
            frames.came(&frame(6, 0, 8));
            frames.sent(17);
        }
        assert!(frames.is_suspicious());
    }

    #[test]
    fn an_upstream_that_refuses_every_stream_is_no_flood() {
        let mut frames = Frames::of_upstream();
        for _ in 0..3 * FLOOD_FRAMES {
            frames.came(&frame(kind::RESET, 0, 4));
        }
        assert!(!frames.is_suspicious());
    }
}
