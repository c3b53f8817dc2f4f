//! `fallback` and `fault`, checked.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use remora_proto::bounds::{
    MAX_FALLBACK_BODY, MAX_FALLBACK_HEADERS, MAX_FAULT_DELAY_MS, MAX_LIST, MAX_TEXT,
    WHOLE_PARTS_PER_MILLION,
};
use remora_proto::v1;
use remora_proto::v1::fallback::Action;
use remora_proto::v1::fault_abort::Kind;

use super::problems::{Problems, quote};
use super::{filters, label, policy};
use crate::answer::Reason;
use crate::policy::config::trouble::{
    AbortKind, Fallback, FallbackAction, FallbackBackend, FallbackResponse, Fault, FaultAbort,
    FaultDelay,
};

/// The field `fallback`. One without an action that is known here is none.
pub fn fallback(part: Option<&v1::Fallback>, problems: &mut Problems) -> Option<Arc<Fallback>> {
    let part = part?;
    problems.within("fallback", |problems| {
        let when = problems.list("when", &part.when, MAX_LIST).iter();
        let when = when.filter_map(|word| Reason::from_word(word.as_bytes()));
        let mut when: Vec<Reason> = when.filter(|reason| reason.may_fall_back()).collect();
        if when.contains(&Reason::RetriesExhausted) {
            // Every attempt failed, and what never connected is sent again too.
            when.push(Reason::ConnectFailed);
        }
        let action = match part.action.as_ref()? {
            Action::Response(part) => FallbackAction::Response(
                problems.within("response", |problems| response(part, problems)),
            ),
            Action::Backend(part) => FallbackAction::Backend(
                problems.within("backend", |problems| backend(part, problems)),
            ),
        };
        Some(Arc::new(Fallback { when, action }))
    })
}

fn response(part: &v1::FallbackResponse, problems: &mut Problems) -> FallbackResponse {
    let headers = problems
        .list("headers", &part.headers, MAX_FALLBACK_HEADERS)
        .iter()
        .filter_map(|field| {
            let name = filters::changeable("headers.name", &field.name, problems)?;
            let value = HeaderValue::from_str(&field.value).ok();
            let value = value.filter(|_| field.value.len() <= MAX_TEXT);
            if value.is_none() {
                let quoted = quote(&field.value);
                let problem = format_args!("is {quoted}, must be a header's value");
                problems.add("headers.value", problem);
            }
            Some((name, value?))
        })
        .collect();
    let length = part.body.len();
    if length > MAX_FALLBACK_BODY {
        let problem = format_args!("has {length} bytes, at most {MAX_FALLBACK_BODY}");
        problems.add("body", problem);
    }
    FallbackResponse {
        status: status("status", part.status, problems),
        headers,
        body: part.body.clone(),
        grpc_status: problems.number("grpc_status", part.grpc_status, 0..=16) as u8,
        grpc_message: problems.text(
            "grpc_message",
            &part.grpc_message,
            |text| text.len() <= MAX_TEXT,
            "at most 1024 bytes",
        ),
    }
}

fn backend(part: &v1::FallbackBackend, problems: &mut Problems) -> FallbackBackend {
    if !part.cannot.is_empty() {
        // As the policy named it, which need be nothing that there is.
        return FallbackBackend {
            service: format!("{}/{}", part.namespace, part.service).into(),
            port: u16::try_from(part.port).unwrap_or_default(),
            cannot: Some(part.cannot.clone()),
        };
    }
    let namespace = label("namespace", &part.namespace, problems);
    let service = label("service", &part.service, problems);
    FallbackBackend {
        service: format!("{namespace}/{service}").into(),
        port: problems.port("port", part.port),
        cannot: None,
    }
}

/// The field `fault`.
pub fn fault(part: Option<&v1::Fault>, problems: &mut Problems) -> Option<Fault> {
    let part = part?;
    Some(problems.within("fault", |problems| {
        Fault {
            delay: part
                .delay
                .as_ref()
                .map(|part| problems.within("delay", |problems| delay(part, problems))),
            abort: part
                .abort
                .as_ref()
                .and_then(|part| problems.within("abort", |problems| abort(part, problems))),
            matches: part
                .r#match
                .as_ref()
                .map(|part| {
                    problems.within("match", |problems| policy::request_match(part, problems))
                })
                .unwrap_or_default(),
        }
    }))
}

fn delay(part: &v1::FaultDelay, problems: &mut Problems) -> FaultDelay {
    let duration_ms = problems.number("duration_ms", part.duration_ms, 0..=MAX_FAULT_DELAY_MS);
    FaultDelay {
        duration: Duration::from_millis(duration_ms),
        parts_per_million: parts(part.parts_per_million, problems),
    }
}

/// One of a kind that is not known here does nothing.
fn abort(part: &v1::FaultAbort, problems: &mut Problems) -> Option<FaultAbort> {
    let kind = match part.kind? {
        Kind::HttpStatus(code) => AbortKind::Http(status("http_status", code, problems)),
        Kind::GrpcStatus(code) => {
            AbortKind::Grpc(problems.number("grpc_status", code, 0..=16) as u8)
        }
        Kind::Reset(true) => AbortKind::Reset,
        Kind::Reset(false) => return None,
    };
    Some(FaultAbort {
        kind,
        parts_per_million: parts(part.parts_per_million, problems),
    })
}

fn parts(parts: u32, problems: &mut Problems) -> u32 {
    problems.number("parts_per_million", parts, 0..=WHOLE_PARTS_PER_MILLION)
}

fn status(field: &str, code: u32, problems: &mut Problems) -> StatusCode {
    let code = problems.number(field, code, 200..=599);
    u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
