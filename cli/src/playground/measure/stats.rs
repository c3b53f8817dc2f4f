//! `/stats` of a sidecar: cumulative counters to totals, rates and quantiles.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// The answer of `GET /stats`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Stats {
    /// How long the sidecar has run.
    #[serde(default)]
    pub uptime_ms: u64,
    /// Towards other services.
    #[serde(default)]
    pub outbound: Vec<Counters>,
    /// From others to this pod.
    #[serde(default)]
    pub inbound: Vec<Counters>,
    /// Towards other services, by the rules of their routes.
    #[serde(default)]
    pub routes: Vec<super::routes::Rule>,
}

/// Cumulative counters of one service or port.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Counters {
    /// Whose: a service (outbound).
    #[serde(default)]
    pub service: Option<String>,
    /// Whose: a port (inbound).
    #[serde(default)]
    pub port: Option<serde_json::Value>,
    /// Requests, or connections of raw TCP.
    #[serde(default)]
    pub requests: u64,
    /// Of them failed.
    #[serde(default)]
    pub failures: u64,
    /// Attempts beyond the first.
    #[serde(default)]
    pub retries: u64,
    /// Refused by a rate limit.
    #[serde(default)]
    pub rate_limited: u64,
    /// Refused by another limit.
    #[serde(default)]
    pub overloaded: u64,
    /// Upper bounds of the latency buckets, in milliseconds.
    #[serde(default)]
    pub latency_bounds_ms: Vec<f64>,
    /// Counts of the buckets; one more than bounds.
    #[serde(default)]
    pub latency_counts: Vec<u64>,
}

impl Counters {
    fn name(&self) -> String {
        match (&self.service, &self.port) {
            (Some(service), _) => service.clone(),
            (None, Some(port)) => port.to_string(),
            (None, None) => String::new(),
        }
    }
}

/// What grew between two looks, of one direction of one sidecar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Growth {
    /// Requests.
    pub requests: u64,
    /// Failures.
    pub failures: u64,
    /// Retries.
    pub retries: u64,
    /// Refused by a rate limit.
    pub rate_limited: u64,
    /// Refused by another limit.
    pub overloaded: u64,
    bounds_ms: Vec<f64>,
    counts: Vec<u64>,
}

impl Growth {
    /// The latency below which this share of the requests stayed, in
    /// milliseconds, interpolated within its bucket; `None` without requests.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        quantile(&self.bounds_ms, &self.counts, share)
    }

    fn add(&mut self, now: &Counters, before: &Counters) {
        self.requests += grown(now.requests, before.requests);
        self.failures += grown(now.failures, before.failures);
        self.retries += grown(now.retries, before.retries);
        self.rate_limited += grown(now.rate_limited, before.rate_limited);
        self.overloaded += grown(now.overloaded, before.overloaded);
        if self.bounds_ms.is_empty() {
            self.bounds_ms.clone_from(&now.latency_bounds_ms);
            self.counts = vec![0; now.latency_counts.len()];
        }
        for (index, sum) in self.counts.iter_mut().enumerate() {
            let at = |counters: &Counters| counters.latency_counts.get(index).copied().unwrap_or(0);
            *sum += grown(at(now), at(before));
        }
    }

    /// Adds the counters of another growth (not its histogram).
    pub fn add_counts(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.retries += other.retries;
        self.rate_limited += other.rate_limited;
        self.overloaded += other.overloaded;
    }
}

/// A counter that fell belongs to a process that started again.
fn grown(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// The quantile of a histogram.
pub fn quantile(bounds: &[f64], counts: &[u64], share: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    #[allow(
        clippy::cast_precision_loss,
        reason = "a rank needs no more than 52 bits"
    )]
    let rank = share * total as f64;
    let mut below = 0.0;
    for (index, count) in counts.iter().enumerate() {
        #[allow(clippy::cast_precision_loss, reason = "as above")]
        let count = *count as f64;
        if below + count >= rank && count > 0.0 {
            let lower = if index == 0 { 0.0 } else { bounds[index - 1] };
            let upper = bounds.get(index).copied().unwrap_or(lower);
            return Some(lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0));
        }
        below += count;
    }
    bounds.last().copied()
}

/// The last look at one sidecar.
#[derive(Debug, Default)]
pub struct Meter {
    outbound: BTreeMap<String, Counters>,
    inbound: BTreeMap<String, Counters>,
    uptime_ms: u64,
}

impl Meter {
    /// How long the last look is ago, by the sidecar's own clock: ours would
    /// show how busy this process is.
    pub fn since_last(&mut self, stats: &Stats) -> Duration {
        let over = grown(stats.uptime_ms, self.uptime_ms);
        self.uptime_ms = stats.uptime_ms;
        Duration::from_millis(over)
    }

    /// Requests to the pod so far, as the sidecar that runs now counted them.
    pub fn inbound(&self) -> u64 {
        self.inbound
            .values()
            .map(|counters| counters.requests)
            .sum()
    }

    /// What grew since the last look: outbound, inbound.
    pub fn look(&mut self, stats: &Stats) -> (Growth, Growth) {
        (
            grow(&mut self.outbound, &stats.outbound),
            grow(&mut self.inbound, &stats.inbound),
        )
    }
}

fn grow(before: &mut BTreeMap<String, Counters>, now: &[Counters]) -> Growth {
    let mut growth = Growth::default();
    let nothing = Counters::default();
    for counters in now {
        growth.add(counters, before.get(&counters.name()).unwrap_or(&nothing));
    }
    *before = now
        .iter()
        .map(|counters| (counters.name(), counters.clone()))
        .collect();
    growth
}

/// Events per second over a time.
#[allow(clippy::cast_precision_loss, reason = "a rate to be shown")]
pub fn per_second(count: u64, over: Duration) -> f64 {
    let seconds = over.as_secs_f64();
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(requests: u64, counts: [u64; 3]) -> Stats {
        let outbound = Counters {
            service: Some("shop/catalog".to_owned()),
            requests,
            latency_bounds_ms: vec![1.0, 10.0],
            latency_counts: counts.to_vec(),
            ..Counters::default()
        };
        Stats {
            outbound: vec![outbound],
            ..Stats::default()
        }
    }

    #[test]
    fn growth_survives_a_restarted_sidecar() {
        let mut meter = Meter::default();
        assert_eq!(meter.look(&stats(100, [100, 0, 0])).0.requests, 100);
        assert_eq!(meter.look(&stats(150, [100, 50, 0])).0.requests, 50);
        assert_eq!(meter.look(&stats(30, [30, 0, 0])).0.requests, 30);
    }

    #[test]
    fn quantiles_are_interpolated() {
        let mut meter = Meter::default();
        let (growth, _) = meter.look(&stats(100, [50, 50, 0]));
        assert_eq!(growth.quantile_ms(0.5), Some(1.0));
        assert_eq!(growth.quantile_ms(0.75), Some(5.5));
        assert_eq!(Growth::default().quantile_ms(0.5), None);
    }
}
