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
    loop {
        // Asked for before the look, so that no change is missed.
        let changed = runtime.endpoints_changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let now = clock::now();
        let newest = worker.shared.mesh.load().service(&service.name).cloned();
        let asking = Asking { now, ..*asking };
        if let Some(newest) = newest.filter(|it| select::pick(it, &asking, 0).is_ok()) {
            runtime.traffic.found_after_wait.fetch_add(1, Relaxed);
            return Some(later.keep(newest));
        }
        if now >= ends {
            runtime.traffic.gone_after_wait.fetch_add(1, Relaxed);
            return None;
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(clock::instant(ends)) => {}
        }
    }
}
