//! Finds the end of a head, however it is cut into pieces.
//!
//! Each line must end in CRLF: a reader that takes a bare LF for a line's end
//! and one that does not would see two different requests.

use std::ops::Range;

use super::limits::{HEAD_BYTES, HEAD_FIELDS, LEADING_LINES};

/// Why a head is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Beyond [`HEAD_BYTES`] or [`HEAD_FIELDS`].
    #[error("the head is larger than 64 KiB or has more than 256 fields")]
    TooLarge,
    /// Not well-formed; the words say what is wrong.
    #[error("{0}")]
    Malformed(&'static str),
}

/// How far a head has been looked through.
#[derive(Debug, Default)]
pub struct HeadScan {
    scanned: usize,
    /// Where the head begins, after empty lines.
    start: usize,
    /// Where the present line begins.
    line: usize,
    lines: usize,
    skipped: usize,
}

impl HeadScan {
    /// Where the head lies in `bytes`, with the empty line that ends it; `None`
    /// as long as it has not come whole. `bytes` begins with all that earlier
    /// calls were given.
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, HeadError> {
        let from = self.scanned;
        self.scanned = bytes.len();
        for found in memchr::memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()) {
            let at = from + found;
            if at == 0 || bytes[at - 1] != b'\r' || at == self.line {
                return Err(HeadError::Malformed("a line ends in LF without CR"));
            }
            let is_empty = at - 1 == self.line;
            self.line = at + 1;
            if !is_empty {
                self.check_beginning(bytes)?;
                self.lines += 1;
                if self.lines > HEAD_FIELDS + 1 {
                    return Err(HeadError::TooLarge);
                }
            } else if self.lines > 0 {
                let head = self.start..at + 1;
                return if head.len() > HEAD_BYTES {
                    Err(HeadError::TooLarge)
                } else {
                    Ok(Some(head))
                };
            } else {
                self.start = at + 1;
                self.skipped += 1;
                if self.skipped > LEADING_LINES {
                    return Err(HeadError::Malformed("empty lines come before the head"));
                }
            }
        }
        self.check_beginning(bytes)?;
        if bytes.len() - self.start > HEAD_BYTES {
            return Err(HeadError::TooLarge);
        }
        Ok(None)
    }

    /// What cannot become a head is not waited for: TLS, or binary.
    fn check_beginning(&self, bytes: &[u8]) -> Result<(), HeadError> {
        match bytes.get(self.start) {
            None | Some(b'\r' | b'!'..=b'~') => Ok(()),
            Some(_) => Err(HeadError::Malformed("it does not begin as HTTP/1 does")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(bytes: &[u8]) -> Result<Option<Range<usize>>, HeadError> {
        HeadScan::default().find(bytes)
    }

    #[test]
    fn a_head_ends_with_its_empty_line() {
        assert_eq!(find(b"GET / HTTP/1.1\r\na: b\r\n\r\nrest"), Ok(Some(0..24)));
        assert_eq!(find(b"\r\n\r\nA\r\n\r\n"), Ok(Some(4..9)));
        assert_eq!(find(b"GET / HTTP/1.1\r\na: b\r\n"), Ok(None));
    }

    #[test]
    fn bare_line_feeds_and_other_protocols_are_refused_at_once() {
        for bad in [
            &b"GET / HTTP/1.1\n"[..],
            b"\n",
            b"A\r\nb: c\n\r\n",
            b"\r\n\n",
            b"\x16\x03\x01",
            b"\r\n\r\n\r\n\r\n\r\n",
            b" GET",
        ] {
            assert!(matches!(find(bad), Err(HeadError::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_bounds_hold_before_the_end_has_come() {
        assert_eq!(find(&[b'a'; HEAD_BYTES + 1]), Err(HeadError::TooLarge));
        let fields = format!("A\r\n{}", "b: c\r\n".repeat(HEAD_FIELDS + 1));
        assert_eq!(find(fields.as_bytes()), Err(HeadError::TooLarge));
        let fields = format!("A\r\n{}\r\n", "b: c\r\n".repeat(HEAD_FIELDS));
        assert!(find(fields.as_bytes()).is_ok_and(|head| head.is_some()));
    }

    proptest! {
        #[test]
        fn pieces_are_found_as_the_whole_is(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b'a'), Just(b':'), Just(b' ')
            ], 0..40),
            cut in 0..40_usize,
        ) {
            // Mostly well-formed, so that the interesting cases come up.
            let text = String::from_utf8(bytes).unwrap().replace('\n', "\r\n");
            let cut = cut.min(text.len());
            let mut scan = HeadScan::default();
            let pieces = match scan.find(&text.as_bytes()[..cut]) {
                Ok(None) => scan.find(text.as_bytes()),
                found => found,
            };
            prop_assert_eq!(pieces, find(text.as_bytes()));
        }
    }
}
