//! What each event of the stream does.

use std::sync::Arc;

use tracing::{info, warn};

use super::{Controller, Parsed, collection_of};
use crate::clock::Timestamp;
use crate::state::resource::{
    EndpointConfig, PolicyReference, ServiceConfig, ServiceKind, WorkloadConfig,
};
use crate::state::service_state::ServiceState;
use crate::state::snapshot::{Usage, Workload};
use crate::state::subscriptions::{Answer, Target};
use crate::stream::Kind;
use crate::stream::protocol::Event;

impl Controller {
    pub(super) fn apply(&mut self, event: Event<Parsed>, now: Timestamp) {
        match event {
            Event::Taken {
                kind,
                name,
                version,
                aliases,
                value,
            } => {
                let policies = match value {
                    Parsed::Service(config) => self.take_service(&name, &aliases, *config, now),
                    Parsed::Endpoint(config) => self.take_endpoint(&name, *config, now),
                    Parsed::Workload(config) => self.take_workload(*config, now),
                    Parsed::TrustBundle(trust) => {
                        self.mesh.set_trust(Arc::new(*trust));
                        Vec::new()
                    }
                };
                self.mesh
                    .ledger()
                    .apply(kind, &name, &version, &policies, now);
                self.mesh.count_update();
                self.mesh.report_soon();
            }
            Event::Removed { kind, name } => self.remove(kind, &name, now),
            Event::Absent { kind, name } => self.take_absence(kind, &name),
            Event::Refused {
                kind,
                name,
                version,
                aliases,
                reason,
            } => {
                warn!(
                    kind = kind.name(),
                    name = ?name,
                    version = ?version,
                    reason = ?reason,
                    "a resource was refused; what was in force before stays"
                );
                self.take_refusal(kind, &name, &aliases);
                self.mesh.ledger().refuse(kind, &name, &version, &reason);
                self.mesh.count_refusal();
                self.mesh.report_soon();
            }
            Event::Complete { name } => {
                let service = name.trim_end_matches("/*").to_owned();
                self.stale.insert(service);
            }
        }
    }

    fn take_service(
        &mut self,
        name: &str,
        aliases: &[String],
        config: ServiceConfig,
        now: Timestamp,
    ) -> Vec<PolicyReference> {
        let policies = config.policies.clone();
        let has_endpoints = config.kind != ServiceKind::Pod;
        let returned = self.absent.remove(name).is_some();
        match self.services.get_mut(name) {
            Some(state) => state.reconfigure(config, now),
            None => {
                let retired = self.retired.remove(name);
                let usage = Arc::new(Usage::new(now));
                let state =
                    ServiceState::new(name, config, retired, usage, self.mesh.journal(), now);
                self.services.insert(name.to_owned(), state);
            }
        }
        if has_endpoints {
            self.want_endpoints(name, returned, now);
        }
        self.bind(name, aliases);
        self.follow_routes(name, now);
        self.stale.insert(name.to_owned());
        policies
    }

    /// Asks for the endpoints of a service that is new, or that was away: then
    /// they were removed with it, and those that are there now must come first.
    fn want_endpoints(&mut self, service: &str, returned: bool, now: Timestamp) {
        let collection = collection_of(service);
        if self.machine.subscribe(Kind::Endpoint, &collection) {
            self.ambiguous |= self.given_up.remove(&collection).is_some();
            self.asked_again = now;
        } else if returned {
            self.machine.reopen(&collection);
            self.asked_again = now;
        }
    }

    /// Notes which targets belong to a service now, and which no longer do.
    fn bind(&mut self, name: &str, aliases: &[String]) {
        let targets: Vec<Target> = std::iter::once(name)
            .chain(aliases.iter().map(String::as_str))
            .map(Target::parse)
            .collect();
        for target in self.subscriptions.of_service(name) {
            if !targets.contains(&target) {
                self.subscriptions.answer(&target, Answer::Unknown);
            }
        }
        for target in &targets {
            self.subscriptions
                .answer(target, Answer::Service(name.to_owned()));
        }
    }

    fn take_endpoint(
        &mut self,
        name: &str,
        config: EndpointConfig,
        now: Timestamp,
    ) -> Vec<PolicyReference> {
        let service = service_of(&config);
        if let Some(state) = self.services.get_mut(&service) {
            state.put_endpoint(name, config, now);
            self.stale.insert(service);
        }
        Vec::new()
    }

    fn take_workload(&mut self, config: WorkloadConfig, now: Timestamp) -> Vec<PolicyReference> {
        let policies = config.policies.clone();
        let (draining, reports_address) = (config.draining, config.reports_address);
        let was = self
            .workload
            .as_ref()
            .map_or("", |it| it.config.zone.as_str());
        if was != config.zone {
            // Other endpoints are near now.
            self.stale.extend(self.services.keys().cloned());
        }
        self.workload = Some(Workload {
            config: Arc::new(config),
        });
        // Before anybody is told to be ready, the workers must see it.
        self.snapshot_stale = true;
        self.publish(now);
        self.mesh.workload_changed();
        self.mesh.set_draining(draining);
        self.mesh.set_reports_address(reports_address);
        self.mesh.set_ready();
        policies
    }

    fn remove(&mut self, kind: Kind, name: &str, now: Timestamp) {
        match kind {
            Kind::Service => self.remove_service(name, now),
            Kind::Endpoint => {
                // `<namespace>/<service>/<port>/<member>`
                let service: Vec<&str> = name.splitn(3, '/').take(2).collect();
                let service = service.join("/");
                if let Some(state) = self.services.get_mut(&service)
                    && state.remove_endpoint(name, now)
                {
                    self.stale.insert(service);
                }
            }
            Kind::Workload => {
                info!(
                    name,
                    "the control plane no longer knows this pod; its last configuration stays in force"
                );
                return;
            }
            Kind::TrustBundle => {
                info!(
                    name,
                    "the control plane has no trust bundle any more; the last one stays in force"
                );
                return;
            }
        }
        self.mesh.ledger().drop_resource(kind, name);
        self.mesh.report_soon();
    }

    fn remove_service(&mut self, name: &str, now: Timestamp) {
        for target in self.subscriptions.of_service(name) {
            self.subscriptions.answer(&target, Answer::Unknown);
        }
        if let Some(state) = self.services.get(name) {
            state.leave(now);
            self.absent.insert(name.to_owned(), now);
        }
        self.stale.insert(name.to_owned());
    }

    fn take_absence(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Service => {
                self.subscriptions
                    .answer(&Target::parse(name), Answer::Unknown);
                self.snapshot_stale = true;
            }
            Kind::Workload => {
                info!(
                    name,
                    "the control plane does not know this pod yet; waiting for it"
                );
            }
            Kind::TrustBundle => {
                info!(
                    name,
                    "the control plane has no trust bundle yet; waiting for it"
                );
            }
            Kind::Endpoint => {}
        }
    }

    fn is_in_force(&self, service: &str) -> bool {
        self.services.contains_key(service) && !self.absent.contains_key(service)
    }

    /// Who waits for a service that cannot be taken need not wait any longer.
    fn take_refusal(&mut self, kind: Kind, name: &str, aliases: &[String]) {
        if kind != Kind::Service || self.is_in_force(name) {
            return;
        }
        for name in std::iter::once(name).chain(aliases.iter().map(String::as_str)) {
            let target = Target::parse(name);
            let entry = self.subscriptions.entry(&target);
            if entry.is_some_and(|entry| !matches!(entry.answer, Answer::Service(_))) {
                self.subscriptions.answer(&target, Answer::Refused);
                self.snapshot_stale = true;
            }
        }
    }
}

fn service_of(config: &EndpointConfig) -> String {
    format!("{}/{}", config.namespace, config.service)
}
