//! What is counted of the caller's side: hedges, fallbacks, faults, waits.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::DescriptorEncoder;

use super::counters::{FaultKind, Traffic};
use super::exposition::{Labels, Samples, counter};
use crate::answer::Reason;
use crate::worker::Shared;

pub(super) fn encode(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut told = Told::default();
    for service in shared.mesh.load().services() {
        told.add(&service.name, &service.runtime.traffic);
    }
    for (name, help, samples) in [
        (
            "remora_hedges",
            "Hedges: whose answer was given (won) or was not (lost), and such as were not sent",
            &told.hedges,
        ),
        (
            "remora_fallbacks",
            "Requests that a fallback answered, by the reason that it stood in for",
            &told.fallbacks,
        ),
        (
            "remora_faults",
            "Requests that a policy's fault delayed, answered or broke off",
            &told.faults,
        ),
        (
            "remora_waited_for_endpoints",
            "Requests that waited for an endpoint: such as got one (found), and the others",
            &told.waits,
        ),
    ] {
        counter(encoder, name, help, samples)?;
    }
    Ok(())
}

#[derive(Default)]
struct Told {
    hedges: Samples<u64>,
    fallbacks: Samples<u64>,
    faults: Samples<u64>,
    waits: Samples<u64>,
}

impl Told {
    /// What has happened at least once.
    fn add(&mut self, service: &str, traffic: &Traffic) {
        let hedges = [
            ("won", traffic.hedges_won.load(Relaxed)),
            ("lost", traffic.hedges_lost.load(Relaxed)),
            ("no_budget", traffic.hedges_without_budget.load(Relaxed)),
            ("no_endpoint", traffic.hedges_without_endpoint.load(Relaxed)),
        ];
        let fallbacks = Reason::ALL.map(|reason| (reason.word(), traffic.fallbacks(reason)));
        let faults = FaultKind::ALL.map(|kind| (kind.word(), traffic.faults(kind)));
        let waits = [
            ("found", traffic.found_after_wait.load(Relaxed)),
            ("gone", traffic.gone_after_wait.load(Relaxed)),
        ];
        add(&mut self.hedges, service, "outcome", &hedges);
        add(&mut self.fallbacks, service, "reason", &fallbacks);
        add(&mut self.faults, service, "kind", &faults);
        add(&mut self.waits, service, "outcome", &waits);
    }
}

fn add(samples: &mut Samples<u64>, service: &str, label: &'static str, counts: &[(&str, u64)]) {
    for (word, count) in counts.iter().filter(|(_, count)| *count > 0) {
        let labels: Labels = vec![("service", service.to_owned()), (label, (*word).to_owned())];
        samples.push((labels, *count));
    }
}
