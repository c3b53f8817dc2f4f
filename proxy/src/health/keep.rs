//! Which checks are kept: those of the pod's own ports, and those of endpoints
//! without a sidecar, of the services that the pod calls. On the control thread.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::board::{PortVerdict, Whose};
use super::{probe, watch};
use crate::policy::config::HealthCheck;
use crate::runtime::EndpointRuntime;
use crate::state::Health;
use crate::worker::Shared;

/// So often it is looked what is to be probed: services and endpoints come and go.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Endpoints that one sidecar probes; more are not, and count as healthy.
const MAX_PROBED: usize = 1024;

/// What tells one check from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    /// One of the pod's own ports, and the check's place in the port's list.
    Port(u16, usize),
    /// An endpoint, by its runtime's id.
    Endpoint(u64),
}

/// Whom a check asks.
#[derive(Clone)]
enum Asked {
    /// As in [`Key::Port`].
    Port(u16, usize),
    /// An endpoint without a sidecar, of this service.
    Endpoint(Arc<str>, Arc<EndpointRuntime>),
}

/// A check that is wanted.
struct Wanted {
    check: HealthCheck,
    address: SocketAddr,
    asked: Asked,
}

/// A check that is kept up.
struct Kept {
    check: HealthCheck,
    asked: Asked,
    task: tokio::task::AbortHandle,
}

impl Kept {
    /// What it has found counts no more.
    fn end(self, shared: &Shared) {
        self.task.abort();
        match self.asked {
            Asked::Port(port, at) => {
                shared.health.forget_check(port, at);
                shared.mesh.report_soon();
            }
            Asked::Endpoint(_, endpoint) => endpoint.set_probed(Health::Unknown),
        }
    }
}

/// Keeps all checks, until the mesh is gone or a check has died. `application` is
/// where the pod's own listens.
pub async fn keep_checks(shared: Arc<Shared>, application: IpAddr) {
    let mut kept: HashMap<Key, Kept> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut changes = shared.mesh.workload_changes();
    loop {
        let wanted = wanted(&shared, application);
        tell_board(&shared, &wanted);
        let gone = kept.extract_if(|key, held| {
            wanted
                .get(key)
                .is_none_or(|wanted| wanted.check != held.check)
        });
        gone.for_each(|(_, held)| held.end(&shared));
        for (key, wanted) in wanted {
            kept.entry(key).or_insert_with(|| Kept {
                check: wanted.check.clone(),
                asked: wanted.asked.clone(),
                task: tasks.spawn(keep_check(Arc::clone(&shared), wanted)),
            });
        }
        if one_has_died(&mut tasks) {
            return;
        }
        tokio::select! {
            _ = tokio::time::sleep(LOOK_EVERY) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether a check ended though nobody ended it. Those that were ended leave the set.
fn one_has_died(tasks: &mut JoinSet<()>) -> bool {
    std::iter::from_fn(|| tasks.try_join_next())
        .any(|ended| !ended.is_err_and(|error| error.is_cancelled()))
}

fn tell_board(shared: &Shared, wanted: &BTreeMap<Key, Wanted>) {
    let mut ports: BTreeMap<u16, usize> = BTreeMap::new();
    let mut services: HashSet<&Arc<str>> = HashSet::new();
    for wanted in wanted.values() {
        match &wanted.asked {
            Asked::Port(port, _) => *ports.entry(*port).or_default() += 1,
            Asked::Endpoint(service, _) => {
                services.insert(service);
            }
        }
    }
    shared.health.set_checks(&ports);
    shared
        .health
        .keep_services(|service| services.contains(service));
}

async fn keep_check(shared: Arc<Shared>, wanted: Wanted) {
    let Wanted {
        check,
        address,
        asked,
    } = wanted;
    let (probe, mark) = (check.probe.clone(), shared.config.socket_mark);
    let ask = || probe::ask(&probe, address, mark);
    let told = |result, health, detail: String| match &asked {
        Asked::Port(port, at) => {
            shared.health.count(Whose::Port(*port), result);
            let verdict = PortVerdict { health, detail };
            if shared.health.port(*port, *at, verdict) {
                tracing::info!(port, health = health.word(), "the application's health");
                shared.mesh.report_soon();
            }
        }
        Asked::Endpoint(service, endpoint) => {
            let whose = Whose::Service(Arc::clone(service));
            shared.health.count(whose, result);
            endpoint.set_probed(health);
        }
    };
    watch::keep(check, ask, told).await;
}

fn wanted(shared: &Shared, application: IpAddr) -> BTreeMap<Key, Wanted> {
    let mut wanted = BTreeMap::new();
    let snapshot = shared.mesh.load();
    let ports = snapshot.workload().map(|workload| &workload.config.ports);
    for (port, of_port) in ports.into_iter().flatten() {
        for (at, check) in of_port.health_checks.iter().enumerate() {
            let one = Wanted {
                check: check.clone(),
                address: SocketAddr::new(application, *port),
                asked: Asked::Port(*port, at),
            };
            wanted.insert(Key::Port(*port, at), one);
        }
    }
    let mut checked: Vec<_> = snapshot
        .services()
        .filter_map(|service| Some((service, service.config.policy.health_check.as_ref()?)))
        .collect();
    // Where there are too many endpoints, always the same ones are probed.
    checked.sort_unstable_by_key(|(service, _)| &service.name);
    for (service, check) in checked {
        let bare = service
            .all_endpoints()
            .filter(|endpoint| !endpoint.config.sidecar && endpoint.config.address.port() != 0);
        for endpoint in bare {
            if wanted.len() >= MAX_PROBED {
                return wanted;
            }
            let one = Wanted {
                check: check.clone(),
                address: endpoint.config.address,
                asked: Asked::Endpoint(Arc::clone(&service.name), Arc::clone(&endpoint.runtime)),
            };
            wanted.insert(Key::Endpoint(endpoint.runtime.id), one);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_that_panics_is_seen_and_one_that_was_ended_is_not() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending()).abort();
        tasks.spawn(std::future::pending());
        tokio::task::yield_now().await;
        assert!(!one_has_died(&mut tasks));
        assert_eq!(tasks.len(), 1, "the one that was ended has left");
        tasks.spawn(async { panic!("as a fault in a probe would") });
        tokio::task::yield_now().await;
        assert!(one_has_died(&mut tasks));
    }
}
