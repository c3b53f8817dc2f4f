//! Which scripts of browsers may read an answer: CORS, as
//! <https://fetch.spec.whatwg.org/#http-cors-protocol> has it.

use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN,
    VARY,
};
use http::request::Parts;

use super::config::{AllowList, Cors, Origin};

const ANY: HeaderValue = HeaderValue::from_static("*");

/// `scheme://host[:port]`: whether it is `https`, the host and the port.
pub fn parts_of(origin: &str) -> Option<(bool, &str, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let is_https = match scheme {
        scheme if scheme.eq_ignore_ascii_case("https") => true,
        scheme if scheme.eq_ignore_ascii_case("http") => false,
        _ => return None,
    };
    // A colon within brackets is the address's own.
    let colon = rest
        .rfind(':')
        .filter(|colon| !rest[*colon..].contains(']'));
    let (host, port) = match colon {
        Some(colon) => (&rest[..colon], rest[colon + 1..].parse().ok()?),
        None => (rest, if is_https { 443 } else { 80 }),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*[]:".contains(&byte);
    (!host.is_empty() && port != 0 && host.bytes().all(is_host)).then_some((is_https, host, port))
}

/// Whether a request asks, before another, whether that may be.
pub fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

impl Origin {
    fn is(&self, text: &str) -> bool {
        let Self::Of {
            is_https,
            host,
            is_suffix,
            port,
        } = self
        else {
            return true;
        };
        let Some((of_https, of_host, of_port)) = parts_of(text) else {
            return false;
        };
        let start = match is_suffix {
            true => of_host.len().checked_sub(host.len()),
            false => Some(0),
        };
        let end = start.and_then(|start| of_host.get(start..));
        *is_https == of_https
            && *port == of_port
            && end.is_some_and(|end| end.eq_ignore_ascii_case(host))
    }
}

impl Cors {
    /// Sets what an answer to the request tells the browser.
    pub fn answer(&self, request: &HeaderMap, is_preflight: bool, answer: &mut HeaderMap) {
        // The backend's own words would contradict these.
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            answer.remove(name);
        }
        let says_any = !self.allow_credentials && self.origins.contains(&Origin::Any);
        if !says_any {
            // Another origin is answered otherwise: caches must know.
            answer.append(VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = request.get(ORIGIN) else {
            return;
        };
        let is_allowed = |text| self.origins.iter().any(|origin| origin.is(text));
        if !origin.to_str().is_ok_and(is_allowed) {
            return;
        }
        let said = if says_any { ANY } else { origin.clone() };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, said);
        if self.allow_credentials {
            let yes = HeaderValue::from_static("true");
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        // With credentials `*` is a name like others, which stands for nothing.
        if let Some(value) = self.value(&self.expose, None) {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, value);
        }
        if !is_preflight {
            return;
        }
        let methods = request.get(ACCESS_CONTROL_REQUEST_METHOD);
        if let Some(value) = self.value(&self.methods, methods) {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, value);
        }
        let headers = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(value) = self.value(&self.headers, headers) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, value);
        }
        let age = HeaderValue::from(self.max_age_seconds);
        answer.insert(ACCESS_CONTROL_MAX_AGE, age);
    }

    fn value(&self, list: &AllowList, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match (list.all, self.allow_credentials) {
            (true, false) => Some(ANY),
            (true, true) => asked.cloned().or_else(|| list.listed.clone()),
            (false, _) => list.listed.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(is_https: bool, host: &str, is_suffix: bool, port: u16) -> Origin {
        let host = host.to_owned();
        Origin::Of {
            is_https,
            host,
            is_suffix,
            port,
        }
    }

    #[test]
    fn an_origin_is_compared_by_scheme_host_and_port() {
        let exact = of(true, "www.foo.com", false, 443);
        assert!(exact.is("https://www.foo.com") && exact.is("https://WWW.foo.com:443"));
        for other in [
            "http://www.foo.com",
            "https://www.foo.com:8443",
            "https://a.www.foo.com",
            "null",
            "",
        ] {
            assert!(!exact.is(other), "{other}");
        }
        let suffix = of(true, ".bar.com", true, 443);
        assert!(suffix.is("https://www.bar.com") && suffix.is("https://a.b.bar.com"));
        assert!(!suffix.is("https://bar.com") && !suffix.is("https://evilbar.com"));
        assert!(!suffix.is("https://evil.com/.bar.com"));
    }

    fn answer(
        cors: &Cors,
        request: &[(&'static str, &'static str)],
        is_preflight: bool,
    ) -> HeaderMap {
        let request = request.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let mut answer = HeaderMap::new();
        cors.answer(&request.collect(), is_preflight, &mut answer);
        answer
    }

    #[test]
    fn who_is_not_allowed_is_told_nothing() {
        let cors = Cors {
            origins: vec![of(false, "a.com", false, 80)],
            ..Cors::default()
        };
        let told = answer(&cors, &[("origin", "http://b.com")], true);
        assert_eq!(told.keys().collect::<Vec<_>>(), [VARY]);
        let told = answer(&cors, &[("origin", "http://a.com")], false);
        assert_eq!(told[ACCESS_CONTROL_ALLOW_ORIGIN], "http://a.com");
        assert!(!told.contains_key(ACCESS_CONTROL_MAX_AGE));
    }

    #[test]
    fn with_credentials_nothing_is_answered_with_a_star() {
        let all = AllowList {
            all: true,
            listed: None,
        };
        let mut cors = Cors {
            origins: vec![Origin::Any],
            methods: all.clone(),
            headers: all.clone(),
            expose: all,
            max_age_seconds: 5,
            allow_credentials: false,
        };
        let request = [
            ("origin", "https://x.y"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a, x-b"),
        ];
        let told = answer(&cors, &request, true);
        assert!(told.values().filter(|value| *value == "*").count() == 4);
        cors.allow_credentials = true;
        let told = answer(&cors, &request, true);
        assert_eq!(told[ACCESS_CONTROL_ALLOW_ORIGIN], "https://x.y");
        assert_eq!(told[ACCESS_CONTROL_ALLOW_METHODS], "PUT");
        assert_eq!(told[ACCESS_CONTROL_ALLOW_HEADERS], "x-a, x-b");
        assert_eq!(told[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(told[ACCESS_CONTROL_MAX_AGE], "5");
        assert!(!told.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS));
    }
}
