//! Where requests go, by rule and backend: what `/stats` of a sidecar counts of
//! its routes, to what goes each way per second.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::stats::per_second;

/// Ways that are looked at of one sidecar: more would not be shown either.
const MOST_WAYS: usize = 4096;

/// A rule of a route, as `/stats` has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// The Service that is called.
    pub service: String,
    /// `namespace/name`.
    pub route: String,
    /// The rule's name, or its place.
    pub rule: String,
    /// What went to each backend.
    pub backends: Vec<Backend>,
    /// What went to none of them, by class of status.
    pub nowhere: Vec<u64>,
}

/// One of its backends.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Backend {
    /// `namespace/name:port`.
    pub backend: String,
    /// How often, by class of status.
    pub classes: Vec<u64>,
}

/// Which way requests took.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Way {
    /// The Service that was called.
    pub service: String,
    /// The route.
    pub route: String,
    /// The rule's name or place.
    pub rule: String,
    /// Where they went; empty where they were answered.
    pub backend: String,
}

/// How many took each way.
type Counts = BTreeMap<Way, u64>;

/// A route on several ports is told once for each, with the same counts.
fn counts(rules: &[Rule]) -> Counts {
    let mut counts = Counts::new();
    for rule in rules {
        let way = |backend: &str| Way {
            service: rule.service.clone(),
            route: rule.route.clone(),
            rule: rule.rule.clone(),
            backend: backend.to_owned(),
        };
        let backends = rule.backends.iter();
        let backends = backends.map(|one| (way(&one.backend), one.classes.iter().sum::<u64>()));
        let answered = rule.nowhere.iter().sum::<u64>();
        let answered = (answered > 0).then(|| (way(""), answered));
        for (way, count) in backends.chain(answered) {
            if counts.len() < MOST_WAYS {
                counts.insert(way, count);
            }
        }
    }
    counts
}

/// The ways of one sidecar's requests: counted, and per second.
#[derive(Debug, Default)]
pub struct Ways {
    counts: Counts,
    has_looked: bool,
    rates: BTreeMap<Way, f64>,
}

impl Ways {
    /// Takes a look, so long after the last.
    pub fn look(&mut self, rules: &[Rule], over: Duration) {
        let now = counts(rules);
        let rates = now.iter().map(|(way, count)| {
            let before = self.counts.get(way).copied().unwrap_or(0);
            // One that fell is of a process that started again.
            let grown = count.checked_sub(before).unwrap_or(*count);
            let grown = if self.has_looked { grown } else { 0 };
            (way.clone(), per_second(grown, over))
        });
        self.rates = rates.collect();
        self.counts = now;
        self.has_looked = true;
    }

    /// Requests per second, by way.
    pub fn rates(&self) -> &BTreeMap<Way, f64> {
        &self.rates
    }
}

/// A way that is taken, with its share of its rule's requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// The way.
    #[serde(flatten)]
    pub way: Way,
    /// Requests per second.
    pub requests_per_second: f64,
    /// From 0 to 1.
    pub share: f64,
}

impl Taken {
    /// The rule, in words.
    pub fn rule(&self) -> String {
        let way = &self.way;
        // Route and Service have the same name more often than not.
        if way.route == way.service {
            format!("{} · {}", way.service, way.rule)
        } else {
            format!("{} · {} · {}", way.service, way.route, way.rule)
        }
    }

    /// The backend, in words: its namespace is nearly always the Service's own.
    pub fn backend(&self) -> &str {
        match self.way.backend.as_str() {
            "" => "answered here",
            named => named.rsplit('/').next().unwrap_or(named),
        }
    }
}

/// What several sidecars together do per second. Ways that are known and not taken
/// now stay: that nobody goes there is worth to be seen.
pub fn taken<'a>(rates: impl Iterator<Item = &'a BTreeMap<Way, f64>>) -> Vec<Taken> {
    let mut all: BTreeMap<&Way, f64> = BTreeMap::new();
    for (way, rate) in rates.flatten() {
        *all.entry(way).or_default() += rate;
    }
    fn of_rule(way: &Way) -> (&str, &str, &str) {
        (&way.service, &way.route, &way.rule)
    }
    let mut totals: BTreeMap<_, f64> = BTreeMap::new();
    for (way, rate) in &all {
        *totals.entry(of_rule(way)).or_default() += rate;
    }
    let share = |way: &Way, rate: f64| {
        let total = totals.get(&of_rule(way)).copied().unwrap_or_default();
        if total > 0.0 { rate / total } else { 0.0 }
    };
    let taken = all.iter().map(|(way, rate)| Taken {
        way: (*way).clone(),
        requests_per_second: *rate,
        share: share(way, *rate),
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(v1: u64, v2: u64, answered: u64) -> Vec<Rule> {
        let rule = serde_json::json!({"service": "shop/payment", "route": "shop/payment", "rule": "charge",
            "backends": [{"backend": "shop/payment-v1:8080", "classes": [0, v1, 0, 0, 3]},
                {"backend": "shop/payment-v2:8080", "classes": [0, v2, 0, 0, 0]}],
            "nowhere": [0, 0, 0, answered, 0]});
        // On two ports.
        serde_json::from_value(serde_json::json!([rule, rule])).unwrap()
    }

    #[test]
    fn what_grew_between_two_looks_goes_each_way_though_the_route_is_on_two_ports() {
        let mut ways = Ways::default();
        ways.look(&rules(1000, 1000, 0), Duration::from_secs(2));
        assert!(ways.rates().values().all(|rate| *rate == 0.0));
        ways.look(&rules(1180, 1020, 0), Duration::from_secs(2));
        let taken = taken([ways.rates()].into_iter());
        let shown: Vec<_> = taken
            .iter()
            .map(|one| (one.backend(), one.requests_per_second, one.share))
            .collect();
        assert_eq!(
            shown,
            [
                ("payment-v1:8080", 90.0, 0.9),
                ("payment-v2:8080", 10.0, 0.1)
            ]
        );
        assert_eq!(taken[0].rule(), "shop/payment · charge");
    }

    #[test]
    fn what_is_answered_here_is_told_and_a_restarted_sidecar_begins_anew() {
        let mut ways = Ways::default();
        ways.look(&rules(1000, 0, 0), Duration::from_secs(1));
        ways.look(&rules(30, 0, 30), Duration::from_secs(1));
        let taken = taken([ways.rates()].into_iter());
        let answered = taken.iter().find(|one| one.backend() == "answered here");
        assert_eq!(answered.unwrap().requests_per_second, 30.0);
        assert_eq!(taken[1].requests_per_second, 33.0);
    }

    #[test]
    fn where_nobody_goes_has_no_share() {
        let idle = BTreeMap::from([(Way::default(), 0.0)]);
        assert_eq!(taken([&idle, &idle].into_iter())[0].share, 0.0);
    }
}
