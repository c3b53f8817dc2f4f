//! Counters to rates: what grew between two looks at one sidecar.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::poll::{Answer, Look};
use crate::playground::measure::breakers::{Breakers, ServiceBreakers};
use crate::playground::measure::policies::{Policies, Working};
use crate::playground::measure::routes::{Taken, Ways, taken};
use crate::playground::measure::stats::{Growth, Meter, Stats, per_second};

/// Open breakers that are kept of one pod.
const MAX_BREAKERS: usize = 64;

/// What went one way.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Requests per second.
    pub requests_per_second: f64,
    /// Of a hundred requests those that did not fail; `None` without requests.
    pub success_percent: Option<f64>,
    /// Median latency, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 99th percentile, in milliseconds.
    pub p99_ms: Option<f64>,
}

/// A breaker that is not closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenBreaker {
    /// `namespace/name`.
    pub service: String,
    /// The endpoint; empty for the whole service.
    pub endpoint: String,
    /// `open`, `half_open`, `would_open`.
    pub state: String,
    /// Why.
    pub cause: String,
}

/// One pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Why nothing is known of it, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It was looked at for the first time: there are no rates yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_new: bool,
    /// Requests to it.
    pub inbound: Flow,
    /// Requests from it.
    pub outbound: Flow,
    /// Attempts of its sidecar beyond the first, per second.
    pub retries_per_second: f64,
    /// Requests that its sidecar refused by a limit, per second.
    pub limited_per_second: f64,
    /// Its breakers that are open or half open.
    pub breakers_open: usize,
    /// Its breakers that are not closed.
    pub breakers: Vec<OpenBreaker>,
    /// Its policies at work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Working>,
    /// Where its requests go by rules of routes, per second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Taken>,
}

impl Row {
    /// What tells most of it: who is asked shows how it answers; who only
    /// asks, how it is answered.
    pub fn main(&self) -> &Flow {
        if self.inbound.requests_per_second < self.outbound.requests_per_second / 10.0 {
            &self.outbound
        } else {
            &self.inbound
        }
    }
}

/// What was last seen of one.
#[derive(Default)]
struct Seen {
    meter: Meter,
    ways: Ways,
    policies: Policies,
}

/// What was last seen of each sidecar.
#[derive(Default)]
pub struct Meters {
    known: HashMap<(String, String), Seen>,
}

impl Meters {
    /// The rates since the last look; of what was not seen before there are none.
    pub fn take(&mut self, look: &Look) -> Vec<Row> {
        let mut before = std::mem::take(&mut self.known);
        let mut rows = Vec::with_capacity(look.answers.len());
        for answer in &look.answers {
            let key = (answer.namespace.clone(), answer.pod.clone());
            let seen = before.remove(&key);
            let is_new = seen.is_none();
            let mut seen = seen.unwrap_or_default();
            rows.push(row(answer, &mut seen, is_new));
            // One that fails to answer once keeps what was seen of it before.
            if answer.said.is_ok() || !is_new {
                self.known.insert(key, seen);
            }
        }
        rows
    }
}

fn row(answer: &Answer, seen: &mut Seen, is_new: bool) -> Row {
    let mut row = Row {
        namespace: answer.namespace.clone(),
        pod: answer.pod.clone(),
        ..Row::default()
    };
    match &answer.said {
        Err(error) => row.error = Some(error.clone()),
        Ok((stats, breakers)) => {
            rates(&mut row, seen, stats, &answer.metrics, is_new);
            row.breakers = not_closed(breakers);
            let is_open = |one: &&OpenBreaker| one.state != "would_open";
            row.breakers_open = row.breakers.iter().filter(is_open).count();
        }
    }
    row
}

fn rates(row: &mut Row, seen: &mut Seen, stats: &Stats, metrics: &str, is_new: bool) {
    let over = seen.meter.since_last(stats);
    let (outbound, inbound) = seen.meter.look(stats);
    seen.ways.look(&stats.routes, over);
    seen.policies.look(metrics, over);
    row.policies = seen.policies.working().to_vec();
    if is_new {
        row.is_new = true;
        return;
    }
    row.inbound = flow(&inbound, over);
    row.outbound = flow(&outbound, over);
    row.retries_per_second = per_second(outbound.retries, over);
    let limited = |growth: &Growth| growth.rate_limited + growth.overloaded;
    row.limited_per_second = per_second(limited(&outbound) + limited(&inbound), over);
    row.routes = taken([seen.ways.rates()].into_iter());
}

fn flow(growth: &Growth, over: Duration) -> Flow {
    #[allow(clippy::cast_precision_loss, reason = "a share to be shown")]
    let success = (growth.requests > 0)
        .then(|| 100.0 * (1.0 - growth.failures as f64 / growth.requests as f64).max(0.0));
    Flow {
        requests_per_second: per_second(growth.requests, over),
        success_percent: success,
        p50_ms: growth.quantile_ms(0.5),
        p99_ms: growth.quantile_ms(0.99),
    }
}

fn not_closed(breakers: &Breakers) -> Vec<OpenBreaker> {
    let of_service = |service: &ServiceBreakers| {
        let whole = service.state.iter().map(|state| OpenBreaker {
            service: service.service.clone(),
            endpoint: String::new(),
            state: state.clone(),
            cause: String::new(),
        });
        let endpoints = service.endpoints.iter().map(|endpoint| OpenBreaker {
            service: service.service.clone(),
            endpoint: endpoint.endpoint.clone(),
            state: endpoint.state.clone(),
            cause: endpoint.cause.clone().unwrap_or_default(),
        });
        let all: Vec<OpenBreaker> = whole.chain(endpoints).collect();
        all
    };
    let all = breakers.services.iter().flat_map(of_service);
    let not_closed = all.filter(|one| !matches!(one.state.as_str(), "closed" | ""));
    not_closed.take(MAX_BREAKERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn look(uptime_ms: u64, requests: u64, failures: u64) -> Look {
        let counters = json!({"port": 8080, "requests": requests, "failures": failures, "retries": 0,
            "rate_limited": requests / 10, "overloaded": 0,
            "latency_bounds_ms": [1.0, 10.0], "latency_counts": [requests, 0, 0]});
        let backends = json!([{"backend": "shop/payment-v1:8080", "classes": [0, requests, 0, 0, 0]},
            {"backend": "shop/payment-v2:8080", "classes": [0, 0, 0, 0, 0]}]);
        let stats = json!({"uptime_ms": uptime_ms, "inbound": [counters], "outbound": [],
            "routes": [{"service": "shop/payment", "route": "shop/payment", "rule": "0", "backends": backends}]});
        let breakers = json!({"services": [{"service": "shop/catalog", "state": "closed", "endpoints": [
            {"endpoint": "catalog-1", "state": "open", "cause": "5 failures"},
            {"endpoint": "catalog-2", "state": "closed"},
            {"endpoint": "catalog-3", "state": "would_open"}]}]});
        Look {
            answers: vec![Answer {
                namespace: "shop".to_owned(),
                pod: "web".to_owned(),
                metrics: "remora_limit_in_flight{service=\"shop/a\",limit=\"requests\"} 5\n\
                    remora_limit_max{service=\"shop/a\",limit=\"requests\"} 8\n"
                    .to_owned(),
                said: Ok((
                    serde_json::from_value(stats).unwrap(),
                    serde_json::from_value(breakers).unwrap(),
                )),
            }],
            unasked: 0,
        }
    }

    #[test]
    fn two_looks_make_rates() {
        let mut meters = Meters::default();
        let first = meters.take(&look(10_000, 1_000, 5)).remove(0);
        assert!(
            first.is_new && first.inbound.requests_per_second == 0.0,
            "{first:?}"
        );
        let second = meters.take(&look(12_000, 1_200, 15)).remove(0);
        assert_eq!(second.inbound.requests_per_second, 100.0);
        assert_eq!(second.inbound.success_percent, Some(95.0));
        assert_eq!(second.inbound.p50_ms, Some(0.5));
        assert_eq!(second.limited_per_second, 10.0);
        assert_eq!((second.breakers_open, second.breakers.len()), (1, 2));
        assert_eq!(second.main(), &second.inbound);
        assert_eq!(second.policies[0].full, Some((5.0, 8.0)));
        let routes: Vec<_> = second
            .routes
            .iter()
            .map(|one| (one.backend(), one.share))
            .collect();
        assert_eq!(routes, [("payment-v1:8080", 1.0), ("payment-v2:8080", 0.0)]);
    }

    #[test]
    fn one_silence_is_told_and_the_next_answer_goes_on() {
        let mut meters = Meters::default();
        meters.take(&look(10_000, 1_000, 0));
        let mut silent = look(0, 0, 0);
        silent.answers[0].said = Err("does not answer".to_owned());
        assert!(meters.take(&silent)[0].error.is_some());
        let after = meters.take(&look(14_000, 1_400, 0)).remove(0);
        assert_eq!(after.inbound.requests_per_second, 100.0);
    }
}
