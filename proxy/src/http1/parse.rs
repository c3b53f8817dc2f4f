//! Heads: from bytes to what the pipeline knows, and how their bodies are framed.
//!
//! Strict where two readers could understand a message differently (RFC 9112,
//! section 11.2): what is doubtful is refused, never mended.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri, Version, request, response};
use httparse::{Header, ParserConfig, Status};

use super::framing::{self, Length};
use super::limits::HEAD_FIELDS;
pub use super::scan::HeadError;
use crate::headers;

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// What the pipeline is given.
    pub parts: request::Parts,
    /// How its body is framed.
    pub length: Length,
    /// The caller would send another request on this connection.
    pub keep_alive: bool,
    /// It asks to make the connection a tunnel: CONNECT, or an upgrade.
    pub tunnel: bool,
    /// The caller waits for 100 before it sends the body (RFC 9110, section 10.1.1).
    pub expects_continue: bool,
}

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// What the pipeline is given.
    pub parts: response::Parts,
    /// `Transfer-Encoding: chunked`.
    chunked: bool,
    content_length: Option<u64>,
    /// The upstream would take another request on this connection.
    pub keep_alive: bool,
}

/// Why a head of ours is wrong that was found whole.
const CUT: HeadError = HeadError::Malformed("the head has an empty line within");

/// Reads a request's head: one that [`super::scan::HeadScan`] found, exactly.
/// Its fields' values and its target are slices of `head`.
pub fn request(head: &Bytes) -> Result<RequestHead, HeadError> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; HEAD_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(CUT),
        Err(error) => return Err(explain(error)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(CUT);
    };
    let version = http_version(version);
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| HeadError::Malformed("the method is not a token"))?;
    let uri = target_of(&method, head.slice_ref(target.as_bytes()))?;
    let mut fields = Fields::read(head, parsed.headers)?;
    fields.check_host(&uri, version)?;
    let length = framing::request_length(fields.content_length, fields.chunked, version)
        .map_err(HeadError::Malformed)?;
    let keep_alive = fields.keep_alive(version);
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = method;
    parts.uri = uri;
    parts.version = version;
    parts.headers = fields.headers;
    let tunnel = asks_for_tunnel(&parts);
    if parts.method == Method::CONNECT && length != Length::Exact(0) {
        return Err(HeadError::Malformed("CONNECT has a body"));
    }
    Ok(RequestHead {
        length,
        keep_alive,
        tunnel,
        expects_continue: version == Version::HTTP_11 && fields.expects_continue,
        parts,
    })
}

/// Reads a response's head: one that [`super::scan::HeadScan`] found, exactly.
pub fn response(head: &Bytes) -> Result<ResponseHead, HeadError> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; HEAD_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, &mut fields)
    {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(CUT),
        Err(error) => return Err(explain(error)),
    }
    let (Some(code), Some(version)) = (parsed.code, parsed.version) else {
        return Err(CUT);
    };
    let version = http_version(version);
    let fields = Fields::read(head, parsed.headers)?;
    if fields.chunked && (fields.content_length.is_some() || version == Version::HTTP_10) {
        return Err(HeadError::Malformed(
            "it is framed by Transfer-Encoding and something else",
        ));
    }
    let keep_alive = fields.keep_alive(version);
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(code)
        .map_err(|_| HeadError::Malformed("the status is not one of HTTP"))?;
    parts.version = version;
    parts.headers = fields.headers;
    Ok(ResponseHead {
        parts,
        chunked: fields.chunked,
        content_length: fields.content_length,
        keep_alive,
    })
}

impl ResponseHead {
    /// How its body is framed as the answer to a request with `method`.
    pub fn length(&self, method: &Method) -> Length {
        framing::response_length(self.content_length, self.chunked, self.parts.status, method)
    }
}

/// Whether a request would make its connection a tunnel: both sides must see
/// it the same way, so both ask here.
pub fn asks_for_tunnel(parts: &request::Parts) -> bool {
    if parts.method == Method::CONNECT {
        return true;
    }
    let fields = &parts.headers;
    parts.version == Version::HTTP_11
        && fields.contains_key(header::UPGRADE)
        && headers::upgrade(fields).is_some()
        && !fields.contains_key(header::TRANSFER_ENCODING)
        && fields
            .get(header::CONTENT_LENGTH)
            .is_none_or(|length| framing::content_length(length.as_bytes()) == Some(0))
}

/// Reads fields that follow a body; what would frame or route a message is left out.
pub fn trailers(section: &[u8]) -> Result<HeaderMap, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS];
    let head = Bytes::copy_from_slice(section);
    let parsed = match httparse::parse_headers(&head, &mut fields) {
        Ok(Status::Complete((length, parsed))) if length == head.len() => parsed,
        Ok(_) => return Err(CUT),
        Err(error) => return Err(explain(error)),
    };
    let mut trailers = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let (name, value) = name_and_value(&head, field)?;
        if !framing::is_forbidden_in_trailers(&name) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

/// A head's fields, and what of them the engine itself goes by.
#[derive(Debug, Default)]
struct Fields {
    headers: HeaderMap,
    content_length: Option<u64>,
    chunked: bool,
    hosts: usize,
    says_close: bool,
    says_keep_alive: bool,
    expects_continue: bool,
}

impl Fields {
    fn read(head: &Bytes, parsed: &[Header<'_>]) -> Result<Self, HeadError> {
        let mut fields = Self {
            headers: HeaderMap::with_capacity(parsed.len()),
            ..Self::default()
        };
        for field in parsed {
            let (name, value) = name_and_value(head, field)?;
            if !fields.note(&name, value.as_bytes())? {
                continue;
            }
            fields.headers.append(name, value);
        }
        Ok(fields)
    }

    /// Takes what a field says to the engine; gives whether to keep it.
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, HeadError> {
        if *name == header::CONTENT_LENGTH {
            let length = framing::content_length(value).ok_or(HeadError::Malformed(
                "Content-Length is not a number of bytes",
            ))?;
            match self.content_length.replace(length) {
                None => {}
                // Said twice, and the same: kept once.
                Some(before) if before == length => return Ok(false),
                Some(_) => return Err(HeadError::Malformed("two Content-Lengths differ")),
            }
        } else if *name == header::TRANSFER_ENCODING {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Malformed(
                    "a Transfer-Encoding other than chunked is not understood",
                ));
            }
            self.chunked = true;
        } else if *name == header::HOST {
            self.hosts += 1;
        } else if *name == header::CONNECTION {
            for option in value.split(|byte| *byte == b',') {
                let option = option.trim_ascii();
                self.says_close |= option.eq_ignore_ascii_case(b"close");
                self.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if *name == header::EXPECT {
            self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
        }
        Ok(true)
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.says_close && (version == Version::HTTP_11 || self.says_keep_alive)
    }

    /// RFC 9112, section 3.2: one Host, and what the target names wins over it.
    fn check_host(&mut self, uri: &Uri, version: Version) -> Result<(), HeadError> {
        if self.hosts > 1 {
            return Err(HeadError::Malformed("the request has more than one Host"));
        }
        let host = self.headers.get(header::HOST);
        if host.is_some_and(|host| !framing::is_host(host.as_bytes())) {
            return Err(HeadError::Malformed("Host is not a host"));
        }
        let Some(authority) = uri.authority() else {
            if host.is_none() && version == Version::HTTP_11 {
                return Err(HeadError::Malformed(
                    "the request has no Host, which HTTP/1.1 demands",
                ));
            }
            return Ok(());
        };
        if !framing::is_host(authority.as_str().as_bytes()) {
            return Err(HeadError::Malformed("the target's authority is not a host"));
        }
        if host.is_none_or(|host| host.as_bytes() != authority.as_str().as_bytes()) {
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|_| HeadError::Malformed("the target's authority is not a host"))?;
            self.headers.insert(header::HOST, host);
        }
        Ok(())
    }
}

fn name_and_value(
    head: &Bytes,
    field: &Header<'_>,
) -> Result<(HeaderName, HeaderValue), HeadError> {
    let name = HeaderName::from_bytes(field.name.as_bytes())
        .map_err(|_| HeadError::Malformed("a field's name is not a token"))?;
    let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value))
        .map_err(|_| HeadError::Malformed("a field's value has a control character"))?;
    Ok((name, value))
}

/// RFC 9112, section 3.2: the four forms, each where it belongs.
fn target_of(method: &Method, target: Bytes) -> Result<Uri, HeadError> {
    let malformed = HeadError::Malformed("the request's target is not one of HTTP");
    let first = target.first().copied();
    if memchr::memchr(b'#', &target).is_some() {
        return Err(malformed);
    }
    let uri = Uri::from_maybe_shared(target).map_err(|_| malformed)?;
    let fits = if *method == Method::CONNECT {
        uri.scheme().is_none() && uri.authority().is_some()
    } else if first == Some(b'/') {
        true
    } else if uri.path() == "*" {
        *method == Method::OPTIONS
    } else {
        uri.scheme().is_some() && uri.authority().is_some()
    };
    if fits {
        rooted(uri).ok_or(malformed)
    } else {
        Err(malformed)
    }
}

/// A target in absolute form may leave the path out; then it is `/`, also
/// before a query (RFC 9112, section 3.2.1), which no server would read behind
/// nothing.
fn rooted(uri: Uri) -> Option<Uri> {
    let rest = uri.path_and_query().map(PathAndQuery::as_str);
    let Some(query) = rest.filter(|rest| rest.starts_with('?')) else {
        return Some(uri);
    };
    let rest = PathAndQuery::try_from(format!("/{query}")).ok()?;
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(rest);
    Uri::from_parts(parts).ok()
}

fn http_version(minor: u8) -> Version {
    if minor == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    }
}

fn explain(error: httparse::Error) -> HeadError {
    HeadError::Malformed(match error {
        httparse::Error::TooManyHeaders => return HeadError::TooLarge,
        httparse::Error::HeaderName => "a field's name is not a token",
        httparse::Error::HeaderValue => "a field's value has a control character, or is folded",
        httparse::Error::NewLine => "a line does not end in CRLF",
        httparse::Error::Status => "the status is not one of HTTP",
        httparse::Error::Token => "the first line is not one of HTTP/1",
        httparse::Error::Version => "the version is neither HTTP/1.1 nor HTTP/1.0",
    })
}

#[cfg(test)]
mod tests {
    use super::super::encode::{self, After, Said};
    use super::super::scan::HeadScan;
    use super::*;
    use crate::upstream::Head;
    use proptest::prelude::*;

    /// A head as the wire finds it, read.
    fn read_request(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
        match HeadScan::default().find(bytes)? {
            Some(range) => request(&Bytes::copy_from_slice(&bytes[range])).map(Some),
            None => Ok(None),
        }
    }

    fn read_response(bytes: &[u8]) -> Result<Option<ResponseHead>, HeadError> {
        match HeadScan::default().find(bytes)? {
            Some(range) => response(&Bytes::copy_from_slice(&bytes[range])).map(Some),
            None => Ok(None),
        }
    }

    #[test]
    fn a_target_without_a_path_is_the_root_before_a_query_too() {
        for (target, rest) in [
            ("http://a?b=/c", "/?b=/c"),
            ("http://a", "/"),
            ("http://a/?b", "/?b"),
            ("/?b", "/?b"),
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
            let head = read_request(head.as_bytes()).unwrap().unwrap();
            let read = head.parts.uri.path_and_query().unwrap();
            assert_eq!(read.as_str(), rest, "{target}");
        }
    }

    #[test]
    fn a_head_says_how_its_body_is_framed_and_whether_more_may_come() {
        let read = |fields: &str| {
            let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
            let head = read_request(head.as_bytes()).unwrap().unwrap();
            (head.length, head.keep_alive, head.tunnel)
        };
        assert_eq!(read(""), (Length::Exact(0), true, false));
        let twice = "content-length: 7\r\ncontent-length: 7\r\n";
        assert_eq!(read(twice), (Length::Exact(7), true, false));
        let chunked = "Transfer-Encoding: Chunked\r\nconnection: x, CLOSE\r\n";
        assert_eq!(read(chunked), (Length::Chunked, false, false));
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
        assert_eq!(read(upgrade), (Length::Exact(0), true, true));
        let with_body = format!("{upgrade}content-length: 1\r\n");
        assert_eq!(read(&with_body), (Length::Exact(1), true, false));
    }

    #[test]
    fn the_same_length_said_twice_is_passed_on_once() {
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 7\r\ncontent-length: 7\r\n\r\n";
        let head = read_request(head).unwrap().unwrap();
        assert_eq!(
            head.parts.headers.get_all("content-length").iter().count(),
            1
        );
    }

    #[test]
    fn fields_keep_their_order_and_their_bytes() {
        let head = b"GET /%7e?a=b HTTP/1.1\r\nb: \xff\xfe\r\nhost: x\r\na:\t1 \r\nb: 2\r\n\r\n";
        let parts = read_request(head).unwrap().unwrap().parts;
        assert_eq!(parts.uri, "/%7e?a=b");
        let fields: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let expected: [(&str, &[u8]); 4] =
            [("b", b"\xff\xfe"), ("b", b"2"), ("host", b"x"), ("a", b"1")];
        assert_eq!(fields, expected);
    }

    #[test]
    fn hosts_and_targets_fit_each_other() {
        let read = |target: &str, host: &str| {
            read_request(format!("{target} HTTP/1.1\r\n{host}\r\n").as_bytes())
        };
        assert!(read("OPTIONS *", "host: a\r\n").is_ok());
        assert!(read("GET /", "host: [::1]:80\r\n").is_ok());
        assert!(read("CONNECT a:1", "host: a:1\r\n").is_ok());
        // The target alone names the host.
        let head = read("GET http://a:1/x", "").unwrap().unwrap();
        assert_eq!(head.parts.headers["host"], "a:1");
        for (target, host) in [
            ("GET /", "host: a\\b\r\n"),
            ("GET //[", "host: a/b\r\n"),
            ("CONNECT http://a/", "host: a\r\n"),
            ("CONNECT *", "host: a\r\n"),
        ] {
            assert!(read(target, host).is_err(), "{target} {host}");
        }
    }

    /// Fields that the engine does not itself go by.
    fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        let value = proptest::collection::vec(
            prop_oneof![0x21..=0x7e_u8, 0x80..=0xff_u8, Just(b' '), Just(b'\t')],
            0..30,
        );
        let value = value.prop_map(|value| value.trim_ascii().to_vec());
        proptest::collection::vec(("x-[a-z0-9-]{1,12}", value), 0..20)
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(prop_oneof![
            3 => any::<u8>(),
            1 => Just(b'\r'), 1 => Just(b'\n'), 1 => Just(b':'), 1 => Just(b' '),
        ], 0..120)) {
            let text = [b"GET / HTTP/1.1\r\nhost: a\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat();
            for bytes in [&bytes, &text] {
                let _ = read_request(bytes);
                let _ = read_response(bytes);
            }
            let status = [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat();
            let _ = read_response(&status);
            let _ = trailers(&bytes);
        }

        #[test]
        fn what_is_read_is_written_as_it_was(
            fields in fields(), path in "/[a-zA-Z0-9/._~%-]{0,20}", length in any::<u32>(),
        ) {
            let mut wire = format!("PUT {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n").into_bytes();
            for (name, value) in &fields {
                wire.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
            }
            wire.extend_from_slice(b"\r\n");
            let first = read_request(&wire).unwrap().unwrap();
            let mut written = Vec::new();
            let head = Head { parts: &first.parts, attempt: None, identity: None };
            encode::request_head(&mut written, head, Said::AsIs, false);
            let second = read_request(&written).unwrap().unwrap();
            prop_assert_eq!(&first.parts.headers, &second.parts.headers);
            prop_assert_eq!(&first.parts.uri, &second.parts.uri);
            prop_assert_eq!(second.length, Length::Exact(length.into()));

            let mut written = Vec::new();
            let status = StatusCode::ACCEPTED;
            let fields = &first.parts.headers;
            encode::response_head(&mut written, Version::HTTP_11, status, fields, Said::Length(7), After::Close);
            let answer = read_response(&written).unwrap().unwrap();
            prop_assert_eq!(answer.length(&Method::PUT), Length::Exact(7));
            prop_assert!(!answer.keep_alive && answer.parts.status == status);
        }
    }
}
