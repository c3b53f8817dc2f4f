//! How the end of a body is known (RFC 9112, section 6.3).

use http::header::{self, HeaderName};
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

/// Whether `host` may stand in `Host`: the characters of a host and its port
/// (RFC 3986, sections 3.2.2 and 3.2.3), and none of a user before it.
pub fn is_host(host: &[u8]) -> bool {
    host.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(byte))
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
