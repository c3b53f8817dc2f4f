//! Limits of circuit breakers, and rate limits.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use remora_proto::bounds::WHOLE_PARTS_PER_MILLION;

use super::exposition::{Subject, outbound, with};
use super::text::{Exposition, Labels, Samples};
use crate::policy::limit::Kind;
use crate::policy::rate_limit::LimitState;
use crate::policy::rate_limit::shares::Shares;
use crate::worker::Shared;

pub(super) fn write(shared: &Shared, subjects: &[Subject], text: &mut Exposition) {
    limits(subjects, text);
    rate_limits(shared, text);
    shares(text);
}

fn limits(subjects: &[Subject], text: &mut Exposition) {
    let (mut in_flight, mut max) = (Samples::new(), Samples::new());
    for subject in outbound(subjects) {
        let limits = &subject.runtime.limits;
        for kind in Kind::ALL {
            let labels = with(subject.service(), "limit", kind.as_str());
            if let Some(limit) = limits.max(kind) {
                max.push((labels.clone(), limit));
            }
            in_flight.push((labels, limits.in_use(kind)));
        }
    }
    text.gauge(
        "remora_limit_in_flight",
        "Places of a circuit breaker's limit over a service that are taken",
        &in_flight,
    );
    text.gauge(
        "remora_limit_max",
        "Places that a circuit breaker's limit over a service has; absent where it is not limited",
        &max,
    );
}

/// What a limit of this name has done, wherever in the sidecar it has buckets.
#[derive(Default)]
struct Decisions {
    admitted: u64,
    limited: u64,
    would_limit: u64,
    overflowed: u64,
    keys: usize,
}

impl Decisions {
    fn add(&mut self, state: &LimitState) {
        self.admitted += state.admitted;
        self.limited += state.limited;
        self.would_limit += state.would_limit;
        self.overflowed += state.overflowed;
        self.keys = if state.mesh {
            self.keys.max(state.keys)
        } else {
            self.keys + state.keys
        };
    }
}

fn rate_limits(shared: &Shared, text: &mut Exposition) {
    let (mut decisions, mut overflowed, mut keys) =
        (Samples::new(), Samples::new(), Samples::new());
    for ((direction, policy, limit), done) in decided(shared) {
        let labels: Labels = vec![
            ("direction", direction.to_owned()),
            ("policy", policy.to_string()),
            ("limit", limit.to_string()),
        ];
        for (decision, count) in [
            ("admitted", done.admitted),
            ("limited", done.limited),
            ("would_limit", done.would_limit),
        ] {
            decisions.push((with(labels.clone(), "decision", decision), count));
        }
        overflowed.push((labels.clone(), done.overflowed));
        keys.push((labels, done.keys));
    }
    text.counter(
        "remora_rate_limit_decisions",
        "Requests that a rate limit counted and let through, refused, or would have refused were it not in shadow",
        &decisions,
    );
    text.counter(
        "remora_rate_limit_overflow",
        "Of these requests, such as shared the overflow bucket because there was no place for their key",
        &overflowed,
    );
    text.gauge(
        "remora_rate_limit_keys",
        "Keys that have a bucket of their own",
        &keys,
    );
}

/// What the sidecar has of each limit of the mesh.
fn shares(text: &mut Exposition) {
    let usage = Shares::own().usage().into_iter();
    let samples: Samples<f64> = usage
        .map(|usage| {
            let labels: Labels = vec![
                ("policy", usage.policy.to_string()),
                ("limit", usage.name.to_string()),
            ];
            let parts = f64::from(usage.share.parts_per_million);
            (labels, parts / f64::from(WHOLE_PARTS_PER_MILLION))
        })
        .collect();
    text.gauge(
        "remora_mesh_limit_share",
        "What part of a limit of the whole mesh the sidecar has, 0 to 1",
        &samples,
    );
}

type Limit = (&'static str, Arc<str>, Arc<str>);

/// All of the sidecar: at its own ports, towards services, and on rules of routes.
fn decided(shared: &Shared) -> BTreeMap<Limit, Decisions> {
    let mut all: BTreeMap<Limit, Decisions> = BTreeMap::new();
    let mut add = |direction, states: Vec<LimitState>| {
        for state in states {
            let limit = (
                direction,
                Arc::clone(&state.policy),
                Arc::clone(&state.name),
            );
            all.entry(limit).or_default().add(&state);
        }
    };
    add("inbound", shared.inbound.limiter().states());
    for service in shared.mesh.load().services() {
        add("outbound", service.runtime.rate_limiter().states());
        let mut seen = HashSet::new();
        let ports = service.routing.iter().flat_map(|routing| routing.ports());
        for rule in ports.flat_map(|port| port.rules()) {
            if seen.insert(Arc::as_ptr(&rule.runtime)) {
                add("outbound", rule.runtime.rate_limiter.states());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_limit_of_the_mesh_are_the_same_at_all_its_places() {
        for (mesh, keys) in [(false, 6), (true, 3)] {
            let state = LimitState {
                policy: "shop/web".into(),
                name: "all".into(),
                admitted: 2,
                limited: 0,
                would_limit: 0,
                overflowed: 0,
                keys: 3,
                mesh,
            };
            let mut all = Decisions::default();
            all.add(&state);
            all.add(&state);
            assert_eq!((all.admitted, all.keys), (4, keys));
        }
    }
}
