//! What the control plane is told besides the configuration.

use std::sync::Arc;

use remora_proto::v1::{self, BreakerChange, PortHealth, PortUsage, ServiceUsage, breaker_change};

use crate::clock;
use crate::policy::breaker::State;
use crate::policy::config::admission::Priority;
use crate::runtime::label_of;
use crate::state::Health;
use crate::stream::{NumberedChange, ReportSource};
use crate::worker::Shared;

#[derive(Debug)]
pub(super) struct Source(pub(super) Arc<Shared>);

impl ReportSource for Source {
    fn breaker_changes_since(&self, sequence: u64) -> Vec<NumberedChange> {
        let numbered = |change: crate::policy::breaker::Change| NumberedChange {
            sequence: change.sequence,
            change: BreakerChange {
                service: change.service.to_string(),
                endpoint: label_of(&change.endpoint).to_owned(),
                from: wire_state(change.from) as i32,
                to: wire_state(change.to) as i32,
                at_ms: clock::unix_ms(change.at),
                cause: change.cause,
            },
        };
        self.0
            .journal
            .since(sequence)
            .into_iter()
            .map(numbered)
            .collect()
    }

    fn usage(&self) -> Vec<ServiceUsage> {
        let snapshot = self.0.mesh.load();
        snapshot
            .services()
            .map(|service| {
                let totals = service.runtime.traffic.totals();
                ServiceUsage {
                    service: service.name.to_string(),
                    requests: totals.requests,
                    failures: totals.failures,
                    retries: totals.retries,
                    rate_limited: totals.rate_limited,
                    hedges: totals.hedges,
                    fallbacks: totals.fallbacks,
                    faults: totals.faults,
                    budget_exhausted: totals.budget_exhausted,
                    overloaded: totals.at_limits,
                }
            })
            .collect()
    }

    fn health(&self) -> Vec<PortHealth> {
        let ports = self.0.health.ports().into_iter();
        let told = ports.map(|(port, verdict)| PortHealth {
            port: port.into(),
            health: wire_health(verdict.health).into(),
            detail: verdict.detail,
        });
        told.collect()
    }

    fn ports(&self) -> Vec<PortUsage> {
        let ports = self.0.inbound.counted_ports().into_iter();
        let told = ports.map(|counted| {
            let totals = counted.runtime.traffic.totals();
            let refused = counted.gate.figures().refused;
            let shed = |priority: Priority| refused[priority.index()];
            PortUsage {
                port: counted.port.into(),
                requests: totals.requests,
                rate_limited: totals.rate_limited,
                shed_critical: shed(Priority::Critical),
                shed_default: shed(Priority::Default),
                shed_sheddable: shed(Priority::Sheddable),
            }
        });
        told.collect()
    }
}

const fn wire_health(health: Health) -> v1::Health {
    match health {
        Health::Unknown => v1::Health::Unknown,
        Health::Healthy => v1::Health::Healthy,
        Health::Unhealthy => v1::Health::Unhealthy,
    }
}

const fn wire_state(state: State) -> breaker_change::State {
    match state {
        State::Closed => breaker_change::State::Closed,
        State::Open => breaker_change::State::Open,
        State::HalfOpen => breaker_change::State::HalfOpen,
        State::WouldOpen => breaker_change::State::WouldOpen,
    }
}
