//! `filters`, of rules and of backends.

use remora_proto::bounds::{is_changeable_header, is_label, is_path, is_subdomain};
use remora_proto::v1;
use remora_proto::v1::{path_change, route_filter};
use serde_json::Value;

use super::cors;
use super::findings::{Fields, Findings, VALUE, is_value, shown};
use super::matches::without_slash;
use crate::core::routes::{BackendRef, Filter, RouteKind, is_core};

/// Filters in one list, and entries in a list of one.
const MAX_FILTERS: usize = 16;
const NAME: &str = "a name of Kubernetes";
/// Where filters stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) kind: RouteKind,
    /// Of a backend, not of the rule.
    pub(super) of_backend: bool,
    /// The rule has one match, by a prefix of the path.
    pub(super) one_prefix: bool,
}

/// The names of a filter's own block, by its type.
const BLOCKS: [(&str, &str); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
    ("ExtensionRef", "extensionRef"),
];

/// The filters of a list, in the order written.
pub(super) fn read(fields: &Fields, path: &str, at: At, findings: &mut Findings) -> Vec<Filter> {
    findings.within_filters(|findings| {
        let mut read = Vec::new();
        let mut types: Vec<&str> = Vec::new();
        for (index, value) in findings
            .list(fields, path, "filters", MAX_FILTERS)
            .iter()
            .enumerate()
        {
            let path = format!("{path}.filters[{index}]");
            if let Some((kind, filter)) = filter(value, &path, at, findings) {
                if types.contains(&kind) && !matches!(kind, "RequestMirror" | "ExtensionRef") {
                    let message = format!("{kind} stands before it already, and may stand once");
                    findings.incompatible(path, message);
                } else {
                    types.push(kind);
                    read.extend(filter);
                }
            }
        }
        if types.contains(&"RequestRedirect") && types.contains(&"URLRewrite") {
            let message = "has both RequestRedirect and URLRewrite: may have one of them";
            findings.incompatible(format!("{path}.filters"), message);
        }
        if types.contains(&"RequestRedirect") && types.contains(&"RequestMirror") {
            findings.remark(format!(
                "{path}.filters: what RequestRedirect answers is not mirrored"
            ));
        }
        read
    })
}

fn filter<'a>(
    value: &'a Value,
    path: &str,
    at: At,
    findings: &mut Findings,
) -> Option<(&'a str, Option<Filter>)> {
    let known: Vec<&str> = BLOCKS.iter().map(|(_, block)| *block).collect();
    let known: Vec<&str> = [&["type"], &known[..]].concat();
    let fields = findings.object(value, path, &known)?;
    let kind = findings.required(fields, path, "type", (|text| !text.is_empty(), "given"))?;
    let Some((_, block)) = BLOCKS.iter().find(|(known, _)| *known == kind) else {
        findings.unsupported(
            format!("{path}.type"),
            format!("{} is not known to Remora", shown(kind)),
        );
        return None;
    };
    for (other, name) in BLOCKS.iter().filter(|(_, name)| name != block) {
        if fields.get(*name).is_some_and(|value| !value.is_null()) {
            findings.form(
                format!("{path}.{name}"),
                format!("must not be given: the type is {kind}, not {other}"),
            );
        }
    }
    let Some(value) = fields.get(*block).filter(|value| !value.is_null()) else {
        findings.form(
            format!("{path}.{block}"),
            format!("must be given: the type is {kind}"),
        );
        return None;
    };
    let path = format!("{path}.{block}");
    Some((kind, block_of(kind, value, &path, at, findings)))
}

fn block_of(
    kind: &str,
    value: &Value,
    path: &str,
    at: At,
    findings: &mut Findings,
) -> Option<Filter> {
    use route_filter::Filter as Of;
    let http_only = !matches!(
        kind,
        "RequestHeaderModifier" | "ResponseHeaderModifier" | "RequestMirror" | "ExtensionRef"
    );
    if http_only && at.kind == RouteKind::Grpc {
        findings.unsupported(path, "is not for GRPCRoute");
        return None;
    }
    let plain = match kind {
        "RequestHeaderModifier" => Of::RequestHeaders(headers(value, path, findings)),
        "ResponseHeaderModifier" => Of::ResponseHeaders(headers(value, path, findings)),
        "RequestMirror" => return mirror(value, path, findings),
        "ExtensionRef" => return extension(value, path, findings),
        "RequestRedirect" | "CORS" if at.of_backend => {
            findings.unsupported(
                path,
                "is not done for one backend: write it in the filters of the rule",
            );
            return None;
        }
        "RequestRedirect" => Of::Redirect(redirect(value, path, at, findings)?),
        "URLRewrite" => {
            let fields = findings.object(value, path, &["hostname", "path"])?;
            Of::Rewrite(v1::Rewrite {
                hostname: hostname(fields, path, findings),
                path: path_change(fields, path, at, findings),
            })
        }
        "CORS" => Of::Cors(cors::read(value, path, findings)),
        _ => {
            findings.unsupported(path, format!("{kind} is not done by Remora"));
            return None;
        }
    };
    Some(Filter::Plain(v1::RouteFilter {
        filter: Some(plain),
    }))
}

fn headers(value: &Value, path: &str, findings: &mut Findings) -> v1::HeaderChanges {
    let mut read = v1::HeaderChanges::default();
    let Some(fields) = findings.object(value, path, &["set", "add", "remove"]) else {
        return read;
    };
    let mut named: Vec<(String, &str)> = Vec::new();
    // Of equal names in one list the first counts; two lists cannot both be right.
    let mut is_new = |name: &str, list: &'static str, field: String, findings: &mut Findings| {
        let known = named.iter().find(|(known, _)| known == name);
        match known {
            Some((_, other)) if *other != list => {
                let message = format!("{name} is in {other} already: a name may be in one list");
                findings.incompatible(field, message);
                false
            }
            Some(_) => false,
            None => {
                named.push((name.to_owned(), list));
                true
            }
        }
    };
    for (list, into) in [("set", &mut read.set), ("add", &mut read.add)] {
        let items = findings.list(fields, path, list, MAX_FILTERS);
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let Some(fields) = findings.object(item, &path, &["name", "value"]) else {
                continue;
            };
            let any: (fn(&str) -> bool, &str) = (|text| !text.is_empty(), "given");
            let name = findings.required(fields, &path, "name", any);
            let name = name.and_then(|name| changed(name, &format!("{path}.name"), findings));
            let value = findings.required(fields, &path, "value", any);
            let (Some(name), Some(value)) = (name, value) else {
                continue;
            };
            if !is_value(value) {
                let message = format!("is {}, must be {VALUE}", shown(value));
                findings.unsupported(format!("{path}.value"), message);
            } else if is_new(&name, list, path, findings) {
                into.push(v1::Header {
                    name,
                    value: value.to_owned(),
                });
            }
        }
    }
    let items = findings.list(fields, path, "remove", MAX_FILTERS);
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}.remove[{index}]");
        let Some(name) = item.as_str() else {
            findings.form(path, "must be a string (put it in quotes)");
            continue;
        };
        if let Some(name) = changed(name, &path, findings)
            && is_new(&name, "remove", path, findings)
        {
            read.remove.push(name);
        }
    }
    read
}

/// The name of a header that a route may change.
pub(super) fn changed(name: &str, field: &str, findings: &mut Findings) -> Option<String> {
    let name = findings.header_name(name, field)?;
    if is_changeable_header(&name) {
        return Some(name);
    }
    let hint = if name == "host" {
        "use URLRewrite with hostname"
    } else {
        "it says how the message is carried, or is Remora's own"
    };
    let message = format!("{} is not a route's to change: {hint}", shown(&name));
    findings.unsupported(field, message);
    None
}

fn redirect(value: &Value, path: &str, at: At, findings: &mut Findings) -> Option<v1::Redirect> {
    let known = ["scheme", "hostname", "path", "port", "statusCode"];
    let fields = findings.object(value, path, &known)?;
    let scheme = findings.word(fields, path, "scheme", &["http", "https"]);
    let port = findings.port(fields, path);
    let statuses = [301, 302, 303, 307, 308];
    let status = findings.number(fields, path, "statusCode", (0, u32::MAX));
    let status = status.unwrap_or(302);
    if !statuses.contains(&status) {
        let message = format!("is {status}, must be one of: 301, 302, 303, 307, 308");
        findings.unsupported(format!("{path}.statusCode"), message);
    }
    Some(v1::Redirect {
        scheme: scheme.unwrap_or_default().to_owned(),
        hostname: hostname(fields, path, findings),
        path: path_change(fields, path, at, findings),
        port: port.unwrap_or(0).into(),
        status,
    })
}

fn hostname(fields: &Fields, path: &str, findings: &mut Findings) -> String {
    let form: (fn(&str) -> bool, &str) = (is_subdomain, "a host name without a wildcard");
    let name = findings.optional(fields, path, "hostname", form);
    name.unwrap_or_default().to_owned()
}

fn path_change(
    fields: &Fields,
    path: &str,
    at: At,
    findings: &mut Findings,
) -> Option<v1::PathChange> {
    let value = fields.get("path").filter(|value| !value.is_null())?;
    let path = format!("{path}.path");
    let known = ["type", "replaceFullPath", "replacePrefixMatch"];
    let fields = findings.object(value, &path, &known)?;
    if fields.get("type").is_none_or(Value::is_null) {
        findings.form(format!("{path}.type"), "is missing and must be given");
        return None;
    }
    let kind = findings.word(
        fields,
        &path,
        "type",
        &["ReplaceFullPath", "ReplacePrefixMatch"],
    )?;
    let full = findings.text(fields, &path, "replaceFullPath");
    let prefix = findings.text(fields, &path, "replacePrefixMatch");
    let holds = |text: &str| is_path(text) && !text.contains(['?', '#']);
    let words = "must be a path of at most 1024 visible characters that begins with /, without ? \
                 and #";
    let change = match (kind, full, prefix) {
        ("ReplaceFullPath", Some(full), None) => {
            if !holds(full) {
                let field = format!("{path}.replaceFullPath");
                findings.unsupported(field, format!("is {}, {words}", shown(full)));
                return None;
            }
            path_change::Change::Full(full.to_owned())
        }
        ("ReplacePrefixMatch", None, Some(prefix)) => {
            let field = format!("{path}.replacePrefixMatch");
            // What is taken away and replaced by nothing leaves the slash.
            let prefix = if prefix.is_empty() { "/" } else { prefix };
            if !holds(prefix) {
                findings.unsupported(field, format!("is {}, {words}", shown(prefix)));
                return None;
            }
            if !at.one_prefix {
                findings.form(
                    field,
                    "needs that the rule has one match, of type PathPrefix",
                );
                return None;
            }
            path_change::Change::Prefix(without_slash(prefix).to_owned())
        }
        _ => {
            let message = "must have replaceFullPath or replacePrefixMatch, as its type says";
            findings.form(path, message);
            return None;
        }
    };
    Some(v1::PathChange {
        change: Some(change),
    })
}

fn mirror(value: &Value, path: &str, findings: &mut Findings) -> Option<Filter> {
    let fields = findings.object(value, path, &["backendRef", "percent", "fraction"])?;
    let empty = Value::Null;
    let at = format!("{path}.backendRef");
    let value = fields.get("backendRef").unwrap_or(&empty);
    let known = ["group", "kind", "name", "namespace", "port"];
    let backend = findings
        .object(value, &at, &known)
        .and_then(|fields| backend_ref(fields, &at, findings));
    let percent = findings.number(fields, path, "percent", (0, 100));
    let fraction = fields.get("fraction").filter(|value| !value.is_null());
    if percent.is_some() && fraction.is_some() {
        findings.form(path, "may have one of: percent, fraction");
    }
    let (mut numerator, mut denominator) = (percent.unwrap_or(100), 100);
    if let Some(value) = fraction {
        let path = format!("{path}.fraction");
        let fields = findings.object(value, &path, &["numerator", "denominator"])?;
        let most = i32::MAX.unsigned_abs();
        let given = findings.number(fields, &path, "numerator", (0, most));
        if given.is_none() && fields.get("numerator").is_none_or(Value::is_null) {
            findings.form(format!("{path}.numerator"), "is missing and must be given");
        }
        numerator = given.unwrap_or(0);
        denominator = findings
            .number(fields, &path, "denominator", (1, most))
            .unwrap_or(100);
        if numerator > denominator {
            findings.form(path, "numerator must not be larger than denominator");
        }
    }
    Some(Filter::Mirror {
        backend: backend?,
        numerator,
        denominator,
    })
}

fn extension(value: &Value, path: &str, findings: &mut Findings) -> Option<Filter> {
    let fields = findings.object(value, path, &["group", "kind", "name"])?;
    let mut part = |name: &str| {
        findings
            .text(fields, path, name)
            .unwrap_or_default()
            .to_owned()
    };
    let (group, kind, name) = (part("group"), part("kind"), part("name"));
    Some(Filter::Extension {
        shown: format!("{group}/{kind} {name}"),
        field: path.to_owned(),
    })
}

/// The reference of a backend or a mirror.
pub(super) fn backend_ref(
    fields: &Fields,
    path: &str,
    findings: &mut Findings,
) -> Option<BackendRef> {
    let group = findings.text(fields, path, "group").unwrap_or_default();
    let kind = findings.text(fields, path, "kind").unwrap_or("Service");
    let name = findings.required(fields, path, "name", (|text| !text.is_empty(), "given"));
    let namespace = findings.optional(fields, path, "namespace", (is_label, NAME));
    let port = findings.port(fields, path);
    if port.is_none()
        && kind == "Service"
        && is_core(group)
        && fields.get("port").is_none_or(Value::is_null)
    {
        findings.form(format!("{path}.port"), "must be given for a Service");
    }
    Some(BackendRef {
        group: group.into(),
        kind: kind.into(),
        namespace: namespace.map(Into::into),
        name: name?.into(),
        port,
        field: path.to_owned(),
    })
}
