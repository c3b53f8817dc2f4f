//! Every route and every grant, and in reverse who depends on which: so that a
//! change of one touches the Services that it is about, and no others.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Grant, GrantFrom, Route, RouteId};
use crate::core::index::Index;
use crate::core::objects::{Id, Name, Target};
use crate::core::policies::Age;

/// Every route.
#[derive(Default)]
pub struct Routes {
    by_id: BTreeMap<RouteId, (Route, Age)>,
    /// Services, whether they are there or not, to the routes that name them as
    /// parents, oldest first.
    by_parent: HashMap<Id, BTreeSet<(Age, RouteId)>>,
    /// Services to the routes that name them as backends.
    by_backend: BTreeMap<Id, BTreeSet<RouteId>>,
    /// Of each namespace its grants.
    grants: HashMap<Name, BTreeMap<Name, Grant>>,
    seen: u64,
}

impl Routes {
    /// Takes a route; returns the Services that it is about now, or was.
    pub fn apply(&mut self, route: Route) -> BTreeSet<Id> {
        let held = self.by_id.get(&route.id);
        if held.is_some_and(|(held, _)| *held == route) {
            return BTreeSet::new();
        }
        let first_seen = held
            .map(|(_, age)| age.first_seen())
            .filter(|seen| *seen > 0);
        let first_seen = first_seen.unwrap_or_else(|| {
            self.seen += 1;
            self.seen
        });
        let mut touched = self.delete(&route.id);
        let age = Age::new(route.created, first_seen, route.id.id.clone());
        for parent in parents(&route) {
            let at = self.by_parent.entry(parent.clone()).or_default();
            at.insert((age.clone(), route.id.clone()));
            touched.insert(parent);
        }
        for backend in backends(&route) {
            let at = self.by_backend.entry(backend).or_default();
            at.insert(route.id.clone());
        }
        self.by_id.insert(route.id.clone(), (route, age));
        touched
    }

    /// Forgets a route; returns the Services that it was about.
    pub fn delete(&mut self, id: &RouteId) -> BTreeSet<Id> {
        let Some((route, age)) = self.by_id.remove(id) else {
            return BTreeSet::new();
        };
        let at = (age, id.clone());
        let parents = parents(&route);
        for parent in &parents {
            if let Some(routes) = self.by_parent.get_mut(parent) {
                routes.remove(&at);
                if routes.is_empty() {
                    self.by_parent.remove(parent);
                }
            }
        }
        for backend in backends(&route) {
            if let Some(routes) = self.by_backend.get_mut(&backend) {
                routes.remove(id);
                if routes.is_empty() {
                    self.by_backend.remove(&backend);
                }
            }
        }
        parents
    }

    /// One route.
    pub fn find(&self, id: &RouteId) -> Option<&Route> {
        self.by_id.get(id).map(|(route, _)| route)
    }

    /// The routes that name a Service as parent, oldest first.
    pub fn of_parent(&self, service: &Id) -> impl Iterator<Item = &Route> {
        let routes = self.by_parent.get(service).into_iter().flatten();
        routes.filter_map(|(_, id)| self.find(id))
    }

    /// All of them, in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = &Route> {
        self.by_id.values().map(|(route, _)| route)
    }

    /// Whether a grant lets such objects name a Service of another namespace.
    pub fn is_granted(&self, from: &GrantFrom, service: &Id) -> bool {
        let grants = self.grants.get(&service.namespace).into_iter();
        grants.flat_map(BTreeMap::values).any(|grant| {
            let to = |to: &Option<Name>| to.as_ref().is_none_or(|name| *name == service.name);
            grant.from.contains(from) && grant.to.iter().any(to)
        })
    }

    /// The parents of the routes that have a Service as backend.
    fn behind<'a>(&'a self, routes: impl Iterator<Item = &'a RouteId>) -> BTreeSet<Id> {
        routes
            .filter_map(|id| self.find(id))
            .flat_map(parents)
            .collect()
    }
}

/// The Services that a route names as parents.
fn parents(route: &Route) -> BTreeSet<Id> {
    let namespace = &route.id.id.namespace;
    let parents = route.says.parents.iter();
    parents.map(|parent| parent.service(namespace)).collect()
}

/// The Services that it names as backends.
fn backends(route: &Route) -> BTreeSet<Id> {
    let namespace = &route.id.id.namespace;
    let services = route.backends().filter(|backend| backend.is_service());
    services.map(|backend| backend.id(namespace)).collect()
}

impl Index {
    pub(in crate::core) fn apply_route(&mut self, route: Route) {
        self.dirty.routes.insert(route.id.clone());
        let touched = self.routes.apply(route);
        self.dirty.services.extend(touched);
    }

    pub(in crate::core) fn delete_route(&mut self, id: &RouteId) {
        self.dirty.routes.insert(id.clone());
        let touched = self.routes.delete(id);
        self.dirty.services.extend(touched);
    }

    pub(in crate::core) fn apply_grant(&mut self, grant: Grant) {
        let of_namespace = self.routes.grants.entry(grant.id.namespace.clone());
        let held = of_namespace.or_default();
        if held.get(&grant.id.name) != Some(&grant) {
            let namespace = grant.id.namespace.clone();
            held.insert(grant.id.name.clone(), grant);
            self.touch_grants(&namespace);
        }
    }

    pub(in crate::core) fn delete_grant(&mut self, id: &Id) {
        let Some(held) = self.routes.grants.get_mut(&id.namespace) else {
            return;
        };
        let was_there = held.remove(&id.name).is_some();
        if held.is_empty() {
            self.routes.grants.remove(&id.namespace);
        }
        if was_there {
            self.touch_grants(&id.namespace);
        }
    }

    /// The routes of other namespaces that have a backend in this one.
    fn touch_grants(&mut self, namespace: &Name) {
        let named = crate::core::index::within(&self.routes.by_backend, namespace);
        let foreign = named
            .flat_map(|(_, routes)| routes)
            .filter(|id| id.id.namespace != *namespace);
        let touched = self.routes.behind(foreign);
        self.dirty.services.extend(touched);
        self.touch_fallbacks_into(namespace);
    }

    /// A Service that came, went or changed is a backend of these.
    pub(in crate::core) fn touch_backend(&mut self, service: &Id) {
        let routes = self.routes.by_backend.get(service);
        let touched = self.routes.behind(routes.into_iter().flatten());
        self.dirty.services.extend(touched);
        self.touch_fallbacks_to(service);
    }

    /// A policy of a route, or of one rule of it.
    pub(in crate::core) fn touch_route(&mut self, namespace: &Name, target: &Target) {
        let Some(id) = target.route(namespace) else {
            return;
        };
        let touched = self.routes.find(&id).map(parents).unwrap_or_default();
        self.dirty.services.extend(touched);
    }
}
