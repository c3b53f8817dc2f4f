//! What the stream's news and the workers' questions do to the state. Runs on
//! the control thread, in one task; does no input or output itself.
//!
//! ```text
//! question --> subscription (Service) --> Service arrives --> subscription (its
//!    ^                                          |              Endpoints)  |
//!    |                                       pod address                   v
//!    '------ answer <--- snapshot published <---'<---- all Endpoints are known
//! ```

mod events;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use remora_proto::well_known;

use super::decode;
use super::departed::KEEP_DEPARTED;
use super::mesh::{Demand, Mesh, Resolution};
use super::resource::{EndpointConfig, ServiceConfig, ServiceKind, WorkloadConfig};
use super::service_state::{Retired, ServiceState};
use super::snapshot::{Known, Service, Snapshot, Workload};
use super::subscriptions::{Answer, Entry, Subscriptions, Target};
use crate::clock::Timestamp;
use crate::stream::Kind;
use crate::stream::protocol::Machine;
use crate::tls::Trust;

/// A collection that was not answered for so long is asked for again.
pub const ASK_AGAIN: Duration = Duration::from_millis(100);
/// After so long without a question no answer can still be under way.
pub const ANSWERED_SURELY: Duration = Duration::from_secs(2);
/// So many responses may wait for their ACK or NACK to be sent; then no more are read.
pub const MAX_PENDING_ACKNOWLEDGEMENTS: usize = 64;
/// Services that went away of themselves whose state is kept for their return.
pub const MAX_ABSENT: usize = 256;

/// Whose sidecar this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The pod's service account; may be empty.
    pub service_account: String,
    /// The sidecar's version.
    pub version: String,
    /// The trust domain, where the sidecar has an identity.
    pub trust_domain: Option<String>,
}

impl Identity {
    /// The name of its Workload resource.
    pub fn workload_name(&self) -> String {
        well_known::resource_name(&self.namespace, &self.pod)
    }

    fn node(&self) -> Node {
        Node {
            id: well_known::node_id(&self.namespace, &self.pod, &self.pod_uid),
            cluster: format!("{}/{}", self.namespace, self.service_account),
            user_agent_name: "remora-proxy".to_owned(),
            user_agent_version: self.version.clone(),
        }
    }
}

/// A resource's content.
enum Parsed {
    Service(Box<ServiceConfig>),
    Endpoint(Box<EndpointConfig>),
    Workload(Box<WorkloadConfig>),
    TrustBundle(Box<Trust>),
}

/// The state behind a [`Mesh`].
#[derive(Debug)]
pub struct Controller {
    mesh: Arc<Mesh>,
    machine: Machine,
    trust_domain: String,
    subscriptions: Subscriptions,
    services: HashMap<String, ServiceState>,
    /// Those of them that went away, and when; kept for their return.
    absent: HashMap<String, Timestamp>,
    /// Collections that were given up lately on this stream, and when.
    given_up: HashMap<String, Timestamp>,
    ambiguous: bool,
    /// No longer wanted, but perhaps still held by a connection.
    retired: HashMap<String, Retired>,
    workload: Option<Workload>,
    published: HashMap<Arc<str>, Arc<Service>>,
    stale: BTreeSet<String>,
    snapshot_stale: bool,
    asked_again: Timestamp,
}

impl Controller {
    /// Nothing known yet, the sidecar's own Workload wanted.
    pub(crate) fn new(identity: &Identity, mesh: Arc<Mesh>) -> Self {
        let mut machine = Machine::new(identity.node());
        machine.subscribe(Kind::Workload, &identity.workload_name());
        if identity.trust_domain.is_some() {
            machine.subscribe(Kind::TrustBundle, well_known::TRUST_BUNDLE);
        }
        Self {
            mesh,
            machine,
            trust_domain: identity.trust_domain.clone().unwrap_or_default(),
            subscriptions: Subscriptions::default(),
            services: HashMap::new(),
            absent: HashMap::new(),
            given_up: HashMap::new(),
            ambiguous: false,
            retired: HashMap::new(),
            workload: None,
            published: HashMap::new(),
            stale: BTreeSet::new(),
            snapshot_stale: false,
            asked_again: Timestamp::default(),
        }
    }

    /// A new stream is open.
    pub(crate) fn connected(&mut self, now: Timestamp) {
        self.machine.connected();
        self.asked_again = now;
        self.given_up.clear();
        self.ambiguous = false;
    }

    /// The server accepted it.
    pub(crate) fn accepted(&mut self) {
        self.mesh.set_connected(true);
    }

    /// The stream is gone; what is known stays in force.
    pub(crate) fn disconnected(&mut self) {
        self.machine.disconnected();
        self.mesh.set_connected(false);
    }

    /// What to send next.
    pub(crate) fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.machine.next_request()
    }

    /// Whether this stream must be replaced: a collection was given up and
    /// wanted again at once, and a member that arrives may be a late one from
    /// before, whose removal the server will never tell. A new stream begins
    /// with what is held, so the server tells exactly what is not true of it.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// Whether so many answers wait to be sent that no more may be caused.
    pub(crate) fn is_congested(&self) -> bool {
        self.machine.pending_acknowledgements() >= MAX_PENDING_ACKNOWLEDGEMENTS
    }

    /// Takes a response. Returns the error that it will be refused with, if it is.
    pub(crate) fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
        now: Timestamp,
    ) -> Option<String> {
        let trust_domain = &self.trust_domain;
        let received = self.machine.receive(response, |kind, name, bytes| {
            let parsed =
                match kind {
                    Kind::Service => {
                        decode::service(name, bytes).map(|config| Parsed::Service(Box::new(config)))
                    }
                    Kind::Endpoint => decode::endpoint(name, bytes)
                        .map(|config| Parsed::Endpoint(Box::new(config))),
                    Kind::Workload => decode::workload(name, bytes)
                        .map(|config| Parsed::Workload(Box::new(config))),
                    Kind::TrustBundle => decode::trust_bundle(name, bytes, trust_domain)
                        .map(|trust| Parsed::TrustBundle(Box::new(trust))),
                };
            parsed.map_err(|error| error.to_string())
        });
        for event in received.events {
            self.apply(event, now);
        }
        self.publish(now);
        received.error
    }

    /// A worker asks.
    pub(crate) fn demand(&mut self, demand: Demand, now: Timestamp) {
        let Demand {
            target,
            is_called,
            reply,
        } = demand;
        if is_called && self.subscriptions.call(&target) {
            self.newly_called(&target, now);
        }
        match self.subscriptions.entry(&target) {
            Some(entry) => {
                entry.usage.touch(now);
                // The answer may have come while the question was on its way.
                if let Some(resolution) = self.resolution(entry) {
                    let _ = reply.send(resolution);
                    return;
                }
            }
            None => {
                self.make_room(now);
                self.machine
                    .subscribe(Kind::Service, &target.subscription());
                self.subscriptions.add(target.clone(), now);
                self.count_held();
            }
        }
        self.subscriptions.wait(&target, reply);
    }

    /// Drops what has been idle, and what nobody can come back for. To be
    /// called about once a second.
    pub(crate) fn sweep(&mut self, now: Timestamp) {
        self.subscriptions.drop_gone_waiters();
        let services = &self.services;
        let last_use = |name: &str| services.get(name).map(|state| state.usage().last());
        for target in self.subscriptions.idle(now, last_use) {
            if self.subscriptions.rest(&target) {
                self.newly_called(&target, now);
            } else {
                self.drop_target(&target, now);
            }
        }
        for state in self.services.values_mut() {
            state.expire(now);
        }
        self.given_up
            .retain(|_, since| now.since(*since) < ANSWERED_SURELY);
        self.forget_absent(now);
        self.retired.retain(|_, retired| retired.is_held());
        self.publish(now);
    }

    /// Asks again for collections that were not answered, at most every
    /// [`ASK_AGAIN`]. Returns whether any is waited for.
    ///
    /// A server may answer several questions with one response, which then
    /// seems to answer only the first; so this is how the others get theirs.
    pub(crate) fn ask_again(&mut self, now: Timestamp) -> bool {
        let open = self.machine.unanswered();
        if open.is_empty() {
            if now.since(self.asked_again) >= ANSWERED_SURELY {
                self.machine.forget_open_questions();
            }
            return false;
        }
        if now.since(self.asked_again) >= ASK_AGAIN {
            self.asked_again = now;
            for collection in &open {
                self.machine.ask_again(collection);
            }
        }
        true
    }

    fn make_room(&mut self, now: Timestamp) {
        let services = &self.services;
        let last_use = |name: &str| services.get(name).map(|state| state.usage().last());
        if let Some(target) = self.subscriptions.surplus(last_use) {
            // The picture follows with the next one: a flood of new addresses
            // must not cost a new picture each.
            self.drop_target(&target, now);
        }
    }

    fn drop_target(&mut self, target: &Target, now: Timestamp) {
        self.subscriptions.remove(target);
        self.snapshot_stale = true;
        let unwanted = self
            .machine
            .unsubscribe(Kind::Service, &target.subscription());
        for name in unwanted {
            self.mesh.ledger().drop_resource(Kind::Service, &name);
            self.drop_service(&name, now);
        }
        self.mesh.report_soon();
        self.count_held();
    }

    /// Those that went away too long ago, or too many, are not kept any longer.
    fn forget_absent(&mut self, now: Timestamp) {
        let mut oldest_first: Vec<(Timestamp, String)> = self
            .absent
            .iter()
            .map(|(name, since)| (*since, name.clone()))
            .collect();
        oldest_first.sort();
        let surplus = oldest_first.len().saturating_sub(MAX_ABSENT);
        for (at, (since, name)) in oldest_first.into_iter().enumerate() {
            if at < surplus || now.since(since) >= KEEP_DEPARTED {
                self.drop_service(&name, now);
            }
        }
    }

    /// Wants a service and its endpoints no longer.
    fn drop_service(&mut self, name: &str, now: Timestamp) {
        self.absent.remove(name);
        let collection = collection_of(name);
        let dropped = self.machine.unsubscribe(Kind::Endpoint, &collection);
        self.given_up.insert(collection, now);
        {
            let mut ledger = self.mesh.ledger();
            for endpoint in dropped {
                ledger.drop_resource(Kind::Endpoint, &endpoint);
            }
        }
        if let Some(state) = self.services.remove(name) {
            self.retired.insert(name.to_owned(), state.retire(now));
        }
        self.stale.insert(name.to_owned());
        self.follow_routes(name, now);
    }

    /// Whether a target is called has changed.
    fn newly_called(&mut self, target: &Target, now: Timestamp) {
        self.snapshot_stale = true;
        let entry = self.subscriptions.entry(target);
        if let Some(Answer::Service(name)) = entry.map(|entry| entry.answer.clone()) {
            self.follow_routes(&name, now);
        }
    }

    /// Wants what the routes of a service lead to, for as long as it is called
    /// itself: of what is only led to the routes are not followed.
    fn follow_routes(&mut self, name: &str, now: Timestamp) {
        let is_called = self.subscriptions.is_called(name);
        let state = self.services.get(name).filter(|_| is_called);
        let wanted = state.map(ServiceState::leads_to).unwrap_or_default();
        let held = self.subscriptions.hold(name, wanted, now);
        for target in held.added {
            self.machine
                .subscribe(Kind::Service, &target.subscription());
        }
        for target in held.released {
            self.drop_target(&target, now);
        }
        self.count_held();
    }

    /// Whether all that callers need of a service has arrived.
    fn is_complete(&self, name: &str, state: &ServiceState) -> bool {
        !self.absent.contains_key(name)
            && (state.kind() == ServiceKind::Pod || self.machine.is_complete(&collection_of(name)))
    }

    fn resolution(&self, entry: &Entry) -> Option<Resolution> {
        match &entry.answer {
            Answer::Waiting => None,
            Answer::Unknown => Some(Resolution::Unknown),
            Answer::Refused => Some(Resolution::NoAnswer),
            Answer::Service(name) => self
                .published
                .get(name.as_str())
                .map(|service| Resolution::Service(service.clone())),
        }
    }

    /// Gives the workers the new picture, and those who wait their answers.
    fn publish(&mut self, now: Timestamp) {
        let workload = self.workload.clone();
        let zone = workload.as_ref().map_or("", |it| it.config.zone.as_str());
        let mut changed = Vec::new();
        for name in std::mem::take(&mut self.stale) {
            self.snapshot_stale = true;
            let complete = self
                .services
                .get(&name)
                .is_some_and(|state| self.is_complete(&name, state));
            match self.services.get_mut(&name) {
                Some(state) if complete => {
                    let service = state.publish(zone, now);
                    changed.push(Arc::clone(&service.runtime));
                    self.published.insert(service.name.clone(), service);
                }
                // Known once, and its endpoints are being asked for anew: nothing false is shown.
                _ => drop(self.published.remove(name.as_str())),
            }
        }
        if std::mem::take(&mut self.snapshot_stale) {
            self.mesh.publish(self.snapshot());
            self.count_held();
        }
        for runtime in changed {
            runtime.endpoints_changed.notify_waiters();
        }
        for target in self.subscriptions.waited_for() {
            let entry = self.subscriptions.entry(&target);
            if let Some(resolution) = entry.and_then(|entry| self.resolution(entry)) {
                self.subscriptions.reply(&target, &resolution);
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            services: self.published.clone(),
            workload: self.workload.clone(),
            ..Snapshot::default()
        };
        for (target, entry) in self.subscriptions.iter() {
            if !entry.is_called {
                // Who calls it is to tell so: its own routes count from then on.
                continue;
            }
            let known = match &entry.answer {
                Answer::Waiting => continue,
                Answer::Unknown => Known::Unknown(entry.usage.clone()),
                Answer::Refused => Known::Refused(entry.usage.clone()),
                Answer::Service(name) => match self.published.get(name.as_str()) {
                    Some(service) => Known::Service(service.clone()),
                    None => continue,
                },
            };
            match target {
                Target::Address(address) => drop(snapshot.addresses.insert(*address, known)),
                Target::Name(name) => drop(snapshot.names.insert(name.clone(), known)),
            }
        }
        snapshot
    }

    fn count_held(&self) {
        let subscriptions = &self.subscriptions;
        self.mesh
            .set_held(subscriptions.count(), subscriptions.unknown());
    }
}

/// The collection of the endpoints of a service with this canonical name.
fn collection_of(service: &str) -> String {
    format!("{service}/*")
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
