//! Rate limits: in no span more than burst + rate x time, and at least 99 % of that.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use remora_proxy::clock::Timestamp;
use remora_proxy::policy::config::{KeyPart, Match, PathMatch, RateLimit};
use remora_proxy::policy::rate_limit::{Decision, Facts, RateLimiter};

use crate::{OPERATIONS, WORKERS, on_workers};

const USERS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
/// Each operation takes so much of the virtual clock, so that all take a second.
const STEP_NANOS: u64 = 1_000;
const START_NANOS: u64 = 5_000_000_000;

#[derive(Clone, Copy)]
struct Call {
    user: &'static str,
    path: &'static str,
}

impl Facts for Call {
    fn method(&self) -> &str {
        "GET"
    }
    fn path(&self) -> &str {
        self.path
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == "x-user").then_some(self.user.as_bytes())
    }
    fn client_identity(&self) -> Option<&str> {
        None
    }
    fn remote_address(&self) -> Option<IpAddr> {
        None
    }
}

fn limit(name: &str, requests: u32, burst: u32, key: Vec<KeyPart>) -> RateLimit {
    RateLimit {
        name: Arc::from(name),
        policy: Arc::from("shop/web"),
        requests,
        per: Duration::from_secs(1),
        burst,
        matches: Match::default(),
        key,
        shadow: false,
        max_keys: 100,
        mesh: false,
    }
}

fn by_user() -> Vec<KeyPart> {
    vec![KeyPart::Header("x-user".to_owned())]
}

/// What was admitted: when, and of whom. Half of the calls go where `path` says.
fn admitted(limiter: &RateLimiter, path: &'static str) -> Vec<(u64, Call)> {
    let clock = AtomicU64::new(START_NANOS);
    let all = on_workers(|worker| {
        let mut random = fastrand::Rng::with_seed(worker as u64);
        let mut admitted = Vec::new();
        for _ in 0..OPERATIONS / WORKERS {
            let now = clock.fetch_add(STEP_NANOS, Relaxed);
            let call = Call {
                user: USERS[random.usize(..USERS.len())],
                path: if random.bool() { path } else { "/" },
            };
            if limiter.check(&call, Timestamp::from_nanos(now)) == Decision::Admitted {
                admitted.push((now, call));
            }
        }
        admitted
    });
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(at, _)| *at);
    all
}

/// In no span more than `limit` gives (a naive bucket is never overdrawn), and over
/// all at least 99 % of it.
fn check(limit: &RateLimit, times: &[u64], is_wanted: bool) {
    let interval = 1e9 / f64::from(limit.requests);
    let (mut tokens, mut at) = (f64::from(limit.burst), START_NANOS);
    for now in times {
        let gained = (now - at) as f64 / interval;
        tokens = (tokens + gained).min(f64::from(limit.burst)) - 1.0;
        assert!(
            tokens > -1e-3,
            "{} overdrawn at {now}: {tokens}",
            limit.name
        );
        at = *now;
    }
    let span = (OPERATIONS as u64 * STEP_NANOS) as f64;
    let allowed = f64::from(limit.burst) + span / interval;
    let share = times.len() as f64 / allowed;
    assert!(share <= 1.0, "{}: {share}", limit.name);
    if is_wanted {
        assert!(
            share >= 0.99,
            "{} admits {share} of what it allows",
            limit.name
        );
    }
}

#[test]
fn without_a_key_it_gives_all_that_it_allows_and_no_more() {
    let all = limit("all", 50_000, 500, Vec::new());
    let limiter = RateLimiter::new(std::slice::from_ref(&all));
    let times: Vec<u64> = admitted(&limiter, "/").iter().map(|(at, _)| *at).collect();
    check(&all, &times, true);
}

#[test]
fn with_a_key_each_bucket_gives_all_that_it_allows_and_no_more() {
    let each = limit("each", 5_000, 50, by_user());
    let limiter = RateLimiter::new(std::slice::from_ref(&each));
    let all = admitted(&limiter, "/");
    for user in USERS {
        let of_user = all.iter().filter(|(_, call)| call.user == user);
        let times: Vec<u64> = of_user.map(|(at, _)| *at).collect();
        check(&each, &times, true);
    }
}

/// Three that must all admit: what one has counted and another refuses is given back.
#[test]
fn what_is_given_back_is_neither_lost_nor_given_twice() {
    let wide = limit("wide", 60_000, 600, Vec::new());
    let narrow = RateLimit {
        matches: Match {
            path: Some(PathMatch::Prefix("/narrow".to_owned())),
            ..Match::default()
        },
        ..limit("narrow", 10_000, 100, Vec::new())
    };
    let each = limit("each", 5_000, 50, by_user());
    let limiter = RateLimiter::new(&[wide.clone(), narrow.clone(), each.clone()]);
    let all = admitted(&limiter, "/narrow");
    let times = |of: &dyn Fn(&Call) -> bool| -> Vec<u64> {
        let of_these = all.iter().filter(|(_, call)| of(call));
        of_these.map(|(at, _)| *at).collect()
    };
    check(&wide, &times(&|_| true), false);
    check(&narrow, &times(&|call| call.path == "/narrow"), false);
    for user in USERS {
        // The only one that holds anybody up who goes elsewhere.
        check(&each, &times(&|call| call.user == user), true);
    }
}
