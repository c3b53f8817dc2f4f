//! The pod's own ports: what is enforced on each, and what is counted there.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::authorization::Authorization;
use crate::clock;
use crate::policy::admission::Gate;
use crate::policy::breaker::Journal;
use crate::policy::config::admission::Admission;
use crate::policy::config::{RateLimit, ServicePolicy};
use crate::policy::rate_limit::RateLimiter;
use crate::runtime::{EndpointRuntime, ServiceRuntime};
use crate::state::{MtlsMode, Protocol, WorkloadConfig};

/// So many ports more than the workload has get counters of their own ...
const OTHER_PORTS: usize = 256;
/// ... and what stands for all others, so that a scan of every port cannot make
/// their number grow.
const REMAINING_PORTS: u16 = 0;

/// What is counted for one of the pod's ports; lives as long as the sidecar.
#[derive(Debug)]
struct Counted {
    runtime: Arc<ServiceRuntime>,
    gate: Arc<Gate>,
    application: Arc<EndpointRuntime>,
}

/// A port that has been called.
#[derive(Clone, Debug)]
pub struct CountedPort {
    /// Zero stands for all that came after too many.
    pub port: u16,
    /// What has been counted there.
    pub runtime: Arc<ServiceRuntime>,
    /// What has been admitted there, though no policy may say anything of that now.
    pub gate: Arc<Gate>,
}

/// One of the pod's ports, as its workload says now.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// Counters, limits and the pool's name of the port.
    pub runtime: Arc<ServiceRuntime>,
    /// The application on it.
    pub application: Arc<EndpointRuntime>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What it takes without mutual TLS.
    pub mtls: MtlsMode,
    /// Every rate limit of the pod; a limit is one bucket for all ports.
    pub limiter: Arc<RateLimiter>,
    /// Which of them hold for this port.
    limits: Arc<Vec<LimitName>>,
    /// How many requests the application is given at a time.
    pub gate: Arc<Gate>,
    /// What policies say of that.
    pub admissions: Arc<Vec<Admission>>,
}

/// `namespace/policy` and the limit's name.
type LimitName = (Arc<str>, Arc<str>);

impl InboundPort {
    /// Whether this one of the pod's rate limits holds for the port.
    pub fn applies(&self, limit: &RateLimit) -> bool {
        self.limits
            .iter()
            .any(|(policy, name)| *policy == limit.policy && *name == limit.name)
    }
}

#[derive(Debug)]
struct Rules {
    ports: BTreeMap<u16, Rule>,
    /// For ports that no Service covers.
    others: Rule,
}

impl Rules {
    fn of(&self, port: u16) -> &Rule {
        self.ports.get(&port).unwrap_or(&self.others)
    }
}

/// What holds for a port.
#[derive(Clone, Debug, Default)]
struct Rule {
    protocol: Protocol,
    mtls: MtlsMode,
    limits: Arc<Vec<LimitName>>,
    admissions: Arc<Vec<Admission>>,
}

/// The pod's ports.
#[derive(Debug)]
pub struct Inbound {
    /// Who may call.
    pub authorization: Authorization,
    limiter: Arc<RateLimiter>,
    rules: ArcSwap<Rules>,
    changes: watch::Sender<()>,
    counted: ArcSwap<BTreeMap<u16, Arc<Counted>>>,
    journal: Arc<Journal>,
}

impl Inbound {
    /// Before the workload has arrived nothing is limited, and every port is
    /// `mtls`.
    pub fn new(mtls: MtlsMode) -> Self {
        Self {
            authorization: Authorization::default(),
            limiter: Arc::new(RateLimiter::new(&[])),
            rules: ArcSwap::from_pointee(Rules {
                ports: BTreeMap::new(),
                others: Rule {
                    mtls,
                    ..Rule::default()
                },
            }),
            changes: watch::Sender::default(),
            counted: ArcSwap::default(),
            journal: Journal::new(),
        }
    }

    /// Takes a workload over; buckets keep their fill.
    pub fn configure(&self, workload: &WorkloadConfig) {
        let mut all: Vec<RateLimit> = Vec::new();
        let mut names = |limits: &[RateLimit]| -> Arc<Vec<LimitName>> {
            let name = |limit: &RateLimit| {
                let known = all
                    .iter()
                    .any(|held| held.policy == limit.policy && held.name == limit.name);
                if !known {
                    all.push(limit.clone());
                }
                (Arc::clone(&limit.policy), Arc::clone(&limit.name))
            };
            Arc::new(limits.iter().map(name).collect())
        };
        let others = Rule {
            protocol: Protocol::Detect,
            mtls: workload.mtls,
            limits: names(&workload.rate_limits),
            admissions: Arc::new(workload.admissions.clone()),
        };
        let ports = workload
            .ports
            .iter()
            .map(|(port, of_port)| {
                let rule = Rule {
                    protocol: of_port.protocol,
                    mtls: of_port.mtls,
                    limits: names(&of_port.rate_limits),
                    admissions: Arc::new(of_port.admissions.clone()),
                };
                (*port, rule)
            })
            .collect();
        self.authorization.configure(&workload.authorizations);
        self.limiter.reconfigure(&all, clock::now());
        self.rules.store(Arc::new(Rules { ports, others }));
        for (port, counted) in self.counted.load().iter() {
            self.configure_gate(*port, &counted.gate);
        }
        self.changes.send_replace(());
    }

    /// Completes when the port takes nothing but mutual TLS.
    pub async fn until_strict(&self, port: u16) {
        let mut changes = self.changes.subscribe();
        let is_strict = || {
            let rules = self.rules.load();
            rules.of(port).mtls == MtlsMode::Strict
        };
        while !is_strict() {
            // The sender lives as long as this does.
            let _ = changes.changed().await;
        }
    }

    /// One of the pod's ports, known to the workload or not.
    pub fn port(&self, port: u16) -> InboundPort {
        let rules = self.rules.load();
        let rule = rules.of(port);
        let counted = self.counted(port);
        InboundPort {
            runtime: Arc::clone(&counted.runtime),
            application: Arc::clone(&counted.application),
            protocol: rule.protocol,
            mtls: rule.mtls,
            limiter: Arc::clone(&self.limiter),
            limits: Arc::clone(&rule.limits),
            gate: Arc::clone(&counted.gate),
            admissions: Arc::clone(&rule.admissions),
        }
    }

    /// The rate limits of the pod, of all ports together.
    pub fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }

    /// Every port that has been called, with what was counted.
    pub fn counted_ports(&self) -> Vec<CountedPort> {
        let counted = self.counted.load();
        let all = counted.iter().map(|(port, counted)| CountedPort {
            port: *port,
            runtime: Arc::clone(&counted.runtime),
            gate: Arc::clone(&counted.gate),
        });
        all.collect()
    }

    /// The admission of every port that has been called and has one.
    pub fn gates(&self) -> Vec<(u16, Arc<Gate>)> {
        let rules = self.rules.load();
        let mut ports = self.counted_ports();
        ports.retain(|counted| !rules.of(counted.port).admissions.is_empty());
        let gates = ports.into_iter();
        gates.map(|counted| (counted.port, counted.gate)).collect()
    }

    fn counted(&self, port: u16) -> Arc<Counted> {
        let held = self.counted.load();
        if let Some(counted) = held.get(&port) {
            return Arc::clone(counted);
        }
        let rules = self.rules.load();
        let is_other = port != REMAINING_PORTS && !rules.ports.contains_key(&port);
        if is_other && held.len() >= OTHER_PORTS + rules.ports.len() {
            return self.counted(REMAINING_PORTS);
        }
        self.count_from_now(port)
    }

    /// A port that is called for the first time, perhaps on several workers at once.
    fn count_from_now(&self, port: u16) -> Arc<Counted> {
        let runtime = ServiceRuntime::with_limiter(
            &port.to_string(),
            &ServicePolicy::default(),
            true,
            &self.journal,
            Arc::clone(&self.limiter),
            clock::now(),
        );
        let new = Arc::new(Counted {
            application: Arc::new(EndpointRuntime::application(&runtime)),
            runtime: Arc::new(runtime),
            gate: Gate::new(),
        });
        // Before another worker finds it, and again for a change meanwhile.
        self.configure_gate(port, &new.gate);
        self.counted.rcu(|held| {
            let mut held = BTreeMap::clone(held);
            held.entry(port).or_insert_with(|| Arc::clone(&new));
            held
        });
        // Entries are only ever added.
        let counted = self.counted.load().get(&port).map_or(new, Arc::clone);
        self.configure_gate(port, &counted.gate);
        counted
    }

    /// As the rules are once this is done, whoever else configures it.
    fn configure_gate(&self, port: u16, gate: &Gate) {
        loop {
            let rules = self.rules.load_full();
            gate.configure(&rules.of(port).admissions, clock::now());
            if Arc::ptr_eq(&rules, &self.rules.load()) {
                return;
            }
        }
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self::new(MtlsMode::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::admission::Priority;
    use crate::state::InboundPort as PortConfig;

    const OWN: u16 = 8080;

    /// One whose own port admits nothing.
    fn closed() -> Inbound {
        let inbound = Inbound::new(MtlsMode::Permissive);
        let none = Admission {
            max_requests: Some(0),
            ..Admission::default()
        };
        let port = PortConfig {
            admissions: vec![none],
            ..PortConfig::default()
        };
        inbound.configure(&WorkloadConfig {
            ports: BTreeMap::from([(OWN, port)]),
            ..WorkloadConfig::default()
        });
        inbound
    }

    fn admits(inbound: &Inbound, port: u16) -> bool {
        let gate = inbound.port(port).gate;
        gate.try_admit(Priority::Critical, clock::now()).is_some()
    }

    #[test]
    fn a_scan_of_other_ports_takes_nothing_from_the_pods_own() {
        let inbound = closed();
        for port in 10_000..11_000 {
            assert!(admits(&inbound, port));
        }
        assert!(!admits(&inbound, OWN), "its own limit is in force");
        // One in the place of the own, which had not been called, and then that, and
        // what stands for the remaining.
        assert_eq!(inbound.counted_ports().len(), OTHER_PORTS + 3);
    }

    #[test]
    fn what_a_port_has_shed_is_known_though_its_policy_is_gone() {
        let inbound = closed();
        assert!(!admits(&inbound, OWN));
        inbound.configure(&WorkloadConfig::default());
        assert!(inbound.gates().is_empty() && admits(&inbound, OWN));
        let counted = &inbound.counted_ports()[0];
        assert_eq!(
            (counted.port, counted.gate.figures().refused),
            (OWN, [0, 0, 1])
        );
    }

    #[test]
    fn a_limit_is_in_force_for_the_first_requests_of_all_workers() {
        for _ in 0..500 {
            let inbound = closed();
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        assert!(!admits(&inbound, OWN));
                    });
                }
            });
        }
    }
}
