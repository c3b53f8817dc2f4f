//! The service as it is later: a request that waits for an endpoint, or one that
//! outlives the endpoints that it knew, goes on by what has come meanwhile.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::state::Service;

/// Room for later versions of a service, for as long as a request borrows them.
/// One is taken up for each endpoint that a request gets by it, so there are no
/// more than it makes attempts.
#[derive(Debug, Default)]
pub struct Later(OnceCell<Box<(Arc<Service>, Later)>>);

impl Later {
    /// Keeps one; and room for the next.
    pub fn keep(&self, service: Arc<Service>) -> (&Service, &Self) {
        let kept = self.0.get_or_init(|| Box::new((service, Self::default())));
        (&kept.0, &kept.1)
    }
}
