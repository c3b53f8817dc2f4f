//! What came of a stream of requests.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Latencies above are counted as this.
const MAX_LATENCY_US: u64 = 60_000_000;
/// Words of a kind that are told apart; the shop knows fewer.
const MAX_WORDS: usize = 64;
/// Users that are told apart.
const MAX_USERS: usize = 10_000;

/// What one request came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its status; of TCP `ok`; `none` where nothing came.
    pub status: String,
    /// `x-remora-reason`.
    pub reason: Option<String>,
    /// Who answered.
    pub pod: Option<String>,
    /// Whether it says when to come again.
    pub has_retry_after: bool,
    /// For which of the stream's users it was.
    pub user: u32,
}

/// The counts.
#[derive(Debug)]
pub struct Counts {
    /// Due, but too many were under way.
    pub skipped: u64,
    requests: u64,
    good: u64,
    statuses: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    pods: BTreeMap<String, u64>,
    retry_after: u64,
    users: HashMap<u32, String>,
    moved: u64,
    latency_us: Option<Histogram<u64>>,
    good_latency_us: Option<Histogram<u64>>,
}

impl Default for Counts {
    fn default() -> Self {
        let histogram = || Histogram::new_with_max(MAX_LATENCY_US, 3).ok();
        Self {
            skipped: 0,
            requests: 0,
            good: 0,
            statuses: BTreeMap::new(),
            reasons: BTreeMap::new(),
            pods: BTreeMap::new(),
            retry_after: 0,
            users: HashMap::new(),
            moved: 0,
            latency_us: histogram(),
            good_latency_us: histogram(),
        }
    }
}

impl Counts {
    /// A request has ended.
    pub fn ended(&mut self, outcome: &Outcome, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY_US);
        self.requests += 1;
        let record = |histogram: &mut Option<Histogram<u64>>| {
            if let Some(histogram) = histogram {
                histogram.saturating_record(us);
            }
        };
        record(&mut self.latency_us);
        if outcome.status.starts_with('2') || outcome.status == "ok" {
            self.good += 1;
            record(&mut self.good_latency_us);
        }
        one_more(&mut self.statuses, &outcome.status);
        if let Some(reason) = &outcome.reason {
            one_more(&mut self.reasons, reason);
        }
        self.retry_after += u64::from(outcome.has_retry_after);
        if let Some(pod) = &outcome.pod {
            one_more(&mut self.pods, pod);
            let last = self.users.get(&outcome.user);
            self.moved += u64::from(last.is_some_and(|last| last != pod));
            if self.users.len() < MAX_USERS || last.is_some() {
                self.users.insert(outcome.user, pod.clone());
            }
        }
    }

    /// As JSON: `requests`, `good` (2xx), `skipped`, `statuses`, `reasons`, `pods`,
    /// `retry_after` (answers with that header), `moved` (requests that another pod
    /// answered than the user's last), `latency_ms` and `good_latency_ms`.
    pub fn told(&self) -> Value {
        let latency = |histogram: &Option<Histogram<u64>>| {
            let at = |quantile| {
                let us = histogram
                    .as_ref()
                    .map(|all| all.value_at_quantile(quantile));
                us.unwrap_or(0) as f64 / 1000.0
            };
            json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)})
        };
        json!({
            "requests": self.requests,
            "good": self.good,
            "skipped": self.skipped,
            "statuses": self.statuses,
            "reasons": self.reasons,
            "pods": self.pods,
            "retry_after": self.retry_after,
            "moved": self.moved,
            "latency_ms": latency(&self.latency_us),
            "good_latency_ms": latency(&self.good_latency_us),
        })
    }
}

fn one_more(counts: &mut BTreeMap<String, u64>, word: &str) {
    if let Some(count) = counts.get_mut(word) {
        *count += 1;
    } else if counts.len() < MAX_WORDS {
        counts.insert(word.to_owned(), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_is_sent_elsewhere_has_moved() {
        let mut counts = Counts::default();
        let outcome = |pod: &str, user| Outcome {
            status: "200".to_owned(),
            pod: Some(pod.to_owned()),
            user,
            ..Outcome::default()
        };
        for (pod, user) in [("a", 0), ("b", 1), ("a", 0), ("b", 0), ("b", 1)] {
            counts.ended(&outcome(pod, user), Duration::from_millis(2));
        }
        let told = counts.told();
        assert_eq!(told["moved"], 1);
        assert_eq!(told["pods"], json!({"a": 2, "b": 3}));
        assert_eq!((&told["good"], &told["requests"]), (&json!(5), &json!(5)));
    }

    #[test]
    fn what_others_choose_is_bounded() {
        let mut counts = Counts::default();
        for n in 0..1000 {
            let outcome = Outcome {
                status: format!("{n}"),
                ..Outcome::default()
            };
            counts.ended(&outcome, Duration::ZERO);
        }
        assert_eq!(
            counts.told()["statuses"].as_object().unwrap().len(),
            MAX_WORDS
        );
    }
}
