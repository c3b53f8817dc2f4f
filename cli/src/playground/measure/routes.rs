//! Where requests go, by route and backend: `remora_route_requests_total` of a
//! sidecar's `/metrics`.

use std::collections::BTreeMap;

/// The counter's name, as it begins a line.
const COUNTER: &str = "remora_route_requests_total{";
/// Lines that are read of one sidecar: more would not be shown either.
const MOST_LINES: usize = 4096;

/// Which way requests took.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The Service that was called.
    pub service: String,
    /// The route, and its rule.
    pub route: String,
    /// The rule's name or place.
    pub rule: String,
    /// Where they went; empty where they were answered.
    pub backend: String,
}

/// How many took each way.
pub type Ways = BTreeMap<Way, u64>;

/// The ways of one sidecar's requests, from its metrics.
pub fn read(metrics: &str) -> Ways {
    let mut ways = Ways::new();
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(COUNTER));
    for line in lines.take(MOST_LINES) {
        let Some((labels, count)) = line.rsplit_once("} ") else {
            continue;
        };
        // A timestamp may follow.
        let count = count.split(' ').next().and_then(|count| count.parse().ok());
        if let Some(count) = count.filter(|count: &f64| *count >= 0.0) {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a counter: whole, positive, and saturating is well"
            )]
            let count = count as u64;
            *ways.entry(way(labels)).or_default() += count;
        }
    }
    ways
}

/// Labels have no quotes within them: names of Kubernetes, and what clients send
/// is none of them.
fn way(labels: &str) -> Way {
    let mut way = Way::default();
    for label in labels.split("\",") {
        let Some((name, value)) = label.split_once("=\"") else {
            continue;
        };
        let value = value.trim_end_matches('"').to_owned();
        match name {
            "service" => way.service = value,
            "route" => way.route = value,
            "rule" => way.rule = value,
            "backend" => way.backend = value,
            _ => {}
        }
    }
    way
}

/// A way that is taken, with its share of its rule's requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// The way.
    pub way: Way,
    /// Requests per second, of all sidecars together.
    pub rate: f64,
    /// From 0 to 1.
    pub share: f64,
}

/// What all sidecars together do per second, from what each does. Ways that are
/// known and not taken now stay: that nobody goes there is worth to be seen.
pub fn taken<'a>(rates: impl Iterator<Item = &'a BTreeMap<Way, f64>>) -> Vec<Taken> {
    let mut all: BTreeMap<&Way, f64> = BTreeMap::new();
    for (way, rate) in rates.flatten() {
        *all.entry(way).or_default() += rate;
    }
    let of_rule = |way: &Way| (way.service.clone(), way.route.clone(), way.rule.clone());
    let mut totals: BTreeMap<_, f64> = BTreeMap::new();
    for (way, rate) in &all {
        *totals.entry(of_rule(way)).or_default() += rate;
    }
    let taken = all.into_iter().map(|(way, rate)| {
        let total = totals.get(&of_rule(way)).copied().unwrap_or_default();
        Taken {
            way: way.clone(),
            rate,
            share: if total > 0.0 { rate / total } else { 0.0 },
        }
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE remora_route_requests counter\n\
        remora_route_requests_total{service=\"shop/payment\",route=\"shop/payment\",rule=\"charge\",backend=\"shop/payment-v1:8080\",code_class=\"2xx\"} 90\n\
        remora_route_requests_total{service=\"shop/payment\",route=\"shop/payment\",rule=\"charge\",backend=\"shop/payment-v1:8080\",code_class=\"5xx\"} 3\n\
        remora_route_requests_total{service=\"shop/payment\",route=\"shop/payment\",rule=\"charge\",backend=\"shop/payment-v2:8080\",code_class=\"2xx\"} 10\n\
        remora_requests_total{service=\"shop/payment\"} 103\n";

    fn backend(name: &str) -> Way {
        Way {
            service: "shop/payment".to_owned(),
            route: "shop/payment".to_owned(),
            rule: "charge".to_owned(),
            backend: name.to_owned(),
        }
    }

    #[test]
    fn a_way_is_summed_over_what_became_of_its_requests() {
        let ways = read(METRICS);
        assert_eq!(ways.len(), 2);
        assert_eq!(ways[&backend("shop/payment-v1:8080")], 93);
        assert!(read("remora_route_requests_total{nonsense").is_empty());
    }

    #[test]
    fn shares_are_of_the_rule_over_all_sidecars() {
        let one = BTreeMap::from([(backend("v1"), 60.0), (backend("v2"), 0.0)]);
        let other = BTreeMap::from([(backend("v1"), 30.0), (backend("v2"), 10.0)]);
        let taken = taken([&one, &other].into_iter());
        let shares: Vec<_> = taken.iter().map(|one| (one.rate, one.share)).collect();
        assert_eq!(shares, [(90.0, 0.9), (10.0, 0.1)]);
        let idle = BTreeMap::from([(backend("v1"), 0.0)]);
        assert_eq!(super::taken([&idle].into_iter())[0].share, 0.0);
    }
}
