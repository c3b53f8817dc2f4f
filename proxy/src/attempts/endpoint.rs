//! Which endpoint an attempt gets: the one that the request names, or has a session
//! with, or the balancer's; its places there; and the wait where there is none.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Attempting, PICKS, Way};
use crate::answer::Reason;
use crate::choice::Choice;
use crate::clock::{self, Timestamp};
use crate::exchange::LiveAttempt;
use crate::policy::config::balancing::Persistence;
use crate::policy::limit::{Kind, Permit};
use crate::runtime::ServiceRuntime;
use crate::select::{self, Asking, NoPick};
use crate::state::Endpoint;

/// Requests of one service that wait for an endpoint, whatever `maxPendingRequests` says.
pub const MAX_WAITING: u64 = 10_000;

/// What is refused, and why in words.
pub(super) type Refused = (Reason, String);

impl<'a> Attempting<'a> {
    /// The endpoint for the next attempt, where one comes in time.
    pub(super) async fn find_endpoint(&mut self, now: Timestamp) -> Result<&'a Endpoint, Refused> {
        if self.exchange.attempts > 0 {
            // The first follows on the request's head; until a later one endpoints
            // may have come and gone.
            self.renew();
        }
        let refused = match self.take_endpoint(now) {
            Ok(endpoint) => return Ok(endpoint),
            Err(refused) => refused,
        };
        let wait = self
            .way
            .target
            .config
            .policy
            .load_balancing
            .wait_for_endpoints;
        if wait.is_zero() || refused.0 != Reason::NoEndpoints || self.pin().is_some() {
            return Err(refused);
        }
        // In a box: it is rare, and all would carry its size.
        Box::pin(self.wait_for_endpoint(now.after(wait), refused)).await
    }

    /// Holds the request until an endpoint can be taken, or until `until`.
    async fn wait_for_endpoint(
        &mut self,
        until: Timestamp,
        refused: Refused,
    ) -> Result<&'a Endpoint, Refused> {
        let runtime = Arc::clone(&self.way.target.runtime);
        let Some(_waiting) = Waiting::take(&runtime) else {
            let name = &runtime.name;
            let detail = format!("circuitBreaker.maxPendingRequests of {name} is reached");
            return Err((Reason::Overloaded, detail));
        };
        let until = *self.wait_until.get_or_insert(until);
        let of_request = self.deadlines.request();
        let ends = of_request.map_or(until, |at| at.min(until));
        let look = || {
            self.renew_where_found();
            match self.take_endpoint(clock::now()) {
                Err((Reason::NoEndpoints, _)) => None,
                taken => Some(taken),
            }
        };
        if let Some(taken) = runtime.look_until(ends, look).await {
            if taken.is_ok() {
                runtime.traffic.found_after_wait.fetch_add(1, Relaxed);
            }
            return taken;
        }
        runtime.traffic.gone_after_wait.fetch_add(1, Relaxed);
        if of_request.is_some_and(|at| at <= clock::now()) {
            return Err((
                Reason::Timeout,
                super::late(crate::policy::deadline::Bound::Request),
            ));
        }
        let detail = format!("{}, nor in loadBalancing.waitForEndpoints", refused.1);
        Err((refused.0, detail))
    }

    /// Goes by the service as it is now: its endpoints and their policy.
    pub fn renew(&mut self) {
        let snapshot = self.worker.shared.mesh.load();
        let Some(service) = snapshot.service(&self.way.target.name) else {
            return;
        };
        if std::ptr::eq(Arc::as_ptr(service), self.way.target) {
            return;
        }
        let (target, later) = self.way.later.keep(Arc::clone(service));
        (self.way.target, self.way.later) = (target, later);
    }

    /// The same, where an endpoint may be had by it: who waits looks often.
    fn renew_where_found(&mut self) {
        let is_worth = {
            let snapshot = self.worker.shared.mesh.load();
            let service = snapshot.service(&self.way.target.name);
            service.is_some_and(|it| select::pick(it, &self.asking(clock::now()), 0).is_ok())
        };
        if is_worth {
            self.renew();
        }
    }

    pub(super) fn asking(&self, now: Timestamp) -> Asking<'_> {
        Asking {
            port: self.way.destination.port,
            source: Some(self.peer.ip()),
            node: &self.worker.shared.config.node,
            hash: self.choice.as_ref().and_then(|choice| choice.hash),
            counted: Kind::Requests,
            tried: &self.tried,
            now,
        }
    }

    /// The pod that the request names.
    pub(super) fn pin(&self) -> Option<&str> {
        self.choice.as_ref()?.pin.as_deref()
    }

    /// Whether the request may go to this endpoint alone, or had better.
    pub(super) fn is_bound(&self) -> bool {
        let routed = self.exchange.routed.as_ref();
        self.way.target.config.session_affinity.is_some()
            || routed.is_some_and(|routed| routed.sessions.is_some())
            || self
                .choice
                .as_ref()
                .is_some_and(|choice| choice.pin.is_some() || choice.keeps_sessions())
    }

    fn take_endpoint(&mut self, now: Timestamp) -> Result<&'a Endpoint, Refused> {
        if self.pin().is_some() {
            return self.take_pinned(now);
        }
        if let Some(endpoint) = self.take_session(now)? {
            return Ok(endpoint);
        }
        let Way {
            target,
            destination,
            ..
        } = self.way;
        let name = &target.runtime.name;
        for _ in 0..PICKS {
            let random = crate::random::next();
            let endpoint = match select::pick(target, &self.asking(now), random) {
                Ok(endpoint) => endpoint,
                Err(NoPick::Overloaded) => {
                    let detail = format!(
                        "circuitBreaker.perEndpoint.maxRequests of every endpoint of {name} is reached"
                    );
                    return Err((Reason::Overloaded, detail));
                }
                Err(NoPick::NoEndpoints) => {
                    let detail = format!(
                        "{name} has no endpoint for port {} that is ready",
                        destination.port
                    );
                    return Err((Reason::NoEndpoints, detail));
                }
            };
            if self.take(endpoint, now) {
                return Ok(endpoint);
            }
        }
        Err((
            Reason::Overloaded,
            format!("every endpoint of {name} that was looked at is at its limits"),
        ))
    }

    /// Takes the request's places there.
    fn take(&mut self, endpoint: &Endpoint, now: Timestamp) -> bool {
        let Some(live) = self.take_places(endpoint, now) else {
            return false;
        };
        self.exchange.live = Some(live);
        self.note_served(endpoint);
        true
    }

    /// The pod that the request names, and no other.
    fn take_pinned(&mut self, now: Timestamp) -> Result<&'a Endpoint, Refused> {
        let (target, port) = (self.way.target, self.way.destination.port);
        let name = &target.runtime.name;
        let pod = self.pin().unwrap_or_default();
        let is_it = |endpoint: &Endpoint| endpoint.config.pod == pod;
        let mut all = target.endpoints(port).into_iter().flat_map(|it| it.iter());
        let Some(known) = all.find(|it| is_it(it) && select::serves(it)) else {
            let detail = format!("{name} has no endpoint {pod:?}, which the request names");
            return Err((Reason::NoEndpoints, detail));
        };
        let found = select::pinned(target, &self.asking(now), true, is_it);
        let pod = &known.config.pod;
        let refused = |reason, why| Err((reason, format!("endpoint {pod:?} of {name} {why}")));
        match found {
            Some(endpoint) if self.take(endpoint, now) => Ok(endpoint),
            _ if known.runtime.breaker.available(now) => {
                refused(Reason::Overloaded, "is at its limits")
            }
            _ => refused(Reason::BreakerOpen, "has its circuit breaker open"),
        }
    }

    /// The endpoint with which the caller has a session; of a strict one no other will do.
    fn take_session(&mut self, now: Timestamp) -> Result<Option<&'a Endpoint>, Refused> {
        let target = self.way.target;
        let policy = target.config.policy.load_balancing.persistence.as_ref();
        if let Some(routed) = self
            .exchange
            .routed
            .as_ref()
            .filter(|it| it.sessions.is_some())
        {
            let has_session = |endpoint: &Endpoint| routed.has_session_with(&endpoint.runtime);
            let found = select::pinned(target, &self.asking(now), false, has_session);
            return Ok(found.filter(|endpoint| self.take(endpoint, now)));
        }
        let (Some(choice), Some(policy)) = (self.choice.as_ref(), policy) else {
            return Ok(None);
        };
        if !choice.keeps_sessions() || !choice.has_session(policy, &target.runtime.name) {
            return Ok(None);
        }
        let found = self.with_session(choice, policy, now);
        if let Some(endpoint) = found.filter(|endpoint| self.take(endpoint, now)) {
            return Ok(Some(endpoint));
        }
        if !policy.strict {
            return Ok(None);
        }
        let name = &target.runtime.name;
        let detail = format!("the endpoint of {name} with which the request has a session is away");
        Err((Reason::NoEndpoints, detail))
    }

    fn with_session(
        &self,
        choice: &Choice,
        policy: &Persistence,
        now: Timestamp,
    ) -> Option<&'a Endpoint> {
        let target = self.way.target;
        let context = &target.runtime.name;
        select::pinned(target, &self.asking(now), policy.strict, |endpoint| {
            choice.has_session_with(policy, &endpoint.runtime, context)
        })
    }

    /// The request is about to be sent there, whose places it has.
    pub(super) fn note_tried(&mut self, endpoint: &Endpoint) {
        #[cfg(test)]
        crate::simulation::book::picked(
            &self.worker.shared.mesh,
            endpoint,
            self.parts.headers.get("x-id"),
            clock::now(),
        );
        self.tried.add(endpoint);
    }

    pub(super) fn take_places(
        &mut self,
        endpoint: &Endpoint,
        now: Timestamp,
    ) -> Option<LiveAttempt> {
        let permit = endpoint.runtime.limits.try_acquire(Kind::Requests)?;
        let retry_permits = match self.retry_permit.take() {
            None => None,
            Some(of_service) => match endpoint.runtime.limits.try_acquire(Kind::Retries) {
                Some(of_endpoint) => Some((of_service, of_endpoint)),
                None => {
                    self.retry_permit = Some(of_service);
                    return None;
                }
            },
        };
        let Some(breaker) = endpoint.runtime.breaker.try_admit(now) else {
            self.retry_permit = retry_permits.map(|(of_service, _)| of_service);
            return None;
        };
        Some(LiveAttempt {
            endpoint: Arc::clone(&endpoint.runtime),
            held: None,
            grpc_status: None,
            breaker: Some(breaker),
            body_failures: self.body_failures(),
            load: endpoint.runtime.load.start(now),
            permit,
            retry_permits,
        })
    }

    /// An endpoint gets the request: with it is the caller's session.
    pub(super) fn note_served(&mut self, endpoint: &Endpoint) {
        if let Some(routed) = &mut self.exchange.routed {
            routed.served_by(&endpoint.runtime);
        }
        if let Some(choice) = &mut self.choice {
            choice.served_by(self.way.target, &endpoint.runtime);
        }
    }
}

/// A place among those who wait for an endpoint of a service.
#[derive(Debug)]
pub struct Waiting<'a> {
    _pending: Permit,
    runtime: &'a ServiceRuntime,
}

impl<'a> Waiting<'a> {
    /// A place, where there is one: it counts as a pending request.
    pub fn take(runtime: &'a ServiceRuntime) -> Option<Self> {
        let pending = runtime.limits.try_acquire(Kind::Pending)?;
        let waiting = &runtime.traffic.waiting;
        if waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
            waiting.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self {
            _pending: pending,
            runtime,
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.runtime.traffic.waiting.fetch_sub(1, Relaxed);
    }
}
