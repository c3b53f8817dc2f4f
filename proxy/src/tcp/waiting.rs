//! A raw connection for which there is no endpoint yet.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::attempts::{Later, Waiting};
use crate::clock::{self, Timestamp};
use crate::select::{self, Asking};
use crate::state::Service;
use crate::worker::Worker;

/// Until when it waits; nothing where the policy does not let it.
pub(super) fn ends(service: &Service, now: Timestamp) -> Option<Timestamp> {
    let wait = service.config.policy.load_balancing.wait_for_endpoints;
    (!wait.is_zero()).then(|| now.after(wait))
}

/// The service as it is once an endpoint can be had of it, before `ends`.
pub(super) async fn wait<'a>(
    worker: &Rc<Worker>,
    (service, later): (&'a Service, &'a Later),
    asking: &Asking<'_>,
    ends: Timestamp,
) -> Option<(&'a Service, &'a Later)> {
    let runtime = Arc::clone(&service.runtime);
    let _waiting = Waiting::take(&runtime)?;
    let look = || {
        let newest = worker.shared.mesh.load().service(&service.name).cloned()?;
        let asking = Asking {
            now: clock::now(),
            ..*asking
        };
        let is_worth = select::pick(&newest, &asking, 0).is_ok();
        is_worth.then_some(newest)
    };
    let newest = runtime.look_until(ends, look).await;
    let outcome = match newest {
        Some(_) => &runtime.traffic.found_after_wait,
        None => &runtime.traffic.gone_after_wait,
    };
    outcome.fetch_add(1, Relaxed);
    newest.map(|newest| later.keep(newest))
}
