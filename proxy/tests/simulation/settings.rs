//! Policies, drawn by chance, with a liking for edges.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use remora_proxy::policy::config::{
    Conditions, Limits, Match, RateLimit, Retries, RetryBudget, Timeouts, Trip,
};

/// Everything that a storm of configuration changes.
#[derive(Clone, Debug)]
pub struct Settings {
    pub trip: Option<Trip>,
    pub limits: Limits,
    pub per_endpoint: Limits,
    pub retries: Option<Retries>,
    pub rate_limit: RateLimit,
    pub timeouts: Timeouts,
}

impl Settings {
    pub fn draw(random: &mut Rng) -> Self {
        Self {
            trip: (random.u8(..8) > 0).then(|| trip(random)),
            limits: limits(random, 5..60),
            per_endpoint: limits(random, 2..30),
            retries: (random.u8(..5) > 0).then(|| retries(random)),
            rate_limit: rate_limit(random),
            timeouts: Timeouts {
                request: maybe(random, 200..5000),
                per_try: maybe(random, 50..2000),
                idle: None,
                response_headers: maybe(random, 50..2000),
            },
        }
    }

    /// Under which a healthy upstream must answer everything.
    pub fn generous() -> Self {
        Self {
            trip: Some(Trip::default()),
            limits: Limits::default(),
            per_endpoint: Limits::default(),
            retries: None,
            rate_limit: RateLimit {
                requests: 1_000_000,
                burst: 1_000_000,
                ..rate_limit(&mut Rng::with_seed(0))
            },
            timeouts: Timeouts::default(),
        }
    }
}

fn trip(random: &mut Rng) -> Trip {
    let base_ejection = Duration::from_millis(random.u64(100..8000));
    Trip {
        consecutive_failures: random.u32(1..6),
        failures: Conditions::default_failures(),
        base_ejection,
        max_ejection: base_ejection * random.u32(1..20),
        honor_retry_after: random.bool(),
        probes: random.u32(1..4),
        successes: random.u32(1..4),
        max_ejected_percent: *pick(random, &[0, 20, 50, 80, 100]),
        min_endpoints: random.u32(..4),
        ..Trip::default()
    }
}

fn limits(random: &mut Rng, range: std::ops::Range<u32>) -> Limits {
    let bound = |random: &mut Rng| match random.u8(..20) {
        0 => Some(0),
        1..10 => None,
        _ => Some(random.u32(range.clone())),
    };
    Limits {
        max_requests: bound(random),
        max_retries: bound(random),
        ..Limits::default()
    }
}

fn retries(random: &mut Rng) -> Retries {
    Retries {
        attempts: random.u32(..5),
        on: Conditions {
            timeout: random.bool(),
            server_error: random.bool(),
            ..Conditions::default_retries()
        },
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        max_retry_after: Duration::from_secs(2),
        idempotency_header: None,
        methods: Vec::new(),
        budget: RetryBudget {
            percent: random.u32(..=100),
            min_per_second: random.u32(..3),
            // One length: what a change of it carries over has its own test.
            window: Duration::from_secs(2),
        },
        buffer_bytes: 65536,
        hedge: None,
    }
}

fn rate_limit(random: &mut Rng) -> RateLimit {
    RateLimit {
        name: Arc::from("all"),
        policy: Arc::from("shop/catalog"),
        requests: random.u32(20..200),
        per: Duration::from_secs(1),
        burst: random.u32(5..50),
        matches: Match::default(),
        key: Vec::new(),
        shadow: false,
        max_keys: 100,
        mesh: false,
    }
}

fn maybe(random: &mut Rng, millis: std::ops::Range<u64>) -> Option<Duration> {
    random
        .bool()
        .then(|| Duration::from_millis(random.u64(millis)))
}

fn pick<'a, T>(random: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[random.usize(..choices.len())]
}
