//! What policies do now: limits and how full they are, retries and their budget,
//! rate limits, admission, hedges, fallbacks, faults. From `/metrics` of a sidecar, by
//! the names of docs/metrics.md.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// The names that are looked at.
const NAMES: [&str; 11] = [
    "remora_limit_in_flight",
    "remora_limit_max",
    "remora_retries_total",
    "remora_rate_limit_decisions_total",
    "remora_mesh_limit_share",
    "remora_admission_in_flight",
    "remora_admission_limit",
    "remora_admission_refused_total",
    "remora_hedges_total",
    "remora_fallbacks_total",
    "remora_faults_total",
];
/// Samples that are kept of one sidecar: more would not be shown either.
const MOST_SAMPLES: usize = 4096;

/// One policy at work.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Working {
    /// Of what: a Service, a limit of a policy, a port.
    pub of: String,
    /// Which block: `requests`, `retries`, `rate limit`, `admission`.
    pub what: String,
    /// How full it is: so many, of so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<(f64, f64)>,
    /// What it does now, in words.
    pub words: String,
    /// Whether it refuses, or is spent.
    pub is_pressed: bool,
}

/// The samples of one look, by metric and labels.
type Samples = BTreeMap<(&'static str, BTreeMap<String, String>), f64>;

/// The policies of one sidecar.
#[derive(Debug, Default)]
pub struct Policies {
    last: Samples,
    working: Vec<Working>,
}

impl Policies {
    /// Takes a look, so long after the last.
    pub fn look(&mut self, metrics: &str, over: Duration) {
        let now = read(metrics);
        let growth = Growth {
            now: &now,
            before: &self.last,
            // At the first look nothing is known to have grown.
            seconds: if self.last.is_empty() {
                f64::INFINITY
            } else {
                over.as_secs_f64().max(0.001)
            },
        };
        self.working = working(&growth);
        self.last = now;
    }

    /// Those at work, the pressed ones first.
    pub fn working(&self) -> &[Working] {
        &self.working
    }
}

fn read(metrics: &str) -> Samples {
    let mut samples = Samples::new();
    for line in metrics.lines() {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let Some(name) = NAMES.iter().find(|name| **name == &line[..end]) else {
            continue;
        };
        let Some((head, value)) = line.rsplit_once(' ') else {
            continue;
        };
        if let Ok(value) = value.parse::<f64>()
            && samples.len() < MOST_SAMPLES
        {
            samples.insert((name, labels(&head[end.min(head.len())..])), value);
        }
    }
    samples
}

/// Reads `{a="b",c="d"}`; Remora's own labels need no escapes but a quote's and a backslash's.
fn labels(text: &str) -> BTreeMap<String, String> {
    let inside = text.trim_start_matches('{').trim_end_matches('}');
    let pairs = inside.split("\",").filter_map(|pair| {
        let (name, value) = pair.split_once("=\"")?;
        Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    pairs.collect()
}

struct Growth<'a> {
    now: &'a Samples,
    before: &'a Samples,
    seconds: f64,
}

impl Growth<'_> {
    /// The samples of a metric.
    fn of(&self, name: &str) -> impl Iterator<Item = (&BTreeMap<String, String>, f64)> {
        let all = self.now.iter().filter(move |((one, _), _)| *one == name);
        all.map(|((_, labels), value)| (labels, *value))
    }

    /// How fast a metric grows, by some of its labels, and by one more.
    fn rates(
        &self,
        name: &'static str,
        by: &[&str],
        and: &str,
    ) -> BTreeMap<String, Vec<(String, f64)>> {
        let mut rates: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
        for (labels, now) in self.of(name) {
            let before = self
                .before
                .get(&(name, labels.clone()))
                .copied()
                .unwrap_or(0.0);
            // One that fell is of a process that started again.
            let grown = if now < before { now } else { now - before };
            let rate = grown / self.seconds;
            if rate > 0.0 {
                let key = by.iter().map(|label| word(labels, label));
                let key = key.collect::<Vec<_>>().join(" ");
                rates
                    .entry(key)
                    .or_default()
                    .push((word(labels, and), rate));
            }
        }
        rates
    }
}

fn word(labels: &BTreeMap<String, String>, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}

fn working(growth: &Growth<'_>) -> Vec<Working> {
    let mut working = limits(growth);
    working.extend(admission(growth));
    let shares: BTreeMap<String, f64> = growth
        .of("remora_mesh_limit_share")
        .map(|(labels, share)| {
            (
                format!("{} {}", word(labels, "policy"), word(labels, "limit")),
                share,
            )
        })
        .collect();
    let of = [
        (
            "remora_retries_total",
            &["service"][..],
            "outcome",
            "retries",
        ),
        (
            "remora_rate_limit_decisions_total",
            &["policy", "limit"],
            "decision",
            "rate limit",
        ),
        ("remora_hedges_total", &["service"], "outcome", "hedges"),
        ("remora_fallbacks_total", &["service"], "reason", "fallback"),
        ("remora_faults_total", &["service"], "kind", "fault"),
    ];
    for (name, by, and, what) in of {
        for (of, rates) in growth.rates(name, by, and) {
            let spent = ["budget_exhausted", "over_limit", "limited", "no_budget"];
            let is_pressed = rates
                .iter()
                .any(|(outcome, _)| spent.contains(&outcome.as_str()));
            let share = shares.get(&of).filter(|_| what == "rate limit");
            let share = share.map(|share| format!("   {:.0} % of the mesh's", share * 100.0));
            working.push(Working {
                words: said(&rates) + &share.unwrap_or_default(),
                what: what.to_owned(),
                full: None,
                is_pressed,
                of,
            });
        }
    }
    working.sort_by_key(|one| !one.is_pressed);
    working
}

/// `3.0/s success, 12/s budget exhausted`.
fn said(rates: &[(String, f64)]) -> String {
    let words = rates.iter().map(|(outcome, rate)| {
        let outcome = outcome.replace('_', " ");
        if *rate < 10.0 {
            format!("{rate:.1}/s {outcome}")
        } else {
            format!("{rate:.0}/s {outcome}")
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Those in which something is.
fn limits(growth: &Growth<'_>) -> Vec<Working> {
    let most: BTreeMap<_, _> = growth.of("remora_limit_max").collect();
    let taken = growth
        .of("remora_limit_in_flight")
        .filter_map(|(labels, in_flight)| {
            let max = *most.get(labels)?;
            (in_flight > 0.0).then(|| Working {
                of: word(labels, "service"),
                what: word(labels, "limit"),
                full: Some((in_flight, max)),
                words: String::new(),
                is_pressed: in_flight >= max,
            })
        });
    taken.collect()
}

fn admission(growth: &Growth<'_>) -> Vec<Working> {
    let most: BTreeMap<_, _> = growth.of("remora_admission_limit").collect();
    let refused = growth.rates("remora_admission_refused_total", &["port"], "priority");
    let ports = growth
        .of("remora_admission_in_flight")
        .filter_map(|(labels, in_flight)| {
            let port = word(labels, "port");
            let refused = refused.get(&port).map(|rates| said(rates));
            let max = most.get(labels).copied();
            (in_flight > 0.0 || refused.is_some()).then(|| Working {
                of: format!("port {port}"),
                what: "admission".to_owned(),
                full: max.map(|max| (in_flight, max)),
                is_pressed: refused.is_some(),
                words: refused
                    .map(|words| format!("refused {words}"))
                    .unwrap_or_default(),
            })
        });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(limited: u64, spent: u64) -> String {
        format!(
            "# TYPE remora_limit_in_flight gauge\n\
             remora_limit_in_flight{{service=\"shop/reviews\",limit=\"requests\"}} 8\n\
             remora_limit_in_flight{{service=\"shop/reviews\",limit=\"pending\"}} 0\n\
             remora_limit_max{{service=\"shop/reviews\",limit=\"requests\"}} 8\n\
             remora_limit_max{{service=\"shop/reviews\",limit=\"pending\"}} 1024\n\
             remora_retries_total{{service=\"shop/reviews\",outcome=\"success\"}} 20\n\
             remora_retries_total{{service=\"shop/reviews\",outcome=\"budget_exhausted\"}} {spent}\n\
             remora_rate_limit_decisions_total{{direction=\"outbound\",policy=\"shop/reviews\",limit=\"all\",decision=\"admitted\"}} 100\n\
             remora_rate_limit_decisions_total{{direction=\"outbound\",policy=\"shop/reviews\",limit=\"all\",decision=\"limited\"}} {limited}\n\
             remora_mesh_limit_share{{policy=\"shop/reviews\",limit=\"all\"}} 0.25\n\
             remora_admission_in_flight{{port=\"8080\"}} 3\n\
             remora_admission_limit{{port=\"8080\"}} 4\n\
             remora_no_such_thing 1\n"
        )
    }

    #[test]
    fn what_works_now_is_told_and_what_refuses_comes_first() {
        let mut policies = Policies::default();
        policies.look(&metrics(0, 0), Duration::from_secs(2));
        let first: Vec<_> = policies
            .working()
            .iter()
            .map(|one| one.what.as_str())
            .collect();
        assert_eq!(
            first,
            ["requests", "admission"],
            "nothing is known to have grown"
        );
        policies.look(&metrics(60, 5), Duration::from_secs(2));
        let told: Vec<_> = policies
            .working()
            .iter()
            .map(|one| {
                (
                    one.of.as_str(),
                    one.what.as_str(),
                    one.words.as_str(),
                    one.full,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("shop/reviews", "requests", "", Some((8.0, 8.0))),
                ("shop/reviews", "retries", "2.5/s budget exhausted", None),
                (
                    "shop/reviews all",
                    "rate limit",
                    "30/s limited   25 % of the mesh's",
                    None
                ),
                ("port 8080", "admission", "", Some((3.0, 4.0))),
            ]
        );
    }

    #[test]
    fn nonsense_is_passed_over() {
        let mut policies = Policies::default();
        for text in [
            "",
            "remora_limit_max",
            "remora_limit_max{",
            "remora_limit_max{a=\"} x",
            "\u{1F41F} 1",
        ] {
            policies.look(text, Duration::ZERO);
            assert_eq!(policies.working(), []);
        }
    }
}
