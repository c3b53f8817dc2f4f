//! Whose policy counts for which part of a request, where a rule led to it; and the
//! endpoint with which its caller has a session.

use super::{Attempting, Way};
use crate::clock::Timestamp;
use crate::policy::budget::RetryBudget;
use crate::policy::config::{AttemptEnd, Retries, Timeouts};
use crate::policy::limit::Kind;
use crate::select;
use crate::state::Endpoint;

impl<'a> Way<'a> {
    /// What becomes of an attempt that failed.
    pub fn retries(&self) -> Option<&'a Retries> {
        let of_rule = self.rule.and_then(|rule| rule.config.retries.as_ref());
        of_rule.or(self.service.config.policy.retries.as_ref())
    }

    pub(super) fn timeouts(&self) -> &'a Timeouts {
        let of_rule = self.rule.and_then(|rule| rule.config.timeouts.as_ref());
        of_rule.unwrap_or(&self.service.config.policy.timeouts)
    }

    /// The service's, which all rules spend; but a rule's policy may give it another.
    pub(super) fn budget(&self) -> &'a RetryBudget {
        let of = |retries: &Option<Retries>| retries.as_ref().map(|it| it.budget);
        let of_service = of(&self.service.config.policy.retries).unwrap_or_default();
        let own = self
            .rule
            .filter(|rule| of(&rule.config.retries).is_some_and(|of_rule| of_rule != of_service));
        own.map_or(&self.service.runtime.budget, |rule| &rule.runtime.budget)
    }

    /// As the policy of the service that was called counts failures.
    pub(super) fn is_service_failure(&self, end: AttemptEnd) -> bool {
        let breaker = self.service.config.policy.circuit_breaker.as_ref();
        breaker.is_some_and(|breaker| breaker.trip.failures.matches(end))
    }
}

impl<'a> Attempting<'a> {
    /// A place among the retries of the service, and of the rule.
    pub(super) fn take_retry(&mut self) -> bool {
        let way = self.way;
        if let (Some(rule), Some(routed)) = (way.rule, &mut self.exchange.routed) {
            // The last retry's, which has ended.
            routed.retry_permit = None;
            routed.retry_permit = rule.runtime.limits.try_acquire(Kind::Retries);
            if routed.retry_permit.is_none() {
                return false;
            }
        }
        self.retry_permit = way.service.runtime.limits.try_acquire(Kind::Retries);
        if self.retry_permit.is_none() {
            self.give_retry_back();
        }
        self.retry_permit.is_some()
    }

    /// The retry is not made after all.
    pub(super) fn give_retry_back(&mut self) {
        self.retry_permit = None;
        if let Some(routed) = &mut self.exchange.routed {
            routed.retry_permit = None;
        }
    }

    /// The endpoint with which the caller has a session, for the first attempt.
    pub(super) fn take_session(&mut self, now: Timestamp) -> Option<&'a Endpoint> {
        let routed = self.exchange.routed.as_ref()?;
        routed.sessions.as_ref()?;
        let way = self.way;
        let has_session = |endpoint: &Endpoint| routed.has_session_with(&endpoint.runtime);
        let port = way.destination.port;
        let node = &self.worker.shared.config.node;
        let endpoint = select::pinned(way.target, port, has_session, node, &self.tried, now)?;
        let live = self.take_places(endpoint, now)?;
        self.exchange.live = Some(live);
        self.note_served(endpoint);
        Some(endpoint)
    }

    /// An endpoint gets the request: with it is the caller's session.
    pub(super) fn note_served(&mut self, endpoint: &Endpoint) {
        if let Some(routed) = &mut self.exchange.routed {
            routed.served_by(&endpoint.runtime);
        }
    }
}
