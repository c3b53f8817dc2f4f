//! The chunked transfer coding (RFC 9112, section 7.1), read.
//!
//! ```text
//!              digit              ;                        CR
//!   Size ────────────────▶ Size ─────▶ Extension ─────────────▶ SizeEnd
//!    ▲                                                            │ LF
//!    │ LF        CR              all of it                        ▼
//!   DataEnd ◀────────── DataCr ◀─────────── Data ◀──── size > 0 ──┤
//!                                                        size = 0 │
//!   Ended ◀── LF ── TrailersEnd ◀── CR, empty line ── Trailers ◀──┘
//! ```

use http::HeaderMap;

use super::limits::{EXTENSION_BYTES, HEAD_BYTES};
use super::parse;

/// Digits of a size: more cannot be a number of bytes that anybody sends.
const SIZE_DIGITS: u8 = 16;

/// How far a chunked body has been read.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    /// Of the present chunk.
    remaining: u64,
    digits: u8,
    extension_bytes: usize,
    /// The lines of the trailer section, each with its end.
    section: Vec<u8>,
    trailers: Option<HeaderMap>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataEnd,
    /// In the trailer section; whether the present line has begun.
    Trailers {
        in_line: bool,
    },
    /// After a CR there.
    TrailersEnd {
        in_line: bool,
    },
    Ended,
}

impl Chunked {
    /// Whether the whole body has been read.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The fields that followed the body; once.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Whether fields followed the body that nobody has taken yet.
    pub fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    /// Bytes of the present chunk that are still to come.
    pub fn remaining(&self) -> u64 {
        if self.state == State::Data {
            self.remaining
        } else {
            0
        }
    }

    /// `bytes` of the present chunk were read elsewhere, at most what remains of it.
    pub fn advance(&mut self, bytes: u64) {
        self.remaining = self.remaining.saturating_sub(bytes);
        if self.remaining == 0 && self.state == State::Data {
            self.state = State::DataCr;
        }
    }

    /// Reads `input`, puts the data that is in it behind `data`, and gives how
    /// much was taken: all, unless the body ended before.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn decode(&mut self, input: &[u8], data: &mut Vec<u8>) -> Result<usize, &'static str> {
        let mut at = 0;
        while at < input.len() && self.state != State::Ended {
            if self.state == State::Data {
                let rest = &input[at..];
                let take =
                    usize::try_from(self.remaining).map_or(rest.len(), |n| n.min(rest.len()));
                data.extend_from_slice(&rest[..take]);
                at += take;
                self.advance(take as u64);
                continue;
            }
            self.state = self.step(input[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// Takes one byte that is not data.
    fn step(&mut self, byte: u8) -> Result<State, &'static str> {
        match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => Ok(State::SizeEnd),
            (State::Size, b';') if self.digits > 0 => self.extend(),
            (State::Size, byte) => self.digit(byte),
            (State::Extension, b'\r') => Ok(State::SizeEnd),
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extend(),
            (State::Extension, _) => Err("a chunk's extension has a control character"),
            (State::SizeEnd, b'\n') => {
                self.digits = 0;
                Ok(if self.remaining == 0 {
                    State::Trailers { in_line: false }
                } else {
                    State::Data
                })
            }
            (State::DataCr, b'\r') => Ok(State::DataEnd),
            (State::DataEnd, b'\n') => Ok(State::Size),
            (State::Trailers { in_line }, b'\r') => Ok(State::TrailersEnd { in_line }),
            (State::Trailers { .. }, b'\n') => Err("a trailer's line ends in LF without CR"),
            (State::Trailers { .. }, byte) => self.trailer(byte),
            (State::TrailersEnd { in_line }, b'\n') => {
                if !self.section.is_empty() {
                    self.section.extend_from_slice(b"\r\n");
                }
                if in_line {
                    return Ok(State::Trailers { in_line: false });
                }
                self.end()
            }
            _ => Err("a chunk is not closed by CRLF"),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<State, &'static str> {
        let digit = char::from(byte)
            .to_digit(16)
            .ok_or("a chunk's size is not a hexadecimal number")?;
        self.digits += 1;
        if self.digits > SIZE_DIGITS {
            return Err("a chunk's size has more than 16 digits");
        }
        if self.digits == 1 {
            self.remaining = 0;
        }
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn extend(&mut self) -> Result<State, &'static str> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES {
            return Err("the chunks' extensions are larger than 4 KiB");
        }
        Ok(State::Extension)
    }

    fn trailer(&mut self, byte: u8) -> Result<State, &'static str> {
        self.section.push(byte);
        if self.section.len() > HEAD_BYTES {
            return Err("the trailers are larger than 64 KiB");
        }
        Ok(State::Trailers { in_line: true })
    }

    fn end(&mut self) -> Result<State, &'static str> {
        if !self.section.is_empty() {
            let section = std::mem::take(&mut self.section);
            let trailers = parse::trailers(&section).map_err(|error| match error {
                parse::HeadError::TooLarge => "there are more than 256 trailers",
                parse::HeadError::Malformed(detail) => detail,
            })?;
            self.trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
        }
        Ok(State::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(input: &[u8]) -> Result<(Vec<u8>, usize, Chunked), &'static str> {
        let (mut chunked, mut data) = (Chunked::default(), Vec::new());
        let taken = chunked.decode(input, &mut data)?;
        Ok((data, taken, chunked))
    }

    #[test]
    fn chunks_are_put_together_and_what_follows_is_left() {
        let input = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\nGET";
        let (data, taken, chunked) = decode(input).unwrap();
        assert_eq!(
            (data.as_slice(), taken),
            (&b"hello world"[..], input.len() - 3)
        );
        assert!(chunked.is_ended());
    }

    #[test]
    fn trailers_are_read_and_none_of_them_frames() {
        let input = b"0\r\nx-sum: 1\r\ncontent-length: 7\r\nx-end: 2\r\n\r\n";
        let (_, _, mut chunked) = decode(input).unwrap();
        let trailers = chunked.take_trailers().unwrap();
        assert_eq!(trailers.len(), 2);
        assert_eq!(trailers["x-sum"], "1");
        assert_eq!(trailers["x-end"], "2");
    }

    #[test]
    fn what_is_doubtful_is_refused() {
        for bad in [
            "\r\n",
            " 5\r\n",
            "5 \r\n",
            "+5\r\n",
            "0x5\r\n",
            "g\r\n",
            ";a\r\n",
            "5\nhello",
            "5\r\rhello",
            "5\r\nhello5\r\n",
            "5\r\nhello\n",
            "5\r\nhello\r\r",
            "5;a\n",
            "5;a\rb\r\n",
            "5;\0\r\n",
            "00000000000000000\r\n",
            "fffffffffffffffff\r\n",
            "0\r\nx\r\n\r\n",
            "0\r\nx: a\n\r\n",
            "0\r\n x: a\r\n\r\n",
            "0\r\nx : a\r\n\r\n",
            "0\r\nx: a\r\n b\r\n\r\n",
            "0\r\nx: a\rb\r\n\r\n",
        ] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let extended = format!("5;{}\r\nhello", "x".repeat(EXTENSION_BYTES));
        assert!(decode(extended.as_bytes()).is_err());
    }

    #[test]
    fn a_size_of_sixteen_digits_is_still_a_number() {
        let (_, _, chunked) = decode(b"ffffffffffffffff\r\n").unwrap();
        assert_eq!(chunked.remaining(), u64::MAX);
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_bytes(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in proptest::collection::vec(1..30_usize, 1..60),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X};x\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\na: b\r\n\r\n");
            let (mut chunked, mut data, mut at) = (Chunked::default(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                if at == wire.len() { break; }
                let end = (at + cut).min(wire.len());
                at += chunked.decode(&wire[at..end], &mut data).unwrap();
            }
            prop_assert!(chunked.is_ended());
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(chunked.take_trailers().unwrap().len(), 1);
        }

        #[test]
        fn hostile_bytes_never_panic(input in proptest::collection::vec(prop_oneof![
            any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b';'), Just(b'f')
        ], 0..200)) {
            if let Ok((data, taken, _)) = decode(&input) {
                prop_assert!(data.len() <= taken && taken <= input.len());
            }
        }
    }
}
