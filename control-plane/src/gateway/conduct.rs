//! `timeouts`, `retry` and `sessionPersistence` of a rule.

use std::hash::{DefaultHasher, Hash, Hasher};

use remora_proto::bounds::{MAX_ATTEMPTS, is_path, is_token};
use remora_proto::v1;
use remora_proto::v1::session_persistence;
use serde_json::Value;

use super::filters::changed;
use super::findings::{Fields, Findings, shown};
use crate::core::routes::{Retry, RouteId, RouteTimeouts};

/// Status codes in one list.
const MAX_CODES: usize = 64;
/// Attempts where `retry` says none, as the definition has it.
const DEFAULT_ATTEMPTS: u32 = 1;
/// Bytes of the name of a cookie.
const MAX_COOKIE_NAME: usize = 256;

pub(super) fn timeouts(
    fields: &Fields,
    path: &str,
    findings: &mut Findings,
) -> Option<RouteTimeouts> {
    let value = fields.get("timeouts").filter(|value| !value.is_null())?;
    let path = format!("{path}.timeouts");
    let fields = findings.object(value, &path, &["request", "backendRequest"])?;
    let request = findings.duration(fields, &path, "request");
    let backend = findings.duration(fields, &path, "backendRequest");
    if let (Some(request), Some(backend)) = (request, backend)
        && request > 0
        && backend > request
    {
        let field = format!("{path}.backendRequest");
        findings.form(field, "must not be longer than request");
    }
    let some = |ms: Option<u64>| ms.map(|ms| Some(ms).filter(|ms| *ms > 0));
    Some(RouteTimeouts {
        request: some(request),
        backend_request: some(backend),
    })
}

pub(super) fn retry(fields: &Fields, path: &str, findings: &mut Findings) -> Option<Retry> {
    let value = fields.get("retry").filter(|value| !value.is_null())?;
    let path = format!("{path}.retry");
    let fields = findings.object(value, &path, &["codes", "attempts", "backoff"])?;
    let attempts = findings.number(fields, &path, "attempts", (0, i32::MAX.unsigned_abs()));
    let attempts = attempts.unwrap_or(DEFAULT_ATTEMPTS);
    if attempts > MAX_ATTEMPTS {
        findings.remark(format!(
            "{path}.attempts is {attempts}, of which {MAX_ATTEMPTS} are done"
        ));
    }
    let listed = findings.list(fields, &path, "codes", MAX_CODES);
    let mut codes = Vec::new();
    for (index, code) in listed.iter().enumerate() {
        let code = code.as_u64().and_then(|code| u32::try_from(code).ok());
        match code.filter(|code| (400..=599).contains(code)) {
            Some(code) if codes.contains(&code) => {}
            Some(code) => codes.push(code),
            None => findings.form(format!("{path}.codes[{index}]"), "must be from 400 to 599"),
        }
    }
    Some(Retry {
        attempts: attempts.min(MAX_ATTEMPTS),
        codes: (!listed.is_empty()).then_some(codes),
        backoff_ms: findings.duration(fields, &path, "backoff"),
    })
}

pub(super) fn session_persistence(
    route: &RouteId,
    rule: usize,
    fields: &Fields,
    path: &str,
    findings: &mut Findings,
) -> Option<v1::SessionPersistence> {
    let value = fields
        .get("sessionPersistence")
        .filter(|value| !value.is_null())?;
    let path = format!("{path}.sessionPersistence");
    let known = ["absoluteTimeout", "type", "cookie", "header"];
    let fields = findings.object(value, &path, &known)?;
    let timeout = findings.duration(fields, &path, "absoluteTimeout");
    let kind = findings.word(fields, &path, "type", &["Cookie", "Header"]);
    let has = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let (own, other) = match kind {
        Some("Header") => ("header", "cookie"),
        _ => ("cookie", "header"),
    };
    if has(other).is_some() {
        findings.form(
            format!("{path}.{other}"),
            "must not be given beside its type",
        );
    }
    let at = format!("{path}.{own}");
    let kind = if own == "header" {
        let Some(value) = has("header") else {
            findings.form(at, "must be given: the type is Header");
            return None;
        };
        let fields = findings.object(value, &at, &["name"])?;
        let name = findings.required(fields, &at, "name", (is_token, "the name of a header"))?;
        session_persistence::Kind::Header(changed(name, &format!("{at}.name"), findings)?)
    } else {
        let cookie = cookie(route, rule, has("cookie"), &at, findings)?;
        if cookie.permanent && timeout.is_none_or(|ms| ms == 0) {
            let message = "must be given, and not be 0s: the cookie is Permanent";
            findings.form(format!("{path}.absoluteTimeout"), message);
        }
        session_persistence::Kind::Cookie(cookie)
    };
    Some(v1::SessionPersistence {
        kind: Some(kind),
        absolute_timeout_ms: timeout.unwrap_or(0),
    })
}

fn cookie(
    route: &RouteId,
    rule: usize,
    value: Option<&Value>,
    path: &str,
    findings: &mut Findings,
) -> Option<v1::SessionCookie> {
    let empty = Value::Object(Fields::new());
    let known = ["name", "path", "lifetimeType"];
    let fields = findings.object(value.unwrap_or(&empty), path, &known)?;
    let is_name: fn(&str) -> bool = |text| text.len() <= MAX_COOKIE_NAME && is_token(text);
    let name = findings.optional(fields, path, "name", (is_name, "the name of a cookie"));
    let at = findings.text(fields, path, "path").unwrap_or("/");
    if !is_path(at) || at.contains([';', ',']) {
        let message = format!("is {}, must be a path without ; and ,", shown(at));
        findings.unsupported(format!("{path}.path"), message);
    }
    let lifetime = findings.word(fields, path, "lifetimeType", &["Permanent", "Session"]);
    Some(v1::SessionCookie {
        name: name.map_or_else(|| own_name(route, rule), ToOwned::to_owned),
        path: at.to_owned(),
        permanent: lifetime == Some("Permanent"),
    })
}

/// A name that no other rule has, and this one keeps.
fn own_name(route: &RouteId, rule: usize) -> String {
    let mut hasher = DefaultHasher::new();
    (route, rule).hash(&mut hasher);
    format!("remora-{:016x}", hasher.finish())
}
