//! What gRPC adds to HTTP: its status, its deadline, and how a refusal is told
//! (gRPC over HTTP/2, "PROTOCOL-HTTP2", and "Status codes and their use").
//!
//! Pure; owns no stream.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::answer::Reason;
use crate::headers::REASON;

/// `grpc-status`, in trailers, or in headers where there is nothing but them.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `grpc-message`, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// `grpc-timeout`, the caller's own deadline.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A call that ended without any status: what clients make of it.
pub const UNKNOWN: u8 = 2;

/// The longest message that is told to a caller.
const MESSAGE_BYTES: usize = 1024;

/// Whether a request is a gRPC call: `application/grpc`, alone or with a
/// format. gRPC-Web is ordinary HTTP with its status in the body.
pub fn is_call(headers: &HeaderMap) -> bool {
    let Some(rest) = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
    else {
        return false;
    };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The status that trailers (or a trailers-only answer's headers) carry; 16
/// codes are known, every other number is none of them and means UNKNOWN.
pub fn status(fields: &HeaderMap) -> Option<u8> {
    let value = fields.get(STATUS)?;
    let code = value.to_str().ok().and_then(|text| text.parse::<u8>().ok());
    Some(code.filter(|code| *code <= 16).unwrap_or(UNKNOWN))
}

/// The caller's deadline: at most eight digits and a unit. What is malformed is
/// passed on untouched, and limits nothing here.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// What is left of a deadline as the next hop is told: never more than is left,
/// in the finest unit that eight digits can hold.
pub fn timeout_value(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
    ];
    let (amount, unit) = units
        .into_iter()
        .find(|(amount, _)| *amount <= MOST)
        .unwrap_or((MOST, 'M'));
    HeaderValue::from_str(&format!("{amount}{unit}"))
        .unwrap_or_else(|_| HeaderValue::from_static("1n"))
}

/// The status that tells a caller why Remora itself answered.
pub const fn status_of(reason: Reason) -> HeaderValue {
    HeaderValue::from_static(match reason {
        Reason::RateLimited => "8",
        Reason::Denied => "7",
        Reason::Timeout => "4",
        Reason::NoRoute => "12",
        // As gRPC's own mapping of HTTP 400.
        Reason::BadRequest => "13",
        Reason::BreakerOpen
        | Reason::Overloaded
        | Reason::NoEndpoints
        | Reason::ConnectFailed
        | Reason::RetriesExhausted
        | Reason::NoBackend
        | Reason::Redirect
        | Reason::Cors
        | Reason::Fault
        | Reason::Fallback => "14",
    })
}

/// What tells a caller why Remora itself ended its call, in trailers or in
/// the headers of an answer that has nothing else.
pub fn refusal(reason: Reason, detail: &str) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(4);
    fields.insert(STATUS, status_of(reason));
    fields.insert(MESSAGE, message_value(detail));
    fields.insert(REASON, HeaderValue::from_static(reason.word()));
    fields
}

/// As [`refusal_alone`], with a status that a policy says.
pub fn alone(reason: Reason, code: u8, detail: &str) -> HeaderMap {
    let mut fields = refusal_alone(reason, detail);
    fields.insert(STATUS, HeaderValue::from(u16::from(code)));
    fields
}

/// The head of an answer that has nothing but it ("trailers-only").
pub fn refusal_alone(reason: Reason, detail: &str) -> HeaderMap {
    let mut fields = refusal(reason, detail);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields
}

/// A message as the header carries it: printable ASCII but for `%`, the rest
/// percent-encoded.
pub fn message_value(message: &str) -> HeaderValue {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes().take(MESSAGE_BYTES) {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_grpc_is_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&with(CONTENT_TYPE, value)), expected, "{value}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn a_status_that_is_no_code_is_unknown() {
        assert_eq!(status(&with(STATUS, "0")), Some(0));
        assert_eq!(status(&with(STATUS, "14")), Some(14));
        assert_eq!(status(&with(STATUS, "17")), Some(UNKNOWN));
        assert_eq!(status(&with(STATUS, "-1")), Some(UNKNOWN));
        assert_eq!(status(&HeaderMap::new()), None);
    }

    #[test]
    fn deadlines_are_read_in_every_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("999999999S", None),
            ("S", None),
            ("+1S", None),
            ("1h", None),
            ("", None),
        ] {
            assert_eq!(timeout(&with(TIMEOUT, text)), expected, "{text:?}");
        }
        let not_ascii = HeaderValue::from_bytes(b"1\xc2\xb5").unwrap();
        assert_eq!(timeout(&HeaderMap::from_iter([(TIMEOUT, not_ascii)])), None);
    }

    #[test]
    fn a_message_cannot_break_out_of_its_field() {
        assert_eq!(message_value("a b%\r\né"), "a b%25%0D%0A%C3%A9");
    }

    proptest! {
        #[test]
        fn the_next_hop_is_never_given_more_time_than_is_left(nanos in 0..u64::MAX) {
            let left = Duration::from_nanos(nanos);
            let value = timeout_value(left);
            let told = timeout(&HeaderMap::from_iter([(TIMEOUT, value)])).unwrap();
            prop_assert!(told <= left);
            // Eight digits keep at least a millionth of it.
            prop_assert!(left - told <= left / 1_000_000 + Duration::from_nanos(1) || left.as_secs() > 99_999_999);
        }
    }
}
