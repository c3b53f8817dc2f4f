//! What is counted of routes: labels are names of objects, as many as there are
//! rules and backends in force.

use std::collections::HashSet;
use std::sync::Arc;

use super::text::{Exposition, Labels, Samples};
use crate::routes::runtime::{BackendCounters, MirrorResult, RoutedRule};
use crate::worker::Shared;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Calls `told` once for each rule's counters, though a route may be on several ports.
fn each(shared: &Shared, mut told: impl FnMut(&str, &RoutedRule, &BackendCounters)) {
    for service in shared.mesh.load().services() {
        let mut seen = HashSet::new();
        let ports = service.routing.iter().flat_map(|routing| routing.ports());
        for rule in ports.flat_map(|port| port.rules()) {
            if seen.insert(Arc::as_ptr(&rule.runtime)) {
                rule.counters()
                    .for_each(|counters| told(&service.name, rule, counters));
            }
        }
    }
}

fn labels(service: &str, rule: &RoutedRule, counters: &BackendCounters) -> Labels {
    vec![
        ("service", service.to_owned()),
        ("kind", rule.config.route.kind.clone()),
        ("route", rule.route.to_string()),
        ("rule", rule.label.to_string()),
        ("backend", counters.name.to_string()),
    ]
}

pub(super) fn write(shared: &Shared, text: &mut Exposition) {
    let (mut requests, mut mirrors) = (Samples::new(), Samples::new());
    each(shared, |service, rule, counters| {
        let with = |name: &'static str, word: &str| {
            let mut labels = labels(service, rule, counters);
            labels.push((name, word.to_owned()));
            labels
        };
        for (class, count) in CLASSES.iter().zip(counters.classes()) {
            if count > 0 {
                requests.push((with("class", class), count));
            }
        }
        for result in MirrorResult::ALL {
            let count = counters.mirrors(result);
            if count > 0 {
                mirrors.push((with("result", result.word()), count));
            }
        }
    });
    text.counter(
        "remora_route_requests",
        "Requests that went by a rule of a route, by backend (none where none was chosen) and class of status",
        &requests,
    );
    text.counter(
        "remora_route_mirrored",
        "Copies of requests that a rule of a route sent elsewhere, by what became of them",
        &mirrors,
    );
}
