//! `loadBalancing`, checked.

use std::time::Duration;

use remora_proto::bounds::{
    MAX_HASH_PARTS, MAX_LOAD_BOUND_PERCENT, MAX_TEXT, MAX_WAIT_FOR_ENDPOINTS_MS,
};
use remora_proto::v1;

use super::problems::Problems;
use super::{filters, policy, routes};
use crate::policy::config::balancing::{
    Algorithm, ConsistentHash, HashPart, LoadBalancing, Persistence,
};
use crate::routes::config::{SessionCarrier, SessionPersistence};

/// The field `load_balancing`.
pub fn load_balancing(part: &v1::LoadBalancing, problems: &mut Problems) -> LoadBalancing {
    problems.within("load_balancing", |problems| {
        let wait_ms = problems.number(
            "wait_for_endpoints_ms",
            part.wait_for_endpoints_ms,
            0..=MAX_WAIT_FOR_ENDPOINTS_MS,
        );
        LoadBalancing {
            algorithm: algorithm(part, problems),
            persistence: part.persistence.as_ref().and_then(|part| {
                problems.within("persistence", |problems| persistence(part, problems))
            }),
            pinning: part.pinning,
            slow_start: problems.duration("slow_start_ms", part.slow_start_ms, 0),
            ignore_zones: part.ignore_zones,
            wait_for_endpoints: Duration::from_millis(wait_ms),
        }
    })
}

fn algorithm(part: &v1::LoadBalancing, problems: &mut Problems) -> Algorithm {
    use v1::load_balancing::Algorithm as Sent;
    match Sent::try_from(part.algorithm) {
        Ok(Sent::PeakEwma) => Algorithm::PeakEwma,
        Ok(Sent::LeastRequest) => Algorithm::LeastRequest,
        Ok(Sent::RoundRobin) => Algorithm::RoundRobin,
        Ok(Sent::Random) => Algorithm::Random,
        Ok(Sent::ConsistentHash) => {
            if part.hash_on.is_empty() {
                problems.add("hash_on", "is empty, must have at least one part");
            }
            let on = problems.list("hash_on", &part.hash_on, MAX_HASH_PARTS);
            let on = on.iter().enumerate();
            let on = on.filter_map(|(at, part)| {
                problems.within(format!("hash_on[{at}]"), |problems| {
                    hash_part(part, problems)
                })
            });
            Algorithm::ConsistentHash(ConsistentHash {
                on: on.collect(),
                load_bound_percent: problems.number(
                    "hash_load_bound_percent",
                    part.hash_load_bound_percent,
                    100..=MAX_LOAD_BOUND_PERCENT,
                ),
            })
        }
        Err(_) => {
            problems.add("algorithm", format_args!("{} is not known", part.algorithm));
            Algorithm::PeakEwma
        }
    }
}

fn hash_part(part: &v1::HashPart, problems: &mut Problems) -> Option<HashPart> {
    use v1::hash_part::Part;
    let is_text = |text: &str| {
        (1..=MAX_TEXT).contains(&text.len()) && !text.chars().any(|it| it.is_control())
    };
    match part.part.as_ref() {
        Some(Part::Header(name)) => Some(HashPart::Header(policy::header_name(
            "header", name, problems,
        ))),
        Some(Part::Cookie(name)) => Some(HashPart::Cookie(problems.text(
            "cookie",
            name,
            |name| name.len() <= MAX_TEXT && remora_proto::bounds::is_token(name),
            "a cookie's name",
        ))),
        Some(Part::Query(name)) => Some(HashPart::Query(problems.text(
            "query",
            name,
            is_text,
            "a parameter's name",
        ))),
        Some(Part::SourceAddress(true)) => Some(HashPart::SourceAddress),
        Some(Part::Path(true)) => Some(HashPart::Path),
        // Without it callers would be served alike that the policy keeps apart.
        _ => {
            problems.add("", "is not known");
            None
        }
    }
}

/// One of a kind that is not known here cannot be kept: then there is none.
fn persistence(part: &v1::Persistence, problems: &mut Problems) -> Option<Persistence> {
    use v1::persistence::Kind;
    let carrier = match part.kind.as_ref()? {
        Kind::Cookie(part) => routes::cookie(&part.name, &part.path, part.permanent, problems),
        Kind::Header(name) => {
            SessionCarrier::Header(filters::changeable("header", name, problems)?)
        }
    };
    let timeout = part.absolute_timeout_ms;
    Some(Persistence {
        session: SessionPersistence {
            carrier,
            absolute_timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
        },
        strict: part.strict,
    })
}
