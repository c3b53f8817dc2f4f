//! How endpoints stand: their breakers, and what else keeps requests from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::exposition::with;
use super::text::{Exposition, Labels, Samples};
use crate::clock::{self, Timestamp};
use crate::policy::breaker::State;
use crate::state::{Endpoint, Health, Service};
use crate::worker::Shared;

/// What an endpoint is counted as; each is one thing only, the first that holds.
const STATES: [&str; 6] = [
    "draining",
    "not_ready",
    "unhealthy",
    "open",
    "would_open",
    "ready",
];

pub(super) fn write(shared: &Shared, text: &mut Exposition) {
    let now = clock::now();
    let (mut states, mut counts) = (Samples::new(), Samples::new());
    let (mut transitions, mut withheld) = (Samples::new(), Samples::new());
    for service in shared.mesh.load().services() {
        breakers(service, now, &mut states);
        let of_service: Labels = vec![("service", service.name.to_string())];
        let mut counted: BTreeMap<&str, u64> = STATES.map(|state| (state, 0)).into();
        for endpoint in service.all_endpoints() {
            *counted.entry(standing(endpoint, now)).or_default() += 1;
        }
        for (state, count) in counted {
            counts.push((with(of_service.clone(), "state", state), count));
        }
        let mut kept = 0;
        for (step, count) in service.runtime.breaker_steps() {
            if (step.from, step.to) == (State::Closed, State::WouldOpen) {
                kept += count;
            }
            let mut labels = of_service.clone();
            labels.push(("from", step.from.as_str().to_owned()));
            labels.push(("to", step.to.as_str().to_owned()));
            transitions.push((with(labels, "reason", step.reason), count));
        }
        withheld.push((of_service, kept));
    }
    text.gauge(
        "remora_breaker_state",
        "How a breaker stands: 0 closed, 1 half-open, 2 open; without an endpoint, that of the service",
        &states,
    );
    text.counter(
        "remora_breaker_transitions",
        "Changes of a service's breakers, its endpoints' and its own, and why",
        &transitions,
    );
    text.counter(
        "remora_breaker_ejections_withheld",
        "How often an endpoint should have been shut off and was kept, because no more may be out",
        &withheld,
    );
    text.gauge(
        "remora_endpoints",
        "Endpoints of a service, by how they stand",
        &counts,
    );
}

/// One for each pod and target port, though several ports of a service may lead there.
fn breakers(service: &Arc<Service>, now: Timestamp, samples: &mut Samples<u8>) {
    let labels = |endpoint: &str, port: String| -> Labels {
        vec![
            ("service", service.name.to_string()),
            ("endpoint", endpoint.to_owned()),
            ("port", port),
        ]
    };
    if service.has_service_breaker() {
        let state = service.runtime.service_breaker().describe(now).state;
        samples.push((labels("", String::new()), figure(state)));
    }
    let mut all: BTreeMap<(&str, u16), u8> = BTreeMap::new();
    for endpoint in service.all_endpoints() {
        let place = (&*endpoint.runtime.name, endpoint.config.address.port());
        let state = figure(endpoint.runtime.breaker.describe(now).state);
        let held = all.entry(place).or_default();
        *held = state.max(*held);
    }
    let endpoints = all.into_iter();
    samples.extend(endpoints.map(|((name, port), state)| (labels(name, port.to_string()), state)));
}

/// One that is only marked lets traffic flow.
const fn figure(state: State) -> u8 {
    match state {
        State::Closed | State::WouldOpen => 0,
        State::HalfOpen => 1,
        State::Open => 2,
    }
}

fn standing(endpoint: &Endpoint, now: Timestamp) -> &'static str {
    if endpoint.config.draining {
        return "draining";
    }
    if !endpoint.config.ready {
        return "not_ready";
    }
    if endpoint.health() == Health::Unhealthy {
        return "unhealthy";
    }
    match endpoint.runtime.breaker.describe(now).state {
        State::Open | State::HalfOpen => "open",
        State::WouldOpen => "would_open",
        State::Closed => "ready",
    }
}
