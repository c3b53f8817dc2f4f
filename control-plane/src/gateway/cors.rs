//! The CORS filter.

use remora_proto::bounds::MAX_CORS_LIST;
use remora_proto::v1;
use serde_json::Value;

use super::findings::{Findings, shown};

/// Bytes of an origin.
const MAX_ORIGIN: usize = 253;
/// Seconds for which the answer to a preflight may be kept, where nothing is said.
const DEFAULT_MAX_AGE: u32 = 5;
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*",
];
const MAX_METHODS: usize = 9;

pub(super) fn read(value: &Value, path: &str, findings: &mut Findings) -> v1::Cors {
    let known = [
        "allowOrigins",
        "allowCredentials",
        "allowMethods",
        "allowHeaders",
        "exposeHeaders",
        "maxAge",
    ];
    let Some(fields) = findings.object(value, path, &known) else {
        return v1::Cors::default();
    };
    let mut texts = |name: &str, most| {
        let listed = findings.list(fields, path, name, most);
        let texts: Vec<String> = listed
            .iter()
            .filter_map(|one| one.as_str().map(ToOwned::to_owned))
            .collect();
        let field = format!("{path}.{name}");
        if texts.len() < listed.len() {
            findings.form(&field, "must be a list of strings");
        }
        if texts.len() > 1 && name != "exposeHeaders" && texts.iter().any(|text| text == "*") {
            findings.form(&field, "\"*\" must stand alone");
        }
        texts
    };
    let allow_origins = texts("allowOrigins", MAX_CORS_LIST);
    let allow_methods = texts("allowMethods", MAX_METHODS);
    let allow_headers = texts("allowHeaders", MAX_CORS_LIST);
    let expose_headers = texts("exposeHeaders", MAX_CORS_LIST);
    check(&allow_origins, &allow_methods, path, findings);
    let mut names = |name: &str, listed: Vec<String>| -> Vec<String> {
        let field = format!("{path}.{name}");
        let mut names: Vec<String> = Vec::new();
        for listed in listed {
            let name = findings.header_name(&listed, &field);
            names.extend(name.filter(|name| !names.contains(name)));
        }
        names
    };
    v1::Cors {
        allow_headers: names("allowHeaders", allow_headers),
        expose_headers: names("exposeHeaders", expose_headers),
        allow_credentials: findings
            .boolean(fields, path, "allowCredentials")
            .unwrap_or(false),
        max_age_seconds: findings
            .number(fields, path, "maxAge", (1, i32::MAX.unsigned_abs()))
            .unwrap_or(DEFAULT_MAX_AGE),
        allow_origins: once(allow_origins),
        allow_methods: once(allow_methods),
    }
}

fn check(origins: &[String], methods: &[String], path: &str, findings: &mut Findings) {
    for origin in origins.iter().filter(|origin| !is_origin(origin)) {
        let message = format!(
            "is {}, must be * or scheme://host or scheme://host:port, with http or https",
            shown(origin)
        );
        findings.form(format!("{path}.allowOrigins"), message);
    }
    for method in methods.iter().filter(|one| !METHODS.contains(&&***one)) {
        let message = format!(
            "is {}, must be one of: {}",
            shown(method),
            METHODS.join(", ")
        );
        findings.unsupported(format!("{path}.allowMethods"), message);
    }
}

fn once(texts: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for text in texts {
        if !kept.contains(&text) {
            kept.push(text);
        }
    }
    kept
}

/// `*`, or `scheme://host` with a port or none, as the definition's pattern has it.
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest.filter(|_| text.len() <= MAX_ORIGIN) else {
        return false;
    };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse().is_ok_and(|port: u16| port > 0)
    };
    let host_rest = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        let mark = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(mark)
    };
    (host == "*" || host_rest.split('.').all(label)) && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::is_origin;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_maybe_a_port() {
        for good in [
            "*",
            "https://a",
            "http://*.example.com",
            "https://a.b:8443",
            "http://*",
            "http://*:80",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "a.b",
            "ftp://a",
            "https://",
            "https://a:",
            "https://a:0",
            "https://a:99999",
            "https://a/",
            "https://a.*.b",
            "https://a..b",
            "https://a:1:2",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
