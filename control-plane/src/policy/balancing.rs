//! `loadBalancing`, read.

use remora_proto::bounds::{is_changeable_header, is_token};
use remora_proto::v1;
use remora_proto::v1::load_balancing;

use super::parse::Faults;
use super::schema::{self, Algorithm, CookieLifetime, SessionType, Zones};
use super::{bounds, forms, rates};
use crate::core::settings::balancing::{LoadBalancing, Persistence, SlowStart};

const AT: &str = "spec.loadBalancing";

/// The block, typed.
pub(super) fn block(block: &schema::LoadBalancing, faults: &mut Faults) -> LoadBalancing {
    let hash = block.consistent_hash.as_ref();
    let is_hash = block.algorithm == Some(Algorithm::ConsistentHash);
    let field = format!("{AT}.consistentHash");
    if is_hash && hash.is_none() && !faults.is_given(&field) {
        faults.add(&field, schema::HASH_GIVEN);
    }
    let algorithm_is_read = !faults.is_given(&format!("{AT}.algorithm"));
    if hash.is_some() && !is_hash && algorithm_is_read {
        faults.add(&field, schema::HASH_WANTED);
    }
    let wait = block.wait_for_endpoints.as_ref();
    let at = format!("{AT}.waitForEndpoints");
    LoadBalancing {
        algorithm: block.algorithm.map(algorithm),
        hash_on: hash.map(|hash| hash_parts(&format!("{field}.on"), &hash.on, faults)),
        load_bound_percent: hash.and_then(|hash| hash.load_bound_percent),
        persistence: block
            .session_persistence
            .as_ref()
            .map(|block| persistence(block, faults)),
        pinning: block.pinning,
        slow_start: block.slow_start.as_ref().map(|block| {
            let at = format!("{AT}.slowStart.window");
            SlowStart {
                window_ms: faults.duration(&at, block.window.as_ref(), bounds::SLOW_START),
            }
        }),
        ignore_zones: block.zones.map(|zones| zones == Zones::Ignore),
        wait_for_endpoints_ms: faults.duration(&at, wait, bounds::WAIT_FOR_ENDPOINTS),
    }
}

fn algorithm(algorithm: Algorithm) -> load_balancing::Algorithm {
    match algorithm {
        Algorithm::PeakEwma => load_balancing::Algorithm::PeakEwma,
        Algorithm::LeastRequest => load_balancing::Algorithm::LeastRequest,
        Algorithm::RoundRobin => load_balancing::Algorithm::RoundRobin,
        Algorithm::Random => load_balancing::Algorithm::Random,
        Algorithm::ConsistentHash => load_balancing::Algorithm::ConsistentHash,
    }
}

/// As a policy writes it.
pub fn word(algorithm: load_balancing::Algorithm) -> &'static str {
    match algorithm {
        load_balancing::Algorithm::PeakEwma => "PeakEwma",
        load_balancing::Algorithm::LeastRequest => "LeastRequest",
        load_balancing::Algorithm::RoundRobin => "RoundRobin",
        load_balancing::Algorithm::Random => "Random",
        load_balancing::Algorithm::ConsistentHash => "ConsistentHash",
    }
}

fn hash_parts(at: &str, words: &[String], faults: &mut Faults) -> Vec<v1::HashPart> {
    use v1::hash_part::Part;
    let mut read = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let (kind, name) = word.split_once(':').unwrap_or((word, ""));
        let part = match kind {
            "sourceAddress" if word == kind => Part::SourceAddress(true),
            "path" if word == kind => Part::Path(true),
            "header" => Part::Header(rates::header_name(&at, name, faults)),
            "cookie" if is_token(name) => Part::Cookie(name.to_owned()),
            "query" if is_parameter(name) => Part::Query(name.to_owned()),
            _ => {
                faults.add(at, format!("is {word:?}, {}", forms::HASH_PART));
                continue;
            }
        };
        let part = v1::HashPart { part: Some(part) };
        if !read.contains(&part) {
            read.push(part);
        }
    }
    read
}

/// As a policy writes it.
pub fn hash_part(part: &v1::HashPart) -> Option<String> {
    use v1::hash_part::Part;
    Some(match part.part.as_ref()? {
        Part::Header(name) => format!("header:{name}"),
        Part::Cookie(name) => format!("cookie:{name}"),
        Part::SourceAddress(_) => "sourceAddress".to_owned(),
        Part::Path(_) => "path".to_owned(),
        Part::Query(name) => format!("query:{name}"),
    })
}

fn is_parameter(name: &str) -> bool {
    let mark = |byte: u8| byte.is_ascii_alphanumeric() || b"._~%-".contains(&byte);
    !name.is_empty() && name.bytes().all(mark)
}

fn persistence(block: &schema::SessionPersistence, faults: &mut Faults) -> Persistence {
    let at = format!("{AT}.sessionPersistence");
    let field = format!("{at}.absoluteTimeout");
    let timeout = block.absolute_timeout.as_ref();
    let absolute_timeout_ms = faults.duration(&field, timeout, bounds::SESSION);
    let permanent = block.cookie_lifetime_type;
    if permanent == Some(CookieLifetime::Permanent)
        && absolute_timeout_ms.is_none_or(|ms| ms == 0)
        && !faults.is_given(&field)
    {
        faults.add(field, schema::PERMANENT_ENDS);
    }
    if let Some(name) = &block.session_name {
        let field = format!("{at}.sessionName");
        if !is_token(name) {
            faults.add(field, format!("{name:?} is not the name of a header"));
        } else if !is_changeable_header(&name.to_ascii_lowercase()) {
            faults.add(field, format!("is {name:?}, {}", forms::CHANGEABLE));
        }
    }
    Persistence {
        by_header: block.kind.map(|kind| kind == SessionType::Header),
        name: block.session_name.clone(),
        strict: block.strict,
        absolute_timeout_ms,
        permanent: permanent.map(|lifetime| lifetime == CookieLifetime::Permanent),
    }
}
