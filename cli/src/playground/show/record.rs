//! What is remembered of a run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::playground::clock;
use crate::playground::cluster::catalogue::Problem;
use crate::playground::measure::breakers::{Breakers, Change, Counts, Cursor};
use crate::playground::measure::identity::Renewals;
use crate::playground::measure::policies::{Policies, Working};
use crate::playground::measure::routes::{Taken, Ways, taken};
use crate::playground::measure::sidecar::Said;
use crate::playground::measure::stats::{Growth, Meter, Stats, per_second};
use crate::playground::report::{Event, Killed, MOST_EVENTS};

/// Sentences about what went wrong on the way that are kept.
const MOST_NOTICES: usize = 100;

/// What a sidecar does per second, and how fast.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// Requests to the pod, and their latency as its sidecar sees it.
    pub inbound: Direction,
    /// Requests of the pod to others.
    pub outbound: Direction,
}

/// One direction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Direction {
    /// Requests per second.
    pub requests: f64,
    /// Failures per second.
    pub failures: f64,
    /// Retries per second.
    pub retries: f64,
    /// Refused by rate limits or other limits, per second.
    pub limited: f64,
    /// Median latency.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
}

impl Direction {
    fn new(growth: &Growth, over: Duration) -> Self {
        Self {
            requests: per_second(growth.requests, over),
            failures: per_second(growth.failures, over),
            retries: per_second(growth.retries, over),
            limited: per_second(growth.rate_limited + growth.overloaded, over),
            p50_ms: growth.quantile_ms(0.5),
            p99_ms: growth.quantile_ms(0.99),
        }
    }
}

/// A kill by the scenario and what followed.
#[derive(Debug)]
struct Kill {
    report: Killed,
    killed_at_ms: u64,
    revived_at_ms: Option<u64>,
    open_at: BTreeSet<String>,
}

/// The record of a run.
#[derive(Debug)]
pub struct Record {
    start: Instant,
    started_at_ms: u64,
    /// What happened, oldest first.
    pub events: VecDeque<Event>,
    /// What went wrong on the way.
    pub notices: Vec<String>,
    /// What is wrong in the YAML now.
    pub yaml: Vec<Problem>,
    /// How often breakers changed.
    pub breaker: Counts,
    /// The breakers now, by caller.
    pub breakers: BTreeMap<String, Breakers>,
    /// The rates now, by pod.
    pub rates: BTreeMap<String, Rates>,
    /// All that sidecars counted.
    pub total: Growth,
    /// The certificates, and how they follow each other.
    pub renewals: Renewals,
    ways: BTreeMap<String, Ways>,
    policies: BTreeMap<String, (Policies, Instant)>,
    cursor: Cursor,
    meters: BTreeMap<String, Meter>,
    kill: Option<Kill>,
}

impl Record {
    /// An empty record; event times count from `start` until [`Self::begin`].
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            started_at_ms: clock::unix_ms(),
            events: VecDeque::new(),
            notices: Vec::new(),
            yaml: Vec::new(),
            breaker: Counts::default(),
            breakers: BTreeMap::new(),
            rates: BTreeMap::new(),
            total: Growth::default(),
            renewals: Renewals::default(),
            ways: BTreeMap::new(),
            policies: BTreeMap::new(),
            cursor: Cursor::default(),
            meters: BTreeMap::new(),
            kill: None,
        }
    }

    /// The load has begun: times count from now, earlier ones are negative.
    pub fn begin(&mut self, now: Instant) {
        let by = i64::try_from(clock::millis(now - self.start)).unwrap_or(i64::MAX);
        for event in &mut self.events {
            event.at_ms -= by;
        }
        self.start = now;
        self.started_at_ms = clock::unix_ms();
        self.renewals.begin();
    }

    /// Notes that something happened now.
    pub fn event(&mut self, kind: &'static str, details: Value) {
        let at_ms = i64::try_from(clock::millis(clock::now() - self.start)).unwrap_or(i64::MAX);
        self.event_at(at_ms, kind, details);
    }

    fn event_at(&mut self, at_ms: i64, kind: &'static str, details: Value) {
        if self.events.len() == MOST_EVENTS {
            self.events.pop_front();
        }
        let details = match details {
            Value::Object(details) => details,
            other => Map::from_iter([("what".to_owned(), other)]),
        };
        self.events.push_back(Event {
            at_ms,
            kind,
            details,
        });
    }

    /// The events by their time: what sidecars tell comes a little late.
    pub fn in_order(&self) -> Vec<Event> {
        let mut events: Vec<_> = self.events.iter().cloned().collect();
        events.sort_by_key(|event| event.at_ms);
        events
    }

    /// Notes that something went wrong; the run is not good any more.
    pub fn notice(&mut self, sentence: String) {
        if self.notices.len() < MOST_NOTICES && !self.notices.contains(&sentence) {
            self.notices.push(sentence);
        }
    }

    /// Takes what a sidecar said.
    pub fn said(&mut self, pod: &str, said: Said) {
        match said {
            Said::Breakers(breakers) => {
                for change in self.cursor.unseen(pod, &breakers) {
                    self.change(pod, &change);
                }
                self.breakers.insert(pod.to_owned(), breakers);
            }
            Said::Stats(stats) => self.stats(pod, &stats),
            Said::Metrics(text) => {
                let now = clock::now();
                let first = || (Policies::default(), now);
                let (policies, last) = self.policies.entry(pod.to_owned()).or_insert_with(first);
                policies.look(&String::from_utf8_lossy(&text), now - *last);
                *last = now;
            }
            Said::Identity(identity) => {
                let now = clock::millis(clock::now() - self.start);
                if self.renewals.said(pod, identity, now) {
                    self.event("renewed", json!({"pod": pod}));
                }
            }
        }
    }

    fn stats(&mut self, pod: &str, stats: &Stats) {
        let meter = self.meters.entry(pod.to_owned()).or_default();
        let over = meter.since_last(stats);
        let (outbound, inbound) = meter.look(stats);
        let ways = self.ways.entry(pod.to_owned()).or_default();
        ways.look(&stats.routes, over);
        self.total.add_counts(&outbound);
        self.total.add_counts(&inbound);
        let rates = Rates {
            inbound: Direction::new(&inbound, over),
            outbound: Direction::new(&outbound, over),
        };
        self.rates.insert(pod.to_owned(), rates);
    }

    /// The policies at work, by pod.
    pub fn working(&self) -> impl Iterator<Item = (&str, &Working)> {
        self.policies.iter().flat_map(|(pod, (policies, _))| {
            let working = policies.working().iter();
            working.map(|one| (pod.as_str(), one))
        })
    }

    /// Where requests go now, over all sidecars.
    pub fn taken(&self) -> Vec<Taken> {
        taken(self.ways.values().map(Ways::rates))
    }

    /// Requests that a pod's sidecar has counted.
    pub fn inbound(&self, pod: &str) -> u64 {
        self.meters.get(pod).map_or(0, Meter::inbound)
    }

    fn change(&mut self, caller: &str, change: &Change) {
        self.breaker.count(change);
        let at_ms = i64::try_from(change.at_ms).unwrap_or(0)
            - i64::try_from(self.started_at_ms).unwrap_or(0);
        let details = json!({
            "caller": caller, "service": change.service, "endpoint": change.endpoint,
            "from": change.from, "to": change.to, "cause": change.cause,
        });
        self.event_at(at_ms, "breaker", details);
        if let Some(kill) = &mut self.kill {
            kill.follow(caller, change);
        }
    }

    /// The scenario kills a pod.
    pub fn killed(&mut self, pod: &str) {
        self.kill = Some(Kill {
            report: Killed {
                pod: pod.to_owned(),
                ..Killed::default()
            },
            killed_at_ms: clock::unix_ms(),
            revived_at_ms: None,
            open_at: BTreeSet::new(),
        });
    }

    /// The scenario revives it.
    pub fn revived(&mut self) {
        if let Some(kill) = &mut self.kill {
            kill.revived_at_ms = Some(clock::unix_ms());
            kill.report.revived = true;
        }
    }

    /// The pod that the scenario killed, and what followed.
    pub fn kill_report(&self) -> Option<Killed> {
        self.kill.as_ref().map(|kill| kill.report.clone())
    }

    /// A pod's sidecar is gone, and what it showed with it.
    pub fn forget(&mut self, pod: &str) {
        self.policies.remove(pod);
        self.cursor.forget(pod);
        self.breakers.remove(pod);
        self.rates.remove(pod);
        self.meters.remove(pod);
        self.ways.remove(pod);
        self.renewals.forget(pod);
    }

    /// Takes what is wrong in the YAML; new problems are events.
    pub fn problems(&mut self, own: Vec<Problem>, of_control_plane: Vec<Problem>) {
        let mut all = of_control_plane;
        for problem in own {
            // The control plane reads the same files; it may say the same.
            if !all.iter().any(|other| other.file == problem.file) {
                all.push(problem);
            }
        }
        for problem in all
            .iter()
            .filter(|problem| !self.yaml.contains(problem))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.event("problem", json!({"message": problem.to_string()}));
        }
        self.yaml = all;
    }
}

impl Kill {
    fn follow(&mut self, caller: &str, change: &Change) {
        if change.endpoint.as_deref() != Some(self.report.pod.as_str())
            || change.at_ms < self.killed_at_ms
        {
            return;
        }
        match change.to.as_str() {
            "open" => {
                self.open_at.insert(caller.to_owned());
                let after = change.at_ms - self.killed_at_ms;
                self.report.opened_after_ms.get_or_insert(after);
            }
            "closed" => {
                self.open_at.remove(caller);
                if let Some(revived_at_ms) = self.revived_at_ms.filter(|_| self.open_at.is_empty())
                {
                    let after = change.at_ms.saturating_sub(revived_at_ms);
                    self.report.closed_after_ms.get_or_insert(after);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(at_ms: u64, to: &str) -> Change {
        Change {
            at_ms,
            endpoint: Some("catalog-3".to_owned()),
            to: to.to_owned(),
            ..Change::default()
        }
    }

    #[test]
    fn a_kill_is_followed_from_open_to_closed() {
        let mut kill = Kill {
            report: Killed {
                pod: "catalog-3".to_owned(),
                ..Killed::default()
            },
            killed_at_ms: 1000,
            revived_at_ms: None,
            open_at: BTreeSet::new(),
        };
        kill.follow("web-1", &change(900, "open"));
        assert_eq!(kill.report.opened_after_ms, None, "before the kill");
        kill.follow("web-1", &change(1040, "open"));
        kill.follow("web-2", &change(1090, "open"));
        kill.follow("web-1", &change(2040, "half_open"));
        kill.follow("web-1", &change(2041, "open"));
        kill.revived_at_ms = Some(5000);
        kill.follow("web-1", &change(5700, "closed"));
        assert_eq!(kill.report.closed_after_ms, None, "web-2 still keeps away");
        kill.follow("web-2", &change(6100, "closed"));
        assert_eq!(
            (kill.report.opened_after_ms, kill.report.closed_after_ms),
            (Some(40), Some(1100))
        );
    }

    #[test]
    fn events_before_the_load_are_negative_and_bounded() {
        let mut record = Record::new(clock::now());
        record.event_at(10, "pod_ready", json!({"pod": "web-1"}));
        record.begin(record.start + Duration::from_millis(500));
        assert_eq!(record.events[0].at_ms, -490);
        for _ in 0..MOST_EVENTS + 5 {
            record.event_at(1, "breaker", json!({}));
        }
        assert_eq!(record.events.len(), MOST_EVENTS);
    }
}
