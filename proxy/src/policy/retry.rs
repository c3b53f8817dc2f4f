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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::config::{Conditions, RetryBudget};

    fn policy(attempts: u32) -> Retries {
        Retries {
            attempts,
            on: Conditions::default_retries(),
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            max_retry_after: Duration::from_secs(10),
            idempotency_header: Some("idempotency-key".into()),
            methods: vec!["PATCH".into(), "/shop.Cart/Get".into()],
            budget: RetryBudget::default(),
            buffer_bytes: 65536,
            hedge: None,
        }
    }

    fn request(method: &str) -> Request<'_> {
        Request {
            method,
            grpc_method: None,
            has_idempotency_header: false,
        }
    }

    const fn ended(end: AttemptEnd) -> Ended {
        Ended {
            end,
            body_replayable: true,
            response_started: false,
            retry_after: None,
            time_left: None,
        }
    }

    const BAD_GATEWAY: AttemptEnd = AttemptEnd::Response {
        status: 502,
        grpc: None,
    };

    fn refusal(request: &Request<'_>, ended: &Ended) -> Option<Reason> {
        match Attempts::new().decide(Some(&policy(2)), request, ended, 0) {
            Decision::Again { .. } => None,
            Decision::No(reason) => Some(reason),
        }
    }

    #[test]
    fn what_never_reached_the_application_is_resent_twice_without_a_policy() {
        for end in [AttemptEnd::ConnectFailure, AttemptEnd::RefusedStream] {
            let mut attempts = Attempts::new();
            let mut next = || attempts.decide(None, &request("POST"), &ended(end), u64::MAX);
            let resent = Decision::Again {
                after: Duration::ZERO,
                free: true,
            };
            assert_eq!(next(), resent);
            assert_eq!(next(), resent);
            assert_eq!(next(), Decision::No(Reason::Off));
        }
    }

    #[test]
    fn resends_cost_no_attempts_of_the_policy() {
        let mut attempts = Attempts::new();
        let free: Vec<bool> = (0..4)
            .map_while(|_| {
                let end = ended(AttemptEnd::ConnectFailure);
                match attempts.decide(Some(&policy(2)), &request("POST"), &end, 0) {
                    Decision::Again { free, .. } => Some(free),
                    Decision::No(_) => None,
                }
            })
            .collect();
        assert_eq!(free, [true, true, false, false]);
        assert_eq!(
            attempts.decide(Some(&policy(2)), &request("GET"), &ended(BAD_GATEWAY), 0),
            Decision::No(Reason::AttemptsExhausted)
        );
    }

    #[test]
    fn a_payment_post_that_may_have_arrived_is_not_retried() {
        for end in [BAD_GATEWAY, AttemptEnd::Reset] {
            let post = refusal(&request("POST"), &ended(end));
            assert_eq!(post, Some(Reason::NotIdempotent));
            assert_eq!(
                refusal(&request("get"), &ended(end)),
                Some(Reason::NotIdempotent)
            );
        }
    }

    #[test]
    fn header_method_or_grpc_method_make_it_safe() {
        let with_header = Request {
            has_idempotency_header: true,
            ..request("POST")
        };
        let listed_grpc = Request {
            grpc_method: Some("/shop.Cart/Get"),
            ..request("POST")
        };
        let other_grpc = Request {
            grpc_method: Some("/shop.Cart/Pay"),
            ..request("POST")
        };
        assert_eq!(refusal(&with_header, &ended(BAD_GATEWAY)), None);
        assert_eq!(refusal(&request("PATCH"), &ended(BAD_GATEWAY)), None);
        assert_eq!(refusal(&listed_grpc, &ended(BAD_GATEWAY)), None);
        assert_eq!(
            refusal(&other_grpc, &ended(BAD_GATEWAY)),
            Some(Reason::NotIdempotent)
        );
        let mut unnamed = policy(2);
        unnamed.idempotency_header = None;
        assert!(!with_header.is_safe(&unnamed));
    }

    #[test]
    fn each_condition_has_its_own_reason() {
        let get = request("GET");
        let bad = ended(BAD_GATEWAY);
        let ok = AttemptEnd::Response {
            status: 200,
            grpc: None,
        };
        let second = Duration::from_secs(1);
        let cases = [
            (ended(ok), Reason::NotListed),
            (ended(AttemptEnd::Timeout), Reason::NotListed),
            (
                Ended {
                    response_started: true,
                    ..bad
                },
                Reason::ResponseStarted,
            ),
            (
                Ended {
                    body_replayable: false,
                    ..bad
                },
                Reason::BodyNotReplayable,
            ),
            (
                Ended {
                    time_left: Some(Duration::ZERO),
                    ..bad
                },
                Reason::Deadline,
            ),
            (
                Ended {
                    retry_after: Some(second * 11),
                    ..bad
                },
                Reason::RetryAfterTooLong,
            ),
            (
                Ended {
                    retry_after: Some(second),
                    time_left: Some(second),
                    ..bad
                },
                Reason::Deadline,
            ),
        ];
        for (ended, reason) in cases {
            assert_eq!(refusal(&get, &ended), Some(reason), "{ended:?}");
        }
        let off = Attempts::new().decide(Some(&policy(0)), &get, &bad, 0);
        assert_eq!(off, Decision::No(Reason::Off));
    }

    #[test]
    fn retry_after_is_waited_for_when_it_fits() {
        let asked = Ended {
            retry_after: Some(Duration::from_secs(1)),
            time_left: Some(Duration::from_millis(1200)),
            ..ended(BAD_GATEWAY)
        };
        let decision = Attempts::new().decide(Some(&policy(1)), &request("GET"), &asked, 0);
        assert_eq!(
            decision,
            Decision::Again {
                after: Duration::from_secs(1),
                free: false
            }
        );
    }

    fn any_end() -> impl Strategy<Value = AttemptEnd> {
        prop_oneof![
            Just(AttemptEnd::ConnectFailure),
            Just(AttemptEnd::RefusedStream),
            Just(AttemptEnd::Reset),
            Just(AttemptEnd::Timeout),
            (200..600_u16).prop_map(|status| AttemptEnd::Response { status, grpc: None }),
        ]
    }

    proptest! {
        #[test]
        fn attempts_are_bounded_and_waits_fit(
            ends in proptest::collection::vec((any_end(), any::<u64>(), proptest::option::of(0..400_u64)), 1..30),
            attempts in 0..10_u32,
            with_policy in any::<bool>(),
        ) {
            let policy = policy(attempts);
            let policy = with_policy.then_some(&policy);
            let mut state = Attempts::new();
            let mut retries = 0;
            for (end, random, left) in ends {
                let ended = Ended { time_left: left.map(Duration::from_millis), ..ended(end) };
                let Decision::Again { after, free } = state.decide(policy, &request("GET"), &ended, random) else {
                    continue;
                };
                if let Some(left) = ended.time_left {
                    prop_assert!(after < left);
                }
                if free {
                    prop_assert!(never_reached_application(end) && after.is_zero());
                } else {
                    let ceiling = Duration::from_millis((25 << retries).min(250));
                    prop_assert!(after <= ceiling, "{:?} after {} retries", after, retries);
                    retries += 1;
                }
            }
            prop_assert!(retries <= policy.map_or(0, |policy| policy.attempts));
            prop_assert!(state.repeated() <= MAX_RESENDS + retries);
        }

        #[test]
        fn a_post_that_may_have_arrived_is_never_repeated(
            ends in proptest::collection::vec((any_end(), any::<u64>()), 1..30),
        ) {
            let mut state = Attempts::new();
            for (end, random) in ends {
                let decision = state.decide(Some(&policy(10)), &request("POST"), &ended(end), random);
                if matches!(decision, Decision::Again { .. }) {
                    prop_assert!(never_reached_application(end));
                }
            }
        }
    }
}
