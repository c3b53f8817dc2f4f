//! What becomes of a request that is refused, where its policy has a fallback.

use http::Response;

use super::Exchange;
use crate::answer::Reason;
use crate::clock::Timestamp;

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
    pub fn did_not_fall_back<B>(&mut self, reason: Reason, answer: &Response<B>, now: Timestamp) {
        self.falls_back = 0;
        self.forget_service_breakers();
        self.refused(reason, answer, now);
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

    /// It leaves the service that was called for its fallback's: of the called one it
    /// holds nothing any more, and the pod that it names is none of the other's. What is
    /// refused there is not the answer, whatever for.
    pub fn leaves_service(&mut self) {
        self.falls_back = u16::MAX;
        self.live = None;
        self.pin = None;
        self.permit = None;
        self.forget_service_breakers();
        if let Some(routed) = &mut self.routed {
            routed.sessions = None;
            routed.permits[1] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::answer;
    use crate::caller::{Caller, CallerState};
    use crate::clock;
    use crate::exchange::Side;
    use crate::simulation;

    #[tokio::test]
    async fn what_is_refused_at_the_fallback_is_not_counted_beside_the_answer() {
        let (worker, service) = simulation::worker_and_service();
        let (now, peer) = (clock::now(), ([10, 0, 0, 7], 4000).into());
        let caller = Caller {
            state: CallerState::new(now, false),
            interim: Rc::default(),
        };
        let side = Side::Outbound(service.runtime.clone());
        let mut exchange = Exchange::new(&worker, caller, side, peer, now);
        let refuse = |reason: Reason| answer::refuse(reason, "no".into(), false);
        let refusal = refuse(Reason::NoEndpoints);
        exchange.falls_back_on(&[Reason::NoEndpoints]);
        exchange.refused(Reason::NoEndpoints, &refusal, now);
        exchange.leaves_service();
        // As the rules of the pod itself do, where the fallback leads there.
        exchange.refused(Reason::Denied, &refuse(Reason::Denied), now);
        exchange.did_not_fall_back(Reason::NoEndpoints, &refusal, now);
        assert_eq!(exchange.status, Some(refusal.status()));
        drop(exchange);
        let traffic = &service.runtime.traffic;
        let counted = [Reason::NoEndpoints, Reason::Denied].map(|it| traffic.reason(it));
        assert_eq!((counted, traffic.totals().requests), ([1, 0], 1));
    }
}
