//! The forms of words in a policy, as schemas: what the API server refuses by
//! pattern is what [`super::parse`] refuses in a file.

use std::borrow::Cow;

use kube::core::Rule;
use remora_proto::{bounds as proto, well_known};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::conditions;

/// The form of a duration (GEP-2257): `250ms`, `10s`, `5m`, `1m30s`.
pub const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// The longest text of that form.
pub const DURATION_LENGTH: u32 = 4 * 7;
/// The name of a header (RFC 9110, section 5.6.2).
pub const HEADER: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
/// The longest name of a header.
pub const HEADER_LENGTH: u32 = proto::MAX_HEADER_NAME as u32;
/// The value of a header (RFC 9110, section 5.5).
pub const HEADER_VALUE: &str = r"^([!-~]([\t -~]*[!-~])?)?$";
/// A path as it stands in a request (RFC 3986, section 2).
pub const PATH: &str = "^/[!-~]*$";
/// A path with its query, as a probe asks for it: without what stands in neither (RFC 3986).
pub const PROBE_PATH: &str = "^/[!$-;=?-_a-~]*$";
/// The longest path, and the longest value of a header.
pub const TEXT_LENGTH: u32 = proto::MAX_TEXT as u32;
/// The name of a rate limit.
pub const RATE_LIMIT_NAME: &str = "^[ -~]+$";
/// The longest name of a rate limit.
pub const RATE_LIMIT_NAME_LENGTH: u32 = 63;
/// The name of an object (RFC 1123, a subdomain).
pub const NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The longest name of an object.
pub const NAME_LENGTH: u32 = proto::MAX_SUBDOMAIN as u32;
/// The name of a Service, and of a namespace (RFC 1123, a label).
pub const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// Text on one line.
pub const VISIBLE: &str = "^[ -~]*$";
/// The longest text that a probe looks for.
pub const BODY_TEXT_LENGTH: u32 = proto::MAX_TEXT as u32;
/// The name of a service of gRPC; may be empty.
pub const GRPC_SERVICE: &str = "^[A-Za-z0-9_.]*$";
/// The longest name of a service of gRPC.
pub const GRPC_SERVICE_LENGTH: u32 = 256;
/// A part in percent, as a text: a number may stand for it.
pub const PERCENT: &str = "^([1-9][0-9]?|100)%$";
/// A percentile.
pub const PERCENTILE: &str = "^p[1-9][0-9]?$";

/// A form that has no rule but its pattern: who reads files asks `holds`.
pub struct Form {
    /// Its pattern, by which the schema knows it.
    pub pattern: &'static str,
    /// Whether a text has it.
    pub holds: fn(&str) -> bool,
    /// What such a text must be.
    pub words: &'static str,
}

/// The forms of which an API server says no more than the pattern.
pub const FORMS: [Form; 8] = [
    Form {
        pattern: HEADER_VALUE,
        holds: proto::is_header_value,
        words: "must be visible ASCII, with spaces and tabs only within it: nothing else stands \
                in a header",
    },
    Form {
        pattern: PATH,
        holds: proto::is_path,
        words: "must begin with / and be visible ASCII: all else stands percent-encoded in a \
                request",
    },
    Form {
        pattern: RATE_LIMIT_NAME,
        holds: proto::is_rate_limit_name,
        words: "must be visible ASCII and spaces",
    },
    Form {
        pattern: NAME,
        holds: proto::is_subdomain,
        words: "must be a name of Kubernetes: lower case letters, digits, - and ., with a letter \
                or digit at each end",
    },
    Form {
        pattern: LABEL,
        holds: proto::is_label,
        words: "must be a name of Kubernetes: lower case letters, digits and -, with a letter or \
                digit at each end",
    },
    Form {
        pattern: PROBE_PATH,
        holds: is_probe_path,
        words: "must begin with / and be visible ASCII without \", #, <, > and `: all else stands \
                percent-encoded in a request",
    },
    Form {
        pattern: VISIBLE,
        holds: is_visible,
        words: "must be visible ASCII and spaces",
    },
    Form {
        pattern: GRPC_SERVICE,
        holds: is_grpc_service,
        words: "must be the name of a service of gRPC, such as shop.Catalog",
    },
];

/// Whether a text has the form [`VISIBLE`].
pub fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn is_probe_path(text: &str) -> bool {
    proto::is_path(text) && !text.contains(['"', '#', '<', '>', '`'])
}

fn is_grpc_service(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
}
/// A number of bytes with its unit.
pub const QUANTITY: &str = "^[0-9]{1,12}(B|k|kB|KB|M|MB|Ki|KiB|Mi|MiB|Gi|GiB)?$";

/// An HTTP method as it is written, in capitals.
pub fn http_method() -> Value {
    let pattern = "^[!#$%&'*+.^_`|~0-9A-Z-]+$";
    word(
        32,
        pattern,
        "must be an HTTP method in capitals, such as GET",
    )
}

/// An HTTP method, or a method of gRPC with its service.
pub fn any_method() -> Value {
    let pattern = "^([!#$%&'*+.^_`|~0-9A-Z-]+|/[A-Za-z0-9_.]+/[A-Za-z0-9_.]+)$";
    let message = "must be an HTTP method such as POST, or /package.Service/Method";
    word(256, pattern, message)
}

/// One part of a rate limit's key.
pub fn key_part() -> Value {
    let pattern = "^(clientIdentity|remoteAddress|path|method|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+)$";
    let message = "must be one of: clientIdentity, remoteAddress, path, method, header:NAME";
    let mut schema = word("header:".len() as u32 + HEADER_LENGTH, pattern, message);
    if let Some(Value::Array(rules)) = schema.get_mut("x-kubernetes-validations") {
        rules.push(json!(not_ours("header:")));
    }
    schema
}

/// One part of what a consistent hash is made of.
pub fn hash_part() -> Value {
    let token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
    let pattern =
        format!("^(sourceAddress|path|header:{token}|cookie:{token}|query:[A-Za-z0-9._~%-]+)$");
    let mut schema = word("header:".len() as u32 + HEADER_LENGTH, &pattern, HASH_PART);
    if let Some(Value::Array(rules)) = schema.get_mut("x-kubernetes-validations") {
        rules.push(json!(not_ours("header:")));
    }
    schema
}

/// What it must be.
pub const HASH_PART: &str =
    "must be one of: sourceAddress, path, header:NAME, cookie:NAME, query:NAME";

/// Status codes from one to another: a number, or a string with a dash.
pub fn status_range() -> Value {
    let mut schema = status_or_word(7, "^[2-5][0-9]{2}(-[2-5][0-9]{2})?$");
    schema["x-kubernetes-validations"] = json!([{
        // Three digits each: they are in the order of numbers. What has no such form
        // is the pattern's.
        "rule": "type(self) == int || !self.matches('^[0-9]{3}-[0-9]{3}$') || \
                 self.substring(0, 3) <= self.substring(4)",
        "message": STATUS_RANGE,
    }]);
    schema
}

/// A status code as a number, or a string of a form.
fn status_or_word(most: u32, pattern: &str) -> Value {
    json!({
        "x-kubernetes-int-or-string": true,
        "minimum": conditions::STATUS_CODES.start,
        "maximum": conditions::STATUS_CODES.end - 1,
        "maxLength": most,
        "pattern": pattern,
    })
}

/// What it must be.
pub const STATUS_RANGE: &str =
    "must be a status code from 200 to 599, or two of them in order such as 200-299";

/// A string of a form, as an entry of a list.
fn word(most: u32, pattern: &str, message: &'static str) -> Value {
    json!({
        "type": "string",
        "maxLength": most,
        "pattern": pattern,
        "x-kubernetes-validations": [form(pattern, message)],
    })
}

/// The name of a header.
pub fn header_name() -> Rule {
    form(HEADER, "must be the name of a header")
}

/// A pattern once more, for its message: the schema's own shows nothing but
/// the pattern.
fn form(pattern: &str, message: &'static str) -> Rule {
    let pattern = pattern.replace('\'', "\\'");
    Rule::new(format!("self.matches('{pattern}')")).message(message)
}

/// How an attempt can end: a word, or a status code as a number or a string.
pub fn condition() -> Value {
    status_or_word(32, &conditions::pattern())
}

/// Headers that begin so are set by sidecars alone.
pub fn not_ours(before: &str) -> Rule {
    let prefix = well_known::header::PREFIX;
    let rule = format!("!self.lowerAscii().startsWith('{before}{prefix}')");
    let message = "must not begin with x-remora-: such headers are Remora's own";
    Rule::new(rule).message(message)
}

/// What the name of a header must be that Remora sets for somebody.
pub const CHANGEABLE: &str = "must not be a header that frames a message or concerns its \
                              connection, nor begin with x-remora-";

/// A header that Remora may set ([`proto::is_changeable_header`]).
pub fn changeable() -> Rule {
    let prefix = well_known::header::PREFIX;
    Rule::new(format!(
        "!(self.lowerAscii() in ['{}']) && \
         !self.lowerAscii().replace('_', '-').startsWith('{prefix}')",
        proto::KEPT_HEADERS.join("', '")
    ))
    .message(CHANGEABLE)
}

/// A body: its characters may have several bytes each.
pub fn body_bytes() -> Rule {
    let most = proto::MAX_FALLBACK_BODY;
    Rule::new(format!("size(bytes(self)) <= {most}")).message(BODY_BYTES)
}

/// What it must be.
pub const BODY_BYTES: &str = "must be at most 16384 bytes";

/// A number of bytes: 65536, or a string with a unit.
// The pattern bounds the digits; a double holds whatever they come to.
pub fn buffer_bytes() -> Rule {
    let rule = "type(self) == int ? self <= 16777216 : \
        double(self.find('^[0-9]+')) * \
        (self.contains('Gi') ? 1073741824.0 : self.contains('Mi') ? 1048576.0 : \
        self.contains('Ki') ? 1024.0 : self.contains('M') ? 1000000.0 : \
        self.contains('k') || self.contains('K') ? 1000.0 : 1.0) <= 16777216.0";
    Rule::new(rule).message("must be bytes such as 65536 or 64KiB, at most 16MiB")
}

/// Takes a type's own description from its schema, so that the field's own stands.
pub fn described_by_field(schema: &mut Schema) {
    schema.remove("description");
}

/// A number or a string, as Kubernetes allows in quantities and codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A string.
    String(String),
}

impl JsonSchema for IntOrString {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

/// What a label's value must be.
pub const LABEL_VALUE: &str = "a label's value: at most 63 letters, digits, -, _ and ., with a \
    letter or digit at either end, or empty";

/// A label's value.
pub fn label_value() -> Value {
    let form = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";
    json!({
        "type": "string",
        "maxLength": 63,
        "x-kubernetes-validations": [
            { "rule": format!("self.matches('{form}')"), "message": format!("must be {LABEL_VALUE}") },
        ],
    })
}

/// Whether [`label_value`] takes it.
pub fn is_label_value(text: &str) -> bool {
    let mark = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && text.bytes().all(mark) && ends(bytes.first()) && ends(bytes.last())
}
