//! Heads and the framing of bodies, written. Fields that concern one connection
//! alone are left out here and nowhere else, so that the maps keep their order.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version, request};
use http_body::Body;

use super::framing;
use crate::headers;
use crate::upstream::Head;

/// How a body that is sent is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// None is sent.
    Absent,
    /// So many bytes are still to be sent.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// As it comes; the connection's end is its end.
    Raw,
}

/// What a head says of its body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// What the map says, if anything.
    AsIs,
    /// Nothing, whatever the map says.
    Nothing,
    /// So many bytes; the map does not say it.
    Length(u64),
    /// That it comes in chunks.
    Chunked,
}

/// What a connection is told to become, or to do after this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing is said.
    Unsaid,
    /// `Connection: close`.
    Close,
    /// `Connection: keep-alive`, which HTTP/1.0 has to be told.
    KeepAlive,
    /// `Connection: upgrade`, with the map's `Upgrade`.
    Upgrade,
}

/// How the body of a request goes upstream.
pub fn request_coding<B: Body>(parts: &request::Parts, body: &B, tunnel: bool) -> (Coding, Said) {
    if tunnel {
        return (Coding::Absent, Said::AsIs);
    }
    if let Some(length) = length_of(&parts.headers) {
        return (Coding::Exact(length), Said::AsIs);
    }
    if body.is_end_stream() {
        return (Coding::Absent, Said::Nothing);
    }
    match body.size_hint().exact() {
        Some(length) => (Coding::Exact(length), Said::Length(length)),
        None => (Coding::Chunked, Said::Chunked),
    }
}

/// How the body of an answer to `method` in `version` goes to the caller.
pub fn response_coding<B: Body>(
    status: StatusCode,
    fields: &HeaderMap,
    body: &B,
    method: &Method,
    version: Version,
) -> (Coding, Said) {
    if framing::has_no_body(status, method) {
        // To HEAD and in a 304 the length is that of the body which is not sent.
        let says = *method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
        let says = says && status != StatusCode::NO_CONTENT && !status.is_informational();
        return (
            Coding::Absent,
            if says { Said::AsIs } else { Said::Nothing },
        );
    }
    if *method == Method::CONNECT && status.is_success() {
        return (Coding::Raw, Said::Nothing);
    }
    if let Some(length) = length_of(fields) {
        return (Coding::Exact(length), Said::AsIs);
    }
    match body.size_hint().exact() {
        Some(length) => (Coding::Exact(length), Said::Length(length)),
        None if version == Version::HTTP_10 => (Coding::Raw, Said::Nothing),
        None => (Coding::Chunked, Said::Chunked),
    }
}

fn length_of(fields: &HeaderMap) -> Option<u64> {
    framing::content_length(fields.get(header::CONTENT_LENGTH)?.as_bytes())
}

/// Writes a request's head.
pub fn request_head(out: &mut Vec<u8>, head: Head<'_>, said: Said, tunnel: bool) {
    let parts = head.parts;
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    if parts.method == Method::CONNECT {
        let authority = parts
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        out.extend_from_slice(authority.as_bytes());
    } else {
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        out.extend_from_slice(target.as_bytes());
    }
    // What must be sent in chunks cannot be told in HTTP/1.0.
    let old = parts.version == Version::HTTP_10 && said != Said::Chunked;
    out.extend_from_slice(if old {
        b" HTTP/1.0\r\n"
    } else {
        b" HTTP/1.1\r\n"
    });
    // Where the caller had it; else first, as RFC 9110, section 7.2 would have it.
    if !parts.headers.contains_key(header::HOST)
        && let Some(authority) = parts.uri.authority()
    {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        field(out, &header::HOST, host.as_bytes());
    }
    fields(out, &parts.headers, said, |name| {
        !(head.attempt.is_some() && *name == headers::ATTEMPT)
    });
    if let Some(attempt) = head.attempt {
        field(
            out,
            &headers::ATTEMPT,
            headers::attempt_value(attempt).as_bytes(),
        );
    }
    if let Some(identity) = head.identity {
        field(out, &headers::CLIENT_IDENTITY, identity.as_bytes());
    }
    if tunnel && let Some(protocol) = headers::upgrade(&parts.headers) {
        upgrade(out, protocol);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an answer.
pub fn response_head(
    out: &mut Vec<u8>,
    version: Version,
    status: StatusCode,
    map: &HeaderMap,
    said: Said,
    after: After,
) {
    let old = version == Version::HTTP_10;
    out.extend_from_slice(if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    let reason = status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    fields(out, map, said, |_| true);
    match after {
        After::Unsaid => {}
        After::Close => out.extend_from_slice(b"connection: close\r\n"),
        After::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
        After::Upgrade => {
            if let Some(protocol) = map.get(header::UPGRADE) {
                upgrade(out, protocol);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields that go on, and what is said of the body.
fn fields(
    out: &mut Vec<u8>,
    map: &HeaderMap,
    said: Said,
    mut goes: impl FnMut(&HeaderName) -> bool,
) {
    let mut has_length = said != Said::AsIs;
    for (name, value) in headers::forwarded(map) {
        if *name == header::CONTENT_LENGTH && std::mem::replace(&mut has_length, true) {
            continue;
        }
        if goes(name) {
            field(out, name, value.as_bytes());
        }
    }
    match said {
        Said::AsIs | Said::Nothing => {}
        Said::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Said::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

fn upgrade(out: &mut Vec<u8>, protocol: &HeaderValue) {
    out.extend_from_slice(b"connection: upgrade\r\n");
    field(out, &header::UPGRADE, protocol.as_bytes());
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the beginning of a chunk; its data and CRLF follow.
pub fn chunk_size(out: &mut Vec<u8>, bytes: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 16];
    let (mut at, mut rest) = (text.len(), bytes);
    loop {
        at -= 1;
        text[at] = DIGITS[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Writes the end of a chunked body.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if !framing::is_forbidden_in_trailers(name) {
            field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut Vec<u8>, number: u64) {
    let mut text = [0; 20];
    let (mut at, mut rest) = (text.len(), number);
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 7, 10, 1234, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
        for number in [0, 9, 10, 255, 65_536, usize::MAX] {
            let mut out = Vec::new();
            chunk_size(&mut out, number);
            assert_eq!(out, format!("{number:x}\r\n").into_bytes());
        }
    }
}
