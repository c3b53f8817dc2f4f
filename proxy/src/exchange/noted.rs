//! What a request says of itself, as far as something is told of it afterwards.

use std::sync::Arc;

use http::request::Parts;

use super::Exchange;
use crate::grpc;
use crate::tls::Peer;

impl Exchange {
    /// Remembers whether it is gRPC, and what the access log tells.
    pub fn note_head(&mut self, parts: &Parts) {
        self.is_grpc = grpc::is_call(&parts.headers);
        if self.worker.shared.access_log.is_on() {
            self.head = Some((parts.method.clone(), parts.uri.clone()));
        }
    }

    /// Remembers who the caller has shown to be, where the access log tells it.
    pub fn note_identity(&mut self, identity: Option<&Arc<Peer>>) {
        if self.worker.shared.access_log.is_on() {
            self.identity = identity.map(Arc::clone);
        }
    }
}
