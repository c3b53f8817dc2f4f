//! What a match asks of a request. Nothing here allocates.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

/// A request as conditions see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query; what does not begin with a slash is none.
    pub path: &'a str,
    /// Its query, without the question mark.
    pub query: Option<&'a str>,
    /// The host and port of its target, where that has them.
    pub authority: Option<&'a str>,
    /// Its fields.
    pub headers: &'a HeaderMap,
}

impl<'a> View<'a> {
    /// Of a request's head.
    pub fn of(parts: &'a Parts) -> Self {
        Self {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            authority: parts.uri.authority().map(http::uri::Authority::as_str),
            headers: &parts.headers,
        }
    }

    /// The host that it is for, without the port.
    pub fn host(&self) -> Option<&'a [u8]> {
        let whole = match self.authority {
            Some(authority) => authority.as_bytes(),
            None => self.headers.get(header::HOST)?.as_bytes(),
        };
        // What stands before an `@` names nobody (RFC 9110, section 4.2.4).
        let at = whole.iter().rposition(|byte| *byte == b'@');
        let whole = at.map_or(whole, |at| &whole[at + 1..]);
        let colon = whole.iter().rposition(|byte| *byte == b':');
        // A colon within brackets is the address's own.
        let is_port = |colon: &usize| !whole[*colon..].contains(&b']');
        Some(colon.filter(is_port).map_or(whole, |colon| &whole[..colon]))
    }

    /// The values of a field, one for each of its lines.
    pub fn lines<'b>(&self, name: &'b HeaderName) -> Lines<'b>
    where
        'a: 'b,
    {
        let mut values = self.headers.get_all(name).iter();
        Lines {
            first: values.next(),
            is_only: values.next().is_none(),
            headers: self.headers,
            name,
        }
    }

    /// The first value of a parameter of the query, as it is written.
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        let pairs = self.query?.split('&');
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(written, _)| *written == name || decoded(written).eq(name.bytes()))
            .map(|(_, value)| value)
    }
}

/// The values of one field.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a> {
    first: Option<&'a HeaderValue>,
    is_only: bool,
    headers: &'a HeaderMap,
    name: &'a HeaderName,
}

impl<'a> Lines<'a> {
    /// Whether the field is there.
    pub fn is_there(&self) -> bool {
        self.first.is_some()
    }

    /// The value, where the field has one line: nearly always.
    pub fn only(&self) -> Option<&'a [u8]> {
        self.first
            .filter(|_| self.is_only)
            .map(HeaderValue::as_bytes)
    }

    /// All of them joined (RFC 9110, section 5.3).
    pub fn joined(self) -> impl Iterator<Item = u8> + 'a {
        // A cookie is split by HTTP/2 alone (RFC 9113, section 8.2.3).
        let between: &[u8] = match *self.name == header::COOKIE {
            true => b"; ",
            false => b",",
        };
        let values = self.headers.get_all(self.name).iter().enumerate();
        let bytes = values.flat_map(move |(at, value)| {
            let between = if at == 0 { &[] } else { between };
            between.iter().chain(value.as_bytes())
        });
        bytes.copied()
    }
}

/// A part of a query as it is meant: `+` is a space, and `%` begins a byte in
/// hexadecimal (<https://url.spec.whatwg.org/#urlencoded-parsing>).
pub fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(match first {
            b'+' => b' ',
            b'%' => match after {
                [high, low, after @ ..] => match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        high << 4 | low
                    }
                    _ => b'%',
                },
                _ => b'%',
            },
            byte => *byte,
        })
    })
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// The service and the method of a gRPC call's path.
pub fn grpc_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!method.contains('/')).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(headers: &'a HeaderMap, query: &'a str) -> View<'a> {
        View {
            method: "GET",
            path: "/",
            query: Some(query),
            authority: None,
            headers,
        }
    }

    #[test]
    fn lines_of_a_field_are_joined() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("a", "1"),
            ("a", "2"),
            ("b", "3"),
            ("cookie", "x=1"),
            ("cookie", "y=2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let view = view(&headers, "");
        let joined = |name| {
            let bytes: Vec<u8> = view
                .lines(&HeaderName::from_static(name))
                .joined()
                .collect();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!((joined("a"), joined("b")), ("1,2".into(), "3".into()));
        assert_eq!(joined("cookie"), "x=1; y=2");
        assert_eq!(view.lines(&HeaderName::from_static("a")).only(), None);
        assert_eq!(
            view.lines(&HeaderName::from_static("b")).only(),
            Some(&b"3"[..])
        );
        assert!(!view.lines(&HeaderName::from_static("c")).is_there());
    }

    #[test]
    fn of_a_parameter_that_is_there_twice_the_first_counts() {
        let headers = HeaderMap::new();
        let value = |query, name| {
            let view = view(&headers, query);
            let value = view.parameter(name)?;
            Some(String::from_utf8(decoded(value).collect()).unwrap())
        };
        assert_eq!(value("a=1&b=2&a=3", "a").unwrap(), "1");
        assert_eq!(value("a%20b=c+d%21%zz%4", "a b").unwrap(), "c d!%zz%4");
        assert_eq!(value("a", "a").unwrap(), "");
        assert_eq!(value("ab=1", "a"), None);
    }

    #[test]
    fn the_host_is_without_its_port() {
        let host = |text: &str| {
            let headers =
                HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(text).unwrap())]);
            let view = view(&headers, "");
            String::from_utf8(view.host().unwrap().to_vec()).unwrap()
        };
        assert_eq!(host("Catalog:80"), "Catalog");
        assert_eq!(host("catalog"), "catalog");
        assert_eq!(host("[fd00::1]:80"), "[fd00::1]");
        assert_eq!(host("[fd00::1]"), "[fd00::1]");
    }

    #[test]
    fn a_call_has_a_service_and_a_method() {
        assert_eq!(grpc_method("/a.B/C"), Some(("a.B", "C")));
        for path in ["/a.B", "a.B/C", "/a/b/c", "*", ""] {
            assert_eq!(grpc_method(path), None, "{path}");
        }
    }
}
