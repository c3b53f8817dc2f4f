//! Stories of limits, then properties against naive models.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::config::{HeaderMatch, KeyPart, Match, PathMatch};

const START: Timestamp = Timestamp::from_millis(1_000_000);

#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) address: Option<IpAddr>,
}

impl Facts for Call<'_> {
    fn method(&self) -> &str {
        self.method
    }
    fn path(&self) -> &str {
        self.path
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.user.filter(|_| name == "x-user").map(str::as_bytes)
    }
    fn client_identity(&self) -> Option<&str> {
        None
    }

    fn remote_address(&self) -> Option<IpAddr> {
        self.address
    }
}

pub(super) const GET: Call<'_> = Call {
    method: "GET",
    path: "/cart/1",
    user: None,
    address: None,
};

fn user(name: &str) -> Call<'_> {
    Call {
        user: Some(name),
        ..GET
    }
}

/// `requests` each second.
pub(super) fn limit(name: &str, requests: u32, burst: u32) -> RateLimit {
    RateLimit {
        name: Arc::from(name),
        policy: Arc::from("shop/web"),
        requests,
        per: Duration::from_secs(1),
        burst,
        matches: Match::default(),
        key: Vec::new(),
        shadow: false,
        max_keys: 100,
        mesh: false,
    }
}

fn by_user(requests: u32, burst: u32, max_keys: usize) -> RateLimit {
    RateLimit {
        key: vec![KeyPart::Header("x-user".into())],
        max_keys,
        ..limit("by-user", requests, burst)
    }
}

fn admits(limiter: &RateLimiter, call: Call<'_>, now: Timestamp) -> bool {
    limiter.check(&call, now) == Decision::Admitted
}

/// How many of `tries` are admitted at once.
fn burst(limiter: &RateLimiter, call: Call<'_>, tries: usize, now: Timestamp) -> usize {
    (0..tries).filter(|_| admits(limiter, call, now)).count()
}

fn later(millis: u64) -> Timestamp {
    START.after(Duration::from_millis(millis))
}

#[test]
fn a_burst_at_once_then_evenly() {
    let limiter = RateLimiter::new(&[limit("a", 10, 3)]);
    assert_eq!(burst(&limiter, GET, 10, START), 3);
    assert_eq!(burst(&limiter, GET, 10, later(99)), 0);
    assert_eq!(burst(&limiter, GET, 10, later(100)), 1);
    assert_eq!(burst(&limiter, GET, 10, later(100_000)), 3);
}

#[test]
fn no_limits_admit_everything_and_zero_nothing() {
    let limiter = RateLimiter::new(&[]);
    assert!(limiter.is_empty());
    assert_eq!(burst(&limiter, GET, 10, START), 10);
    for zero in [limit("zero", 0, 5), by_user(0, 5, 10)] {
        let limiter = RateLimiter::new(&[zero]);
        assert_eq!(burst(&limiter, GET, 10, START), 0);
        assert_eq!(burst(&limiter, GET, 10, later(3_600_000)), 0);
    }
}

#[test]
fn a_refusal_says_which_limit_and_when() {
    let limiter = RateLimiter::new(&[limit("slow", 10, 30), limit("fast", 10, 2)]);
    burst(&limiter, GET, 2, START);
    let decision = limiter.check(&GET, later(50));
    let Decision::Refused(refusal) = decision else {
        panic!("admitted");
    };
    assert_eq!((&*refusal.policy, &*refusal.name), ("shop/web", "fast"));
    assert_eq!(refusal.retry_after, Duration::from_millis(50));
    assert_eq!(refusal.retry_after_seconds(), 1);
    assert_eq!(refusal.reset, Duration::from_millis(150));
    assert_eq!(
        (refusal.limit, refusal.remaining, refusal.reset_seconds()),
        (10, 0, 1)
    );
    assert_eq!(limiter.states()[1].limited, 1);
}

#[test]
fn no_limit_is_debited_unless_all_admit() {
    let keyed = RateLimit {
        key: vec![KeyPart::Method],
        ..limit("keyed", 1, 5)
    };
    let limiter = RateLimiter::new(&[limit("wide", 1, 5), keyed, limit("narrow", 10, 1)]);
    // Refused by the last one ever so often, at one request each 100 ms ...
    let mut admitted = 0;
    for millis in (0..400).step_by(10) {
        admitted += burst(&limiter, GET, 5, later(millis));
    }
    // ... the first two have counted what was admitted, and nothing else.
    assert_eq!(admitted, 4);
    assert_eq!(burst(&limiter, GET, 5, later(400)), 1);
    assert_eq!(burst(&limiter, GET, 5, later(500)), 0);
    assert_eq!(
        limiter.check(&GET, later(999)),
        limiter.check(&GET, later(999))
    );
}

#[test]
fn a_shadow_limit_counts_and_holds_up_nothing() {
    let shadow = RateLimit {
        shadow: true,
        ..limit("shadow", 10, 1)
    };
    let limiter = RateLimiter::new(&[shadow, limit("real", 10, 3)]);
    assert_eq!(burst(&limiter, GET, 5, START), 3);
    let states = limiter.states();
    assert_eq!((states[0].would_limit, states[0].limited), (2, 0));
    assert_eq!((states[1].would_limit, states[1].limited), (0, 2));
}

#[test]
fn only_what_matches_is_counted() {
    let limiter = RateLimiter::new(&[RateLimit {
        matches: Match {
            methods: vec!["GET".into(), "HEAD".into()],
            path: Some(PathMatch::Prefix("/cart/".into())),
            headers: vec![HeaderMatch {
                name: "x-user".into(),
                exact: "ann".into(),
            }],
        },
        ..limit("matched", 0, 0)
    }]);
    assert!(!admits(&limiter, user("ann"), START));
    assert!(admits(&limiter, user("bob"), START));
    assert!(admits(&limiter, GET, START));
    assert!(admits(
        &limiter,
        Call {
            method: "POST",
            ..user("ann")
        },
        START
    ));
    assert!(admits(
        &limiter,
        Call {
            path: "/cart",
            ..user("ann")
        },
        START
    ));
    let exact = RateLimiter::new(&[RateLimit {
        matches: Match {
            path: Some(PathMatch::Exact("/cart/1".into())),
            ..Match::default()
        },
        ..limit("exact", 0, 0)
    }]);
    assert!(!admits(&exact, GET, START));
    assert!(admits(
        &exact,
        Call {
            path: "/cart/11",
            ..GET
        },
        START
    ));
}

#[test]
fn each_key_has_its_bucket_and_the_absent_value_is_the_empty_one() {
    let limiter = RateLimiter::new(&[by_user(10, 2, 100)]);
    assert_eq!(burst(&limiter, user("ann"), 5, START), 2);
    assert_eq!(burst(&limiter, user("bob"), 5, START), 2);
    assert_eq!(burst(&limiter, GET, 1, START), 1);
    assert_eq!(burst(&limiter, user(""), 5, START), 1);
    assert_eq!(limiter.states()[0].keys, 3);
}

#[test]
fn parts_of_a_key_do_not_run_into_each_other() {
    let limiter = RateLimiter::new(&[RateLimit {
        key: vec![KeyPart::Method, KeyPart::Path, KeyPart::RemoteAddress],
        ..limit("parts", 1, 1)
    }]);
    let address = Ipv4Addr::new(10, 0, 0, 1);
    let calls = [
        Call {
            method: "GET",
            path: "/a",
            address: Some(address.into()),
            ..GET
        },
        Call {
            method: "GET/",
            path: "a",
            address: Some(address.into()),
            ..GET
        },
        Call {
            method: "GET",
            path: "/a",
            address: None,
            ..GET
        },
    ];
    for call in calls {
        assert_eq!(burst(&limiter, call, 3, START), 1);
    }
    // The same caller, seen on an IPv6 listener.
    let mapped = Call {
        address: Some(address.to_ipv6_mapped().into()),
        ..calls[0]
    };
    assert!(!admits(&limiter, mapped, START));
}

#[test]
fn only_full_buckets_are_evicted_and_further_keys_share_one() {
    let limiter = RateLimiter::new(&[by_user(10, 2, 3)]);
    for name in ["a", "b", "c"] {
        assert_eq!(burst(&limiter, user(name), 2, START), 2);
    }
    // None is full: these two share the overflow bucket.
    assert_eq!(burst(&limiter, user("d"), 1, START), 1);
    assert_eq!(burst(&limiter, user("e"), 2, START), 1);
    let state = &limiter.states()[0];
    assert_eq!((state.keys, state.overflowed), (3, 3));
    // "a" keeps its place and is not refilled by those who came.
    assert_eq!(burst(&limiter, user("a"), 5, START), 0);
    // At 200 ms all are full; "c" is used, so that only two can go.
    assert_eq!(burst(&limiter, user("c"), 1, later(200)), 1);
    assert_eq!(burst(&limiter, user("f"), 5, later(200)), 2);
    assert_eq!(burst(&limiter, user("g"), 5, later(200)), 2);
    assert_eq!(burst(&limiter, user("c"), 5, later(200)), 1);
    assert_eq!(limiter.states()[0].keys, 3);
    assert_eq!(limiter.states()[0].overflowed, 3);
}

#[test]
fn a_change_of_any_field_keeps_what_the_bucket_holds() {
    let old = limit("a", 10, 10);
    let changes: [RateLimit; 7] = [
        RateLimit {
            requests: 20,
            ..old.clone()
        },
        RateLimit {
            per: Duration::from_secs(60),
            ..old.clone()
        },
        RateLimit {
            burst: 20,
            ..old.clone()
        },
        RateLimit {
            max_keys: 5,
            ..old.clone()
        },
        RateLimit {
            matches: Match {
                methods: vec!["GET".into()],
                ..Match::default()
            },
            ..old.clone()
        },
        RateLimit {
            key: vec![KeyPart::Path],
            ..old.clone()
        },
        RateLimit {
            key: vec![KeyPart::Method],
            requests: 1000,
            burst: 500,
            ..old.clone()
        },
    ];
    for changed in changes {
        for spent in [0, 4, 10] {
            let limiter = RateLimiter::new(std::slice::from_ref(&old));
            assert_eq!(burst(&limiter, GET, spent, START), spent);
            limiter.reconfigure(std::slice::from_ref(&changed), START);
            assert_eq!(burst(&limiter, GET, 1000, START), 10 - spent, "{changed:?}");
            limiter.reconfigure(std::slice::from_ref(&old), START);
            assert_eq!(burst(&limiter, GET, 1000, START), 0, "{changed:?}");
        }
    }
    let limiter = RateLimiter::new(std::slice::from_ref(&old));
    limiter.reconfigure(&[limit("a", 10, 4)], START);
    assert_eq!(burst(&limiter, GET, 1000, START), 4);
    // From a limit of zero nothing comes that had not been filled since.
    limiter.reconfigure(&[limit("a", 0, 0)], START);
    limiter.reconfigure(&[limit("a", 10, 4)], START);
    assert_eq!(burst(&limiter, GET, 1000, START), 0);
    assert_eq!(burst(&limiter, GET, 1000, later(200)), 2);
}

#[test]
fn an_unrelated_change_refills_nothing_and_order_does_not_matter() {
    let limiter = RateLimiter::new(&[limit("a", 10, 10), by_user(10, 5, 50)]);
    assert_eq!(burst(&limiter, GET, 10, START), 5);
    let other = RateLimit {
        matches: Match {
            methods: vec!["PUT".into()],
            ..Match::default()
        },
        ..limit("other", 1, 1)
    };
    limiter.reconfigure(&[by_user(10, 5, 50), other, limit("a", 10, 10)], START);
    assert_eq!(burst(&limiter, GET, 10, START), 0);
    assert_eq!(burst(&limiter, user("ann"), 10, START), 5);
    assert_eq!(limiter.states()[0].limited, 5 + 10 + 5, "counters stay too");
}

#[test]
fn keyed_buckets_keep_what_they_hold() {
    let limiter = RateLimiter::new(&[by_user(10, 10, 100)]);
    assert_eq!(burst(&limiter, user("ann"), 10, START), 10);
    assert_eq!(burst(&limiter, user("bob"), 4, START), 4);
    limiter.reconfigure(&[by_user(100, 20, 100)], START);
    assert_eq!(burst(&limiter, user("ann"), 50, START), 0);
    assert_eq!(burst(&limiter, user("bob"), 50, START), 6);
    // One that was never seen held ten.
    assert_eq!(burst(&limiter, user("eve"), 50, START), 10);
    // Fewer places: the emptiest keep theirs, the other shares the overflow bucket.
    limiter.reconfigure(&[by_user(100, 20, 2)], later(50));
    assert_eq!(limiter.states()[0].keys, 2);
    for name in ["ann", "bob", "eve", "new"] {
        assert!(burst(&limiter, user(name), 50, later(50)) <= 5, "{name}");
    }
}

#[test]
fn four_threads_and_a_storm_of_configuration_admit_no_more_than_the_burst() {
    for round in 0..20 {
        for key in [vec![], vec![KeyPart::Path]] {
            let with_burst = |burst| RateLimit {
                key: key.clone(),
                ..limit("a", 10, burst)
            };
            let limiter = RateLimiter::new(&[with_burst(500), limit("b", 10, 100_000)]);
            let admitted = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let count = burst(&limiter, GET, 400, START);
                        admitted.fetch_add(count as u64, Ordering::SeqCst);
                    });
                }
                for step in 0..50 {
                    let other = limit("b", 10 + step, 100_000 + round);
                    limiter.reconfigure(&[with_burst(500 + step % 2), other], START);
                }
            });
            let admitted = admitted.into_inner();
            assert!(admitted <= 500, "{admitted}");
            assert!(admitted >= 490, "{admitted}: what was given back is lost");
        }
    }
}

#[test]
fn four_threads_share_places_for_keys_exactly() {
    let limiter = RateLimiter::new(&[by_user(1, 1, 50)]);
    let names: Vec<String> = (0..200).map(|index| index.to_string()).collect();
    let admitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let count = names
                    .iter()
                    .filter(|name| admits(&limiter, user(name), START))
                    .count();
                admitted.fetch_add(count as u64, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(limiter.states()[0].keys, 50);
    assert_eq!(
        admitted.into_inner(),
        51,
        "fifty of their own, and the one that is shared"
    );
}

/// A bucket as one would write it down: so many tokens, filled by the clock.
#[derive(Clone, Copy)]
struct Model {
    tokens: f64,
    at: Timestamp,
}

impl Model {
    fn fill(&mut self, limit: &RateLimit, now: Timestamp) {
        let rate = f64::from(limit.requests) / limit.per.as_secs_f64();
        let gained = now.since(self.at).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(f64::from(limit.burst));
        self.at = now;
    }
}

/// Closer than this to a whole token, rounding decides and the model says nothing.
const DOUBT: f64 = 1e-4;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Check(usize),
    Change(u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..300_u64).prop_map(Step::Wait),
        6 => (0..4_usize).prop_map(Step::Check),
        1 => (1..50_u32, 1..20_u32).prop_map(|(requests, burst)| Step::Change(requests, burst)),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_naive_bucket_also_through_changes(
        steps in proptest::collection::vec(step(), 1..150),
        requests in 1..50_u32,
        capacity in 1..20_u32,
    ) {
        let mut config = limit("a", requests, capacity);
        let limiter = RateLimiter::new(std::slice::from_ref(&config));
        let mut now = START;
        let mut model = Model { tokens: f64::from(capacity), at: now };
        for step in steps {
            match step {
                Step::Wait(millis) => now = now.after(Duration::from_millis(millis)),
                Step::Change(requests, burst) => {
                    model.fill(&config, now);
                    config = limit("a", requests, burst);
                    model.tokens = model.tokens.min(f64::from(burst));
                    limiter.reconfigure(std::slice::from_ref(&config), now);
                }
                Step::Check(_) => {
                    model.fill(&config, now);
                    let admitted = admits(&limiter, GET, now);
                    if (model.tokens - 1.0).abs() > DOUBT {
                        prop_assert_eq!(admitted, model.tokens > 1.0, "{} tokens", model.tokens);
                    }
                    if admitted {
                        model.tokens = (model.tokens - 1.0).max(0.0);
                    }
                }
            }
        }
    }

    #[test]
    fn never_more_than_burst_and_rate_allow_between_any_two_moments(
        waits in proptest::collection::vec(0..400_u64, 1..150),
        requests in 1..50_u32,
        capacity in 1..10_u32,
    ) {
        let limiter = RateLimiter::new(&[limit("a", requests, capacity)]);
        let mut now = START;
        let mut admitted = Vec::new();
        for wait in waits {
            now = now.after(Duration::from_millis(wait));
            let count = burst(&limiter, GET, 3, now);
            admitted.extend(std::iter::repeat_n(now, count));
        }
        for (first, from) in admitted.iter().enumerate() {
            for (last, to) in admitted.iter().enumerate().skip(first) {
                let allowed = f64::from(capacity) + to.since(*from).as_secs_f64() * f64::from(requests);
                prop_assert!((last - first + 1) as f64 <= allowed + 1e-9);
            }
        }
    }

    /// Two limits with different keys: what one refuses must not be felt in the other.
    #[test]
    fn keys_and_giving_back_behave_as_naive_buckets(
        steps in proptest::collection::vec(step(), 1..150),
        capacity in 1..6_u32,
    ) {
        let per_user = by_user(5, capacity, 100);
        let total = limit("total", 7, capacity + 2);
        let limiter = RateLimiter::new(&[per_user.clone(), total.clone()]);
        let names = ["a", "b", "c", "d"];
        let mut now = START;
        let mut users: HashMap<&str, Model> = HashMap::new();
        let mut all = Model { tokens: f64::from(total.burst), at: now };
        for step in steps {
            match step {
                Step::Wait(millis) => now = now.after(Duration::from_millis(millis)),
                Step::Change(..) => {}
                Step::Check(who) => {
                    let own = users.entry(names[who])
                        .or_insert(Model { tokens: f64::from(capacity), at: now });
                    own.fill(&per_user, now);
                    all.fill(&total, now);
                    let admitted = admits(&limiter, user(names[who]), now);
                    let least = own.tokens.min(all.tokens);
                    if (own.tokens - 1.0).abs() > DOUBT && (all.tokens - 1.0).abs() > DOUBT {
                        prop_assert_eq!(admitted, least > 1.0, "{} and {}", own.tokens, all.tokens);
                    }
                    if admitted {
                        own.tokens = (own.tokens - 1.0).max(0.0);
                        all.tokens = (all.tokens - 1.0).max(0.0);
                    }
                }
            }
        }
    }
}
