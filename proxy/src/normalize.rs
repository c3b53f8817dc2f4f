//! The one form of a path in which rules are compared with it, and in which the
//! application receives it where rules name paths. Pure.
//!
//! The steps of RFC 3986, section 6.2.2 (case of percent-encodings, dot
//! segments), and `//` as `/`. Every character has one form: what may stand in a
//! path as it is (`pchar`, section 3.3) does, not only what is unreserved (a rule
//! of `/@admin` is one of `/%40admin` to every server), and what may not is
//! encoded. What servers are known to read in more than one way is no path here:
//! whoever is let through by one reading could be served by the other.

use std::borrow::Cow;
use std::fmt;

/// Why a path has no one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// It does not begin with `/`.
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    Percent,
    /// An encoded `/` or `\`, or a raw `\`.
    Slash,
    /// A control character or a space, encoded (but for the space) or not.
    Control,
    /// A `;`, encoded or not: parameters of a segment, which some servers cut off.
    Parameter,
    /// A `?` or `#` where only a path may be.
    Delimiter,
    /// Encoded twice.
    Twice,
    /// Not UTF-8 once it is decoded, or not encoded though it is not ASCII.
    Utf8,
    /// A character that some servers take for `.`, `/` or `\` (Unicode NFKC).
    Lookalike,
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not begin with /",
            Self::Percent => "the path has a % without two hexadecimal digits",
            Self::Slash => "the path has an encoded slash, or a backslash",
            Self::Control => "the path has a control character or a space",
            Self::Parameter => "the path has a ;",
            Self::Delimiter => "the path has a ? or # in it",
            Self::Twice => "the path is percent-encoded twice",
            Self::Utf8 => "the path is not UTF-8, or not percent-encoded",
            Self::Lookalike => "the path has a character that passes for . / or \\",
        })
    }
}

/// What is, or has in it, `.`, `/` or `\` by compatibility (Unicode 15, NFKC), and
/// two that only look like `/`.
const LOOKALIKES: [char; 16] = [
    '\u{2024}', '\u{2025}', '\u{2026}', '\u{2044}', '\u{2100}', '\u{2101}', '\u{2105}', '\u{2106}',
    '\u{2215}', '\u{fe19}', '\u{fe30}', '\u{fe52}', '\u{fe68}', '\u{ff0e}', '\u{ff0f}', '\u{ff3c}',
];

/// The normalized form of a path (without its query); it is the same where
/// nothing had to be changed.
///
/// # Errors
/// When it means one thing to one server and another to the next.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, Ambiguity> {
    if !path.starts_with('/') {
        return Err(Ambiguity::NotAbsolute);
    }
    if is_plainly_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let normal = without_dot_segments(&decoded);
    Ok(if normal == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(normal)
    })
}

/// Whether it can be seen, without writing it anew, that nothing is to be
/// changed: nearly always.
fn is_plainly_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte == b'%' {
            let digits = bytes.get(at..at + 2).unwrap_or_default();
            let is_upper = !digits.iter().any(u8::is_ascii_lowercase);
            let rest = bytes.get(at + 2..).unwrap_or_default();
            let must_be = |value: &u8| {
                value.is_ascii() && !is_plain(*value) && check_encoded(*value, rest).is_ok()
            };
            if !is_upper || hex(bytes, at).filter(must_be).is_none() {
                return false;
            }
            at += 2;
        } else if !is_plain(byte) {
            return false;
        }
    }
    !path.contains("//") && !has_dot_segment(path)
}

/// What needs no second look but for the segments that it makes.
fn is_plain(byte: u8) -> bool {
    byte == b'/' || is_pchar(byte)
}

/// What may stand in a segment as it is (RFC 3986, section 3.3), but for `;`.
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// The path with every byte encoded that has to be, and no other.
fn decode(path: &str) -> Result<String, Ambiguity> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    // What the encodings stand for, to be looked at as text.
    let mut meant = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            check_raw(byte)?;
            push(&mut out, byte);
            meant.push(byte);
            at += 1;
            continue;
        }
        let value = hex(bytes, at + 1).ok_or(Ambiguity::Percent)?;
        at += 3;
        check_encoded(value, &bytes[at..])?;
        meant.push(value);
        push(&mut out, value);
    }
    let meant = std::str::from_utf8(&meant).map_err(|_| Ambiguity::Utf8)?;
    if meant.contains(LOOKALIKES) {
        return Err(Ambiguity::Lookalike);
    }
    Ok(out)
}

fn push(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if is_plain(byte) {
        out.push(byte.into());
    } else {
        out.push('%');
        out.push(DIGITS[usize::from(byte >> 4)].into());
        out.push(DIGITS[usize::from(byte & 15)].into());
    }
}

fn check_raw(byte: u8) -> Result<(), Ambiguity> {
    match byte {
        b'\\' => Err(Ambiguity::Slash),
        b';' => Err(Ambiguity::Parameter),
        b'?' | b'#' => Err(Ambiguity::Delimiter),
        0..=b' ' | 0x7f => Err(Ambiguity::Control),
        0x80.. => Err(Ambiguity::Utf8),
        _ => Ok(()),
    }
}

fn check_encoded(value: u8, rest: &[u8]) -> Result<(), Ambiguity> {
    match value {
        b'/' | b'\\' => Err(Ambiguity::Slash),
        b';' => Err(Ambiguity::Parameter),
        0..b' ' | 0x7f => Err(Ambiguity::Control),
        // To whoever decodes again, what follows is a character.
        b'%' if hex(rest, 0).is_some() => Err(Ambiguity::Twice),
        _ => Ok(()),
    }
}

/// The byte that two hexadecimal digits stand for.
fn hex(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (high, low) = (digit(bytes.get(at)?)?, digit(bytes.get(at + 1)?)?);
    u8::try_from(high * 16 + low).ok()
}

/// RFC 3986, section 5.2.4, and no empty segments but the last.
fn without_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let is_folder = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    let mut normal = String::with_capacity(path.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if is_folder || segments.is_empty() {
        normal.push('/');
    }
    normal
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_meaning_has_one_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/%61dmin", "/admin"),
            ("/%2e%2e/admin", "/admin"),
            ("/a/%2E/b", "/a/b"),
            ("/a%20b", "/a%20b"),
            ("/%c3%a9", "/%C3%A9"),
            ("/50%25", "/50%25"),
            ("/%40admin%3a%2B%21", "/@admin:+!"),
            ("/a{b}|\"<^>`[]", "/a%7Bb%7D%7C%22%3C%5E%3E%60%5B%5D"),
            ("/a%7bb", "/a%7Bb"),
            ("/a%3Fb%23c", "/a%3Fb%23c"),
            ("/a:b@c,(d)=!$&'*+", "/a:b@c,(d)=!$&'*+"),
            ("/...", "/..."),
            ("/.a/..b", "/.a/..b"),
        ] {
            assert_eq!(normalize(path).as_deref(), Ok(normal), "{path}");
            let is_same = path == normal && normal.is_ascii();
            let is_borrowed = matches!(normalize(path), Ok(Cow::Borrowed(_)));
            assert_eq!(is_borrowed, is_same, "{path}");
        }
    }

    #[test]
    fn what_servers_read_in_two_ways_is_refused() {
        use Ambiguity::{
            Control, Delimiter, Lookalike, NotAbsolute, Parameter, Percent, Slash, Twice, Utf8,
        };
        for (path, ambiguity) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("admin", NotAbsolute),
            ("http://a/b", NotAbsolute),
            ("/a%", Percent),
            ("/a%2", Percent),
            ("/a%2g", Percent),
            ("/a%2Fb", Slash),
            ("/a%2fb", Slash),
            ("/a%5cb", Slash),
            ("/a\\b", Slash),
            ("/a\0", Control),
            ("/a%00", Control),
            ("/a%0d%0a", Control),
            ("/a%7f", Control),
            ("/a b", Control),
            ("/admin;a=b", Parameter),
            ("/a/..;/admin", Parameter),
            ("/a%3Bb", Parameter),
            ("/a#b", Delimiter),
            ("/a?b", Delimiter),
            ("/%252e%252e/admin", Twice),
            ("/a%2541", Twice),
            ("/é", Utf8),
            ("/%c0%af", Utf8),
            ("/%ff", Utf8),
            ("/%EF%BC%8Fadmin", Lookalike),
            ("/%EF%BC%8E%EF%BC%8E/a", Lookalike),
            ("/%E2%80%A5/a", Lookalike),
            ("/%EF%B8%B0/a", Lookalike),
            ("/x%E2%84%80dmin", Lookalike),
        ] {
            assert_eq!(normalize(path), Err(ambiguity), "{path:?}");
        }
    }

    proptest! {
        /// Normalizing twice is normalizing once, and what comes out has nothing
        /// in it that a server could still change.
        #[test]
        fn a_normal_form_stays(path in "/([a-c./;%\\\\25eEfF?# é{|@]|%2[eEfF]|%5[cC]|%25|%[47][0bB]){0,24}") {
            if let Ok(normal) = normalize(&path) {
                let again = normalize(&normal);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert!(!normal.contains("//") && !has_dot_segment(&normal));
                prop_assert!(normal.starts_with('/') && normal.is_ascii());
            }
            if is_plainly_normal(&path) {
                let written = decode(&path).map(|decoded| without_dot_segments(&decoded));
                prop_assert_eq!(written, Ok(path));
            }
        }

        #[test]
        fn nothing_panics(path in any::<String>()) {
            let _ = normalize(&path);
            let _ = normalize(&format!("/{path}"));
            let _ = normalize(&format!("/%{path}"));
        }
    }
}
