//! The breakers' rates against a naive window: whatever attempts a breaker was told
//! of are kept here one by one, and with each it is counted anew which of them the
//! window holds and whether it opens.

use std::collections::BTreeMap;
use std::time::Duration;

use remora_proto::v1::{self, trip::Scope};

use super::book::{self, Book};
use super::control;
use crate::clock::Timestamp;
use crate::policy::breaker::{Description, State};

/// A window slides in so many slots.
const SLOTS: u64 = 20;

/// An attempt that a breaker was told of.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub at: Timestamp,
    pub took: Duration,
    pub failed: bool,
    /// Began while traffic flowed, and the breaker has not opened since.
    pub is_of_now: bool,
}

/// Of one breaker.
#[derive(Debug, Default)]
struct Window {
    attempts: Vec<Ended>,
    /// What the policy asks for, as it was when the last was counted.
    length: u64,
    slower_than: u64,
}

/// Of all of them, by service and endpoint.
#[derive(Debug, Default)]
pub struct Rates {
    failures: BTreeMap<(usize, String), Window>,
    slow: BTreeMap<(usize, String), Window>,
    /// Outcomes of endpoints: how many, and how many of them good.
    pub told: BTreeMap<String, (u64, u64)>,
}

/// A rate as a policy gives it: percent, window, least.
type Asked = (u32, u64, u32);

impl Window {
    /// Counts one; how many bad ones of how many the window holds.
    fn count(&mut self, ended: Ended, (length, slower_than): (u64, u64)) -> (u64, u64) {
        self.is_still((length, slower_than));
        self.attempts.push(ended);
        let slot = |at: Timestamp| at.as_nanos() / (length * 1_000_000 / SLOTS);
        let inside = self.attempts.iter();
        let inside = inside.filter(|it| slot(ended.at) - slot(it.at) < SLOTS);
        let is_bad = |it: &&Ended| match slower_than {
            0 => it.failed,
            slower_than => it.took > Duration::from_millis(slower_than),
        };
        let (mut bad, mut total) = (0, 0);
        for attempt in inside {
            (bad, total) = (bad + u64::from(is_bad(&attempt)), total + 1);
        }
        (bad, total)
    }

    /// Under a policy with another window nothing is left of it.
    fn is_still(&mut self, (length, slower_than): (u64, u64)) {
        if (self.length, self.slower_than) != (length, slower_than) {
            self.attempts.clear();
            (self.length, self.slower_than) = (length, slower_than);
        }
    }
}

/// A breaker was told of an attempt, and stands as `after` says.
pub fn ended(
    (service, endpoint): (&str, &str),
    ended: Ended,
    before: &Description,
    after: &Description,
) {
    if book::is_open() {
        book::with(|book| book.ended_attempt((service, endpoint), ended, before, after));
    }
}

impl Book {
    /// The policy of a service is another one now.
    pub fn trips(&mut self, service: usize, trip: Option<&v1::Trip>) {
        self.trips[service] = trip.cloned();
        let of_it = |(of, _): &(usize, String)| *of == service;
        let asked = |(_, endpoint): &(usize, String)| trip.filter(|it| it.scope == scope(endpoint));
        for (key, window) in self.rates.failures.iter_mut().filter(|it| of_it(it.0)) {
            let rate = asked(key).and_then(|it| it.failure_rate.as_ref());
            window.is_still(rate.map_or((0, 0), |it| (it.window_ms, 0)));
        }
        for (key, window) in self.rates.slow.iter_mut().filter(|it| of_it(it.0)) {
            let rate = asked(key).and_then(|it| it.slow_call_rate.as_ref());
            window.is_still(rate.map_or((0, 0), |it| (it.window_ms, it.duration_ms)));
        }
    }

    fn ended_attempt(
        &mut self,
        (service, endpoint): (&str, &str),
        ended: Ended,
        before: &Description,
        after: &Description,
    ) {
        let told = self.rates.told.entry(endpoint.to_owned()).or_default();
        *told = (told.0 + 1, told.1 + u64::from(!ended.failed));
        let number = (0..super::SERVICES).find(|it| control::name(*it) == service);
        let Some(number) = number else { return };
        let trip = self.trips[number].clone();
        let Some(trip) = trip.filter(|trip| trip.scope == scope(endpoint)) else {
            return;
        };
        // Nobody tells one that has left of another policy.
        let is_listed = endpoint.is_empty() || self.is_listed(number, endpoint);
        if !is_listed || !ended.is_of_now {
            return self.forget_where_it_opened((number, endpoint), after);
        }
        let key = (number, endpoint.to_owned());
        let mut over = None;
        if let Some(rate) = &trip.failure_rate {
            let window = self.rates.failures.entry(key.clone()).or_default();
            let counted = window.count(ended, (rate.window_ms, 0));
            let asked = (rate.threshold_percent, rate.window_ms, rate.min_requests);
            over = judge(counted, asked).then(|| cause(counted, "failed"));
        }
        if let Some(rate) = &trip.slow_call_rate {
            let window = self.rates.slow.entry(key).or_default();
            let counted = window.count(ended, (rate.window_ms, rate.duration_ms));
            let asked = (rate.threshold_percent, rate.window_ms, rate.min_requests);
            let slow = judge(counted, asked).then(|| cause(counted, "took longer than"));
            over = over.or(slow);
        }
        let changed = (before.state, before.since) != (after.state, after.since);
        self.check_rate((service, endpoint), over, after, changed);
        self.forget_where_it_opened((number, endpoint), after);
    }

    /// It opens when, and only when, the naive window is over the threshold.
    fn check_rate(
        &mut self,
        (service, endpoint): (&str, &str),
        over: Option<String>,
        after: &Description,
        changed: bool,
    ) {
        let name = format!("the breaker of {service} {endpoint}");
        let by_rate = changed && after.cause.contains(" calls ");
        let opened = matches!(after.state, State::Open | State::WouldOpen);
        match over {
            Some(cause) if !opened => self.breaks(format!("{name} stays closed: {cause}")),
            Some(cause) if by_rate && !after.cause.starts_with(&cause) => {
                self.breaks(format!("{name}: {}, and it was {cause}", after.cause));
            }
            Some(_) => self.count("rates over"),
            None if opened && by_rate => {
                self.breaks(format!("{name} opens without a reason: {}", after.cause));
            }
            None => {}
        }
    }

    fn is_listed(&self, number: usize, endpoint: &str) -> bool {
        let pod = endpoint.rsplit('-').next().and_then(|it| it.parse().ok());
        pod.is_some_and(|pod| self.listed.contains_key(&control::address(number, pod)))
    }

    fn forget_where_it_opened(&mut self, (number, endpoint): (usize, &str), after: &Description) {
        if matches!(after.state, State::Open | State::HalfOpen) {
            let key = (number, endpoint.to_owned());
            self.rates.failures.remove(&key);
            self.rates.slow.remove(&key);
        }
    }
}

/// Whose breaker it is: an endpoint's has its name.
fn scope(endpoint: &str) -> i32 {
    match endpoint {
        "" => Scope::Service as i32,
        _ => Scope::Endpoint as i32,
    }
}

fn judge((bad, total): (u64, u64), (percent, _, least): Asked) -> bool {
    total >= u64::from(least) && bad * 100 >= total * u64::from(percent)
}

fn cause((bad, total): (u64, u64), what: &str) -> String {
    format!("{bad} of {total} calls {what}")
}
