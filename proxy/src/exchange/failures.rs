//! What the end of an answer's body says of who gave it.

use super::BodyEnd;
use crate::policy::breaker::Outcome;
use crate::policy::config::{AttemptEnd, Conditions};

/// Which ends of a response's body `circuitBreaker.failures` lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct BodyFailures {
    reset: bool,
    timeout: bool,
    /// One bit for each gRPC code.
    grpc_codes: u32,
}

impl BodyFailures {
    /// As `failures` says.
    pub fn of(failures: &Conditions) -> Self {
        Self {
            reset: failures.matches(AttemptEnd::Reset),
            timeout: failures.matches(AttemptEnd::Timeout),
            grpc_codes: failures.grpc_codes.iter().fold(0, |bits, code| {
                bits | 1_u32.checked_shl((*code).into()).unwrap_or(0)
            }),
        }
    }

    /// What `end` says of the endpoint; nothing where the caller left, or where
    /// the policy does not count it.
    pub fn judge(self, end: BodyEnd, grpc: Option<u8>) -> Option<Outcome> {
        match end {
            BodyEnd::Whole => Some(match grpc {
                Some(code) if self.grpc_codes & (1 << u32::from(code.min(31))) != 0 => {
                    Outcome::Failure(AttemptEnd::Response {
                        status: 200,
                        grpc: Some(code),
                    })
                }
                _ => Outcome::Success,
            }),
            BodyEnd::UpstreamBroke => self.reset.then_some(Outcome::Failure(AttemptEnd::Reset)),
            BodyEnd::TimedOut => self
                .timeout
                .then_some(Outcome::Failure(AttemptEnd::Timeout)),
            BodyEnd::CallerLeft => None,
        }
    }
}
