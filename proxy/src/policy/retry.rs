//! Whether an attempt that ended is followed by another, and after which wait.
//!
//! ```text
//!                     nothing reached the application,
//!                     fewer than 2 resends so far
//!   attempt ended ───────────────────────────────────▶ Again { resend }  at once,
//!        │                                               free of attempts and budget
//!        │ everything else
//!        ▼            listed in `on`, safe, attempts left,
//!   `retries` block ─────────────────────────────────▶ Again { retry }  backoff or
//!        │                                               Retry-After, costs budget
//!        └──────────▶ No(reason)
//! ```
//!
//! Pure. What is shared between requests (the budget, `maxRetries`) is asked by
//! the pipeline afterwards, and only for a retry that is not free; its refusals
//! are [`Reason::BudgetExhausted`] and [`Reason::RetryLimit`].

use std::time::Duration;

use http::request::Parts;

use super::config::{AttemptEnd, Retries};
use crate::random;

/// What never reached the application is sent again so often, whatever the policy says.
pub const MAX_RESENDS: u32 = 2;

/// What the decision needs to know of the request; none of it changes between attempts.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// For gRPC the path, `/package.Service/Method`; `None` for everything else.
    pub grpc_method: Option<&'a str>,
    /// Whether the header is there that `idempotencyHeader` names; `false` where it names none.
    pub has_idempotency_header: bool,
}

impl<'a> Request<'a> {
    /// Of this head, under this policy.
    pub fn of(parts: &'a Parts, is_grpc: bool, policy: Option<&Retries>) -> Self {
        let header = policy.and_then(|retries| retries.idempotency_header.as_deref());
        Self {
            method: parts.method.as_str(),
            grpc_method: is_grpc.then(|| parts.uri.path()),
            has_idempotency_header: header.is_some_and(|name| parts.headers.contains_key(name)),
        }
    }

    /// [`Self::is_safe`]; without a policy by its method alone.
    pub fn may_repeat(&self, policy: Option<&Retries>) -> bool {
        policy.map_or(is_idempotent(self.method), |policy| self.is_safe(policy))
    }

    /// Whether it does no harm when the application gets it twice.
    pub fn is_safe(&self, policy: &Retries) -> bool {
        is_idempotent(self.method)
            || (self.has_idempotency_header && policy.idempotency_header.is_some())
            || policy
                .methods
                .iter()
                .any(|listed| listed == self.method || Some(listed.as_str()) == self.grpc_method)
    }
}

/// How the last attempt ended, and what is left.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// How it ended.
    pub end: AttemptEnd,
    /// Whether the request's body, as far as it was sent, can be sent again now.
    pub body_replayable: bool,
    /// Whether the caller has already been given response headers.
    pub response_started: bool,
    /// The response's `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Until the request's deadline; `None` is not limited.
    pub time_left: Option<Duration>,
}

/// What is kept of a request's body where no `retries.bufferBytes` says
/// otherwise: what never reached the application is resent without a block too.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another attempt.
    Again {
        /// Wait so long first.
        after: Duration,
        /// Nothing had reached the application: costs neither budget nor `maxRetries`.
        free: bool,
    },
    /// This end is the request's end.
    No(Reason),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No `retries` block, or `attempts: 0`.
    Off,
    /// `on` does not list how the attempt ended; success is never listed.
    NotListed,
    /// It may have reached the application, and twice may do harm.
    NotIdempotent,
    /// As many retries as `attempts` allows have been made.
    AttemptsExhausted,
    /// The body has passed the buffer.
    BodyNotReplayable,
    /// The caller has already been given response headers.
    ResponseStarted,
    /// The wait would end after the request's deadline.
    Deadline,
    /// The endpoint asks for a longer wait than `maxRetryAfter`.
    RetryAfterTooLong,
    /// The service's retry budget is spent.
    BudgetExhausted,
    /// `maxRetries` retries are in flight.
    RetryLimit,
}

impl Reason {
    /// Its stable word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NotListed => "not_listed",
            Self::NotIdempotent => "not_idempotent",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::BodyNotReplayable => "body_not_replayable",
            Self::ResponseStarted => "response_started",
            Self::Deadline => "deadline",
            Self::RetryAfterTooLong => "retry_after_too_long",
            Self::BudgetExhausted => "budget_exhausted",
            Self::RetryLimit => "retry_limit",
        }
    }
}

/// The retries of one request: made with its first attempt, asked after each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    resends: u32,
    retries: u32,
}

impl Attempts {
    /// Nothing has been repeated yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Free repetitions and retries so far.
    pub fn repeated(&self) -> u32 {
        self.resends + self.retries
    }

    /// Free repetitions so far.
    pub fn resends(&self) -> u32 {
        self.resends
    }

    /// Retries so far that the policy counts.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Decides, and counts the attempt that it allows.
    ///
    /// `random` spreads the backoff.
    pub fn decide(
        &mut self,
        policy: Option<&Retries>,
        request: &Request<'_>,
        ended: &Ended,
        random: u64,
    ) -> Decision {
        let decision = self.judge(policy, request, ended, random);
        if let Decision::Again { free, .. } = decision {
            if free {
                self.resends += 1;
            } else {
                self.retries += 1;
                // Only of this decision: a later policy may allow fewer than were made.
                debug_assert!(policy.is_some_and(|policy| self.retries <= policy.attempts));
            }
        }
        debug_assert!(self.resends <= MAX_RESENDS);
        decision
    }

    fn judge(
        &self,
        policy: Option<&Retries>,
        request: &Request<'_>,
        ended: &Ended,
        random: u64,
    ) -> Decision {
        if ended.response_started {
            return Decision::No(Reason::ResponseStarted);
        }
        // Resent at once: it goes to another endpoint, nobody has worked on it
        // yet, and where every endpoint refuses the caller should hear it soon.
        // Only where there is no other endpoint the pipeline waits a moment for one.
        let untouched = never_reached_application(ended.end);
        if untouched && self.resends < MAX_RESENDS {
            return allow(Duration::ZERO, true, ended);
        }
        let Some(policy) = policy.filter(|policy| policy.attempts > 0) else {
            return Decision::No(Reason::Off);
        };
        if !policy.on.matches(ended.end) {
            return Decision::No(Reason::NotListed);
        }
        if !untouched && !request.is_safe(policy) {
            return Decision::No(Reason::NotIdempotent);
        }
        if self.retries >= policy.attempts {
            return Decision::No(Reason::AttemptsExhausted);
        }
        match wait(policy, self.retries, ended.retry_after, random) {
            Some(after) => allow(after, false, ended),
            None => Decision::No(Reason::RetryAfterTooLong),
        }
    }
}

/// Whether it is certain that the application saw nothing of the attempt.
pub const fn never_reached_application(end: AttemptEnd) -> bool {
    matches!(end, AttemptEnd::ConnectFailure | AttemptEnd::RefusedStream)
}

/// Whether the method is idempotent by its definition (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

/// The last two conditions, the same for every repetition.
fn allow(after: Duration, free: bool, ended: &Ended) -> Decision {
    if !ended.body_replayable {
        return Decision::No(Reason::BodyNotReplayable);
    }
    if ended.time_left.is_some_and(|left| after >= left) {
        return Decision::No(Reason::Deadline);
    }
    Decision::Again { after, free }
}

/// Full jitter over the backoff; on top of `Retry-After` where there is one, so
/// that callers who were told the same moment do not all come at it. `None`
/// where the endpoint asks for more patience than the policy has.
fn wait(
    policy: &Retries,
    retries: u32,
    retry_after: Option<Duration>,
    random: u64,
) -> Option<Duration> {
    let ceiling = policy
        .backoff_base
        .saturating_mul(2_u32.saturating_pow(retries))
        .min(policy.backoff_max);
    let jitter = ceiling.mul_f64(random::unit(random)).min(ceiling);
    match retry_after {
        Some(asked) if asked > policy.max_retry_after => None,
        Some(asked) => Some(asked.saturating_add(jitter)),
        None => Some(jitter),
    }
}

#[cfg(test)]
mod tests;
