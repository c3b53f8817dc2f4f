//! `fallback` and `fault`, read.

use remora_proto::bounds::{MAX_FALLBACK_BODY, is_changeable_header, is_token};
use remora_proto::v1;
use remora_proto::v1::fault_abort::Kind;

use super::parse::Faults;
use super::rates::match_block;
use super::{bounds, forms, schema};
use crate::core::objects::Id;
use crate::core::settings::trouble::{Abort, Action, Delay, Fallback, FallbackBackend, Fault};

/// What a `response` has where it does not say.
const STATUS: u32 = 200;
/// UNAVAILABLE
const GRPC_STATUS: u32 = 14;

/// `fallback` of a policy of this namespace, typed.
pub(super) fn fallback(namespace: &str, block: &schema::Fallback, faults: &mut Faults) -> Fallback {
    let at = "spec.fallback";
    let response = block.response.as_ref();
    let backend = block.backend_ref.as_ref();
    let fields = ["response", "backendRef"].map(|field| format!("{at}.{field}"));
    let is_read = fields.iter().all(|field| !faults.is_given(field));
    if response.is_some() == backend.is_some() && (response.is_some() || is_read) {
        faults.add(at, schema::ONE_ACTION);
    }
    let response = response.map(|block| Action::Response(answer(block, faults)));
    let backend = backend.map(|block| {
        let of = block.namespace.as_deref().unwrap_or(namespace);
        Action::Backend(FallbackBackend {
            from: namespace.into(),
            service: Id::new(of, &block.name),
            // The schema has bounded it.
            port: u16::try_from(block.port).unwrap_or_default(),
        })
    });
    let when = block.when.as_ref().map(|words| {
        let mut each = Vec::new();
        for word in words {
            if !each.contains(word) {
                each.push(*word);
            }
        }
        each
    });
    Fallback {
        when,
        action: response.or(backend),
    }
}

fn answer(block: &schema::Response, faults: &mut Faults) -> v1::FallbackResponse {
    let at = "spec.fallback.response";
    let body = block.body.clone().unwrap_or_default();
    if body.len() > MAX_FALLBACK_BODY {
        let message = format!("has {} bytes, {}", body.len(), forms::BODY_BYTES);
        faults.add(format!("{at}.body"), message);
    }
    let headers = block.headers.iter().flatten().enumerate();
    let headers = headers.map(|(index, header)| {
        let (name, at) = (&header.name, format!("{at}.headers[{index}].name"));
        let lower = name.to_ascii_lowercase();
        if !is_token(name) {
            faults.add(at, format!("{name:?} is not the name of a header"));
        } else if !is_changeable_header(&lower) {
            faults.add(at, format!("is {name:?}, {}", forms::CHANGEABLE));
        }
        v1::FieldValue {
            name: lower,
            value: header.value.clone(),
        }
    });
    v1::FallbackResponse {
        status: block.status.unwrap_or(STATUS),
        headers: headers.collect(),
        body: body.into_bytes().into(),
        grpc_status: block.grpc_status.unwrap_or(GRPC_STATUS),
        grpc_message: block.grpc_message.clone().unwrap_or_default(),
    }
}

/// `fault`, typed.
pub(super) fn fault(block: &schema::Fault, faults: &mut Faults) -> Fault {
    let at = "spec.fault";
    let matches = block.matches.as_ref();
    Fault {
        delay: block.delay.as_ref().map(|delay| {
            let field = format!("{at}.delay.duration");
            Delay {
                duration_ms: faults.duration(&field, Some(&delay.duration), bounds::FAULT_DELAY),
                parts_per_million: delay.percent.map(parts_per_million),
            }
        }),
        abort: block.abort.as_ref().map(|block| abort(block, faults)),
        matches: matches.map(|block| match_block(&format!("{at}.match"), block, faults)),
    }
}

fn abort(block: &schema::Abort, faults: &mut Faults) -> Abort {
    let at = "spec.fault.abort";
    if block.reset == Some(false) {
        faults.add(format!("{at}.reset"), schema::RESET_IS_TRUE);
    }
    let kinds = [
        block.status.map(Kind::HttpStatus),
        block.grpc_status.map(Kind::GrpcStatus),
        block.reset.map(Kind::Reset),
    ];
    let mut given: Vec<Kind> = kinds.into_iter().flatten().collect();
    let is_read = ["status", "grpcStatus", "reset"]
        .iter()
        .all(|field| !faults.is_given(&format!("{at}.{field}")));
    if given.len() > 1 || (given.is_empty() && is_read) {
        faults.add(at, schema::ONE_END);
    }
    Abort {
        kind: given.pop(),
        parts_per_million: block.percent.map(parts_per_million),
    }
}

/// Percent, which the schema has bounded, in millionths of the whole.
fn parts_per_million(percent: f64) -> u32 {
    (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32
}
