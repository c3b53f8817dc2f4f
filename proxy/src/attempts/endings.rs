//! How attempts end without an answer, and who is told: the endpoint's
//! breaker, the service's, the caller.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Response;

use super::{Attempted, Attempting};
use crate::answer::Reason;
use crate::attempt::Failure;
use crate::body::response::ResponseBody;
use crate::clock::{self, Timestamp};
use crate::exchange::{BodyFailures, LiveAttempt};
use crate::pipeline;
use crate::policy::breaker::Outcome;
use crate::policy::config::AttemptEnd;
use crate::policy::deadline::Bound;
use crate::state::Endpoint;

impl Attempting<'_> {
    pub(super) fn failed(&mut self, endpoint: &Endpoint, failure: Failure) -> Attempted {
        let now = clock::now();
        let Some(mut live) = self.exchange.live.take() else {
            // Never so: an attempt that ended was alive.
            return Attempted::Refused(Reason::RetriesExhausted, "the attempt ended twice".into());
        };
        match failure {
            Failure::Overloaded(detail) => Attempted::Refused(Reason::Overloaded, detail),
            Failure::CallerBroke(detail) => {
                live.breaker = None;
                Attempted::Refused(Reason::BadRequest, detail)
            }
            Failure::CallerLeft(detail) => {
                live.breaker = None;
                Attempted::CallerLeft(detail)
            }
            Failure::OutOfTime(bound) => {
                // The caller's time is over while this endpoint had the request.
                self.record_service_failure(AttemptEnd::Timeout, None);
                if self.is_failure(AttemptEnd::Timeout) {
                    record_failure(&mut live, AttemptEnd::Timeout, None, now);
                }
                Attempted::Refused(Reason::Timeout, late(bound))
            }
            Failure::Waited(bound) => {
                live.breaker = None;
                let detail = format!("{} before a connection was free", late(bound));
                let reason = match bound {
                    Bound::Request => Reason::Timeout,
                    _ => Reason::Overloaded,
                };
                Attempted::Refused(reason, detail)
            }
            Failure::Stale { .. } => {
                live.breaker = None;
                let detail = format!(
                    "{} closed the pooled connection without an answer",
                    endpoint.runtime.name
                );
                Attempted::Ended(AttemptEnd::Reset, detail)
            }
            Failure::Ended(end, detail) => {
                if self.is_failure(end) {
                    record_failure(&mut live, end, None, now);
                } else {
                    live.load.failed(now);
                }
                Attempted::Ended(end, detail)
            }
        }
    }

    pub(super) fn body_failures(&self) -> BodyFailures {
        let breaker = self.way.target.config.policy.circuit_breaker.as_ref();
        breaker
            .map(|breaker| BodyFailures::of(&breaker.trip.failures))
            .unwrap_or_default()
    }

    /// The service's own breaker learns how the request ended, not each attempt.
    pub(super) fn record_service_failure(
        &mut self,
        end: AttemptEnd,
        retry_after: Option<Duration>,
    ) {
        let (of_service, of_backend) = (self.way.is_service_failure(end), self.is_failure(end));
        let exchange = &mut *self.exchange;
        let service = exchange.service_breaker.take_if(|_| of_service);
        let routed = exchange.routed.as_mut();
        let backend = routed.and_then(|routed| routed.backend_breaker.take_if(|_| of_backend));
        for breaker in [service, backend].into_iter().flatten() {
            breaker.record(
                Outcome::Failure(end),
                retry_after,
                clock::now(),
                crate::random::next(),
            );
        }
    }

    pub(super) fn give_up(
        self: Box<Self>,
        end: AttemptEnd,
        detail: String,
    ) -> Response<ResponseBody> {
        let reason = match end {
            AttemptEnd::ConnectFailure => Reason::ConnectFailed,
            AttemptEnd::Timeout => Reason::Timeout,
            AttemptEnd::RefusedStream | AttemptEnd::Reset | AttemptEnd::Response { .. } => {
                Reason::RetriesExhausted
            }
        };
        pipeline::refuse(
            self.exchange,
            reason,
            format!("{}: {detail}", self.way.target.runtime.name),
        )
    }
}

pub(super) fn late(bound: Bound) -> String {
    format!("timeouts.{} passed", bound.field())
}

pub(super) fn record_failure(
    live: &mut LiveAttempt,
    end: AttemptEnd,
    retry_after: Option<Duration>,
    now: Timestamp,
) {
    live.load.failed(now);
    live.endpoint.failures.fetch_add(1, Relaxed);
    if let Some(breaker) = live.breaker.take() {
        breaker.record(
            Outcome::Failure(end),
            retry_after,
            now,
            crate::random::next(),
        );
    }
}
