//! Heads as HTTP/2 carries them; and an HTTP/1.1 request on a stream between
//! two sidecars.
//!
//! Such a request carries [`MARKER`], which only sidecars set, as its last
//! field. Its fields stay as they were and where they were, `host` among them:
//! `:authority` says nothing, and is always the same, so that it costs a byte.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::headers::{self, ATTEMPT};
use crate::upstream::Head;

/// Says between sidecars that a stream's request is of HTTP/1, and of which.
pub const MARKER: HeaderName = HeaderName::from_static(remora_proto::well_known::header::HTTP);

const MARKED_1_1: HeaderValue = HeaderValue::from_static("1.1");
const MARKED_1_0: HeaderValue = HeaderValue::from_static("1.0");

/// `:authority` of a marked request.
const MARKED_AUTHORITY: &str = "remora";

/// The head of a stream for `head`.
pub fn request(head: Head<'_>) -> Request<()> {
    let parts = head.parts;
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    let mut fields = forwarded(&parts.headers, 3);
    if let Some(attempt) = head.attempt {
        fields.append(ATTEMPT, headers::attempt_value(attempt));
    }
    if let Some(identity) = head.identity {
        fields.append(headers::CLIENT_IDENTITY, identity.clone());
    }
    if parts.version == Version::HTTP_2 {
        *request.uri_mut() = parts.uri.clone();
        if let Some(protocol) = parts.extensions.get::<h2::ext::Protocol>() {
            request.extensions_mut().insert(protocol.clone());
        }
        // Without `:authority` h2 sends only what claims to come from HTTP/1.
        *request.version_mut() = if parts.uri.authority().is_some() {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
    } else {
        *request.uri_mut() = marked_uri(parts);
        *request.version_mut() = Version::HTTP_2;
        let marker = if parts.version == Version::HTTP_10 {
            MARKED_1_0
        } else {
            MARKED_1_1
        };
        // The last, so that its removal moves no other.
        fields.append(MARKER, marker);
    }
    *request.headers_mut() = fields;
    request
}

fn marked_uri(parts: &Parts) -> Uri {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::from_static(MARKED_AUTHORITY));
    uri.path_and_query = Some(
        parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
    );
    // These three always make one.
    Uri::from_parts(uri).unwrap_or_default()
}

/// Turns a marked request back into what the caller said. Whether it was one.
pub fn unmark(parts: &mut Parts) -> bool {
    let Some(marker) = parts.headers.remove(MARKER) else {
        return false;
    };
    parts.version = if marker == MARKED_1_0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    if let Some(path) = parts.uri.path_and_query() {
        parts.uri = Uri::from(path.clone());
    }
    true
}

/// Why a head that h2 lets pass is refused, one that was marked too.
///
/// A `#fragment` of `:path`, which no target has (RFC 9113, section 8.3.1), cannot
/// be seen here: h2 cuts it off as it reads the head. So nobody gets it, and what
/// rules judge is what the application is asked for. (HTTP/1 refuses it.)
pub fn check_path(parts: &Parts) -> Result<(), &'static str> {
    let path = parts.uri.path_and_query().map(PathAndQuery::as_str);
    if path.is_some_and(|path| path.starts_with('?')) {
        // RFC 9113, section 8.3.1: an empty path is said as /.
        return Err("the request's :path does not begin with /");
    }
    Ok(())
}

/// Why a head that h2 lets pass, and that nobody marked, is refused.
pub fn check(parts: &Parts) -> Result<(), &'static str> {
    check_path(parts)?;
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("the request has more than one host field");
    }
    let Some(authority) = parts.uri.authority() else {
        return if first.is_some() {
            Ok(())
        } else {
            Err("the request has neither :authority nor a host field")
        };
    };
    // RFC 9113, section 8.3.1: whoever reads the other of the two would be misled.
    if first.is_some_and(|host| !same(host.as_bytes(), authority.as_str().as_bytes())) {
        return Err("the request's host field differs from its :authority");
    }
    if authority.as_str().contains('@') && parts.method != Method::CONNECT {
        return Err("the request's :authority has user information");
    }
    Ok(())
}

/// Whether two authorities name the same, in whatever case, port 80 said or not.
fn same(host: &[u8], authority: &[u8]) -> bool {
    let bare = |name: &'_ [u8]| name.strip_suffix(b":80").map_or(name.len(), <[u8]>::len);
    host[..bare(host)].eq_ignore_ascii_case(&authority[..bare(authority)])
}

/// The fields that go on, in their order, with room for `more`.
fn forwarded(fields: &HeaderMap, more: usize) -> HeaderMap {
    if !fields
        .iter()
        .any(|(name, value)| is_of_connection(name, value))
    {
        // Copies the index as well, and hashes nothing.
        return fields.clone();
    }
    let mut passed = HeaderMap::with_capacity(fields.len() + more);
    for (name, value) in headers::forwarded(fields) {
        passed.append(name.clone(), value.clone());
    }
    passed
}

/// Fields of an answer or trailers, as HTTP/2 may carry them.
pub fn answer(fields: HeaderMap) -> HeaderMap {
    if fields
        .iter()
        .any(|(name, value)| is_of_connection(name, value))
    {
        return forwarded(&fields, 0);
    }
    fields
}

/// See [`answer`].
pub fn trailers(fields: HeaderMap) -> HeaderMap {
    answer(fields)
}

/// What [`headers::forwarded`] leaves out.
fn is_of_connection(name: &HeaderName, value: &HeaderValue) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == "keep-alive"
        || *name == "proxy-connection"
        || (*name == header::TE && !value.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_stands_behind_a_path() {
        let check = |path: &'static str| {
            let (mut parts, ()) = Request::new(()).into_parts();
            parts.uri = Uri::from(PathAndQuery::from_static(path));
            check_path(&parts)
        };
        assert!(check("/a?b").is_ok() && check("*").is_ok());
        assert!(check("?a=/b").is_err());
    }
}
