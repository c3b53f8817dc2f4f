//! The objects, and in reverse who depends on which: so that an event touches
//! only what its object takes part in, however large the cluster is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use remora_proto::v1::Health;

use super::authorizations::Authorizations;
use super::objects::{
    EndpointSlice, Id, Key, Kind, Name, Object, Pod, Reach, Service, SliceEndpoint, Target,
};
use super::policies::{Age, Named, Policies};
use super::ports::selects;
use super::routes::RouteId;
use super::routes::held::Routes;

/// One endpoint of a Service over all its slices: the pod where there is one,
/// so that a pod of two address families is one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seat {
    /// A pod.
    Pod(Name),
    /// An address without a pod.
    Address(IpAddr),
}

impl Seat {
    fn of(endpoint: &SliceEndpoint) -> Self {
        match &endpoint.pod {
            Some(pod) => Self::Pod(pod.clone()),
            None => Self::Address(endpoint.address),
        }
    }
}

/// What has to be published anew.
#[derive(Debug, Default, PartialEq)]
pub struct Dirty {
    /// Services.
    pub services: BTreeSet<Id>,
    /// Endpoints of Services.
    pub seats: BTreeSet<(Id, Seat)>,
    /// Routes that came, changed or went.
    pub routes: BTreeSet<RouteId>,
    /// Pods: their Workload, and the Service by which they are reached directly.
    pub pods: BTreeSet<Id>,
}

/// The objects.
#[derive(Default)]
pub struct Index {
    /// Services by name.
    pub services: BTreeMap<Id, Service>,
    /// Pods by name.
    pub pods: BTreeMap<Id, Pod>,
    /// Policies.
    pub policies: Policies,
    /// Who may call.
    pub authorizations: Authorizations,
    /// Routes, and what they may name.
    pub routes: Routes,
    /// What the sidecars' probes say of their pods' ports.
    pub(super) health: HashMap<Id, (Name, BTreeMap<u16, Health>)>,
    /// Of each Namespace whether it asks for sidecars.
    pub inject: HashMap<Name, bool>,
    pub(super) slices: HashMap<Id, EndpointSlice>,
    /// Service to its slices.
    slices_of: HashMap<Id, BTreeSet<Id>>,
    /// Pod to the slices that list it.
    listed_in: HashMap<Id, BTreeSet<Id>>,
    /// Pods that are gone though a slice still lists them, by the uid they had:
    /// no more than `listed_in` holds.
    gone: HashMap<Id, Name>,
    ages: HashMap<Id, Age>,
    seen: u64,
    pub(super) dirty: Dirty,
    /// That of the mesh; `None`: pods have no identities.
    pub(super) trust_domain: Option<Name>,
}

impl Index {
    /// An empty one, in which pods have identities of this trust domain, or none.
    pub fn new(trust_domain: Option<Name>) -> Self {
        Self {
            trust_domain,
            ..Self::default()
        }
    }

    /// Takes an object, new or changed.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Service(service) => self.apply_service(service),
            Object::EndpointSlice(slice) => self.apply_slice(slice),
            Object::Pod(pod) => self.apply_pod(pod),
            Object::TrafficPolicy(policy) => self.apply_policy(*policy),
            Object::AuthorizationPolicy(policy) => self.apply_authorization(*policy),
            Object::Namespace(namespace) => {
                self.inject.insert(namespace.id.name, namespace.inject);
            }
            Object::Route(route) => self.apply_route(*route),
            Object::ReferenceGrant(grant) => self.apply_grant(*grant),
            Object::Deployment(_) => {}
        }
    }

    /// Forgets an object.
    pub fn delete(&mut self, key: &Key) {
        match key.kind {
            Kind::Service => {
                if let Some(old) = self.services.remove(&key.id) {
                    self.touch_service(&old);
                    self.ages.remove(&key.id);
                }
            }
            Kind::EndpointSlice => {
                if let Some(old) = self.slices.remove(&key.id) {
                    self.unlist(&old);
                }
            }
            Kind::Pod => {
                self.health.remove(&key.id);
                if let Some(old) = self.pods.remove(&key.id) {
                    self.note_gone(&old);
                    self.touch_pod(&key.id);
                }
            }
            Kind::TrafficPolicy => self.delete_policy(&key.id),
            Kind::AuthorizationPolicy => self.delete_authorization(&key.id),
            Kind::Namespace => {
                self.inject.remove(&key.id.name);
            }
            Kind::HttpRoute | Kind::GrpcRoute => {
                let id = key.id.clone();
                let route = key.kind.route().map(|kind| RouteId { kind, id });
                route.iter().for_each(|route| self.delete_route(route));
            }
            Kind::ReferenceGrant => self.delete_grant(&key.id),
            Kind::Deployment => {}
        }
    }

    /// What stands under the name of a target.
    pub fn named(&self, namespace: &Name, target: &Target) -> Named {
        let (name, route) = match target {
            Target::Namespace => return Named::Service,
            Target::Service(name) => (name.clone(), None),
            Target::Route { name, rule, .. } => (name.clone(), Some(rule)),
        };
        let Some(rule) = route else {
            let id = Id {
                namespace: namespace.clone(),
                name,
            };
            return match self.services.get(&id).map(|service| &service.reach) {
                None => Named::Nothing,
                Some(Reach::ExternalName) => Named::External,
                Some(Reach::ClusterIp(_) | Reach::Headless) => Named::Service,
            };
        };
        let route = target.route(namespace).and_then(|id| self.routes.find(&id));
        match (route, rule) {
            (None, _) => Named::Nothing,
            (Some(route), _) if route.says.parents.is_empty() => Named::NoParent,
            (Some(route), Some(rule)) if !route.has_rule(rule) => Named::NoRule,
            (Some(_), _) => Named::Route,
        }
    }

    /// What has to be published anew, since the last time.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    fn apply_service(&mut self, service: Service) {
        let id = service.id.clone();
        let old = self.services.get(&id);
        if old == Some(&service) {
            return;
        }
        let old = old.cloned();
        let dated_anew = old
            .as_ref()
            .is_none_or(|old| old.created != service.created);
        if dated_anew {
            self.seen += 1;
            self.ages
                .insert(id.clone(), Age::new(service.created, self.seen, id.clone()));
        }
        if let Some(old) = old {
            self.touch_service(&old);
        }
        self.services.insert(id, service.clone());
        self.touch_service(&service);
    }

    fn apply_slice(&mut self, slice: EndpointSlice) {
        let old = self.slices.get(&slice.id);
        if old == Some(&slice) {
            return;
        }
        match old.cloned() {
            // The common change: the same ports, some endpoints differ.
            Some(old) if old.service == slice.service && old.ports == slice.ports => {
                self.slices.insert(slice.id.clone(), slice.clone());
                let gone = old
                    .endpoints
                    .iter()
                    .filter(|one| !slice.endpoints.contains(one));
                let gone: Vec<_> = gone.cloned().collect();
                let new = slice
                    .endpoints
                    .iter()
                    .filter(|one| !old.endpoints.contains(one));
                let new: Vec<_> = new.cloned().collect();
                self.touch_endpoints(&slice, &gone);
                self.touch_endpoints(&slice, &new);
                self.relist(&slice, &gone, false);
                // A pod of which another entry stays is still listed.
                let changed = |one: &&SliceEndpoint| gone.iter().any(|gone| gone.pod == one.pod);
                let stay = slice.endpoints.iter().filter(changed).cloned();
                let stay: Vec<_> = stay.collect();
                self.relist(&slice, &stay, true);
                self.relist(&slice, &new, true);
            }
            old => {
                self.slices.insert(slice.id.clone(), slice.clone());
                if let Some(old) = old {
                    self.unlist(&old);
                }
                self.list(&slice);
            }
        }
    }

    fn list(&mut self, slice: &EndpointSlice) {
        if let Some(service) = service_id(slice) {
            self.slices_of
                .entry(service)
                .or_default()
                .insert(slice.id.clone());
        }
        self.touch_endpoints(slice, &slice.endpoints);
        self.relist(slice, &slice.endpoints, true);
    }

    fn unlist(&mut self, slice: &EndpointSlice) {
        if let Some(service) = service_id(slice)
            && let Some(slices) = self.slices_of.get_mut(&service)
        {
            slices.remove(&slice.id);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.touch_endpoints(slice, &slice.endpoints);
        self.relist(slice, &slice.endpoints, false);
    }

    fn relist(&mut self, slice: &EndpointSlice, endpoints: &[SliceEndpoint], listed: bool) {
        for endpoint in endpoints {
            let Some(pod) = &endpoint.pod else {
                continue;
            };
            let pod = Id {
                namespace: slice.id.namespace.clone(),
                name: pod.clone(),
            };
            let slices = self.listed_in.entry(pod.clone()).or_default();
            let changed = if listed {
                slices.insert(slice.id.clone())
            } else {
                slices.remove(&slice.id)
            };
            if slices.is_empty() {
                self.listed_in.remove(&pod);
                self.gone.remove(&pod);
            }
            if changed {
                self.dirty.pods.insert(pod);
            }
        }
    }

    fn touch_endpoints(&mut self, slice: &EndpointSlice, endpoints: &[SliceEndpoint]) {
        let Some(service) = service_id(slice) else {
            return;
        };
        for endpoint in endpoints {
            self.dirty
                .seats
                .insert((service.clone(), Seat::of(endpoint)));
            // Its ports may be others now.
            if let Some(pod) = &endpoint.pod {
                let id = Id {
                    namespace: slice.id.namespace.clone(),
                    name: pod.clone(),
                };
                self.touch_seats(&id);
                self.dirty.pods.insert(id);
            }
        }
    }

    fn apply_pod(&mut self, mut pod: Pod) {
        // Nobody could prove one: it is not to be asked for.
        pod.trust_domain = pod.trust_domain.filter(|_| self.trust_domain.is_some());
        if self.pods.get(&pod.id) != Some(&pod) {
            let id = pod.id.clone();
            if self.gone.get(&id) == Some(&pod.uid) {
                self.gone.remove(&id);
            }
            let uid = pod.uid.clone();
            if let Some(old) = self.pods.insert(id.clone(), pod)
                && old.uid != uid
            {
                self.note_gone(&old);
            }
            self.touch_pod(&id);
        }
    }

    /// A slice is written by a controller that takes its time, or is away: who
    /// is gone is called no more, whatever a slice still says of it.
    fn note_gone(&mut self, pod: &Pod) {
        if self.listed_in.contains_key(&pod.id) && !pod.uid.is_empty() {
            self.gone.insert(pod.id.clone(), pod.uid.clone());
        }
    }

    fn is_gone(&self, slice: &EndpointSlice, endpoint: &SliceEndpoint) -> bool {
        let (Some(name), Some(uid)) = (&endpoint.pod, &endpoint.pod_uid) else {
            return false;
        };
        let id = Id {
            namespace: slice.id.namespace.clone(),
            name: name.clone(),
        };
        self.gone.get(&id) == Some(uid)
    }

    fn touch_service(&mut self, service: &Service) {
        self.dirty.services.insert(service.id.clone());
        self.touch_backend(&service.id);
        let pods = self.pods_of(service);
        for pod in &pods {
            self.touch_seats(pod);
        }
        self.dirty.pods.extend(pods);
        let seats: Vec<Seat> = self
            .slices_of(&service.id)
            .flat_map(|slice| &slice.endpoints)
            .map(Seat::of)
            .collect();
        self.dirty
            .seats
            .extend(seats.into_iter().map(|seat| (service.id.clone(), seat)));
    }

    fn touch_pod(&mut self, id: &Id) {
        self.dirty.pods.insert(id.clone());
        self.touch_seats(id);
    }

    /// The pod is an endpoint of each of these: what one Service says of a
    /// port, the endpoints of the others say too.
    pub(super) fn touch_seats(&mut self, id: &Id) {
        let slices = self.listed_in.get(id).into_iter().flatten();
        let services = slices
            .filter_map(|slice| self.slices.get(slice))
            .filter_map(service_id);
        let seats = services.map(|service| (service, Seat::Pod(id.name.clone())));
        self.dirty.seats.extend(seats.collect::<Vec<_>>());
    }

    /// Namespaces that ask for sidecars, or have some.
    pub fn meshed_namespaces(&self) -> BTreeSet<Name> {
        let asking = self.inject.iter().filter(|(_, asks)| **asks);
        let asking = asking.map(|(name, _)| name);
        let having = self.pods.values().filter(|pod| pod.sidecar);
        // Pods stand by their namespaces: of each one is enough.
        let mut last = None;
        let having = having
            .map(|pod| &pod.id.namespace)
            .filter(|name| last.replace(*name) != Some(*name));
        asking.chain(having).cloned().collect()
    }

    /// The slices of a Service, in the order of their names.
    pub fn slices_of(&self, service: &Id) -> impl Iterator<Item = &EndpointSlice> {
        let slices = self.slices_of.get(service).into_iter().flatten();
        slices.filter_map(|slice| self.slices.get(slice))
    }

    /// The entries of one endpoint of a Service, each with its slice; none of
    /// a pod that is gone.
    pub fn entries(&self, service: &Id, seat: &Seat) -> Vec<(&EndpointSlice, &SliceEndpoint)> {
        let slices: Vec<&EndpointSlice> = match seat {
            Seat::Pod(pod) => {
                let pod = Id {
                    namespace: service.namespace.clone(),
                    name: pod.clone(),
                };
                let listed = self.listed_in.get(&pod).into_iter().flatten();
                let slices = listed.filter_map(|slice| self.slices.get(slice));
                slices
                    .filter(|slice| slice.service.as_ref() == Some(&service.name))
                    .collect()
            }
            Seat::Address(_) => self.slices_of(service).collect(),
        };
        let entries = slices
            .into_iter()
            .flat_map(|slice| slice.endpoints.iter().map(move |one| (slice, one)));
        entries
            .filter(|(slice, endpoint)| {
                Seat::of(endpoint) == *seat && !self.is_gone(slice, endpoint)
            })
            .collect()
    }

    /// The Services that list a pod in a slice, oldest first.
    pub fn services_that_list(&self, pod: &Id) -> Vec<&Service> {
        let slices = self.listed_in.get(pod).into_iter().flatten();
        let ids = slices
            .filter_map(|slice| self.slices.get(slice))
            .filter_map(service_id);
        let ids: BTreeSet<Id> = ids.collect();
        self.by_age(ids.iter().filter_map(|id| self.services.get(id)).collect())
    }

    /// The Services that cover a pod, by a slice or by their selector, oldest first.
    pub fn services_that_cover(&self, pod: &Pod) -> Vec<&Service> {
        let mut services = self.services_that_list(&pod.id);
        for (_, service) in within(&self.services, &pod.id.namespace) {
            let known = services.iter().any(|listed| listed.id == service.id);
            if !known && selects(service, pod) {
                services.push(service);
            }
        }
        self.by_age(services)
    }

    pub(super) fn by_age<'a>(&self, mut services: Vec<&'a Service>) -> Vec<&'a Service> {
        services.sort_by(|a, b| self.ages.get(&a.id).cmp(&self.ages.get(&b.id)));
        services
    }

    pub(super) fn pods_of(&self, service: &Service) -> BTreeSet<Id> {
        let namespace = &service.id.namespace;
        let listed = self
            .slices_of(&service.id)
            .flat_map(|slice| &slice.endpoints);
        let listed = listed.filter_map(|endpoint| endpoint.pod.clone());
        let mut pods: BTreeSet<Id> = listed
            .map(|name| Id {
                namespace: namespace.clone(),
                name,
            })
            .collect();
        if !service.selector.is_empty() {
            let selected = within(&self.pods, namespace).filter(|(_, pod)| selects(service, pod));
            pods.extend(selected.map(|(id, _)| id.clone()));
        }
        pods
    }
}

fn service_id(slice: &EndpointSlice) -> Option<Id> {
    let name = slice.service.clone()?;
    Some(Id {
        namespace: slice.id.namespace.clone(),
        name,
    })
}

/// Those of a namespace.
pub(super) fn within<'a, T>(
    map: &'a BTreeMap<Id, T>,
    namespace: &Name,
) -> impl Iterator<Item = (&'a Id, &'a T)> {
    let first = Id {
        namespace: namespace.clone(),
        name: "".into(),
    };
    let namespace = namespace.clone();
    map.range(first..)
        .take_while(move |(id, _)| id.namespace == namespace)
}
