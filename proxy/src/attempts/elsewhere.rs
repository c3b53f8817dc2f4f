//! The pause before a request is sent again: a retry's backoff, or the moment that is
//! given another endpoint to come, where the only one refuses.
//!
//! A pod that is replaced refuses from the moment that its application hears of its
//! end; that there is a new one has to pass through the API server and the control
//! plane. What is sent again at once meets the same refusal as often as it may be sent.

use std::time::Duration;

use super::Attempting;
use crate::clock;
use crate::policy::config::AttemptEnd;
use crate::select;

/// Before the first time that the same endpoint is asked again; twice as long before
/// the second.
const PAUSE: Duration = Duration::from_millis(100);
/// No longer than this part of the time that a connection may take: who is refused
/// everywhere has its answer within that.
const PART_OF_CONNECT_TIMEOUT: u32 = 4;

impl Attempting<'_> {
    /// Before an attempt after one that ended so, as was decided.
    pub(super) async fn pause(&self, after: Duration, free: bool, end: AttemptEnd) {
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        } else if free {
            self.wait_for_another(end).await;
        }
    }

    /// Where what ended so would go to the same endpoint again, waits a moment for
    /// another one, and no longer than until it is there.
    async fn wait_for_another(&self, end: AttemptEnd) {
        // A refused stream is another connection's; a pin allows no other endpoint.
        if end != AttemptEnd::ConnectFailure || self.pin().is_some() {
            return;
        }
        let pause = self.patience();
        let began = clock::now();
        // Then there is only time to ask the same one.
        if self
            .deadlines
            .time_left(began)
            .is_some_and(|left| left <= pause)
        {
            return;
        }
        let runtime = &self.way.target.runtime;
        let look = || self.has_another().then_some(());
        // Whether or not it came: the next attempt goes by what is there.
        let _ = runtime.look_until(began.after(pause), look).await;
    }

    /// Longer each time, and between half of that and the whole: those who are refused
    /// together do not come again together.
    fn patience(&self) -> Duration {
        let outbound = &self.way.target.config.policy.outbound;
        let longest = outbound.connect_timeout / PART_OF_CONNECT_TIMEOUT;
        let pause = (PAUSE * self.attempts.resends()).min(longest);
        pause / 2 + (pause / 2).mul_f64(crate::random::unit(crate::random::next()))
    }

    /// By the service as it is now.
    fn has_another(&self) -> bool {
        let snapshot = self.worker.shared.mesh.load();
        let service = snapshot.service(&self.way.target.name);
        service.is_some_and(|it| select::has_another(it, &self.asking(clock::now())))
    }
}
