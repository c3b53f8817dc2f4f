//! The forms of words in an AuthorizationPolicy: patterns for the API server,
//! and the same by hand for files.

use kube::core::{Message, Rule};
use remora_proto::spiffe::{SpiffeId, is_name};
use serde_json::{Value, json};

/// Bytes of a path.
pub const MAX_PATH: usize = 1024;
/// Bytes of an identity.
pub const MAX_IDENTITY: usize = 768;
/// Bytes of a method of gRPC with its service.
pub const MAX_GRPC_METHOD: usize = 512;

/// What an identity must be.
pub const IDENTITY: &str = "spiffe://<trust domain>/ns/<namespace>/sa/<service account>, or \
    <namespace>/<service account> for the mesh's own trust domain";
/// What a path must be.
pub const PATH: &str = "a path such as /exact or /prefix/*, in its normal form: no empty segments, \
    no . or .. as a segment, no parameters (;), nothing percent-encoded that needs not be, and * \
    only as the last segment";
/// What a method of gRPC must be.
pub const GRPC_METHOD: &str = "package.Service/Method or package.Service/*";
/// What a namespace must be.
pub const NAMESPACE: &str = "the name of a namespace";

const LABEL: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
const ACCOUNT: &str = "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?";

/// An identity, whole or short.
pub fn identity() -> Value {
    let whole = format!("spiffe://[a-z0-9._-]{{1,255}}/ns/{LABEL}/sa/{ACCOUNT}");
    let form = format!("^({whole}|{LABEL}/{ACCOUNT})$");
    word(MAX_IDENTITY, &matches(&form), IDENTITY)
}

/// The name of a namespace.
pub fn namespace() -> Value {
    word(63, &matches(&format!("^{LABEL}$")), NAMESPACE)
}

/// The same, as a rule of a field.
pub fn namespace_rule() -> Rule {
    Rule::new(matches(&format!("^{LABEL}$")))
        .message(Message::Message(format!("must be {NAMESPACE}")))
}

/// What a whole identity must be.
pub const WHOLE_IDENTITY: &str = "spiffe://<trust domain>/ns/<namespace>/sa/<service account>";

/// A whole identity, as a rule of a field.
pub fn whole_identity_rule() -> Rule {
    let form = format!("^spiffe://[a-z0-9._-]{{1,255}}/ns/{LABEL}/sa/{ACCOUNT}$");
    Rule::new(matches(&form)).message(Message::Message(format!("must be {WHOLE_IDENTITY}")))
}

/// A path, or all below one.
pub fn path() -> Value {
    // What may stand in a path as it is (RFC 3986, `pchar` without `;` and `*`), and
    // encoded what may not, but for what no request may have.
    let plain = "[A-Za-z0-9._~!$&'()+,=:@/-]";
    let encoded = "%(2[023]|3[CEF]|5[BDE]|60|7[BCD]|[89A-F][0-9A-F])";
    let rule = format!(
        "{} && !self.contains('//') && !{} && (!self.endsWith('*') || self.endsWith('/*'))",
        matches(&format!("^/({plain}|{encoded})*[*]?$")),
        matches("/[.][.]?(/|$)"),
    );
    word(MAX_PATH, &rule, PATH)
}

/// A method of gRPC with its service.
pub fn grpc_method() -> Value {
    let form = "^[A-Za-z0-9_.]+/([A-Za-z0-9_.]+|[*])$";
    word(MAX_GRPC_METHOD, &matches(form), GRPC_METHOD)
}

/// By a rule, not by the schema's own pattern, whose message shows nothing but it.
fn word(most: usize, rule: &str, what: &str) -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "maxLength": most,
        "x-kubernetes-validations": [{ "rule": rule, "message": format!("must be {what}") }],
    })
}

fn matches(form: &str) -> String {
    format!("self.matches('{}')", form.replace('\'', "\\'"))
}

/// Whether [`namespace`] takes it.
pub fn is_namespace(text: &str) -> bool {
    text.len() <= 63 && is_name(text) && !text.contains('.')
}

/// Namespace and service account of a short identity.
pub fn short_identity(text: &str) -> Option<(&str, &str)> {
    let (namespace, account) = text.split_once('/')?;
    (is_namespace(namespace) && is_name(account)).then_some((namespace, account))
}

/// Whether this is a whole identity.
pub fn is_whole_identity(text: &str) -> bool {
    text.len() <= MAX_IDENTITY
        && text
            .parse::<SpiffeId>()
            .is_ok_and(|id| is_namespace(id.namespace()))
}

/// Whether [`path`] takes it.
pub fn is_path(text: &str) -> bool {
    if text == "/" || text == "/*" {
        return true;
    }
    let Some(rest) = text.strip_prefix('/') else {
        return false;
    };
    let rest = rest
        .strip_suffix("/*")
        .or_else(|| rest.strip_suffix('/'))
        .unwrap_or(rest);
    text.len() <= MAX_PATH && rest.split('/').all(is_segment)
}

fn is_segment(segment: &str) -> bool {
    if matches!(segment, "" | "." | "..") {
        return false;
    }
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += if byte == b'%' {
            let digits = bytes
                .get(at + 1..at + 3)
                .and_then(|two| std::str::from_utf8(two).ok());
            if !digits.is_some_and(must_be_encoded) {
                return false;
            }
            3
        } else if byte.is_ascii_alphanumeric() || b"_~!$&'()+,=:@-.".contains(&byte) {
            1
        } else {
            return false;
        };
    }
    true
}

/// Two digits of a percent-encoding that a path in its normal form may have.
fn must_be_encoded(digits: &str) -> bool {
    let high = digits.as_bytes().first().copied().unwrap_or_default();
    let is_upper = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    let ascii = [
        "20", "22", "23", "3C", "3E", "3F", "5B", "5D", "5E", "60", "7B", "7C", "7D",
    ];
    is_upper && (ascii.contains(&digits) || matches!(high, b'8' | b'9' | b'A'..=b'F'))
}

/// Whether [`grpc_method`] takes it.
pub fn is_grpc_method(text: &str) -> bool {
    let is_word = |text: &str| {
        let mark = |byte: u8| byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
        !text.is_empty() && text.bytes().all(mark)
    };
    let parts = text.split_once('/');
    text.len() <= MAX_GRPC_METHOD
        && parts
            .is_some_and(|(service, method)| is_word(service) && (method == "*" || is_word(method)))
}
