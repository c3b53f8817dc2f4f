//! Protocol detection: what a connection of an undeclared port speaks.
//!
//! Owns the decision, not the sockets. [`Detector`] is pure: it is fed what was
//! read, in whatever pieces it came, and the passing of time.
//!
//! ```text
//!            bytes that settle it
//!  Silent ───────────────────────────► Http1 | Http2 | Mesh… | ForeignTls | Opaque
//!    │ │                                  ▲
//!    │ └── bytes that may yet be HTTP ──► Ambiguous ── 1 s without more ──► Opaque
//!    └── 50 ms ──► Quiet: the server may speak first
//! ```

use std::time::Duration;

use remora_proto::well_known::mesh;

use crate::tls::hello::{self, HANDSHAKE_RECORD, Hello};

/// After so long without a byte from the client, the server may speak first.
pub const SILENCE: Duration = Duration::from_millis(50);

/// A client that began something that may be HTTP has so long for each next
/// piece; then it is taken at its word so far and relayed as it is.
pub const HESITATION: Duration = Duration::from_secs(1);

/// The same for one that began TLS, where that is looked for.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// A request line is settled within so many bytes: longer ones that still look
/// like HTTP are left to the HTTP parser's own limits.
pub const WINDOW_BYTES: usize = 4096;

/// The longest method that is believed to be one.
const METHOD_BYTES: usize = 32;

/// What HTTP/2 with prior knowledge begins with (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks, as far as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More bytes are needed.
    Undecided,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Another sidecar, which sends one HTTP/1 request at a time.
    MeshHttp1,
    /// Another sidecar, which multiplexes.
    MeshHttp2,
    /// Another sidecar, which begins mutual TLS.
    MeshTls,
    /// An application, which begins TLS of its own.
    ForeignTls,
    /// Something else: relayed untouched.
    Opaque,
}

impl Verdict {
    /// Whether another sidecar speaks.
    pub const fn is_mesh(self) -> bool {
        matches!(self, Self::MeshHttp1 | Self::MeshHttp2 | Self::MeshTls)
    }

    /// Whether it is nothing that is understood here, but bytes.
    pub const fn is_bytes(self) -> bool {
        match self {
            Self::ForeignTls | Self::Opaque | Self::Undecided => true,
            Self::Http1 | Self::Http2 => false,
            Self::MeshHttp1 | Self::MeshHttp2 | Self::MeshTls => false,
        }
    }
}

/// Judges the bytes that a client has sent so far, all of them from the first.
///
/// Empty lines before a request line are skipped (RFC 9112, section 2.2), so
/// that a leading CRLF does not make HTTP look like something else.
pub fn judge(bytes: &[u8]) -> Verdict {
    if bytes.first() == Some(&0) {
        return judge_mesh(bytes);
    }
    let blank = bytes
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    let line = &bytes[blank..];
    if line.is_empty() {
        return if blank > 16 {
            Verdict::Opaque
        } else {
            Verdict::Undecided
        };
    }
    let shared = line.len().min(HTTP2_PREFACE.len());
    if line[..shared] == HTTP2_PREFACE[..shared] {
        if shared == HTTP2_PREFACE.len() {
            return Verdict::Http2;
        }
        // `P`, `PR`: still PUT or PROPFIND; longer ones are the preface or nothing.
        return Verdict::Undecided;
    }
    judge_request_line(line)
}

/// A connection from another sidecar begins with NUL, with which neither HTTP
/// nor TLS begins, and the name of what follows.
fn judge_mesh(bytes: &[u8]) -> Verdict {
    let prefaces = [
        (mesh::H1_PREFACE, Verdict::MeshHttp1),
        (mesh::H2_PREFACE, Verdict::MeshHttp2),
    ];
    for (preface, verdict) in prefaces {
        let shared = bytes.len().min(preface.len());
        if bytes[..shared] == preface[..shared] {
            return if shared == preface.len() {
                verdict
            } else {
                Verdict::Undecided
            };
        }
    }
    Verdict::Opaque
}

fn judge_request_line(line: &[u8]) -> Verdict {
    let Some(space) = line.iter().position(|byte| !is_token(*byte)) else {
        return if line.len() > METHOD_BYTES {
            Verdict::Opaque
        } else {
            Verdict::Undecided
        };
    };
    if space == 0 || space > METHOD_BYTES || line[space] != b' ' {
        return Verdict::Opaque;
    }
    let rest = &line[space + 1..];
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let rest = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            if ends_with_version(rest) {
                Verdict::Http1
            } else {
                Verdict::Opaque
            }
        }
        None if rest.iter().any(|byte| *byte < b' ' && *byte != b'\r') => Verdict::Opaque,
        None if line.len() >= WINDOW_BYTES => Verdict::Http1,
        None => Verdict::Undecided,
    }
}

fn ends_with_version(line: &[u8]) -> bool {
    let Some(space) = line.iter().rposition(|byte| *byte == b' ') else {
        return false;
    };
    matches!(line[space + 1..], [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit())
}

/// A character of a method (`token` of RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What to do next with a connection that is being detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read on, for at most so long; then call [`Detector::silent`].
    Read(Duration),
    /// The client is silent: connect upstream, and let whoever speaks first decide.
    Race,
    /// Decided.
    Decided(Verdict),
}

/// Follows one connection to its verdict.
#[derive(Debug, Default)]
pub struct Detector {
    seen: Vec<u8>,
    /// TLS is told apart; without it, it is [`Verdict::Opaque`].
    tls: bool,
    /// What is not TLS is [`Verdict::Opaque`], HTTP included.
    only_tls: bool,
}

impl Detector {
    /// Tells HTTP apart, and TLS too where that is said.
    pub fn of_http(tls: bool) -> Self {
        Self {
            tls,
            ..Self::default()
        }
    }

    /// Tells TLS apart, and nothing else.
    pub fn of_tls() -> Self {
        Self {
            tls: true,
            only_tls: true,
            ..Self::default()
        }
    }

    fn judge(&self) -> Verdict {
        if !self.tls {
            return judge(&self.seen);
        }
        match hello::judge(&self.seen) {
            Hello::Undecided => Verdict::Undecided,
            Hello::Mesh => Verdict::MeshTls,
            Hello::Foreign => Verdict::ForeignTls,
            Hello::NotTls if self.only_tls => Verdict::Opaque,
            Hello::NotTls => judge(&self.seen),
        }
    }

    /// What to do before anything was read.
    pub fn start(&self) -> Step {
        Step::Read(SILENCE)
    }

    /// The client sent `bytes`.
    pub fn feed(&mut self, bytes: &[u8]) -> Step {
        self.seen.extend_from_slice(bytes);
        match self.judge() {
            // A ClientHello takes two segments, and the network may lose one.
            Verdict::Undecided if self.tls && self.seen.first() == Some(&HANDSHAKE_RECORD) => {
                Step::Read(HELLO_PATIENCE)
            }
            Verdict::Undecided => Step::Read(HESITATION),
            verdict => Step::Decided(verdict),
        }
    }

    /// The time that the last step gave has passed without a byte.
    pub fn silent(&self) -> Step {
        if self.seen.is_empty() {
            Step::Race
        } else {
            Step::Decided(Verdict::Opaque)
        }
    }

    /// Whether the client has sent anything.
    pub fn has_seen(&self) -> bool {
        !self.seen.is_empty()
    }

    /// All that was read, to be given on to whoever speaks the protocol.
    pub fn into_seen(self) -> Vec<u8> {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_http() {
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.0\n",
            "CONNECT a:1 HTTP/1.1\r\n",
            "M-SEARCH /x HTTP/1.1\r\n",
        ] {
            assert_eq!(judge(request.as_bytes()), Verdict::Http1, "{request:?}");
        }
        assert_eq!(judge(HTTP2_PREFACE), Verdict::Http2);
        assert_eq!(judge(mesh::H1_PREFACE), Verdict::MeshHttp1);
        assert_eq!(judge(b"\0remora-h2\nPRI"), Verdict::MeshHttp2);
        assert_eq!(judge(b"\0remora-h"), Verdict::Undecided);
    }

    #[test]
    fn other_protocols_are_opaque() {
        let others: [&[u8]; 7] = [
            b"\x16\x03\x01\x02\x00\x01",
            b"*1\r\n$4\r\nPING\r\n",
            b"GET key\r\n",
            b"SSH-2.0-OpenSSH_9\r\n",
            b"EHLO example.org\r\n",
            b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
            b"PRI * HTTP/2.0\r\nX",
        ];
        for bytes in others {
            assert_eq!(judge(bytes), Verdict::Opaque, "{bytes:?}");
        }
    }

    #[test]
    fn a_silent_client_lets_the_server_speak() {
        let detector = Detector::default();
        assert_eq!(detector.start(), Step::Read(SILENCE));
        assert_eq!(detector.silent(), Step::Race);
    }

    #[test]
    fn tls_is_told_apart_only_where_it_is_looked_for() {
        let begun = b"\x16\x03\x01\x00\xff\x01";
        assert_eq!(
            Detector::default().feed(begun),
            Step::Decided(Verdict::Opaque)
        );
        let both = [Detector::of_http(true), Detector::of_tls()];
        for mut detector in both {
            assert_eq!(detector.feed(begun), Step::Read(HELLO_PATIENCE));
            assert_eq!(detector.silent(), Step::Decided(Verdict::Opaque));
        }
        let request = b"GET / HTTP/1.1\r\n";
        let verdict = |mut detector: Detector| detector.feed(request);
        assert_eq!(
            verdict(Detector::of_http(true)),
            Step::Decided(Verdict::Http1)
        );
        assert_eq!(verdict(Detector::of_tls()), Step::Decided(Verdict::Opaque));
    }

    #[test]
    fn a_client_that_hesitates_within_a_line_is_relayed() {
        let mut detector = Detector::default();
        assert_eq!(detector.feed(b"PING"), Step::Read(HESITATION));
        assert_eq!(detector.silent(), Step::Decided(Verdict::Opaque));
        assert_eq!(detector.into_seen(), b"PING");
    }

    proptest! {
        #[test]
        fn any_segmentation_gives_the_same_verdict(
            which in 0_usize..5,
            cuts in proptest::collection::vec(1_usize..9, 0..80),
        ) {
            let inputs: [(&[u8], Verdict); 5] = [
                (b"\0remora-h1\nGET / HTTP/1.1\r\n", Verdict::MeshHttp1),
                (b"\r\nPOST /orders?id=1 HTTP/1.1\r\nHost: shop\r\n\r\n", Verdict::Http1),
                (HTTP2_PREFACE, Verdict::Http2),
                (b"PUT /a HTTP/1.0\r\n\r\n", Verdict::Http1),
                (b"GET somekey\r\n", Verdict::Opaque),
            ];
            let (bytes, expected) = inputs[which];
            let mut detector = Detector::default();
            let mut rest = bytes;
            let mut cuts = cuts.into_iter();
            let mut verdict = Verdict::Undecided;
            while !rest.is_empty() && verdict == Verdict::Undecided {
                let piece = cuts.next().unwrap_or(rest.len()).min(rest.len());
                if let Step::Decided(decided) = detector.feed(&rest[..piece]) {
                    verdict = decided;
                }
                rest = &rest[piece..];
            }
            prop_assert_eq!(verdict, expected);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            let _ = judge(&bytes);
        }
    }
}
