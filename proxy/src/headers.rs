//! What is taken off and put on a message's headers at each hop.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use remora_proto::bounds::MAX_SUBDOMAIN;
use remora_proto::well_known::header as ours;

/// Why Remora itself answered.
pub const REASON: HeaderName = HeaderName::from_static(ours::REASON);
/// The number of an attempt.
pub const ATTEMPT: HeaderName = HeaderName::from_static(ours::ATTEMPT);

/// The SPIFFE id of the caller, for the application.
pub const CLIENT_IDENTITY: HeaderName = HeaderName::from_static(ours::CLIENT_IDENTITY);

/// The pod that is to get the request.
pub const ENDPOINT: HeaderName = HeaderName::from_static(ours::ENDPOINT);

/// The value of the first cookie of this name (RFC 6265, section 4.2).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// The pod that a request names; nothing where it names none. What names several, or
/// none that there could be, is a name too, one that no pod has: a request that asked
/// for a certain pod is never sent to just any. Of one that is longer than any pod's
/// only so much is kept as shows that: it is told in refusals.
pub fn pinned(headers: &HeaderMap) -> Option<Box<str>> {
    let mut named = headers.get_all(ENDPOINT).iter().map(HeaderValue::as_bytes);
    let first = named.next()?;
    let pod = named.fold(String::from_utf8_lossy(first), |all, next| {
        all + ", " + String::from_utf8_lossy(next)
    });
    let pod = pod.trim();
    (!pod.is_empty()).then(|| pod.chars().take(MAX_SUBDOMAIN + 1).collect())
}

/// Headers that concern one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 4] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::UPGRADE,
    header::TRANSFER_ENCODING,
];

/// Removes what concerns only the connection that a message came on, with all
/// that its `Connection` names. `TE: trailers` may pass (RFC 9110, section 10.1.4).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    match headers.get(header::CONNECTION).map(HeaderValue::as_bytes) {
        None => {}
        Some(value)
            if value.eq_ignore_ascii_case(b"keep-alive")
                || value.eq_ignore_ascii_case(b"close") =>
        {
            // By far the most common, and it names nothing to look for.
            if headers.get_all(header::CONNECTION).iter().nth(1).is_some() {
                strip_named_by_connection(headers);
            }
            headers.remove(header::CONNECTION);
        }
        Some(_) => strip_named_by_connection(headers),
    }
    for name in &HOP_BY_HOP {
        // `remove` hashes the name even when the map is small; a look first is cheaper.
        if headers.contains_key(name) {
            headers.remove(name);
        }
    }
    if let Some(te) = headers.get(header::TE)
        && !te.as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        headers.remove(header::TE);
    }
}

fn strip_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // What frames or addresses the message is not the sender's to remove.
        .filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::TE].contains(name))
        .collect();
    headers.remove(header::CONNECTION);
    for name in named {
        headers.remove(name);
    }
}

/// The fields of a message that go on to the next hop, in the order in which
/// they came: all but those that concern its connection alone (RFC 9110,
/// section 7.6.1). Nothing is removed from the map, which would upset the order.
pub fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let named = named_by_connection(headers);
    headers.iter().filter(move |(name, value)| {
        !(HOP_BY_HOP.contains(name)
            || *name == header::CONNECTION
            || (*name == header::TE && !value.as_bytes().eq_ignore_ascii_case(b"trailers"))
            || named.contains(name))
    })
}

/// What `Connection` names beside the usual words.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let ordinary = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    headers
        .get_all(header::CONNECTION)
        .iter()
        // By far the most common, and they name nothing to look for.
        .filter(|value| !ordinary(value))
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // What frames or addresses the message is not the sender's to remove.
        .filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::TE].contains(name))
        .collect()
}

/// The protocol to which a request asks to change its connection (RFC 9110,
/// section 7.8). `h2c` is never asked for at the next hop: HTTP/2 begins with
/// prior knowledge (RFC 9113, section 3.1).
pub fn upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let asked = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE).filter(|_| asked)?;
    let mut words = protocol.to_str().ok()?.split(',');
    // With its version it is the same protocol: `h2c/1` (RFC 9110, section 7.8).
    let is_h2c = |word: &str| {
        let name = word.trim().split('/').next();
        name.is_some_and(|name| name.eq_ignore_ascii_case("h2c"))
    };
    (!words.any(is_h2c)).then_some(protocol)
}

/// Removes every header of ours that came from outside; the others keep their order.
pub fn strip_ours(headers: &mut HeaderMap) {
    if headers.keys().any(is_ours) {
        keep_only(headers, |name| !is_ours(name));
    }
}

/// Removes every header of ours but the attempt's number, which the
/// application may see and nothing decides on.
pub fn strip_ours_but_attempt(headers: &mut HeaderMap) {
    let passes = |name: &HeaderName| !is_ours(name) || *name == ATTEMPT;
    if !headers.keys().all(passes) {
        keep_only(headers, passes);
    }
}

/// Removes a field; the others keep their order.
pub fn remove(headers: &mut HeaderMap, name: &HeaderName) {
    if headers.contains_key(name) {
        keep_only(headers, |held| held != name);
    }
}

/// `HeaderMap::remove` would move the last field into the gap.
fn keep_only(headers: &mut HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter().filter(|(name, _)| passes(name)) {
        kept.append(name.clone(), value.clone());
    }
    *headers = kept;
}

fn is_ours(name: &HeaderName) -> bool {
    let start = name.as_str().as_bytes().get(..ours::PREFIX.len());
    start.is_some_and(|start| is_read_as(start, ours::PREFIX))
}

/// Whether an application may take a name for `ours`: to those behind CGI, WSGI
/// and their like `-` and `_` are the same (RFC 3875, section 4.1.18).
pub fn is_read_as(name: &[u8], ours: &str) -> bool {
    let same = |(one, other): (&u8, &u8)| one == other || (*one == b'_' && *other == b'-');
    name.len() == ours.len() && name.iter().zip(ours.as_bytes()).all(same)
}

/// The number of an attempt, from 1, as a header's value.
pub fn attempt_value(number: u32) -> HeaderValue {
    match number {
        1 => HeaderValue::from_static("1"),
        2 => HeaderValue::from_static("2"),
        3 => HeaderValue::from_static("3"),
        number => HeaderValue::from(number),
    }
}

/// `Retry-After` in seconds; the form with a date needs a calendar and is left alone.
pub fn retry_after(headers: &HeaderMap) -> Option<std::time::Duration> {
    let seconds: u64 = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(std::time::Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_concerns_one_connection_is_taken_off() {
        let mut headers = map(&[
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*")]));
    }

    #[test]
    fn connection_cannot_remove_what_frames_the_message() {
        let mut headers = map(&[
            ("connection", "host, content-length"),
            ("host", "a"),
            ("content-length", "3"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "3")]));
    }

    #[test]
    fn what_goes_on_keeps_its_order() {
        let headers = map(&[
            ("b", "1"),
            ("connection", "x-private"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("a", "2"),
        ]);
        let names: Vec<&str> = forwarded(&headers).map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "te", "a"]);
    }

    #[test]
    fn an_upgrade_is_asked_for_by_both_fields_and_never_to_h2c() {
        let both = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(upgrade(&both).unwrap(), "websocket");
        assert_eq!(upgrade(&map(&[("upgrade", "websocket")])), None);
        for written in ["h2c/1", "websocket, H2C/2.0"] {
            let versioned = map(&[("connection", "upgrade"), ("upgrade", written)]);
            assert_eq!(upgrade(&versioned), None, "{written}");
        }
        let h2c = map(&[
            ("connection", "upgrade, http2-settings"),
            ("upgrade", "h2c"),
        ]);
        assert_eq!(upgrade(&h2c), None);
    }

    #[test]
    fn our_headers_from_outside_are_taken_off() {
        let mut headers = map(&[
            ("x-remora-reason", "timeout"),
            ("x-remora-anything", "1"),
            ("x_remora_client_identity", "spiffe://a/ns/b/sa/c"),
            ("x-remora_client-identity", "spiffe://a/ns/b/sa/c"),
            ("x-request-id", "7"),
        ]);
        strip_ours(&mut headers);
        assert_eq!(headers, map(&[("x-request-id", "7")]));
    }

    #[test]
    fn the_order_of_the_others_stays() {
        let fields = [
            ("a", "1"),
            ("x-remora-http", "1.1"),
            ("b", "2"),
            ("x-remora-attempt", "3"),
            ("c", "4"),
            ("d", "5"),
        ];
        let names = |strip: fn(&mut HeaderMap)| {
            let mut headers = map(&fields);
            strip(&mut headers);
            headers.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(strip_ours), ["a", "b", "c", "d"]);
        assert_eq!(
            names(strip_ours_but_attempt),
            ["a", "b", "x-remora-attempt", "c", "d"]
        );
    }

    #[test]
    fn retry_after_in_seconds_is_read() {
        assert_eq!(
            retry_after(&map(&[("retry-after", "3")])),
            Some(std::time::Duration::from_secs(3))
        );
        assert_eq!(retry_after(&map(&[("retry-after", "soon")])), None);
    }
}
