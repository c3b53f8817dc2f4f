//! What becomes of a request that is refused, where its policy has a fallback.

use http::Response;

use super::Exchange;
use crate::answer::Reason;
use crate::clock::Timestamp;
use crate::policy::breaker::BreakerPermit;
use crate::policy::limit::Permit;

impl Exchange {
    /// There is a fallback for these: what is refused for one of them is not yet the answer.
    pub fn falls_back_on(&mut self, reasons: &[Reason]) {
        let bits = reasons.iter().map(|reason| 1 << reason.index());
        self.falls_back = bits.fold(0, |all, bit: u16| all | bit);
    }

    /// Whether there is a fallback for this.
    pub fn may_fall_back(&self, reason: Reason) -> bool {
        self.falls_back & (1 << reason.index()) != 0
    }

    /// The fallback's own answer goes to the caller.
    pub fn fell_back<B>(&mut self, instead_of: Reason, answer: &Response<B>, now: Timestamp) {
        self.falls_back = 0;
        self.notes_fallback(instead_of);
        self.refused(Reason::Fallback, answer, now);
    }

    /// A fallback answers in the place of this.
    pub fn notes_fallback(&mut self, instead_of: Reason) {
        self.instead_of = Some(instead_of);
        self.side.traffic().fell_back(instead_of);
    }

    /// The refusal is the answer after all.
    pub fn did_not_fall_back(&mut self, reason: Reason) {
        self.falls_back = 0;
        self.reason = Some(reason);
        self.forget_service_breakers();
        self.count_refusal(reason);
    }

    /// The refusal is the answer, which is known by now.
    pub(super) fn count_refusal(&self, reason: Reason) {
        // What the policy writes for gRPC is no status of HTTP.
        let status = self.status.filter(|_| !self.is_grpc);
        let status = status.unwrap_or(reason.status());
        self.side.traffic().refused(reason, status);
        if let (Some(routed), Some(status)) = (&self.routed, self.status) {
            routed.counters.answered(status);
        }
    }

    /// It goes to another service than the one that was called, by its fallback: of
    /// the called one it holds nothing any more.
    pub fn goes_elsewhere(&mut self, permit: Permit, breaker: BreakerPermit) {
        self.live = None;
        self.forget_service_breakers();
        if let Some(routed) = &mut self.routed {
            routed.sessions = None;
            routed.permits[1] = None;
        }
        self.permit = Some(permit);
        self.service_breaker = Some(breaker);
    }
}
