//! What the breakers of services and endpoints hear while a request goes on.

use super::Exchange;
use crate::clock::Timestamp;
use crate::policy::breaker::Outcome;

impl Exchange {
    /// A breaker's probe among those of the services learns that it is answered:
    /// a long answer must not keep its place.
    pub fn end_probes(&mut self, now: Timestamp) {
        let of_backend = self.routed.as_mut().map(|it| &mut it.backend_breaker);
        for permit in of_backend.into_iter().chain([&mut self.service_breaker]) {
            if let Some(probe) = permit.take_if(|permit| permit.is_probe()) {
                probe.record(Outcome::Success, None, now, crate::random::next());
            }
        }
    }

    /// What Remora refused, here or at the target, says nothing of any service.
    pub fn forget_service_breakers(&mut self) {
        self.service_breaker = None;
        if let Some(routed) = &mut self.routed {
            routed.backend_breaker = None;
        }
    }

    /// A piece of the answer's body came. A gRPC call that answers is alive:
    /// one that goes on for long must not keep the place of a probe.
    pub fn progressed(&mut self, now: Timestamp) {
        let of_endpoint = self.live.as_mut();
        let probe = of_endpoint.and_then(|live| live.breaker.take_if(|it| it.is_probe()));
        if let Some(probe) = probe {
            probe.record(Outcome::Success, None, now, crate::random::next());
        }
        self.end_probes(now);
    }
}
