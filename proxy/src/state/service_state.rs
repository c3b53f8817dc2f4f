//! One service as the control thread holds it: what arrived so far, and the
//! lists that the workers get.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use super::departed::{Departed, EndpointKey};
use super::endpoint_list::EndpointList;
use super::resource::{EndpointConfig, ServiceConfig, ServiceKind};
use super::snapshot::{Endpoint, Service, Usage};
use crate::clock::Timestamp;
use crate::policy::breaker::Journal;
use crate::routes::runtime::{Routing, RuleStates};
use crate::runtime::{EndpointRuntime, Identity, ServiceRuntime};

/// State of a service that is no longer subscribed to, for as long as a
/// connection still holds it: so what it counts stays exact when the service
/// is called again.
#[derive(Debug)]
pub struct Retired {
    runtime: Weak<ServiceRuntime>,
    endpoints: HashMap<EndpointKey, Weak<EndpointRuntime>>,
    rules: RuleStates,
}

impl Retired {
    /// Whether anybody still holds it.
    pub fn is_held(&self) -> bool {
        self.runtime.strong_count() > 0
            || self.endpoints.values().any(|held| held.strong_count() > 0)
    }
}

/// One service that is subscribed to.
#[derive(Debug)]
pub struct ServiceState {
    name: Arc<str>,
    config: Arc<ServiceConfig>,
    runtime: Arc<ServiceRuntime>,
    usage: Arc<Usage>,
    pod: Option<Endpoint>,
    /// By resource name, which gives the lists their stable order.
    endpoints: BTreeMap<String, Endpoint>,
    /// Endpoints of several service ports may be the same pod and port.
    runtimes: HashMap<EndpointKey, (Arc<EndpointRuntime>, usize)>,
    departed: Departed,
    retired: HashMap<EndpointKey, Weak<EndpointRuntime>>,
    lists: BTreeMap<u16, EndpointList>,
    stale_lists: BTreeSet<u16>,
    /// Its endpoints have been shown once, those that it had at first.
    is_known: bool,
    /// Of the sidecar's own pod, as the lists were made for it.
    zone: String,
    rules: RuleStates,
    routing: Option<Arc<Routing>>,
}

impl ServiceState {
    /// A service that arrived for the first time, or again after it was dropped.
    pub fn new(
        name: &str,
        config: ServiceConfig,
        retired: Option<Retired>,
        usage: Arc<Usage>,
        journal: &Arc<Journal>,
        now: Timestamp,
    ) -> Self {
        let (held, retired, mut rules) = retired
            .map(|retired| (retired.runtime.upgrade(), retired.endpoints, retired.rules))
            .unwrap_or_default();
        let runtime = match held {
            Some(runtime) => {
                runtime.reconfigure(&config.policy, now);
                runtime.service_breaker().come_back(now);
                runtime
            }
            None => {
                let mark_only = config.kind == ServiceKind::Pod;
                Arc::new(ServiceRuntime::new(
                    name,
                    &config.policy,
                    mark_only,
                    journal,
                    now,
                ))
            }
        };
        let mut state = Self {
            routing: rules.reconfigure(&config.routes, now),
            rules,
            name: name.into(),
            config: Arc::new(config),
            runtime,
            usage,
            pod: None,
            endpoints: BTreeMap::new(),
            runtimes: HashMap::new(),
            departed: Departed::default(),
            retired,
            lists: BTreeMap::new(),
            stale_lists: BTreeSet::new(),
            is_known: false,
            zone: String::new(),
        };
        state.renew_pod(now);
        state
    }

    /// Takes a changed configuration; what is counted stays.
    pub fn reconfigure(&mut self, config: ServiceConfig, now: Timestamp) {
        if config.policy != self.config.policy {
            self.runtime.tighten(&config.policy);
            for (runtime, _) in self.runtimes.values() {
                runtime.reconfigure(&config.policy);
            }
            self.runtime.reconfigure(&config.policy, now);
            if config.policy.load_balancing != self.config.policy.load_balancing {
                self.stale_lists.extend(self.lists.keys());
            }
        }
        if config.routes != self.config.routes {
            self.routing = self.rules.reconfigure(&config.routes, now);
        }
        self.runtime.service_breaker().come_back(now);
        self.config = Arc::new(config);
        self.renew_pod(now);
    }

    /// It is not there any more, but kept for a while.
    pub fn leave(&self, now: Timestamp) {
        self.runtime.service_breaker().leave(now);
    }

    /// Its last use.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// How it is reached.
    pub fn kind(&self) -> ServiceKind {
        self.config.kind
    }

    /// Other services to which its routes lead, or a fallback: that is wanted when
    /// there may be no control plane to ask for it.
    pub fn leads_to(&self) -> BTreeSet<Arc<str>> {
        let rules = self.config.routes.iter().flat_map(|routes| &routes.rules);
        let services = rules.flat_map(|rule| rule.services());
        let fallback = self.config.policy.fallback.as_ref();
        services
            .chain(fallback.and_then(|fallback| fallback.service()))
            .filter(|name| **name != self.name)
            .cloned()
            .collect()
    }

    /// Takes an endpoint, new or changed.
    pub fn put_endpoint(&mut self, name: &str, config: EndpointConfig, now: Timestamp) {
        let key = key_of(&config);
        self.stale_lists.insert(config.port);
        let previous = self.endpoints.remove(name);
        // Taken before the previous one is released, or an unchanged key would depart in between.
        let runtime = self.acquire(key, &config, now);
        let was_ready = previous.as_ref().is_some_and(|it| it.config.ready);
        if self.is_known && config.ready && !was_ready {
            runtime.start(now);
        }
        if let Some(previous) = previous {
            self.stale_lists.insert(previous.config.port);
            self.release(&key_of(&previous.config), now);
        }
        let config = Arc::new(config);
        self.endpoints
            .insert(name.to_owned(), Endpoint { config, runtime });
    }

    /// An endpoint left. Returns whether there was one.
    pub fn remove_endpoint(&mut self, name: &str, now: Timestamp) -> bool {
        let Some(endpoint) = self.endpoints.remove(name) else {
            return false;
        };
        self.stale_lists.insert(endpoint.config.port);
        self.release(&key_of(&endpoint.config), now);
        true
    }

    /// Forgets state that nobody can come back for.
    pub fn expire(&mut self, now: Timestamp) {
        self.departed.expire(now);
        self.retired.retain(|_, held| held.strong_count() > 0);
    }

    /// As the workers of a sidecar in `zone` get it. Only the lists that changed are
    /// made anew.
    pub fn publish(&mut self, zone: &str, now: Timestamp) -> Arc<Service> {
        self.is_known = true;
        if self.zone != zone {
            zone.clone_into(&mut self.zone);
            self.stale_lists.extend(self.lists.keys());
        }
        if !self.stale_lists.is_empty() {
            self.tell_members(now);
        }
        for port in std::mem::take(&mut self.stale_lists) {
            let list: Arc<[Endpoint]> = self
                .endpoints
                .values()
                .filter(|endpoint| endpoint.config.port == port)
                .cloned()
                .collect();
            if list.is_empty() {
                self.lists.remove(&port);
            } else {
                let policy = &self.config.policy.load_balancing;
                let list = EndpointList::new(list, policy, zone, self.lists.get(&port));
                self.lists.insert(port, list);
            }
        }
        Arc::new(Service {
            name: self.name.clone(),
            config: self.config.clone(),
            runtime: self.runtime.clone(),
            endpoints_by_port: self
                .lists
                .iter()
                .map(|(port, list)| (*port, list.clone()))
                .collect(),
            pod: self.pod.clone(),
            routing: self.routing.clone(),
            usage: self.usage.clone(),
        })
    }

    /// The breakers' floor counts the endpoints that may be picked.
    fn tell_members(&self, now: Timestamp) {
        let mut members: BTreeMap<u16, Vec<Identity>> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            let of_port = members.entry(endpoint.config.address.port()).or_default();
            if endpoint.config.ready || endpoint.config.serving {
                of_port.push(Identity::of(&endpoint.config));
            }
        }
        self.runtime.set_members(&members, now);
    }

    /// No longer subscribed to: only what others still hold can be found again.
    pub fn retire(self, now: Timestamp) -> Retired {
        self.runtime.service_breaker().leave(now);
        let mut endpoints = self.retired;
        for (key, (runtime, _)) in &self.runtimes {
            runtime.breaker.leave(now);
            endpoints.insert(key.clone(), Arc::downgrade(runtime));
        }
        Retired {
            runtime: Arc::downgrade(&self.runtime),
            endpoints,
            rules: self.rules,
        }
    }

    fn renew_pod(&mut self, now: Timestamp) {
        let previous = self.pod.take();
        if let Some(pod) = self.config.pod.clone() {
            let runtime = self.acquire(key_of(&pod), &pod, now);
            let config = Arc::new(pod);
            self.pod = Some(Endpoint { config, runtime });
        }
        if let Some(previous) = previous {
            self.release(&key_of(&previous.config), now);
        }
    }

    fn acquire(
        &mut self,
        key: EndpointKey,
        config: &EndpointConfig,
        now: Timestamp,
    ) -> Arc<EndpointRuntime> {
        if let Some((runtime, uses)) = self.runtimes.get_mut(&key) {
            *uses += 1;
            return runtime.clone();
        }
        let held = self.retired.remove(&key).and_then(|held| held.upgrade());
        let runtime = match self.departed.take(&key, now).or(held) {
            Some(runtime) => {
                // The policy may have changed while it was away.
                runtime.reconfigure(&self.config.policy);
                runtime
            }
            None => Arc::new(EndpointRuntime::new(
                &self.runtime,
                &self.config.policy,
                Identity::of(config),
                now,
            )),
        };
        runtime.breaker.come_back(now);
        self.runtimes.insert(key, (runtime.clone(), 1));
        runtime
    }

    fn release(&mut self, key: &EndpointKey, now: Timestamp) {
        let Some((_, uses)) = self.runtimes.get_mut(key) else {
            debug_assert!(false, "an endpoint without state");
            return;
        };
        *uses -= 1;
        if *uses == 0
            && let Some((runtime, _)) = self.runtimes.remove(key)
        {
            runtime.breaker.leave(now);
            self.departed.keep(key.clone(), runtime, now);
        }
    }
}

fn key_of(config: &EndpointConfig) -> EndpointKey {
    EndpointKey {
        member: config.member(),
        target_port: config.address.port(),
    }
}
