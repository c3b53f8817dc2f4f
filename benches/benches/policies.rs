//! Each policy's state machine alone, with what it allocates; where workers
//! share it, with one thread and with two.
//!
//! Time stands still but where a machine lives on its passing.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use remora_proxy::balance::{self, Availability, Candidates, LoadMeter, Standing};
use remora_proxy::clock::Timestamp;
use remora_proxy::detect::judge;
use remora_proxy::policy::breaker::{BreakerSet, Journal, Outcome};
use remora_proxy::policy::budget::RetryBudget;
use remora_proxy::policy::config::{
    self, AttemptEnd, Conditions, KeyPart, Limits as Maxima, Match, PathMatch, RateLimit, Retries,
    Timeouts, Trip,
};
use remora_proxy::policy::deadline::Deadlines;
use remora_proxy::policy::limit::{Kind, Limits};
use remora_proxy::policy::rate_limit::{Facts, RateLimiter};
use remora_proxy::policy::retry::{Attempts, Ended, Request};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const NOW: Timestamp = Timestamp::from_millis(5_000);

/// One worker, and two that share.
const THREADS: [usize; 2] = [1, 2];

fn main() {
    divan::main();
}

#[divan::bench(threads = THREADS)]
fn limit_acquire_and_release(bencher: Bencher) {
    let limits = Limits::new(&Maxima {
        max_requests: Some(1_000),
        ..Maxima::default()
    });
    bencher.bench(|| limits.try_acquire(Kind::Requests).is_some());
}

fn breakers() -> BreakerSet {
    BreakerSet::new("shop/catalog", Some(&Trip::default()), Journal::new(), NOW)
}

#[divan::bench(threads = THREADS)]
fn breaker_admit_and_record_success(bencher: Bencher) {
    let breaker = breakers().endpoint("pod-1", NOW);
    bencher.bench(|| {
        let permit = breaker.try_admit(NOW)?;
        permit.record(Outcome::Success, None, NOW, 1)
    });
}

#[divan::bench(threads = THREADS)]
fn breaker_admit_and_record_failure_then_success(bencher: Bencher) {
    let breaker = breakers().endpoint("pod-1", NOW);
    bencher.bench(|| {
        let failure = Outcome::Failure(AttemptEnd::Reset);
        breaker.try_admit(NOW)?.record(failure, None, NOW, 1);
        breaker
            .try_admit(NOW)?
            .record(Outcome::Success, None, NOW, 1)
    });
}

#[divan::bench]
fn breaker_outcome_of_a_response(bencher: Bencher) {
    let failures = Conditions::default_failures();
    let end = AttemptEnd::Response {
        status: 200,
        grpc: None,
    };
    bencher.bench(|| Outcome::of(black_box(end), &failures));
}

#[divan::bench(threads = THREADS)]
fn budget_count_a_request(bencher: Bencher) {
    let budget = RetryBudget::new(&config::RetryBudget::default());
    bencher.bench(|| budget.request(black_box(NOW)));
}

#[divan::bench(threads = THREADS)]
fn budget_spend(bencher: Bencher) {
    let budget = RetryBudget::new(&config::RetryBudget::default());
    bencher.bench(|| budget.try_spend(black_box(NOW)));
}

#[divan::bench]
fn retry_decide(bencher: Bencher) {
    let policy = Retries {
        attempts: 2,
        on: Conditions::default_retries(),
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        max_retry_after: Duration::from_secs(10),
        idempotency_header: None,
        methods: Vec::new(),
        budget: config::RetryBudget::default(),
        buffer_bytes: 65_536,
        hedge: None,
    };
    let request = Request {
        method: "GET",
        grpc_method: None,
        has_idempotency_header: false,
    };
    let ended = Ended {
        end: AttemptEnd::Reset,
        body_replayable: true,
        response_started: false,
        retry_after: None,
        time_left: Some(Duration::from_secs(1)),
    };
    bencher.bench(|| Attempts::new().decide(Some(&policy), &request, black_box(&ended), 7));
}

#[divan::bench]
fn deadline_of_request_and_attempt(bencher: Bencher) {
    let timeouts = Timeouts {
        request: Some(Duration::from_secs(5)),
        per_try: Some(Duration::from_secs(1)),
        idle: None,
        response_headers: Some(Duration::from_secs(1)),
    };
    bencher.bench(|| Deadlines::new(black_box(&timeouts), NOW).attempt(NOW));
}

fn rate_limit(name: &str, key: Vec<KeyPart>, matches: Match) -> RateLimit {
    RateLimit {
        name: name.into(),
        policy: "shop/web".into(),
        requests: 1_000_000_000,
        per: Duration::from_secs(1),
        burst: 1_000_000_000,
        matches,
        key,
        shadow: false,
        max_keys: 10_000,
        mesh: false,
    }
}

struct Call {
    user: String,
}

impl Facts for Call {
    fn method(&self) -> &str {
        "GET"
    }

    fn path(&self) -> &str {
        "/products/17"
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == "x-user").then_some(self.user.as_bytes())
    }

    fn client_identity(&self) -> Option<&str> {
        None
    }

    fn remote_address(&self) -> Option<IpAddr> {
        Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)))
    }
}

#[divan::bench(threads = THREADS)]
fn rate_limit_without_key(bencher: Bencher) {
    let limiter = RateLimiter::new(&[rate_limit("all", Vec::new(), Match::default())]);
    bencher.bench(|| limiter.check(&call(), NOW));
}

/// Without a string, so that only the limiter's own allocations are seen.
const fn call() -> Call {
    Call {
        user: String::new(),
    }
}

#[divan::bench(threads = THREADS)]
fn rate_limit_by_address(bencher: Bencher) {
    let key = vec![KeyPart::RemoteAddress];
    let limiter = RateLimiter::new(&[rate_limit("caller", key, Match::default())]);
    bencher.bench(|| limiter.check(&call(), NOW));
}

#[divan::bench(threads = THREADS)]
fn rate_limit_by_header_of_1000_users(bencher: Bencher) {
    let key = vec![KeyPart::Header("x-user".to_owned())];
    let limiter = RateLimiter::new(&[rate_limit("user", key, Match::default())]);
    let users: Vec<Call> = (0..1_000)
        .map(|number| Call {
            user: format!("user-{number}"),
        })
        .collect();
    let next = AtomicU64::new(0);
    bencher.bench(|| {
        let user = next.fetch_add(1, Relaxed) as usize % users.len();
        limiter.check(&users[user], NOW)
    });
}

#[divan::bench(threads = THREADS)]
fn rate_limit_three_that_match_of_five(bencher: Bencher) {
    let path = |prefix: &str| Match {
        path: Some(PathMatch::Prefix(prefix.to_owned())),
        ..Match::default()
    };
    let limiter = RateLimiter::new(&[
        rate_limit("all", Vec::new(), Match::default()),
        rate_limit("cart", Vec::new(), path("/cart")),
        rate_limit("products", Vec::new(), path("/products")),
        rate_limit("checkout", Vec::new(), path("/checkout")),
        rate_limit("caller", vec![KeyPart::RemoteAddress], Match::default()),
    ]);
    bencher.bench(|| limiter.check(&call(), NOW));
}

/// A service's endpoints, measured and equally well.
struct Endpoints(Vec<Arc<LoadMeter>>);

impl Endpoints {
    fn new(count: usize) -> Self {
        let meters: Vec<_> = (0..count).map(|_| LoadMeter::new()).collect();
        for meter in &meters {
            meter.start(Timestamp::from_millis(4_999)).answered(NOW);
        }
        Self(meters)
    }
}

impl Candidates for Endpoints {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn is_even(&self) -> bool {
        true
    }

    fn weight(&self, _: usize) -> u32 {
        1
    }

    fn standing(&self, _: usize) -> Standing {
        Standing {
            availability: Availability::Yes,
            tried: false,
            doubtful: false,
        }
    }

    fn load(&self, index: usize) -> f64 {
        self.0[index].load(NOW)
    }
}

#[divan::bench(args = [3, 100, 1_000], threads = THREADS)]
fn balance_pick(bencher: Bencher, count: usize) {
    let endpoints = Endpoints::new(count);
    let random = AtomicU64::new(0);
    bencher.bench(|| {
        let random = random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        balance::pick(&endpoints, random)
    });
}

/// As soon as weights differ, every endpoint is looked at.
struct Uneven(Endpoints);

impl Candidates for Uneven {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn is_even(&self) -> bool {
        false
    }

    fn weight(&self, index: usize) -> u32 {
        1 + (index % 3) as u32
    }

    fn standing(&self, index: usize) -> Standing {
        self.0.standing(index)
    }

    fn load(&self, index: usize) -> f64 {
        self.0.load(index)
    }
}

#[divan::bench(args = [3, 100, 1_000])]
fn balance_pick_of_uneven_weights(bencher: Bencher, count: usize) {
    let endpoints = Uneven(Endpoints::new(count));
    let random = AtomicU64::new(0);
    bencher.bench(|| {
        let random = random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        balance::pick(&endpoints, random)
    });
}

#[divan::bench(threads = THREADS)]
fn balance_start_and_answer(bencher: Bencher) {
    let meter = LoadMeter::new();
    bencher.bench(|| {
        let guard = meter.start(NOW);
        guard.answered(Timestamp::from_millis(5_001));
    });
}

const REQUEST: &[u8] =
    b"GET /products/17?page=2 HTTP/1.1\r\nHost: catalog:8080\r\nAccept: */*\r\n\r\n";

#[divan::bench]
fn detect_http1(bencher: Bencher) {
    bencher
        .counter(BytesCount::new(REQUEST.len()))
        .bench(|| judge(black_box(REQUEST)));
}

#[divan::bench]
fn detect_tls_as_opaque(bencher: Bencher) {
    bencher.bench(|| judge(black_box(b"\x16\x03\x01\x02\x00\x01\x00\x01")));
}
