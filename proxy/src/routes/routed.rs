//! What a request that goes by a rule holds, beside what every request does: in a
//! box, so that the others need no room for it.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
};

use super::config::{Filter, RouteMatch};
use super::filters;
use super::index::Found;
use super::runtime::{BackendCounters, RoutedRule};
use super::session::Sessions;
use crate::clock::{self, Timestamp};
use crate::exchange::BodyFailures;
use crate::policy::breaker::{BreakerPermit, Outcome};
use crate::policy::limit::Permit;
use crate::runtime::EndpointRuntime;
use crate::state::Service;

/// See the module's page.
#[derive(Debug)]
pub struct Routed {
    /// The rule.
    pub rule: Arc<RoutedRule>,
    matched: Option<usize>,
    /// The backend's place, once it is chosen.
    pub backend: Option<usize>,
    /// Where the request is counted.
    pub counters: Arc<BackendCounters>,
    /// What the answer tells a browser.
    pub cors: Option<HeaderMap>,
    /// Of a rule with session persistence.
    pub sessions: Option<Sessions>,
    /// Its places among the rule's requests, and the backend's.
    pub permits: [Option<Permit>; 2],
    /// The backend's own breaker, where it has one.
    pub backend_breaker: Option<BreakerPermit>,
    /// What the called service's policy counts as a failure.
    pub failures: BodyFailures,
}

impl Routed {
    /// Of a request that has just been matched.
    pub fn new(rule: &Arc<RoutedRule>, found: Found, failures: BodyFailures) -> Box<Self> {
        Box::new(Self {
            rule: Arc::clone(rule),
            matched: found.matched,
            backend: None,
            counters: Arc::clone(&rule.nowhere),
            cors: None,
            sessions: None,
            permits: [None, None],
            backend_breaker: None,
            failures,
        })
    }

    /// By which match the rule was found.
    pub fn matched(&self) -> Option<&RouteMatch> {
        self.matched.map(|at| &self.rule.config.matches[at])
    }

    /// The rule's filters, and then those of the backend that was chosen.
    pub fn filters(&self) -> impl Iterator<Item = &Filter> {
        let backend = self.backend.map(|at| &self.rule.config.backends[at]);
        let of_backend = backend.into_iter().flat_map(|backend| &backend.filters);
        self.rule.config.filters.iter().chain(of_backend)
    }

    /// `namespace/name:port` of the backend; nothing where none was chosen.
    pub fn backend_name(&self) -> Option<&str> {
        Some(&*self.counters.name).filter(|name| !name.is_empty())
    }

    /// What sessions of the backend are good for.
    fn session_context(&self) -> &str {
        &self.counters.name
    }

    /// Whether the caller has a session with this endpoint.
    pub fn has_session_with(&self, endpoint: &EndpointRuntime) -> bool {
        let (Some(sessions), Some(config)) = (&self.sessions, &self.rule.config.session) else {
            return false;
        };
        let now = clock::system_seconds();
        sessions.is_with(&endpoint.session_key, config, self.session_context(), now)
    }

    /// This endpoint gets the request.
    pub fn served_by(&mut self, endpoint: &EndpointRuntime) {
        let (Some(sessions), Some(config)) = (&mut self.sessions, &self.rule.config.session) else {
            return;
        };
        let now = clock::system_seconds();
        sessions.served(&endpoint.session_key, config, &self.counters.name, now);
    }

    /// Changes the backend's answer. `target` is the backend.
    pub fn change_answer(&self, target: &Service, answer: &mut HeaderMap) {
        filters::change_answer(self.filters(), answer);
        self.tell_browser(answer);
        if let (Some(sessions), Some(config)) = (&self.sessions, &self.rule.config.session) {
            let of_backend = |tag: &[u8; 8]| {
                let mut endpoints = target.all_endpoints();
                endpoints.any(|endpoint| endpoint.runtime.session_key.has(tag))
            };
            sessions.tell(config, answer, clock::system_seconds(), of_backend);
        }
    }

    /// Changes an answer of Remora's own.
    pub fn change_own_answer(&self, answer: &mut HeaderMap) {
        filters::change_answer(self.filters(), answer);
        self.tell_browser(answer);
    }

    /// Sets what a browser is told, in an answer of the backend or of ours.
    fn tell_browser(&self, answer: &mut HeaderMap) {
        let Some(cors) = &self.cors else { return };
        // The backend's own words would contradict these.
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            crate::headers::remove(answer, &name);
        }
        for (name, value) in cors {
            answer.append(name, value.clone());
        }
    }

    /// The answer has ended, and what it says of the backend; gives back what it held.
    pub fn end(&mut self, judged: Option<Outcome>, now: Timestamp) {
        if let (Some(permit), Some(outcome)) = (self.backend_breaker.take(), judged) {
            permit.record(outcome, None, now, crate::random::next());
        }
        self.permits = [None, None];
    }
}
