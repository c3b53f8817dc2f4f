//! The counters in OpenMetrics text form, read at each scrape.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::counters::{LATENCY_BOUNDS_MS, Traffic};
use crate::answer::Reason;
use crate::clock;
use crate::policy::breaker::State;
use crate::policy::limit::Kind;
use crate::runtime::ServiceRuntime;
use crate::worker::Shared;

/// A registry whose one collector reads everything that `shared` counts.
pub fn registry(shared: Arc<Shared>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Everything { shared }));
    registry
}

#[derive(Debug)]
struct Everything {
    shared: Arc<Shared>,
}

/// One service or port, with the labels that tell it from others.
struct Subject {
    direction: &'static str,
    service: Arc<str>,
    runtime: Arc<ServiceRuntime>,
}

pub(super) type Labels = Vec<(&'static str, String)>;
pub(super) type Samples<T> = Vec<(Labels, T)>;

impl Subject {
    fn labels(&self) -> Labels {
        vec![
            ("direction", self.direction.to_owned()),
            ("service", self.service.to_string()),
        ]
    }

    fn with(&self, name: &'static str, value: &str) -> Labels {
        let mut labels = self.labels();
        labels.push((name, value.to_owned()));
        labels
    }

    fn traffic(&self) -> &Traffic {
        &self.runtime.traffic
    }
}

impl Everything {
    fn subjects(&self) -> Vec<Subject> {
        let snapshot = self.shared.mesh.load();
        let outbound = snapshot.services().map(|service| Subject {
            direction: "outbound",
            service: Arc::clone(&service.name),
            runtime: Arc::clone(&service.runtime),
        });
        let inbound = self
            .shared
            .inbound
            .counted_ports()
            .into_iter()
            .map(|(_, runtime)| Subject {
                direction: "inbound",
                service: Arc::clone(&runtime.name),
                runtime,
            });
        outbound.chain(inbound).collect()
    }
}

impl Collector for Everything {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let subjects = self.subjects();
        requests(&mut encoder, &subjects)?;
        latencies(&mut encoder, &subjects)?;
        raw_connections(&mut encoder, &subjects)?;
        limits(&mut encoder, &subjects)?;
        rate_limits(&mut encoder, &subjects)?;
        self.breakers(&mut encoder)?;
        self.sidecar(&mut encoder)?;
        super::caller::encode(&self.shared, &mut encoder)?;
        super::routes::encode(&self.shared, &mut encoder)?;
        super::authorization::encode(&self.shared, &mut encoder)?;
        super::identity::encode(&self.shared, &mut encoder)
    }
}

pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: &Samples<u64>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        family
            .encode_family(labels)?
            .encode_counter::<NoLabelSet, _, u64>(value, None)?;
    }
    Ok(())
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: &Samples<i64>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        family.encode_family(labels)?.encode_gauge(value)?;
    }
    Ok(())
}

fn requests(encoder: &mut DescriptorEncoder<'_>, subjects: &[Subject]) -> fmt::Result {
    const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let mut answered = Samples::new();
    let mut refused = Samples::new();
    for subject in subjects {
        for (class, count) in CLASSES
            .iter()
            .zip(subject.traffic().classes())
            .filter(|(_, count)| *count > 0)
        {
            answered.push((subject.with("class", class), count));
        }
        for reason in Reason::ALL {
            let count = subject.traffic().reason(reason);
            if count > 0 {
                refused.push((subject.with("reason", reason.word()), count));
            }
        }
    }
    counter(
        encoder,
        "remora_responses",
        "Responses that the upstream gave, by class of status",
        &answered,
    )?;
    counter(
        encoder,
        "remora_refused",
        "Requests that Remora itself answered, by reason",
        &refused,
    )?;
    attempts(encoder, subjects)
}

fn attempts(encoder: &mut DescriptorEncoder<'_>, subjects: &[Subject]) -> fmt::Result {
    let each = |read: fn(&Traffic) -> u64| -> Samples<u64> {
        subjects
            .iter()
            .map(|subject| (subject.labels(), read(subject.traffic())))
            .collect()
    };
    counter(
        encoder,
        "remora_retries",
        "Attempts that were retries by the policy",
        &each(|traffic| traffic.retries.load(Relaxed)),
    )?;
    counter(
        encoder,
        "remora_resends",
        "Attempts sent again because nothing had reached the application",
        &each(|traffic| traffic.resends.load(Relaxed)),
    )?;
    counter(
        encoder,
        "remora_retry_budget_exhausted",
        "Retries that the budget refused",
        &each(|traffic| traffic.budget_exhausted.load(Relaxed)),
    )?;
    counter(
        encoder,
        "remora_cancelled",
        "Requests whose caller went away before the response had ended",
        &each(|traffic| traffic.cancelled.load(Relaxed)),
    )?;
    let in_flight: Samples<i64> = subjects
        .iter()
        .map(|subject| {
            (
                subject.labels(),
                subject.traffic().in_flight.load(Relaxed) as i64,
            )
        })
        .collect();
    gauge(
        encoder,
        "remora_requests_in_flight",
        "Requests in flight",
        &in_flight,
    )
}

fn latencies(encoder: &mut DescriptorEncoder<'_>, subjects: &[Subject]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "remora_response_latency_seconds",
        "From the request's headers to the response's headers",
        None,
        MetricType::Histogram,
    )?;
    for subject in subjects {
        let latency = &subject.traffic().latency;
        let counts = latency.counts();
        let bounds = LATENCY_BOUNDS_MS
            .iter()
            .map(|bound| bound / 1_000.0)
            .chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let labels = subject.labels();
        family
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(
                latency.sum_seconds(),
                counts.iter().sum(),
                &buckets,
                None,
            )?;
    }
    Ok(())
}

fn raw_connections(encoder: &mut DescriptorEncoder<'_>, subjects: &[Subject]) -> fmt::Result {
    let each = |read: fn(&Traffic) -> u64| -> Samples<u64> {
        subjects
            .iter()
            .map(|subject| (subject.labels(), read(subject.traffic())))
            .collect()
    };
    counter(
        encoder,
        "remora_tcp_connections",
        "Raw TCP connections",
        &each(|traffic| traffic.tcp_connections.load(Relaxed)),
    )?;
    counter(
        encoder,
        "remora_tcp_failures",
        "Raw TCP connections that did not come about or broke",
        &each(|traffic| traffic.tcp_failures.load(Relaxed)),
    )?;
    let open: Samples<i64> = subjects
        .iter()
        .map(|subject| {
            (
                subject.labels(),
                subject.traffic().tcp_open.load(Relaxed) as i64,
            )
        })
        .collect();
    gauge(
        encoder,
        "remora_tcp_open",
        "Raw TCP connections open",
        &open,
    )
}

fn limits(encoder: &mut DescriptorEncoder<'_>, subjects: &[Subject]) -> fmt::Result {
    let mut in_use = Samples::new();
    let mut max = Samples::new();
    for subject in subjects
        .iter()
        .filter(|subject| subject.direction == "outbound")
    {
        for kind in Kind::ALL {
            let limits = &subject.runtime.limits;
            in_use.push((
                subject.with("limit", kind.as_str()),
                i64::from(limits.in_use(kind)),
            ));
            if let Some(limit) = limits.max(kind) {
                max.push((subject.with("limit", kind.as_str()), i64::from(limit)));
            }
        }
    }
    gauge(
        encoder,
        "remora_limit_in_use",
        "Places of a circuit breaker's limit that are taken",
        &in_use,
    )?;
    gauge(
        encoder,
        "remora_limit_max",
        "Places that a circuit breaker's limit has; absent where it is not limited",
        &max,
    )
}

fn rate_limits(encoder: &mut DescriptorEncoder<'_>, subjects: &[Subject]) -> fmt::Result {
    let mut limited = Samples::new();
    let mut would_limit = Samples::new();
    let mut overflowed = Samples::new();
    for subject in subjects {
        for state in subject.runtime.rate_limiter().states() {
            let mut labels = subject.labels();
            labels.push(("policy", state.policy.to_string()));
            labels.push(("limit", state.name.to_string()));
            limited.push((labels.clone(), state.limited));
            would_limit.push((labels.clone(), state.would_limit));
            overflowed.push((labels, state.overflowed));
        }
    }
    counter(
        encoder,
        "remora_rate_limited",
        "Requests that a rate limit refused",
        &limited,
    )?;
    counter(
        encoder,
        "remora_rate_would_limit",
        "Requests that a rate limit in shadow would have refused",
        &would_limit,
    )?;
    counter(
        encoder,
        "remora_rate_limit_overflow",
        "Requests that shared the overflow bucket of a rate limit",
        &overflowed,
    )
}

impl Everything {
    fn breakers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now = clock::now();
        let mut states = Samples::new();
        let mut ejections = Samples::new();
        for service in self.shared.mesh.load().services() {
            for endpoint in service.all_endpoints() {
                let described = endpoint.runtime.breaker.describe(now);
                let labels = |state: Option<State>| {
                    let mut labels = vec![
                        ("service", service.name.to_string()),
                        ("endpoint", endpoint.runtime.name.to_string()),
                    ];
                    labels.push(("address", endpoint.config.address.to_string()));
                    labels.extend(state.map(|state| ("state", state.as_str().to_owned())));
                    labels
                };
                for state in [
                    State::Closed,
                    State::Open,
                    State::HalfOpen,
                    State::WouldOpen,
                ] {
                    states.push((labels(Some(state)), i64::from(described.state == state)));
                }
                ejections.push((labels(None), described.ejections));
            }
        }
        gauge(
            encoder,
            "remora_breaker_state",
            "1 for the state that an endpoint's breaker is in",
            &states,
        )?;
        counter(
            encoder,
            "remora_breaker_ejections",
            "How often an endpoint's breaker has opened",
            &ejections,
        )
    }

    fn sidecar(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let connections = &self.shared.connections;
        let counts = self.shared.mesh.counts();
        let one = |value: u64| vec![(Labels::new(), value)];
        gauge(
            encoder,
            "remora_connections_open",
            "Connections of callers",
            &vec![(Labels::new(), connections.open.load(Relaxed) as i64)],
        )?;
        counter(
            encoder,
            "remora_passed_unknown",
            "Connections relayed untouched: their address belongs to nothing in the mesh",
            &one(connections.passed_unknown.load(Relaxed)),
        )?;
        counter(
            encoder,
            "remora_passed_unanswered",
            "Connections relayed untouched: nobody could say what their address belongs to",
            &one(connections.passed_unanswered.load(Relaxed)),
        )?;
        counter(
            encoder,
            "remora_bad_requests",
            "Malformed requests that were refused",
            &one(connections.bad_requests.load(Relaxed)),
        )?;
        counter(
            encoder,
            "remora_without_destination",
            "Connections to a listener itself, closed at once",
            &one(connections.without_destination.load(Relaxed)),
        )?;
        counter(
            encoder,
            "remora_access_log_dropped",
            "Lines of the access log that were dropped",
            &one(self.shared.access_log.dropped()),
        )?;
        counter(
            encoder,
            "remora_configuration_updates",
            "Resources taken from the control plane",
            &one(counts.updates),
        )?;
        counter(
            encoder,
            "remora_configuration_refusals",
            "Resources that were refused",
            &one(counts.refusals),
        )?;
        let connected = i64::from(self.shared.mesh.is_connected());
        gauge(
            encoder,
            "remora_control_plane_connected",
            "1 while the stream to the control plane is open",
            &vec![(Labels::new(), connected)],
        )
    }
}
