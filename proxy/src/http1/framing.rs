//! How the end of a body is known (RFC 9112, section 6.3).

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode, Version};

/// How a body that is read is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes; zero when there is no body.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// Until the peer sends no more.
    UntilClose,
}

/// Of a request.
///
/// # Errors
/// What is wrong, in words.
pub fn request_length(
    content_length: Option<u64>,
    chunked: bool,
    version: Version,
) -> Result<Length, &'static str> {
    match (chunked, content_length) {
        (true, Some(_)) => Err("both Content-Length and Transfer-Encoding frame the request"),
        (true, None) if version == Version::HTTP_10 => {
            Err("Transfer-Encoding came with HTTP/1.0, which has none")
        }
        (true, None) => Ok(Length::Chunked),
        (false, length) => Ok(Length::Exact(length.unwrap_or(0))),
    }
}

/// Of a response to a request with `method`.
pub fn response_length(
    content_length: Option<u64>,
    chunked: bool,
    status: StatusCode,
    method: &Method,
) -> Length {
    if has_no_body(status, method) {
        return Length::Exact(0);
    }
    if *method == Method::CONNECT && status.is_success() {
        return Length::UntilClose;
    }
    match (chunked, content_length) {
        (true, _) => Length::Chunked,
        (false, Some(length)) => Length::Exact(length),
        (false, None) => Length::UntilClose,
    }
}

/// Whether the answer ends with its head, whatever its fields say.
pub fn has_no_body(status: StatusCode, method: &Method) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// The value of `Content-Length`: digits, and nothing else.
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether `host` may stand in `Host`: a host or an address in brackets, and a
/// port (RFC 3986, sections 3.2.2 and 3.2.3), without a user before it.
pub fn is_host(host: &[u8]) -> bool {
    let (is_name, port) = if let Some(rest) = host.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let is_address = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
        (rest[..end].iter().all(is_address), &rest[end + 1..])
    } else {
        let end = host.iter().position(|byte| *byte == b':');
        let (name, port) = host.split_at(end.unwrap_or(host.len()));
        let is_name =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
        (name.iter().all(is_name), port)
    };
    is_name && is_port(port)
}

/// Nothing, or a colon and a number of a port, which may be left out.
fn is_port(port: &[u8]) -> bool {
    let Some(digits) = port.strip_prefix(b":") else {
        return port.is_empty();
    };
    let number = digits.iter().try_fold(0_u32, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| (sum * 10 + u32::from(digit - b'0')).min(u32::from(u16::MAX) + 1))
    });
    number.is_some_and(|number| number <= u32::from(u16::MAX))
}

/// Whether the protocols to which an answer switches are among those that its
/// request offered (RFC 9110, section 7.8).
pub fn is_among_offered(request: &HeaderMap, answer: &HeaderMap) -> bool {
    let mut switched = upgrades(answer).peekable();
    switched.peek().is_some()
        && switched.all(|to| upgrades(request).any(|offered| offered.eq_ignore_ascii_case(to)))
}

fn upgrades(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let fields = headers.get_all(header::UPGRADE).iter();
    fields
        .flat_map(|field| field.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|protocol| !protocol.is_empty())
}

/// Fields that would change how the message was framed or routed, had they come
/// in its head (RFC 9110, section 6.5.1).
pub fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::HOST,
        header::CONNECTION,
        header::TRAILER,
        header::TE,
        header::UPGRADE,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_a_port() {
        for host in [
            "",
            "a",
            "a.b:80",
            "a:",
            "10.0.0.1:8080",
            "[::1]",
            "[::ffff:10.0.0.1]:65535",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a:b",
            "a:1:2",
            "[::1",
            "::1",
            "[::1]x",
            "a:65536",
            "a:99999999999",
            "a b",
            "u@a",
            "a/b",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn an_answer_switches_only_to_what_was_offered() {
        let map = |value: &'static str| {
            HeaderMap::from_iter([(header::UPGRADE, http::HeaderValue::from_static(value))])
        };
        let offered = map("h2c, WebSocket");
        assert!(is_among_offered(&offered, &map("websocket")));
        assert!(!is_among_offered(&offered, &map("echo")));
        assert!(!is_among_offered(&offered, &map("websocket, echo")));
        assert!(!is_among_offered(&offered, &HeaderMap::new()));
    }

    #[test]
    fn a_length_is_digits_and_does_not_overflow() {
        assert_eq!(content_length(b"0"), Some(0));
        assert_eq!(content_length(b"18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1,1",
            "0x1",
            "18446744073709551616",
        ] {
            assert_eq!(content_length(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn answers_without_bodies_have_none_whatever_they_say() {
        let get = Method::GET;
        let of = |status, method: &Method| response_length(Some(5), false, status, method);
        assert_eq!(of(StatusCode::OK, &Method::HEAD), Length::Exact(0));
        assert_eq!(of(StatusCode::NO_CONTENT, &get), Length::Exact(0));
        assert_eq!(of(StatusCode::NOT_MODIFIED, &get), Length::Exact(0));
        assert_eq!(of(StatusCode::OK, &get), Length::Exact(5));
        assert_eq!(of(StatusCode::OK, &Method::CONNECT), Length::UntilClose);
        let unframed = response_length(None, false, StatusCode::OK, &get);
        assert_eq!(unframed, Length::UntilClose);
    }

    #[test]
    fn hosts_have_no_users_and_no_spaces() {
        assert!(is_host(b"catalog.shop:8080") && is_host(b"[::1]:80") && is_host(b""));
        for bad in ["a b", "a@b", "a/b", "a?b", "a\\b", "a#b", "\u{e9}"] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
