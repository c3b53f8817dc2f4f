//! One pod of three dies under load and comes back: what the mesh is judged by.

use std::time::Duration;

use fastrand::Rng;
use remora_proxy::balance::pick;
use remora_proxy::clock::Timestamp;
use remora_proxy::policy::breaker::{BreakerSet, Journal, Outcome, State};
use remora_proxy::policy::config::{AttemptEnd, Limits, Trip};

use crate::upstream::{Endpoint, View};

const MS: fn(u64) -> Duration = Duration::from_millis;
const OK: AttemptEnd = AttemptEnd::Response {
    status: 200,
    grpc: None,
};

/// An answer on its way.
struct Answer {
    at: Timestamp,
    tell: Box<dyn FnOnce(Timestamp)>,
}

/// Three endpoints; a request each millisecond, answered after two.
struct Load {
    random: Rng,
    set: BreakerSet,
    endpoints: Vec<Endpoint>,
    now: Timestamp,
    attempts: [u32; 3],
}

impl Load {
    fn new(trip: Option<&Trip>, seed: u64) -> Self {
        let now = Timestamp::from_millis(1000);
        let set = BreakerSet::new("shop/catalog", trip, Journal::new(), now);
        let endpoints = ["a", "b", "c"]
            .map(|name| Endpoint::new(name, &set, &Limits::default(), now))
            .into();
        Self {
            random: Rng::with_seed(seed),
            set,
            endpoints,
            now,
            attempts: [0; 3],
        }
    }

    /// Goes on for `span`, or until the first endpoint's breaker is in this state.
    fn run(&mut self, span: Duration, until: Option<State>, is_dead: bool) -> Duration {
        let start = self.now;
        let mut answers: Vec<Answer> = Vec::new();
        self.attempts = [0; 3];
        while self.now.since(start) < span {
            self.now = self.now.after(MS(1));
            let due = answers.iter().take_while(|it| it.at <= self.now).count();
            for answer in answers.drain(..due) {
                (answer.tell)(self.now);
            }
            self.request(is_dead, &mut answers);
            let state = self.endpoints[0].breaker.describe(self.now).state;
            if until == Some(state) {
                break;
            }
        }
        for answer in answers {
            (answer.tell)(self.now);
        }
        self.now.since(start)
    }

    /// What fails is sent again elsewhere.
    fn request(&mut self, is_dead: bool, answers: &mut Vec<Answer>) {
        let mut tried = Vec::new();
        loop {
            let view = View {
                endpoints: &self.endpoints,
                listed: vec![0, 1, 2],
                tried: &tried,
                now: self.now,
            };
            let Some(at) = pick(&view, self.random.u64(..)) else {
                return;
            };
            let endpoint = &self.endpoints[at];
            let Some(permit) = endpoint.breaker.try_admit(self.now) else {
                tried.push(at);
                continue;
            };
            self.attempts[at] += 1;
            let load = endpoint.load.start(self.now);
            if at == 0 && is_dead {
                load.failed(self.now);
                let outcome = Outcome::Failure(AttemptEnd::ConnectFailure);
                permit.record(outcome, None, self.now, self.random.u64(..));
                assert!(!tried.contains(&0), "the same dead pod again");
                tried.push(at);
                continue;
            }
            let tell = move |now| {
                load.answered(now);
                let outcome = Outcome::of(OK, &Trip::default().failures);
                permit.record(outcome, None, now, 0);
            };
            answers.push(Answer {
                at: self.now.after(MS(2)),
                tell: Box::new(tell),
            });
            return;
        }
    }

    fn share_of_first(&self) -> f64 {
        f64::from(self.attempts[0]) / f64::from(self.attempts.iter().sum::<u32>())
    }
}

#[test]
fn a_killed_pod_is_out_within_a_second_and_back_within_three() {
    for consecutive_failures in [1, 3, 5, 15] {
        for seed in 0..10 {
            let trip = Trip {
                consecutive_failures,
                base_ejection: Duration::from_secs(1),
                max_ejection: Duration::from_secs(2),
                ..Trip::default()
            };
            let mut load = Load::new(Some(&trip), seed);
            load.run(MS(2000), None, false);
            assert!(
                (load.share_of_first() - 0.33).abs() < 0.1,
                "{:?}",
                load.attempts
            );
            let took = load.run(MS(5000), Some(State::Open), true);
            assert!(
                took < MS(1000),
                "{consecutive_failures} failures: open after {took:?}"
            );
            assert_eq!(load.attempts[0], consecutive_failures);
            load.run(MS(10_000), None, true);
            assert!(load.attempts[0] < 10, "{:?}", load.attempts);
            let took = load.run(MS(5000), Some(State::Closed), false);
            assert!(took < MS(3000), "closed after {took:?}");
            assert_eq!(load.set.ejected(), 0);
            load.run(MS(1000), None, false);
            assert!(load.share_of_first() > 0.1, "{:?}", load.attempts);
            load.run(MS(1000), None, false);
            assert!(load.share_of_first() > 0.25, "{:?}", load.attempts);
        }
    }
}

#[test]
fn without_a_breaker_a_dead_pod_attracts_next_to_nothing_and_comes_back() {
    let mut load = Load::new(None, 1);
    load.run(MS(1000), None, false);
    load.run(MS(20_000), None, true);
    assert!(load.attempts[0] < 20, "{:?}", load.attempts);
    load.run(MS(8000), None, false);
    load.run(MS(1000), None, false);
    assert!(load.share_of_first() > 0.25, "{:?}", load.attempts);
}

#[test]
fn a_single_failure_costs_an_endpoint_half_a_second_of_its_share() {
    for trip in [None, Some(Trip::default())] {
        let mut load = Load::new(trip.as_ref(), 2);
        load.run(MS(1000), None, false);
        load.endpoints[0].load.start(load.now).failed(load.now);
        load.run(MS(1000), None, false);
        load.run(MS(1000), None, false);
        assert!(load.share_of_first() > 0.25, "{:?}", load.attempts);
    }
}
