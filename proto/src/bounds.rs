//! What a resource may hold: the sidecar takes nothing beyond these bounds, and
//! the control plane publishes nothing that is. Both read them here, so that
//! neither can come to think otherwise; what a user may write in a TrafficPolicy
//! is within them.
//!
//! # Layout
//! - numbers: how much and how many.
//! - names: Kubernetes' own forms.
//! - texts: what HTTP allows.

use std::net::SocketAddr;

/// The largest limit of a bulkhead.
pub const MAX_LIMIT: u32 = 1_000_000;
/// The most failures in a row that open a breaker.
pub const MAX_CONSECUTIVE_FAILURES: u32 = 1_000;
/// The most probes, and the most successes, of a half-open breaker.
pub const MAX_PROBES: u32 = 100;
/// The most retries of one request.
pub const MAX_ATTEMPTS: u32 = 10;
/// The largest replay buffer of a request's body, in bytes.
pub const MAX_BUFFER_BYTES: u64 = 16 * 1024 * 1024;
/// No duration of a policy is longer: a day, in milliseconds.
pub const MAX_DURATION_MS: u64 = 24 * 60 * 60 * 1000;
/// The shortest window of a retry budget, in milliseconds.
pub const MIN_BUDGET_WINDOW_MS: u64 = 1000;
/// The largest number of requests of a rate limit, in its period.
pub const MAX_RATE: u32 = 1_000_000_000;
/// Buckets of one rate limit.
pub const MAX_KEYS: u32 = 1_000_000;
/// Methods, headers, status codes or key parts in one list.
pub const MAX_LIST: usize = 64;
/// Rate limits of one policy.
pub const MAX_POLICY_RATE_LIMITS: usize = 32;
/// Policies whose rate limits fit on one port of a pod, however many they have:
/// one for each Service that covers the port.
pub const MAX_PORT_POLICIES: usize = 16;
/// Rate limits of one service, or of one port of a pod.
pub const MAX_RATE_LIMITS: usize = MAX_POLICY_RATE_LIMITS * MAX_PORT_POLICIES;
/// All rate limits of one Workload, encoded, in bytes: half of what a sidecar
/// reads as one message.
pub const MAX_WORKLOAD_RATE_LIMIT_BYTES: usize = MAX_RESPONSE_BYTES / 2;
/// The largest message that a sidecar reads from its stream, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// Ports of one service or workload: there are no more.
pub const MAX_PORTS: usize = u16::MAX as usize;
/// Addresses of one service or workload.
pub const MAX_ADDRESSES: usize = 64;
/// Policies that take part in one resource.
pub const MAX_POLICIES: usize = 1024;
/// Zones in one endpoint's hints.
pub const MAX_HINT_ZONES: usize = 64;
/// The longest `sessionAffinity` that Kubernetes accepts, in seconds: a day.
pub const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// Rules of the routes of one Service.
pub const MAX_ROUTE_RULES: usize = 4_096;
/// Matches of all of them: 128 of a route are what Gateway API allows.
pub const MAX_ROUTE_MATCHES: usize = 16_384;
/// Bytes of all of them, encoded.
pub const MAX_ROUTES_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of the automata of all their patterns.
pub const MAX_ROUTE_PATTERN_BYTES: usize = 8 * 1024 * 1024;
/// Backends, filters, or conditions of a match, in one list: twice what Gateway API allows.
pub const MAX_ROUTE_LIST: usize = 32;
/// Names or origins in one list of a CORS filter.
pub const MAX_CORS_LIST: usize = 64;
/// The largest weight of a backend.
pub const MAX_ROUTE_WEIGHT: u32 = 1_000_000;
/// The longest value of a header in a route, in bytes.
pub const MAX_ROUTE_TEXT: usize = 4_096;

/// The shortest window of a rate of failures or of slow calls, in milliseconds.
pub const MIN_RATE_WINDOW_MS: u64 = 1000;
/// The longest.
pub const MAX_RATE_WINDOW_MS: u64 = 60 * 60 * 1000;
/// The largest `minRequests` of such a rate.
pub const MAX_MIN_REQUESTS: u32 = 100_000;
/// The most hedges of one request.
pub const MAX_HEDGES: u32 = 5;
/// Parts of what is hashed to choose an endpoint.
pub const MAX_HASH_PARTS: usize = 8;
/// The largest bound of load of a consistent hash, in percent of the mean.
pub const MAX_LOAD_BOUND_PERCENT: u32 = 1_000;
/// The longest that a request waits for an endpoint, in milliseconds.
pub const MAX_WAIT_FOR_ENDPOINTS_MS: u64 = 60_000;
/// The largest body of a fallback, in bytes.
pub const MAX_FALLBACK_BODY: usize = 16 * 1024;
/// Headers of a fallback.
pub const MAX_FALLBACK_HEADERS: usize = 16;
/// The longest delay of a fault, in milliseconds.
pub const MAX_FAULT_DELAY_MS: u64 = 60 * 60 * 1000;
/// Trusted callers, or rules, of one `admission.priorities`.
pub const MAX_PRIORITY_RULES: usize = 32;
/// The largest tolerance of an adaptive limit, in percent.
pub const MAX_TOLERANCE_PERCENT: u32 = 1_000;
/// The shortest interval of probes, in milliseconds.
pub const MIN_PROBE_INTERVAL_MS: u64 = 100;
/// The longest, in milliseconds.
pub const MAX_PROBE_INTERVAL_MS: u64 = 60 * 60 * 1000;
/// The most probes that a verdict looks at.
pub const MAX_PROBE_WINDOW: u32 = 100;
/// Ranges of statuses that a probe expects.
pub const MAX_EXPECTED_STATUSES: usize = 16;
/// Shares are told in millionths of the whole.
pub const WHOLE_PARTS_PER_MILLION: u32 = 1_000_000;

/// The longest DNS label, RFC 1123.
pub const MAX_LABEL: usize = 63;
/// The longest DNS subdomain, RFC 1123.
pub const MAX_SUBDOMAIN: usize = 253;
/// The longest pod uid that is accepted; Kubernetes' have 36 characters.
pub const MAX_UID: usize = 128;
/// The longest path, header value or method in a policy, in bytes.
pub const MAX_TEXT: usize = 1024;
/// The longest name of a header, in bytes.
pub const MAX_HEADER_NAME: usize = 128;
/// The longest name of a rate limit, in bytes.
pub const MAX_RATE_LIMIT_NAME: usize = 253;

/// A DNS label as RFC 1123 has it: namespaces and Services.
pub fn is_label(name: &str) -> bool {
    name.len() <= MAX_LABEL && is_long_label(name)
}

/// A DNS subdomain as RFC 1123 has it: pods, nodes, policies.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= MAX_SUBDOMAIN && name.split('.').all(is_long_label)
}

/// Kubernetes bounds the whole of a subdomain only, not each part.
fn is_long_label(part: &str) -> bool {
    let bytes = part.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(inner)
        && bytes.last().is_some_and(inner)
        && bytes.iter().all(|byte| inner(byte) || *byte == b'-')
}

/// A pod's uid: letters, digits, `-`, `_`, `.`, `:`.
pub fn is_uid(uid: &str) -> bool {
    let mark = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=MAX_UID).contains(&uid.len()) && uid.bytes().all(mark)
}

/// A label's value as Kubernetes has it: zones.
pub fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let mark = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(mark)
}

/// Where reports can be sent.
pub fn is_reachable(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

/// A token of HTTP, of which methods and the names of headers are made
/// (RFC 9110, section 5.6.2).
pub fn is_token(text: &str) -> bool {
    let mark = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(mark)
}

/// The name of a header in lower case.
pub fn is_header_name(name: &str) -> bool {
    name.len() <= MAX_HEADER_NAME
        && is_token(name)
        && !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Headers that nobody may change, beside Remora's own: see [`is_changeable_header`].
pub const KEPT_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The name of a header in lower case that a route may change. Those that frame
/// a message or concern its connection would break what carries it; `host` is
/// changed by a rewrite; and ours are nobody's to change.
pub fn is_changeable_header(name: &str) -> bool {
    // To those behind CGI and their like `-` and `_` are the same.
    let ours = crate::well_known::header::PREFIX.bytes();
    let is_ours = name.len() >= ours.len()
        && name
            .bytes()
            .zip(ours)
            .all(|(byte, ours)| byte == ours || (byte == b'_' && ours == b'-'));
    is_header_name(name) && !KEPT_HEADERS.contains(&name) && !is_ours
}

/// The value of a header (RFC 9110, section 5.5): visible ASCII, spaces and
/// tabs; none of these at its ends, where a reader takes them away.
pub fn is_header_value(value: &str) -> bool {
    let blank = |byte: u8| byte == b' ' || byte == b'\t';
    let ends = [value.bytes().next(), value.bytes().last()];
    value.len() <= MAX_TEXT
        && !ends.into_iter().flatten().any(blank)
        && value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || blank(byte))
}

/// A path as it stands in a request: it begins with a slash, and is visible
/// ASCII, all else percent-encoded (RFC 3986, section 2).
pub fn is_path(path: &str) -> bool {
    path.len() <= MAX_TEXT
        && path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An HTTP method, or a method of gRPC with its service.
pub fn is_method(method: &str) -> bool {
    method.len() <= MAX_TEXT && (is_token(method) || is_path(method))
}

/// The name of a rate limit: visible ASCII and spaces.
pub fn is_rate_limit_name(name: &str) -> bool {
    let mark = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    (1..=MAX_RATE_LIMIT_NAME).contains(&name.len()) && name.bytes().all(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubernetes() {
        for good in ["a", "shop", "payment-v1", "0x"] {
            assert!(is_label(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "a\nb", "ä", &long] {
            assert!(!is_label(bad), "{bad}");
        }
        assert!(is_subdomain("web-0.web") && is_subdomain(&long));
        for bad in ["web..x", "a.-b", &"a.".repeat(200)] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn no_text_holds_what_http_does_not_allow() {
        for harm in ["\n", "\r", "\0", "\u{7f}", "\u{202e}", "ü", "\u{85}"] {
            for text in [
                harm.to_owned(),
                format!("/{harm}"),
                format!("/a{harm}"),
                format!("a{harm}b"),
            ] {
                let is_one = [
                    is_header_value,
                    is_header_name,
                    is_path,
                    is_method,
                    is_rate_limit_name,
                    is_subdomain,
                    is_uid,
                    is_label_value,
                ]
                .map(|is_one| is_one(&text));
                assert_eq!(is_one, [false; 8], "{text:?}");
            }
        }
        assert!(is_header_value("") && is_header_value("a\t b"));
        assert!(!is_header_value(" a") && !is_header_value("a\t") && !is_header_value(" "));
        assert!(is_path("/") && is_path("/a%20b?c") && !is_path("a") && !is_path("/a b"));
        assert!(is_method("POST") && is_method("/a.B/C") && !is_method("P OST"));
        assert!(is_rate_limit_name("per caller") && !is_rate_limit_name(""));
    }

    #[test]
    fn what_frames_a_message_is_not_a_routes_to_change() {
        for name in ["x-canary", "authorization", "x-remo", "set-cookie", "date"] {
            assert!(is_changeable_header(name), "{name}");
        }
        for name in [
            "content-length",
            "transfer-encoding",
            "connection",
            "te",
            "upgrade",
            "host",
            "X-A",
            "",
            "x-remora-reason",
            "x_remora_client-identity",
            ":authority",
        ] {
            assert!(!is_changeable_header(name), "{name}");
        }
    }

    #[test]
    fn lengths_are_in_bytes() {
        let path = |length: usize| format!("/{}", "a".repeat(length - 1));
        assert!(is_path(&path(MAX_TEXT)) && !is_path(&path(MAX_TEXT + 1)));
        let value = |length: usize| "v".repeat(length);
        assert!(is_header_value(&value(MAX_TEXT)) && !is_header_value(&value(MAX_TEXT + 1)));
    }
}
