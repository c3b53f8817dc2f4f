//! The routes of a Service: what the control plane's own core makes of them, and
//! what it says of each.

use std::sync::Arc;

use remora_control_plane::core::Core;
use remora_control_plane::core::objects::{Event, Id, Object};
use remora_control_plane::core::resolve::leaves::rule::RuleLeaves;
use remora_control_plane::core::routes::verdict::{
    ACCEPTED, PARTIALLY_INVALID, ParentVerdict, RouteCondition, RouteVerdict,
};
use remora_control_plane::core::store::{ResourceType, Store};
use remora_proto::v1;
use remora_proxy::routes::config::PortRoutes;
use remora_proxy::state::decode::problems::Problems;
use remora_proxy::state::decode::routes::port_routes;
use serde::Serialize;

use crate::cluster::error::Error;

/// A route, for one of its parentRefs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Routed {
    /// `HTTPRoute shop/payment`
    pub route: String,
    /// Which of its generations.
    pub generation: i64,
    /// Whether it is in force.
    pub in_force: bool,
    /// `Accepted`, or why it is not.
    pub reason: &'static str,
    /// For whom and where it is in force, or why it is not.
    pub message: String,
    /// What is wrong with it all the same.
    pub problems: Vec<Problem>,
}

/// Something that is wrong with a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `BackendNotFound`
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

/// A Service and its routes, put together by the control plane's core.
pub struct Together {
    service: Id,
    core: Core,
    store: Arc<Store>,
}

impl Together {
    /// From all objects that there are, or that matter.
    pub fn new(service: &Id, objects: impl IntoIterator<Item = Object>) -> Self {
        let store = Arc::new(Store::default());
        let mut core = Core::new(store.clone(), None);
        core.handle(objects.into_iter().map(Event::Apply));
        Self {
            service: service.clone(),
            core,
            store,
        }
    }

    /// The routes that name the Service as their parent.
    pub fn routes(&self) -> Vec<Routed> {
        let verdicts = self.core.route_verdicts();
        let all = verdicts.values().flat_map(|verdict| {
            let namespace = &verdict.route.id.namespace;
            let parents = verdict.parents.iter();
            let ours = parents.filter(|one| one.parent.service(namespace) == self.service);
            ours.map(|parent| routed(verdict, parent))
        });
        all.collect()
    }

    /// What is in force on their rules, where it is more than on the Service.
    pub fn rules(&self) -> Vec<RuleLeaves> {
        self.core.rules_of(&self.service)
    }

    /// The Service as the sidecars of a namespace's callers have it, its routes
    /// read by their own reader; none where it has no address of its own.
    ///
    /// # Errors
    /// When a sidecar would refuse them.
    pub fn service_for(&self, namespace: &str) -> Result<Option<Called>, Error> {
        let name = self.service.to_string();
        let resource = self
            .store
            .exact_for(ResourceType::Service, &name, namespace);
        let Some(service) = resource.and_then(|resource| resource.open::<v1::Service>()) else {
            return Ok(None);
        };
        let mut problems = Problems::default();
        let routes = port_routes(&service.routes, &mut problems);
        let routes = problems.finish(routes).map_err(|error| Error::Answer {
            what: format!("the routes of Service {name}"),
            cause: format!("a sidecar refuses them: {error}"),
        })?;
        let ports = service.ports.iter().filter_map(|port| {
            let is_tcp = port.protocol() == v1::Protocol::Tcp;
            Some((u16::try_from(port.port).ok()?, is_tcp))
        });
        Ok(Some(Called {
            ports: ports.collect(),
            service: self.service.clone(),
            routes,
        }))
    }
}

/// A Service as somebody calls it.
pub struct Called {
    /// Which.
    pub service: Id,
    /// Its ports, and whether they carry bytes and no HTTP.
    pub ports: Vec<(u16, bool)>,
    /// Its routes.
    pub routes: Vec<Arc<PortRoutes>>,
}

fn routed(verdict: &RouteVerdict, parent: &ParentVerdict) -> Routed {
    let accepted = parent.conditions.iter().find(|one| one.kind == ACCEPTED);
    let is_wrong = |one: &&RouteCondition| {
        one.kind != ACCEPTED && one.status == (one.kind == PARTIALLY_INVALID)
    };
    let problems = parent.conditions.iter().filter(is_wrong);
    Routed {
        route: verdict.route.to_string(),
        generation: verdict.generation,
        in_force: accepted.is_some_and(|one| one.status),
        reason: accepted.map_or("Pending", |one| one.reason),
        message: accepted.map_or_else(String::new, |one| one.message.clone()),
        problems: problems
            .map(|one| Problem {
                reason: one.reason,
                message: one.message.clone(),
            })
            .collect(),
    }
}
