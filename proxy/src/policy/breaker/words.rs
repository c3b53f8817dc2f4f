//! What breakers are told and what they tell: outcomes, states, causes.

use std::fmt;
use std::time::Duration;

use super::rates::{Breach, Span};
use crate::policy::config::{AttemptEnd, Conditions};

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Traffic flows.
    Closed,
    /// Traffic is refused.
    Open,
    /// Only probes.
    HalfOpen,
    /// Traffic flows only because no more endpoints may be out.
    WouldOpen,
}

impl State {
    /// Its word in JSON and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::WouldOpen => "would_open",
        }
    }
}

/// What an attempt says of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did its work.
    Success,
    /// It failed, in this way.
    Failure(AttemptEnd),
}

impl Outcome {
    /// What `end` is under these `failures`.
    pub fn of(end: AttemptEnd, failures: &Conditions) -> Self {
        if failures.matches(end) {
            Self::Failure(end)
        } else {
            Self::Success
        }
    }
}

/// Why it changed, for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cause {
    Failures { row: u32, last: AttemptEnd },
    Rate(Breach),
    ProbeFailed(AttemptEnd),
    ProbeSlow(Duration),
    ProbeUnanswered,
    TimePassed,
    Recovered { successes: u32 },
    NoPlace,
    PolicyGone,
    Gone,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures { row, last } => {
                write!(f, "{row} failures in a row, the last: {}", Words(*last))
            }
            Self::Rate(breach) => write!(f, "{breach}"),
            Self::ProbeSlow(duration) => write!(f, "a probe took longer than {}", Span(*duration)),
            Self::ProbeFailed(end) => write!(f, "a probe failed: {}", Words(*end)),
            Self::ProbeUnanswered => write!(f, "a probe was not answered in time"),
            Self::TimePassed => write!(f, "the ejection time has passed"),
            Self::Recovered { successes } => write!(f, "{successes} successes in a row"),
            Self::NoPlace => write!(
                f,
                "let back in: maxEjectedPercent or minEndpoints allows fewer endpoints to be out"
            ),
            Self::PolicyGone => write!(f, "the policy no longer asks for this breaker"),
            Self::Gone => write!(f, "it is not there any more"),
        }
    }
}

struct Words(AttemptEnd);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            AttemptEnd::ConnectFailure => write!(f, "connect failure"),
            AttemptEnd::RefusedStream => write!(f, "refused stream"),
            AttemptEnd::Reset => write!(f, "reset"),
            AttemptEnd::Timeout => write!(f, "timeout"),
            AttemptEnd::Response { status, grpc: None } => write!(f, "status {status}"),
            AttemptEnd::Response {
                grpc: Some(code), ..
            } => write!(f, "gRPC status {code}"),
        }
    }
}
