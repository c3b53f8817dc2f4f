//! `rateLimits`, and the names of headers and methods that they share with `retries`.

use remora_proto::bounds::is_token;
use remora_proto::{v1, well_known};

use super::parse::Faults;
use super::schema::{self, Period};
use crate::core::settings::{RateLimit, defaults};

/// The limits of the policy `policy` (`namespace/name`), complete.
pub(super) fn limits(
    policy: &str,
    limits: &[schema::RateLimit],
    faults: &mut Faults,
) -> Vec<RateLimit> {
    let mut read: Vec<RateLimit> = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        let at = format!("spec.rateLimits[{index}]");
        if read.iter().any(|other| other.limit.name == limit.name) {
            let message = format!(
                "is {:?} a second time; names are unique in a policy",
                limit.name
            );
            faults.add(format!("{at}.name"), message);
        }
        let matches = limit.matches.as_ref();
        read.push(RateLimit {
            at_caller: limit.enforced_at == Some(schema::EnforcedAt::Caller),
            limit: v1::RateLimit {
                name: limit.name.clone(),
                policy: policy.to_owned(),
                requests: limit.limit.requests,
                per_ms: period_ms(limit.limit.per),
                burst: burst(&limit.limit),
                r#match: matches.map(|block| match_block(&format!("{at}.match"), block, faults)),
                key: key(
                    &format!("{at}.key"),
                    limit.key.as_deref().unwrap_or_default(),
                    faults,
                ),
                mode: match limit.mode {
                    Some(schema::Mode::Shadow) => v1::rate_limit::Mode::Shadow.into(),
                    Some(schema::Mode::Enforce) | None => v1::rate_limit::Mode::Enforce.into(),
                },
                max_keys: limit.max_keys.unwrap_or(defaults::MAX_KEYS),
                mesh: limit.scope == Some(schema::LimitScope::Mesh),
            },
        });
    }
    read
}

fn period_ms(period: Period) -> u64 {
    match period {
        Period::Second => 1_000,
        Period::Minute => 60_000,
        Period::Hour => 3_600_000,
    }
}

/// Unset: what comes in 100 ms, at least 1; nothing where nothing is allowed.
fn burst(rate: &schema::Rate) -> u32 {
    if rate.requests == 0 {
        return 0;
    }
    let worth = u64::from(rate.requests) * 100 / period_ms(rate.per);
    rate.burst
        .unwrap_or_else(|| u32::try_from(worth).unwrap_or(u32::MAX).max(1))
}

/// What requests must have.
pub(super) fn match_block(at: &str, block: &schema::Match, faults: &mut Faults) -> v1::Match {
    for (index, method) in block.methods.iter().flatten().enumerate() {
        if !is_method(method) {
            let message = format!("is {method:?}, must be an HTTP method in capitals, such as GET");
            faults.add(format!("{at}.methods[{index}]"), message);
        }
    }
    let path = block
        .path
        .as_ref()
        .and_then(|path| path_match(&format!("{at}.path"), path, faults));
    let headers = block
        .headers
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, header)| {
            let field = format!("{at}.headers[{index}].name");
            v1::HeaderMatch {
                name: header_name(&field, &header.name, faults),
                exact: header.value.clone(),
            }
        });
    v1::Match {
        headers: headers.collect(),
        methods: block.methods.clone().unwrap_or_default(),
        path,
    }
}

fn path_match(
    at: &str,
    path: &schema::PathMatch,
    faults: &mut Faults,
) -> Option<v1::r#match::Path> {
    match (&path.exact, &path.prefix) {
        (Some(text), None) => Some(v1::r#match::Path::PathExact(text.clone())),
        (None, Some(text)) => Some(v1::r#match::Path::PathPrefix(text.clone())),
        (None, None) if faults.are_below(at) => None,
        _ => {
            faults.add(at, "must have exactly one of: exact, prefix");
            None
        }
    }
}

fn key(at: &str, parts: &[String], faults: &mut Faults) -> Vec<v1::KeyPart> {
    use v1::key_part::Part;
    let mut read = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let part = match part.as_str() {
            "clientIdentity" => Part::ClientIdentity(true),
            "remoteAddress" => Part::RemoteAddress(true),
            "path" => Part::Path(true),
            "method" => Part::Method(true),
            other => match other.strip_prefix("header:") {
                Some(name) => Part::Header(header_name(&at, name, faults)),
                None => {
                    let message = format!(
                        "is {other:?}, must be one of: clientIdentity, remoteAddress, path, \
                         method, header:NAME"
                    );
                    faults.add(at, message);
                    continue;
                }
            },
        };
        read.push(v1::KeyPart { part: Some(part) });
    }
    read
}

/// Whether this is an HTTP method as it is usually written, in capitals.
pub(super) fn is_method(text: &str) -> bool {
    is_token(text) && !text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// A header's name in lower case.
pub(super) fn header_name(at: &str, name: &str, faults: &mut Faults) -> String {
    let lower = name.to_ascii_lowercase();
    if !is_token(name) {
        faults.add(at, format!("{name:?} is not the name of a header"));
    } else if lower.starts_with(well_known::header::PREFIX) {
        let prefix = well_known::header::PREFIX;
        faults.add(
            at,
            format!("{name:?} begins with {prefix}: such headers are Remora's own"),
        );
    }
    lower
}
