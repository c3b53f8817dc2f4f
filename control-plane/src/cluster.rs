//! What a replica does in a cluster besides serving configuration: it takes
//! part in the election and, while it leads, writes status and Events.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use remora_proto::well_known;
use tokio::sync::{mpsc, watch};

use crate::core::Core;
use crate::core::objects::{Event, Kind, Name, Pod};
use crate::core::policies::Condition;
use crate::core::routes::RouteKind;
use crate::core::routes::judged::Verdicts;
use crate::core::store::Store;
use crate::events::decide::Uninjected;
use crate::identity::keep::Trust;
use crate::identity::spread;
use crate::leader::{Leadership, Replica, View};
use crate::reports::Sidecars;
use crate::reports::mesh::Known;
use crate::source::kubernetes::{Cluster, Policies};
use crate::{Tasks, events, leader, status};

/// The task that [`crate::Running::stop`] waits for, so that the Lease is
/// given up.
pub const LEADER_TASK: &str = "the election";

impl Uninjected {
    fn of(pod: &Pod) -> Self {
        Self {
            id: pod.id.clone(),
            uid: pod.uid.clone(),
            reason: pod.not_injected.clone(),
        }
    }
}

/// The environment does not say who this replica is.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// One of two is missing.
    #[error(
        "REMORA_POD and REMORA_POD_IP are set both (by the downward API) or neither: {0} is missing"
    )]
    Missing(&'static str),
    /// It is not an address.
    #[error("REMORA_POD_IP is {0:?}, which is no IP address")]
    Address(String),
}

impl Replica {
    /// As REMORA_NAMESPACE, REMORA_POD and REMORA_POD_IP say; reports are taken
    /// on `port`. `None` where they say nothing: then this replica takes no
    /// part in the election.
    ///
    /// # Errors
    /// When they say half of it, or nonsense.
    pub fn of_environment(port: u16) -> Result<Option<Self>, ReplicaError> {
        let namespace = variable("REMORA_NAMESPACE");
        Self::of(
            namespace,
            variable("REMORA_POD"),
            variable("REMORA_POD_IP"),
            port,
        )
    }

    fn of(
        namespace: Option<String>,
        pod: Option<String>,
        address: Option<String>,
        port: u16,
    ) -> Result<Option<Self>, ReplicaError> {
        let (pod, address) = match (pod, address) {
            (Some(pod), Some(address)) => (pod, address),
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(ReplicaError::Missing("REMORA_POD")),
            (Some(_), None) => return Err(ReplicaError::Missing("REMORA_POD_IP")),
        };
        let Ok(ip) = address.parse::<IpAddr>() else {
            return Err(ReplicaError::Address(address));
        };
        Ok(Some(Self {
            namespace: namespace.unwrap_or_else(|| well_known::SYSTEM_NAMESPACE.to_owned()),
            pod,
            reports_address: SocketAddr::new(ip, port),
        }))
    }
}

/// What the core decides, for those who write it down.
pub struct Decided {
    conditions: watch::Sender<Arc<Vec<Condition>>>,
    authorization_conditions: watch::Sender<Arc<Vec<Condition>>>,
    route_verdicts: watch::Sender<Arc<Verdicts>>,
    uninjected: watch::Sender<Arc<Vec<Uninjected>>>,
    meshed: watch::Sender<Arc<BTreeSet<Name>>>,
    /// Limits of the whole mesh, for who apportions them.
    pub mesh_limits: watch::Sender<Arc<Known>>,
}

impl Default for Decided {
    fn default() -> Self {
        Self {
            conditions: watch::Sender::new(Arc::default()),
            authorization_conditions: watch::Sender::new(Arc::default()),
            route_verdicts: watch::Sender::new(Arc::default()),
            uninjected: watch::Sender::new(Arc::default()),
            meshed: watch::Sender::new(Arc::default()),
            mesh_limits: watch::Sender::new(Arc::default()),
        }
    }
}

impl Decided {
    /// Tells what the core holds now, where that is another than before.
    pub fn tell(&self, core: &Core) {
        if !core.is_synced() {
            return;
        }
        tell(&self.conditions, core.conditions());
        tell(
            &self.authorization_conditions,
            core.authorization_conditions(),
        );
        tell(&self.route_verdicts, core.route_verdicts());
        let uninjected = core.without_sidecar().map(Uninjected::of);
        tell(&self.uninjected, Arc::new(uninjected.collect()));
        tell(&self.meshed, Arc::new(core.meshed_namespaces()));
        tell(&self.mesh_limits, Arc::new(core.mesh_limits()));
    }
}

fn tell<T: PartialEq>(told: &watch::Sender<Arc<T>>, now: Arc<T>) {
    told.send_if_modified(|told| {
        let changed = !Arc::ptr_eq(told, &now) && **told != *now;
        *told = now;
        changed
    });
}

/// What of all this the admin endpoint shows.
#[derive(Clone)]
pub struct Shown {
    /// Who leads.
    pub leadership: Leadership,
    /// Writes of statuses.
    pub writes: Arc<status::Writes>,
    /// Events.
    pub events: Arc<events::Written>,
}

/// What the tasks here share with the rest.
pub struct Shared {
    /// The API server, and what was read of it.
    pub cluster: Cluster,
    /// The resources.
    pub store: Arc<Store>,
    /// The sidecars.
    pub sidecars: Arc<Sidecars>,
    /// What the core decides.
    pub decided: Arc<Decided>,
    /// Takes the reports' address to the core.
    pub events: mpsc::Sender<Vec<Event>>,
    /// Whom sidecars trust, where there are identities.
    pub trust: Option<watch::Receiver<Option<Arc<Trust>>>>,
    /// Turns true when the process ends.
    pub ending: watch::Receiver<bool>,
}

/// Remora's own namespace: a replica's, or as REMORA_NAMESPACE says.
pub fn system_namespace(replica: Option<&Replica>) -> String {
    let own = replica.map(|replica| replica.namespace.clone());
    own.or_else(|| variable("REMORA_NAMESPACE"))
        .unwrap_or_else(|| well_known::SYSTEM_NAMESPACE.to_owned())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Starts the election, and what the leader does; nothing where this replica
/// has no name.
pub fn elect(tasks: &mut Tasks, shared: Shared, replica: Option<Replica>) -> Option<Shown> {
    let Some(replica) = replica else {
        tracing::warn!(
            "REMORA_POD and REMORA_POD_IP are not set: this replica takes no part in the election \
             and writes neither status nor Events"
        );
        return None;
    };
    let (view, viewed) = watch::channel(View::default());
    let leadership = Leadership::new(viewed);
    let writes = Arc::new(status::writes());
    let written = Arc::new(events::written());
    let (notices, noticed) = events::Notices::new(written.clone());
    let client = shared.cluster.client.clone();
    let status = |kind, policies: &Arc<Policies>, conditions: &watch::Sender<_>| status::Inputs {
        kind,
        statuses: status::present::Statuses::new(client.clone(), kind),
        policies: policies.clone(),
        conditions: conditions.subscribe(),
        sidecars: shared.sidecars.clone(),
        leadership: leadership.clone(),
        writes: writes.clone(),
        notices: notices.clone(),
    };
    let (cluster, decided) = (&shared.cluster, &shared.decided);
    let statuses = [
        status(Kind::TrafficPolicy, &cluster.policies, &decided.conditions),
        status(
            Kind::AuthorizationPolicy,
            &cluster.authorizations,
            &decided.authorization_conditions,
        ),
    ];
    let events = events::Inputs {
        client: client.clone(),
        pod: replica.pod.clone(),
        notices: noticed,
        sidecars: shared.sidecars,
        store: shared.store,
        uninjected: shared.decided.uninjected.subscribe(),
        leadership: leadership.clone(),
        written: written.clone(),
    };
    if let Some(trust) = shared.trust {
        let inputs = spread::Inputs {
            client: client.clone(),
            system_namespace: replica.namespace.clone(),
            namespaces: shared.decided.meshed.subscribe(),
            trust,
            leadership: leadership.clone(),
        };
        tasks.spawn(async move { match spread::keep(inputs).await {} });
    }
    for status in statuses {
        tasks.spawn(async move { match status::keep(status).await {} });
    }
    write_routes(tasks, cluster, decided, (&leadership, &writes));
    tasks.spawn(async move { match events::keep(events).await {} });
    tasks.spawn(tell_address(leadership.clone(), shared.events));
    let ending = shared.ending;
    tasks.spawn(async move {
        leader::keep(client, replica, view, ending).await;
        (LEADER_TASK, Ok(()))
    });
    Some(Shown {
        leadership,
        writes,
        events: written,
    })
}

/// The statuses of routes, each kind by a task of its own.
fn write_routes(
    tasks: &mut Tasks,
    cluster: &Cluster,
    decided: &Decided,
    (leadership, writes): (&Leadership, &Arc<status::Writes>),
) {
    for (kind, seen) in [
        (RouteKind::Http, &cluster.http_routes),
        (RouteKind::Grpc, &cluster.grpc_routes),
    ] {
        let inputs = status::routes::Inputs {
            kind,
            statuses: status::routes::present::Statuses::new(cluster.client.clone(), kind),
            routes: seen.clone(),
            verdicts: decided.route_verdicts.subscribe(),
            leadership: leadership.clone(),
            writes: writes.clone(),
        };
        tasks.spawn(async move { match status::routes::keep(inputs).await {} });
    }
}

/// Where reports go, into every Workload.
async fn tell_address(
    mut leadership: Leadership,
    events: mpsc::Sender<Vec<Event>>,
) -> (&'static str, anyhow::Result<()>) {
    let mut told = None;
    loop {
        let address = leadership.view().reports_address;
        if address != told {
            let event = Event::ReportsAddress(address);
            if events.send(vec![event]).await.is_err() {
                return ("the leader's address", Ok(()));
            }
            told = address;
        }
        leadership.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pod: &str, address: &str) -> Result<Option<Replica>, ReplicaError> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Replica::of(None, some(pod), some(address), 15110)
    }

    #[test]
    fn a_replica_is_what_the_downward_api_says() {
        let replica = of("plane-1", "10.0.0.7").unwrap().unwrap();
        assert_eq!(replica.namespace, "remora-system");
        assert_eq!(replica.reports_address.to_string(), "10.0.0.7:15110");
        let six = of("plane-1", "fd00::7").unwrap().unwrap();
        assert_eq!(six.reports_address.to_string(), "[fd00::7]:15110");
        assert!(of("", "").unwrap().is_none());
        for (pod, address) in [("", "10.0.0.7"), ("plane-1", ""), ("plane-1", "x")] {
            let error = of(pod, address).unwrap_err().to_string();
            assert!(error.contains("REMORA_POD"), "{error}");
        }
    }
}
