//! Whose policy counts for which part of a request, where a rule led to it.

use super::{Attempting, Later, Way};
use crate::policy::budget::RetryBudget;
use crate::policy::config::{AttemptEnd, Retries, Timeouts};
use crate::policy::limit::{Kind, Permit};
use crate::state::{Destination, Service};

impl<'a> Way<'a> {
    /// Straight to the service that was called.
    pub fn to(service: &'a Service, destination: Destination, later: &'a Later) -> Self {
        Self {
            service,
            target: service,
            destination,
            rule: None,
            later,
        }
    }

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

impl Attempting<'_> {
    /// A place among the retries of the service, and of the rule.
    pub(super) fn take_retry(&mut self) -> bool {
        let way = self.way;
        let of_rule = way
            .rule
            .map(|rule| rule.runtime.limits.try_acquire(Kind::Retries));
        let of_rule = match of_rule {
            Some(None) => return false,
            Some(permit) => permit,
            None => None,
        };
        let of_service = way.service.runtime.limits.try_acquire(Kind::Retries);
        self.retry_permit = of_service.map(|service| RetryPermit {
            _service: service,
            _rule: of_rule,
        });
        self.retry_permit.is_some()
    }

    /// The retry is not made after all.
    pub(super) fn give_retry_back(&mut self) {
        self.retry_permit = None;
    }
}

/// A retry's place among those of the service, and of the rule that led there.
#[derive(Debug)]
pub struct RetryPermit {
    _service: Permit,
    _rule: Option<Permit>,
}
