//! `matches` of a rule: what of a request must hold.

use remora_proto::bounds::{MAX_ROUTE_PATTERN_BYTES, MAX_ROUTE_TEXT};
use remora_proto::pattern::Pattern;
use remora_proto::v1;
use remora_proto::v1::{grpc_method, route_match, value_match};
use serde_json::Value;

use super::findings::{Fields, Findings, VALUE, is_value, shown};
use crate::core::routes::RouteKind;

/// Conditions of one match in one list, as Gateway API bounds them.
const MAX_CONDITIONS: usize = 16;
/// Bytes of a path.
const MAX_PATH: usize = 1_024;
/// The methods that a match may name.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
const EXACT: &str = "Exact";
const PREFIX: &str = "PathPrefix";
const PATTERN: &str = "RegularExpression";

/// The matches of a rule, and the bytes of the automata of their patterns.
#[derive(Default)]
pub(super) struct Read {
    pub(super) matches: Vec<v1::RouteMatch>,
    pub(super) pattern_bytes: usize,
    /// Bytes of those of the rules before.
    spent: usize,
    /// One cannot be built: then no more is, as the rule is nothing without it.
    is_broken: bool,
}

impl Read {
    /// After rules whose patterns take so many bytes.
    pub(super) fn after(spent: usize) -> Self {
        Self {
            spent,
            ..Self::default()
        }
    }

    /// One more.
    pub(super) fn add(
        &mut self,
        kind: RouteKind,
        value: &Value,
        path: &str,
        findings: &mut Findings,
    ) {
        let known: &[&str] = match kind {
            RouteKind::Http => &["path", "headers", "queryParams", "method"],
            RouteKind::Grpc => &["method", "headers"],
        };
        let Some(fields) = findings.object(value, path, known) else {
            return;
        };
        let headers = findings.list(fields, path, "headers", MAX_CONDITIONS);
        let mut read = v1::RouteMatch {
            headers: self.values(headers, &format!("{path}.headers"), true, findings),
            ..v1::RouteMatch::default()
        };
        match kind {
            RouteKind::Http => {
                read.path = Some(self.http_path(fields, path, findings));
                let query = findings.list(fields, path, "queryParams", MAX_CONDITIONS);
                read.query = self.values(query, &format!("{path}.queryParams"), false, findings);
                let method = findings.word(fields, path, "method", &METHODS);
                read.method = method.unwrap_or_default().to_owned();
            }
            RouteKind::Grpc => {
                let method = fields.get("method").filter(|value| !value.is_null());
                read.path = method
                    .and_then(|value| self.grpc_method(value, &format!("{path}.method"), findings))
                    .map(route_match::Path::GrpcMethod);
            }
        }
        self.matches.push(read);
    }

    fn http_path(
        &mut self,
        fields: &Fields,
        path: &str,
        findings: &mut Findings,
    ) -> route_match::Path {
        let every = || route_match::Path::PathPrefix("/".to_owned());
        let Some(value) = fields.get("path").filter(|value| !value.is_null()) else {
            return every();
        };
        let path = format!("{path}.path");
        let Some(fields) = findings.object(value, &path, &["type", "value"]) else {
            return every();
        };
        let before = findings.count();
        let kind = findings.word(fields, &path, "type", &[EXACT, PREFIX, PATTERN]);
        let text = findings.text(fields, &path, "value").unwrap_or("/");
        if findings.count() > before {
            return every();
        }
        let field = format!("{path}.value");
        match kind.unwrap_or(PREFIX) {
            PATTERN => {
                self.pattern(text, &field, findings);
                route_match::Path::PathPattern(text.to_owned())
            }
            exact_or_prefix => {
                if let Some(message) = not_a_path(text) {
                    findings.form(field, format!("is {}, {message}", shown(text)));
                }
                if exact_or_prefix == EXACT {
                    route_match::Path::PathExact(text.to_owned())
                } else {
                    route_match::Path::PathPrefix(without_slash(text).to_owned())
                }
            }
        }
    }

    fn grpc_method(
        &mut self,
        value: &Value,
        path: &str,
        findings: &mut Findings,
    ) -> Option<v1::GrpcMethod> {
        let fields = findings.object(value, path, &["type", "service", "method"])?;
        let before = findings.count();
        let kind = findings.word(fields, path, "type", &[EXACT, PATTERN]);
        let service = findings.text(fields, path, "service");
        let method = findings.text(fields, path, "method");
        if service.is_none() && method.is_none() && findings.count() == before {
            findings.form(path, "must have service, method, or both");
        }
        if findings.count() > before {
            return None;
        }
        if kind.unwrap_or(EXACT) == PATTERN {
            for (name, text) in [("service", service), ("method", method)] {
                if let Some(text) = text {
                    self.pattern(text, &format!("{path}.{name}"), findings);
                }
            }
            return Some(v1::GrpcMethod {
                service: service.map(|text| grpc_method::Service::ServicePattern(text.to_owned())),
                method: method.map(|text| grpc_method::Method::MethodPattern(text.to_owned())),
            });
        }
        let service = service.filter(|text| {
            // As the definition has it; no such service begins with a dot.
            let name = text.strip_prefix('.').unwrap_or(text);
            let holds = name.split('.').all(is_grpc_name);
            if !holds {
                let message = format!(
                    "is {}, must be a service of gRPC, package.Name",
                    shown(text)
                );
                findings.form(format!("{path}.service"), message);
            }
            holds
        });
        let method = method.filter(|text| {
            let holds = is_grpc_name(text);
            if !holds {
                let message = format!("is {}, must be a method of gRPC", shown(text));
                findings.form(format!("{path}.method"), message);
            }
            holds
        });
        Some(v1::GrpcMethod {
            service: service.map(|text| grpc_method::Service::ServiceExact(text.to_owned())),
            method: method.map(|text| grpc_method::Method::MethodExact(text.to_owned())),
        })
    }

    /// Of equal names the first counts, as the specification says.
    fn values(
        &mut self,
        items: &[Value],
        path: &str,
        of_headers: bool,
        findings: &mut Findings,
    ) -> Vec<v1::ValueMatch> {
        let mut read: Vec<v1::ValueMatch> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(fields) = findings.object(item, &path, &["type", "name", "value"]) else {
                continue;
            };
            let before = findings.count();
            let kind = findings.word(fields, &path, "type", &[EXACT, PATTERN]);
            let any: (fn(&str) -> bool, &str) = (|text| !text.is_empty(), "given");
            let name = findings.required(fields, &path, "name", any);
            let value = findings.required(fields, &path, "value", any);
            if findings.count() > before {
                continue;
            }
            let (Some(name), Some(value)) = (name, value) else {
                continue;
            };
            let Some(lower) = findings.header_name(name, &format!("{path}.name")) else {
                continue;
            };
            let name = if of_headers { lower } else { name.to_owned() };
            let field = format!("{path}.value");
            let value = if kind.unwrap_or(EXACT) == PATTERN {
                self.pattern(value, &field, findings);
                value_match::Value::Pattern(value.to_owned())
            } else {
                if of_headers && !is_value(value) {
                    let message = format!("is {}, must be {VALUE}", shown(value));
                    findings.unsupported(field, message);
                } else if value.chars().any(char::is_control) || value.len() > MAX_ROUTE_TEXT {
                    findings.unsupported(field, "has characters that no request has there");
                }
                value_match::Value::Exact(value.to_owned())
            };
            if !read.iter().any(|known| known.name == name) {
                read.push(v1::ValueMatch {
                    name,
                    value: Some(value),
                });
            }
        }
        read
    }

    /// Building one takes its time; how many an object has built is bounded.
    fn pattern(&mut self, text: &str, field: &str, findings: &mut Findings) {
        if self.is_broken {
            return;
        }
        let built = Pattern::parse(text).map(|pattern| pattern.size());
        self.is_broken = match built {
            Ok(bytes) => {
                self.pattern_bytes += bytes;
                let is_over = self.spent + self.pattern_bytes > MAX_ROUTE_PATTERN_BYTES;
                if is_over {
                    let message = format!(
                        "the patterns of the route need more than {MAX_ROUTE_PATTERN_BYTES} bytes"
                    );
                    findings.unsupported(field, message);
                }
                is_over
            }
            Err(error) => {
                findings.unsupported(field, format!("{} {error}", shown(text)));
                true
            }
        };
    }
}

/// Without the slash at its end, which means nothing there.
pub(super) fn without_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        None => path,
        Some("") => "/",
        Some(rest) => rest,
    }
}

fn is_grpc_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next();
    text.len() <= MAX_PATH
        && first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Why a text is no path of a request, as the definition says it.
fn not_a_path(text: &str) -> Option<&'static str> {
    let has = |part: &str| text.contains(part);
    if text.len() > MAX_PATH {
        return Some("must have at most 1024 bytes");
    }
    if !text.starts_with('/') {
        return Some("must begin with /");
    }
    if ["//", "/./", "/../", "%2f", "%2F", "#"]
        .into_iter()
        .any(has)
        || text.ends_with("/..")
        || text.ends_with("/.")
    {
        return Some("must not contain //, /./, /../, %2f or #, nor end with /. or /..");
    }
    let mark = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
        let holds = mark(byte) || (byte == b'%' && hex(bytes.next()) && hex(bytes.next()));
        if !holds {
            return Some("must be a path of visible ASCII, all else percent-encoded");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_path_is_what_the_definition_says() {
        for good in ["/", "/a", "/a/", "/a%20b", "/a.b/-_~!$&'()*+,;=:@"] {
            assert_eq!(not_a_path(good), None, "{good}");
        }
        for bad in [
            "", "a", "/a//b", "/./", "/a/..", "/a/.", "/a/../b", "/%2f", "/a#b", "/a?b", "/ü",
            "/%2", "/%zz", "/a b",
        ] {
            assert!(not_a_path(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_slash_at_the_end_of_a_prefix_means_nothing() {
        assert_eq!(without_slash("/a/"), "/a");
        assert_eq!(without_slash("/a"), "/a");
        assert_eq!(without_slash("/"), "/");
    }
}
