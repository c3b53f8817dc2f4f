//! Where the pod itself was picked: its own inbound rules, in process, because
//! the connection to the application passes no other sidecar.

use http::Response;

use super::Attempting;
use crate::answer;
use crate::authorization;
use crate::body::response::ResponseBody;
use crate::clock;
use crate::inbound;
use crate::pipeline;
use crate::policy::rate_limit;
use crate::state::Endpoint;

impl Attempting<'_> {
    /// What they answer where they refuse.
    pub(super) fn ask_own_pod(&mut self, endpoint: &Endpoint) -> Option<Response<ResponseBody>> {
        let address = endpoint.config.address_for(self.way.destination);
        if !self.worker.shared.is_own_pod(address.ip()) {
            return None;
        }
        let own = self.worker.shared.tls.own();
        let asks = authorization::Caller {
            peer: self.peer,
            identity: own.as_deref(),
            port: address.port(),
        };
        let ports = &self.worker.shared.inbound;
        if let Err((reason, detail)) = ports.authorization.request(&mut self.parts, &asks) {
            let answer = answer::refuse(reason, detail, self.exchange.is_grpc);
            self.exchange.refused(reason, &answer, clock::now());
            return Some(answer);
        }
        let port = ports.port(address.port());
        let caller = rate_limit::Caller {
            address: self.peer.ip(),
            identity: own.as_deref(),
        };
        let limited = pipeline::limit_rate(
            &mut self.exchange,
            &port.limiter,
            &self.parts,
            &caller,
            |limit| port.applies(limit),
        );
        limited.or_else(|| inbound::admit(&mut self.exchange, &port, &self.parts, &caller))
    }
}
