//! Policies and routes, drawn by chance, with a liking for edges.

use remora_proto::v1;

use super::{SERVICES, control};
use crate::answer::Reason;

type Rng = fastrand::Rng;

/// Budgets have one length: what a change of it carries over has its own test.
pub const BUDGET_WINDOW_MS: u64 = 2_000;
/// Where `idempotencyHeader` names one.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// Beginnings of paths; all else is for the last rule.
pub const PREFIXES: [&str; 2] = ["/a", "/b"];
/// A fault delays by no more.
pub const MAX_DELAY_MS: u64 = 100;
/// The policy of one service.
pub fn policy(service: usize, random: &mut Rng) -> v1::ServicePolicy {
    let policy = plain_policy(random);
    let is_limited = !policy.rate_limits.is_empty();
    v1::ServicePolicy {
        fallback: (random.u8(..4) == 0).then(|| fallback(service, random)),
        fault: (random.u8(..6) == 0).then(|| fault(random, is_limited)),
        ..policy
    }
}

fn fallback(service: usize, random: &mut Rng) -> v1::Fallback {
    let when = Reason::ALL.into_iter().filter(|it| it.may_fall_back());
    let when = when.filter(|_| random.bool());
    let when = when.map(|reason| reason.word().to_owned()).collect();
    let action = match random.u8(..3) {
        // Those without routes ask each other, so that it is known who was meant.
        0 if service > 0 => v1::fallback::Action::Backend(v1::FallbackBackend {
            namespace: "shop".into(),
            service: control::NAMES[SERVICES - service].into(),
            port: control::PORT.into(),
            cannot: String::new(),
        }),
        _ => v1::fallback::Action::Response(v1::FallbackResponse {
            status: 200,
            body: "else".into(),
            ..v1::FallbackResponse::default()
        }),
    };
    v1::Fallback {
        when,
        action: Some(action),
    }
}

/// What a delay does to the moments of a rate limit has its own test.
fn fault(random: &mut Rng, is_limited: bool) -> v1::Fault {
    let kind = match random.u8(..3) {
        0 => v1::fault_abort::Kind::Reset(true),
        _ => v1::fault_abort::Kind::HttpStatus(503),
    };
    v1::Fault {
        delay: (!is_limited && random.bool()).then(|| v1::FaultDelay {
            duration_ms: random.u64(1..=MAX_DELAY_MS),
            parts_per_million: random.u32(..500_000),
        }),
        abort: Some(v1::FaultAbort {
            kind: Some(kind),
            parts_per_million: random.u32(..200_000),
        }),
        r#match: None,
    }
}

fn plain_policy(random: &mut Rng) -> v1::ServicePolicy {
    v1::ServicePolicy {
        circuit_breaker: (random.u8(..8) > 0).then(|| circuit_breaker(random)),
        outbound: Some(v1::Outbound {
            connect_timeout_ms: random.u64(20..500),
            idle_timeout_ms: random.u64(1_000..60_000),
            max_requests_per_connection: maybe(random, 4, 1..20),
            max_connection_age_ms: maybe(random, 4, 500..5_000).map(u64::from),
        }),
        retries: (random.u8(..5) > 0).then(|| retries(random)),
        timeouts: Some(v1::Timeouts {
            request_ms: maybe(random, 2, 200..5_000).map(u64::from),
            per_try_ms: maybe(random, 2, 50..2_000).map(u64::from),
            idle_ms: maybe(random, 4, 200..3_000).map(u64::from),
            response_headers_ms: maybe(random, 2, 50..2_000).map(u64::from),
        }),
        rate_limits: (random.u8(..3) > 0)
            .then(|| rate_limit(random))
            .into_iter()
            .collect(),
        load_balancing: (random.u8(..4) > 0).then(|| load_balancing(random)),
        ..v1::ServicePolicy::default()
    }
}

fn load_balancing(random: &mut Rng) -> v1::LoadBalancing {
    let algorithm = random.i32(0..5);
    let user = v1::HashPart {
        part: Some(v1::hash_part::Part::Header("x-user".into())),
    };
    let is_hashed = algorithm == v1::load_balancing::Algorithm::ConsistentHash as i32;
    v1::LoadBalancing {
        algorithm,
        hash_on: is_hashed.then_some(user).into_iter().collect(),
        hash_load_bound_percent: if is_hashed { 125 } else { 0 },
        slow_start_ms: maybe(random, 3, 100..5_000).map_or(0, u64::from),
        wait_for_endpoints_ms: maybe(random, 2, 10..4_000).map_or(0, u64::from),
        persistence: (random.u8(..4) == 0).then(|| v1::Persistence {
            kind: Some(v1::persistence::Kind::Header("x-session".into())),
            strict: random.bool(),
            absolute_timeout_ms: 0,
        }),
        pinning: random.bool(),
        ignore_zones: random.u8(..4) == 0,
    }
}

/// Under which everything is answered, once all is well.
pub fn generous() -> v1::ServicePolicy {
    v1::ServicePolicy {
        outbound: Some(v1::Outbound {
            connect_timeout_ms: 2_000,
            idle_timeout_ms: 5_000,
            ..v1::Outbound::default()
        }),
        ..v1::ServicePolicy::default()
    }
}

fn circuit_breaker(random: &mut Rng) -> v1::CircuitBreaker {
    let base = random.u64(100..4_000);
    v1::CircuitBreaker {
        limits: Some(v1::Limits {
            max_connections: bound(random, 2..20),
            max_pending_requests: bound(random, 1..10),
            max_requests: bound(random, 4..40),
            max_retries: bound(random, 1..6),
        }),
        per_endpoint: Some(v1::Limits {
            max_connections: maybe(random, 3, 1..8),
            max_pending_requests: maybe(random, 4, 0..6),
            max_requests: maybe(random, 3, 1..12),
            max_retries: maybe(random, 4, 1..4),
        }),
        trip: Some(v1::Trip {
            scope: i32::from(random.u8(..8) == 0),
            consecutive_failures: random.u32(1..6),
            failures: Some(v1::Conditions {
                connect_failure: true,
                reset: true,
                timeout: true,
                server_error: true,
                ..v1::Conditions::default()
            }),
            base_ejection_ms: base,
            max_ejection_ms: base * random.u64(1..8),
            honor_retry_after: random.bool(),
            probes: random.u32(1..4),
            successes: random.u32(1..4),
            max_ejected_percent: *random.choice(&[0, 20, 50, 80, 100]).unwrap_or(&50),
            min_endpoints: random.u32(..4),
            failure_rate: (random.u8(..3) == 0).then(|| v1::FailureRate {
                threshold_percent: random.u32(10..=100),
                window_ms: random.u64(1_000..10_000),
                min_requests: random.u32(1..10),
            }),
            slow_call_rate: (random.u8(..3) == 0).then(|| v1::SlowCallRate {
                duration_ms: random.u64(20..500),
                threshold_percent: random.u32(10..=100),
                window_ms: random.u64(1_000..10_000),
                min_requests: random.u32(1..10),
            }),
        }),
    }
}

fn retries(random: &mut Rng) -> v1::Retries {
    v1::Retries {
        attempts: random.u32(..5),
        on: Some(v1::Conditions {
            connect_failure: true,
            refused_stream: true,
            reset: true,
            gateway_error: true,
            timeout: random.bool(),
            server_error: random.bool(),
            ..v1::Conditions::default()
        }),
        backoff_base_ms: 25,
        backoff_max_ms: 250,
        max_retry_after_ms: 2_000,
        idempotency_header: if random.bool() {
            IDEMPOTENCY_HEADER.into()
        } else {
            String::new()
        },
        methods: if random.u8(..4) == 0 {
            vec!["POST".into()]
        } else {
            Vec::new()
        },
        budget: Some(v1::RetryBudget {
            percent: random.u32(..=100),
            min_per_second: random.u32(..3),
            window_ms: BUDGET_WINDOW_MS,
        }),
        hedge: (random.u8(..3) == 0).then(|| v1::Hedge {
            after: Some(match random.bool() {
                true => v1::hedge::After::AfterMs(random.u64(1..200)),
                false => v1::hedge::After::AfterPercentile(random.u32(50..100)),
            }),
            max: random.u32(1..4),
        }),
        buffer_bytes: *random.choice(&[0, 512, 65_536]).unwrap_or(&512),
    }
}

fn rate_limit(random: &mut Rng) -> v1::RateLimit {
    let user = v1::KeyPart {
        part: Some(v1::key_part::Part::Header("x-user".into())),
    };
    let is_keyed = random.bool();
    v1::RateLimit {
        name: if is_keyed {
            "user".into()
        } else {
            "all".into()
        },
        policy: "shop/policy".into(),
        requests: random.u32(10..150),
        per_ms: 1_000,
        burst: random.u32(2..40),
        key: is_keyed.then_some(user).into_iter().collect(),
        max_keys: 100,
        ..v1::RateLimit::default()
    }
}

/// Rules of the first service: each prefix to some services, the rest to itself.
pub fn routes(random: &mut Rng) -> Vec<Vec<(usize, u32)>> {
    let mut all: Vec<Vec<(usize, u32)>> = PREFIXES
        .iter()
        .map(|_| {
            let some = (0..SERVICES).filter(|_| random.bool());
            some.collect::<Vec<_>>()
        })
        .map(|some| some.into_iter().map(|it| (it, 1)).collect())
        .collect();
    for (at, rule) in all.iter_mut().enumerate() {
        if rule.is_empty() {
            rule.push((1 + at % (SERVICES - 1), 1));
        }
        for (_, weight) in rule.iter_mut() {
            *weight = random.u32(1..10);
        }
    }
    all.push(vec![(0, 1)]);
    all
}

fn bound(random: &mut Rng, range: std::ops::Range<u32>) -> Option<u32> {
    match random.u8(..30) {
        0 => Some(0),
        1..15 => None,
        _ => Some(random.u32(range)),
    }
}

fn maybe(random: &mut Rng, one_in: u8, range: std::ops::Range<u32>) -> Option<u32> {
    (random.u8(..one_in) == 0).then(|| random.u32(range))
}
