//! Stories of retries, then properties.

use proptest::prelude::*;

use super::*;
use crate::policy::config::{Conditions, RetryBudget};

fn policy(attempts: u32) -> Retries {
    Retries {
        attempts,
        on: Conditions::default_retries(),
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        max_retry_after: Duration::from_secs(10),
        idempotency_header: Some("idempotency-key".into()),
        methods: vec!["PATCH".into(), "/shop.Cart/Get".into()],
        budget: RetryBudget::default(),
        buffer_bytes: 65536,
        hedge: None,
    }
}

fn request(method: &str) -> Request<'_> {
    Request {
        method,
        grpc_method: None,
        has_idempotency_header: false,
    }
}

const fn ended(end: AttemptEnd) -> Ended {
    Ended {
        end,
        body_replayable: true,
        response_started: false,
        retry_after: None,
        time_left: None,
    }
}

const BAD_GATEWAY: AttemptEnd = AttemptEnd::Response {
    status: 502,
    grpc: None,
};

fn refusal(request: &Request<'_>, ended: &Ended) -> Option<Reason> {
    match Attempts::new().decide(Some(&policy(2)), request, ended, 0) {
        Decision::Again { .. } => None,
        Decision::No(reason) => Some(reason),
    }
}

#[test]
fn what_never_reached_the_application_is_resent_twice_without_a_policy() {
    for end in [AttemptEnd::ConnectFailure, AttemptEnd::RefusedStream] {
        let mut attempts = Attempts::new();
        let mut next = || attempts.decide(None, &request("POST"), &ended(end), u64::MAX);
        let resent = Decision::Again {
            after: Duration::ZERO,
            free: true,
        };
        assert_eq!(next(), resent);
        assert_eq!(next(), resent);
        assert_eq!(next(), Decision::No(Reason::Off));
    }
}

#[test]
fn resends_cost_no_attempts_of_the_policy() {
    let mut attempts = Attempts::new();
    let free: Vec<bool> = (0..4)
        .map_while(|_| {
            let end = ended(AttemptEnd::ConnectFailure);
            match attempts.decide(Some(&policy(2)), &request("POST"), &end, 0) {
                Decision::Again { free, .. } => Some(free),
                Decision::No(_) => None,
            }
        })
        .collect();
    assert_eq!(free, [true, true, false, false]);
    assert_eq!(
        attempts.decide(Some(&policy(2)), &request("GET"), &ended(BAD_GATEWAY), 0),
        Decision::No(Reason::AttemptsExhausted)
    );
}

#[test]
fn a_payment_post_that_may_have_arrived_is_not_retried() {
    for end in [BAD_GATEWAY, AttemptEnd::Reset] {
        let post = refusal(&request("POST"), &ended(end));
        assert_eq!(post, Some(Reason::NotIdempotent));
        assert_eq!(
            refusal(&request("get"), &ended(end)),
            Some(Reason::NotIdempotent)
        );
    }
}

#[test]
fn header_method_or_grpc_method_make_it_safe() {
    let with_header = Request {
        has_idempotency_header: true,
        ..request("POST")
    };
    let listed_grpc = Request {
        grpc_method: Some("/shop.Cart/Get"),
        ..request("POST")
    };
    let other_grpc = Request {
        grpc_method: Some("/shop.Cart/Pay"),
        ..request("POST")
    };
    assert_eq!(refusal(&with_header, &ended(BAD_GATEWAY)), None);
    assert_eq!(refusal(&request("PATCH"), &ended(BAD_GATEWAY)), None);
    assert_eq!(refusal(&listed_grpc, &ended(BAD_GATEWAY)), None);
    assert_eq!(
        refusal(&other_grpc, &ended(BAD_GATEWAY)),
        Some(Reason::NotIdempotent)
    );
    let mut unnamed = policy(2);
    unnamed.idempotency_header = None;
    assert!(!with_header.is_safe(&unnamed));
}

#[test]
fn each_condition_has_its_own_reason() {
    let get = request("GET");
    let bad = ended(BAD_GATEWAY);
    let ok = AttemptEnd::Response {
        status: 200,
        grpc: None,
    };
    let second = Duration::from_secs(1);
    let cases = [
        (ended(ok), Reason::NotListed),
        (ended(AttemptEnd::Timeout), Reason::NotListed),
        (
            Ended {
                response_started: true,
                ..bad
            },
            Reason::ResponseStarted,
        ),
        (
            Ended {
                body_replayable: false,
                ..bad
            },
            Reason::BodyNotReplayable,
        ),
        (
            Ended {
                time_left: Some(Duration::ZERO),
                ..bad
            },
            Reason::Deadline,
        ),
        (
            Ended {
                retry_after: Some(second * 11),
                ..bad
            },
            Reason::RetryAfterTooLong,
        ),
        (
            Ended {
                retry_after: Some(second),
                time_left: Some(second),
                ..bad
            },
            Reason::Deadline,
        ),
    ];
    for (ended, reason) in cases {
        assert_eq!(refusal(&get, &ended), Some(reason), "{ended:?}");
    }
    let off = Attempts::new().decide(Some(&policy(0)), &get, &bad, 0);
    assert_eq!(off, Decision::No(Reason::Off));
}

#[test]
fn retry_after_is_waited_for_when_it_fits() {
    let asked = Ended {
        retry_after: Some(Duration::from_secs(1)),
        time_left: Some(Duration::from_millis(1200)),
        ..ended(BAD_GATEWAY)
    };
    let decision = Attempts::new().decide(Some(&policy(1)), &request("GET"), &asked, 0);
    assert_eq!(
        decision,
        Decision::Again {
            after: Duration::from_secs(1),
            free: false
        }
    );
}

fn any_end() -> impl Strategy<Value = AttemptEnd> {
    prop_oneof![
        Just(AttemptEnd::ConnectFailure),
        Just(AttemptEnd::RefusedStream),
        Just(AttemptEnd::Reset),
        Just(AttemptEnd::Timeout),
        (200..600_u16).prop_map(|status| AttemptEnd::Response { status, grpc: None }),
    ]
}

proptest! {
    #[test]
    fn attempts_are_bounded_and_waits_fit(
        ends in proptest::collection::vec((any_end(), any::<u64>(), proptest::option::of(0..400_u64)), 1..30),
        attempts in 0..10_u32,
        with_policy in any::<bool>(),
    ) {
        let policy = policy(attempts);
        let policy = with_policy.then_some(&policy);
        let mut state = Attempts::new();
        let mut retries = 0;
        for (end, random, left) in ends {
            let ended = Ended { time_left: left.map(Duration::from_millis), ..ended(end) };
            let Decision::Again { after, free } = state.decide(policy, &request("GET"), &ended, random) else {
                continue;
            };
            if let Some(left) = ended.time_left {
                prop_assert!(after < left);
            }
            if free {
                prop_assert!(never_reached_application(end) && after.is_zero());
            } else {
                let ceiling = Duration::from_millis((25 << retries).min(250));
                prop_assert!(after <= ceiling, "{:?} after {} retries", after, retries);
                retries += 1;
            }
        }
        prop_assert!(retries <= policy.map_or(0, |policy| policy.attempts));
        prop_assert!(state.repeated() <= MAX_RESENDS + retries);
    }

    #[test]
    fn a_post_that_may_have_arrived_is_never_repeated(
        ends in proptest::collection::vec((any_end(), any::<u64>()), 1..30),
    ) {
        let mut state = Attempts::new();
        for (end, random) in ends {
            let decision = state.decide(Some(&policy(10)), &request("POST"), &ended(end), random);
            if matches!(decision, Decision::Again { .. }) {
                prop_assert!(never_reached_application(end));
            }
        }
    }
}
