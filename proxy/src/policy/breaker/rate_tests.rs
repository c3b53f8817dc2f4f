//! Stories of breakers that open by a rate.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::Timestamp;
use crate::policy::config::{AttemptEnd, Rate, Scope, SlowCalls, Trip};

const RESET: Outcome = Outcome::Failure(AttemptEnd::Reset);
const START: Timestamp = Timestamp::from_millis(1_000_000);
const RATE: Rate = Rate {
    threshold_percent: 50,
    window: Duration::from_secs(10),
    min_requests: 10,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn trip() -> Trip {
    Trip {
        consecutive_failures: 0,
        failure_rate: Some(RATE),
        ..Trip::default()
    }
}

fn slow() -> Trip {
    Trip {
        consecutive_failures: 0,
        slow_calls: Some(SlowCalls {
            duration: ms(100),
            rate: RATE,
        }),
        ..Trip::default()
    }
}

fn set(count: usize, trip: &Trip) -> (BreakerSet, Vec<Arc<SharedBreaker>>, Arc<Journal>) {
    let journal = Journal::new();
    let set = BreakerSet::new("shop/catalog", Some(trip), Arc::clone(&journal), START);
    let breakers = (0..count).map(|at| set.endpoint(&at.to_string(), START));
    let breakers = breakers.collect();
    (set, breakers, journal)
}

/// One attempt that is answered after so long.
fn attempt(breaker: &Arc<SharedBreaker>, outcome: Outcome, took: Duration, now: Timestamp) {
    if let Some(mut permit) = breaker.try_admit(now) {
        permit.answered(now.after(took));
        permit.record(outcome, None, now.after(took), 0);
    }
}

fn state(breaker: &SharedBreaker, now: Timestamp) -> State {
    breaker.describe(now).state
}

#[test]
fn half_of_the_calls_failing_opens_though_never_two_in_a_row() {
    let (_set, breakers, journal) = set(2, &trip());
    for number in 0..9 {
        let outcome = if number % 2 == 0 {
            RESET
        } else {
            Outcome::Success
        };
        attempt(&breakers[0], outcome, ms(1), START);
        assert_eq!(state(&breakers[0], START), State::Closed, "{number}");
    }
    attempt(&breakers[0], Outcome::Success, ms(1), START);
    assert_eq!(state(&breakers[0], START), State::Open);
    let change = &journal.since(0)[0];
    assert_eq!(
        change.cause,
        "5 of 10 calls failed within 10s (50%, threshold 50%)"
    );
}

#[test]
fn zero_failures_in_a_row_never_open_it_and_old_failures_are_forgotten() {
    let (_set, breakers, _) = set(2, &trip());
    for _ in 0..9 {
        attempt(&breakers[0], RESET, ms(1), START);
    }
    let later = START.after(Duration::from_secs(11));
    for _ in 0..5 {
        attempt(&breakers[0], RESET, ms(1), later);
    }
    assert_eq!(
        state(&breakers[0], later),
        State::Closed,
        "five of five are too few"
    );
}

#[test]
fn slow_successes_open_it_and_are_no_failures() {
    let (_set, breakers, journal) = set(2, &slow());
    for _ in 0..5 {
        attempt(&breakers[0], Outcome::Success, ms(101), START);
        attempt(&breakers[0], Outcome::Success, ms(100), START);
    }
    assert_eq!(state(&breakers[0], START), State::Open);
    assert_eq!(
        journal.since(0)[0].cause,
        "5 of 10 calls took longer than 100ms within 10s (50%, threshold 50%)"
    );
    let (_set, breakers, _) = set(2, &trip());
    for _ in 0..20 {
        attempt(&breakers[0], Outcome::Success, ms(60_000), START);
    }
    assert_eq!(state(&breakers[0], START), State::Closed);
}

#[test]
fn an_attempt_that_ended_without_headers_is_slow_by_its_end_and_a_cancelled_one_is_neither() {
    let (_set, breakers, _) = set(2, &slow());
    for _ in 0..30 {
        drop(breakers[0].try_admit(START));
    }
    for number in 0..10 {
        assert_eq!(state(&breakers[0], START), State::Closed, "{number}");
        let permit = breakers[0].try_admit(START).unwrap();
        permit.record(RESET, None, START.after(ms(101)), 0);
    }
    assert_eq!(state(&breakers[0], START), State::Open);
}

#[test]
fn when_it_closes_the_windows_are_empty() {
    let (_set, breakers, _) = set(2, &trip());
    // One that is under way all the time.
    let early = breakers[0].try_admit(START).unwrap();
    for _ in 0..10 {
        attempt(&breakers[0], RESET, ms(1), START);
    }
    assert_eq!(state(&breakers[0], START), State::Open);
    let later = START.after(Duration::from_secs(12));
    attempt(&breakers[0], Outcome::Success, ms(1), later);
    assert_eq!(state(&breakers[0], later), State::Closed);
    early.record(RESET, None, later, 0);
    for _ in 0..9 {
        attempt(&breakers[0], RESET, ms(1), later);
    }
    assert_eq!(
        state(&breakers[0], later),
        State::Closed,
        "nine since it closed"
    );
    attempt(&breakers[0], RESET, ms(1), later);
    assert_eq!(state(&breakers[0], later), State::Open);
}

#[test]
fn a_slow_probe_opens_it_again() {
    let (_set, breakers, journal) = set(2, &slow());
    for _ in 0..10 {
        attempt(&breakers[0], Outcome::Success, ms(200), START);
    }
    let later = START.after(Duration::from_secs(12));
    attempt(&breakers[0], Outcome::Success, ms(200), later);
    assert_eq!(state(&breakers[0], later), State::Open);
    let last = journal.since(0).pop().unwrap();
    assert_eq!(last.cause, "a probe took longer than 100ms");
}

#[test]
fn where_no_more_may_be_out_it_is_marked_until_the_rate_is_below() {
    let (_set, breakers, journal) = set(1, &trip());
    for _ in 0..10 {
        attempt(&breakers[0], RESET, ms(1), START);
    }
    assert_eq!(state(&breakers[0], START), State::WouldOpen);
    for _ in 0..10 {
        attempt(&breakers[0], Outcome::Success, ms(1), START);
        attempt(&breakers[0], RESET, ms(1), START);
    }
    assert_eq!(journal.since(0).len(), 1, "it does not come and go");
    for _ in 0..21 {
        attempt(&breakers[0], Outcome::Success, ms(1), START);
    }
    assert_eq!(state(&breakers[0], START), State::Closed);
}

#[test]
fn a_services_own_breaker_opens_by_a_rate_and_its_endpoints_do_not() {
    let trip = Trip {
        scope: Scope::Service,
        ..trip()
    };
    let (set, breakers, _) = set(2, &trip);
    for _ in 0..10 {
        attempt(&breakers[0], RESET, ms(1), START);
        attempt(set.service(), RESET, ms(1), START);
    }
    assert_eq!(state(&breakers[0], START), State::Closed);
    assert_eq!(state(set.service(), START), State::Open);
}

#[test]
fn a_policy_that_asks_for_a_rate_later_counts_from_then_on() {
    let (set, breakers, _) = set(2, &Trip::default());
    for _ in 0..4 {
        attempt(&breakers[0], RESET, ms(1), START);
    }
    set.reconfigure(Some(&trip()), START);
    for _ in 0..9 {
        attempt(&breakers[0], RESET, ms(1), START);
    }
    assert_eq!(state(&breakers[0], START), State::Closed);
    attempt(&breakers[0], RESET, ms(1), START);
    assert_eq!(state(&breakers[0], START), State::Open);
    set.reconfigure(None, START);
    assert_eq!(state(&breakers[0], START), State::Closed);
}
