//! How many raw connections are open.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::runtime::ServiceRuntime;

/// Counts a raw connection as open until it is dropped.
pub(super) struct OpenConnection(Arc<ServiceRuntime>);

impl OpenConnection {
    pub(super) fn count(runtime: &Arc<ServiceRuntime>) -> Self {
        runtime.traffic.tcp_open.fetch_add(1, Relaxed);
        Self(Arc::clone(runtime))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.traffic.tcp_open.fetch_sub(1, Relaxed);
    }
}
