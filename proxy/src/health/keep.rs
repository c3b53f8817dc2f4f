//! Which checks are kept: those of the pod's own ports, and those of endpoints
//! without a sidecar, of the services that the pod calls. On the control thread.

use std::collections::{BTreeMap, HashMap};
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Port(u16, usize),
    Endpoint(u64),
}

struct Kept {
    check: HealthCheck,
    task: tokio::task::AbortHandle,
    endpoint: Option<Arc<EndpointRuntime>>,
}

impl Kept {
    fn end(self) {
        self.task.abort();
        if let Some(endpoint) = self.endpoint {
            endpoint.set_probed(Health::Unknown);
        }
    }
}

/// A check that is wanted.
struct Wanted {
    check: HealthCheck,
    address: SocketAddr,
    whose: Whose,
    endpoint: Option<Arc<EndpointRuntime>>,
}

/// Keeps all checks, for ever. `application` is where the pod's own listens.
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
        for (key, held) in gone.collect::<Vec<_>>() {
            if let Key::Port(port, at) = key {
                shared.health.forget_check(port, at);
                shared.mesh.report_soon();
            }
            held.end();
        }
        for (key, wanted) in wanted {
            if kept.contains_key(&key) {
                continue;
            }
            let check = wanted.check.clone();
            let endpoint = wanted.endpoint.clone();
            let task = tasks.spawn(one(Arc::clone(&shared), key.clone(), wanted));
            let held = Kept {
                check,
                task,
                endpoint,
            };
            kept.insert(key, held);
        }
        // Those that were ended leave the set.
        while tasks.try_join_next().is_some() {}
        tokio::select! {
            _ = tokio::time::sleep(LOOK_EVERY) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn tell_board(shared: &Shared, wanted: &BTreeMap<Key, Wanted>) {
    let mut ports: BTreeMap<u16, usize> = BTreeMap::new();
    for key in wanted.keys() {
        if let Key::Port(port, _) = key {
            *ports.entry(*port).or_default() += 1;
        }
    }
    shared.health.set_checks(&ports);
    shared.health.keep_services(|service| {
        let mut services = wanted.values().map(|wanted| &wanted.whose);
        services.any(|whose| matches!(whose, Whose::Service(known) if known == service))
    });
}

async fn one(shared: Arc<Shared>, key: Key, wanted: Wanted) {
    let Wanted {
        check,
        address,
        whose,
        endpoint,
    } = wanted;
    let mark = shared.config.socket_mark;
    let asked = check.probe.clone();
    let ask = || probe::ask(&asked, address, mark);
    let told = |result, health, detail: String| {
        shared.health.count(whose.clone(), result);
        match (&key, &endpoint) {
            (Key::Port(port, at), _) => {
                let verdict = PortVerdict { health, detail };
                if shared.health.port(*port, *at, verdict) {
                    tracing::info!(port, health = health.word(), "the application's health");
                    shared.mesh.report_soon();
                }
            }
            (Key::Endpoint(_), Some(endpoint)) => endpoint.set_probed(health),
            (Key::Endpoint(_), None) => {}
        }
    };
    watch::keep(check.clone(), ask, told).await;
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
                whose: Whose::Port(*port),
                endpoint: None,
            };
            wanted.insert(Key::Port(*port, at), one);
        }
    }
    for service in snapshot.services() {
        let Some(check) = &service.config.policy.health_check else {
            continue;
        };
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
                whose: Whose::Service(Arc::clone(&service.name)),
                endpoint: Some(Arc::clone(&endpoint.runtime)),
            };
            wanted.insert(Key::Endpoint(endpoint.runtime.id), one);
        }
    }
    wanted
}
