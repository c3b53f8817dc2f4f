//! What a stage came to, as names and numbers: from what the shopper and the
//! applications told.
//!
//! - `seconds`: how long it was counted.
//! - Of a stream: `reads.requests`, `.good` (2xx), `.skipped`, `.retry_after`, `.moved`,
//!   `.status.503`, `.reason.overloaded`, `.pods` (how many answered), `.pod.0` (the
//!   first by name), `.p50_ms`, `.p90_ms`, `.p99_ms`, `.max_ms`, `.good_p50_ms` and so on.
//! - Of applications: `reviews.requests`, `.most_at_once`, `.again`, `.orders`,
//!   `.most_times`, `.most_connections` of all pods (sums, and the most of any for what
//!   is a most), `reviews.0.requests` of one.

use std::collections::BTreeMap;

use serde_json::Value;

/// What was told at a stage's end.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The answer to the shopper's `POST /stretch`.
    pub stretch: Value,
    /// By Deployment, of each pod in the order of names: name, and the answer to
    /// `POST /tally`.
    pub tallies: BTreeMap<String, Vec<(String, Value)>>,
}

/// A stage's figures by name.
pub type Figures = BTreeMap<String, f64>;

/// The figures of a stage.
pub fn of(told: &Told) -> Figures {
    let mut figures = Figures::new();
    let mut put = |name: String, value: f64| {
        figures.insert(name, value);
    };
    put("seconds".to_owned(), number(&told.stretch["seconds"]));
    let streams = told.stretch["streams"].as_object();
    for (name, stream) in streams.into_iter().flatten() {
        of_stream(name, stream, told, &mut put);
    }
    for (target, pods) in &told.tallies {
        let mut all = BTreeMap::<&str, f64>::new();
        for (index, (_, tally)) in pods.iter().enumerate() {
            for (count, value) in tally.as_object().into_iter().flatten() {
                let value = number(value);
                put(format!("{target}.{index}.{count}"), value);
                let sum = all.entry(count).or_default();
                *sum = if count.starts_with("most_") {
                    sum.max(value)
                } else {
                    *sum + value
                };
            }
        }
        for (count, value) in all {
            put(format!("{target}.{count}"), value);
        }
    }
    figures
}

fn of_stream(name: &str, stream: &Value, told: &Told, put: &mut impl FnMut(String, f64)) {
    for count in ["requests", "good", "skipped", "retry_after", "moved"] {
        put(format!("{name}.{count}"), number(&stream[count]));
    }
    for (words, short) in [("statuses", "status"), ("reasons", "reason")] {
        for (word, count) in stream[words].as_object().into_iter().flatten() {
            put(format!("{name}.{short}.{word}"), number(count));
        }
    }
    let answered = stream["pods"].as_object();
    put(
        format!("{name}.pods"),
        answered.map_or(0, serde_json::Map::len) as f64,
    );
    for pods in told.tallies.values() {
        for (index, (pod, _)) in pods.iter().enumerate() {
            if let Some(count) = answered.and_then(|answered| answered.get(pod)) {
                put(format!("{name}.pod.{index}"), number(count));
            }
        }
    }
    for (latency, prefix) in [("latency_ms", ""), ("good_latency_ms", "good_")] {
        for (quantile, ms) in stream[latency].as_object().into_iter().flatten() {
            put(format!("{name}.{prefix}{quantile}_ms"), number(ms));
        }
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_named_by_stream_and_pod() {
        let told = Told {
            stretch: json!({"seconds": 2.0, "streams": {"reads": {
                "requests": 10, "good": 8, "statuses": {"200": 8, "503": 2},
                "reasons": {"overloaded": 2}, "pods": {"reviews-2": 8},
                "latency_ms": {"p50": 1.5}, "good_latency_ms": {"p99": 7}}}}),
            tallies: BTreeMap::from([(
                "reviews".to_owned(),
                vec![
                    (
                        "reviews-1".to_owned(),
                        json!({"requests": 1, "most_at_once": 4}),
                    ),
                    (
                        "reviews-2".to_owned(),
                        json!({"requests": 8, "most_at_once": 3}),
                    ),
                ],
            )]),
        };
        let figures = of(&told);
        for (name, value) in [
            ("seconds", 2.0),
            ("reads.requests", 10.0),
            ("reads.status.503", 2.0),
            ("reads.reason.overloaded", 2.0),
            ("reads.pods", 1.0),
            ("reads.pod.1", 8.0),
            ("reads.p50_ms", 1.5),
            ("reads.good_p99_ms", 7.0),
            ("reviews.requests", 9.0),
            ("reviews.most_at_once", 4.0),
            ("reviews.1.most_at_once", 3.0),
        ] {
            assert_eq!(figures.get(name), Some(&value), "{name} in {figures:?}");
        }
    }
}
