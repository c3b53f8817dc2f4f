//! The routes of one Service: for whom they count, on which of its ports, and
//! what is said of each.
//!
//! Routes of the Service's own namespace are for all callers; those of another
//! one for the callers of that namespace, and there in the place of the former
//! (GEP-1294, "Multiple routes for a Service"). Within such a group GRPCRoutes
//! have a port before HTTPRoutes. What is more than a sidecar takes is left out,
//! the newest first.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use remora_proto::bounds::{
    MAX_ROUTE_MATCHES, MAX_ROUTE_PATTERN_BYTES, MAX_ROUTE_RULES, MAX_ROUTES_BYTES,
};
use remora_proto::v1;

use super::references::Unresolved;
use super::rule::{Resolved, resolve};
use super::verdict::{ParentVerdict, Refusal, conditions, own_fault};
use super::{ParentRef, Route, RouteId, RouteKind};
use crate::core::index::Index;
use crate::core::objects::{Id, Name, Reach, Service};
use crate::core::resolve::Effective;

/// What one rule costs beside its content, at most.
const RULE_OVERHEAD: usize = 8;

/// What one port costs, and a set of ports that it may be in alone.
const PORT_BYTES: usize = 16;

/// What became of the routes of a Service.
#[derive(Debug, Default)]
pub struct Attached {
    /// For callers whose namespace has no routes of its own.
    pub producers: Vec<v1::PortRoutes>,
    /// For the callers of these namespaces instead.
    pub consumers: BTreeMap<Name, Vec<v1::PortRoutes>>,
    /// What is said of each route, for those of its parents that are this Service.
    pub verdicts: BTreeMap<RouteId, Vec<ParentVerdict>>,
}

/// A route on its way.
struct Candidate<'a> {
    route: &'a Route,
    rules: Vec<Resolved>,
    parents: Vec<Attachment<'a>>,
    /// Left out for want of room.
    left_out: bool,
}

/// By one of its parentRefs.
struct Attachment<'a> {
    parent: &'a ParentRef,
    /// On which ports, or why on none.
    ports: Result<BTreeSet<u16>, (Refusal, String)>,
    /// Ports that it names and that carry no HTTP.
    no_http: BTreeSet<u16>,
}

impl Candidate<'_> {
    /// The ports that it would be on.
    fn ports(&self) -> BTreeSet<u16> {
        let ports = self.parents.iter();
        let ports = ports.filter_map(|parent| parent.ports.as_ref().ok());
        ports.flatten().copied().collect()
    }

    /// A GRPCRoute without rules has its ports all the same: nothing matches.
    fn takes_part(&self) -> bool {
        self.route.says.fault.is_none()
            && (!self.rules.is_empty() || self.route.says.rules.is_empty())
    }
}

/// Puts together the routes of a Service, on which `effective` is in force.
pub fn attach(index: &Index, id: &Id, effective: &Effective) -> Attached {
    let mut groups: BTreeMap<Option<Name>, Vec<Candidate<'_>>> = BTreeMap::new();
    for route in index.routes.of_parent(id) {
        let namespace = &route.id.id.namespace;
        let group = (*namespace != id.namespace).then(|| namespace.clone());
        let candidate = candidate(index, id, effective, route);
        groups.entry(group).or_default().push(candidate);
    }
    let mut attached = Attached::default();
    for (group, mut candidates) in groups {
        let on_ports = share_out(&mut candidates);
        let routes = port_routes(&candidates, &on_ports);
        for (place, candidate) in candidates.iter().enumerate() {
            let held = |port: &u16| on_ports.get(port).is_some_and(|on| on.contains(&place));
            let verdicts = verdicts(id, candidate, &group, &held);
            let id = candidate.route.id.clone();
            attached.verdicts.insert(id, verdicts);
        }
        match group {
            None => attached.producers = routes,
            Some(_) if routes.is_empty() => {}
            Some(namespace) => {
                attached.consumers.insert(namespace, routes);
            }
        }
    }
    attached
}

fn candidate<'a>(
    index: &'a Index,
    id: &Id,
    effective: &Effective,
    route: &'a Route,
) -> Candidate<'a> {
    let places = 0..route.says.rules.len();
    let rules = places.filter_map(|place| resolve(index, id, effective, route, place));
    let namespace = &route.id.id.namespace;
    let parents = route.says.parents.iter();
    let parents = parents.filter(|parent| parent.service(namespace) == *id);
    let service = index.services.get(id);
    Candidate {
        route,
        rules: rules.collect(),
        parents: parents
            .map(|parent| attachment(id, service, parent))
            .collect(),
        left_out: false,
    }
}

fn attachment<'a>(id: &Id, service: Option<&Service>, parent: &'a ParentRef) -> Attachment<'a> {
    let refused = |refusal, why: String| Attachment {
        parent,
        ports: Err((refusal, why)),
        no_http: BTreeSet::new(),
    };
    let Some(service) = service else {
        let why = format!("Service {id} does not exist; the route is in force as soon as it does");
        return refused(Refusal::NoMatchingParent, why);
    };
    let kind = match service.reach {
        Reach::ClusterIp(_) => None,
        Reach::Headless => Some("headless"),
        Reach::ExternalName => Some("an ExternalName"),
    };
    if let Some(kind) = kind {
        let why = format!(
            "Service {id} is {kind}, and routes are for calls to a cluster IP, of which it has none"
        );
        return refused(Refusal::NoMatchingParent, why);
    }
    let named = service.ports.iter().filter(|port| {
        let by_name = parent.section_name.as_ref();
        parent.port.is_none_or(|number| number == port.port)
            && by_name.is_none_or(|name| *name == port.name)
    });
    let (bytes, http): (Vec<_>, Vec<_>) =
        named.partition(|port| port.protocol == v1::Protocol::Tcp);
    let numbers = |ports: Vec<&crate::core::objects::ServicePort>| -> BTreeSet<u16> {
        ports.into_iter().map(|port| port.port).collect()
    };
    let (no_http, ports) = (numbers(bytes), numbers(http));
    if ports.is_empty() && no_http.is_empty() {
        let what = match (&parent.port, &parent.section_name) {
            (Some(port), Some(name)) => format!("port {port} of the name {name}"),
            (Some(port), None) => format!("port {port}"),
            (None, Some(name)) => format!("port of the name {name} (sectionName)"),
            (None, None) => "TCP port".to_owned(),
        };
        let why = format!("Service {id} has no {what}");
        return refused(Refusal::NoMatchingParent, why);
    }
    let ports = if ports.is_empty() {
        let why = format!(
            "port {} of Service {id} carries bytes, not HTTP, as its appProtocol, its name or \
             remora.io/opaque-ports says",
            listed(&no_http)
        );
        Err((Refusal::UnsupportedProtocol, why))
    } else {
        Ok(ports)
    };
    Attachment {
        parent,
        ports,
        no_http,
    }
}

/// Of each port the routes that have it, by their places, oldest first; routes
/// for which there is no room are marked.
fn share_out(candidates: &mut [Candidate<'_>]) -> BTreeMap<u16, Vec<usize>> {
    let mut on_ports: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (place, candidate) in candidates.iter().enumerate() {
        if candidate.takes_part() {
            for port in candidate.ports() {
                on_ports.entry(port).or_default().push(place);
            }
        }
    }
    for places in on_ports.values_mut() {
        let is_grpc = |place: &usize| candidates[*place].route.id.kind == RouteKind::Grpc;
        if places.iter().any(is_grpc) {
            places.retain(is_grpc);
        }
    }
    leave_out(candidates, &mut on_ports);
    on_ports
}

/// What it takes of each bound.
#[derive(Clone, Copy, Default)]
struct Size([usize; 4]);

impl Size {
    const MOST: Self = Self([
        MAX_ROUTE_RULES,
        MAX_ROUTE_MATCHES,
        MAX_ROUTES_BYTES,
        MAX_ROUTE_PATTERN_BYTES,
    ]);

    fn of(candidate: &Candidate<'_>) -> Self {
        let mut size = Self::default();
        for one in &candidate.rules {
            let [rules, matches, bytes, pattern_bytes] = &mut size.0;
            *rules += 1;
            // None counts as one: it matches everything.
            *matches += one.rule.matches.len().max(1);
            *bytes += one.rule.encoded_len() + RULE_OVERHEAD;
            *pattern_bytes += one.pattern_bytes;
        }
        size
    }

    fn and(self, other: Self, times: usize) -> Self {
        let add = |place: usize| {
            let more = other.0[place].saturating_mul(times);
            self.0[place].saturating_add(more)
        };
        Self(std::array::from_fn(add))
    }

    fn fits(self) -> bool {
        self.0
            .iter()
            .zip(Self::MOST.0)
            .all(|(one, most)| *one <= most)
    }
}

/// Ports with the same routes are sent together; a route costs what it says once
/// for each such set that it is in. Without it, sets only become fewer.
fn leave_out(candidates: &mut [Candidate<'_>], on_ports: &mut BTreeMap<u16, Vec<usize>>) {
    let sets: BTreeSet<&Vec<usize>> = on_ports.values().collect();
    let mut times = vec![0; candidates.len()];
    for place in sets.into_iter().flatten() {
        times[*place] += 1;
    }
    let mut total = Size([0, 0, on_ports.len() * PORT_BYTES, 0]);
    for (candidate, times) in candidates.iter_mut().zip(times) {
        let with = total.and(Size::of(candidate), times);
        if with.fits() {
            total = with;
        } else {
            candidate.left_out = true;
        }
    }
    for places in on_ports.values_mut() {
        places.retain(|place| !candidates[*place].left_out);
    }
    on_ports.retain(|_, places| !places.is_empty());
}

fn port_routes(
    candidates: &[Candidate<'_>],
    on_ports: &BTreeMap<u16, Vec<usize>>,
) -> Vec<v1::PortRoutes> {
    let mut sets: BTreeMap<&Vec<usize>, Vec<u32>> = BTreeMap::new();
    for (port, places) in on_ports {
        sets.entry(places).or_default().push(u32::from(*port));
    }
    let mut routes: Vec<v1::PortRoutes> = sets
        .into_iter()
        .map(|(places, ports)| {
            let members = places.iter().map(|place| &candidates[*place]);
            v1::PortRoutes {
                ports,
                grpc: members
                    .clone()
                    .any(|one| one.route.id.kind == RouteKind::Grpc),
                rules: members
                    .flat_map(|one| &one.rules)
                    .map(|one| one.rule.clone())
                    .collect(),
            }
        })
        .collect();
    routes.sort_by(|a, b| a.ports.cmp(&b.ports));
    routes
}

fn verdicts(
    id: &Id,
    candidate: &Candidate<'_>,
    group: &Option<Name>,
    held: &impl Fn(&u16) -> bool,
) -> Vec<ParentVerdict> {
    let route = candidate.route;
    let unresolved: Vec<Unresolved> = candidate
        .rules
        .iter()
        .flat_map(|one| one.unresolved.iter().cloned())
        .collect();
    let verdict = |attachment: &Attachment<'_>| {
        let accepted = accepted(id, candidate, attachment, group, held);
        ParentVerdict {
            parent: attachment.parent.clone(),
            conditions: conditions(route, &accepted, &unresolved),
        }
    };
    candidate.parents.iter().map(verdict).collect()
}

/// For whom and where it is in force, or why it is not.
fn accepted(
    id: &Id,
    candidate: &Candidate<'_>,
    attachment: &Attachment<'_>,
    group: &Option<Name>,
    held: &impl Fn(&u16) -> bool,
) -> Result<String, (Refusal, String)> {
    let ports = attachment.ports.clone()?;
    if let Some(fault) = own_fault(candidate.route) {
        return Err(fault);
    }
    if candidate.left_out {
        let why = format!(
            "the older routes of Service {id} leave no room: together they may have \
             {MAX_ROUTE_RULES} rules, {MAX_ROUTE_MATCHES} matches, {MAX_ROUTES_BYTES} bytes, and \
             patterns of {MAX_ROUTE_PATTERN_BYTES} bytes; take some out"
        );
        return Err((Refusal::TooManyRoutes, why));
    }
    let (held, lost): (BTreeSet<u16>, BTreeSet<u16>) = ports.into_iter().partition(held);
    if held.is_empty() {
        let why = format!(
            "a GRPCRoute has port {} of Service {id}, and on one port there are GRPCRoutes or \
             HTTPRoutes",
            listed(&lost)
        );
        return Err((Refusal::Conflicted, why));
    }
    let whom = match group {
        None => "all callers".to_owned(),
        Some(namespace) => format!("the callers of Namespace {namespace}"),
    };
    let mut message = format!("in force on Service {id} for {whom}");
    if !lost.is_empty() {
        let ports = listed(&lost);
        message.push_str(&format!("; not on port {ports}, which has a GRPCRoute"));
    }
    if !attachment.no_http.is_empty() {
        let ports = listed(&attachment.no_http);
        message.push_str(&format!("; not on port {ports}, which carries no HTTP"));
    }
    Ok(message)
}

fn listed(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    ports.join(", ")
}
