//! Stories of one breaker and of a service's set, then properties against naive models.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::balance::Availability;
use crate::clock::Timestamp;
use crate::policy::config::{AttemptEnd, Scope, Trip};

const RESET: Outcome = Outcome::Failure(AttemptEnd::Reset);
const START: Timestamp = Timestamp::from_millis(1_000_000);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn trip() -> Trip {
    Trip {
        consecutive_failures: 3,
        base_ejection: secs(10),
        max_ejection: secs(60),
        max_ejected_percent: 50,
        ..Trip::default()
    }
}

/// A service with `count` endpoints, named by their number.
fn set_of(count: usize, trip: &Trip) -> (BreakerSet, Vec<Arc<SharedBreaker>>, Arc<Journal>) {
    let journal = Journal::new();
    let set = BreakerSet::new("shop/catalog", Some(trip), Arc::clone(&journal), START);
    let breakers = (0..count)
        .map(|index| set.endpoint(&index.to_string(), START))
        .collect();
    (set, breakers, journal)
}

/// The first of two endpoints, with its set.
fn one(trip: &Trip) -> (BreakerSet, Arc<SharedBreaker>) {
    let (set, breakers, _) = set_of(2, trip);
    (set, Arc::clone(&breakers[0]))
}

fn attempt(breaker: &Arc<SharedBreaker>, outcome: Outcome, now: Timestamp) -> Option<State> {
    breaker
        .try_admit(now)
        .and_then(|permit| permit.record(outcome, None, now, 0))
}

fn fail(breaker: &Arc<SharedBreaker>, times: u32, now: Timestamp) {
    for _ in 0..times {
        attempt(breaker, RESET, now);
    }
}

fn state(breaker: &SharedBreaker) -> State {
    breaker.describe(START).state
}

#[test]
fn opens_after_so_many_failures_in_a_row() {
    let (_set, breaker) = one(&trip());
    fail(&breaker, 2, START);
    attempt(&breaker, Outcome::Success, START);
    fail(&breaker, 2, START);
    assert_eq!(state(&breaker), State::Closed);
    assert_eq!(attempt(&breaker, RESET, START), Some(State::Open));
    assert!(breaker.try_admit(START).is_none());
    assert!(!breaker.available(START.after(secs(9))));
}

#[test]
fn what_the_caller_cancelled_is_neither_success_nor_failure() {
    let (_set, breaker) = one(&trip());
    fail(&breaker, 2, START);
    drop(breaker.try_admit(START));
    if let Some(permit) = breaker.try_admit(START) {
        permit.neutral();
    }
    assert_eq!(attempt(&breaker, RESET, START), Some(State::Open));
}

#[test]
fn half_open_admits_one_probe_and_closes_on_its_success() {
    let (_set, breaker) = one(&trip());
    fail(&breaker, 3, START);
    let later = START.after(secs(10));
    assert_eq!(breaker.availability(later), Availability::Probe);
    let probe = breaker.try_admit(later).expect("its time has come");
    assert!(probe.is_probe());
    assert_eq!(state(&breaker), State::HalfOpen);
    assert!(!breaker.available(later));
    assert!(breaker.try_admit(later).is_none());
    assert_eq!(
        probe.record(Outcome::Success, None, later, 0),
        Some(State::Closed)
    );
    assert_eq!(breaker.availability(later), Availability::Yes);
}

#[test]
fn a_cancelled_probe_gives_its_place_back() {
    let (_set, breaker) = one(&trip());
    fail(&breaker, 3, START);
    let later = START.after(secs(10));
    drop(breaker.try_admit(later).expect("first probe"));
    assert_eq!(state(&breaker), State::HalfOpen);
    assert_eq!(breaker.availability(later), Availability::Probe);
    assert!(breaker.try_admit(later).is_some());
}

#[test]
fn a_response_from_before_the_trip_changes_nothing() {
    let (_set, breaker) = one(&trip());
    let early = [(); 2].map(|()| breaker.try_admit(START).expect("closed"));
    fail(&breaker, 3, START);
    let later = START.after(secs(10));
    let probe = breaker.try_admit(later).expect("probe");
    let [success, failure] = early;
    assert_eq!(success.record(Outcome::Success, None, later, 0), None);
    assert_eq!(failure.record(RESET, None, later, 0), None);
    assert_eq!(state(&breaker), State::HalfOpen);
    probe.record(Outcome::Success, None, later, 0);
    assert_eq!(state(&breaker), State::Closed);
}

#[test]
fn a_probe_without_answer_counts_as_failed() {
    let (_set, breaker) = one(&trip());
    fail(&breaker, 3, START);
    let later = START.after(secs(10));
    let silent = breaker.try_admit(later).expect("probe");
    assert!(!breaker.available(later.after(secs(9))));
    let overdue = later.after(secs(10));
    // The balancer must try it, so that the machine learns that the time has passed.
    assert!(breaker.available(overdue));
    assert!(breaker.try_admit(overdue).is_none());
    let told = breaker.describe(overdue);
    assert_eq!(
        (told.state, told.ejections, told.level),
        (State::Open, 2, 2)
    );
    assert_eq!(told.cause, "a probe was not answered in time");
    // Its answer is from before this trip.
    assert_eq!(silent.record(Outcome::Success, None, overdue, 0), None);
    assert!(!breaker.available(overdue.after(secs(19))));
    assert!(breaker.available(overdue.after(secs(22))));
}

#[test]
fn each_ejection_in_a_row_is_twice_as_long_up_to_the_maximum() {
    let (_set, breaker) = one(&trip());
    fail(&breaker, 3, START);
    let mut now = START;
    for seconds in [10, 20, 40, 60, 60] {
        assert!(breaker.try_admit(now.after(secs(seconds - 1))).is_none());
        now = now.after(secs(seconds));
        assert_eq!(
            attempt(&breaker, RESET, now),
            Some(State::Open),
            "{seconds}"
        );
    }
}

#[test]
fn health_takes_the_length_down_again() {
    let (_set, breaker) = one(&trip());
    fail(&breaker, 3, START);
    let mut now = START;
    for seconds in [10, 20, 40] {
        now = now.after(secs(seconds));
        attempt(&breaker, RESET, now);
    }
    now = now.after(secs(60));
    attempt(&breaker, Outcome::Success, now);
    assert_eq!(breaker.describe(now).level, 4);
    now = now.after(secs(25));
    assert_eq!(breaker.describe(now).level, 2);
    fail(&breaker, 3, now);
    // Third in a row now: 40 s.
    assert!(!breaker.available(now.after(secs(39))));
    assert!(breaker.available(now.after(secs(40))));
}

#[test]
fn jitter_makes_it_longer_never_shorter_nor_above_the_maximum() {
    let (_set, breaker) = one(&trip());
    for _ in 0..3 {
        let permit = breaker.try_admit(START).expect("closed");
        permit.record(RESET, None, START, u64::MAX);
    }
    assert!(!breaker.available(START.after(Duration::from_millis(10_999))));
    assert!(breaker.available(START.after(Duration::from_millis(11_000))));
    let (_set, breaker) = one(&Trip {
        max_ejection: secs(10),
        ..trip()
    });
    for _ in 0..3 {
        let permit = breaker.try_admit(START).expect("closed");
        permit.record(RESET, None, START, u64::MAX);
    }
    assert!(breaker.available(START.after(secs(10))));
}

#[test]
fn retry_after_prolongs_when_it_is_honoured() {
    for (honor, asked, until) in [
        (true, 30, 30),
        (true, 300, 60),
        (true, 3, 10),
        (false, 30, 10),
    ] {
        let (_set, breaker) = one(&Trip {
            honor_retry_after: honor,
            ..trip()
        });
        fail(&breaker, 2, START);
        let permit = breaker.try_admit(START).expect("closed");
        permit.record(RESET, Some(secs(asked)), START, 0);
        assert!(!breaker.available(START.after(secs(until - 1))), "{asked}");
        assert!(breaker.available(START.after(secs(until))), "{asked}");
    }
}

#[test]
fn several_probes_and_successes_in_a_row() {
    let (_set, breaker) = one(&Trip {
        probes: 2,
        successes: 3,
        ..trip()
    });
    fail(&breaker, 3, START);
    let later = START.after(secs(10));
    let first = breaker.try_admit(later).expect("first");
    let second = breaker.try_admit(later).expect("second");
    assert!(breaker.try_admit(later).is_none());
    assert_eq!(first.record(Outcome::Success, None, later, 0), None);
    assert_eq!(second.record(Outcome::Success, None, later, 0), None);
    let third = breaker.try_admit(later).expect("third");
    let fourth = breaker.try_admit(later).expect("fourth");
    assert_eq!(
        third.record(Outcome::Success, None, later, 0),
        Some(State::Closed)
    );
    // It was admitted under this epoch, so it counts: as an ordinary failure.
    assert_eq!(fourth.record(RESET, None, later, 0), None);
}

#[test]
fn the_last_endpoint_is_marked_and_kept() {
    let (set, breakers, journal) = set_of(1, &trip());
    fail(&breakers[0], 3, START);
    assert_eq!(state(&breakers[0]), State::WouldOpen);
    assert!(breakers[0].available(START));
    assert_eq!(set.ejected(), 0);
    assert_eq!(journal.counts().would_open, 1);
    fail(&breakers[0], 10, START);
    assert_eq!(journal.counts().would_open, 1, "marked once");
    attempt(&breakers[0], Outcome::Success, START);
    assert_eq!(state(&breakers[0]), State::Closed);
}

#[test]
fn the_floor_keeps_its_share_whatever_the_numbers() {
    for (listed, percent, min, out) in [
        (3, 50, 1, 1),
        (4, 50, 1, 2),
        (4, 100, 1, 3),
        (4, 100, 3, 1),
        (4, 100, 0, 3),
        (4, 0, 1, 0),
        (10, 39, 1, 3),
        (2, 50, 5, 0),
    ] {
        let (set, breakers, _) = set_of(
            listed,
            &Trip {
                max_ejected_percent: percent,
                min_endpoints: min,
                ..trip()
            },
        );
        breakers.iter().for_each(|breaker| fail(breaker, 3, START));
        assert_eq!(set.ejected(), out, "{listed} {percent} {min}");
        let open = breakers
            .iter()
            .filter(|it| state(it) == State::Open)
            .count();
        assert_eq!(open, out as usize);
    }
}

#[test]
fn a_marked_endpoint_opens_when_a_place_is_free() {
    let (_set, breakers, _) = set_of(2, &trip());
    fail(&breakers[0], 3, START);
    fail(&breakers[1], 3, START);
    assert_eq!(state(&breakers[1]), State::WouldOpen);
    let later = START.after(secs(10));
    attempt(&breakers[0], Outcome::Success, later);
    fail(&breakers[1], 1, later);
    assert_eq!(state(&breakers[1]), State::Open);
}

#[test]
fn an_ejected_endpoint_that_leaves_frees_its_place_and_finds_its_state_again() {
    let (set, mut breakers, _) = set_of(4, &trip());
    fail(&breakers[0], 3, START);
    fail(&breakers[1], 3, START);
    set.set_members(["1", "2", "3", "new"], START);
    assert_eq!(set.ejected(), 1);
    fail(&breakers[2], 3, START);
    assert_eq!(state(&breakers[2]), State::Open);
    // Back under the same name: still open, but now there is no place for it.
    set.set_members(["0", "1", "2", "3", "new"], START);
    let back = set.endpoint("0", START);
    assert!(Arc::ptr_eq(&back, &breakers[0]));
    assert_eq!(state(&back), State::WouldOpen);
    assert_eq!(set.ejected(), 2);
    // One that leaves in health is forgotten when nobody holds it any more.
    let gone = breakers.pop().map(|breaker| Arc::downgrade(&breaker));
    set.set_members(["0", "1", "2"], START);
    assert!(gone.is_some_and(|gone| gone.upgrade().is_none()));
}

#[test]
fn when_the_healthy_leave_the_ejected_are_let_back_in() {
    let (set, breakers, journal) = set_of(4, &trip());
    fail(&breakers[0], 3, START);
    let later = START.after(secs(1));
    fail(&breakers[1], 3, later);
    set.set_members(["0", "1"], later);
    // The one that has been out longest comes back first.
    assert_eq!(state(&breakers[0]), State::WouldOpen);
    assert_eq!(state(&breakers[1]), State::Open);
    set.set_members(["1"], later);
    assert_eq!(state(&breakers[1]), State::WouldOpen);
    assert_eq!(set.ejected(), 0);
    let last = journal.since(0).pop().expect("changes");
    assert!(last.cause.starts_with("let back in"), "{}", last.cause);
}

/// A pod is an endpoint before it is ready: it is listed, not listed, listed again,
/// while one and the same breaker is held for it.
#[test]
fn an_endpoint_that_was_not_ready_for_a_while_still_opens() {
    let (set, _, _) = set_of(0, &trip());
    set.set_members(["0", "1", "2"], START);
    let held = set.endpoint("new", START);
    set.set_members(["0", "1", "2"], START);
    set.set_members(["0", "1", "2", "new"], START);
    assert!(Arc::ptr_eq(&held, &set.endpoint("new", START)));
    fail(&held, 3, START);
    assert_eq!(state(&held), State::Open);
}

/// Who follows the journal must not take what is gone for open for ever.
#[test]
fn one_that_is_gone_is_told_as_closed_and_as_it_was_when_it_is_back() {
    let (set, breakers, journal) = set_of(3, &trip());
    let told = |since| -> Vec<_> {
        let changes = journal.since(since).into_iter();
        changes.map(|change| (change.from, change.to)).collect()
    };
    breakers[1].leave(START);
    breakers[1].come_back(START);
    assert_eq!(told(0), [], "it was closed");

    fail(&breakers[0], 3, START);
    breakers[0].leave(START);
    breakers[0].leave(START);
    let open = (State::Closed, State::Open);
    assert_eq!(told(0), [open, (State::Open, State::Closed)]);
    assert_eq!(set.transitions().closed, 0, "it did not close");
    breakers[0].come_back(START);
    breakers[0].come_back(START);
    assert_eq!(told(2), [open]);

    // What ends later, of a request that was under way, is not told either.
    breakers[2].leave(START);
    fail(&breakers[2], 3, START);
    assert_eq!(told(3), []);
    assert_ne!(state(&breakers[2]), State::Closed);
}

#[test]
fn those_who_left_are_remembered_up_to_a_bound() {
    let (set, _, _) = set_of(0, &trip());
    let count = DEPARTED_CAPACITY * 2;
    for index in 0..count {
        let breaker = set.endpoint(&format!("pod-{index}"), START);
        fail(&breaker, 1, START);
        set.set_members([], START);
    }
    let kept = (0..count)
        .filter(|index| {
            let breaker = set.endpoint(&format!("pod-{index}"), START);
            fail(&breaker, 2, START);
            state(&breaker) != State::Closed
        })
        .count();
    assert_eq!(kept, DEPARTED_CAPACITY);
}

#[test]
fn without_the_policy_everything_closes_and_stays_closed() {
    let (set, breakers, journal) = set_of(4, &trip());
    fail(&breakers[0], 3, START);
    let probe_of_old = breakers[0].try_admit(START.after(secs(10)));
    set.reconfigure(None, START);
    assert_eq!(state(&breakers[0]), State::Closed);
    assert_eq!(set.ejected(), 0);
    fail(&breakers[0], 100, START);
    assert_eq!(state(&breakers[0]), State::Closed);
    drop(probe_of_old);
    set.reconfigure(Some(&trip()), START);
    fail(&breakers[0], 3, START);
    assert_eq!(state(&breakers[0]), State::Open);
    assert_eq!(journal.counts().closed, 1);
}

#[test]
fn a_changed_policy_keeps_state_and_counts() {
    let (set, breakers, _) = set_of(4, &trip());
    fail(&breakers[0], 3, START);
    fail(&breakers[1], 2, START);
    set.reconfigure(
        Some(&Trip {
            consecutive_failures: 1,
            successes: 1,
            ..trip()
        }),
        START,
    );
    assert_eq!(state(&breakers[0]), State::Open);
    assert_eq!(state(&breakers[1]), State::Closed);
    fail(&breakers[1], 1, START);
    assert_eq!(state(&breakers[1]), State::Open);
    set.reconfigure(
        Some(&Trip {
            max_ejected_percent: 25,
            ..trip()
        }),
        START,
    );
    assert_eq!(set.ejected(), 1);
}

#[test]
fn with_scope_service_one_breaker_stands_for_all() {
    let (set, breakers, _) = set_of(
        2,
        &Trip {
            scope: Scope::Service,
            ..trip()
        },
    );
    fail(&breakers[0], 10, START);
    assert_eq!(state(&breakers[0]), State::Closed);
    fail(set.service(), 3, START);
    assert!(set.service().try_admit(START).is_none());
    set.reconfigure(Some(&trip()), START);
    assert!(set.service().try_admit(START).is_some());
    fail(&breakers[0], 3, START);
    assert_eq!(state(&breakers[0]), State::Open);
}

#[test]
fn a_direct_call_is_only_ever_marked() {
    for scope in [Scope::Endpoint, Scope::Service] {
        let trip = Trip { scope, ..trip() };
        let set = BreakerSet::mark_only("shop/db", Some(&trip), Journal::new(), START);
        let breakers = ["0", "1", "2"].map(|name| set.endpoint(name, START));
        for breaker in breakers.iter().chain([set.service()]) {
            fail(breaker, 20, START);
            assert!(breaker.available(START));
            let marked = matches!(state(breaker), State::WouldOpen);
            let is_service = breaker.name().is_empty();
            assert_eq!(marked, is_service == (scope == Scope::Service));
        }
    }
}

#[test]
fn the_journal_is_bounded_and_tells_what_happened() {
    let (set, breakers, journal) = set_of(2, &trip());
    fail(&breakers[0], 3, START);
    let later = START.after(secs(10));
    attempt(&breakers[0], Outcome::Success, later);
    let told: Vec<_> = journal
        .since(0)
        .into_iter()
        .map(|it| (it.sequence, it.from.as_str(), it.to.as_str(), it.cause))
        .collect();
    let expected = [
        (1, "closed", "open", "3 failures in a row, the last: reset"),
        (2, "open", "half_open", "the ejection time has passed"),
        (3, "half_open", "closed", "1 successes in a row"),
    ];
    assert_eq!(
        told,
        expected.map(|(n, from, to, why)| (n, from, to, why.to_owned()))
    );
    assert_eq!(set.transitions(), journal.counts());
    let mut now = later;
    while journal.last_sequence() < 1000 {
        fail(&breakers[0], 3, now);
        now = now.after(secs(60));
        attempt(&breakers[0], Outcome::Success, now);
    }
    let kept = journal.since(0);
    assert_eq!(kept.len(), JOURNAL_CAPACITY);
    assert!(
        kept.windows(2)
            .all(|pair| pair[0].sequence + 1 == pair[1].sequence)
    );
    assert_eq!(journal.since(journal.last_sequence()), []);
}

#[test]
fn threads_that_trip_at_once_leave_the_floor_exact() {
    for round in 0..200 {
        let (set, breakers, _) = set_of(6, &trip());
        std::thread::scope(|scope| {
            for breaker in &breakers {
                scope.spawn(move || fail(breaker, 3 + round % 3, START));
            }
        });
        let open = breakers
            .iter()
            .filter(|it| state(it) == State::Open)
            .count();
        assert_eq!((open, set.ejected()), (3, 3));
    }
}

#[test]
fn threads_with_members_and_policies_changing_leave_the_books_right() {
    let (set, _, _) = set_of(4, &trip());
    let names = ["0", "1", "2", "3", "4", "5"];
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let set = &set;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut now = START;
                for _ in 0..3000 {
                    now = now.after(Duration::from_millis(random.u64(..3000)));
                    match random.u8(..20) {
                        0 => set.set_members(names.into_iter().filter(|_| random.bool()), now),
                        1 => set.reconfigure(random.bool().then(trip).as_ref(), now),
                        _ => {
                            let breaker = set.endpoint(names[random.usize(..names.len())], now);
                            let outcome = if random.u8(..4) == 0 {
                                Outcome::Success
                            } else {
                                RESET
                            };
                            if random.u8(..5) == 0 {
                                drop(breaker.try_admit(now));
                            } else {
                                attempt(&breaker, outcome, now);
                            }
                        }
                    }
                }
            });
        }
    });
    set.reconfigure(Some(&trip()), START);
    set.set_members(names, START);
    let out = names
        .into_iter()
        .filter(|name| {
            matches!(
                state(&set.endpoint(name, START)),
                State::Open | State::HalfOpen
            )
        })
        .count();
    assert_eq!(set.ejected() as usize, out);
    assert!(out <= 3);
    set.set_members([], START);
    assert_eq!(set.ejected(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Admit(usize),
    End(usize, End),
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Success,
    Failure(u64),
    Cancelled,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        3 => Just(End::Success),
        4 => any::<u64>().prop_map(End::Failure),
        1 => Just(End::Cancelled),
    ];
    prop_oneof![
        4 => (0..3_usize).prop_map(Step::Admit),
        4 => (0..10_usize, end).prop_map(|(at, end)| Step::End(at, end)),
        2 => (0..15_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_promises_hold(
        steps in proptest::collection::vec(step(), 1..200),
        probes in 1..4_u32,
        successes in 1..4_u32,
    ) {
        let trip = Trip { probes, successes, ..trip() };
        let (set, breakers, journal) = set_of(3, &trip);
        let mut now = START;
        let mut in_flight: Vec<(usize, BreakerPermit)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(millis) => now = now.after(Duration::from_millis(millis)),
                Step::Admit(at) => {
                    let available = breakers[at].available(now);
                    let permit = breakers[at].try_admit(now);
                    // Available but refused: only when a probe turned out to be overdue.
                    if permit.is_some() != available {
                        prop_assert!(available && breakers[at].describe(now).cause.contains("not answered"));
                    }
                    in_flight.extend(permit.map(|permit| (at, permit)));
                }
                Step::End(at, end) if at < in_flight.len() => {
                    let (_, permit) = in_flight.swap_remove(at);
                    match end {
                        End::Success => { permit.record(Outcome::Success, None, now, 0); }
                        End::Failure(random) => { permit.record(RESET, None, now, random); }
                        End::Cancelled => permit.neutral(),
                    }
                }
                Step::End(..) => {}
            }
            let out = breakers.iter().filter(|it| matches!(state(it), State::Open | State::HalfOpen)).count();
            prop_assert_eq!(set.ejected() as usize, out);
            prop_assert!(out <= 1, "half of three, rounded down");
        }
        // Openings last at least their nominal time and at most the maximum: read from the journal.
        for breaker in &breakers {
            let changes: Vec<_> = journal.since(0).into_iter().filter(|it| it.endpoint == *breaker.name()).collect();
            for pair in changes.windows(2) {
                prop_assert_eq!(pair[0].to, pair[1].from);
                if pair[1].from == State::Open {
                    prop_assert!(pair[1].at.since(pair[0].at) >= trip.base_ejection);
                }
            }
        }
        // Nothing is held for ever: with all attempts over, each admits again.
        drop(in_flight);
        let much_later = now.after(secs(200));
        for breaker in &breakers {
            prop_assert!(breaker.try_admit(much_later).is_some());
        }
    }

    #[test]
    fn half_open_never_has_more_probes_in_flight_than_allowed(
        choices in proptest::collection::vec((any::<bool>(), 0..5_usize), 1..60),
        probes in 1..5_u32,
    ) {
        let trip = Trip { probes, successes: 100, ..trip() };
        let (_set, breaker) = one(&trip);
        fail(&breaker, 3, START);
        let now = START.after(secs(10));
        let mut in_flight = Vec::new();
        for (admit, at) in choices {
            if admit {
                let permit = breaker.try_admit(now);
                prop_assert_eq!(permit.is_some(), in_flight.len() < probes as usize);
                in_flight.extend(permit);
            } else if at < in_flight.len() {
                let permit = in_flight.swap_remove(at);
                if at % 2 == 0 {
                    permit.record(Outcome::Success, None, now, 0);
                }
            }
        }
    }
}
